"""Who hears of the end of a process by its own signal, and what that looks like to the program."""

from __future__ import annotations

import os
import signal
import sys
import traceback

import pytest

from poolscope.probe.startup import exit_hooks


class Fake:
    """The module `signal` in a process that no signal ends."""

    SIG_DFL, SIG_BLOCK = signal.SIG_DFL, signal.SIG_BLOCK
    SIGCHLD, SIGWINCH = signal.SIGCHLD, signal.SIGWINCH

    def __init__(self):
        self.raised, self.blocked, self.handlers = [], set(), {}

    def getsignal(self, number):
        return self.handlers.get(number, signal.SIG_DFL)

    def pthread_sigmask(self, how, mask):
        assert (how, mask) == (signal.SIG_BLOCK, ())
        return self.blocked

    def raise_signal(self, number):
        self.raised.append(number)
        if number in self.handlers:
            self.handlers[number](number, None)


@pytest.fixture
def module(monkeypatch):
    fake = Fake()
    fake.raise_signal = fake.raise_signal  # type: ignore[method-assign] # as an attribute of a module
    monkeypatch.setitem(sys.modules, "signal", fake)
    monkeypatch.setattr(exit_hooks, "_callbacks", [])
    return fake


def test_it_is_told_before_the_end_and_by_nobody_after(module):
    original, told = module.raise_signal, []

    def callback():
        told.append(list(module.raised))

    exit_hooks.register(callback)
    exit_hooks.register(callback)
    module.raise_signal(signal.SIGTERM)
    assert (told, module.raised) == ([[]], [signal.SIGTERM])
    exit_hooks.unregister(callback)
    exit_hooks.unregister(callback)
    assert module.raise_signal is original
    module.raise_signal(signal.SIGTERM)
    assert len(told) == 1


@pytest.mark.parametrize("why", ["handled", "harmless", "blocked", "process 1"])
def test_what_does_not_end_the_process_is_not_told(module, monkeypatch, why):
    number = signal.SIGCHLD if why == "harmless" else signal.SIGTERM
    if why == "handled":
        module.handlers[number] = lambda *_: None
    elif why == "blocked":
        module.blocked.add(number)
    elif why == "process 1":
        monkeypatch.setattr(os, "getpid", lambda: 1)
    told = []
    exit_hooks.register(lambda: told.append(1))
    module.raise_signal(number)
    assert module.raised == [number]
    assert not told


def test_a_failure_of_ours_does_not_hold_up_the_end(module):
    def fail():
        raise ValueError

    exit_hooks.register(fail)
    module.raise_signal(signal.SIGTERM)
    assert module.raised == [signal.SIGTERM]


def test_what_a_handler_raises_looks_as_without_us(module):
    def handler(number, frame):
        raise KeyboardInterrupt

    def frames():
        try:
            module.raise_signal(signal.SIGINT)
        except KeyboardInterrupt as error:
            return [frame.name for frame in traceback.extract_tb(error.__traceback__)]

    module.handlers[signal.SIGINT] = handler
    plain = frames()
    exit_hooks.register(list)
    assert frames() == plain
    with pytest.raises(TypeError):
        module.raise_signal()


def test_without_the_module_nothing_is_imported(module, monkeypatch):
    monkeypatch.delitem(sys.modules, "signal")
    exit_hooks.register(list)
    exit_hooks.unregister(list)
    assert "signal" not in sys.modules

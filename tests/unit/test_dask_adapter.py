"""Dask's workers, with a stand-in for `distributed.worker`: what tasks may go through on their way to a thread."""

from __future__ import annotations

import sys
from itertools import pairwise
from types import ModuleType, SimpleNamespace

import pytest
from probe_support import FakeProbe, Ledger

from poolscope.probe.adapters import dask as adapter


class Spec:
    """What a task is to call."""

    def __init__(self, func, *, is_coro=False):
        self.func = func
        self.is_coro = is_coro

    def __call__(self, data):
        return self.func(data)


class Worker:
    """Of `distributed.worker`: two threads, and the plugins that hear of its tasks."""

    def __init__(self):
        self.plugins = {}
        self.executors = {}
        self.status = SimpleNamespace(name="running")
        self.state = SimpleNamespace(nthreads=2, tasks={})

    def go(self, key, *states):
        """A task passes through these states."""
        for start, finish in pairwise(states):
            for plugin in self.plugins.values():
                plugin.transition(key, start, finish)

    def add(self, key, func, **how):
        self.state.tasks[key] = SimpleNamespace(run_spec=Spec(func, **how))
        self.go(key, "waiting", "ready")


def _run_task(task, data, execution_state, key, more=None):
    try:
        return task(data)
    except ValueError as error:
        return error


@pytest.fixture
def module(monkeypatch):
    made = ModuleType("distributed.worker")
    made.Worker, made._run_task = Worker, _run_task
    monkeypatch.setitem(sys.modules, "distributed.worker", made)
    return made


@pytest.fixture
def probe(module):
    made = FakeProbe()
    adapter.patch(made)
    yield made
    adapter.unpatch()
    assert module._run_task is _run_task
    assert not made.faults


def ledger(probe):
    return Ledger(probe.recorders[0], probe)


def run(module, worker, key, data=0):
    return module._run_task(worker.state.tasks[key].run_spec, data, {"worker": worker}, key, more=1)


def double(number):
    return 2 * number


def fail(number):
    raise ValueError(number)


def test_ready_tasks_wait_for_a_thread(module, probe):
    worker = Worker()
    for key in "abc":
        worker.add(key, double)
    book = ledger(probe)
    book.only(submitted=3, queued=3)
    assert (probe.recorders[0].name, probe.recorders[0].kind) == ("dask.worker", "dask")
    assert book.max_workers == 2
    worker.go("a", "ready", "executing")
    assert run(module, worker, "a", 4) == 8
    worker.go("a", "executing", "memory")
    book.only(submitted=3, queued=2, succeeded=1)
    assert set(probe.function_names().values()) == {f"{__name__}.double"}


def test_one_that_fails(module, probe):
    worker = Worker()
    worker.add("a", fail)
    assert type(run(module, worker, "a")) is ValueError
    ledger(probe).only(submitted=1, failed=1)


def test_one_that_is_let_go_before_it_starts(module, probe):
    worker = Worker()
    worker.add("a", double)
    worker.go("a", "ready", "released")
    # And one that had got its thread: it is called all the same, as its result is not wanted any more.
    worker.add("b", double)
    worker.go("b", "ready", "executing", "cancelled")
    assert run(module, worker, "b", 1) == 2
    ledger(probe).only(submitted=2, cancelled=2)


def test_one_that_waits_for_something_else_than_a_thread(module, probe):
    worker = Worker()
    worker.state.tasks["a"] = SimpleNamespace(run_spec=Spec(double))
    worker.go("a", "waiting", "constrained")
    book = ledger(probe)
    book.only()
    worker.go("a", "constrained", "executing")
    run(module, worker, "a")
    book.only(submitted=1, succeeded=1)


def test_one_that_secedes_leaves_its_place(module, probe):
    worker = Worker()
    seen = []

    def secedes(number):
        worker.go("a", "executing", "long-running")
        seen.append(book.read().counts()["running"])
        return number

    worker.add("a", secedes)
    book = ledger(probe)
    worker.go("a", "ready", "executing")
    run(module, worker, "a")
    worker.go("a", "long-running", "memory")
    assert seen == [0]
    book.only(submitted=1, succeeded=1)


def test_a_coroutine_needs_no_thread(module, probe):
    worker = Worker()
    worker.add("a", double, is_coro=True)
    ledger(probe).only()


def test_an_older_worker_and_the_end_of_one(module, probe):
    adapter.unpatch()
    worker = Worker()
    worker.add("a", double)
    adapter.patch(probe)
    adapter.adopt(worker)
    worker.add("b", double)
    book = ledger(probe)
    book.only(submitted=1, queued=1)
    # Of "a" nothing is known.
    assert run(module, worker, "a", 1) == 2
    worker.status.name = "closed"
    adapter.unpatch()
    assert not worker.plugins
    book.only(submitted=1, cancelled=1)
    assert probe.recorders[0].size() is None
    adapter.patch(probe)


def test_another_version_is_left_alone(monkeypatch):
    made = ModuleType("distributed.worker")
    made.Worker, made._run_task = Worker, lambda task, data: task(data)
    monkeypatch.setitem(sys.modules, "distributed.worker", made)
    probe = FakeProbe()
    adapter.patch(probe)
    worker = made.Worker()
    assert not worker.plugins
    [(kind, text)] = probe.messages
    assert kind == "notice"
    assert "its workers are not watched: no _run_task(task, data, execution_state, key) in" in text

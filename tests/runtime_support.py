"""Fakes for tests of the probe's runtime: a clock, CPU clocks, executors, a sink that remembers."""

from __future__ import annotations

import sys
import types
from typing import Any

from poolscope.probe.interpreter.cpu import CpuClocks

MS = 1_000_000
SECOND = 1_000_000_000


class HandClock:
    """Moves only when told to. Starts at 100 s, as a process is never started at 0."""

    def __init__(self):
        self.now = 100 * SECOND

    def __call__(self):
        return self.now

    def advance(self, seconds):
        self.now += round(seconds * SECOND)


class FakeCpu(CpuClocks):
    """CPU clocks that tests set. A thread that is not in `threads` has ended."""

    def __init__(self, readable=True):
        self.readable = readable
        self.threads = {}
        self.delays = {}
        self.readings = 0
        self.process_ns = 0
        self.children_ns = 0
        self.own_ns = 0
        self.cost_ns = 0  # what the calling thread uses between two readings of its clock
        self.cpus = 2.0

    def thread(self, native_id):
        self.readings += 1
        return self.threads.get(native_id)

    def delay(self, native_id):
        return self.delays.get(native_id)

    def process(self):
        return self.process_ns

    def children(self):
        return self.children_ns

    def own(self):
        self.own_ns += self.cost_ns
        return self.own_ns

    def allowed(self, now_ns):
        return self.cpus


class FakeExecutor:
    """What the probe looks at in an executor."""

    def __init__(self, max_workers=2):
        self._max_workers = max_workers
        self._threads = set()
        self._shutdown = False


class Record:
    """A sink that keeps what it gets."""

    def __init__(self):
        self.messages = []

    def __call__(self, message):
        self.messages.append(message)

    def of(self, *tags):
        return [message for message in self.messages if message[0] in tags]

    def tags(self, *, without=("process_tick", "turns")):
        return [message[0] for message in self.messages if message[0] not in without]

    def clear(self):
        del self.messages[:]


class Worker:
    """A worker thread of a pool that records by hand what it does."""

    def __init__(self, recorder, clock, ident=1, native_id=11):
        self.log = recorder.join(ident, native_id)
        self.clock = clock

    def start(self, function, submitted):
        self.log.running = (function, submitted, self.clock())

    def finish(self, failed=0):
        function, submitted, started = self.log.running
        self.log.finished.extend((self.log.worker, function * 2 + failed, submitted, started, self.clock()))
        self.log.running = None


def submit(recorder, clock, function=1):
    now = clock()
    recorder.arrivals.extend((function, now))
    return now


def fake_stacks(monkeypatch, place="module:function"):
    """Puts a module in the place of the real one, whose lines the tests decide."""
    module: Any = types.ModuleType("poolscope.probe.interpreter.stacks")
    module.creation_site = lambda depth=0: ("package/file.py:12", place, "")
    module.user_place = lambda frame: (frame.lines, 0)
    module.is_user_file = bool
    monkeypatch.setitem(sys.modules, "poolscope.probe.interpreter.stacks", module)
    return module

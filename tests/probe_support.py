"""A probe without threads or sinks, for tests of what records into one."""

from __future__ import annotations

import itertools
import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

import poolscope
from poolscope.executors import threads as executors
from poolscope.probe import runtime
from poolscope.probe.executors import threadpool
from poolscope.probe.recording.function_table import FunctionTable
from poolscope.probe.recording.recorder import unread_recorder
from poolscope.probe.sampling.waits import WaitReader
from poolscope.probe.settings import ProbeSettings


def as_ours(function):
    """The same function as if it stood in a file of poolscope: what it raises is a failure of ours."""
    file = os.path.join(os.path.dirname(poolscope.__file__), "made_up.py")
    function.__code__ = function.__code__.replace(co_filename=file)
    return function


def mistake(exc):
    """A function that raises `exc` as a mistake of ours does."""

    @as_ours
    def mistaken(*args, **kwargs):
        raise exc.with_traceback(None)

    return mistaken


def task_of(item):
    """(fn, args, kwargs) of a work item, of whichever shape this interpreter gives it."""
    return item.task if hasattr(item, "task") else (item.fn, item.args, item.kwargs)


def run_here(pool):
    """Takes the next work item out of a pool's queue and runs it in the calling thread."""
    contexts = [pool._create_worker_context()] if hasattr(pool, "_create_worker_context") else []
    pool._work_queue.get_nowait().run(*contexts)


class CountingClock:
    """Each reading is 1 ns later than the one before; safe to read from any thread."""

    def __init__(self):
        self._next = itertools.count(1).__next__

    def __call__(self):
        return self._next()

    def jump(self, ns):
        self._next = itertools.count(self() + ns).__next__


class FrozenError(Exception):
    """Refuses to be written to, as an exception that is a frozen dataclass."""

    def __setattr__(self, name, value):
        raise TypeError("frozen")


class FakeProbe:
    """What `poolscope.probe.runtime.Probe` offers to pools. Nothing is drained unless a test does it."""

    def __init__(self, clock=None):
        self.clock = clock or CountingClock()
        self.messages = []
        self.functions = FunctionTable(self.emit)
        self.faults = []
        self.wakes = 0
        self.rules = {}
        self.ignored = set()
        self.recorders = []
        self.opened = []  # how open_pool was called
        self.settings = ProbeSettings()
        self.supervised = False
        self.before_flush = []
        self.jobs = []

    def add_job(self, _seconds, job):
        self.jobs.append(job)
        return lambda: self.jobs.remove(job)

    def later(self, ns):
        """Have the clock show so much more from now on."""
        self.clock.jump(ns)

    def do_jobs(self):
        """What the thread of a probe does from time to time."""
        for job in list(self.jobs):
            job(self.clock())

    def notice(self, text):
        self.emit(("notice", text))

    def warn(self, text):
        self.notice(text)

    def incident(self, text):
        self.warn(text)

    def emit(self, message):
        self.messages.append(message)

    def fail(self, part, exc):
        self.faults.append((part, exc))

    def wake(self):
        self.wakes += 1

    def pool_rule(self, label, kind):
        return self.rules.get(label)

    def add_rule(self, label, max_workers):
        self.rules[label] = SimpleNamespace(max_workers=max_workers, ignore=False, name=None)

    @as_ours
    def open_pool(self, executor, *, name, prefix, kind, size, site=None, recorder=None):
        label = name or prefix or "unnamed"
        self.opened.append((name, prefix, kind))
        if label in self.ignored:
            return None
        fresh = recorder is None
        recorder = recorder or unread_recorder(executor, kind)
        recorder.name, recorder.created_at, recorder.size = label, "package/file.py:1", size
        recorder.last_size = size() or (0, 0)
        return self._known(recorder) if fresh else recorder

    def new_recorder(self, owner, kind):
        return self._known(unread_recorder(owner, kind))

    def _known(self, recorder):
        self.recorders.append(recorder)
        recorder.id = len(self.recorders)
        return recorder

    def function_names(self):
        return {message[1]: message[2] for message in self.messages if message[0] == "function"}


class Ledger:
    """Adds up what a recorder's batches say, the way a judge does."""

    def __init__(self, recorder, probe):
        self.recorder = recorder
        self.probe = probe
        self.submitted = self.succeeded = self.failed = self.cancelled = self.broken = self.rejected = 0
        self.running = 0
        self.workers = self.max_workers = 0
        # (function, submitted) -> arrivals minus ends; must come out as 0
        self.tasks: Counter[tuple[int, int]] = Counter()
        self.finished = []  # (worker, function, failed, submitted, started, finished)
        self.running_tasks = []  # (worker, function, submitted, started)
        self.still_running = set()  # (worker, started) of tasks that have ended, whose workers have yet to say so

    def read(self):
        message = self.recorder.drain(self.probe.clock)
        self.workers, self.max_workers, _cpu_ns, rejected = message[3:7]
        finished, running, cancelled, broken, arrivals = message[7:]
        self.rejected += rejected
        for function, submitted in zip(arrivals[::2], arrivals[1::2], strict=True):
            self.submitted += 1
            self.tasks[function, submitted] += 1
        ended = set()
        for at in range(0, len(finished), 5):
            worker, key, submitted, started, end = finished[at : at + 5]
            assert submitted <= started <= end
            function, failed = divmod(key, 2)
            self.finished.append((worker, function, failed, submitted, started, end))
            self.failed += failed
            self.succeeded += 1 - failed
            self.tasks[function, submitted] -= 1
            ended.add((worker, started))
        for records, what in ((cancelled, "cancelled"), (broken, "broken")):
            for at in range(0, len(records), 3):
                function, submitted, _when = records[at : at + 3]
                setattr(self, what, getattr(self, what) + 1)
                self.tasks[function, submitted] -= 1
        rows = [tuple(running[at : at + 4]) for at in range(0, len(running), 4)]
        # A task that ends while it is read is in both lists, or has ended before and is still running: the start stamp
        # tells.
        ended |= self.still_running
        self.still_running = {(row[0], row[3]) for row in rows} & ended
        self.running_tasks = [row for row in rows if (row[0], row[3]) not in ended]
        self.running = len(self.running_tasks)
        return self

    @property
    def ended(self):
        return self.succeeded + self.failed + self.cancelled + self.broken

    @property
    def queued(self):
        return self.submitted - self.ended - self.running

    def counts(self):
        return {
            "submitted": self.submitted,
            "succeeded": self.succeeded,
            "failed": self.failed,
            "cancelled": self.cancelled,
            "broken": self.broken,
            "rejected": self.rejected,
            "queued": self.queued,
            "running": self.running,
        }

    def only(self, **counts):
        """Read, and check that these counts are what there is, and every other is 0."""
        expected = dict.fromkeys(self.counts(), 0) | counts
        assert self.read().counts() == expected


def waits(probe, reader=None):
    """(pool, worker, any, targets) of all workers that wait, by one look at the pools of the probe."""
    watches: Any = [SimpleNamespace(recorder=recorder) for recorder in probe.recorders]
    told = (reader or WaitReader()).read(watches, watches)
    return sorted((pool, worker, enough, set(targets)) for pool, worker, _, _, enough, targets in told)


@contextmanager
def watched_executor(kind):
    """The executor class of that kind, "drop-in" or "patched"; nothing of ours may fail meanwhile."""
    probe = FakeProbe()
    with pytest.MonkeyPatch.context() as patch:
        if kind == "drop-in":
            patch.setattr(runtime, "current", lambda: probe)
            yield executors.ThreadPoolExecutor
        else:
            threadpool.patch(probe)
            try:
                yield ThreadPoolExecutor
            finally:
                threadpool.unpatch()
    assert not probe.faults

"""A probe for tests of event loops: it records what is emitted, and its job runs when a test says so.

`Driver` is a small stand-in for the probe's thread: it runs the jobs at their period in a thread of its own.
"""

from __future__ import annotations

import asyncio
import threading
from time import perf_counter_ns

from poolscope.messages import LoopBlock, parse
from poolscope.probe.settings import ProbeSettings
from poolscope.rules.loop_causes import judged


def as_judged(message):
    """A message as the engine takes it in: of a block with its cause, and the lines that this blames."""
    if message[0] != "loop_block":
        return message
    block = parse(message)
    assert isinstance(block, LoopBlock)
    block = judged(block)
    return ("loop_block", *(getattr(block, name) for name in block.__struct_fields__[:7]))


class FakeProbe:
    def __init__(self, loop_blocked_seconds=0.1, sample_interval=0.1, clock=perf_counter_ns):
        self.settings = ProbeSettings(sample_interval=sample_interval, loop_blocked_seconds=loop_blocked_seconds)
        self.clock = clock
        self.messages = []
        self.faults = []
        self.notices = []
        self.jobs = []
        self.wakes = 0
        self.overslept_ns = None
        self.before_flush = []

    def emit(self, message):
        self.messages.append(message)

    def fail(self, part, exc):
        self.faults.append((part, exc))

    def notice(self, text):
        self.notices.append(text)

    def wake(self):
        self.wakes += 1

    def add_job(self, period_seconds, job):
        entry = (period_seconds, job)
        self.jobs.append(entry)
        return lambda: self.jobs.remove(entry)

    def look(self):
        """Runs every job once, in this thread."""
        for _, job in list(self.jobs):
            job(self.clock())

    def tagged(self, tag):
        return [as_judged(message) for message in list(self.messages) if message[0] == tag]

    def blocks(self):
        """Block id -> the last message of it."""
        return {message[2]: message for message in self.tagged("loop_block")}

    def ended_blocks(self):
        return [message for message in self.blocks().values() if message[4]]

    def own_blocks(self):
        """Those that are the program's doing: a machine that is busy with other things may hold the loop as well."""
        return [message for message in self.ended_blocks() if message[5] != "host_descheduled"]

    def lags_ns(self):
        return [lag for message in self.tagged("loop_tick") for lag in message[3]]


class Driver:
    """Runs a probe's jobs at their period until the `with` block ends."""

    def __init__(self, probe):
        self.probe = probe
        self.errors = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="driver")

    def _run(self):
        try:
            self.probe.overslept_ns = 0
            while not self._stop.is_set():
                period = min([period for period, _ in list(self.probe.jobs)], default=0.005)
                before = perf_counter_ns()
                self._stop.wait(period)
                slept = perf_counter_ns() - before
                self.probe.overslept_ns += max(0, slept - round(period * 1e9))
                self.probe.look()
        except BaseException as exc:
            self.errors.append(exc)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *exc):
        self._stop.set()
        self._thread.join()
        assert self.errors == []
        assert self.probe.faults == []
        assert self.probe.notices == []


def new_loop(kind):
    if kind == "uvloop":
        import uvloop

        return uvloop.new_event_loop()
    return asyncio.new_event_loop()


def run(kind, main):
    """As asyncio.run, on a loop of that kind."""
    with asyncio.Runner(loop_factory=lambda: new_loop(kind)) as runner:
        return runner.run(main)

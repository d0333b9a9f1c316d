"""What is known of one watched process."""

from __future__ import annotations

from collections import deque

from poolscope.analysis.deadlock import DeadlockWatch
from poolscope.analysis.history import CpuReading
from poolscope.analysis.pool_case import PoolCase
from poolscope.analysis.rows import LoopRow
from poolscope.analysis.signals import ProcessSignals, rate
from poolscope.messages import FunctionNamed, Hello, ProcessTick, Wait, WaitSample
from poolscope.model import ProcessReport

#: A process is read this often; a window needs a reading before its begin.
_TICK_NS = 600_000_000
#: Readings of its CPU time that are kept.
_READINGS_KEPT = 600


class WatchedProcess:
    """One watched process, known by its connection."""

    def __init__(self, hello: Hello) -> None:
        self.hello = hello
        self.ended_ns: int | None = None
        self.exit_code: int | None = None
        #: Its connection ended before it said that it would.
        self.silent = False
        self.overhead_ns = 0
        self.functions: dict[int, FunctionNamed] = {}
        self.pools: dict[int, PoolCase] = {}
        #: Those of them that are in a stretch of saturation.
        self.full: set[int] = set()
        self.loops: dict[int, LoopRow] = {}
        self._cores_allowed: float | None = None
        self._cpu: deque[CpuReading] = deque(maxlen=_READINGS_KEPT)
        self._children: deque[CpuReading] = deque(maxlen=_READINGS_KEPT)
        self._deadlocks = DeadlockWatch()

    def ticked(self, tick: ProcessTick) -> None:
        """Takes in what the process as a whole has used."""
        self._cpu.append(CpuReading(tick.at_ns, tick.cpu_ns))
        self._children.append(CpuReading(tick.at_ns, tick.children_ns))
        self.overhead_ns = tick.overhead_ns
        self._cores_allowed = tick.allowed_cpus

    def waited(self, sample: WaitSample) -> None:
        """Takes in what the workers of all pools wait for."""
        histories = {pool: case.history for pool, case in self.pools.items()}
        capacity = {pool: max(history.workers, history.max_workers) for pool, history in histories.items()}
        names = {pool: history.name for pool, history in histories.items()}
        found = self._deadlocks.take(sample, capacity)
        waits: dict[int, list[Wait]] = {}
        for wait in sample.waits:
            waits.setdefault(wait.pool, []).append(wait)
        for pool, case in self.pools.items():
            case.waits.note(sample.at_ns, waits.get(pool, ()), found.get(pool), names)

    def signals(self, begin_ns: int, end_ns: int) -> ProcessSignals:
        """What the process as a whole did in that time."""
        used, children = (rate(own, begin_ns - _TICK_NS, end_ns + _TICK_NS) for own in (self._cpu, self._children))
        return ProcessSignals(used, self._cores_allowed, self.hello.gil, children)

    def report(self, origin_ns: int) -> ProcessReport:
        """For the report; `origin_ns` is when its time began."""
        return ProcessReport(
            pid=self.hello.pid,
            parent=self.hello.parent,
            command=tuple(self.hello.command),
            started_seconds=(self.hello.at_ns - origin_ns) / 1e9,
            ended_seconds=None if self.ended_ns is None else (self.ended_ns - origin_ns) / 1e9,
            exit_code=self.exit_code,
            cpu_seconds=self._cpu[-1].cpu_ns / 1e9 if self._cpu else 0.0,
        )

"""One watched process, and all those that have ended."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping

import msgspec

from poolscope.aggregation.pool_history import CpuReading
from poolscope.engine.loop_row import LoopRow
from poolscope.engine.pool_case import PoolCase
from poolscope.engine.turn_case import TurnCase
from poolscope.messages import FunctionNamed, Hello, Line, ProcessTick, Wait, WaitSample
from poolscope.model import ProcessReport
from poolscope.signals.deadlock import Cycle, DeadlockWatch
from poolscope.signals.limits import CONNECTIONS
from poolscope.signals.limits import KINDS as LIMITS
from poolscope.signals.measure import rate
from poolscope.signals.pool_signals import ProcessSignals

#: How often a process reports its CPU time; a window needs a reading before its begin.
_TICK_NS = 600_000_000
#: Readings of its CPU time that are kept.
_READINGS_KEPT = 600
#: Kinds of pools whose workers are in other processes or interpreters: running tasks look like queued ones.
_UNTOLD = ("process", "interpreter")
#: Ended processes that are reported one by one; the others share a row.
ENDED_KEPT = 100
#: Characters of the command of a process that has ended.
_COMMAND_KEPT = 10_000


class WatchedProcess:
    """One watched process, known by its connection."""

    def __init__(self, hello: Hello, turns: TurnCase) -> None:
        self.hello = hello
        self.ended_ns: int | None = None
        self.exit_code: int | None = None
        self.alone = False
        #: Its connection ended without a goodbye.
        self.silent = False
        self.overhead_ns = 0
        self.functions: dict[int, FunctionNamed] = {}
        self.pools: dict[int, PoolCase] = {}
        #: Pools that are in a stretch of saturation.
        self.full: set[int] = set()
        self.loops: dict[int, LoopRow] = {}
        self._cores_allowed: float | None = None
        self._cpu: deque[CpuReading] = deque(maxlen=_READINGS_KEPT)
        self._children: deque[CpuReading] = deque(maxlen=_READINGS_KEPT)
        self._deadlocks = DeadlockWatch()
        #: What its threads and tasks wait for.
        self.turns = turns

    def ticked(self, tick: ProcessTick) -> None:
        """Take in the CPU time of the whole process."""
        self._cpu.append(CpuReading(tick.at_ns, tick.cpu_ns))
        self._children.append(CpuReading(tick.at_ns, tick.children_ns))
        self.overhead_ns = tick.overhead_ns
        self._cores_allowed = tick.allowed_cpus

    def waited(self, sample: WaitSample) -> None:
        """Take in what the workers of all pools wait for."""
        histories = {pool: case.history for pool, case in self.pools.items()}
        capacity = {pool: max(history.workers, history.max_workers) for pool, history in histories.items()}
        names = {pool: history.name for pool, history in histories.items()}
        found = self._deadlocks.take(sample, capacity)
        telling = frozenset(pool for pool, history in histories.items() if history.opened.kind not in _UNTOLD)
        limits = {pool: history.opened.kind for pool, history in histories.items() if history.opened.kind in LIMITS}
        waits: dict[int, list[Wait]] = {}
        for wait in sample.waits:
            waits.setdefault(wait.pool, []).append(wait)
        loops = {loop: row.case.history for loop, row in self.loops.items()}
        for pool, case in self.pools.items():
            # What waits for a lock or semaphore is seen at its line; what holds one is told of by that limit.
            others = () if pool in limits else [wait for wait in waits.get(pool, ()) if not self._at_gate(wait, limits)]
            lines = self._lines_of(found.get(pool), found)
            case.waits.note(sample.at_ns, others, found.get(pool), names, telling, limits, lines)
            case.loop_waits.note(sample.at_ns, waits.get(pool, ()), loops)

    @staticmethod
    def _at_gate(wait: Wait, limits: Mapping[int, str]) -> bool:
        return any(limits.get(pool, CONNECTIONS) != CONNECTIONS for pool, _ in wait.targets)

    def _lines_of(self, cycle: Cycle | None, found: Mapping[int, Cycle]) -> tuple[Line, ...]:
        """Return where the next pool's part of a cycle was seen last."""
        case = None if cycle is None else self.pools.get(cycle.next_pool)
        if cycle is None or case is None or not case.history.stacks:
            return ()
        other = found.get(cycle.next_pool)
        workers = set() if other is None else set(other.workers)
        for stack in case.history.stacks[-1].stacks:
            if workers & set(stack.tasks[::3]):
                return tuple(stack.lines)
        return ()

    def signals(self, begin_ns: int, end_ns: int) -> ProcessSignals:
        """Return the signals of the whole process in that time."""
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
            alone=self.alone,
        )


class EndedProcess:
    """What is kept of a process once it has ended."""

    __slots__ = ("report", "silent", "warned")

    def __init__(self, process: WatchedProcess, origin_ns: int) -> None:
        report = process.report(origin_ns)
        self.report = msgspec.structs.replace(report, command=_shortened(report.command))
        self.silent = process.silent
        #: Whether one of its pools or loops had a finding above info.
        self.warned = False


class EndedProcesses:
    """The ended processes: the first, those that warned and the latest one by one, the others as totals."""

    def __init__(self) -> None:
        self._kept: list[EndedProcess] = []
        self._folded: ProcessReport | None = None
        self.overhead_ns = 0
        #: For how long a task, an await or a child thread was under way.
        self.under_way_ns = 0

    @property
    def folded(self) -> int:
        """Number of processes that are only in the totals."""
        return 0 if self._folded is None else self._folded.count

    def add(self, process: WatchedProcess, origin_ns: int) -> None:
        """Add a process that ended."""
        self.overhead_ns += process.overhead_ns
        self.under_way_ns += process.turns.under_way_ns
        self._kept.append(EndedProcess(process, origin_ns))

    def of(self, pid: int) -> list[EndedProcess]:
        """Return the lives of a process, each of which may be another program; the last one last."""
        return [ended for ended in self._kept if ended.report.pid == pid]

    def pids(self) -> set[int]:
        """Return the processes that are reported one by one."""
        return {ended.report.pid for ended in self._kept}

    def fold(self, warned: Callable[[], set[int]]) -> set[int]:
        """Where there are too many, folds a tenth of them; the processes of which none is left. `warned` gives those
        that had a finding above info."""
        if len(self._kept) <= ENDED_KEPT:
            return set()
        before = self.pids()
        later = self._kept[1:]  # the first one is the program
        worse = warned()
        for ended in later:
            ended.warned = ended.warned or ended.report.pid in worse
        later.sort(key=lambda ended: ended.warned)  # of those alike the one that ended first comes first
        most = ENDED_KEPT - ENDED_KEPT // 10 - 1
        gone, left = later[: len(later) - most], later[len(later) - most :]
        for ended in gone:
            self._folded = _together(self._folded, ended.report)
        left.sort(key=lambda ended: ended.report.ended_seconds or 0.0)
        self._kept[1:] = left
        return before - self.pids()

    def reports(self) -> Iterable[ProcessReport]:
        """Return them one by one, the totals last."""
        yield from (ended.report for ended in self._kept)
        if self._folded is not None:
            yield self._folded


def _together(sum_: ProcessReport | None, ended: ProcessReport) -> ProcessReport:
    if sum_ is None:
        return msgspec.structs.replace(ended, pid=0, parent=None, command=(), exit_code=None)
    return msgspec.structs.replace(
        sum_,
        started_seconds=min(sum_.started_seconds, ended.started_seconds),
        ended_seconds=max(sum_.ended_seconds or 0.0, ended.ended_seconds or 0.0),
        cpu_seconds=sum_.cpu_seconds + ended.cpu_seconds,
        count=sum_.count + ended.count,
    )


def _shortened(command: tuple[str, ...]) -> tuple[str, ...]:
    """Cut a command, which may have megabytes."""
    left = _COMMAND_KEPT
    kept: list[str] = []
    for word in command:
        if len(word) > left:
            return (*kept, word[:left] + "...")
        kept.append(word)
        left -= len(word)
    return command

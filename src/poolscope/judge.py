"""Messages of many processes in; findings, snapshots and sessions out.

A judge belongs to the parent of `poolscope run`, or to the process itself. It reads no clock and starts no thread: its
owner passes the time in, and holds one lock around every call.
"""

from __future__ import annotations

import linecache
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from poolscope import __version__
from poolscope.analysis.deadlock import DeadlockWatch
from poolscope.analysis.detection import Rules
from poolscope.analysis.findings import Event
from poolscope.analysis.history import CpuReading, PoolHistory
from poolscope.analysis.loop_case import LoopCase
from poolscope.analysis.loop_history import LoopHistory
from poolscope.analysis.pool_case import PoolCase
from poolscope.analysis.rows import LoopRow, PoolRow
from poolscope.analysis.signals import ProcessSignals, rate
from poolscope.config import Settings
from poolscope.errors import PoolscopeError
from poolscope.messages import (
    PROTOCOL,
    Bye,
    Fault,
    FunctionNamed,
    Hello,
    LoopBlock,
    LoopClosed,
    LoopOpened,
    LoopTick,
    Message,
    Notice,
    PoolBatch,
    PoolClosed,
    PoolOpened,
    ProcessTick,
    StackSample,
    Wait,
    WaitSample,
    WorkersReady,
    parse,
)
from poolscope.model import (
    PATTERNS,
    SEVERITIES,
    Finding,
    Overhead,
    PoolTrace,
    ProcessReport,
    Report,
    Session,
    Snapshot,
)

#: What happened this long ago has surely been sent, however late its batch: saturation is worked out up to there.
SETTLE_INTERVALS = 2
#: A process is read this often; a window needs a reading before its begin.
PROCESS_TICK_NS = 600_000_000
#: Fewer finished tasks than this, and no loop that ran `LOOP_NEEDED_NS`, is too little to judge by.
TASKS_NEEDED = 10
#: Names whose pools have all ended are kept up to this many; then the half that matters least becomes one row, so that
#: a program that gives each pool a name of its own does not fill memory and Prometheus.
ENDED_ROWS_KEPT = 1_000
OTHER_POOLS = "other"
LOOP_NEEDED_NS = 1_000_000_000

#: Part of poolscope -> what is missing once it has failed.
_MISSING = {
    "access": "nobody is let in by the endpoint",
    "certificate": "the endpoint goes on with its old certificate",
    "clock": "times are not known",
    "collector": "a scrape had no metrics",
    "checkpoint": "the session is only saved in the end",
    "channel": "what a process did later is missing",
    "cpu": "CPU times are not known",
    "endpoint": "no metrics are served",
    "eventloop": "event loops are watched no more",
    "fork": "a child process is not watched",
    "install": "some pools or event loops are not watched",
    "intake": "a process is watched no more",
    "judge": "findings may be missing",
    "log": "findings are not logged",
    "on_finding": "a callback is called no more",
    "pools": "tasks of a pool may be missing",
    "reader": "pools are recorded no more",
    "stacks": "the lines where workers are may be missing",
    "workers": "the metrics of several processes may be incomplete",
    "thread": "nothing is seen between two reports",
}

Callback = Callable[[Finding, bool], None]
T = TypeVar("T")
Row = TypeVar("Row", PoolRow, LoopRow)


def _source_of(file: str, line: int) -> str | None:
    return linecache.getline(file, line).strip() or None


class _Process:
    """One watched process, known by its connection."""

    def __init__(self, hello: Hello) -> None:
        self.hello = hello
        self.ended_ns: int | None = None
        self.exit_code: int | None = None
        #: Its connection ended before it said that it would.
        self.silent = False
        self.overhead_ns = 0
        self.cores_allowed: float | None = None
        self.cpu: deque[CpuReading] = deque(maxlen=600)
        self.functions: dict[int, FunctionNamed] = {}
        self.pools: dict[int, PoolCase] = {}
        self.loops: dict[int, LoopRow] = {}
        self._deadlocks = DeadlockWatch()

    def signals(self, begin_ns: int, end_ns: int) -> ProcessSignals:
        used = rate(self.cpu, begin_ns - PROCESS_TICK_NS, end_ns + PROCESS_TICK_NS)
        return ProcessSignals(used, self.cores_allowed, self.hello.gil)

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


class Judge:
    """Keeps the histories of all watched processes and judges them.

    Not thread-safe: the owner's lock goes around every call but `deliver`, which calls the log and the subscribers and
    goes outside of it, so that those may ask for anything.
    """

    def __init__(self, settings: Settings, *, started_ns: int, log: Callable[[str], None] | None = None) -> None:
        self._settings = settings
        self._origin_ns = started_ns
        self._log = log
        self._processes: dict[int, _Process] = {}
        self._pool_rows: dict[tuple[int, str], PoolRow] = {}
        self._loop_rows: dict[tuple[int, str, str], LoopRow] = {}
        self._notices: dict[str, None] = {}
        self._errors: dict[str, int] = {}
        self._callbacks: list[Callback] = []
        self._untold: deque[tuple[str, str, Finding, bool]] = deque(maxlen=1000)
        self._untold_faults: deque[str] = deque(maxlen=100)
        #: Pools whose judging has failed; what they do is counted all the same.
        self._unjudged: set[PoolCase] = set()
        self._unjudged_loops: set[LoopRow] = set()
        self._measure(settings)

    def _measure(self, settings: Settings) -> None:
        self._settle_ns = int(SETTLE_INTERVALS * settings.sample_interval * 1e9)
        self._wait_bounds = [round(bound * 1e9) for bound in settings.metrics.wait_buckets]
        self._run_bounds = [round(bound * 1e9) for bound in settings.metrics.run_buckets]

    # -- what comes in -------------------------------------------------------------------------------------

    def feed(self, source: int, raw: Sequence[Any]) -> None:
        """Takes one message of the process behind `source` (any key); its first must be `hello`, or a notice.

        Raises PoolscopeError for what is no message.
        """
        message = parse(raw)
        process = self._processes.get(source)
        if process is None:
            if isinstance(message, Notice):  # of a process that cannot be watched
                self.notice(message.text)
                return
            if not isinstance(message, Hello):
                raise PoolscopeError(f"a watched process sent {type(message).__name__} before it said who it is")
            if message.protocol != PROTOCOL:
                raise PoolscopeError(
                    f"process {message.pid} speaks protocol {message.protocol}, this poolscope {PROTOCOL}"
                )
            self._processes[source] = _Process(message)
            return
        self._take(process, message)

    def _take(self, process: _Process, message: Message) -> None:
        match message:
            case PoolBatch():
                if (case := process.pools.get(message.pool)) is not None:
                    try:
                        case.history.fold(message)
                    except Exception as error:
                        self._drop(case, message.at_ns, error)
            case FunctionNamed():
                process.functions[message.function] = message
            case WorkersReady():
                if (case := process.pools.get(message.pool)) is not None:
                    case.history.note_ready(message.at_ns, message.ready_ns)
            case StackSample():
                if (case := process.pools.get(message.pool)) is not None:
                    case.history.sample(message)
            case WaitSample():
                process.waited(message)
            case ProcessTick():
                process.cpu.append(CpuReading(message.at_ns, message.cpu_ns))
                process.overhead_ns = message.overhead_ns
                process.cores_allowed = message.allowed_cpus
            case PoolOpened():
                self._open_pool(process, message)
            case PoolClosed():
                if (case := process.pools.pop(message.pool, None)) is not None:
                    self._close_pool(process, case, message.at_ns)
            case LoopOpened() | LoopTick() | LoopBlock() | LoopClosed():
                self._take_loop(process, message)
            case Notice():
                self.notice(message.text)
            case Fault():
                self.fault(message.part, message.text)
            case Bye():
                process.ended_ns = message.at_ns
            case Hello():
                raise PoolscopeError(f"process {process.hello.pid} said hello twice")

    def _open_pool(self, process: _Process, opened: PoolOpened) -> None:
        history = PoolHistory(
            opened,
            pid=process.hello.pid,
            keep_tasks=self._settings.keep_tasks,
            wait_bounds=self._wait_bounds,
            run_bounds=self._run_bounds,
        )
        case = PoolCase(
            history,
            self._rules(opened.name),
            origin_ns=self._origin_ns,
            process_of=process.signals,
            function_of=process.functions.get,
            source_of=_source_of,
            others_of=lambda: [other.history for other in process.pools.values()],
        )
        process.pools[opened.pool] = case
        key = (process.hello.pid, opened.name)
        row = self._pool_rows.get(key)
        if row is None:
            most = self._settings.metrics.max_functions
            row = self._pool_rows[key] = PoolRow(history, process.functions.get, most)
        row.add(case)

    def _rules(self, pool: str) -> Rules:
        rule = self._settings.rule_for(pool)
        return Rules(
            thresholds=self._settings.detection_for(pool),
            ordered=rule is not None and bool(rule.ordered),
            long_running=rule is not None and bool(rule.long_running),
        )

    def configure(self, settings: Settings) -> None:
        """Judges by other settings from now on; histories stay."""
        before = self._settings.metrics
        self._settings = settings
        self._measure(settings)
        for row in self._pool_rows.values():
            row.resize(settings.metrics.max_functions)
            for case in row.cases:
                case.rules = self._rules(row.name)
                case.history.keep_tasks = settings.keep_tasks
        if (before.wait_buckets, before.run_buckets) == (settings.metrics.wait_buckets, settings.metrics.run_buckets):
            return
        for row in self._pool_rows.values():
            row.rebound(self._wait_bounds, self._run_bounds)
        for loop_row in self._loop_rows.values():
            loop_row.case.history.lag.rebound(self._wait_bounds)

    def _close_pool(self, process: _Process, case: PoolCase, at_ns: int) -> None:
        row = self._pool_rows[process.hello.pid, case.history.name]
        try:
            for event in case.finish(max(at_ns, case.history.last_batch_ns)):
                self._tell(row, "pool", case.history.name, event)
            row.remove(case, at_ns)
        except Exception as error:
            self._drop(case, at_ns, error)
        self._unjudged.discard(case)
        if not row.cases and len(self._pool_rows) > ENDED_ROWS_KEPT:
            self._fold_rows()

    def _fold_rows(self) -> None:
        ended = [key for key, row in self._pool_rows.items() if not row.cases and key[1] != OTHER_POOLS]
        if len(ended) <= ENDED_ROWS_KEPT:
            return
        ended.sort(key=lambda key: self._pool_rows[key].weight)
        for key in ended[: (ENDED_ROWS_KEPT + 1) // 2]:
            row = self._pool_rows.pop(key)
            other = self._pool_rows.setdefault((key[0], OTHER_POOLS), row)
            if other is row:
                row.name = OTHER_POOLS
            else:
                other.absorb(row)

    def _take_loop(self, process: _Process, message: LoopOpened | LoopTick | LoopBlock | LoopClosed) -> None:
        if isinstance(message, LoopOpened):
            key = (process.hello.pid, message.name, message.kind)
            row = self._loop_rows.get(key)
            if row is None:
                history = LoopHistory(message.name, message.kind, process.hello.pid, self._wait_bounds)
                row = LoopRow(LoopCase(history, origin_ns=self._origin_ns, source_of=_source_of))
                self._loop_rows[key] = row
            process.loops[message.loop] = row
            row.case.history.opened(message)
            return
        row = process.loops.get(message.loop)
        if row is None:
            return
        if isinstance(message, LoopTick):
            row.case.history.tick(message)
        elif isinstance(message, LoopBlock):
            row.case.history.block(message)
        else:
            row.case.history.closed(message.loop, message.at_ns)
            del process.loops[message.loop]

    def lost(self, source: int, now_ns: int, exit_code: int | None = None) -> None:
        """The connection of a process ended: whatever it had is over."""
        process = self._processes.get(source)
        if process is None:
            return
        if process.ended_ns is None:
            process.ended_ns = now_ns
            process.silent = True
        if exit_code is not None:
            process.exit_code = exit_code
        for case in list(process.pools.values()):
            self._close_pool(process, case, process.ended_ns)
        process.pools.clear()
        for loop, row in list(process.loops.items()):
            row.case.history.closed(loop, process.ended_ns)
        process.loops.clear()

    def exited(self, pid: int, exit_code: int) -> None:
        """The exit code of a process is known (negative: the signal that ended it)."""
        lives = [process for process in self._processes.values() if process.hello.pid == pid]
        for process in lives:
            process.exit_code = exit_code
        if lives and lives[-1].silent and exit_code >= 0:
            self.notice(f"process {pid} ended without a word, as by os._exit(): what it did last is missing")

    def watched_pids(self) -> set[int]:
        """The processes that have said hello, those that ended included."""
        return {process.hello.pid for process in self._processes.values()}

    def notice(self, text: str) -> None:
        """Something that could not be seen or was switched off; each text is kept once, and a hundred of them."""
        if len(self._notices) < 100:
            self._notices[text] = None

    def fault(self, part: str, text: str) -> None:
        """A part of poolscope has failed: counts it, and notes what is missing."""
        self._errors[part] = self._errors.get(part, 0) + 1
        self.notice(f"{_MISSING.get(part, f'{part} was switched off')}: {text}")

    def emptied(self) -> Judge:
        """One that knows nothing but what has failed."""
        bare = Judge(self._settings, started_ns=self._origin_ns)
        bare._notices, bare._errors = self._notices, self._errors
        return bare

    def failed(self, part: str, text: str) -> None:
        """The same, and the log hears of it the first time."""
        if part not in self._errors:
            self._untold_faults.append(f"failure of poolscope in part {part}: {text}")
        self.fault(part, text)

    def _failed(self, name: str, error: Exception) -> None:
        """The judging of one pool or loop has failed."""
        self.failed("judge", f"{name!r}: {type(error).__name__}: {error}")

    def _drop(self, case: PoolCase, now_ns: int, error: Exception) -> None:
        """Nothing can be made of this pool any more: it counts as it was."""
        history = case.history
        self._failed(history.name, error)
        for process in self._processes.values():
            if process.pools.get(history.opened.pool) is case:
                del process.pools[history.opened.pool]
        row = self._pool_rows[history.pid, history.name]
        try:
            row.remove(case, now_ns)
        except Exception:
            if case in row.cases:
                row.cases.remove(case)

    # -- time goes on --------------------------------------------------------------------------------------

    def tick(self, now_ns: int) -> None:
        """Judges what is known by now. Call it about every `sample_interval`."""
        for row in self._pool_rows.values():
            awake = [case for case in row.cases if not case.resting]
            for case in awake:
                self._advance(row, case, now_ns)
            if awake:
                row.tick()
        for loop_row in self._loop_rows.values():
            self._judge_loop(loop_row, lambda case: case.judge(now_ns))

    def _advance(self, row: PoolRow, case: PoolCase, now_ns: int) -> None:
        try:
            case.history.settle(now_ns - self._settle_ns)
        except Exception as error:
            self._drop(case, now_ns, error)
            return
        if case in self._unjudged:
            case.history.occupancy.stretches.closed.clear()  # which nobody looks at
            return
        try:
            for event in case.judge(now_ns):
                self._tell(row, "pool", row.name, event)
        except Exception as error:
            self._unjudged.add(case)
            self._failed(row.name, error)

    def _judge_loop(self, row: LoopRow, judge: Callable[[LoopCase], list[Event]]) -> None:
        if row in self._unjudged_loops:
            return
        try:
            for event in judge(row.case):
                self._tell(row, "loop", row.case.history.name, event)
        except Exception as error:
            self._unjudged_loops.add(row)
            self._failed(row.case.history.name, error)

    def finish(self, now_ns: int) -> None:
        """The run is over: ends every process, and judges for the last time."""
        for source in list(self._processes):
            self.lost(source, now_ns)
        for loop_row in self._loop_rows.values():
            self._judge_loop(loop_row, lambda case: case.finish(now_ns))

    def _tell(self, row: PoolRow | LoopRow, kind: str, name: str, event: Event) -> None:
        finding, began = event
        if began:
            row.tally.began(finding)
        self._untold.append((kind, name, finding, began))

    def deliver(self) -> None:
        """Tells the log and the subscribers what began and ended. Call it after `tick`, outside the owner's lock."""
        while self._untold_faults:
            self._say(self._untold_faults.popleft())
        while self._untold:
            try:
                kind, name, finding, began = self._untold.popleft()
            except IndexError:  # another thread told it
                return
            word = finding.severity if began else "over"
            self._say(f"{word}: {kind} {name!r}: {finding.pattern} ({finding.cause}): {finding.summary}")
            for callback in list(self._callbacks):
                try:
                    callback(finding, began)
                except Exception as error:  # the user's callback must not stop the judge
                    self._callbacks.remove(callback)
                    self.fault("on_finding", f"it raised {error!r}")

    def _say(self, line: str) -> None:
        if self._log is not None:
            try:
                self._log(line)
            except Exception as error:  # a log handler of the program's
                self._log = None
                self.fault("log", f"a log handler raised {error!r}")

    def subscribe(self, callback: Callback) -> Callable[[], None]:
        """Calls `callback(finding, began)` for each finding that begins or ends; returns how to stop that."""
        self._callbacks.append(callback)

        def unsubscribe() -> None:
            if callback in self._callbacks:
                self._callbacks.remove(callback)

        return unsubscribe

    # -- what goes out -------------------------------------------------------------------------------------

    def findings(self, now_ns: int) -> tuple[Finding, ...]:
        """All findings so far, the most severe first."""
        rows, loops = self._pool_rows.values(), self._loop_rows.values()
        each = self._of_each(rows, PoolRow.findings) + self._of_each(loops, lambda row: row.case.findings(now_ns))
        found = [finding for findings in each for finding in findings]
        return tuple(sorted(found, key=lambda finding: _order(finding, (now_ns - self._origin_ns) / 1e9)))

    def snapshot(self, now_ns: int, *, details: bool = False) -> Snapshot:
        """What a scrape shows; with `details` also all findings in full."""
        rows, loops = self._pool_rows.values(), self._loop_rows.values()
        counts = self._of_each(rows, PoolRow.finding_counts)
        counts += self._of_each(loops, LoopRow.finding_counts)
        return Snapshot(
            python=self._python(),
            pools=tuple(self._of_each(rows, lambda row: row.snapshot(now_ns))),
            loops=tuple(self._of_each(loops, LoopRow.snapshot)),
            findings=tuple(count for row_counts in counts for count in row_counts),
            overhead_cpu_seconds=sum(process.overhead_ns for process in self._processes.values()) / 1e9,
            errors=dict(self._errors),
            wait_bounds=self._settings.metrics.wait_buckets,
            run_bounds=self._settings.metrics.run_buckets,
            details=self.findings(now_ns) if details else None,
        )

    def _of_each(self, rows: Iterable[Row], read: Callable[[Row], T]) -> list[T]:
        """What `read` says of each row. One that it fails at is left out, and told of."""
        found = []
        for row in rows:
            try:
                found.append(read(row))
            except Exception as error:
                self._failed(row.name if isinstance(row, PoolRow) else row.case.history.name, error)
        return found

    def _python(self) -> str:
        return next((process.hello.python for process in self._processes.values()), "unknown")

    def session(
        self,
        now_ns: int,
        *,
        command: Sequence[str],
        started_at: str,
        exit_code: int | None,
        own_cpu_seconds: float = 0.0,
    ) -> Session:
        """The report as of now, and what it was made from. Call `finish` first if the run is over."""
        rows = self._of_each(self._pool_rows.values(), lambda row: row.report(now_ns, self._origin_ns))
        loops = self._of_each(self._loop_rows.values(), lambda row: row.report(now_ns))
        rows.sort(key=lambda row: (row[0].pid, row[0].first_submit_seconds or 0.0))
        findings = self.findings(now_ns)
        duration = (now_ns - self._origin_ns) / 1e9
        cost = own_cpu_seconds + sum(process.overhead_ns for process in self._processes.values()) / 1e9
        report = Report(
            poolscope_version=__version__,
            python=self._python(),
            command=tuple(command),
            started_at=started_at,
            duration_seconds=duration,
            exit_code=exit_code,
            verdict=self._verdict(findings, now_ns),
            processes=tuple(self._process_report(process) for process in self._processes.values()),
            pools=tuple(row for row, _ in rows),
            event_loops=tuple(loops),
            findings=findings,
            notices=tuple(self._notices),
            overhead=Overhead(cost, cost / duration if duration > 0 else 0.0),
        )
        traces: tuple[PoolTrace, ...] = tuple(trace for _, trace in rows)
        return Session(report, traces)

    def _process_report(self, process: _Process) -> ProcessReport:
        hello, ended = process.hello, process.ended_ns
        return ProcessReport(
            pid=hello.pid,
            parent=hello.parent,
            command=tuple(hello.command),
            started_seconds=(hello.at_ns - self._origin_ns) / 1e9,
            ended_seconds=None if ended is None else (ended - self._origin_ns) / 1e9,
            exit_code=process.exit_code,
            cpu_seconds=process.cpu[-1].cpu_ns / 1e9 if process.cpu else 0.0,
        )

    def _verdict(self, findings: Sequence[Finding], now_ns: int) -> str:
        if findings and findings[0].severity != "info":
            return findings[0].pattern
        finished = sum(row.finished for row in self._pool_rows.values())
        looped = any(row.case.history.ran_ns(now_ns) >= LOOP_NEEDED_NS for row in self._loop_rows.values())
        return "concurrent" if looped or finished >= TASKS_NEEDED else "insufficient_data"


def _order(finding: Finding, end_seconds: float) -> tuple[int, int, float]:
    """Most severe first, then the order of the patterns, then the longest."""
    until = end_seconds if finding.until_seconds is None else finding.until_seconds
    return (
        -SEVERITIES.index(finding.severity),
        PATTERNS.index(finding.pattern),
        finding.since_seconds - until,
    )

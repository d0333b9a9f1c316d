"""Messages of many processes in; findings, snapshots and sessions out.

A judge belongs to the parent of `poolscope run`, or to the process itself. It reads no clock and starts no thread: its
owner passes the time in, and holds one lock around every call.
"""

from __future__ import annotations

import linecache
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from poolscope import __version__
from poolscope.analysis.cases import Event, LoopCase, PoolCase
from poolscope.analysis.detection import Rules
from poolscope.analysis.history import CpuReading, PoolHistory
from poolscope.analysis.loop_history import LoopHistory
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
LOOP_NEEDED_NS = 1_000_000_000

Callback = Callable[[Finding, bool], None]


def _source_of(file: str, line: int) -> str | None:
    return linecache.getline(file, line).strip() or None


class _Process:
    """One watched process, known by its connection."""

    def __init__(self, hello: Hello) -> None:
        self.hello = hello
        self.ended_ns: int | None = None
        self.exit_code: int | None = None
        self.overhead_ns = 0
        self.cores_allowed: float | None = None
        self.cpu: deque[CpuReading] = deque(maxlen=600)
        self.functions: dict[int, FunctionNamed] = {}
        self.pools: dict[int, PoolCase] = {}
        self.loops: dict[int, LoopRow] = {}

    def signals(self, begin_ns: int, end_ns: int) -> ProcessSignals:
        used = rate(self.cpu, begin_ns - PROCESS_TICK_NS, end_ns + PROCESS_TICK_NS)
        return ProcessSignals(used, self.cores_allowed, self.hello.gil)


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
        self._settle_ns = int(SETTLE_INTERVALS * settings.sample_interval * 1e9)
        self._wait_bounds = [round(bound * 1e9) for bound in settings.metrics.wait_buckets]
        self._run_bounds = [round(bound * 1e9) for bound in settings.metrics.run_buckets]

    # -- what comes in -------------------------------------------------------------------------------------

    def feed(self, source: int, raw: Sequence[Any]) -> None:
        """Takes one message of the process behind `source` (any key); its first must be `hello`.

        Raises PoolscopeError for what is no message.
        """
        message = parse(raw)
        process = self._processes.get(source)
        if process is None:
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
                    case.history.fold(message)
            case FunctionNamed():
                process.functions[message.function] = message
            case StackSample():
                if (case := process.pools.get(message.pool)) is not None:
                    case.history.sample(message)
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
                self._errors[message.part] = self._errors.get(message.part, 0) + 1
                self.notice(f"{message.part} was switched off: {message.text}")
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
        )
        process.pools[opened.pool] = case
        key = (process.hello.pid, opened.name)
        row = self._pool_rows.get(key)
        if row is None:
            row = self._pool_rows[key] = PoolRow(history, process.functions.get)
        row.add(case)

    def _rules(self, pool: str) -> Rules:
        rule = self._settings.rule_for(pool)
        return Rules(
            thresholds=self._settings.detection_for(pool),
            ordered=rule is not None and bool(rule.ordered),
            long_running=rule is not None and bool(rule.long_running),
        )

    def configure(self, settings: Settings) -> None:
        """Judges by other settings from now on; histories, and the bounds of what has been counted, stay."""
        self._settings = settings
        for row in self._pool_rows.values():
            for case in row.cases:
                case.rules = self._rules(row.name)

    def _close_pool(self, process: _Process, case: PoolCase, at_ns: int) -> None:
        row = self._pool_rows[process.hello.pid, case.history.name]
        for event in case.finish(max(at_ns, case.history.last_batch_ns)):
            self._tell(row, "pool", case.history.name, event)
        row.remove(case, at_ns)

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
        for process in self._processes.values():
            if process.hello.pid == pid:
                process.exit_code = exit_code

    def notice(self, text: str) -> None:
        """Something that could not be seen or was switched off; each text is kept once, and a hundred of them."""
        if len(self._notices) < 100:
            self._notices[text] = None

    # -- time goes on --------------------------------------------------------------------------------------

    def tick(self, now_ns: int) -> None:
        """Judges what is known by now. Call it about every `sample_interval`."""
        for row in self._pool_rows.values():
            for case in row.cases:
                case.history.settle(now_ns - self._settle_ns)
                for event in case.judge(now_ns):
                    self._tell(row, "pool", row.name, event)
            row.tick()
        for loop_row in self._loop_rows.values():
            for event in loop_row.case.judge(now_ns):
                self._tell(loop_row, "loop", loop_row.case.history.name, event)

    def finish(self, now_ns: int) -> None:
        """The run is over: ends every process, and judges for the last time."""
        for source in list(self._processes):
            self.lost(source, now_ns)
        for loop_row in self._loop_rows.values():
            for event in loop_row.case.finish(now_ns):
                self._tell(loop_row, "loop", loop_row.case.history.name, event)

    def _tell(self, row: PoolRow | LoopRow, kind: str, name: str, event: Event) -> None:
        finding, began = event
        if began:
            row.tally.began(finding)
        self._untold.append((kind, name, finding, began))

    def deliver(self) -> None:
        """Tells the log and the subscribers what began and ended. Call it after `tick`, outside the owner's lock."""
        while self._untold:
            try:
                kind, name, finding, began = self._untold.popleft()
            except IndexError:  # another thread told it
                return
            if self._log is not None:
                word = finding.severity if began else "over"
                self._log(f"{word}: {kind} {name!r}: {finding.pattern} ({finding.cause}): {finding.summary}")
            for callback in list(self._callbacks):
                try:
                    callback(finding, began)
                except Exception as error:  # the user's callback must not stop the judge
                    self._callbacks.remove(callback)
                    self._errors["on_finding"] = self._errors.get("on_finding", 0) + 1
                    self.notice(f"a callback of on_finding() was removed: it raised {error!r}")

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
        found = [finding for row in self._pool_rows.values() for finding in row.findings()]
        found += [finding for row in self._loop_rows.values() for finding in row.case.findings(now_ns)]
        return tuple(sorted(found, key=lambda finding: _order(finding, (now_ns - self._origin_ns) / 1e9)))

    def snapshot(self, now_ns: int) -> Snapshot:
        """What a scrape shows."""
        counts = [count for row in self._pool_rows.values() for count in row.finding_counts()]
        counts += [count for row in self._loop_rows.values() for count in row.finding_counts(now_ns)]
        return Snapshot(
            python=self._python(),
            pools=tuple(row.snapshot(now_ns) for row in self._pool_rows.values()),
            loops=tuple(row.snapshot() for row in self._loop_rows.values()),
            findings=tuple(counts),
            overhead_cpu_seconds=sum(process.overhead_ns for process in self._processes.values()) / 1e9,
            errors=dict(self._errors),
        )

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
        rows = [row.report(now_ns, self._origin_ns) for row in self._pool_rows.values()]
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
            event_loops=tuple(row.report(now_ns) for row in self._loop_rows.values()),
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

"""What comes in: the messages of the watched processes, into the histories of their pools and loops."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, TypeAlias

import msgspec

from poolscope.aggregation.loop_history import LoopHistory
from poolscope.aggregation.pool_history import PoolHistory
from poolscope.aggregation.turns import Turns
from poolscope.config import Settings
from poolscope.engine.finding_builder import FindingBuilder, SourceOf
from poolscope.engine.finding_list import Event
from poolscope.engine.loop_case import LoopCase
from poolscope.engine.loop_row import LoopRow
from poolscope.engine.notifications import Notifications
from poolscope.engine.own_starts import OwnStarts
from poolscope.engine.pool_case import PoolCase
from poolscope.engine.pool_row import PoolRow
from poolscope.engine.process import EndedProcesses, WatchedProcess
from poolscope.engine.rows import Key, Rows
from poolscope.engine.self_health import SelfHealth
from poolscope.engine.sizing_advisor import SizingAdvisor
from poolscope.engine.source_loops import SourceLoops
from poolscope.engine.source_turns import SourceTurns
from poolscope.engine.sources import Sources
from poolscope.engine.turn_case import TurnCase, TurnFindings
from poolscope.errors import PoolscopeError
from poolscope.messages import (
    PROTOCOL,
    UNDERSTOOD,
    Bye,
    Chunks,
    Fault,
    FunctionNamed,
    Handover,
    HeldSample,
    Hello,
    Incident,
    LoopBlock,
    LoopClosed,
    LoopLoad,
    LoopOpened,
    LoopTick,
    Message,
    Notice,
    PoolBatch,
    PoolClosed,
    PoolOpened,
    PoolSums,
    ProcessTick,
    StackSample,
    Started,
    Turn,
    TurnSample,
    Unwatched,
    WaitSample,
    WorkersReady,
    WorkersStarted,
    parse,
)
from poolscope.rules.loop_causes import judged
from poolscope.rules.reason import Criteria

#: Rows of pools that have ended are kept up to this many, and the same of event loops: a program may give each pool or
#: thread a name of its own. A pool has about sixty series, a loop about twenty, and its name seldom means as much.
ENDED_ROWS_KEPT = 1_000
ENDED_LOOPS_KEPT = 100
#: About how many bytes the rows of ended pools may take while the run goes on.
ENDED_BYTES_KEPT = 64 << 20
#: Processes with threads or processes of their own in turn.
_PROGRAMS_KEPT = 100
#: What those wait for.
OWN_GATES = ("thread", "process")

#: Functions of one process that keep their names; its probe names at most ten thousand.
_FUNCTIONS_KEPT = 20_000

_OfPool: TypeAlias = PoolBatch | PoolSums | WorkersReady | StackSample | HeldSample | WorkersStarted | Chunks | Handover


def criteria_for(settings: Settings, pool: str, kind: str) -> Criteria:
    """Return the criteria by which the pool of that name and kind is judged."""
    rule = settings.rule_for(pool, kind)
    return Criteria(
        thresholds=settings.detection_for(pool, kind),
        ordered=rule is not None and bool(rule.ordered),
        intended=rule is not None and bool(rule.intended),
        long_running=rule is not None and bool(rule.long_running),
    )


class Ingest:
    """All watched processes, by the key of their connection, and the rows that their pools and loops are shown as.

    A pool that can no longer be judged keeps its counts, and is reported as a fault. Ended pools and loops are kept as
    long as there is room; then they are folded into rows that keep the totals.
    """

    def __init__(self, settings: Settings, origin_ns: int, health: SelfHealth, notifications: Notifications) -> None:
        self.settings = settings
        self.origin_ns = origin_ns
        self.health = health
        #: The Python version of the first process.
        self.python = "unknown"
        #: Those that have not ended.
        self.processes: dict[int, WatchedProcess] = {}
        self.ended = EndedProcesses()
        self.pool_rows: Rows[PoolRow] = Rows(self.tell, health.misjudged)
        self.loop_rows: Rows[LoopRow] = Rows(self.tell, health.misjudged)
        self.own_starts = OwnStarts()
        #: Estimated bytes of the rows of ended pools; never too low.
        self._bytes_kept = 0
        self._sources = Sources()
        self._loops = SourceLoops()
        self._turns = SourceTurns()
        #: Threads and processes of their own that processes wait for in turn.
        self.programs: dict[int, TurnFindings] = {}
        self._over = False
        self._notifications = notifications
        self._measure()

    def _measure(self) -> None:
        self._wait_bounds = [round(bound * 1e9) for bound in self.settings.metrics.wait_buckets]
        self._run_bounds = [round(bound * 1e9) for bound in self.settings.metrics.run_buckets]

    def configure(self, settings: Settings) -> None:
        """Use other settings from now on, also for existing pools and loops."""
        before, self.settings = self.settings.metrics, settings
        self._measure()
        for row in self.pool_rows:
            row.resize(settings.metrics.max_functions)
            for case in row.cases:
                case.criteria = criteria_for(settings, row.name, case.history.opened.kind)
                case.history.keep_tasks = settings.keep_tasks
        if (before.wait_buckets, before.run_buckets) == (settings.metrics.wait_buckets, settings.metrics.run_buckets):
            return
        for row in self.pool_rows:
            row.rebound(self._wait_bounds, self._run_bounds)
        for loop_row in self.loop_rows:
            loop_row.case.history.lag.rebound(self._wait_bounds)

    # -- processes -----------------------------------------------------------------------------------------

    def take(self, source: int, raw: Sequence[Any]) -> None:
        """See `Engine.feed`."""
        process = self.processes.get(source)
        if process is None:
            self._meet(source, parse(raw))
            return
        try:
            self._take(process, parse(raw))
        except Exception as error:
            # A message of an unknown kind, or with a name that is no text: the others still count.
            text = str(error) if isinstance(error, PoolscopeError) else f"{type(error).__name__}: {error}"
            self.health.failed("messages", f"process {process.hello.pid}: {text}")

    def _meet(self, source: int, message: Message) -> None:
        """Take in the first message of a process."""
        if isinstance(message, Unwatched):
            self.health.unwatched(message.process, message.reason)
        elif isinstance(message, Notice):  # of a process that cannot be watched
            self.health.notice(message.text)
        elif not isinstance(message, Hello):
            raise PoolscopeError(f"a watched process sent {type(message).__name__} before it said which one it is")
        elif message.protocol not in UNDERSTOOD:
            raise PoolscopeError(f"process {message.pid} speaks protocol {message.protocol}, this poolscope {PROTOCOL}")
        else:
            if not self.processes and not self.ended.pids():
                self.python = message.python
            self.processes[source] = WatchedProcess(message, TurnCase(self._turns))

    def _take(self, process: WatchedProcess, message: Message) -> None:
        match message:
            case (
                PoolBatch()
                | PoolSums()
                | WorkersReady()
                | StackSample()
                | HeldSample()
                | WorkersStarted()
                | Chunks()
                | Handover()
            ):
                if (case := process.pools.get(message.pool)) is not None:
                    self._take_of_pool(case, message)
            case FunctionNamed():
                if len(process.functions) < _FUNCTIONS_KEPT or message.function in process.functions:
                    process.functions[message.function] = message
            case WaitSample():
                process.waited(message)
            case TurnSample():
                process.turns.note(message, partial(self._turns_of, process))
            case ProcessTick():
                process.ticked(message)
            case PoolOpened():
                self._open_pool(process, message)
            case PoolClosed():
                if (case := process.pools.pop(message.pool, None)) is not None:
                    self._close_pool(case, message.at_ns)
            case LoopOpened() | LoopTick() | LoopBlock() | LoopLoad() | LoopClosed():
                self._take_loop(process, message)
            case Notice():
                self.health.notice(message.text)
            case Unwatched():
                self.health.unwatched(message.process, message.reason)
            case Incident():
                self.health.incident(message.text)
            case Fault():
                self.health.fault(message.part, message.text)
            case Started():
                self.own_starts.add(message)
            case Bye():
                process.ended_ns = message.at_ns
                process.alone = message.alone
            case Hello():
                raise PoolscopeError(f"process {process.hello.pid} said hello twice")

    def _take_of_pool(self, case: PoolCase, message: _OfPool) -> None:
        history = case.history
        match message:
            case PoolBatch():
                try:
                    history.fold(message)
                except Exception as error:
                    self.drop(case, message.at_ns, error)
            case PoolSums():
                known = history.known_by_number
                try:
                    history.add_sums(message)
                except Exception as error:
                    self.drop(case, message.at_ns, error)
                self.health.thinned(history.name, history.known_by_number - known)
            case WorkersReady():
                history.note_ready(message.at_ns, message.ready_ns)
            case StackSample():
                history.sample(message)
            case HeldSample():
                history.held.append(message)
            case WorkersStarted():
                history.note_started(message)
            case Chunks():
                history.note_chunks(message)
            case Handover():
                history.hand_over(message)

    def lost(self, source: int, now_ns: int) -> None:
        """See `Engine.lost`."""
        process = self.processes.pop(source, None)
        if process is None:
            return
        if process.ended_ns is None:
            process.ended_ns = now_ns
            process.silent = True
        for case in list(process.pools.values()):
            self._close_pool(case, process.ended_ns)
        process.pools.clear()
        for loop, row in list(process.loops.items()):
            self._close_loop(row, loop, process.ended_ns)
        process.loops.clear()
        self.ended.add(process, self.origin_ns)
        self._bound(now_ns)

    def finish(self, now_ns: int) -> None:
        """Note that the run is over: all that is left has ended, and all of it is kept."""
        self._over = True
        for source in list(self.processes):
            self.lost(source, now_ns)

    def exited(self, pid: int, exit_code: int) -> None:
        """See `Engine.exited`."""
        for process in self.processes.values():
            if process.hello.pid == pid:
                process.exit_code = exit_code
        ended = self.ended.of(pid)
        for life in ended:
            life.report = msgspec.structs.replace(life.report, exit_code=exit_code)
        if ended and ended[-1].silent and exit_code >= 0:
            self.health.notice(
                f"process {pid} ended without a word (by os._exit(), or what it had to say could not be sent in time): "
                "what it did last is missing"
            )

    def _bound(self, now_ns: int) -> None:
        """Fold ended pools, loops and processes where there are too many."""
        if self._over:
            return
        gone = self.ended.fold(self._warned)
        if gone:
            self.pool_rows.fold_processes(gone, now_ns)
            self.loop_rows.fold_processes(gone, now_ns)
        self.pool_rows.bound(ENDED_ROWS_KEPT, now_ns)
        self.loop_rows.bound(ENDED_LOOPS_KEPT, now_ns)
        if self._bytes_kept > ENDED_BYTES_KEPT:
            self._lighten()

    def _lighten(self) -> None:
        """Keep only the totals of the rows that matter least, where all rows take too much."""
        ended = sorted((row for row in self.pool_rows if not row.alive), key=lambda row: row.weight)
        self._bytes_kept = sum(row.bytes_kept for row in ended)
        if self._bytes_kept <= ENDED_BYTES_KEPT:
            return
        for row in ended:
            before = row.bytes_kept
            row.lighten()
            self._bytes_kept -= before - row.bytes_kept
            if self._bytes_kept <= ENDED_BYTES_KEPT // 2:
                return

    def _warned(self) -> set[int]:
        """Return the processes with a pool or loop that had a finding above info."""
        rows: Iterable[PoolRow | LoopRow] = (*self.pool_rows, *self.loop_rows)
        return {row.pid for row in rows if row.weight[1]}

    # -- pools and loops -----------------------------------------------------------------------------------

    def tell(self, row: PoolRow | LoopRow, event: Event) -> None:
        """Note that a finding of one of the row's pools or loops began or ended. Where workers of one service have
        pools of the same name, a line about one of them says which."""
        alike: Rows[Any] = self.loop_rows if isinstance(row, LoopRow) else self.pool_rows
        self._notifications.add(row, event, several=alike.of_other_processes(row.name, row.pid))

    def _source_of(self, process: WatchedProcess) -> SourceOf:
        return partial(self._sources.line, started_ns=process.hello.at_ns)

    def _turns_of(self, process: WatchedProcess, turn: Turn) -> Turns | None:
        """Return the lines of what a turn is of; None if nothing is to be said of it."""
        found: TurnFindings | None = None
        if turn.loop:
            row = process.loops.get(turn.loop)
            if row is not None and not criteria_for(self.settings, row.name, row.case.history.kind).ordered:
                found = row.turns
        elif turn.pool:
            case = process.pools.get(turn.pool)
            found = None if case is None or case.criteria.ordered else self._row_of(case).turns
        elif turn.gate in OWN_GATES:
            found = self.programs.get(process.hello.pid)
            if found is None and len(self.programs) < _PROGRAMS_KEPT:
                found = self.programs[process.hello.pid] = self._turn_findings(process)
        return None if found is None else found.turns

    def _turn_findings(self, process: WatchedProcess) -> TurnFindings:
        return TurnFindings(
            origin_ns=self.origin_ns,
            source_of=self._source_of(process),
            sustain_seconds=self.settings.detection.sustain_seconds,
        )

    def _open_pool(self, process: WatchedProcess, opened: PoolOpened) -> None:
        history = PoolHistory(
            opened,
            pid=process.hello.pid,
            keep_tasks=self.settings.keep_tasks,
            wait_bounds=self._wait_bounds,
            run_bounds=self._run_bounds,
        )
        case = PoolCase(
            history,
            criteria_for(self.settings, opened.name, opened.kind),
            builder=FindingBuilder(
                history,
                origin_ns=self.origin_ns,
                function_of=process.functions.get,
                source_of=self._source_of(process),
            ),
            advisor=SizingAdvisor(history, others_of=lambda: [other.history for other in process.pools.values()]),
            process_of=process.signals,
            full=process.full,
            in_loop=self._loops,
        )
        process.pools[opened.pool] = case
        key = _key(case)
        row = self.pool_rows.get(key)
        if row is None:
            row = PoolRow(history, self.settings.metrics.max_functions, self.pool_rows.since_ns(opened.at_ns))
            row.turns = self._turn_findings(process)
            self.pool_rows.add(key, row)
        row.add(case)
        self.pool_rows.revived(key)

    def _close_pool(self, case: PoolCase, at_ns: int) -> None:
        row = self._row_of(case)
        try:
            for event in case.finish(max(at_ns, case.history.last_batch_ns)):
                self.tell(row, event)
            row.remove(case, at_ns)
        except Exception as error:
            self.drop(case, at_ns, error)
        if not row.alive:
            self.pool_rows.ended(_key(case))
            self._bytes_kept += row.bytes_kept
            self._bound(at_ns)

    def _row_of(self, case: PoolCase) -> PoolRow:
        row = self.pool_rows.get(_key(case))
        assert row is not None, "a pool that lives has its row"
        return row

    def drop(self, case: PoolCase, now_ns: int, error: Exception) -> None:
        """Drop a pool that can no longer be judged: it keeps its counts."""
        history = case.history
        self.health.misjudged(history.name, error)
        for process in self.processes.values():
            if process.pools.get(history.opened.pool) is case:
                del process.pools[history.opened.pool]
                process.full.discard(history.opened.pool)
        row = self._row_of(case)
        try:
            row.remove(case, now_ns)
        except Exception:
            if case in row.cases:
                row.cases.remove(case)
        if not row.alive:
            self.pool_rows.ended(_key(case))

    def _take_loop(
        self, process: WatchedProcess, message: LoopOpened | LoopTick | LoopBlock | LoopLoad | LoopClosed
    ) -> None:
        if isinstance(message, LoopOpened):
            self._open_loop(process, message)
            return
        row = process.loops.get(message.loop)
        if row is None:
            return
        if isinstance(message, LoopTick):
            row.case.history.tick(message)
        elif isinstance(message, LoopBlock):
            row.case.history.block(judged(message))
        elif isinstance(message, LoopLoad):
            row.case.history.load(message)
        else:
            del process.loops[message.loop]
            self._close_loop(row, message.loop, message.at_ns)
            self._bound(message.at_ns)

    def _open_loop(self, process: WatchedProcess, opened: LoopOpened) -> None:
        key = (process.hello.pid, opened.name, opened.kind)
        row = self.loop_rows.get(key)
        if row is None:
            history = LoopHistory(opened.name, opened.kind, process.hello.pid, self._wait_bounds)
            case = LoopCase(
                history,
                origin_ns=self.origin_ns,
                source_of=self._source_of(process),
                sustain_seconds=self.settings.detection.sustain_seconds,
            )
            row = LoopRow(case, self.loop_rows.since_ns(opened.at_ns))
            row.turns = self._turn_findings(process)
            self.loop_rows.add(key, row)
        process.loops[opened.loop] = row
        row.case.history.opened(opened)
        self.loop_rows.revived(key)

    def _close_loop(self, row: LoopRow, loop: int, at_ns: int) -> None:
        row.case.history.closed(loop, at_ns)
        if not row.alive:
            self.loop_rows.ended((row.pid, row.name, row.case.history.kind))


def _key(case: PoolCase) -> Key:
    return case.history.pid, case.history.name, case.history.opened.kind

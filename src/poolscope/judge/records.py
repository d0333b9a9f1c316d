"""What comes in: the messages of the watched processes, into the histories of their pools and loops."""

from __future__ import annotations

import linecache
from collections.abc import Iterable, Sequence
from typing import Any

from poolscope.analysis.detection import Rules
from poolscope.analysis.findings import Event
from poolscope.analysis.history import PoolHistory
from poolscope.analysis.loop_case import LoopCase
from poolscope.analysis.loop_history import LoopHistory
from poolscope.analysis.pool_case import PoolCase
from poolscope.analysis.rows import LoopRow, PoolRow
from poolscope.config import Settings
from poolscope.errors import PoolscopeError
from poolscope.judge.news import News
from poolscope.judge.process import WatchedProcess
from poolscope.judge.troubles import Troubles
from poolscope.messages import (
    PROTOCOL,
    Bye,
    Fault,
    FunctionNamed,
    Hello,
    Incident,
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
    WaitSample,
    WorkersReady,
    parse,
)

#: Names whose pools have all ended are kept up to this many; then the half that matters least becomes one row, so that
#: a program that gives each pool a name of its own does not fill memory and Prometheus.
ENDED_ROWS_KEPT = 1_000
OTHER_POOLS = "other"


def rules_for(settings: Settings, pool: str) -> Rules:
    """What the pool of that name is judged by."""
    rule = settings.rule_for(pool)
    return Rules(
        thresholds=settings.detection_for(pool),
        ordered=rule is not None and bool(rule.ordered),
        long_running=rule is not None and bool(rule.long_running),
    )


def _source_of(file: str, line: int) -> str | None:
    return linecache.getline(file, line).strip() or None


class Records:
    """All watched processes, by the key of their connection, and the rows that their pools and loops are shown as.

    A pool that nothing can be made of any more counts as it was, and is told of as a trouble.
    """

    def __init__(self, settings: Settings, origin_ns: int, troubles: Troubles, news: News) -> None:
        self.settings = settings
        self.origin_ns = origin_ns
        self.troubles = troubles
        self.processes: dict[int, WatchedProcess] = {}
        self.pool_rows: dict[tuple[int, str], PoolRow] = {}
        self.loop_rows: dict[tuple[int, str, str], LoopRow] = {}
        self._news = news
        self._measure()

    def _measure(self) -> None:
        self._wait_bounds = [round(bound * 1e9) for bound in self.settings.metrics.wait_buckets]
        self._run_bounds = [round(bound * 1e9) for bound in self.settings.metrics.run_buckets]

    def configure(self, settings: Settings) -> None:
        """Other settings hold from now on, for what is there too."""
        before, self.settings = self.settings.metrics, settings
        self._measure()
        for row in self.pool_rows.values():
            row.resize(settings.metrics.max_functions)
            for case in row.cases:
                case.rules = rules_for(settings, row.name)
                case.history.keep_tasks = settings.keep_tasks
        if (before.wait_buckets, before.run_buckets) == (settings.metrics.wait_buckets, settings.metrics.run_buckets):
            return
        for row in self.pool_rows.values():
            row.rebound(self._wait_bounds, self._run_bounds)
        for loop_row in self.loop_rows.values():
            loop_row.case.history.lag.rebound(self._wait_bounds)

    # -- processes -----------------------------------------------------------------------------------------

    def take(self, source: int, raw: Sequence[Any]) -> None:
        """See `Judge.feed`."""
        message = parse(raw)
        process = self.processes.get(source)
        if process is not None:
            self._take(process, message)
        elif isinstance(message, Notice):  # of a process that cannot be watched
            self.troubles.notice(message.text)
        elif not isinstance(message, Hello):
            raise PoolscopeError(f"a watched process sent {type(message).__name__} before it said who it is")
        elif message.protocol != PROTOCOL:
            raise PoolscopeError(f"process {message.pid} speaks protocol {message.protocol}, this poolscope {PROTOCOL}")
        else:
            self.processes[source] = WatchedProcess(message)

    def _take(self, process: WatchedProcess, message: Message) -> None:
        match message:
            case PoolBatch():
                if (case := process.pools.get(message.pool)) is not None:
                    try:
                        case.history.fold(message)
                    except Exception as error:
                        self.drop(case, message.at_ns, error)
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
                process.ticked(message)
            case PoolOpened():
                self._open_pool(process, message)
            case PoolClosed():
                if (case := process.pools.pop(message.pool, None)) is not None:
                    self._close_pool(process, case, message.at_ns)
            case LoopOpened() | LoopTick() | LoopBlock() | LoopClosed():
                self._take_loop(process, message)
            case Notice():
                self.troubles.notice(message.text)
            case Incident():
                self.troubles.incident(message.text)
            case Fault():
                self.troubles.fault(message.part, message.text)
            case Bye():
                process.ended_ns = message.at_ns
            case Hello():
                raise PoolscopeError(f"process {process.hello.pid} said hello twice")

    def lost(self, source: int, now_ns: int) -> None:
        """See `Judge.lost`."""
        process = self.processes.get(source)
        if process is None:
            return
        if process.ended_ns is None:
            process.ended_ns = now_ns
            process.silent = True
        for case in list(process.pools.values()):
            self._close_pool(process, case, process.ended_ns)
        process.pools.clear()
        for loop, row in list(process.loops.items()):
            row.case.history.closed(loop, process.ended_ns)
        process.loops.clear()

    def exited(self, pid: int, exit_code: int) -> None:
        """See `Judge.exited`."""
        lives = [process for process in self.processes.values() if process.hello.pid == pid]
        for process in lives:
            process.exit_code = exit_code
        if lives and lives[-1].silent and exit_code >= 0:
            self.troubles.notice(f"process {pid} ended without a word, as by os._exit(): what it did last is missing")

    # -- pools and loops -----------------------------------------------------------------------------------

    def tell(self, row: PoolRow | LoopRow, event: Event) -> None:
        """A finding of one of the row's pools or loops began or ended. Where workers of one service have pools of the
        same name, a line about one of them says which."""
        alike: Iterable[PoolRow | LoopRow] = self.pool_rows.values()
        if isinstance(row, LoopRow):
            alike = self.loop_rows.values()
        several = any(other.name == row.name and other.pid != row.pid for other in alike)
        self._news.add(row, event, several=several)

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
            rules_for(self.settings, opened.name),
            origin_ns=self.origin_ns,
            process_of=process.signals,
            function_of=process.functions.get,
            source_of=_source_of,
            others_of=lambda: [other.history for other in process.pools.values()],
            full=process.full,
        )
        process.pools[opened.pool] = case
        key = (process.hello.pid, opened.name)
        row = self.pool_rows.get(key)
        if row is None:
            most = self.settings.metrics.max_functions
            row = self.pool_rows[key] = PoolRow(history, process.functions.get, most)
        row.add(case)

    def _close_pool(self, process: WatchedProcess, case: PoolCase, at_ns: int) -> None:
        row = self.pool_rows[process.hello.pid, case.history.name]
        try:
            for event in case.finish(max(at_ns, case.history.last_batch_ns)):
                self.tell(row, event)
            row.remove(case, at_ns)
        except Exception as error:
            self.drop(case, at_ns, error)
        if not row.cases and len(self.pool_rows) > ENDED_ROWS_KEPT:
            self._fold_rows()

    def drop(self, case: PoolCase, now_ns: int, error: Exception) -> None:
        """Nothing can be made of this pool any more: it counts as it was."""
        history = case.history
        self.troubles.misjudged(history.name, error)
        for process in self.processes.values():
            if process.pools.get(history.opened.pool) is case:
                del process.pools[history.opened.pool]
                process.full.discard(history.opened.pool)
        row = self.pool_rows[history.pid, history.name]
        try:
            row.remove(case, now_ns)
        except Exception:
            if case in row.cases:
                row.cases.remove(case)

    def _fold_rows(self) -> None:
        ended = [key for key, row in self.pool_rows.items() if not row.cases and key[1] != OTHER_POOLS]
        if len(ended) <= ENDED_ROWS_KEPT:
            return
        ended.sort(key=lambda key: self.pool_rows[key].weight)
        for key in ended[: (ENDED_ROWS_KEPT + 1) // 2]:
            row = self.pool_rows.pop(key)
            other = self.pool_rows.setdefault((key[0], OTHER_POOLS), row)
            if other is row:
                row.name = OTHER_POOLS
            else:
                other.absorb(row)

    def _take_loop(self, process: WatchedProcess, message: LoopOpened | LoopTick | LoopBlock | LoopClosed) -> None:
        if isinstance(message, LoopOpened):
            key = (process.hello.pid, message.name, message.kind)
            row = self.loop_rows.get(key)
            if row is None:
                history = LoopHistory(message.name, message.kind, process.hello.pid, self._wait_bounds)
                row = LoopRow(LoopCase(history, origin_ns=self.origin_ns, source_of=_source_of))
                self.loop_rows[key] = row
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

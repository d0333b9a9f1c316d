"""The judge: keeps what the watched processes tell, judges it as time goes on, and answers for it.

It belongs to the parent of `poolscope run`, or to the process itself. It reads no clock and starts no thread: its owner
passes the time in, and holds one lock around every call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakSet

from poolscope.analysis.findings import Event
from poolscope.analysis.loop_case import LoopCase
from poolscope.analysis.pool_case import PoolCase
from poolscope.analysis.rows import LoopRow, PoolRow
from poolscope.config import Settings
from poolscope.judge import readout
from poolscope.judge.news import Callback, News
from poolscope.judge.records import Records
from poolscope.judge.troubles import Troubles
from poolscope.model import Finding, Session, Snapshot

#: What happened this long ago has surely been sent, however late its batch: saturation is worked out up to there.
SETTLE_INTERVALS = 2


class Judge:
    """Keeps the histories of all watched processes and judges them.

    Not thread-safe: the owner's lock goes around every call but `deliver`, which calls the log and the subscribers and
    goes outside of it, so that those may ask for anything.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        started_ns: int,
        log: Callable[[str], None] | None = None,
        troubles: Troubles | None = None,
    ) -> None:
        """`started_ns` is what the report's times count from; `troubles` are those of a judge before this one."""
        self._troubles = troubles or Troubles()
        self._news = News(self._troubles, log)
        self._records = Records(settings, started_ns, self._troubles, self._news)
        #: What the judging of has failed; what those pools and loops do is counted all the same.
        self._unjudged: WeakSet[PoolCase | LoopRow] = WeakSet()

    def emptied(self) -> Judge:
        """One that knows nothing but what has failed."""
        return Judge(self._records.settings, started_ns=self._records.origin_ns, troubles=self._troubles)

    def configure(self, settings: Settings) -> None:
        """Judges by other settings from now on; histories stay."""
        self._records.configure(settings)

    # -- what comes in -------------------------------------------------------------------------------------

    def feed(self, source: int, raw: Sequence[Any]) -> None:
        """Takes one message of the process behind `source` (any key); its first must be `hello`, or a notice.

        Raises PoolscopeError for what is no message.
        """
        self._records.take(source, raw)

    def lost(self, source: int, now_ns: int) -> None:
        """The connection of a process ended: whatever it had is over."""
        self._records.lost(source, now_ns)

    def exited(self, pid: int, exit_code: int) -> None:
        """The exit code of a process is known (negative: the signal that ended it)."""
        self._records.exited(pid, exit_code)

    def watched_pids(self) -> set[int]:
        """The processes that have said hello, those that ended included."""
        return {process.hello.pid for process in self._records.processes.values()}

    def notice(self, text: str) -> None:
        """Something could not be seen or was switched off."""
        self._troubles.notice(text)

    def fault(self, part: str, text: str) -> None:
        """A part of poolscope has failed, which the log knows."""
        self._troubles.fault(part, text)

    def failed(self, part: str, text: str) -> None:
        """A part of poolscope has failed."""
        self._troubles.failed(part, text)

    # -- time goes on --------------------------------------------------------------------------------------

    def tick(self, now_ns: int) -> None:
        """Judges what is known by now. Call it about every `sample_interval`."""
        settled_ns = now_ns - int(SETTLE_INTERVALS * self._records.settings.sample_interval * 1e9)
        for row in self._records.pool_rows.values():
            awake = [case for case in row.cases if not case.resting]
            for case in awake:
                self._advance(row, case, now_ns, settled_ns)
            if awake:
                row.tick()
        for loop_row in self._records.loop_rows.values():
            self._judge_loop(loop_row, lambda case: case.judge(now_ns))

    def _advance(self, row: PoolRow, case: PoolCase, now_ns: int, settled_ns: int) -> None:
        try:
            case.settle(settled_ns)
        except Exception as error:
            self._records.drop(case, now_ns, error)
            return
        if case in self._unjudged:
            case.history.occupancy.stretches.closed.clear()  # which nobody looks at
            return
        try:
            for event in case.judge(now_ns):
                self._records.tell(row, event)
        except Exception as error:
            self._unjudged.add(case)
            self._troubles.misjudged(row.name, error)

    def _judge_loop(self, row: LoopRow, judge: Callable[[LoopCase], list[Event]]) -> None:
        if row in self._unjudged:
            return
        try:
            for event in judge(row.case):
                self._records.tell(row, event)
        except Exception as error:
            self._unjudged.add(row)
            self._troubles.misjudged(row.case.history.name, error)

    def finish(self, now_ns: int) -> None:
        """The run is over: ends every process, and judges for the last time."""
        for source in list(self._records.processes):
            self._records.lost(source, now_ns)
        for loop_row in self._records.loop_rows.values():
            self._judge_loop(loop_row, lambda case: case.finish(now_ns))

    def deliver(self) -> None:
        """Tells the log and the subscribers what began and ended. Call it after `tick`, outside the owner's lock."""
        self._news.deliver()

    def subscribe(self, callback: Callback) -> Callable[[], None]:
        """Calls `callback(finding, began)` for each finding that begins or ends; returns how to stop that."""
        return self._news.subscribe(callback)

    # -- what goes out -------------------------------------------------------------------------------------

    def findings(self, now_ns: int) -> tuple[Finding, ...]:
        """All findings so far, the most severe first."""
        return readout.findings(self._records, now_ns)

    def snapshot(self, now_ns: int, *, details: bool = False) -> Snapshot:
        """What a scrape shows; with `details` also all findings in full."""
        return readout.snapshot(self._records, now_ns, details=details)

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
        return readout.session(
            self._records,
            now_ns,
            command=command,
            started_at=started_at,
            exit_code=exit_code,
            own_cpu_seconds=own_cpu_seconds,
        )

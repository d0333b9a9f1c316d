"""The engine: keeps what the watched processes send, judges it as time goes on, and answers for it.

It belongs to the parent of `poolscope run`, or to the process itself. It reads no clock and starts no thread: its owner
passes the time in, and holds one lock around every call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakSet

from poolscope.config import Settings
from poolscope.engine import views
from poolscope.engine.finding_list import Event
from poolscope.engine.ingest import Ingest
from poolscope.engine.loop_case import LoopCase
from poolscope.engine.loop_row import LoopRow
from poolscope.engine.notifications import Callback, Notifications
from poolscope.engine.pool_case import PoolCase
from poolscope.engine.pool_row import PoolRow
from poolscope.engine.self_health import SelfHealth
from poolscope.model import Finding, Session
from poolscope.snapshot import Snapshot

#: All messages from this long ago have surely come, even in a late batch: saturation is computed up to there.
SETTLE_INTERVALS = 2


class Engine:
    """Keeps the histories of all watched processes and judges them.

    Not thread-safe: the owner holds its lock around every call except `deliver`. That one calls the log and the
    subscribers, which may call the engine again.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        started_ns: int,
        log: Callable[[str], None] | None = None,
        health: SelfHealth | None = None,
    ) -> None:
        """`started_ns` is the origin of the report's times; `health` that of the engine before this one, if any."""
        self._health = health or SelfHealth()
        self._notifications = Notifications(self._health, log)
        self._ingest = Ingest(settings, started_ns, self._health, self._notifications)
        #: Pools and loops that could not be judged; they are still counted.
        self._unjudged: WeakSet[PoolCase | LoopRow] = WeakSet()

    def emptied(self) -> Engine:
        """Return an empty engine that only keeps the failures."""
        return Engine(self._ingest.settings, started_ns=self._ingest.origin_ns, health=self._health)

    def configure(self, settings: Settings) -> None:
        """Use other settings from now on; the histories stay."""
        self._ingest.configure(settings)

    # -- what comes in -------------------------------------------------------------------------------------

    def feed(self, source: int, raw: Sequence[Any]) -> None:
        """Take one message of the process behind `source` (any key); its first must be `hello`, or a notice.

        Raises PoolscopeError for another first message. A later one that does not fit is left out, counted, and
        reported once in the notices.
        """
        self._ingest.take(source, raw)

    def lost(self, source: int, now_ns: int) -> None:
        """Note that the connection of a process ended, and with it all its pools and loops."""
        self._ingest.lost(source, now_ns)

    def exited(self, pid: int, exit_code: int) -> None:
        """Note that the exit code of a process is known (negative: the signal that ended it)."""
        self._ingest.exited(pid, exit_code)

    def watched_pids(self) -> set[int]:
        """Return the pids of the processes that have said hello; of the ended ones, only the latest."""
        return {process.hello.pid for process in self._ingest.processes.values()} | self._ingest.ended.pids()

    def notice(self, text: str) -> None:
        """Note that something could not be seen or was switched off."""
        self._health.notice(text)

    def unwatched(self, process: str, reason: str) -> None:
        """Note that a process is not watched: "12 (python app.py)", and why."""
        self._health.unwatched(process, reason)

    def fault(self, part: str, text: str) -> None:
        """Note that a part of poolscope has failed, which is logged already."""
        self._health.fault(part, text)

    def failed(self, part: str, text: str) -> None:
        """Note that a part of poolscope has failed."""
        self._health.failed(part, text)

    # -- time goes on --------------------------------------------------------------------------------------

    def tick(self, now_ns: int) -> None:
        """Judge what is known at this time. Call it about every `sample_interval`."""
        settled_ns = now_ns - int(SETTLE_INTERVALS * self._ingest.settings.sample_interval * 1e9)
        for row in self._ingest.pool_rows.living():
            awake = [case for case in row.cases if not case.resting]
            for case in awake:
                self._advance(row, case, now_ns, settled_ns)
            if awake:
                row.tick()
        for loop_row in self._ingest.loop_rows:
            self._judge_loop(loop_row, lambda case: case.judge(now_ns))

    def _advance(self, row: PoolRow, case: PoolCase, now_ns: int, settled_ns: int) -> None:
        try:
            case.settle(settled_ns)
        except Exception as error:
            self._ingest.drop(case, now_ns, error)
            return
        if case in self._unjudged:
            case.history.occupancy.stretches.closed.clear()  # which are not looked at
            return
        try:
            for event in case.judge(now_ns):
                self._ingest.tell(row, event)
        except Exception as error:
            self._unjudged.add(case)
            self._health.misjudged(row.name, error)

    def _judge_loop(self, row: LoopRow, judge: Callable[[LoopCase], list[Event]]) -> None:
        if row in self._unjudged:
            return
        try:
            for event in judge(row.case):
                self._ingest.tell(row, event)
        except Exception as error:
            self._unjudged.add(row)
            self._health.misjudged(row.case.history.name, error)

    def finish(self, now_ns: int) -> None:
        """Note that the run is over: end every process, and judge for the last time."""
        self._ingest.finish(now_ns)
        for loop_row in self._ingest.loop_rows:
            self._judge_loop(loop_row, lambda case: case.finish(now_ns))

    def deliver(self) -> None:
        """Log what began and ended, and call the subscribers. Call it after `tick`, outside the owner's lock."""
        self._notifications.deliver()

    def subscribe(self, callback: Callback) -> Callable[[], None]:
        """Call `callback(finding, began)` for each finding that begins or ends; return how to stop that."""
        return self._notifications.subscribe(callback)

    # -- what goes out -------------------------------------------------------------------------------------

    def findings(self, now_ns: int) -> tuple[Finding, ...]:
        """Return the findings so far, the most severe first; at most `views.FINDINGS_TOLD`."""
        return views.findings(self._ingest, now_ns)

    def snapshot(self, now_ns: int, *, details: bool = False) -> Snapshot:
        """Return what a scrape shows; with `details` also all findings in full."""
        return views.snapshot(self._ingest, now_ns, details=details)

    def session(
        self,
        now_ns: int,
        *,
        command: Sequence[str],
        started_at: str,
        exit_code: int | None,
        own_cpu_seconds: float = 0.0,
    ) -> Session:
        """Return the report as of now, and what it was made from. Call `finish` first if the run is over."""
        return views.session(
            self._ingest,
            now_ns,
            command=command,
            started_at=started_at,
            exit_code=exit_code,
            own_cpu_seconds=own_cpu_seconds,
        )

"""Findings that begin and end, on their way to the log and the subscribers."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from poolscope.engine.finding_list import Event
from poolscope.engine.loop_row import LoopRow
from poolscope.engine.pool_row import PoolRow
from poolscope.engine.self_health import SelfHealth
from poolscope.engine.stories import Stories, Whose
from poolscope.model import Finding

#: Called with a finding, and whether it began (True) or ended.
Callback = Callable[[Finding, bool], None]


class Notifications:
    """Events that were not reported yet.

    `deliver` may run in any thread. Call it without the lock that is held around the rest: it calls the program's
    code, which may call us.
    """

    def __init__(self, health: SelfHealth, log: Callable[[str], None] | None) -> None:
        self._health = health
        self._log = log
        self._callbacks: list[Callback] = []
        self._stories = Stories()
        self._untold: deque[tuple[str | None, Finding, bool]] = deque(maxlen=1000)

    def add(self, row: PoolRow | LoopRow, event: Event, *, several: bool) -> None:
        """Note that a finding of the row began or ended; `several` processes have a pool or loop of that name."""
        finding, began = event
        if began:
            row.tally.began(finding)
        whose = Whose("pool" if isinstance(row, PoolRow) else "loop", row.name, row.pid, several)
        line = self._stories.began(whose, finding) if began else self._stories.ended(whose, finding)
        self._untold.append((line, finding, began))

    def deliver(self) -> None:
        """Call the subscribers for each event; log one line for each story, and incidents."""
        while self._health.untold:
            self._say(self._health.untold.popleft())
        while self._untold:
            try:
                line, finding, began = self._untold.popleft()
            except IndexError:  # another thread reported it
                return
            if line is not None:
                self._say(line)
            for callback in list(self._callbacks):
                try:
                    callback(finding, began)
                except Exception as error:  # the user's callback must not stop the engine
                    self._callbacks.remove(callback)
                    self._health.fault("on_finding", f"it raised {error!r}")

    def _say(self, line: str) -> None:
        if self._log is not None:
            try:
                self._log(line)
            except Exception as error:  # a log handler of the program's
                self._log = None
                self._health.fault("log", f"a log handler raised {error!r}")

    def subscribe(self, callback: Callback) -> Callable[[], None]:
        """Call `callback` for each finding that begins or ends; return how to stop that."""
        self._callbacks.append(callback)

        def unsubscribe() -> None:
            if callback in self._callbacks:
                self._callbacks.remove(callback)

        return unsubscribe

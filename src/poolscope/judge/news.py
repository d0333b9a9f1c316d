"""Findings that begin and end, on their way to the log and the subscribers."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from poolscope.analysis.findings import Event
from poolscope.analysis.rows import LoopRow, PoolRow
from poolscope.judge.troubles import Troubles
from poolscope.model import Finding

#: Called with a finding, and whether it began (True) or ended.
Callback = Callable[[Finding, bool], None]


class News:
    """What has happened and nobody was told.

    `deliver` may run in any thread without the lock that is held around the rest: it calls the program's code, which
    may ask for anything.
    """

    def __init__(self, troubles: Troubles, log: Callable[[str], None] | None) -> None:
        self._troubles = troubles
        self._log = log
        self._callbacks: list[Callback] = []
        self._untold: deque[tuple[str, Finding, bool]] = deque(maxlen=1000)

    def add(self, row: PoolRow | LoopRow, event: Event, *, several: bool) -> None:
        """A finding of one of the row's pools or loops began or ended; `several` processes have one of that name."""
        finding, began = event
        if began:
            row.tally.began(finding)
        kind = "pool" if isinstance(row, PoolRow) else "loop"
        process = f" of process {row.pid}" if several else ""
        self._untold.append((f"{kind} {row.name!r}{process}", finding, began))

    def deliver(self) -> None:
        """Tells the log and the subscribers all of it, and the log what else cannot wait for the report."""
        while self._troubles.untold:
            self._say(self._troubles.untold.popleft())
        while self._untold:
            try:
                whose, finding, began = self._untold.popleft()
            except IndexError:  # another thread told it
                return
            word = finding.severity if began else "over"
            self._say(f"{word}: {whose}: {finding.pattern} ({finding.cause}): {finding.summary}")
            for callback in list(self._callbacks):
                try:
                    callback(finding, began)
                except Exception as error:  # the user's callback must not stop the judge
                    self._callbacks.remove(callback)
                    self._troubles.fault("on_finding", f"it raised {error!r}")

    def _say(self, line: str) -> None:
        if self._log is not None:
            try:
                self._log(line)
            except Exception as error:  # a log handler of the program's
                self._log = None
                self._troubles.fault("log", f"a log handler raised {error!r}")

    def subscribe(self, callback: Callback) -> Callable[[], None]:
        """Calls `callback` for each finding that begins or ends; returns how to stop that."""
        self._callbacks.append(callback)

        def unsubscribe() -> None:
            if callback in self._callbacks:
                self._callbacks.remove(callback)

        return unsubscribe

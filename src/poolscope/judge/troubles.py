"""What could not be seen, and which part of poolscope has failed: notices for a report, counts for a scrape."""

from __future__ import annotations

from collections import deque

#: The most texts that are kept.
_NOTICES_KEPT = 100

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


class Troubles:
    """Kept for as long as the process is judged, by however many judges."""

    def __init__(self) -> None:
        #: An ordered set.
        self.notices: dict[str, None] = {}
        #: Failures by part.
        self.errors: dict[str, int] = {}
        #: Lines that the log has yet to hear.
        self.untold: deque[str] = deque(maxlen=100)

    def notice(self, text: str) -> None:
        """Something that could not be seen or was switched off; each text is kept once, and a hundred of them."""
        if len(self.notices) < _NOTICES_KEPT:
            self.notices[text] = None

    def incident(self, text: str) -> None:
        """A notice that does not wait for the report: something has happened to the program."""
        if text not in self.notices:
            self.untold.append(f"warning: {text}")
            self.notice(text)

    def fault(self, part: str, text: str) -> None:
        """A part of poolscope has failed: counts it, and notes what is missing."""
        self.errors[part] = self.errors.get(part, 0) + 1
        self.notice(f"{_MISSING.get(part, f'{part} was switched off')}: {text}")

    def failed(self, part: str, text: str) -> None:
        """The same, and the log hears of it the first time."""
        if part not in self.errors:
            self.untold.append(f"failure of poolscope in part {part}: {text}")
        self.fault(part, text)

    def misjudged(self, name: str, error: Exception) -> None:
        """The judging of one pool or loop has failed."""
        self.failed("judge", f"{name!r}: {type(error).__name__}: {error}")

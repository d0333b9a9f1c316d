"""What the probe reports about itself: what it could not see, and where it has failed. Each thing once."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

#: The most failures to keep until they are fetched.
_FAULTS_KEPT = 1000


class SelfReport:
    """Any thread may call any method. None raises because of a failure of ours."""

    def __init__(self, emit: Callable[[tuple[Any, ...]], object], waiting: Callable[[], int]) -> None:
        """`emit` queues a message, of which `waiting()` have not been fetched."""
        self._emit = emit
        self._waiting = waiting
        #: Whether a parent judges this process: then nothing is logged here.
        self.supervised = False
        self.forget()

    def forget(self) -> None:
        """In a forked child: forget what its parent process has reported."""
        self._failed_parts: set[str] = set()
        self._told: set[str] = set()

    def notice(self, text: str) -> None:
        """Report once what could not be seen, or was switched off."""
        if text not in self._told:
            self._told.add(text)
            self._emit(("notice", text))

    def warn(self, text: str) -> None:
        """Do the same, and log it, unless a parent does."""
        if text not in self._told:
            self.notice(text)
            if not self.supervised:
                import logging

                logging.getLogger("poolscope").warning("%s", text)

    def incident(self, text: str) -> None:
        """Report once what has happened to the program, at once: in the log, or through the parent."""
        if not self.supervised:
            self.warn(text)
        elif text not in self._told:
            self._told.add(text)
            self._emit(("incident", text))

    def fail(self, part: str, exc: BaseException) -> None:
        """Report a failure of ours. The first in each `part` is logged here, unless there is a parent."""
        text = _described(exc)
        if self._waiting() < _FAULTS_KEPT:
            self._emit(("fault", part, text))
        if part in self._failed_parts or self.supervised:
            return
        self._failed_parts.add(part)
        try:
            import logging

            logging.getLogger("poolscope").error("failure of poolscope in part %s: %s", part, text)
        except Exception as failure:
            # A log handler of the program's: no task's business.
            self._failed_parts.add("log")
            self.fail("log", failure)


def _described(exc: BaseException) -> str:
    """One line: what was raised, and where."""
    try:
        text = f"{type(exc).__name__}: {exc}".replace("\n", " ")[:500]
    except Exception:
        text = type(exc).__name__
    step = exc.__traceback__
    while step is not None and step.tb_next is not None:
        step = step.tb_next
    if step is None:
        return text
    return f"{text} ({os.path.basename(step.tb_frame.f_code.co_filename)}:{step.tb_lineno})"

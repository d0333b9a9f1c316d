"""Lines on standard error, which is the program's too. A failure to print raises nothing."""

from __future__ import annotations

import sys
import threading
import time
from typing import TYPE_CHECKING

from poolscope import plain

if TYPE_CHECKING:
    from collections.abc import Callable
    from queue import SimpleQueue

#: Lines that may wait to be printed.
MOST_WAITING = 1_000


def say(line: str) -> None:
    """Print one line of ours, whatever is in it."""
    _print(plain.one_line(line))


def say_failure(line: str, details: str) -> None:
    """Print a line and, indented below it, the lines of a traceback."""
    _print(plain.lines(f"{line}\n{details}"))


def _print(text: str) -> None:
    if sys.stderr is None:
        return  # it was closed when we started; `print` would take standard output, which is the program's
    try:
        print(f"poolscope: {text}", file=sys.stderr, flush=True)
    except (OSError, ValueError):
        pass  # it is not read


def _time_of_day() -> str:
    return time.strftime("%H:%M:%S")


class Printer:
    """Writes lines to standard error from a thread of its own: the thread that gives it a line holds the engine's lock.

    At most `MOST_WAITING` lines wait, if the program's terminal is stopped or its pipe is full; further lines are left
    out, and counted. Each line begins with the time of day, which `now` gives.
    """

    def __init__(self, write: Callable[[str], None] = say, now: Callable[[], str] = _time_of_day) -> None:
        from queue import SimpleQueue

        self._write = write
        self._now = now
        self._left_out = 0
        self._saying = threading.Lock()
        self._lines: SimpleQueue[str | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="poolscope-printer", daemon=True)
        self._thread.start()

    def say(self, line: str) -> None:
        """Print the line, soon."""
        with self._saying:
            self._say(line)

    def _say(self, line: str) -> None:
        if self._lines.qsize() >= MOST_WAITING:
            self._left_out += 1
            return
        left_out, self._left_out = self._left_out, 0
        if left_out:
            lines = "1 line was" if left_out == 1 else f"{left_out} lines were"
            self._lines.put(f"{self._now()} {lines} left out here: standard error did not take them")
        self._lines.put(f"{self._now()} {line}")

    def close(self) -> None:
        """Print what is left, for a second at most, in case it is not read."""
        self._lines.put(None)
        self._thread.join(1.0)

    def _run(self) -> None:
        while (line := self._lines.get()) is not None:
            self._write(line)

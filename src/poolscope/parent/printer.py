"""Lines on standard error, which is the program's too: whatever becomes of them, nothing is raised."""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from queue import SimpleQueue


def say(line: str) -> None:
    """Prints one line of ours."""
    if sys.stderr is None:
        return  # it was closed when we started; `print` would take standard output, which is the program's
    try:
        print(f"poolscope: {line}", file=sys.stderr, flush=True)
    except (OSError, ValueError):
        pass  # nobody reads it


class Printer:
    """Writes lines to standard error from a thread of its own: whoever says one holds the judge's lock."""

    def __init__(self) -> None:
        from queue import SimpleQueue

        self._lines: SimpleQueue[str | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="poolscope-printer", daemon=True)
        self._thread.start()

    def say(self, line: str) -> None:
        """Print the line, soon."""
        self._lines.put(line)

    def close(self) -> None:
        """Print what is left; not for longer than a second, should nobody read it."""
        self._lines.put(None)
        self._thread.join(1.0)

    def _run(self) -> None:
        while (line := self._lines.get()) is not None:
            say(line)

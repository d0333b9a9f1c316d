"""Which line keeps the other threads busy: the CPU time that each used, and where it is now."""

from __future__ import annotations

import sys
from _thread import get_ident

from poolscope.probe.interpreter.cpu import thread_cpu_ns
from poolscope.probe.interpreter.shapes import Unfamiliar, thread_table
from poolscope.probe.interpreter.stacks import is_user_file, user_lines

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from typing import Any

    Lines = tuple[tuple[str, int, str], ...]

#: The most threads whose clocks are read at once; only these can be named.
_THREADS_LIMIT = 64
#: Less CPU time (ns) than this since the last reading does not count as computing.
_WORTH_NS = 1_000_000


class BusyThreads:
    """The CPU clocks of this process's threads between two readings. One caller at a time."""

    def __init__(self, clock_of: Callable[[int], int | None] = thread_cpu_ns) -> None:
        self._clock_of = clock_of
        self._used: dict[int, int] = {}
        self._complete = False

    def read(self, frames: dict[int, FrameType] | None) -> list[tuple[int, Lines, int]]:
        """Return (ident, lines, CPU ns since the last reading) of the other threads that computed meanwhile.

        Without frames, only reads. The first reading has nothing to compare with.
        """
        threads, ours = _threads(), get_ident()
        complete = len(threads) <= _THREADS_LIMIT
        used: dict[int, int] = {}
        busy: list[tuple[int, Lines, int]] = []
        for ident, native_id in threads[:_THREADS_LIMIT]:
            now = self._clock_of(native_id)
            if now is None:
                continue
            used[native_id] = now
            if frames is None or ident == ours:
                continue
            before = self._used.get(native_id)
            if before is None and self._complete:
                before = 0  # it has started since
            if before is not None and now - before >= _WORTH_NS:
                lines = tuple(user_lines(frames.get(ident)))
                # A pool's worker that has left the task meanwhile is at no line of the program.
                if lines and is_user_file(lines[0][0]):
                    busy.append((ident, lines, now - before))
        self._used = used
        # Only if the last reading had all threads is one that it lacks known to be new.
        self._complete = complete
        return busy

    def forget(self) -> None:
        """Begin anew."""
        self._used = {}
        self._complete = False


def known_threads() -> dict[int, Any]:
    """Return the threads that `threading` knows, by their identifiers; none if it is not imported, or unfamiliar."""
    threading = sys.modules.get("threading")
    try:
        return {} if threading is None else thread_table(threading)
    except Unfamiliar:
        return {}


def _threads() -> list[tuple[int, int]]:
    """(ident, id of the system) of the threads that `threading` knows; ours is not among them."""
    # list() of a dict's items is one step: threads come and go meanwhile.
    known = list(known_threads().items())
    return [(ident, thread.native_id) for ident, thread in known if thread.native_id is not None]

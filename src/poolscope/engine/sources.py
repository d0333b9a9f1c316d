"""The source lines that findings name, read as they are needed, in a bounded number."""

from __future__ import annotations

import linecache
import os
import stat
import time

#: Lines that are remembered, the largest file that is read for one, and the most characters of one.
_LINES_KEPT = 1_000
_MOST_BYTES = 16 << 20
_LONGEST = 1_000


class Sources:
    """Lines of source code by file and number. Not thread-safe: the engine's owner guards it.

    A file is what the program says it is: the name may be that of a device or a pipe (`python /dev/stdin`), which must
    not be read, and a program may run a hundred thousand files. What cannot be read, or is no longer what the program
    has read, has no line: a wrong one is worse than none.
    """

    def __init__(self) -> None:
        self._lines: dict[tuple[str, int, int | None], str | None] = {}
        # Difference between a time since 1970 and one of `perf_counter_ns`.
        self._epoch_ns = time.time_ns() - time.perf_counter_ns()

    def line(self, file: str, number: int, started_ns: int | None = None) -> str | None:
        """Return the text of a line without the blanks around it; None if it cannot be read, or if the file has been
        changed since the process started (`perf_counter_ns`) that runs it."""
        key = (file, number, started_ns)
        if key not in self._lines:
            if len(self._lines) >= _LINES_KEPT:
                del self._lines[next(iter(self._lines))]
            changed = started_ns is not None and _changed_since(file, self._epoch_ns + started_ns)
            self._lines[key] = None if changed else _read(file, number)
        return self._lines[key]


def _changed_since(file: str, at_ns: int) -> bool:
    try:
        # By the system's change time, not the file's own date: copying or unpacking may set any date.
        return os.stat(file).st_ctime_ns > at_ns
    except (OSError, ValueError):
        return False  # the file does not exist


def _read(file: str, number: int) -> str | None:
    known = file in linecache.cache  # such as the cells of a notebook
    if not known and not _is_readable(file):
        return None
    try:
        line = linecache.getline(file, number).strip()
    except (OSError, ValueError, SyntaxError, MemoryError):
        return None
    finally:
        if not known:
            linecache.cache.pop(file, None)
    return line[:_LONGEST] or None


def _is_readable(file: str) -> bool:
    try:
        status = os.stat(file)
    except (OSError, ValueError):
        return False
    return stat.S_ISREG(status.st_mode) and status.st_size <= _MOST_BYTES

"""What the source says of a line at which threads and tasks wait, read as it is needed, in a bounded number.

Of a file that is missing, that changed since we started, that is huge, not UTF-8 or does not parse, nothing is said.
"""

from __future__ import annotations

import re
import time

from poolscope.engine.source_loops import MOST_LINES, function_around, source_lines
from poolscope.messages import Line
from poolscope.signals.in_turn import InRow, InTurn, Told, read

#: Lines that are remembered.
_LINES_KEPT = 1_000
_IMPORT = re.compile(r"^\s*import\s+(.+)")


class SourceTurns:
    """Knows by file, line and what is waited for whether turns of a loop could go on at once. Not thread-safe: the
    engine's owner guards it."""

    def __init__(self) -> None:
        self._began = time.time()
        self._lines: dict[tuple[str, int, str], InTurn | InRow | Told] = {}

    def __call__(self, line: Line, gate: str) -> InTurn | InRow | Told:
        """Return what is read of a line."""
        file, number, _ = line
        key = (file, number, gate)
        if key not in self._lines:
            if len(self._lines) >= _LINES_KEPT:
                del self._lines[next(iter(self._lines))]
            self._lines[key] = self._read(file, number, gate)
        return self._lines[key]

    def _read(self, file: str, number: int, gate: str) -> InTurn | InRow | Told:
        try:
            lines = source_lines(file, self._began)
            first, text = function_around(lines, number)
            if not text:
                first, text = statement_around(lines, number)
            found = read(text, number - first + 1, gate, imported=_imported(lines)) if text else Told.NOTHING
        except (OSError, ValueError, SyntaxError, RecursionError, MemoryError):
            return Told.NOTHING
        if isinstance(found, InRow):
            return InRow(found.first + first - 1, found.last + first - 1, found.calls)
        return found


def statement_around(lines: list[str], number: int) -> tuple[int, str]:
    """Return the number of the first line of the statement of a module around a line, and its text; (1, "") if it is in
    a function, or longer than is read."""
    if not 0 < number <= len(lines):
        return 1, ""
    first = number - 1
    while first > 0 and (not lines[first].strip() or lines[first][0] in " \t)]}#"):
        first -= 1
    if lines[first].startswith(("def ", "async def ", "class ", "@")):
        return 1, ""
    end = max(first + 1, number)
    while end < len(lines) and (not lines[end].strip() or lines[end][0] in " \t)]}#" or _goes_on(lines[end])):
        end += 1
    return (first + 1, "\n".join(lines[first:end])) if end - first <= MOST_LINES else (1, "")


def _goes_on(line: str) -> bool:
    """Whether a line without indentation is a part of the statement before it."""
    return line.startswith(("else:", "elif ", "except", "finally:"))


def _imported(lines: list[str]) -> frozenset[str]:
    """Return the names of modules that a module imports."""
    names: set[str] = set()
    for line in lines:
        if (found := _IMPORT.match(line)) is not None:
            for each in found[1].split(","):
                words = each.split()
                if words:
                    names.add(words[-1] if "as" in words else words[0].partition(".")[0])
    return frozenset(names)

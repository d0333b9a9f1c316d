"""Words and numbers for people: units, widths, and user text made harmless.

Whatever comes from the watched program (pool names, source lines, file names) may hold anything.
`Medium.clean` is its only way to the terminal.
"""

from __future__ import annotations

import itertools
import math
import os
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple, TextIO

Style = Literal["", "bold", "dim", "good", "warning", "critical", "code", "chart"]

#: Seconds that no program has lasted: such numbers only come from a made-up session.
_FOREVER = 1e10

#: A piece of a line: harmless text without line breaks, and how it is shown.
Span = tuple[str, Style]
Line = tuple[Span, ...]

NOTHING: Line = ()


class Glyphs(NamedTuple):
    """The characters beyond letters; `blocks` are the eight levels of a chart."""

    blocks: str
    knee: str
    rule: str
    tick: str
    dot: str
    none: str
    cut: str
    times: str
    here: str


UNICODE = Glyphs("▁▂▃▄▅▆▇█", "▲", "─", "┴", " · ", "—", "…", "\N{MULTIPLICATION SIGN}", "◀")
ASCII = Glyphs(".:-=+*#@", "^", "-", "+", " | ", "-", "..", "x", "<-")


class Medium:
    """What the lines are made for: a width in columns, an encoding, and where relative paths start.

    `encoding` None stands for any character (a file object in memory).
    """

    def __init__(self, *, width: int, encoding: str | None, cwd: str) -> None:
        self.width = width
        self.cwd = cwd
        self.encoding = encoding
        self.glyphs = UNICODE if _encodes("".join(UNICODE), encoding) else ASCII

    def clean(self, text: str, most: int = 500) -> str:
        """The text in one line of at most `most` columns, without what a terminal obeys or cannot show."""
        if len(text) > 8 * most:  # before the work, not after: a name may have megabytes
            text = text[: 4 * most] + text[-4 * most :]
        shown = "".join(char if char.isprintable() else _escaped(char) for char in text)
        if self.encoding is not None and not _encodes(shown, self.encoding):
            encoding = self.encoding if _encodes("", self.encoding) else "ascii"
            shown = shown.encode(encoding, "backslashreplace").decode(encoding)
        return self.cut(shown, most)

    def name(self, text: str, most: int = 80) -> str:
        """A clean name; a name of nothing is said to be one."""
        return self.clean(text, most) or "(no name)"

    def cut(self, text: str, columns: int) -> str:
        """At most `columns` columns of a clean text: of a longer one the start and the end."""
        if cells(text) <= columns and len(text) <= 4 * columns:
            return text
        mark = self.glyphs.cut
        room = columns - cells(mark)
        if room < 2:
            return mark[: max(0, columns)]
        tail = _fitting(reversed(text), room // 2)[::-1]
        return _fitting(text, room - room // 2) + mark + tail

    def path(self, file: str, columns: int) -> str:
        """A file: relative to the working directory if below it, a library's without the way to it."""
        for library in ("/site-packages/", "/dist-packages/"):
            if library in file:
                return self.clean(file.rpartition(library)[2], columns)
        root = self.cwd.rstrip(os.sep) + os.sep
        if len(root) > 1 and file.startswith(root) and len(file) > len(root):
            file = file[len(root) :]
        return self.clean(file, columns)

    def seconds(self, value: float | None) -> str:
        """A duration in the unit that suits it, three digits."""
        if value is None or not math.isfinite(value):
            return self.glyphs.none
        if value < 0:
            return "-" + self.seconds(-value)
        if value >= _FOREVER:
            return f"{value:.2g} s"
        if value < 0.5e-6:
            return "0 s"
        if value < 0.9995:
            return f"{_digits(value * 1e3)} ms"
        if value < 119.5:
            return f"{_digits(value)} s"
        whole = round(value)
        if whole < 2 * 3600:
            return f"{whole // 60} min {whole % 60} s"
        return f"{whole // 3600:,} h {whole % 3600 // 60} min"

    def moment(self, value: float | None) -> str:
        """A time since the start of the program; always in seconds, as on the axis of a chart."""
        if value is None or not math.isfinite(value):
            return self.glyphs.none
        return f"{value:,.1f} s" if abs(value) < _FOREVER else f"{value:.2g} s"

    def number(self, value: float) -> str:
        """A count or a ratio."""
        if not math.isfinite(value):
            return self.glyphs.none
        if abs(value) >= 1e12:
            return f"{value:.3g}"
        if abs(value) >= 100 or value == int(value):
            return f"{round(value):,}"
        return f"-{_digits(-value)}" if value < 0 else _digits(value)

    def percent(self, share: float | None) -> str:
        """A share of 0 to 1 as a percentage."""
        if share is None or not math.isfinite(share):
            return self.glyphs.none
        percentage = share * 100
        if percentage <= 0:
            return "0 %"
        if percentage < 0.1:
            return "< 0.1 %"
        if percentage >= 1e6:
            return f"{percentage:.2g} %"
        digits = 1 if percentage < 9.95 and percentage != round(percentage) else 0
        return f"{percentage:.{digits}f} %"

    def wrap(self, text: str, columns: int) -> list[str]:
        """A clean text as one or more lines of at most `columns`, broken at blanks where there are any."""
        lines: list[str] = []
        line = ""
        for word in text.split(" "):
            while cells(word) > columns:  # one word longer than a line: a name without blanks
                if line:
                    lines.append(line)
                    line = ""
                head = _fitting(word, columns) or word[:1]
                lines.append(head)
                word = word[len(head) :]
            joined = f"{line} {word}" if line else word
            if cells(joined) <= columns:
                line = joined
            else:
                lines.append(line)
                line = word
        if line or not lines:
            lines.append(line)
        return lines

    def flow(self, items: Sequence[Line], columns: int) -> list[Line]:
        """Items with dots between, in lines of at most `columns`; an item is never broken."""
        dot: Span = (self.glyphs.dot, "dim")
        lines: list[Line] = []
        line: Line = ()
        for item in items:
            joined = (*line, dot, *item) if line else item
            if line and line_cells(joined) > columns:
                lines.append(line)
                line = item
            else:
                line = joined
        if line:
            lines.append(line)
        return lines


def medium(file: TextIO, *, width: int, cwd: str) -> Medium:
    """What `file` can show."""
    return Medium(width=width, encoding=getattr(file, "encoding", None), cwd=cwd)


def cells(text: str) -> int:
    """How many columns of a terminal the text takes."""
    if text.isascii():
        return len(text)
    return sum(_cells(char) for char in text)


def line_cells(line: Line) -> int:
    """How many columns of a terminal the line takes."""
    return sum(cells(text) for text, _ in line)


def plain(line: Line) -> str:
    """The line without its styles."""
    return "".join(text for text, _ in line).rstrip()


def count(number: int, noun: str) -> str:
    """`1 pool`, `2 pools`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def more(number: int, noun: str, *, indent: int = 0) -> list[Line]:
    """The line that tells of so many more than are shown, if there are."""
    return [((f"{' ' * indent}and {count(number, f'more {noun}')}", "dim"),)] if number > 0 else []


def _cells(char: str) -> int:
    if unicodedata.east_asian_width(char) in "WF":
        return 2
    return 0 if unicodedata.category(char) in ("Mn", "Me") else 1


def _fitting(text: Iterable[str], columns: int) -> str:
    """The first characters that take at most `columns`; those that take none are bounded too."""
    taken: list[str] = []
    left = columns
    for char in itertools.islice(text, max(0, 4 * columns)):
        left -= _cells(char)
        if left < 0:
            break
        taken.append(char)
    return "".join(taken)


def _digits(value: float) -> str:
    """Three digits of a positive number."""
    if value >= 99.95:
        return f"{value:,.0f}"
    if value >= 9.995:
        return f"{value:.1f}"
    if value >= 0.9995:
        return f"{value:.2f}"
    return f"{value:.2g}" if value >= 0.0005 else "0"


def _encodes(text: str, encoding: str | None) -> bool:
    try:
        text.encode(encoding or "utf-8")
    except (UnicodeError, LookupError):
        return False
    return True


def _escaped(char: str) -> str:
    return " " if char == "\t" else repr(char)[1:-1]

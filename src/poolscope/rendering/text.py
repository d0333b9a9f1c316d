"""Words and numbers for people: units, widths, and user text made harmless.

Whatever comes from the watched program (pool names, source lines, file names) may hold anything.
`Medium.clean` is its only way to the terminal.
"""

from __future__ import annotations

import itertools
import math
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta, tzinfo
from typing import Literal, NamedTuple, TextIO

from poolscope.model import Report
from poolscope.plain import escaped, fitting
from poolscope.rules.wording import counted, minutes

Style = Literal["", "bold", "dim", "good", "warning", "critical", "code", "chart"]

#: From here on durations are in minutes (s), as the last tenth of a second before it is one when rounded.
_MINUTE = 59.95
#: The way to the standard library, and so much of a path is looked at for it.
_STANDARD = re.compile(r"/lib(?:64)?/python3\.[0-9]+t?/")
_MOST_PATH = 4_096
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
    """What the lines are made for: a width in columns, an encoding, where relative paths start, and the time of day.

    `encoding` None stands for any character (a file object in memory), `started` None for a program of which it is not
    known when it started.
    """

    def __init__(self, *, width: int, encoding: str | None, cwd: str, started: datetime | None = None) -> None:
        self.width = width
        self.cwd = cwd
        self.encoding = encoding
        self.started = started
        self.glyphs = UNICODE if _encodes("".join(UNICODE), encoding) else ASCII

    def clean(self, text: str, most: int = 500) -> str:
        """Return the text in one line of at most `most` columns, without what a terminal obeys or cannot show."""
        if len(text) > 8 * most:  # before the work, not after: a name may have megabytes
            text = text[: 4 * most] + text[-4 * most :]
        shown = escaped(text.replace("\t", " "))
        if self.encoding is not None and not _encodes(shown, self.encoding):
            shown = fitting(shown.replace("µs", "us"), self.encoding)
        return self.cut(shown, most)

    def name(self, text: str, most: int = 80) -> str:
        """Return a clean name; a name of nothing is said to be one."""
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
        """Return a file: relative to the working directory if below it, a library's without the way to it."""
        for library in ("/site-packages/", "/dist-packages/"):
            if library in file:
                return self.clean(file.rpartition(library)[2], columns)
        if standard := _STANDARD.search(file[:_MOST_PATH]):
            return self.clean(file[standard.end() :], columns)
        root = self.cwd.rstrip(os.sep) + os.sep
        if len(root) > 1 and file.startswith(root) and len(file) > len(root):
            file = file[len(root) :]
        return self.clean(file, columns)

    def seconds(self, value: float | None) -> str:
        """Return a duration in the unit that suits it, three digits."""
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
        return f"{_digits(value)} s" if value < _MINUTE else minutes(value)

    def moment(self, value: float | None) -> str:
        """Return a time since the start of the program, to a tenth of a second in its first minute."""
        if value is None or not math.isfinite(value):
            return self.glyphs.none
        if abs(value) >= _FOREVER:
            return f"{value:.2g} s"
        return f"{value:.1f} s" if value < _MINUTE else minutes(value)

    def time_of_day(self, value: float | None) -> str:
        """Return the time of day of a time since the start of the program, with the date where that is another one;
        empty if it is not known."""
        if self.started is None or value is None or not 0 <= value < _FOREVER:
            return ""
        try:
            moment = self.started + timedelta(seconds=value)
        except OverflowError:
            return ""
        return f"{moment:%H:%M:%S}" if moment.date() == self.started.date() else f"{moment:%Y-%m-%d %H:%M:%S}"

    def number(self, value: float) -> str:
        """Return a count or a ratio."""
        if not math.isfinite(value):
            return self.glyphs.none
        if abs(value) >= 1e12:
            return f"{value:.3g}"
        if abs(value) >= 100 or value == int(value):
            return f"{round(value):,}"
        return f"-{_digits(-value)}" if value < 0 else _digits(value)

    def percent(self, share: float | None) -> str:
        """Return a share of 0 to 1 as a percentage."""
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
        """Return a clean text as one or more lines of at most `columns`, broken at blanks where there are any."""
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


def medium(file: TextIO, *, width: int, cwd: str, started: datetime | None = None) -> Medium:
    """Return what `file` can show."""
    return Medium(width=width, encoding=getattr(file, "encoding", None), cwd=cwd, started=started)


def local_time(text: str, zone: tzinfo | None) -> datetime | None:
    """Return a moment (RFC 3339) in a time zone, None for that of this machine; None if it is none."""
    try:
        moment = datetime.fromisoformat(text)
        return moment.astimezone(zone) if moment.tzinfo is not None else None
    except (ValueError, OverflowError, OSError):  # a session may say anything
        return None


def cells(text: str) -> int:
    """How many columns of a terminal the text takes."""
    if text.isascii():
        return len(text)
    return sum(_cells(char) for char in text)


def line_cells(line: Line) -> int:
    """How many columns of a terminal the line takes."""
    return sum(cells(text) for text, _ in line)


def plain(line: Line) -> str:
    """Return the line without its styles."""
    return "".join(text for text, _ in line).rstrip()


def more(number: int, noun: str, *, indent: int = 0) -> list[Line]:
    """Return the line that tells of so many more than are shown, if there are."""
    return [((f"{' ' * indent}and {counted(number, f'more {noun}')}", "dim"),)] if number > 0 else []


def hanging(medium: Medium, word: Span, text: str, style: Style = "bold") -> Iterator[Line]:
    """Return a word and a wrapped text to the right of it."""
    margin = line_cells((word,)) + 2
    for index, line in enumerate(medium.wrap(text, medium.width - margin)):
        yield (word, ("  ", ""), (line, style)) if index == 0 else ((" " * margin + line, style),)


def finite(value: float) -> float:
    """Return the number; 0 for one that is infinite or none."""
    return value if math.isfinite(value) else 0.0


def _cells(char: str) -> int:
    if unicodedata.east_asian_width(char) in "WF":
        return 2
    return 0 if unicodedata.category(char) in ("Mn", "Me") else 1


def _fitting(text: Iterable[str], columns: int) -> str:
    """Return the first characters that take at most `columns`; those that take none are bounded too."""
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


def began_of(report: Report) -> datetime | None:
    """Return when the program started; None if that is not known."""
    try:
        return datetime.fromisoformat(report.started_at).astimezone()
    except (ValueError, OverflowError):
        return None

"""The report on a terminal: its width, its colours, or neither.

rich only paints the lines. Without rich the same lines come without colour.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from datetime import tzinfo
from typing import TextIO

from poolscope.model import Session
from poolscope.rendering.layout import layout
from poolscope.rendering.text import Line, Medium, Style, local_time, medium, plain

#: Without a terminal to ask.
DEFAULT_WIDTH = 100

#: The narrowest report, and the widest that a terminal gets; the widest that can be asked for.
NARROWEST, _WIDEST, WIDEST_ASKED = 40, 160, 500

#: How rich paints each style.
PAINT: dict[Style, str] = {
    "": "",
    "bold": "bold",
    "dim": "dim",
    "good": "bold green",
    "warning": "bold yellow",
    "critical": "bold red",
    "code": "cyan",
    "chart": "green",
}


def render(
    session: Session,
    file: TextIO,
    *,
    width: int | None = None,
    color: bool | None = None,
    cwd: str | None = None,
    zone: tzinfo | None = None,
    verbose: bool = False,
) -> None:
    """Write the report of `session` to `file`.

    `width` None takes the terminal's, or DEFAULT_WIDTH where there is none; `color` None decides by NO_COLOR,
    FORCE_COLOR and the terminal, and there is none without rich; paths below `cwd` (None: the working directory) are
    shown relative to it; times of day are those of `zone` (None: of this machine); `verbose` shows every number of
    the evidence and every notice. Raises what writing to `file` raises.
    """
    columns = _columns(file, width)
    started = local_time(session.report.started_at, zone)
    shown = medium(file, width=columns, cwd=_working_directory(cwd), started=started)
    lines = layout(session, shown, verbose=verbose)
    if (_wants_color(file) if color is None else color) and _painted(lines, file):
        return
    file.write("".join(plain(line) + "\n" for line in lines))


def write(
    lines: Callable[[Medium], Iterable[Line]], file: TextIO, *, width: int | None = None, color: bool | None = None
) -> None:
    """Write other lines than those of a session to `file`; `width` and `color` as of `render`.

    Raises what writing to `file` raises.
    """
    made = list(lines(medium(file, width=_columns(file, width), cwd="")))
    if not ((_wants_color(file) if color is None else color) and _painted(made, file)):
        file.write("".join(plain(line) + "\n" for line in made))


def _painted(lines: Iterable[Line], file: TextIO) -> bool:
    """Write the lines in colour; false, and nothing written, without rich."""
    try:
        from rich.console import Console
        from rich.text import Text
    except ImportError:
        return False
    # All is decided by now: rich must not look at the environment again.
    console = Console(file=file, force_terminal=True, color_system="standard", no_color=False, legacy_windows=False)
    text = Text()
    for line in lines:
        for words, style in line:
            text.append(words, PAINT[style])  # appended, never parsed: user text cannot be markup
        text.append("\n")
    console.print(text, soft_wrap=True, end="")
    return True


def _wants_color(file: TextIO) -> bool:
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR", "0") not in ("", "0"):
        return True
    return os.environ.get("TERM") != "dumb" and _is_terminal(file)


def _is_terminal(file: TextIO) -> bool:
    try:
        return file.isatty()
    except (AttributeError, ValueError):  # a closed or home-made file
        return False


def _columns(file: TextIO, asked: int | None) -> int:
    return max(NARROWEST, min(_WIDEST, _width(file)) if asked is None else min(WIDEST_ASKED, asked))


def _width(file: TextIO) -> int:
    """COLUMNS, else the terminal's width, else DEFAULT_WIDTH."""
    if not _is_terminal(file):
        return DEFAULT_WIDTH
    set_by_user = os.environ.get("COLUMNS", "")
    if set_by_user.isascii() and set_by_user.isdigit() and 0 < int(set_by_user) < 10_000:
        return int(set_by_user)
    try:
        return os.get_terminal_size(file.fileno()).columns or DEFAULT_WIDTH
    except (OSError, ValueError):
        return DEFAULT_WIDTH


def _working_directory(cwd: str | None) -> str:
    if cwd is not None:
        return cwd
    try:
        return os.getcwd()
    except OSError:  # removed under our feet
        return ""

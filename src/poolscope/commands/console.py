"""What the commands share: how they read arguments, print, and complain."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Iterable
from typing import NamedTuple, NoReturn, TextIO

from poolscope import plain
from poolscope.errors import PoolscopeError

#: What may be raised by numbers that fit no run. The file is not ours to trust.
UNREADABLE = (ArithmeticError, LookupError, MemoryError, RecursionError, TypeError, ValueError)


class UsageError(PoolscopeError):
    """A command line that says nothing we know."""


class OutputFailed(Exception):
    """Standard output is closed, or the disk behind it is full."""


class Parser(argparse.ArgumentParser):
    """One that raises, in one line, instead of printing its usage."""

    def error(self, message: str) -> NoReturn:
        """See `argparse`."""
        raise UsageError(f"{message}{self._nearest(message)} (see {self.prog} --help)")

    def _nearest(self, message: str) -> str:
        """Return the option or command that was meant, if a word of the message is nearly one."""
        from difflib import get_close_matches

        choices = [choices for action in self._actions if (choices := action.choices)]
        parsers = [self, *(parser for each in choices if isinstance(each, dict) for parser in each.values())]
        known = [option for parser in parsers for option in parser._option_string_actions if option.startswith("--")]
        wrong = re.findall(r"(?<=unrecognized arguments: )--[^\s=]+", message)
        if not wrong:
            wrong = re.findall(r"(?<=invalid choice: ')[^']+", message)
            known = [str(choice) for each in choices for choice in each]
        near = get_close_matches(wrong[0], known, 1, 0.7) if wrong and "maybe you meant" not in message else []
        return f"; did you mean {near[0]}?" if near else ""


class Look(NamedTuple):
    """How a report is shown: with colours or not and in so many columns; None: as what it is written to has it."""

    color: bool | None = None
    width: int | None = None


def add_look(parser: argparse.ArgumentParser) -> None:
    """Add the options that say how a report is shown."""
    parser.add_argument(
        "--color",
        choices=("auto", "always", "never"),
        default="auto",
        help="auto: NO_COLOR and FORCE_COLOR are heeded, and else a terminal has colours",
    )
    parser.add_argument("--width", metavar="COLUMNS", help="columns of the report, whatever the terminal has")


def look(options: argparse.Namespace) -> Look:
    """Return what these options say. Raises PoolscopeError for what cannot be had."""
    if options.color == "always":
        from importlib.util import find_spec

        if find_spec("rich") is None:
            raise PoolscopeError("--color always needs rich: pip install 'poolscope[cli]'")
    color = None if options.color == "auto" else options.color == "always"
    if options.width is None:
        return Look(color)
    from poolscope.rendering.terminal import NARROWEST, WIDEST_ASKED

    text = options.width
    if not (text.isascii() and text.isdigit() and NARROWEST <= int(text[:6]) <= WIDEST_ASKED):
        raise UsageError(f"--width {text}: expected a number of columns from {NARROWEST} to {WIDEST_ASKED}")
    return Look(color, int(text))


def complain(text: str) -> None:
    """Print one line on standard error. Arguments and file names in it may hold anything."""
    if sys.stderr is not None:
        print(f"poolscope: {plain.one_line(text)}", file=sys.stderr)


def leave_output() -> None:
    """Send the rest of standard output nowhere, so that the interpreter does not complain when it flushes it."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def tell(lines: Iterable[str]) -> None:
    """Print lines on standard output. Raises BrokenPipeError and OutputFailed."""

    def write(output: TextIO) -> None:
        for line in lines:
            print(plain.fitting(plain.one_line(line), output.encoding), file=output)

    output(write)


def output(write: Callable[[TextIO], None]) -> None:
    """Write to standard output. Raises BrokenPipeError and OutputFailed for what that does not take."""
    if sys.stdout is None:
        raise OutputFailed("it is closed")
    try:
        write(sys.stdout)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputFailed(error.strerror or str(error)) from error

"""What a command was asked to leave behind: an option and a path each, checked first, and written from a session.

It must not cost a run its start: what makes an output is imported when it is made.
"""

from __future__ import annotations

import argparse
import os
import sys
import zlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from poolscope.rendering import files

if TYPE_CHECKING:
    from poolscope.model import Session

#: What each option writes, for the help of the commands.
OPTIONS = {
    "--session": "what was recorded, to look at again later",
    "--json": "the report as JSON",
    "--html": "the report as one page that needs nothing else",
    "--markdown": "the report for a pull request or a job's summary, added to the end of the file",
    "--trace": "a timeline for Perfetto and chrome://tracing, compressed if the name ends with .gz",
}
ANNOTATIONS = "--annotations"
#: Standard output.
STANDARD = "-"

#: With what the files of ours begin, or have in their first bytes.
_BEGINNINGS = {
    "--session": b"poolscope session ",
    "--json": b'"schema": "poolscope.',
    "--html": b'<meta name="generator" content="poolscope ',
    "--trace": b'{"otherData":{"producer":"poolscope ',
}
_HEAD = 4096


class Output(NamedTuple):
    """An option and its path, which is absolute, or `STANDARD`."""

    option: str
    path: str

    def is_session_file(self) -> bool:
        """Whether it can be written again and again."""
        return self.option == "--session" and self.path != STANDARD


def add_options(parser: argparse.ArgumentParser, names: Iterable[str] = OPTIONS) -> None:
    """Add the options of outputs to a command's parser."""
    for name in names:
        parser.add_argument(name, metavar="PATH", help=f"{OPTIONS[name]}; - is standard output")
    parser.add_argument("--force", action="store_true", help="overwrite files that poolscope has not written")


def add_annotations(parser: argparse.ArgumentParser) -> None:
    """Add the option that prints them."""
    parser.add_argument(
        ANNOTATIONS, action="store_true", help="print findings above info as annotations of a GitHub workflow"
    )


def check(options: argparse.Namespace, untouchable: Iterable[str] = ()) -> tuple[Output, ...]:
    """Return what the options ask for, in the order of `OPTIONS`, without touching it.

    `untouchable` are files that are never written, whatever is said. Raises OutputError.
    """
    outputs: list[Output] = []
    for option in OPTIONS:
        path = getattr(options, option.removeprefix("--"), None)
        if path is None:
            continue
        target = path if path == STANDARD else _checked(path, option, untouchable, force=options.force)
        for other in outputs:
            if other.path == target:
                raise files.OutputError(f"{other.option} and {option} name the same file {path}: name two")
        outputs.append(Output(option, target))
    if getattr(options, "annotations", False):
        outputs.append(Output(ANNOTATIONS, STANDARD))
    return tuple(outputs)


def write(session: Session, output: Output) -> None:
    """Make one output. Raises PoolscopeError where it cannot be written."""
    if output.is_session_file():
        from poolscope.session import save

        save(session, output.path)
        return
    put(output, _made(session, output))


def put(output: Output, data: bytes) -> None:
    """Write the bytes of one output. Raises PoolscopeError where they cannot be written."""
    option, path = output
    if path == STANDARD:
        _print(data)
    elif option == "--markdown":
        files.append(path, data)
    else:
        files.write(path, data)


def _checked(path: str, option: str, untouchable: Iterable[str], *, force: bool) -> str:
    for other in untouchable:
        if os.path.exists(path) and os.path.exists(other) and os.path.samefile(path, other):
            raise files.OutputError(f"{option} {path} would overwrite what is to be read: name another file")
    target = files.check(path, option)
    if not force and option != "--markdown" and os.path.isfile(target) and not _is_ours(target, option):
        raise files.OutputError(
            f"{option} {path} would overwrite a file of another kind: name another one, or add --force"
        )
    return target


def _is_ours(path: str, option: str) -> bool:
    """Whether the file is empty, or an earlier one of the same kind."""
    try:
        with open(path, "rb") as file:
            head = file.read(_HEAD)
    except OSError:
        return False
    if option == "--trace" and head.startswith(b"\x1f\x8b"):
        try:
            head = zlib.decompressobj(31).decompress(head, _HEAD)
        except zlib.error:
            return False
    return not head or _BEGINNINGS[option] in head


def _made(session: Session, output: Output) -> bytes:
    option, path = output
    if option == "--json":
        return session.report.to_json()
    if option == "--session":
        from poolscope.session import pack

        return pack(session, path)
    if option == "--trace":
        from poolscope.rendering.trace import encode

        return encode(session, compressed=path.endswith(".gz"))
    if option == "--html":
        from poolscope.rendering.html import encode as page

        return page(session)
    from poolscope.rendering import markdown

    text = markdown.render if option == "--markdown" else markdown.annotate
    return text(session, os.getcwd()).encode("utf-8", "backslashreplace")


def _print(data: bytes) -> None:
    try:
        if sys.stdout is None:
            raise files.OutputError("standard output is closed: name a file")
        sys.stdout.flush()
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise files.OutputError(f"standard output cannot be written: {error.strerror}; name a file") from error

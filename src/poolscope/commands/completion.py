"""`poolscope completion`: what a shell loads to complete our commands, options and files.

shtab makes it from the parsers, once: nothing of Python runs at a press of Tab, where argcomplete would start the
interpreter and import the command each time. Both are kept up; this is the quicker one, and knows zsh and tcsh as well.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from poolscope.commands.console import output
from poolscope.errors import PoolscopeError

#: Arguments that are files or directories, by how the help calls them.
_FILES = frozenset({"PATH", "FILE", "SESSION", "CONFIG", "BEFORE", "AFTER", "SCRIPT"})
_FOLDERS = frozenset({"DIR"})


def do(options: argparse.Namespace) -> int:
    """Print it."""
    from poolscope.commands import parser_of_all

    try:
        import shtab
    except ImportError:
        raise PoolscopeError("completion needs shtab: pip install 'poolscope[completion]'") from None
    parser = parser_of_all(completing=True)
    for action in _actions(parser):
        if action.metavar in _FILES:
            action.complete = shtab.FILE  # type: ignore[attr-defined]  # where shtab looks for it
        elif action.metavar in _FOLDERS:
            action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
    text = shtab.complete(parser, options.shell)
    output(lambda file: print(text, file=file))
    return 0


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                yield from _actions(below)
        else:
            yield action

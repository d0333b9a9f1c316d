"""`poolscope compare`: two recorded runs beside each other."""

from __future__ import annotations

import argparse
import os

from poolscope.commands.console import UNREADABLE, complain, tell
from poolscope.supervisor.supervisor import FAILED_STATUS


def do(options: argparse.Namespace) -> int:
    """Say what changed; the exit status, 3 where something became worse and that was asked for."""
    from poolscope import session
    from poolscope.errors import SessionError
    from poolscope.rendering import comparison, outputs
    from poolscope.rendering.text import Medium

    paths = (options.before, options.after)
    wanted = outputs.check(options, untouchable=paths)
    runs = [session.load(path) for path in paths]
    try:
        compared = comparison.compare(*runs)
        medium = Medium(width=100, encoding=None, cwd=os.getcwd())
        told = list(comparison.lines(compared, medium))
        as_markdown = comparison.markdown(compared, medium)
    except UNREADABLE as error:
        raise SessionError(
            f"{options.before} and {options.after} cannot be compared: their numbers fit no run"
        ) from error
    for output in wanted:
        outputs.put(output, as_markdown.encode("utf-8", "backslashreplace"))
    if not wanted:
        tell(told)
    worse = compared.regressions()
    if not (options.fail_on_regression and worse):
        return 0
    others = f", and {len(worse) - 1} more" if len(worse) > 1 else ""
    complain(f"exit status {FAILED_STATUS}, as --fail-on-regression wants it: {worse[0]}{others}")
    return FAILED_STATUS

"""`poolscope report`: the report of a recorded session."""

from __future__ import annotations

import argparse

from poolscope.commands.console import UNREADABLE, look, output


def do(options: argparse.Namespace) -> int:
    """Show it, or write what was asked for."""
    from poolscope import session
    from poolscope.rendering import outputs
    from poolscope.rendering.terminal import render

    wanted = outputs.check(options, untouchable=(options.session_file,))
    shown = look(options)
    recorded = session.load(options.session_file)
    try:
        for each in wanted:
            outputs.write(recorded, each)
        if not wanted:
            output(lambda file: render(recorded, file, verbose=options.verbose, width=shown.width, color=shown.color))
    except UNREADABLE as error:
        raise session.unusable(options.session_file, error) from error
    return 0

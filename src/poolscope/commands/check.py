"""`poolscope check`: whether a settings file is valid."""

from __future__ import annotations

import argparse

from poolscope.commands.console import complain, tell


def do(options: argparse.Namespace) -> int:
    """Say whether it is valid, and all that is not."""
    from poolscope import config
    from poolscope.errors import ConfigError

    try:
        config.load(options.config)
    except ConfigError as error:
        # All of them, so that the file can be mended in one go.
        for problem in error.problems:
            complain(problem)
        return 2
    tell([f"{options.config}: valid"])
    return 0

"""What the command line asks of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from poolscope.config import Settings
    from poolscope.model import Severity
    from poolscope.parent.programs import Program


class Plan(NamedTuple):
    """What to run and what to make of it. Paths are absolute and were checked; no settings: the defaults."""

    program: Program
    settings: Settings | None = None
    json_path: str | None = None
    session_path: str | None = None
    fail_on: Severity | None = None
    quiet: bool = False

"""What the command line asks of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from poolscope.config import Settings
    from poolscope.model import Severity
    from poolscope.rendering.outputs import Output
    from poolscope.supervisor.programs import Program


class Plan(NamedTuple):
    """What to run and what to make of it. Outputs were checked; no settings: the defaults."""

    program: Program
    settings: Settings | None = None
    outputs: tuple[Output, ...] = ()
    fail_on: Severity | None = None
    quiet: bool = False
    #: The pools that `--set` gives another size, as they are named there.
    resized: tuple[str, ...] = ()
    verbose: bool = False
    #: Of the report; None: as standard error has it.
    color: bool | None = None
    width: int | None = None
    #: Whether the view of `top` is shown while it runs.
    live: bool = False

"""APScheduler: its executors run `run_job(job, ...)`, and a task goes by the name of the job's function.

Its pools are standard executors, recorded like any other; nothing is replaced here.
"""

from __future__ import annotations

from poolscope.probe.adapters import look_through

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def meet(probe: Any, module: str) -> None:
    """Look through what `apscheduler.executors.base` hands to a pool."""
    look_through(probe, "APScheduler", module, {"run_job": (("job", "jobstore_alias"), _function)})


def _function(args: tuple[Any, ...], _: dict[str, Any]) -> Any:
    return args[0].func

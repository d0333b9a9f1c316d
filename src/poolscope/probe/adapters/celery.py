"""Celery's threads (`celery worker --pool threads`): their pool runs `apply_target(target, args, kwargs, callback)`,
and a task goes by the name of the function of the Celery task.

The pool is a standard executor, recorded like any other; nothing is replaced here.
"""

from __future__ import annotations

from poolscope.probe.adapters import look_through

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def meet(probe: Any, module: str) -> None:
    """Look through what `celery.concurrency.base` hands to a pool."""
    parameters = ("target", "args", "kwargs", "callback")
    look_through(probe, "celery", module, {"apply_target": (parameters, _function)})


def _function(args: tuple[Any, ...], _: dict[str, Any]) -> Any:
    # The callback is a method of the request, which has its task; `args` have the task's name only.
    return args[3].__self__.task.run

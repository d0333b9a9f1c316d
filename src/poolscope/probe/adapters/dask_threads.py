"""dask's threads (`scheduler="threads"`): the pool runs batches of tasks of a graph, and each goes by the function of
its first task, which was given to `delayed`.

The pool is a standard executor, recorded like any other; nothing is replaced here.
"""

from __future__ import annotations

from poolscope.probe.adapters import look_through

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def meet(probe: Any, module: str) -> None:
    """Look through what `dask.local` hands to a pool."""
    look_through(probe, "dask", module, {"batch_execute_tasks": (("it",), _first)})


def _first(args: tuple[Any, ...], _: dict[str, Any]) -> Any:
    # Of a batch: key, (task, data), and more.
    task = args[0][0][1][0]
    # Raises AttributeError for what is none, or calls nothing: then the batch keeps its name.
    return task.func if type(task).__module__.startswith("dask.") else None

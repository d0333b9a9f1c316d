"""dask and distributed: what they hand to threads are their own functions around a task of a graph, which goes by the
function that was given to `delayed`, `submit` or `map`.

dask's pools are standard executors, and distributed's are recorded like them (`adapters.distributed`); nothing is
replaced here.
"""

from __future__ import annotations

import sys
from types import CodeType

from poolscope.probe.adapters import look_through, unfamiliar
from poolscope.probe.recording import function_table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: Makes a function for an executor of what is to run in a context.
_IN_CONTEXT = "run_in_executor_with_context"


def meet(probe: Any, module: str) -> None:
    """Look through what this module hands to a pool."""
    if module == "dask.local":
        look_through(probe, "dask", module, {"batch_execute_tasks": (("it",), _first)})
    elif module == "distributed.worker":
        look_through(probe, "distributed", module, {"_run_task_simple": (("task",), _task)})
    elif _closes_over(getattr(sys.modules.get(module), _IN_CONTEXT, None), {"func", "args"}):
        function_table.WRAPPERS[f"{module}.{_IN_CONTEXT}.<locals>.<lambda>"] = _within
    else:
        wanted = f"{_IN_CONTEXT}.<locals>.<lambda>(func, args)"
        text = f"its tasks are not named after your functions: no {wanted} in {module}"
        unfamiliar(probe, "distributed", text)


def _closes_over(function: Any, names: set[str]) -> bool:
    constants = getattr(getattr(function, "__code__", None), "co_consts", ())
    return any(isinstance(each, CodeType) and names <= set(each.co_freevars) for each in constants)


def _function(task: Any) -> Any:
    """Return the function of a task of a graph. Raises AttributeError for what is none, or has none."""
    if not type(task).__module__.startswith("dask."):
        raise AttributeError("no task of dask's")
    return task.func


def _first(args: tuple[Any, ...], _: dict[str, Any]) -> Any:
    # Of a batch: key, (task, data), and more.
    return _function(args[0][0][1][0])


def _task(args: tuple[Any, ...], _: dict[str, Any]) -> Any:
    return _function(args[0])


def _within(_: tuple[Any, ...], closed_over: dict[str, Any]) -> Any:
    called, args = closed_over["func"], closed_over["args"]
    return _function(args[0]) if getattr(called, "__name__", "") == "_run_task" else called

"""joblib's threads: its `threading` backend runs batches of calls in a `multiprocessing.pool.ThreadPool`, and a task
goes by the name of the function of the batch's first call.

The pool is recorded like any other of its kind; nothing is replaced here.
"""

from __future__ import annotations

from poolscope.probe.adapters import look_through

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def meet(probe: Any, module: str) -> None:
    """Look through what joblib hands to a pool: a batch of calls, inside of what keeps its traceback."""
    if module == "joblib._utils":
        look_through(probe, "joblib", module, {"_TracebackCapturingWrapper": (("self", "func"), _wrapped)})
    else:
        look_through(probe, "joblib", module, {"BatchedCalls": (("self", "iterator_slice"), _first)})


def _wrapped(args: tuple[Any, ...], _: dict[str, Any]) -> Any:
    return vars(args[0])["func"]


def _first(args: tuple[Any, ...], _: dict[str, Any]) -> Any:
    return vars(args[0])["items"][0][0]

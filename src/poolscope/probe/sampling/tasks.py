"""The tasks of event loops that are not done, by asyncio's register of them, and the coroutines of each. To be read
with the GIL held only."""

from __future__ import annotations

import sys
from gc import get_referents
from itertools import islice
from types import AsyncGeneratorType, CoroutineType, GeneratorType
from weakref import ref

from poolscope.probe.interpreter import shapes
from poolscope.probe.sampling.coroutines import LOOPS, number_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

#: Of more tasks than this, not all are looked at.
TASKS_COUNTED = 1000
#: References to a loop from which on its tasks are not counted: each task has about three.
_REFERENCES_LIMIT = 3 * TASKS_COUNTED
#: Coroutines of one task that are looked at.
DEPTH_LIMIT = 100

#: Objects that C code puts between a coroutine and the next one, which they refer to.
_BETWEEN = ("coroutine_wrapper", "async_generator_asend", "async_generator_athrow", "anext_awaitable")
#: What stands in such a row, and where it has what it awaits.
_AWAITS = {CoroutineType: "cr_await", GeneratorType: "gi_yieldfrom", AsyncGeneratorType: "ag_await"}
CHAINED = tuple(_AWAITS)


def unfinished(module: Any, register: str) -> dict[int, list[Any]]:
    """Return the tasks of each watched loop, of asyncio's own kinds. `module` is `asyncio.tasks`, and `register` what
    `shapes.task_register` says of it."""
    kinds = tuple(dict.fromkeys((module.Task, getattr(module, "_PyTask", module.Task))))
    found: dict[int, list[Any]] = {}
    for task in _registered(module, register):
        kind = type(task)
        if kind in kinds and not kind.done(task):
            loop = number_of(kind.get_loop(task))
            if loop:
                found.setdefault(loop, []).append(task)
    return found


def _registered(module: Any, register: str) -> Iterable[Any]:
    if register == shapes.TABLE:
        loops = [loop for weak, _ in list(LOOPS.values()) if (loop := weak()) is not None]
        few = [loop for loop in loops if sys.getrefcount(loop) < _REFERENCES_LIMIT]
        return [task for loop in few for task in module.all_tasks(loop)]
    members: list[Any] = []
    for name in ("_all_tasks", "_scheduled_tasks", "_eager_tasks"):
        found = getattr(module, name, ())
        # A WeakSet keeps a set of references; copying from a set is one step, which nothing can come between.
        members += islice(getattr(found, "data", found), TASKS_COUNTED)
    return [task for each in members if (task := each() if isinstance(each, ref) else each) is not None]


def behind(awaited: Any) -> Any:
    """Return the coroutine behind what C code puts between it and the one that awaits it."""
    if type(awaited).__name__ not in _BETWEEN:
        return awaited
    return next((each for each in get_referents(awaited) if type(each) in CHAINED), awaited)


def coroutines(task: Any) -> list[Any]:
    """Return the coroutines of a task, each of which awaits the next one."""
    found: list[Any] = []
    current = behind(task.get_coro())
    while (name := _AWAITS.get(type(current))) is not None and len(found) < DEPTH_LIMIT:
        found.append(current)
        current = behind(getattr(current, name))
    return found

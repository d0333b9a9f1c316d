"""How many unfinished tasks a loop has, from asyncio's register of them, at a cost that does not grow with them.

They are counted in the loop's thread: no task comes or goes meanwhile, and one that is freed with its last reference is
freed in its own thread.
"""

from __future__ import annotations

import sys
from itertools import islice, repeat
from weakref import ref

from poolscope.probe.interpreter.blame import is_ours
from poolscope.probe.interpreter.shapes import TABLE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

#: So many tasks are looked at each time (about 0.2 ms); of more, the number is estimated.
TASKS_LOOKED_AT = 1000
#: A table of more tasks is copied as rarely as costs a two-thousandth of the time: for each task, so much later (ns).
PAUSE_PER_TASK_NS = 1_000_000
#: A table of more than so many tasks never is: the loop would stand still for 10 ms.
COPIED_AT_MOST = 20_000
#: A loop's tasks per reference to it, until it is known better: a task that waits refers to its loop, and so do the
#: future that it waits for and, often, a timer.
_SHARE = 1 / 3
#: It is not known better from fewer tasks,
_ENOUGH = 100
#: nor believed to be less, as the references of a crowd of tasks that comes at once would be taken for few tasks.
_SHARE_AT_LEAST = 0.2
#: Where to put a count.
_KEY = "tasks"


class TaskCount:
    """Counts the tasks of one loop. One caller at a time."""

    __slots__ = ("_asked", "_copied_ns", "_register", "_share")

    def __init__(self, register: str) -> None:
        """`register` is what `shapes.task_register` says."""
        self._register = register
        self._share = _SHARE
        #: References to the loop when its tasks were last counted one by one; 0: they were not.
        self._asked = 0
        self._copied_ns: int | None = None

    def ask(self, loop: Any, noted: dict[str, int], now_ns: int) -> Iterator[object]:
        """Return an iterator that notes the number of the loop's tasks, for `take`, when it is drawn in its thread."""
        self._asked = 0
        tasks: Any = sys.modules["asyncio.tasks"]
        if self._register != TABLE:
            return map(noted.setdefault, repeat(_KEY), map(_by_sample, repeat(loop)))
        if tasks._scheduled_tasks or tasks._eager_tasks:
            return repeat(None)  # tasks that are none of asyncio's, and would be asked by their own methods
        # A table can only be copied as a whole, so the references to the loop tell first whether it is short. There are
        # too many of them if tasks have ended and were not collected yet.
        references = sys.getrefcount(loop)
        expected = round(references * self._share)
        if expected > TASKS_LOOKED_AT:
            since_ns = None if self._copied_ns is None else now_ns - self._copied_ns
            if expected > COPIED_AT_MOST or (since_ns is not None and since_ns < expected * PAUSE_PER_TASK_NS):
                return map(noted.setdefault, repeat(_KEY), repeat(expected))
        self._copied_ns = now_ns
        self._asked = references
        # All in C: see `watch`.
        return map(noted.setdefault, repeat(_KEY), map(len, map(tasks.all_tasks, repeat(loop))))

    def take(self, noted: dict[str, int]) -> int | None:
        """Return the number that was noted; None if there is none."""
        found = noted.get(_KEY, -1)
        if self._asked and found >= _ENOUGH:
            self._share = max(_SHARE_AT_LEAST, found / self._asked)
        return None if found < 0 else found


def _by_sample(loop: Any) -> int:
    """Look at some, in the order of a set of addresses, which is none: of more, the share that is unfinished counts for
    all. -1: we have failed. Tasks of classes that are not asyncio's do not count, as they would be asked by methods of
    the program's."""
    tasks: Any = sys.modules["asyncio.tasks"]
    found = 0
    try:
        kinds = tuple(dict.fromkeys((tasks.Task, tasks._PyTask)))
        for name in ("_all_tasks", "_scheduled_tasks", "_eager_tasks"):
            register = getattr(tasks, name, None)
            if register is None:
                continue
            # A WeakSet keeps a set of references; copying from a set is one step, which nothing can come between.
            members = getattr(register, "data", register)
            some = list(islice(members, TASKS_LOOKED_AT))
            unfinished = 0
            for member in some:
                task = member() if isinstance(member, ref) else member
                for kind in kinds:
                    if issubclass(type(task), kind):
                        unfinished += not kind.done(task) and kind.get_loop(task) is loop
            size = len(members)
            found += unfinished if size <= len(some) else round(size * unfinished / len(some))
    except Exception as exc:
        if not is_ours(exc):
            raise
        return -1
    return found

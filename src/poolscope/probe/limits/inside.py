"""Which tasks hold a lock or semaphore of asyncio, also one that they got without a wait: read from their coroutines.

Such a hold is not recorded, as that would cost where nothing waits. But a task that is inside of an `async with` keeps
the way out of it on its stack (`interpreter/entered.py`). It is looked for only once something has waited for long,
and seldom enough to cost next to nothing.

A task may have given it back inside of the block, for a while: one that waits for a condition has, and of one whose
coroutines, or blocks, name a `release` it is not known. Of these nothing is said.
"""

from __future__ import annotations

import sys
from collections import Counter
from gc import get_referents
from time import thread_time_ns
from types import AsyncGeneratorType, CoroutineType, FunctionType, GeneratorType
from weakref import ref

from poolscope.probe.interpreter import shapes
from poolscope.probe.interpreter.entered import entered, layout
from poolscope.probe.interpreter.gil import gil_enabled
from poolscope.probe.limits.coroutines import known_holders
from poolscope.probe.limits.limit import STANDSTILL_NS
from poolscope.probe.sampling.tasks import coroutines, unfinished

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from poolscope.probe.limits.coroutines import Held
    from poolscope.probe.limits.limit import Limit
    from poolscope.probe.recording.recorder import WorkerLog

#: Looking may take one part in so many of a core.
COST_FACTOR = 100
#: What gives back inside of the block may have given this back.
_GIVES_BACK = "release"
_ENTERS = "__aenter__"
_CODE = {CoroutineType: "cr_code", GeneratorType: "gi_code", AsyncGeneratorType: "ag_code"}
#: Keeps an asynchronous generator for an `async with`.
_MANAGER = ("contextlib", "_AsyncGeneratorContextManager")


class Holders:
    """The tasks that hold the limits of one family. One reader at a time."""

    def __init__(self, limit_of: Callable[[Any], Limit | None], tell: Callable[[str], object]) -> None:
        """`limit_of` gives the record of an object of any kind, if it is a limit that has one; `tell` gets a line about
        an unknown interpreter."""
        self._limit_of = limit_of
        self._tell = tell
        self._beside: int | None = None
        self._failed = not gil_enabled()
        self._looked_ns = self._rested_ns = 0
        # By the `id` of the limit: the tasks that are inside of it, weakly, in the order of their own `id`.
        self._inside: dict[int, list[ref[Any]]] = {}

    def of(self, limit: Limit) -> list[Held]:
        """Return who holds a limit, as far as that is known. To be let go at once."""
        told = known_holders(limit)
        logs = [log for log in list(limit.watch.recorder.workers) if getattr(log, "holder", None) is None]
        unknown = [(log, running) for log in logs if (running := log.running) is not None]
        now = limit.clock()
        if unknown and now - min(running[2] for _, running in unknown) >= STANDSTILL_NS:
            self._look(now)
            told += self._found(limit, told, unknown)
        return told

    def _found(
        self, limit: Limit, known: list[Held], unknown: list[tuple[WorkerLog, tuple[int, int, int]]]
    ) -> list[Held]:
        """Return who has the places whose holders were not seen to come."""
        # Those that it has waited for are known.
        others = Counter(id(task) for _, _, task in known)
        found: list[Any] = []
        for weak in self._inside.get(id(limit), ()):
            task = weak()
            if task is None or others[id(task)]:
                others[id(task)] -= 1
            else:
                found.append(task)
        # What has not been given back since the look was held then, by one that was inside. If more were inside than
        # can be, some have given it back for a while.
        lasting = [place for place in unknown if place[1][2] < self._looked_ns]
        if len(found) > len(unknown) or len(lasting) < len(unknown):
            return []
        return [(*place, task) for place, task in zip(lasting, found, strict=False)]

    def _look(self, now: int) -> None:
        """Look at all tasks again, if it is time to."""
        if self._failed or now < self._rested_ns:
            return
        before = thread_time_ns()
        try:
            if self._beside is None:
                self._beside = layout()
            tasks = sys.modules["asyncio.tasks"]
            each = [task for known in unfinished(tasks, shapes.task_register(tasks)).values() for task in known]
            self._inside = {}
            for task in sorted(each, key=id):
                for limit in self._limits(task):
                    self._inside.setdefault(id(limit), []).append(ref(task))
        except shapes.Unfamiliar as reason:
            self._failed, self._inside = True, {}
            self._tell(shapes.missed("who holds a semaphore or lock of asyncio is not seen", reason))
        finally:
            each = []
        self._looked_ns = now
        self._rested_ns = now + COST_FACTOR * (thread_time_ns() - before)

    def _limits(self, task: Any) -> list[Limit]:
        """Return the limits that a task is inside of, once for each block."""
        chain = coroutines(task)
        owners: list[Any] = []
        seen: set[int] = set()
        if not all(self._enter(each, owners, seen) for each in chain):
            return []
        limits = [limit for owner in owners if (limit := self._limit_of(owner)) is not None]
        if len(chain) > 1 and getattr(chain[-2], _CODE[type(chain[-2])]).co_name == _ENTERS:
            # It is only about to enter this one.
            about = (limit for each in get_referents(chain[-2]) if (limit := self._limit_of(each)) is not None)
            entering = next(about, None)
            if entering in limits:
                limits.remove(entering)
        return limits

    def _enter(self, coroutine: Any, owners: list[Any], seen: set[int]) -> bool:
        """Add what a coroutine is inside of. Returns False if it may have given something back."""
        if id(coroutine) in seen:
            return True
        seen.add(id(coroutine))
        if _GIVES_BACK in getattr(coroutine, _CODE[type(coroutine)]).co_names:
            return False
        for owner in entered(coroutine, self._beside or 0):
            kind = type(owner)
            if (kind.__module__, kind.__name__) == _MANAGER:
                if type(owner.gen) is not AsyncGeneratorType or not self._enter(owner.gen, owners, seen):
                    return False
            elif _gives_back(kind):
                return False
            else:
                owners.append(owner)
        return True


def _gives_back(kind: type) -> bool:
    """Whether what begins a block of this class may give something back."""
    begins = next((base.__dict__[_ENTERS] for base in kind.__mro__ if _ENTERS in base.__dict__), None)
    return type(begins) is not FunctionType or _GIVES_BACK in begins.__code__.co_names

"""What a thread waits for that waits for a coroutine: read from the event loop's tasks, at no cost to any of them.

`asyncio.run_coroutine_threadsafe`, and so `anyio.from_thread.run`, chain the future that the thread waits for to a task
of the loop. That awaits, directly or through other tasks and `shield`, a future that is chained to one of an executor,
or a call that an adapter knows (`THREAD_CALLS`). Each step is told by exact types, and by the code of asyncio's own
callbacks, whose closure leads on. Where a step is none of these, such as a group of tasks, nothing is known.

A task that was seen on its way to a call that has not started then is there still when the call has not started now:
so nobody need stop it while we read.
"""

from __future__ import annotations

import sys
from itertools import islice
from types import CoroutineType, FunctionType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType
    from typing import Any

    from poolscope.probe.pools.slots import SlotTask

#: Code of the coroutines in which a task waits for a call in a thread -> the local name of its `SlotTask`.
THREAD_CALLS: dict[CodeType, str] = {}

#: Steps from one future to the next, and from one coroutine to what it awaits.
STEPS_LIMIT = 20
DEPTH_LIMIT = 200
#: Callbacks of a future that are looked at: that of a chain is put on at once.
CALLBACKS_LIMIT = 4


class Follower:
    """Follows futures through the event loops of this process. One reader at a time.

    Without the GIL tasks change while we look: then no future is followed.
    """

    def __init__(self, base: Any) -> None:
        """`base` is the module of the standard future that is in use."""
        self._base = base
        self._tasks: Any = None
        self._futures: Any = None
        self._gil: bool = getattr(sys, "_is_gil_enabled", lambda: True)()
        # Code of a callback -> the name in its closure of what the future waits for.
        self._leads: dict[CodeType, str] = {}

    def follow(self, awaited: Any) -> Any:
        """What has to happen first, as far as we know: `awaited` itself if it waits for nothing; None if it goes on
        without end."""
        if not self._gil or not self._knows_asyncio():
            return awaited
        for _ in range(STEPS_LIMIT):
            kind = type(awaited)
            if kind is self._base.Future:
                source = self._lead(awaited._done_callbacks)
                if source is None:
                    return awaited
                awaited = source
            elif kind is self._tasks.Task:
                awaited = _call_of(awaited.get_coro()) or awaited._fut_waiter
            elif kind is self._futures.Future:
                awaited = self._lead([callback for callback, _ in awaited._callbacks or ()])
            else:
                return awaited
        return None

    def _knows_asyncio(self) -> bool:
        tasks, futures = sys.modules.get("asyncio.tasks"), sys.modules.get("asyncio.futures")
        if tasks is not self._tasks or futures is not self._futures:
            self._tasks, self._futures, self._leads = tasks, futures, {}
            try:
                for function, callback, name in (
                    (futures._chain_future, "_call_check_cancel", "source"),  # type: ignore[union-attr]
                    (tasks.shield, "_outer_done_callback", "inner"),  # type: ignore[union-attr]
                ):
                    self._leads[_code_within(function, callback)] = name
            except (AttributeError, LookupError):
                pass  # not imported, not wholly, or not as we know it
        return bool(self._leads)

    def _lead(self, callbacks: list[Callable[..., Any]]) -> Any:
        for callback in islice(callbacks, CALLBACKS_LIMIT):
            name = self._leads.get(callback.__code__) if type(callback) is FunctionType else None
            if name is not None and callback.__closure__ is not None:
                return callback.__closure__[callback.__code__.co_freevars.index(name)].cell_contents
        return None


def _code_within(function: Any, name: str) -> CodeType:
    """The code of a function that is defined in another one."""
    for constant in function.__code__.co_consts:
        if getattr(constant, "co_name", None) == name:
            found: CodeType = constant
            return found
    raise LookupError(name)


def _call_of(coroutine: Any) -> SlotTask | None:
    """The call in a thread for which a coroutine waits; None if it waits for anything else."""
    for _ in range(DEPTH_LIMIT):
        if type(coroutine) is not CoroutineType:
            break
        name = THREAD_CALLS.get(coroutine.cr_code)
        if name is not None:
            frame = coroutine.cr_frame
            return None if frame is None else frame.f_locals.get(name)
        coroutine = coroutine.cr_await
    return None

"""What a thread that waits for a coroutine really waits for: read from the event loop's tasks, at no cost to them.

`asyncio.run_coroutine_threadsafe`, and so `anyio.from_thread.run`, chain the future that the thread waits for to a task
of the loop. That awaits, directly or through other tasks and `shield`, a future that is chained to one of an executor,
or a call that an adapter knows (`THREAD_CALLS`). Each step is recognised by exact types, and by the code of asyncio's
own callbacks, whose closure leads on. Where a step is none of these, such as a group of tasks, nothing is known.

A task that was seen on its way to a call is still there as long as that call has not started: so it need not be stopped
while we read.
"""

from __future__ import annotations

import sys
from itertools import islice
from types import CoroutineType, FunctionType

from poolscope.probe.interpreter import shapes
from poolscope.probe.interpreter.gil import gil_enabled
from poolscope.probe.interpreter.imports import in_flight

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType
    from typing import Any
    from weakref import ref

    from poolscope.probe.recording.recorder import PoolRecorder
    from poolscope.probe.recording.virtual_workers import VirtualWorkerTask

#: Code of the coroutines in which a task waits for a call in a thread -> the local name of its `VirtualWorkerTask`.
THREAD_CALLS: dict[CodeType, str] = {}

#: Code of the coroutines in which a task waits for a lock or semaphore -> gives the record of that; None: it does not
#: wait, or that is not recorded.
LIMIT_CALLS: dict[CodeType, Callable[[Any], PoolRecorder | None]] = {}

#: The event loops that are watched, by their `id`: a weak reference to each, and its number.
LOOPS: dict[int, tuple[ref[Any], int]] = {}

#: Steps from one future to the next, and from one coroutine to what it awaits.
STEPS_LIMIT = 20
DEPTH_LIMIT = 200
#: Callbacks of a future to look at: the one of a chain is among the first.
CALLBACKS_LIMIT = 4


def number_of(loop: Any) -> int:
    """Return the number of an event loop, 0 if it is not watched."""
    known = LOOPS.get(id(loop))
    return known[1] if known is not None and known[0]() is loop else 0


class Follower:
    """Follows futures through the event loops of this process. One reader at a time.

    Without the GIL tasks change while we look: then no future is followed. Since 3.14, asyncio
    tells in public what waits for a task, and not what a task waits for: it lists no future that is no task.
    """

    def __init__(self, base: Any, tell: Callable[[str], object] = lambda _: None) -> None:
        """Follow futures of `base`, the module of the standard future in use; `tell` of an unknown asyncio."""
        self._base = base
        self._tell = tell
        self._tasks: Any = None
        self._futures: Any = None
        #: The number of the event loop whose task was met last in the latest `follow`; 0: none that is watched.
        self.loop = 0
        self._gil = gil_enabled()
        # Code of a callback -> the name in its closure that holds what the future waits for.
        self._leads: dict[CodeType, str] = {}

    def loop_of(self, awaited: Any) -> Any:
        """Return the event loop that has to bring about the result of a standard future; None if there is none."""
        if not self._gil or not self._knows_asyncio() or type(awaited) is not self._base.Future:
            return None
        source = self._lead(awaited._done_callbacks)
        return source.get_loop() if type(source) in (self._tasks.Task, self._futures.Future) else None

    def follow(self, awaited: Any) -> Any:
        """Return what has to happen first, as far as we know: `awaited` itself if it waits for nothing; None if the
        chain has no end."""
        self.loop = 0
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
                self.loop = number_of(awaited.get_loop())
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
                if tasks is not None and futures is not None and not (in_flight(tasks) or in_flight(futures)):
                    self._leads = shapes.chains(tasks, futures)
                else:
                    self._tasks = self._futures = None  # not imported, or not wholly
            except shapes.Unfamiliar as reason:
                self._tell(shapes.missed("what a thread waits for in coroutines is not seen", reason))
        return bool(self._leads)

    def _lead(self, callbacks: list[Callable[..., Any]]) -> Any:
        for callback in islice(callbacks, CALLBACKS_LIMIT):
            name = self._leads.get(callback.__code__) if type(callback) is FunctionType else None
            if name is not None and callback.__closure__ is not None:
                return callback.__closure__[callback.__code__.co_freevars.index(name)].cell_contents
        return None


def _call_of(coroutine: Any) -> VirtualWorkerTask | PoolRecorder | None:
    """Return the call in a thread for which a coroutine waits, or the record of a limit; None if it waits for anything
    else."""
    for _ in range(DEPTH_LIMIT):
        if type(coroutine) is not CoroutineType:
            break
        name = THREAD_CALLS.get(coroutine.cr_code)
        if name is not None:
            frame = coroutine.cr_frame
            return None if frame is None else frame.f_locals.get(name)
        limit_of = LIMIT_CALLS.get(coroutine.cr_code)
        if limit_of is not None:
            return limit_of(coroutine)
        coroutine = coroutine.cr_await
    return None

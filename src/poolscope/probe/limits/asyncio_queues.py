"""asyncio's `Queue`, `PriorityQueue` and `LifoQueue` with tasks that take from them, as pools.

Replaced are the methods through which each item goes in and out, `_put` and `_get`. Ours do the same in as many steps,
and ask one question more: whether the queue is followed. Those of a `PriorityQueue`, where the items are compared, call
the standard ones. `_get_loop`, which is called by what is about to wait, tells of those that ask for an item in vain.
"""

from __future__ import annotations

import sys
from _thread import get_native_id
from functools import partial
from weakref import ref

from poolscope.probe.interpreter.shapes import asyncio_queues
from poolscope.probe.interpreter.tracebacks import leave_out
from poolscope.probe.limits.asyncio_locks import current_task
from poolscope.probe.limits.coroutines import place_of, stacks
from poolscope.probe.limits.queue_patch import QueueFamily, older
from poolscope.probe.limits.queue_registry import WorkQueues
from poolscope.probe.limits.stamps import stamps_for
from poolscope.probe.limits.work_queue import WorkQueue
from poolscope.probe.recording.virtual_workers import VirtualWorker

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from typing import Any

    from poolscope.probe.interpreter.cpu import CpuClocks
    from poolscope.probe.interpreter.stacks import Site
    from poolscope.probe.recording.recorder import PoolRecorder

MODULE = "asyncio.queues"
#: What runs the first task of a program gives it a callback whose name has this in it.
_RUNS_MAIN = "run_until_complete"

_getframe = sys._getframe


class TaskQueue(WorkQueue):
    """The record of a queue whose consumers are tasks of an event loop, and share its thread."""

    __slots__ = ("_cpu_ns", "_thread")

    def __init__(self, queues: WorkQueues, site: Site, stamps: Any, *, complete: bool) -> None:
        super().__init__(queues, site, stamps, _task_key(), complete=complete)
        self._thread = 0
        # What the thread had used when it was read last, and since the queue was opened (ns).
        self._cpu_ns = (-1, 0)

    def current(self) -> Any:
        """See `WorkQueue`, here and below."""
        return current_task()

    def outermost(self, taker: Any) -> FrameType | None:
        """Return the frame of the task's own coroutine: around it are those of the loop."""
        coroutine = taker.get_coro()
        frame: FrameType | None = getattr(coroutine, "cr_frame", None) or getattr(coroutine, "gi_frame", None)
        return frame

    def new_log(self, worker: int) -> VirtualWorker:
        """Return the log of a worker without a thread of its own."""
        return TaskLog(worker)

    def begin(self, log: VirtualWorker) -> None:  # noqa: ARG002 - it has no thread
        """Note which thread the loop is in."""
        self._thread = get_native_id()

    def met(self, frame: FrameType) -> None:
        """Look at whether it polls: then it does not wait, and `empty` has to tell that it asks in vain."""
        get, get_nowait = self.queues.askers
        if frame.f_code is get_nowait and (frame.f_back is None or frame.f_back.f_code is not get):
            _hear_polls()

    def has_ended(self, taker: Any) -> bool:
        """Whether a task is done."""
        return bool(taker.done())

    def is_main(self, taker: Any) -> bool:
        """Whether a loop was started to run this task."""
        callbacks = getattr(taker, "_callbacks", None) or ()
        return any(_RUNS_MAIN in getattr(callback, "__qualname__", "") for callback, _ in callbacks)

    def attach(self, queue: Any, recorder: PoolRecorder) -> None:
        """Have it read where the tasks are, and what their thread uses."""
        recorder.look = partial(_look, self, ref(queue))
        recorder.cpu = self._used

    def _used(self, clocks: CpuClocks) -> int:
        """Return what the thread of the loop has used since the first reading: no consumer has used more."""
        now = clocks.thread(self._thread)
        before, used = self._cpu_ns
        if now is not None:
            used += max(0, now - before) if before >= 0 else 0
            self._cpu_ns = now, used
        return used


def _task_key() -> Callable[[], int]:
    """Return what gives the `id` of the task at work, or another number outside of a loop."""
    current = getattr(sys.modules.get("asyncio.tasks"), "current_task", current_task)

    def key() -> int:
        try:
            return id(current())
        except RuntimeError:
            return 0

    return key


class TaskLog(VirtualWorker):
    """What one consumer did."""

    __slots__ = ()

    def delay_now(self, clocks: CpuClocks) -> int | None:  # noqa: ARG002 - it has no thread
        """See `WorkerLog.delay_now`."""
        return None


def _look(record: TaskQueue, weak: ref[Any], most: int) -> tuple[list[Any], list[Any]]:
    """Return where the consumers are that have an item, and the tasks that wait for room or for the end of all items
    (see `PoolRecorder.look`)."""
    held: dict[Any, list[int]] = {}
    for consumer in list(record.consumers.values())[:most]:
        task, running = consumer.taker(), consumer.log.running
        if task is None or running is None:
            continue
        lines, spot, gate = place_of(task, {})
        # It went on while we read.
        if lines and consumer.log.running is running:
            held.setdefault((tuple(lines), spot, gate), []).extend((consumer.log.worker, running[0], running[2]))
    waiting: dict[Any, list[int]] = {}
    queue = weak()
    if queue is not None:
        for gate, futures in (("put", queue._putters), ("join", queue._finished._waiters)):
            for task in _waits_for(list(futures)[:most]):
                lines, spot, _ = place_of(task, {})
                if lines:
                    waiting.setdefault((tuple(lines), spot, gate), []).extend((0, 0, 0))
    return stacks(held), stacks(waiting)


def _waits_for(futures: list[Any]) -> list[Any]:
    """Return the tasks that wait for one of these futures: the callback that wakes a task up is bound to it."""
    callbacks = [callback for future in futures for callback, _ in future._callbacks or ()]
    tasks = [getattr(callback, "__self__", None) for callback in callbacks]
    return [task for task in tasks if hasattr(task, "get_coro")]


def _items(queue: Any) -> Any:
    return queue._queue


def _follow(queues: WorkQueues, queue: Any, site: Site, complete: bool) -> WorkQueue:
    stamps = stamps_for(queue, _family.module)
    return TaskQueue(queues, site, stamps, complete=complete)


def _may_begin(_: FrameType | None) -> bool:
    _family.start()
    return True


def _put(self: Any, item: Any) -> None:
    try:
        record = self._poolscope_items
    except AttributeError:
        record = older(self)
    if record is not None:
        record.arrives(self, item, len(self._queue))
    self._queue.append(item)


def _get(self: Any) -> Any:
    try:
        record = self._poolscope_items
    except AttributeError:
        record = older(self)
    if record is not None:
        items = self._queue
        record.takes(self, items[0], len(items))
    return self._queue.popleft()


def _get_last(self: Any) -> Any:
    try:
        record = self._poolscope_items
    except AttributeError:
        record = older(self)
    if record is not None:
        items = self._queue
        record.takes(self, items[-1], len(items))
    return self._queue.pop()


def _empty(self: Any) -> bool:
    if self._queue:
        return False
    try:
        record = self._poolscope_items
    except AttributeError:
        record = older(self)
    if record is not None:
        record.asks(self, _getframe(1))
    return True


def _hear_polls() -> None:
    """Replace `empty`, which most programs need not pay for."""
    if _family.lock.acquire(blocking=False):  # another thread that holds it takes the patch off
        try:
            patch, queue = _family.patch, _family.module.Queue
            if patch is not None and queue.empty is not _empty:
                patch.put(queue, "empty", _empty)
        finally:
            _family.lock.release()


def _methods(module: Any) -> dict[Any, dict[str, Any]]:
    """Return what takes the place of the standard methods, by class."""
    put_in_order, take_in_order = module.PriorityQueue._put, module.PriorityQueue._get
    get_loop = module.Queue._get_loop

    def _get_loop(self: Any) -> Any:
        try:
            loop = get_loop(self)
        except BaseException as exc:
            leave_out(exc)
            raise
        try:
            record = self._poolscope_items
        except AttributeError:
            record = older(self)
        if record is not None:
            record.asks(self, _getframe(1))
        return loop

    def _put_by_order(self: Any, item: Any) -> None:
        try:
            record = self._poolscope_items
        except AttributeError:
            record = older(self)
        if record is not None:
            record.arrives(self, item, len(self._queue))
        try:
            put_in_order(self, item)
        except BaseException as exc:
            leave_out(exc)
            raise

    def _get_by_order(self: Any) -> Any:
        try:
            record = self._poolscope_items
        except AttributeError:
            record = older(self)
        if record is not None:
            items = self._queue
            record.takes(self, items[0], len(items))
        try:
            return take_in_order(self)
        except BaseException as exc:
            leave_out(exc)
            raise

    return {
        module.Queue: {"_get_loop": _get_loop, "_put": _put, "_get": _get},
        module.LifoQueue: {"_put": _put, "_get": _get_last},
        module.PriorityQueue: {"_put": _put_by_order, "_get": _get_by_order},
    }


_family = QueueFamily(MODULE, WorkQueues(_follow, _items, _may_begin), check=asyncio_queues, methods=_methods)


def patch(probe: Any) -> None:
    """Watch the queues of asyncio that are made from now on."""
    _family.on(probe)


def unpatch() -> None:
    """Put everything back as it was. Does nothing if nothing is patched."""
    _family.off()

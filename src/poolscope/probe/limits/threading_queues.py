"""`queue.Queue`, `PriorityQueue` and `LifoQueue` with threads that take from them, as pools.

Replaced are the methods through which each item goes in and out, `_put` and `_get`, and by which a queue sees how many
there are, `_qsize`; all are called with the lock of the queue in hand. Ours do the same in as many steps, and ask one
question more: whether the queue is followed. Those of a `PriorityQueue`, where the items are compared, call the
standard ones. `SimpleQueue` is written in C, and not seen.
"""

from __future__ import annotations

import sys
import threading
from _thread import get_ident
from functools import partial
from weakref import ref

from poolscope.probe.interpreter.shapes import threading_queues
from poolscope.probe.interpreter.stacks import is_user_file, user_place
from poolscope.probe.interpreter.tracebacks import leave_out
from poolscope.probe.interpreter.unpatched import current_frames, replaced
from poolscope.probe.limits.coroutines import stacks
from poolscope.probe.limits.queue_patch import QueueFamily, older
from poolscope.probe.limits.queue_registry import WorkQueues
from poolscope.probe.limits.stamps import stamps_for
from poolscope.probe.limits.work_queue import WorkQueue
from poolscope.probe.recording.pool_watch import in_task
from poolscope.probe.recording.virtual_workers import ThreadBinding
from poolscope.probe.sampling.waits import self_of, traced

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType
    from typing import Any

    from poolscope.probe.interpreter.stacks import Site
    from poolscope.probe.recording.recorder import PoolRecorder
    from poolscope.probe.recording.virtual_workers import VirtualWorker

MODULE = "queue"

_getframe = sys._getframe


class _Sign:
    """A thread, for as long as it lives."""

    __slots__ = ("__weakref__", "ident")

    def __init__(self) -> None:
        self.ident = get_ident()


class _Thread(threading.local):
    def __init__(self) -> None:
        self.sign = _Sign()


_thread = _Thread()


class ThreadQueue(WorkQueue):
    """The record of a queue whose consumers are threads."""

    __slots__ = ()

    def current(self) -> Any:
        """See `WorkQueue`, here and below."""
        return _thread.sign

    def new_log(self, worker: int) -> VirtualWorker:
        """Return the log of a worker that a thread has for as long as it takes items."""
        return ThreadBinding(worker, self.free)

    def begin(self, log: Any) -> None:
        """Note that the calling thread has it."""
        log.enter()

    def leave(self, log: Any) -> None:
        """Note that its thread has ended."""
        log.depart(-1)

    def is_main(self, taker: Any) -> bool:
        """Whether it is the main thread."""
        return bool(taker.ident == threading.main_thread().ident)

    def is_at_work(self) -> bool:
        """Whether the calling thread is in a task of a pool."""
        return in_task()

    def attach(self, queue: Any, recorder: PoolRecorder) -> None:
        """Have it read what waits for room, or for the end of all items."""
        recorder.waiting = partial(_waiting, ref(queue))


def _waiting(weak: ref[Any], most: int) -> list[Any]:
    """Return where the threads are that wait in `put` or `join` (see `PoolRecorder.waiting`)."""
    queue = weak()
    if queue is None or traced() or not (queue.not_full._waiters or queue.all_tasks_done._waiters):
        return []
    gates = {_family.module.Queue.put.__code__: "put", _family.module.Queue.join.__code__: "join"}
    found: dict[Any, list[int]] = {}
    frames = current_frames()
    frame = caller = None
    try:
        for frame in frames.values():
            caller = frame.f_back if frame.f_code is threading.Condition.wait.__code__ else None
            gate = "" if caller is None else gates.get(caller.f_code, "")
            if caller is not None and gate and self_of(caller) is queue:
                lines, spot = user_place(frame)
                found.setdefault((tuple(lines), spot, gate), []).extend((0, 0, 0))
                if len(found) >= most:
                    break
    finally:
        # A frame that we held would keep the locals of the user's threads alive.
        del frame, caller, frames
    return stacks(found)


def _items(queue: Any) -> Any:
    return queue.queue


def _follow(queues: WorkQueues, queue: Any, site: Site, complete: bool) -> WorkQueue:
    stamps = stamps_for(queue, _family.module)
    return ThreadQueue(queues, site, stamps, get_ident, complete=complete)


def _by_user(frame: FrameType | None) -> bool:
    """Whether the user has called the method of a queue that this frame is in: what only libraries use is theirs.
    Greenlets in the place of threads would all be one."""
    if replaced():
        return False
    names = _family.module.__dict__
    while frame is not None and frame.f_globals is names:
        frame = frame.f_back
    return frame is not None and is_user_file(frame.f_code.co_filename)


def _qsize(self: Any) -> int:
    items = len(self.queue)
    if not items:
        try:
            record = self._poolscope_items
        except AttributeError:
            record = older(self)
        if record is not None:
            record.asks(self, _getframe(1))
    return items


def _put(self: Any, item: Any) -> None:
    try:
        record = self._poolscope_items
    except AttributeError:
        record = older(self)
    if record is not None:
        record.arrives(self, item, len(self.queue))
    self.queue.append(item)


def _get(self: Any) -> Any:
    try:
        record = self._poolscope_items
    except AttributeError:
        record = older(self)
    if record is not None:
        items = self.queue
        record.takes(self, items[0], len(items))
    return self.queue.popleft()


def _get_last(self: Any) -> Any:
    try:
        record = self._poolscope_items
    except AttributeError:
        record = older(self)
    if record is not None:
        items = self.queue
        record.takes(self, items[-1], len(items))
    return self.queue.pop()


def _methods(module: Any) -> dict[Any, dict[str, Any]]:
    """Return what takes the place of the standard methods, by class."""
    put_in_order, take_in_order = module.PriorityQueue._put, module.PriorityQueue._get

    def _put_by_order(self: Any, item: Any) -> None:
        try:
            record = self._poolscope_items
        except AttributeError:
            record = older(self)
        if record is not None:
            record.arrives(self, item, len(self.queue))
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
            items = self.queue
            record.takes(self, items[0], len(items))
        try:
            return take_in_order(self)
        except BaseException as exc:
            leave_out(exc)
            raise

    return {
        module.Queue: {"_qsize": _qsize, "_put": _put, "_get": _get},
        module.LifoQueue: {"_qsize": _qsize, "_put": _put, "_get": _get_last},
        module.PriorityQueue: {"_qsize": _qsize, "_put": _put_by_order, "_get": _get_by_order},
    }


_family = QueueFamily(MODULE, WorkQueues(_follow, _items, _by_user), check=threading_queues, methods=_methods)


def patch(probe: Any) -> None:
    """Watch the queues of threads that are made from now on."""
    if not replaced():  # by greenlets, which we would take for one thread
        _family.on(probe)


def unpatch() -> None:
    """Put everything back as it was. Does nothing if nothing is patched."""
    _family.off()

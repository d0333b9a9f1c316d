"""What goes on between the tasks of pools: callbacks of tasks that ended, the threads that send tasks and take results,
and results that wait for a slow consumer. Read from frames and clocks, at no cost to any task.

A callback of a future runs in the thread that gave the future its result: a worker, after its task, or the thread of a
pool of processes that takes the results. The code of the standard method that calls it shows it. It counts only if it
runs a line of the program: a library's callback, such as an event loop's, is a part of handing over.
"""

from __future__ import annotations

import sys

from poolscope.probe.interpreter import shapes
from poolscope.probe.interpreter.imports import in_flight
from poolscope.probe.interpreter.unpatched import current_frames
from poolscope.probe.recording.recorder import WorkerLog
from poolscope.probe.recording.worker_clocks import DELAY_INTERVAL_NS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType, FrameType
    from typing import Any

    from poolscope.probe.interpreter.cpu import CpuClocks
    from poolscope.probe.recording.registry import PoolWatch
    from poolscope.probe.transport.dispatcher import Message

    Line = tuple[str, int, str]

#: Frames to look at, from the innermost outwards.
DEPTH_LIMIT = 200
#: The most workers of a pool to look at.
WORKERS_LIMIT = 64
#: Looking may take one part in so many of a core.
COST_FACTOR = 200


class HandoverSampler:
    """Looks at pools in which tasks are queued. Rests to keep to its part of a core.

    One reader at a time; the threads that it looks at go on meanwhile.
    """

    def __init__(self, clocks: CpuClocks, current_frames: Callable[[], dict[int, FrameType]] = current_frames) -> None:
        self._clocks = clocks
        self._current_frames = current_frames
        self._user_place: Callable[..., tuple[list[Line], int]] | None = None
        self._is_user_file: Callable[[str], bool] = bool
        # The modules whose codes are known.
        self._modules: tuple[Any, Any] = (None, None)
        self._calling: frozenset[CodeType] = frozenset()
        self._taking: frozenset[CodeType] = frozenset()
        self._rested_ns = 0
        # By pool: how long its threads were ready to run, and when that was read.
        self._delays: dict[int, tuple[int, tuple[int, int]]] = {}

    def sample(self, watches: list[PoolWatch], now_ns: int) -> list[Message]:
        """Return a `handover` message for each of these pools that has something to report."""
        if now_ns < self._rested_ns or not watches:
            return []
        before = self._clocks.own()
        if self._user_place is None:
            from poolscope.probe.interpreter.stacks import is_user_file, user_place

            self._user_place, self._is_user_file = user_place, is_user_file
        self._learn()
        present = {watch.recorder.id for watch in watches}
        self._delays = {pool: known for pool, known in self._delays.items() if pool in present}
        messages: list[Message] = []
        frames = self._current_frames()
        try:
            for watch in watches:
                message = self._look(watch, frames, now_ns)
                if message is not None:
                    messages.append(message)
        finally:
            # A frame that we held would keep the locals of the program's functions alive.
            frames.clear()
        self._rested_ns = now_ns + COST_FACTOR * (self._clocks.own() - before)
        return messages

    def _learn(self) -> None:
        """Find the codes of the methods that call back or wait for a result, in the modules that are in use now."""
        base, pools = sys.modules.get("concurrent.futures._base"), sys.modules.get("multiprocessing.pool")
        if (base, pools) == self._modules or any(each is not None and in_flight(each) for each in (base, pools)):
            return
        self._modules = base, pools
        calling, taking = [], []
        if base is not None:
            calling += shapes.codes(base.Future, ["_invoke_callbacks"])
            taking += shapes.codes(base.Future, ["result", "exception"]) + shapes.codes(base, ["as_completed"])
        if pools is not None:
            calling += shapes.codes(pools.ApplyResult, ["_set"]) + shapes.codes(pools.MapResult, ["_set"])
            taking += shapes.codes(pools.IMapIterator, ["next"])
        self._calling, self._taking = frozenset(calling), frozenset(taking)

    def _look(self, watch: PoolWatch, frames: dict[int, FrameType], now_ns: int) -> Message | None:
        recorder = watch.recorder
        callbacks = []
        idle = [
            log for log in list(recorder.workers) if type(log) is WorkerLog and not log.left and log.running is None
        ]
        for log in idle[:WORKERS_LIMIT]:
            lines = self._callback(frames.get(log.ident))
            # The thread went on while we read. If it is in another task, that was before.
            if lines and log.running is None:
                callbacks.append(lines)
        sender, receiver = (None, None) if recorder.hands is None else recorder.hands()
        receiving = None if receiver is None else self._callback(frames.get(receiver.ident))
        taking = [found for each in list(recorder.taking.values()) if (found := self._take(each, frames)) is not None]
        if not callbacks and receiver is None and not taking:
            return None
        sent, received = self._used(sender), self._used(receiver)
        ready = self._ready(recorder.id, sender, receiver, now_ns)
        ended: list[int] = []
        for log in list(recorder.workers) if receiver is not None else ():
            under_way = getattr(log, "under_way", None)  # of worker processes
            ended += (under_way and under_way()) or ()
        numbers = sent, received, *recorder.returned
        return "handover", recorder.id, now_ns, callbacks, receiving, *numbers, taking, *ready, ended

    def _used(self, thread: Any) -> int:
        native_id = getattr(thread, "native_id", None)
        used = None if native_id is None else self._clocks.thread(native_id)
        return -1 if used is None else used

    def _ready(self, pool: int, sender: Any, receiver: Any, now_ns: int) -> tuple[int, int]:
        """Return how long the threads of a pool were ready to run. Reads rarely, as each reading gives the GIL away."""
        at_ns, known = self._delays.get(pool, (now_ns - DELAY_INTERVAL_NS, (0, 0)))
        if now_ns - at_ns >= DELAY_INTERVAL_NS:
            natives = getattr(sender, "native_id", None), getattr(receiver, "native_id", None)
            sent, received = (0 if native is None else self._clocks.delay(native) or 0 for native in natives)
            known = sent, received
            self._delays[pool] = now_ns, known
        return known

    def _callback(self, frame: FrameType | None) -> list[Line]:
        """Return the program's line in the callback that a thread runs; empty if it runs none of the program's."""
        innermost, outermost = frame, None
        for _ in range(DEPTH_LIMIT):
            if frame is None:
                break
            if frame.f_code in self._calling:
                outermost = frame
            frame = frame.f_back
        if outermost is None:
            return []
        return self._place(innermost, id(outermost))

    def _place(self, frame: FrameType | None, stop: int | None = None) -> list[Line]:
        assert self._user_place is not None
        lines, _ = self._user_place(frame, stop)
        return lines if lines and self._is_user_file(lines[0][0]) else []

    def _take(self, results: Any, frames: dict[int, FrameType]) -> tuple[int, list[Line]] | None:
        """Return how many results wait in an iterator, and the lines of the thread that takes them."""
        waiting, ident = results.waiting()
        if waiting is None:
            return None
        frame = innermost = frames.get(ident)
        here = results.code is None
        for _ in range(DEPTH_LIMIT):
            if frame is None:
                break
            if frame.f_code in self._taking:
                return waiting, []
            here = here or frame.f_code is results.code
            frame = frame.f_back
        return waiting, self._place(innermost) if here else []

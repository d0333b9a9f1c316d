"""Which workers are in one task for long, whether they make progress, and whether anything waits for their tasks.

Reads pools that are full or have a task that lasts, now and then and at no cost to any task: the clocks of the threads,
their frames, and the futures of their tasks. Drops frames and futures before `sample` returns.
"""

from __future__ import annotations

import sys
import threading
from _thread import get_ident
from functools import partial
from weakref import ref

from poolscope.probe.interpreter import shapes
from poolscope.probe.interpreter.unpatched import current_frames
from poolscope.probe.recording import given_up
from poolscope.probe.recording.pool_watch import RUN_CODES
from poolscope.probe.sampling.waits import DEPTH_LIMIT, self_of, traced

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType, FrameType
    from typing import Any

    from poolscope.probe.interpreter.cpu import CpuClocks
    from poolscope.probe.recording.recorder import PoolRecorder, WorkerLog
    from poolscope.probe.recording.registry import PoolWatch
    from poolscope.probe.transport.dispatcher import Message

    #: Function, and when it was submitted and started (ns).
    Task = tuple[int, int, int]
    #: Of `Condition.wait`, and of what waits there for a future.
    _Codes = tuple[CodeType, tuple[CodeType, CodeType]]

#: A shorter task does not hold its worker.
HELD_NS = 1_000_000_000
#: The most futures to remember that threads waited for.
ASKED_LIMIT = 4_000
#: A future counts as abandoned once nothing has waited for it this long: something may ask for it again.
GIVEN_UP_NS = 1_000_000_000
#: The most workers of a pool to look at, and to read the frames of.
WORKERS_LIMIT = 256
FUTURES_LIMIT = 64
#: Readings that are further apart are not compared.
STALE_NS = 2_500_000_000
#: It may take one part in so many of a core.
COST_FACTOR = 200


class HeldReader:
    """Reads held workers. One reader at a time; the workers go on meanwhile."""

    def __init__(self, clocks: CpuClocks, current_frames: Callable[[], dict[int, FrameType]] = current_frames) -> None:
        self._clocks = clocks
        self._current_frames = current_frames
        self._rested_ns = 0
        self._read_ns = 0
        # Where each thread was: its frame, by identity, and the instruction.
        self._places: dict[int, tuple[int, int]] = {}
        # By identity: a future, held weakly, when a thread was last seen to wait for it, and whether that was
        # after a time without any.
        self._asked: dict[int, tuple[ref[Any], int, bool]] = {}
        self._base: Any = None
        self._codes: _Codes | None = None
        self._turn = 0

    def sample(self, watches: list[PoolWatch], now_ns: int) -> list[Message]:
        """Return a `held` message for each of these pools that has workers in tasks, unless it rests."""
        if now_ns < self._rested_ns or not watches:
            return []
        before = self._clocks.own()
        self._turn += 1
        messages: list[Message] = []
        frames = self._current_frames()
        try:
            moved = self._moved(frames, now_ns)
            self._note_asked(frames, now_ns)
            for watch in watches:
                busy = [(log, task) for log in list(watch.recorder.workers) if (task := log.running) is not None]
                if not busy:
                    continue
                workers: list[int] = []
                unwanted = self._unwanted(watch, busy, frames, now_ns)
                for log, task in busy[:WORKERS_LIMIT]:
                    old = now_ns - task[2] >= HELD_NS
                    if old or log.worker in unwanted:
                        used = self._clocks.thread(log.native_id) if old and log.native_id else None
                        workers += (log.worker, task[2], -1 if used is None else used, int(log.worker in unwanted))
                still = moved is not None and not moved - {log.ident for log, _ in busy}
                messages.append(("held", watch.recorder.id, now_ns, workers, still))
        finally:
            frames.clear()
        self._read_ns = now_ns
        self._rested_ns = now_ns + COST_FACTOR * (self._clocks.own() - before)
        return messages

    def _moved(self, frames: dict[int, FrameType], now_ns: int) -> set[int] | None:
        """Return the threads that have moved, started or ended since the last reading; None if that is not known."""
        ours = get_ident()
        # A frame that a thread is in keeps its place in memory until the thread leaves it.
        places = {ident: (id(frame), frame.f_lasti) for ident, frame in frames.items() if ident != ours}
        before, self._places = self._places, places
        if not self._read_ns or now_ns - self._read_ns > STALE_NS:
            return None
        return {ident for ident, place in places.items() if before.get(ident) != place} | (
            before.keys() - places.keys()
        )

    def _note_asked(self, frames: dict[int, FrameType], now_ns: int) -> None:
        """Note the futures that threads are in `result` or `exception` of. What leaves these while the task is not done
        has given up. `wait` and `as_completed` are left for other futures too, and callbacks wait for nothing."""
        codes = self._known_codes()
        if codes is None or traced():
            return
        if len(self._asked) >= ASKED_LIMIT:
            self._forget_done()
        for frame in frames.values():
            caller = frame.f_back if frame.f_code is codes[0] else None
            if caller is None or caller.f_code not in codes[1]:
                continue
            future = self_of(caller)
            if isinstance(future, self._base.Future) and (len(self._asked) < ASKED_LIMIT or id(future) in self._asked):
                key = id(future)
                before = self._asked.get(key)
                again = before is not None and (before[2] or now_ns - before[1] >= GIVEN_UP_NS)
                self._asked[key] = ref(future, partial(_forget, self._asked, key)), now_ns, again

    def _forget_done(self) -> None:
        """Drop futures that are done: the program may keep its results."""
        for key, (weak, _, _) in list(self._asked.items()):
            future = weak()
            if future is None or future._state not in ("PENDING", "RUNNING"):
                self._asked.pop(key, None)

    def _known_codes(self) -> _Codes | None:
        # Tools that unload and re-import modules exist: what counts is the module that is in use now.
        base = sys.modules.get("concurrent.futures._base")
        if base is not self._base:
            self._base, self._codes = base, None
            try:
                shapes.waiting(threading, base)
                assert base is not None
                result, exception = base.Future.result.__code__, base.Future.exception.__code__
                self._codes = threading.Condition.wait.__code__, (result, exception)
            except (shapes.Unfamiliar, AttributeError):
                pass  # `waits` says so
        return self._codes

    def _unwanted(
        self, watch: PoolWatch, busy: list[tuple[WorkerLog, Task]], frames: dict[int, FrameType], now_ns: int
    ) -> set[int]:
        """Return the workers in tasks that nothing waits for any more."""
        unwanted = {log.worker for log, task in busy if getattr(log, "abandoned", None) is task}
        if traced() or not (self._asked or given_up.any_noted()):
            return unwanted
        recorder = watch.recorder
        start = self._turn * FUTURES_LIMIT % len(busy) if len(busy) > FUTURES_LIMIT else 0
        for log, task in (busy[start:] + busy[:start])[:FUTURES_LIMIT]:
            future = recorder.future_of(log) if recorder.future_of is not None else _run_in(frames, log)
            if future is None or log.running != task:
                continue
            since_ns = self._wanted_until(future, recorder)
            if given_up.is_noted(future) or (since_ns is not None and now_ns - since_ns >= GIVEN_UP_NS):
                unwanted.add(log.worker)
        return unwanted

    def _wanted_until(self, future: Any, recorder: PoolRecorder) -> int | None:
        """Return when the last waiter of a future gave up; None if something may still wait, or nothing ever did."""
        asked = self._asked.get(id(future))
        if asked is not None and asked[0]() is not future:
            asked = None
        # A thread that polls has not given up, and a callback still takes the result.
        if (asked is not None and asked[2]) or future._waiters or _has_callbacks(future, recorder):
            return None
        until_ns = given_up.asked_until(future)
        if asked is None or until_ns is None:
            return until_ns if asked is None else asked[1]
        return max(asked[1], until_ns)


def _forget(asked: dict[int, tuple[ref[Any], int, bool]], key: int, _: object) -> None:
    asked.pop(key, None)


def _has_callbacks(future: Any, recorder: PoolRecorder) -> bool:
    """Whether the program has a callback on the future. A process pool's future also has one of ours."""
    # The drop-in future creates the list on first use.
    callbacks = future._callbacks if hasattr(type(future), "_callbacks") else future._done_callbacks
    return len(callbacks or ()) > (recorder.future_of is not None)


def _run_in(frames: dict[int, FrameType], log: WorkerLog) -> Any:
    """Return the future of the task that a worker is in; None if it is not found."""
    frame = frames.get(log.ident)
    for _ in range(DEPTH_LIMIT):
        if frame is None:
            return None
        if frame.f_code in RUN_CODES:
            item = self_of(frame)
            return getattr(item, "future", None)
        frame = frame.f_back
    return None

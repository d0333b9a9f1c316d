"""What the workers of pools wait for: read from their frames, at no cost to any task.

A thread that waits for a future is in `Condition.wait`, called by `Future.result` or `Future.exception`, or by
`Event.wait` for `concurrent.futures.wait` or `as_completed`. Those are recognised by their code objects, and their
local names lead to the futures. The frame that runs a work item (`RUN_CODES`) shows what a worker runs.

The future of a wait that is over is done by the time we look: so each reported wait is one, except that a timeout may
have passed in between. The future of a coroutine leads on to what that waits for (`coroutines`). Libraries that wait in
their own ways are listed in `WAITS`. Frames and futures are dropped before `read` returns.
"""

from __future__ import annotations

import sys
import threading
from functools import partial
from itertools import islice
from types import MethodType

from poolscope.probe.interpreter import shapes
from poolscope.probe.interpreter.imports import in_flight
from poolscope.probe.interpreter.unpatched import current_frames, replaced
from poolscope.probe.recording.pool_watch import AWAITED, CALLS, CLAIM, FUTURES, RUN_CODES, WAITS, Room
from poolscope.probe.recording.recorder import PoolRecorder
from poolscope.probe.recording.virtual_workers import VirtualWorkerTask
from poolscope.probe.sampling.coroutines import Follower

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType, FrameType
    from typing import Any

    from poolscope.probe.recording.recorder import WorkerLog
    from poolscope.probe.recording.registry import PoolWatch

    #: When the wait is over, as `concurrent.futures.wait` says it, and what for: futures, tasks, a `Room`, the record
    #: of a limit; None: one that we know nothing of.
    Waiting = tuple[str, list[Any]]
    #: Pool, worker, its task, and what it waits for.
    Found = tuple[int, WorkerLog, tuple[int, int, int], Waiting]
    #: As messages have it: pool, worker (0: in no worker that we know).
    Target = tuple[int, int]

#: Futures looked at in one sample.
FUTURES_LIMIT = 4000
#: Callbacks of a future to look at: ours is its first.
CALLBACKS_LIMIT = 4
#: Frames to look through for what a worker runs, from the innermost outwards.
DEPTH_LIMIT = 200

_UNKNOWN: Target = (0, 0)
_DONE = ("CANCELLED", "CANCELLED_AND_NOTIFIED", "FINISHED")
_ALL, _FIRST, _FAILED = "ALL_COMPLETED", "FIRST_COMPLETED", "FIRST_EXCEPTION"

_LIVE_LOCALS = shapes.live_locals()


def self_of(frame: FrameType) -> Any:
    """Return what the name `self` stands for in a frame."""
    if _LIVE_LOCALS:
        return frame.f_locals.get("self")
    # The frame keeps a copy of the names, while the function sets `self` to None before it raises what the future
    # holds: the copy would keep the future alive, as part of a cycle, with the traceback.
    return frame.f_locals.pop("self", None)


def traced() -> bool:
    """Whether it is unsafe to read the names of frames now."""
    # While a trace function runs, what is missing in the copy is deleted in the frame.
    return not _LIVE_LOCALS and (threading.gettrace() is not None or threading.getprofile() is not None)


def future_of(frame: FrameType) -> Any:
    """Return the future that a frame of `Future.result` or `.exception` waits for; None where looking is unsafe."""
    return None if traced() else self_of(frame)


class _Codes:
    """The code objects of the functions that wait, by what they wait for. Raises Unfamiliar."""

    def __init__(self, base: Any, tell: Callable[[str], object]) -> None:
        shapes.waiting(threading, base)
        self.condition: CodeType = threading.Condition.wait.__code__
        self.event: CodeType = threading.Event.wait.__code__
        self.future: tuple[CodeType, ...] = (base.Future.result.__code__, base.Future.exception.__code__)
        self.wait: CodeType = base.wait.__code__
        self.as_completed: CodeType = base.as_completed.__code__
        self.follower = Follower(base, tell)


class WaitReader:
    """Reads the waits of all pools. One reader at a time."""

    def __init__(
        self,
        current_frames: Callable[[], dict[int, FrameType]] = current_frames,
        tell: Callable[[str], object] = lambda _: None,
    ) -> None:
        """`tell` gets a line about an unknown standard library: then no waits are read."""
        self._current_frames = current_frames
        self._tell = tell
        self._base: Any = None
        self._codes: _Codes | None = None
        self._budget = 0
        # Of the event loops whose coroutines the latest thread waits for: their numbers, 0 for none.
        self._loops: set[int] = set()

    def read(self, full: list[PoolWatch], everyone: list[PoolWatch]) -> list[list[Any]]:
        """Return the waits, as a `waits` message has them: none unless a worker of a full pool waits for a future."""
        # Tools that unload and re-import modules exist: what counts is the module that is in use now.
        base = sys.modules.get("concurrent.futures._base")
        if base is None or traced() or not self._knows(base):
            return []
        self._budget = FUTURES_LIMIT
        frames = self._current_frames()
        found: list[Found] = []
        try:
            for watch in full:
                self._find(watch, frames, found)
            if not found:
                return []
            for watch in everyone:
                if watch not in full:
                    self._find(watch, frames, found)
            limits = {watch.recorder.id for watch in everyone if watch.recorder.holders is not None}
            running: dict[int, Target] | None = None
            told: list[list[Any]] = []
            for pool, log, task, (until, awaited) in found:
                self._loops = set()
                futures = [self._follow(each) for each in awaited]
                if running is None and any(map(_runs, futures)):
                    running = running_in(everyone, frames)
                targets = _targets(until, futures, running or {})
                if pool in limits and _UNKNOWN in targets:
                    continue  # of what holds a limit only that matters
                # The thread went on while we read: it may have stopped waiting, or wait in another task.
                if targets and log.running is task:
                    since = max(task[2], *targets.values())
                    loop = [] if pool in limits else self._loop
                    told.append([pool, log.worker, task[2], since, until != _ALL, list(targets), *loop])
            return told
        finally:
            # What we held would keep the locals of the user's tasks alive, and their futures.
            futures = awaited = []
            found.clear()
            frames.clear()

    def _knows(self, base: Any) -> bool:
        if base is not self._base:
            if in_flight(base):
                return False
            self._base, self._codes = base, None
            try:
                self._codes = _Codes(base, self._tell)
            except shapes.Unfamiliar as reason:
                if not replaced():  # greenlets have no frames among those of the threads
                    self._tell(shapes.missed("what workers wait for is not seen", reason))
        return self._codes is not None

    def _find(self, watch: PoolWatch, frames: dict[int, FrameType], found: list[Found]) -> None:
        if watch.recorder.holders is not None:
            self._find_holders(watch.recorder, frames, found)
            return
        for log in list(watch.recorder.workers):
            task = log.running
            frame = None if task is None else frames.get(log.ident)
            # An abandoned task blocks no one and frees no slot.
            if task is not None and frame is not None and getattr(log, "abandoned", None) is not task:
                limit = AWAITED.get(log.ident) if AWAITED else None
                waiting = self._futures(frame) if limit is None else (_ALL, [limit])
                if waiting is not None:
                    found.append((watch.recorder.id, log, task, waiting))

    def _find_holders(self, recorder: PoolRecorder, frames: dict[int, FrameType], found: list[Found]) -> None:
        """Find what the holders of a limit wait for: tasks of an event loop, or threads by their identifiers."""
        assert recorder.holders is not None
        for log, task, holder in recorder.holders():
            frame = frames.get(holder) if type(holder) is int else None
            waiting = self._futures(frame) if frame is not None else None
            if type(holder) is not int:
                waiting = _ALL, [holder]
            if waiting is not None:
                found.append((recorder.id, log, task, waiting))

    def _futures(self, frame: FrameType) -> Waiting | None:
        """Return what a thread waits for; of several, those that were not done when it began to."""
        codes = self._codes
        assert codes is not None
        caller = frame.f_back if frame.f_code is codes.condition else None
        if caller is None:
            return None
        if caller.f_code in codes.future:
            return _ALL, self._some([self_of(caller)])
        told = WAITS.get(caller.f_code)
        if told is not None:
            awaited = told(caller)
            return None if awaited is None else (_FIRST, [awaited])
        caller = caller.f_back if caller.f_code is codes.event else None
        if caller is None:
            return None
        if caller.f_code is codes.wait:
            names = caller.f_locals
            return names.get("return_when", _FIRST), self._some(names.get("not_done", ()))
        if caller.f_code is codes.as_completed:
            return _FIRST, self._some(caller.f_locals.get("pending", ()))
        return None

    def _some(self, futures: Any) -> list[Any]:
        """Return as many as the sample may look at; None for one of an unknown kind, and last if there are more."""
        known = self._known()
        try:
            some = list(islice(futures, self._budget))
        except RuntimeError:
            return [None]  # without the GIL: the thread waits no more, and takes out what is done
        self._budget -= len(some)
        # Of any other class we would run code that is not the standard library's.
        some = [future if type(future) in known else None for future in some]
        return some if len(some) == len(futures) else [*some, None]

    @property
    def _loop(self) -> list[int]:
        """The one event loop that all of what the latest thread waits for leads to, if there is one."""
        return [] if len(self._loops) != 1 or 0 in self._loops else list(self._loops)

    def _known(self) -> tuple[Any, ...]:
        """Return the classes of futures that we may look into."""
        return (self._base.Future, *FUTURES)

    def _follow(self, awaited: Any) -> Any:
        """Return what has to happen first so that the wait of a thread ends; None if that is not known."""
        if awaited is None or type(awaited) in (Room, PoolRecorder) or awaited._state != "PENDING":
            self._loops.add(0)
            return awaited
        assert self._codes is not None
        awaited = self._codes.follower.follow(awaited)
        self._loops.add(self._codes.follower.loop)
        return awaited if type(awaited) in (VirtualWorkerTask, PoolRecorder, *self._known()) else None


def _runs(awaited: Any) -> bool:
    """Whether a worker may be running it."""
    if type(awaited) is VirtualWorkerTask:
        return awaited.queued() is None
    return getattr(awaited, "_state", None) == "RUNNING"


def _targets(until: str, futures: list[Any], running: dict[int, Target]) -> dict[Target, int]:
    """Return what a thread waits for, and when that was submitted (0: not known). Empty if the wait is over."""
    targets: dict[Target, int] = {}
    for future in futures:
        if future is None:
            targets[_UNKNOWN] = 0
        elif type(future) is PoolRecorder:
            targets[future.id, 0] = 0
        elif type(future) is Room:
            if future.free():
                return {}
            targets[future.pool, 0] = 0
            if future.semaphore is None:
                targets[_UNKNOWN] = 0
        elif type(future) is VirtualWorkerTask:
            queued = future.queued()
            if queued is None:
                targets[running.get(id(future), _UNKNOWN)] = 0
            else:
                targets[queued[0], 0] = queued[1]
        elif future._state in _DONE:
            if until == _FIRST or (until == _FAILED and future._state == "FINISHED" and future._exception is not None):
                return {}
        else:
            target, submitted = queued_in(future) or (running.get(id(future), _UNKNOWN), 0)
            targets[target] = max(submitted, targets.get(target, 0))
    return targets


def queued_in(future: Any) -> tuple[Target, int] | None:
    """Return the pool in whose queue the task of a future is, and when it was submitted; None: in none that we know.

    For a process pool a running task counts as queued too: its workers wait for nothing in this process.
    """
    claim_of = FUTURES.get(type(future))
    claim = claim_of(future) if claim_of is not None else vars(future).get(CLAIM)
    if claim is not None:
        return (claim[0].recorder.id, 0), claim[2]
    if CALLS and claim_of is None:
        for callback in islice(future._done_callbacks, CALLBACKS_LIMIT):
            method = callback.func if type(callback) is partial else None
            owner: Any = method.__self__ if type(method) is MethodType else None
            if type(owner) in CALLS:
                return (owner.watch.recorder.id, 0), 0
    return None


def pool_of(future: Any) -> int:
    """Return the number of the pool in whose queue the task of a future is, 0 if it is in none that we know."""
    found = queued_in(future)
    return 0 if found is None else found[0][0]


def running_in(watches: list[PoolWatch], frames: dict[int, FrameType]) -> dict[int, Target]:
    """Which worker runs the task of a future, by the future's `id`, or a `VirtualWorkerTask`, by its own.

    To be used while the futures that are looked up are held, as an `id` may be given again.
    """
    found: dict[int, Target] = {}
    for watch in watches:
        for log in list(watch.recorder.workers):
            task = log.running
            frame = None if task is None else frames.get(log.ident)
            futures: list[int] = []
            for _ in range(DEPTH_LIMIT):
                if frame is None:
                    break
                if frame.f_code in RUN_CODES:
                    # A task may take another one out of a queue and run it inside of itself.
                    item = self_of(frame)
                    futures.append(id(getattr(item, "future", item)))
                frame = frame.f_back
            if log.running is task:
                found.update(dict.fromkeys(futures, (watch.recorder.id, log.worker)))
    return found

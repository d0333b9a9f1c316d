"""threading's `Semaphore` and `BoundedSemaphore`, as pools of holds.

Nothing is done where nothing waits. `__init__` is replaced, to know where each was made and to make its condition one
of ours. That differs from the standard one in two methods that only `wait` calls, right before a thread sleeps and
right after it wakes up, with the condition's lock in hand: so no frame of ours stands in a thread that waits. While
there is something to record it also differs in the method by which `notify` sees that it may: `release` calls it.

A semaphore that was made before the patch has a condition of its own, and is not seen.
"""

from __future__ import annotations

import sys
import threading
from _thread import get_ident
from functools import partial
from time import thread_time_ns
from weakref import ref

from poolscope.probe.interpreter.imports import imported
from poolscope.probe.interpreter.shapes import threading_limits
from poolscope.probe.interpreter.stacks import user_place
from poolscope.probe.interpreter.unpatched import current_frames, replaced
from poolscope.probe.limits.coroutines import known_holders
from poolscope.probe.limits.limit import Hold
from poolscope.probe.limits.lost import lost
from poolscope.probe.limits.module_patch import LimitPatch
from poolscope.probe.limits.naming import site_of
from poolscope.probe.recording.pool_watch import WAITS, report
from poolscope.probe.sampling.waits import self_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import CodeType, FrameType
    from typing import Any

    from poolscope.probe.executors.patching import Patch
    from poolscope.probe.limits.limit import Limit
    from poolscope.probe.recording.recorder import PoolRecorder

MODULE = "threading"
_getframe = sys._getframe
#: The standard methods, called as such: a condition may become one of another class while one of ours runs.
_exit = threading.Condition.__exit__
_is_owned: Any = getattr(threading.Condition, "_is_owned", None)
_release_save: Any = getattr(threading.Condition, "_release_save", None)
_acquire_restore: Any = getattr(threading.Condition, "_acquire_restore", None)


class _Sign:
    """A thread, for as long as it lives."""

    __slots__ = ("__weakref__", "ident")

    def __init__(self) -> None:
        self.ident = get_ident()


class _Thread(threading.local):
    """`woken` is the `id` of the frame of the last `acquire` in which it got what it had waited for."""

    def __init__(self) -> None:
        self.sign = _Sign()
        self.woken = 0


_thread = _Thread()


class _Idle(threading.Condition):
    """The condition of a semaphore for which nothing waits, or has waited.

    `made` is where the semaphore was made, its size, and the semaphore, weakly; `limit` its record, if it has one;
    `asked` is whether it was asked for one.
    """

    made: tuple[tuple[str, str, str], int, ref[Any]]
    limit: Limit | None
    asked: bool

    def _release_save(self) -> Any:
        try:
            _sleeps(self, _getframe(1))
        except BaseException as exc:
            _failed(self, exc)
        try:
            return _release_save(self)
        except BaseException:
            if self.limit is not None:
                self.limit.torn()  # it does not wait after all
            raise

    def _acquire_restore(self, state: Any) -> None:
        _acquire_restore(self, state)
        limit = self.limit
        if limit is not None and not limit.over:
            try:
                _woke(self, limit, _getframe(1))
            except BaseException as exc:
                _failed(self, exc)


class _Heard(_Idle):
    """The same while there is something to record."""

    def __exit__(self, *args: Any) -> None:
        # Bound as the `with` began: by now it may be idle again.
        try:
            limit = self.limit
            if limit is not None and not limit.over:
                caller = _getframe(1)
                if caller.f_code is _state.acquire:
                    woken, _thread.woken = _thread.woken, 0
                    if limit.waiting and woken != id(caller):
                        _passes(limit, caller)
        except BaseException as exc:
            _exit(self, *args)  # whatever comes up here
            _failed(self, exc)
        else:
            _exit(self, *args)

    def _is_owned(self) -> bool:
        owned: bool = _is_owned(self)
        limit = self.limit
        if limit is None or limit.over:
            self.__class__ = _Idle  # type: ignore[assignment]  # no subclass of the present one
            return owned
        caller = _getframe(1)
        if owned and caller.f_code is _state.notify and caller.f_back is not None:
            try:
                if caller.f_back.f_code in _state.releases:
                    _returns(self, limit, caller)
            except BaseException as exc:
                _failed(self, exc)
        return owned


def _failed(condition: _Idle, exc: BaseException) -> None:
    limit = condition.limit
    if limit is not None:
        limit.broke(exc)
    elif _state.patch is not None:
        report(_state.patch.probe, exc)


def _sleeps(condition: _Idle, wait: FrameType) -> None:
    """Note that the calling thread is about to sleep in `wait`, for a semaphore that is taken."""
    acquire = wait.f_back
    patch = _state.patch
    if acquire is None or acquire.f_code is not _state.acquire or patch is None or not patch.active:
        return
    limit = condition.limit
    if limit is None or limit.over:
        if limit is not None and limit.again:
            condition.asked = False
        elif limit is not None:
            return
        if condition.asked:
            return
        condition.asked = True
        if replaced():
            return  # by greenlets, which we would take for one thread
        site, size, owner = condition.made
        semaphore = owner()
        if semaphore is None:
            return
        condition.limit = limit = _state.limits.note(
            semaphore,
            patch.find_probe,
            kind="semaphore",
            capacity=size,
            site=site,
            look=_look,
            holders=_holders,
        )
        if limit is None:
            return
    condition.__class__ = _Heard
    sign = _thread.sign
    if id(sign) in limit.waiting:
        return  # others were faster
    limit.asked(id(sign), _hold(limit, acquire))


def _passes(limit: Limit, acquire: FrameType) -> None:
    """Note that the calling thread, at the end of `acquire`, may have it without a wait, while others wait for it."""
    if not acquire.f_locals.get("rc"):
        return
    hold = _hold(limit, acquire)
    limit.passed(hold)
    hold.cpu_ns = thread_time_ns()


def _hold(limit: Limit, acquire: FrameType) -> Hold:
    caller = acquire.f_back
    while caller is not None and caller.f_globals.get("__name__") == MODULE:
        caller = caller.f_back
    function = 0 if caller is None else limit.of_code(caller.f_code, caller.f_globals)
    sign = _thread.sign
    hold = Hold(function, limit.clock(), ref(sign), id(sign))
    hold.site = None if caller is None else (caller.f_code, caller.f_lasti)
    return hold


def _woke(condition: _Idle, limit: Limit, wait: FrameType) -> None:
    """Note that the calling thread is back from its sleep in `wait`, and has the condition's lock."""
    sign = _thread.sign
    hold = limit.waiting.get(id(sign))
    if hold is None:
        return
    semaphore = condition.made[2]()
    exc = sys.exc_info()[1]
    raises = exc is not None and exc.__traceback__ is not None and exc.__traceback__.tb_frame is wait
    if semaphore is not None and semaphore._value > 0 and not raises:
        del limit.waiting[id(sign)]
        limit.grant(hold, limit.clock())
        _thread.woken = id(wait.f_back)
        hold.cpu_ns = thread_time_ns()
    elif raises or wait.f_locals.get("gotit") is False:
        # By a timeout: what is left of it is none.
        del limit.waiting[id(sign)]
        limit.gave_up(hold)


def _returns(condition: _Idle, limit: Limit, notify: FrameType) -> None:
    """Note that the calling thread gives it back, once or several times at once."""
    _thread.woken = 0  # another frame may come to be where that one was
    semaphore = condition.made[2]()
    now = limit.clock()
    times = notify.f_locals.get("n", 1)
    for _ in range(min(times, limit.named + len(limit.nameless))):
        if not limit.returned(_thread.sign, now, thread_time_ns()):
            left = None if limit.capacity is None or semaphore is None else limit.capacity - semaphore._value
            limit.returned_by_other(now, left)
    if not (limit.waiting or limit.named or limit.nameless):
        condition.__class__ = _Idle


def _holders(limit: Limit) -> list[Any]:
    """Return which threads hold it, as far as that is known."""
    return [(log, running, sign.ident) for log, running, sign in known_holders(limit)]


def _awaited(acquire: FrameType) -> PoolRecorder | None:
    """Return the record of the semaphore that a thread waits for in this frame; None if there is none."""
    semaphore = self_of(acquire)
    if not issubclass(type(semaphore), threading.Semaphore):
        return None
    condition = object.__getattribute__(semaphore, "_cond")
    limit = condition.limit if type(condition) in (_Idle, _Heard) else None
    return None if limit is None or limit.over else limit.watch.recorder


def _look(limit: Limit, most: int) -> tuple[list[Any], list[Any]]:
    """Return where the threads are that hold it, and those that wait for it."""
    held: dict[Any, list[int]] = {}
    waiting: dict[Any, list[int]] = {}
    frames = current_frames()
    frame = None
    try:
        for log in list(limit.watch.recorder.workers)[:most]:
            running, holder = log.running, getattr(log, "holder", None)
            sign = None if holder is None or running is None else holder()
            frame = None if sign is None else frames.get(sign.ident)
            if frame is not None and running is not None:
                lines, spot = user_place(frame)
                if lines and log.running is running:
                    held.setdefault((tuple(lines), spot), []).extend((log.worker, running[0], running[2]))
        for hold in list(limit.waiting.values())[:most]:
            sign = None if hold.asks is None else hold.asks()
            frame = None if sign is None else frames.get(sign.ident)
            if frame is not None:
                lines, spot = user_place(frame)
                waiting.setdefault((tuple(lines), spot), []).extend((0, hold.function, hold.submitted))
    finally:
        # A frame that we held would keep the locals of the user's threads alive.
        del frame, frames
    return (
        [
            *lost(limit, ended=lambda _: False),
            *([list(lines), spot, tasks, ""] for (lines, spot), tasks in held.items()),
        ],
        [[list(lines), spot, tasks, "semaphore"] for (lines, spot), tasks in waiting.items()],
    )


class _State(LimitPatch):
    """The patch of the module, and the code of its methods."""

    def __init__(self) -> None:
        super().__init__(MODULE, "semaphores of threading")
        self.acquire: CodeType = threading.Semaphore.acquire.__code__
        self.notify: CodeType = threading.Condition.notify.__code__
        self.releases: tuple[CodeType, ...] = ()

    def check(self, module: Any) -> None:
        """See `ModulePatch`, here and below."""
        threading_limits(module)

    def put(self, patch: Patch, module: Any) -> None:
        """Replace the constructor."""
        self.releases = (module.Semaphore.release.__code__, module.BoundedSemaphore.release.__code__)
        patch.put_noted_constructor(module.Semaphore, partial(_equip, module.Semaphore))
        WAITS[self.acquire] = _awaited

    def end(self) -> None:
        """Read no more what waits there, either."""
        WAITS.pop(self.acquire, None)
        super().end()


_state = _State()


def patch(probe: Any) -> None:
    """Watch the semaphores of threading that are made from now on. Does nothing if that is so already, or they are not
    as we know them."""
    if imported(MODULE) is threading and not replaced():
        _state.on(probe)


def unpatch() -> None:
    """Put everything back as it was. Does nothing if nothing is patched."""
    _state.off()


def _equip(cls: Any, semaphore: Any, frame: FrameType) -> None:
    """Make its condition one of ours, unless a subclass has overridden what we rely on."""
    condition: Any = semaphore._cond
    kind = type(semaphore)
    if type(condition) is not threading.Condition or kind.acquire is not cls.acquire:
        return
    if kind.release is not cls.release and kind.release is not threading.BoundedSemaphore.release:
        return
    # A new one: where the class of an object was changed, each of its attributes is slower.
    equipped = _Idle(semaphore._cond._lock)
    equipped.made = site_of(frame), semaphore._value, ref(semaphore)
    equipped.limit = None
    equipped.asked = False
    semaphore._cond = equipped

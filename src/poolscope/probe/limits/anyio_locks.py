"""anyio's `Semaphore` and `Lock` on asyncio's loops, as pools of holds.

Nothing is done where nothing waits. `__init__` is replaced, to know where each was made and to make the queue of what
waits one of ours (`Waiters`). `acquire` puts in what is about to wait, and `release` takes out what gets it next. While
there is something to record, that queue also tells when `release` looks into it.

One that was made before the patch has a queue of its own, and is not seen.
"""

from __future__ import annotations

import sys
from collections import deque
from functools import partial
from weakref import ref

from poolscope.probe.interpreter.shapes import anyio_limits
from poolscope.probe.limits.asyncio_locks import current_task
from poolscope.probe.limits.coroutines import look
from poolscope.probe.limits.limit import Hold
from poolscope.probe.limits.module_patch import LimitPatch
from poolscope.probe.limits.naming import site_of
from poolscope.probe.recording.pool_watch import report

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import CodeType, FrameType
    from typing import Any

    from poolscope.probe.executors.patching import Patch
    from poolscope.probe.limits.limit import Limit

MODULE = "anyio._backends._asyncio"
_getframe = sys._getframe
_append, _remove, _popleft = deque.append, deque.remove, deque.popleft


class Waiters(deque):  # type: ignore[type-arg]  # subscripting it costs at run time
    """What waits at a semaphore or lock that nothing has waited for, or nothing is known of."""

    __slots__ = ("asked", "handed", "limit", "made")

    #: Where the limit was made, its size, and the limit, weakly.
    made: tuple[tuple[str, str, str], int, ref[Any]]
    limit: Limit | None
    #: Whether it was asked for whether it is recorded, and whether `release` has told of its end already.
    asked: bool
    handed: bool

    def __copy__(self) -> Any:
        return deque(self)

    copy = __copy__

    def __reduce__(self) -> Any:
        return deque, (list(self),)

    def append(self, item: Any) -> None:
        """Put in what is about to wait."""
        _append(self, item)
        try:
            _asks(self, item, _getframe(1))
        except BaseException as exc:
            _failed(self, exc)


class _Heard(Waiters):
    """The same while there is something to record."""

    __slots__ = ()

    def remove(self, item: Any) -> None:
        """Take out what waits no more, as it was cancelled."""
        _remove(self, item)
        limit = self.limit
        if limit is not None and not limit.over:
            try:
                hold = limit.waiting.pop(id(_future(item)), None)
                if hold is not None:
                    limit.gave_up(hold)
            except BaseException as exc:
                _failed(self, exc)

    def popleft(self) -> Any:
        """Take out what gets it next, unless that was cancelled."""
        item = _popleft(self)
        limit = self.limit
        if limit is not None and not limit.over:
            try:
                future = _future(item)
                hold = limit.waiting.pop(id(future), None)
                self.handed = future.cancelled()
                if hold is not None and self.handed:
                    limit.gave_up(hold)
                elif hold is not None:
                    limit.grant(hold, limit.clock())
            except BaseException as exc:
                _failed(self, exc)
        return item

    def __bool__(self) -> bool:
        limit = self.limit
        if limit is not None and not limit.over:
            caller = _getframe(1)
            if caller.f_code in _state.releases:
                # It looks again, after one that was cancelled.
                again, self.handed = self.handed, False
                if not again:
                    try:
                        _returns(self, limit)
                    except BaseException as exc:
                        _failed(self, exc)
        return len(self) > 0


def _future(item: Any) -> Any:
    return item[1] if type(item) is tuple else item


def _failed(waiters: Waiters, exc: BaseException) -> None:
    if waiters.limit is not None:
        waiters.limit.broke(exc)
    elif _state.patch is not None:
        report(_state.patch.probe, exc)


def _asks(waiters: Waiters, item: Any, acquire: FrameType) -> None:
    """Note that `acquire`, in this frame, asks for a hold and has to wait."""
    patch = _state.patch
    kind = _state.gates.get(acquire.f_code)
    if kind is None or patch is None or not patch.active:
        return
    limit = waiters.limit
    if limit is not None and limit.again:
        limit, waiters.asked = None, False
    if limit is None:
        if waiters.asked:
            return
        waiters.asked = True
        site, size, owner = waiters.made
        made = owner()
        if made is None:
            return
        waiters.limit = limit = _state.limits.note(
            made,
            patch.find_probe,
            kind=kind,
            capacity=size,
            site=site,
            look=partial(look, gates=_state.gates),
        )
        if limit is None:
            return
    if limit.over:
        return
    waiters.__class__ = _Heard
    caller = acquire.f_back
    while caller is not None and str(caller.f_globals.get("__name__")).startswith("anyio."):
        caller = caller.f_back
    function = 0 if caller is None else limit.of_code(caller.f_code, caller.f_globals)
    task = current_task()
    holder = None if task is None else ref(task)
    limit.asked(id(_future(item)), Hold(function, limit.clock(), holder, 0 if task is None else id(task)))


def _returns(waiters: Waiters, limit: Limit) -> None:
    """Note that the calling task gives it back."""
    now = limit.clock()
    if not limit.returned(current_task(), now):
        owner = waiters.made[2]()
        value = getattr(owner, "_value", 0)
        # It counts up only where nothing waits.
        limit.returned_by_other(now, limit.capacity - value - 1 if limit.capacity is not None else None)
    if not (limit.waiting or limit.named or limit.nameless):
        waiters.__class__ = Waiters


class _State(LimitPatch):
    """The patch of the module, and the code of its methods."""

    def __init__(self) -> None:
        super().__init__(MODULE, "anyio's semaphores and locks")
        self.gates: dict[CodeType, str] = {}
        self.releases: tuple[CodeType, ...] = ()

    def check(self, module: Any) -> None:
        """See `ModulePatch`, here and below."""
        anyio_limits(module)

    def put(self, patch: Patch, module: Any) -> None:
        """Replace the constructors."""
        self.gates = {module.Lock.acquire.__code__: "lock", module.Semaphore.acquire.__code__: "semaphore"}
        self.releases = (module.Lock.release.__code__, module.Semaphore.release.__code__)
        for cls in (module.Lock, module.Semaphore):
            patch.put_noted_constructor(cls, partial(_equip, cls))


_state = _State()


def patch(probe: Any) -> None:
    """Watch anyio's semaphores and locks that are made from now on. Does nothing if that is so already, or they are
    not as we know them."""
    _state.on(probe)


def unpatch() -> None:
    """Put everything back as it was. Does nothing if nothing is patched."""
    _state.off()


def _equip(cls: Any, owner: Any, frame: FrameType) -> None:
    """Make its queue one of ours, unless a subclass has overridden what we rely on."""
    kind = type(owner)
    if type(owner._waiters) is not deque or kind.acquire is not cls.acquire or kind.release is not cls.release:
        return
    waiters = Waiters(owner._waiters)
    waiters.made = site_of(frame), getattr(owner, "_value", 1), ref(owner)
    waiters.limit = None
    waiters.asked = waiters.handed = False
    owner._waiters = waiters

"""asyncio's `Semaphore`, `BoundedSemaphore` and `Lock`, and so `Condition`'s lock, as pools of holds.

Nothing is done where nothing waits. Replaced are `__init__`, to know where each was made, and `_get_loop`, which these
classes call only when something is about to wait. The first wait is noted (`first_waits`) and no more; at the second
one, or when the first one lasts, the queue of what waits becomes one of ours (`Waiters`), which tells of all that
follows. It is filled and emptied by `acquire`, and asked by `release` whether something waits. The methods themselves
stay as they are, and with them order, fairness and cancellation.
"""

from __future__ import annotations

import sys
from collections import deque
from functools import partial, update_wrapper
from gc import get_referents
from weakref import ref

from poolscope.probe.interpreter.shapes import asyncio_limits
from poolscope.probe.interpreter.tracebacks import leave_out
from poolscope.probe.limits.coroutines import look
from poolscope.probe.limits.first_waits import FirstWait, FirstWaits, keep, record_of
from poolscope.probe.limits.inside import Holders
from poolscope.probe.limits.limit import Hold, Limit
from poolscope.probe.limits.module_patch import LimitPatch
from poolscope.probe.limits.naming import site_of
from poolscope.probe.recording.pool_watch import report
from poolscope.probe.sampling.coroutines import LIMIT_CALLS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import CodeType, FrameType
    from typing import Any

    from poolscope.probe.executors.patching import Patch
    from poolscope.probe.interpreter.stacks import Site
    from poolscope.probe.recording.recorder import PoolRecorder

MODULE = "asyncio.locks"
#: Where a semaphore or lock keeps its site and its size, as they were when it was made.
ATTRIBUTE = "_poolscope_made"
#: Generators and coroutines of all kinds, in the flags of a code: what a task runs, and can hold something.
_RESUMED = 0x20 | 0x80 | 0x100 | 0x200

_getframe, _set, _attribute = sys._getframe, object.__setattr__, object.__getattribute__


class _Codes:
    """The code of one class's methods."""

    __slots__ = ("acquire", "first_only", "kind", "names", "release", "wake")

    def __init__(self, cls: Any, kind: str, wake: str) -> None:
        self.kind = kind
        self.acquire: CodeType = cls.acquire.__code__
        self.release: CodeType = cls.release.__code__
        self.wake: CodeType = getattr(cls, wake).__code__
        self.names = ("acquire", "release", "locked", wake, "_get_loop")
        #: Whether only the first of those that wait can be granted it.
        self.first_only = kind == "lock"


class Waiters(deque):  # type: ignore[type-arg]  # subscripting it costs at run time
    """What waits at a semaphore or lock: the queue that `acquire` makes, and tells of what happens to it."""

    __slots__ = ("codes", "limit", "owner")

    limit: Limit | None
    codes: _Codes
    #: The semaphore or lock, weakly.
    owner: ref[Any]

    def __init__(self, waiters: Iterable[Any] = ()) -> None:
        super().__init__(waiters)
        self.limit = None

    def __copy__(self) -> Any:
        return deque(self)

    copy = __copy__

    def __reduce__(self) -> Any:
        return deque, (list(self),)

    def append(self, future: Any) -> None:
        """Put in what is about to wait."""
        _append(self, future)
        limit = self.limit
        if limit is not None and not limit.over:
            frame = _getframe(1)
            if frame.f_code is self.codes.acquire:
                try:
                    _ask(limit, future, frame)
                except BaseException as exc:
                    try:
                        limit.broke(exc)
                    except BaseException:
                        _remove(self, future)  # `acquire` does not come to wait for it
                        raise

    def remove(self, future: Any) -> None:
        """Take out what waits no more: it has it, or was cancelled."""
        limit = self.limit
        try:
            _remove(self, future)
        except BaseException:
            if limit is not None:
                limit.torn()
            raise
        if limit is not None and not limit.over:
            try:
                hold = limit.waiting.pop(id(future), None)
                if hold is not None:
                    if _exc_info()[1] is not None and _raises(_getframe(1)):
                        limit.gave_up(hold)
                    elif hold.permit is None:
                        limit.grant(hold, limit.clock())
            except BaseException as exc:
                limit.broke(exc)

    def __bool__(self) -> bool:
        limit = self.limit
        if limit is not None and not limit.over and (limit.waiting or limit.named or limit.nameless):
            try:
                caller = _getframe(1)
                if caller.f_code is self.codes.wake:
                    self._wake(limit, caller.f_back)
                    if not (len(self) or limit.named or limit.nameless or limit.waiting):
                        self._rest()
                return len(self) > 0
            except BaseException as exc:
                limit.broke(exc)
        return len(self) > 0

    def _rest(self) -> None:
        """Put a plain queue in the place of this empty one, until something waits again."""
        owner = self.owner()
        if owner is not None and owner._waiters is self:
            owner._waiters = deque()

    def _wake(self, limit: Limit, caller: FrameType | None) -> None:
        """Note that it is given back, or turned out to be free: the next one in the queue gets it now."""
        codes = self.codes
        following = None
        for future in self:
            if not future.done():
                following = limit.waiting.get(id(future))
                if following is not None and following.permit is not None:
                    following = None  # it was granted, and what wakes it up was interrupted
                break
            if codes.first_only:
                break
        now = limit.clock()
        if caller is not None and caller.f_code is codes.release:
            try:
                holder = _state.current_task()
            except RuntimeError:
                holder = None  # outside of a loop
            if limit.handed_over(holder, now, following):
                return
            limit.returned_by_other(now, _left(limit, caller))
        if following is not None and not limit.over:
            limit.grant(following, now)


_append, _remove, _exc_info = deque.append, deque.remove, sys.exc_info


def _ask(limit: Limit, future: Any, frame: FrameType) -> None:
    """Note that `acquire`, in this frame, asks for a hold and has to wait."""
    # As `_caller` does it, which would be a call for each wait.
    file, caller = frame.f_code.co_filename, frame.f_back
    while caller is not None and caller.f_code.co_filename is file:
        caller = caller.f_back
    if caller is None:
        limit.asked(id(future), Hold(0, limit.clock(), None, 0))
        return
    code = caller.f_code
    function = limit.functions.get(id(code))
    if function is None:
        function = _function(limit, code, caller.f_globals)
    # Where a task does nothing but ask, it holds nothing: what has made it does.
    task = _state.current_task() if code.co_flags & _RESUMED else None
    if task is None:
        hold = Hold(function, limit.clock(), None, 0)
    else:
        hold = Hold(function, limit.clock(), ref(task), id(task))
    hold.site = code, caller.f_lasti
    limit.asked(id(future), hold)


def _caller(frame: FrameType) -> FrameType | None:
    """Return the frame that has called `acquire`, by way of `async with` or not."""
    file = frame.f_code.co_filename
    caller = frame.f_back
    while caller is not None and caller.f_code.co_filename is file:
        caller = caller.f_back
    return caller


def _function(limit: Limit, code: CodeType, names: dict[str, Any]) -> int:
    function = limit.of_code(code, names)
    if function:
        limit.functions[id(code)] = function
    return function


def current_task() -> Any:
    """Return the task that runs in the calling thread; None outside of a loop."""
    tasks = sys.modules.get("asyncio.tasks")
    try:
        return None if tasks is None else tasks.current_task()
    except RuntimeError:
        return None


def _raises(frame: FrameType) -> bool:
    """Whether an exception is on its way through this frame, which has called us in a `finally`."""
    exc = sys.exc_info()[1]
    if exc is None:
        return False
    traceback = exc.__traceback__
    return traceback is not None and traceback.tb_frame is frame


def _left(limit: Limit, release: FrameType) -> int | None:
    """How many holds are out after one was given back; None if that is not known."""
    if limit.kind == "lock":
        return 0
    if limit.capacity is None:
        return None
    left: int = limit.capacity - release.f_locals["self"]._value
    return left


class _State(LimitPatch):
    """The patch of the module, and the code of its methods."""

    def __init__(self) -> None:
        super().__init__(MODULE, "semaphores and locks of asyncio")
        self.limits = self.firsts = FirstWaits()
        self.gates: dict[CodeType, str] = {}
        self.holders: Holders | None = None
        #: The classes whose objects have a record.
        self.classes: tuple[type, ...] = ()
        self.current_task: Callable[[], Any] = lambda: None

    def check(self, module: Any) -> None:
        """See `ModulePatch`, here and below."""
        asyncio_limits(module)

    def put(self, patch: Patch, module: Any) -> None:
        """Replace the constructors, and what is called when something is about to wait."""
        lock = _Codes(module.Lock, "lock", "_wake_up_first")
        semaphore = _Codes(module.Semaphore, "semaphore", "_wake_up_next")
        self.gates = {lock.acquire: "lock", semaphore.acquire: "semaphore"}
        self.holders, self.classes = Holders(_limit_of, patch.probe.notice), (module.Lock, module.Semaphore)
        LIMIT_CALLS.update(dict.fromkeys(self.gates, _awaited))
        for cls, codes in ((module.Lock, lock), (module.Semaphore, semaphore)):
            patch.put_noted_constructor(cls, _note_semaphore if codes.kind == "semaphore" else _note_lock)
            patch.put(cls, "_get_loop", _get_loop(patch, cls, codes))

    def end(self) -> None:
        """Read no more what waits there, either."""
        for code in self.gates:
            LIMIT_CALLS.pop(code, None)
        super().end()


_state = _State()


def patch(probe: Any) -> None:
    """Watch the semaphores and locks of asyncio. Does nothing if that is so already, or if we do not know them."""
    _state.on(probe)


def unpatch() -> None:
    """Put everything back as it was. Does nothing if nothing is patched."""
    _state.off()


def _limit_of(owner: Any) -> Limit | None:
    """Return the record of an object, if it is a lock or semaphore that has one. Without its own methods."""
    if not issubclass(type(owner), _state.classes):
        return None
    record = record_of(owner)
    return record if type(record) is Limit else None


def _awaited(coroutine: Any) -> PoolRecorder | None:
    """Return the record of the limit that a coroutine of `acquire` waits for; None if it does not wait."""
    seen = get_referents(coroutine)
    limit = next((limit for each in seen if (limit := _limit_of(each)) is not None), None)
    if limit is None or limit.over:
        return None
    holds = (limit.waiting.get(id(each)) for each in seen)
    waits = any(hold is not None and hold.permit is None for hold in holds)
    return limit.watch.recorder if waits else None


def _note_semaphore(semaphore: Any, frame: FrameType) -> None:
    # Not by its `__dict__`: one that was asked for makes each attribute slower.
    _set(semaphore, ATTRIBUTE, (site_of(frame), semaphore._value))


def _note_lock(lock: Any, frame: FrameType) -> None:
    _set(lock, ATTRIBUTE, (site_of(frame), 1))


def _get_loop(state: Patch, cls: Any, codes: _Codes) -> Callable[[Any], Any]:
    original = cls._get_loop
    shutting_down = sys.is_finalizing

    def _get_loop(self: Any) -> Any:
        try:
            loop = original(self)
        except BaseException as exc:
            leave_out(exc)
            raise
        if state.active and _is_new(self._waiters) and not shutting_down():
            try:
                _meet(state, self, cls, codes)
            except Exception as exc:
                report(state.probe, exc)
        return loop

    return update_wrapper(_get_loop, original)


def _is_new(waiters: Any) -> bool:
    """Whether nothing has been recorded of what waits there, in this process and by this probe."""
    if type(waiters) is deque:
        return True
    limit = waiters.limit if type(waiters) is Waiters else None
    return limit is not None and limit.again


def _meet(state: Patch, owner: Any, cls: Any, codes: _Codes) -> None:
    """Note that something is about to wait for `owner`, of which nothing is heard so far."""
    acquire = _getframe(2)
    if acquire.f_code is not codes.acquire or not (type(owner) is cls or _is_plain(type(owner), cls, codes)):
        return
    tasks = sys.modules.get("asyncio.tasks")
    if tasks is not None:
        _state.current_task = tasks.current_task
    if record_of(owner) is not None:
        _hear(state, owner, codes)
        return
    probe = state.find_probe()
    if probe.settings.limits:
        caller = _caller(acquire)
        task = _state.current_task() if caller is not None and caller.f_code.co_flags & _RESUMED else None
        first = FirstWait(probe.clock(), caller, task, _made(owner) or _unknown(codes, acquire))
        _state.firsts.wait(owner, probe, first, partial(_lasts, state, ref(owner), first, codes))


def _unknown(codes: _Codes, acquire: FrameType) -> tuple[Site, int | None]:
    """Return the same of one that is older than the patch: what waits there stands for what made it."""
    return site_of(acquire), 1 if codes.kind == "lock" else None


def _lasts(state: Patch, weak: ref[Any], first: FirstWait, codes: _Codes) -> None:
    """Hear of the first wait that lasts, in the thread of its loop, between two steps of tasks."""
    owner = weak()
    if owner is None or not state.active or not owner._waiters or record_of(owner) is not first:
        return
    try:
        _hear(state, owner, codes)
    except Exception as exc:
        report(state.probe, exc)


def _hear(state: Patch, owner: Any, codes: _Codes) -> None:
    """Put a queue of ours in the place of the one that what waits stands in, and note the limit unless that is done."""
    limit = record_of(owner)
    if type(limit) is FirstWait:
        limit = _note(state, owner, codes, *limit.made)
        if limit is not None:
            _take_in(limit, record_of(owner), owner._waiters)
        keep(owner, limit)
    elif limit.again:
        limit = _note(state, owner, codes, limit.site, limit.capacity)
        keep(owner, limit)
    # Also if it is not to be recorded, so that this is not asked again.
    waiters = Waiters(owner._waiters)
    waiters.codes = codes
    waiters.limit = limit
    waiters.owner = ref(owner)
    owner._waiters = waiters


def _note(state: Patch, owner: Any, codes: _Codes, site: Site, capacity: int | None) -> Limit | None:
    holders = _state.holders
    if holders is None:
        return None
    return _state.limits.note(
        owner,
        state.find_probe,
        kind=codes.kind,
        capacity=capacity,
        site=site,
        look=partial(look, gates=_state.gates, holders=holders.of, standstill=True),
        holders=holders.of,
    )


def _take_in(limit: Limit, first: FirstWait, waiters: Iterable[Any]) -> None:
    """Note the first wait, which still lasts, or is over: then what came of it is not known."""
    for future in waiters:
        if not future.done():
            task, code = first.asks(), first.code
            function = 0 if code is None else _function(limit, code, first.names)
            hold = Hold(function, first.since_ns, None if task is None else ref(task), 0 if task is None else id(task))
            hold.site = None if code is None else (code, first.at)
            limit.asked(id(future), hold)
            return
    limit.waits += 1


def _made(owner: Any) -> Any:
    """Return where it was made, and its size then; None if it is older than the patch."""
    try:
        return _attribute(owner, ATTRIBUTE)
    except AttributeError:
        return None


def _is_plain(kind: type, cls: Any, codes: _Codes) -> bool:
    """Whether a subclass leaves to the class what we rely on."""
    return all(_same(getattr(kind, name, None), name, cls, codes) for name in codes.names)


def _same(method: Any, name: str, cls: Any, codes: _Codes) -> bool:
    if method is getattr(cls, name):
        return True
    # `BoundedSemaphore` has a `release` of its own, which calls that of its base.
    bounded = getattr(_state.module, "BoundedSemaphore", None)
    return codes.kind == "semaphore" and name == "release" and method is getattr(bounded, "release", None)

"""trio's `Semaphore`, `CapacityLimiter` and `Lock`, as pools of holds.

Nothing is done where nothing waits. `__init__` is replaced, to know where each was made and to make the tasks that its
parking lot keeps ours (`Parked`): `acquire` puts in what is about to wait, `release` takes out what gets it next. While
there is something to record, these also tell when `release` asks how many there are.

One that was made before the patch has a parking lot of its own, and is not seen. What asks on behalf of a thread is a
task of that pool of threads, and no hold.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from functools import partial
from weakref import ref

from poolscope.probe.interpreter.shapes import needs, needs_use
from poolscope.probe.limits.coroutines import AWAIT, known_holders, look, place_in
from poolscope.probe.limits.limit import Hold
from poolscope.probe.limits.module_patch import LimitPatch
from poolscope.probe.limits.naming import site_of
from poolscope.probe.recording.pool_watch import report

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import CodeType, FrameType
    from typing import Any

    from poolscope.probe.executors.patching import Patch
    from poolscope.probe.limits.coroutines import Held, Line
    from poolscope.probe.limits.limit import Limit

MODULE = "trio._sync"
#: What takes a limiter for a call in a thread.
_THREADS = "trio._threads"
_getframe = sys._getframe
_put, _delete = OrderedDict.__setitem__, OrderedDict.__delitem__
_popitem, _len = OrderedDict.popitem, OrderedDict.__len__


class Parked(OrderedDict):  # type: ignore[type-arg]  # subscripting it costs at run time
    """The tasks that wait for a limit for which nothing has waited, or of which nothing is known.

    `made` is where the limit was made, its size, and the limit, weakly; `asked` whether it was asked for whether it is
    recorded.
    """

    __slots__ = ("asked", "limit", "made")

    made: tuple[tuple[str, str, str], int | None, ref[Any]]
    limit: Limit | None
    asked: bool

    def __reduce__(self) -> Any:
        return OrderedDict, (list(self.items()),)

    def __setitem__(self, task: Any, value: Any) -> None:
        """Put in what is about to wait."""
        _put(self, task, value)
        try:
            _asks(self, task, _getframe(1))
        except Exception as exc:
            _failed(self, exc)


class _Heard(Parked):
    """The same while there is something to record."""

    __slots__ = ()

    def __delitem__(self, task: Any) -> None:
        """Take out what waits no more, as it was cancelled."""
        _delete(self, task)
        limit = self.limit
        if limit is not None and not limit.over:
            try:
                hold = limit.waiting.pop(id(task), None)
                if hold is not None:
                    limit.gave_up(hold)
            except Exception as exc:
                _failed(self, exc)

    def popitem(self, last: bool = True) -> Any:
        """Take out what gets it next."""
        item = _popitem(self, last)
        limit = self.limit
        if limit is not None and not limit.over:
            try:
                hold = limit.waiting.pop(id(item[0]), None)
                if hold is not None:
                    limit.grant(hold, limit.clock())
            except Exception as exc:
                _failed(self, exc)
        return item

    def __len__(self) -> int:
        limit = self.limit
        if limit is not None and not limit.over:
            try:
                _asked_by(self, limit, _getframe(1))
            except Exception as exc:
                _failed(self, exc)
        return _len(self)


def _failed(parked: Parked, exc: BaseException) -> None:
    if parked.limit is not None:
        parked.limit.broke(exc)
    elif _state.patch is not None:
        report(_state.patch.probe, exc)


def _asks(parked: Parked, task: Any, park: FrameType) -> None:
    """Note that a task asks for a hold, in what has called `park`, and has to wait."""
    acquire, patch = park.f_back, _state.patch
    kind = None if acquire is None else _state.gates.get(acquire.f_code)
    if acquire is None or kind is None or patch is None or not patch.active:
        return
    caller = acquire.f_back
    while caller is not None and str(module := caller.f_globals.get("__name__")).startswith("trio."):
        if module == _THREADS:
            return
        caller = caller.f_back
    limit = _limit(parked, kind, patch)
    if limit is None or limit.over:
        return
    parked.__class__ = _Heard
    function = 0 if caller is None else limit.of_code(caller.f_code, caller.f_globals)
    holder = acquire.f_locals.get("borrower", task)
    known = holder is task
    hold = Hold(function, limit.clock(), ref(task) if known else None, id(task) if known else 0)
    hold.site = None if caller is None else (caller.f_code, caller.f_lasti)
    limit.asked(id(task), hold)


def _limit(parked: Parked, kind: str, patch: Patch) -> Limit | None:
    """Return the record, which is made when something waits for the first time."""
    limit = parked.limit
    if limit is not None and not limit.again:
        return limit
    if limit is None and parked.asked:
        return None
    parked.asked = True
    site, size, owner = parked.made
    made = owner()
    if made is None:
        return None
    holders = partial(_holders, owner)
    parked.limit = limit = _state.limits.note(
        made,
        patch.find_probe,
        kind=kind,
        capacity=size,
        site=site,
        look=partial(look, gates=_state.gates, holders=holders, place=_place_of, ended=_has_ended),
    )
    return limit


def _asked_by(parked: Parked, limit: Limit, asks: FrameType) -> None:
    """Note that it is given back, if this is what asks how many wait."""
    caller = asks.f_back
    if caller is None:
        return
    if asks.f_code is _state.is_empty:
        if caller.f_code in _state.releases:
            _returns(parked, limit, _state.current_task())
        return
    wake = caller.f_back
    if asks.f_code is _state.pop and wake is not None and wake.f_code is _state.wake:
        release = wake.f_back
        if release is not None and release.f_code is _state.release_limiter:
            _returns(parked, limit, release.f_locals.get("borrower"))


def _returns(parked: Parked, limit: Limit, holder: Any) -> None:
    now = limit.clock()
    if not limit.returned(holder, now):
        owner = parked.made[2]()
        limit.returned_by_other(now, _left(limit, owner))
    if not (limit.waiting or limit.named or limit.nameless):
        parked.__class__ = Parked


def _left(limit: Limit, owner: Any) -> int | None:
    """Return how many holds are out after one was given back; None if that is not known."""
    if limit.kind == "lock":
        return 0
    borrowers = getattr(owner, "_borrowers", None)
    if borrowers is not None:
        return len(borrowers)
    # It counts up only where nothing waits.
    return None if limit.capacity is None else limit.capacity - getattr(owner, "_value", 0) - 1


def _holders(owner: ref[Any], limit: Limit) -> list[Held]:
    """Return who holds it: trio knows that of a lock and of a limiter."""
    told = known_holders(limit)
    known = {id(task) for _, _, task in told}
    limited = owner()
    taken = [getattr(limited, "_owner", None), *getattr(limited, "_borrowers", ())]
    others = [task for task in taken if type(task) is _state.task and id(task) not in known]
    logs = [log for log in list(limit.watch.recorder.workers) if getattr(log, "holder", None) is None]
    free = [(log, running) for log in logs if (running := log.running) is not None]
    if len(others) > len(free):
        return told  # it has changed while we read
    return [*told, *((*each, task) for each, task in zip(free, others, strict=False))]


def _place_of(task: Any, gates: dict[CodeType, str]) -> tuple[list[Line], int, str]:
    """See `coroutines.place_of`."""
    coroutine = task.coro
    scheduled = getattr(task, "_next_send_fn", None) is not None or getattr(coroutine, "cr_running", False)
    return place_in(coroutine, "" if scheduled else AWAIT, gates)


def _has_ended(task: Any) -> bool:
    return getattr(task.coro, "cr_frame", task) is None


class _State(LimitPatch):
    """The patch of the module, and what of trio's we have to tell from each other."""

    def __init__(self) -> None:
        super().__init__(MODULE, "semaphores, limiters and locks of trio")
        self.gates: dict[CodeType, str] = {}
        self.releases: tuple[CodeType, ...] = ()
        self.is_empty: Any = None
        self.pop: Any = None
        self.wake: Any = None
        self.release_limiter: Any = None
        self.current_task: Any = None
        self.task: Any = None

    def check(self, module: Any) -> None:
        """See `ModulePatch`, here and below."""
        _check(module)

    def put(self, patch: Patch, module: Any) -> None:
        """Replace the constructors."""
        limiter, lock, semaphore = module.CapacityLimiter, module._LockImpl, module.Semaphore
        self.gates = {
            lock.acquire.__code__: "lock",
            semaphore.acquire.__code__: "semaphore",
            limiter.acquire_on_behalf_of.__code__: "semaphore",
        }
        self.releases = (lock.release.__code__, semaphore.release.__code__)
        self.is_empty = module.ParkingLot.__bool__.__code__
        self.pop = module.ParkingLot._pop_several.__code__
        self.wake = limiter._wake_waiters.__code__
        self.release_limiter = limiter.release_on_behalf_of.__code__
        self.current_task, self.task = module.trio.lowlevel.current_task, module.trio.lowlevel.Task
        for cls in (semaphore, limiter, lock):
            patch.put_noted_constructor(cls, _equip)


_state = _State()


def _check(module: Any) -> None:
    """`trio._sync`: what waits stands in the parking lot `_lot`, in its `_parked`; `release` asks that for how many
    wait, and takes out what gets it next. Raises Unfamiliar."""
    needs(module, ["Semaphore", "CapacityLimiter", "Lock", "_LockImpl", "ParkingLot", "trio"])
    needs_use(module.ParkingLot, "park", ["_parked", "current_task"])
    needs_use(module.ParkingLot, "_pop_several", ["_parked", "popitem"])
    needs_use(module.ParkingLot, "__bool__", ["_parked"])
    needs_use(module.ParkingLot, "unpark", ["_pop_several"])
    for cls in (module.Semaphore, module._LockImpl):
        needs_use(cls, "acquire", ["_lot", "park"])
        needs_use(cls, "release", ["_lot", "unpark"])
    needs_use(module.CapacityLimiter, "acquire_on_behalf_of", ["borrower", "_lot", "park"])
    needs_use(module.CapacityLimiter, "release_on_behalf_of", ["borrower", "_borrowers", "_wake_waiters"])
    needs_use(module.CapacityLimiter, "_wake_waiters", ["_lot", "unpark"])
    needs(module.trio.lowlevel, ["current_task", "Task"])


def patch(probe: Any) -> None:
    """Watch trio's limits that are made from now on. Does nothing if that is so already, or they are not as we know
    them."""
    _state.on(probe)


def unpatch() -> None:
    """Put everything back as it was. Does nothing if nothing is patched."""
    _state.off()


def _equip(owner: Any, frame: FrameType) -> None:
    """Make the tasks of its parking lot ours."""
    if type(owner._lot._parked) is not OrderedDict:
        return
    size = getattr(owner, "_value", getattr(owner, "_total_tokens", 1))
    parked = Parked(owner._lot._parked)
    parked.made = site_of(frame), size if isinstance(size, int) else None, ref(owner)
    parked.limit = None
    parked.asked = False
    owner._lot._parked = parked

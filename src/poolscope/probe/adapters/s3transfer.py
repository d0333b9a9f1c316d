"""s3transfer, and so boto3's transfers: its executors take so many tasks, and then make the caller wait.

A `BoundedExecutor` is a standard executor behind a semaphore. The standard one alone would never show a long queue:
the callers wait instead. So a task arrives here when `BoundedExecutor.submit` is called, and the wait for the
semaphore is part of its wait. What is replaced, and put back by `unpatch`: `submit` and `__init__` of
`BoundedExecutor`, and `TransferManager.__init__`, which makes three of them and so shows which is which.

How a task is recorded once. `submit` records the arrival and leaves an `_Entry` with its thread; further in, the
patched `submit` of the standard executor asks the pool's watch for the function, the time, and to record the arrival,
in this order and in the same thread. The watch of such a pool (`_BoundedWatch`) answers with the entry, and records
nothing again.
"""

from __future__ import annotations

import functools
import sys
import threading
from _thread import RLock

from poolscope.probe.adapters import LibrarySwitch
from poolscope.probe.executors.patching import Patch
from poolscope.probe.interpreter.tracebacks import leave_out
from poolscope.probe.recording.pool_watch import (
    ADOPTERS,
    ATTRIBUTE,
    UNOPENED,
    UNREAD_LIMIT,
    WAITS,
    Instances,
    Room,
    Watch,
    report,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType, FrameType
    from typing import Any

#: Module -> its class that is patched.
_MODULES = {"s3transfer.futures": "BoundedExecutor", "s3transfer.manager": "TransferManager"}
#: The executors of a `TransferManager`: which they are.
_ROLES = {"_request_executor": "request", "_submission_executor": "submission", "_io_executor": "io"}
#: Where a bounded executor keeps what it is and where it was made, as (name or None, site).
_MADE = "_poolscope_made"
#: How far a task that is being submitted has come.
_WAITING, _NAMED, _STAMPED, _RECORDED = range(4)
#: Frames from the wait of a semaphore to the patched `submit`, at most.
_SUBMIT_DEPTH = 4


class _Entry:
    """A task that a thread is submitting."""

    __slots__ = ("function", "stage", "submitted", "task")

    def __init__(self, task: Any, function: int, submitted: int) -> None:
        self.task = task
        self.function = function
        self.submitted = submitted
        self.stage = _WAITING


class _Submitting(threading.local):
    """What the calling thread is submitting to one pool."""

    entry: _Entry | None = None


class _Arrivals:
    """The arrivals of a pool, as the patch of the standard executor sees them."""

    __slots__ = ("_records", "_submitting")

    def __init__(self, records: list[int], submitting: _Submitting) -> None:
        self._records = records
        self._submitting = submitting

    def __len__(self) -> int:
        return len(self._records)

    def extend(self, record: tuple[int, int]) -> None:
        """Record an arrival, unless that is done."""
        entry = self._submitting.entry
        if entry is not None and entry.stage == _STAMPED:
            entry.stage = _RECORDED
        else:
            self._records.extend(record)


class _BoundedWatch(Watch):
    """The watch of the executor inside of a bounded one."""

    __slots__ = ("submitting",)

    def __init__(self, plain: Watch) -> None:
        super().__init__(plain.probe, plain.recorder)
        self.own, self.logs = plain.own, plain.logs
        self.submitting = submitting = _Submitting()
        now, identify = plain.clock, plain.identify

        def clock() -> int:
            entry = submitting.entry
            if entry is not None and entry.stage == _NAMED:
                entry.stage = _STAMPED
                return entry.submitted
            return now()

        def named(fn: Any, args: tuple[Any, ...]) -> int:
            entry = submitting.entry
            if entry is not None and entry.stage == _WAITING and entry.task is fn:
                entry.stage = _NAMED
                return entry.function
            return identify(fn, args)

        self.clock, self.identify = clock, named
        # What of a list the patch of the standard executor uses.
        self.arrivals = _Arrivals(plain.recorder.arrivals, submitting)  # type: ignore[assignment]

    def begin(self, task: Any) -> _Entry | None:
        """Record that a task arrives, and return its entry. None: it is not recorded. Never raises."""
        if self.recorder.given_up:
            return None
        try:
            if not 0 < len(self.arrivals) < UNREAD_LIMIT and not self.attend():
                return None
            entry = _Entry(task, self.probe.functions.identify(task), self.probe.clock())
            self.recorder.arrivals.extend((entry.function, entry.submitted))
            return entry
        except Exception as exc:
            self.give_up(exc)
            return None

    def refused(self, entry: _Entry, exc: BaseException | None) -> None:
        """Note that the executor inside has not taken it, because of `exc` if that is known. Never raises."""
        if exc is not None and not isinstance(exc, Exception):
            self.cancelled(entry.function, entry.submitted)  # interrupted while it waited
            return
        self.withdrawn(entry.function, entry.submitted)
        if exc is not None and entry.stage == _WAITING:
            self.rejected()  # the executor inside has not said so


_instances = Instances()


class _Making(threading.local):
    """Whether the calling thread is making a bounded executor."""

    now = False


_making = _Making()


def _adopt(_: Any, made: bool) -> Any:
    """See `ADOPTERS`: what a bounded executor makes for itself is opened with its first task, its role being known."""
    return UNOPENED if made and _making.now else NotImplemented


class _Patch(Patch):
    """The patch of both modules."""

    #: Asked as an attribute: at shutdown the names of this module are gone.
    shutting_down = staticmethod(sys.is_finalizing)

    def take_off(self) -> None:
        """See `Patch.take_off`."""
        super().take_off()
        if _adopt in ADOPTERS:
            ADOPTERS.remove(_adopt)

    def watch(self, bounded: Any) -> _BoundedWatch | None:
        """Return the watch of the executor inside, opened if need be; None if it is missing or not to be watched."""
        inner = bounded._executor
        if getattr(type(inner), "_poolscope_own", False):
            return None  # the drop-in executor records itself
        found = getattr(inner, ATTRIBUTE, None) if self.active else None
        if found is None or type(found) is _BoundedWatch:
            return found
        # Without the patch of the standard executor nothing in it is UNOPENED.
        with _lock:
            found = inner.__dict__.get(ATTRIBUTE, UNOPENED)
            if found is UNOPENED:
                name, site = bounded.__dict__.get(_MADE, (None, None))
                found = _instances.open(inner, self.find_probe, "", name, site)
            if found is not None and type(found) is not _BoundedWatch:
                inner.__dict__[ATTRIBUTE] = found = _BoundedWatch(found)
            return found


# Reentrant: a finalizer that runs while we are inside may open another one.
_lock = RLock()


def _missing(name: str, module: Any) -> str | None:
    """Return what a module lacks of what we need."""
    try:
        if name == "s3transfer.manager":
            stored = module.TransferManager.__init__.__code__.co_names
            return next((f"TransferManager.{role}" for role in _ROLES if role not in stored), None)
        code = module.BoundedExecutor.submit.__code__
        if code.co_varnames[:4] != ("self", "task", "tag", "block") or "_executor" not in code.co_names:
            return "BoundedExecutor.submit(task, tag, block) that uses _executor"
        if "_executor" not in module.BoundedExecutor.__init__.__code__.co_names:
            return "BoundedExecutor._executor"
    except AttributeError as exc:
        return f"BoundedExecutor and TransferManager as expected ({exc})"
    return None


def _put_on_futures(state: _Patch, module: Any) -> None:
    cls = module.BoundedExecutor
    init = cls.__init__

    @functools.wraps(init)
    def __init__(self: Any, /, *args: Any, **kwargs: Any) -> None:  # noqa: N807 - shown in tracebacks
        if state.shutting_down():
            init(self, *args, **kwargs)
            return
        outer, _making.now = _making.now, state.active
        try:
            init(self, *args, **kwargs)
        finally:
            _making.now = outer
        _note(state, self, None)

    state.put(cls, "__init__", __init__)
    submit = _submit(state, cls.submit)
    state.put(cls, "submit", submit)
    ADOPTERS.append(_adopt)
    sliding = getattr(sys.modules.get("s3transfer.utils"), "SlidingWindowSemaphore", None)
    for semaphore in (threading.Semaphore, sliding):
        if semaphore is not None:
            WAITS[semaphore.acquire.__code__] = functools.partial(_room, submit.__code__)


def _room(code: CodeType, frame: FrameType | None) -> Room | None:
    """See `WAITS`: what a caller of the `submit` with this code waits for at a semaphore; None if it is none of those.

    The executor's own semaphore is released by the ends of its tasks alone; those for tags may serve others too.
    """
    for _ in range(_SUBMIT_DEPTH):
        if frame is None:
            return None
        if frame.f_code is code:
            names = frame.f_locals
            entry, watch, bounded = names.get("entry"), names.get("watch"), names.get("self")
            if watch is None or entry is None or entry.stage != _WAITING:
                return None
            own = None if names.get("tag") else getattr(getattr(bounded, "_semaphore", None), "_semaphore", None)
            return Room(watch.recorder.id, own if type(own) is threading.Semaphore else None)
        frame = frame.f_back
    return None


def _put_on_manager(state: _Patch, module: Any) -> None:
    init = module.TransferManager.__init__

    @functools.wraps(init)
    def __init__(self: Any, /, *args: Any, **kwargs: Any) -> None:  # noqa: N807 - shown in tracebacks
        init(self, *args, **kwargs)
        if state.shutting_down():
            return
        for attribute, role in _ROLES.items():
            _note(state, self.__dict__.get(attribute), f"s3transfer.{role}")

    state.put(module.TransferManager, "__init__", __init__)


_PUT_ON = {"s3transfer.futures": _put_on_futures, "s3transfer.manager": _put_on_manager}


def _note(state: _Patch, bounded: Any, name: str | None) -> None:
    """Keep with a bounded executor what it is called, and where it was made. Never raises."""
    if not state.active or bounded is None:
        return
    try:
        from poolscope.probe.interpreter.stacks import creation_site

        bounded.__dict__[_MADE] = (name, creation_site(2))
    except Exception as exc:
        report(state.probe, exc)


def _submit(state: _Patch, original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def submit(self: Any, task: Any, tag: Any = None, block: Any = True) -> Any:
        watch = None
        if not state.shutting_down():
            try:
                watch = state.watch(self)
            except Exception as exc:
                report(state.probe, exc)
        entry = None if watch is None else watch.begin(task)
        if watch is None or entry is None:
            return original(self, task, tag=tag, block=block)
        # Put back in the end: a finalizer or a signal handler may submit in between, on this thread.
        outer, watch.submitting.entry = watch.submitting.entry, entry
        failure: BaseException | None = None
        try:
            return original(self, task, tag=tag, block=block)
        except BaseException as exc:
            failure = exc
            # As in `wrapped`: the traceback is the one of a call without us.
            leave_out(exc)
            raise
        finally:
            watch.submitting.entry = outer
            if entry.stage != _RECORDED:
                watch.refused(entry, failure)
            # Break a reference cycle with the exception.
            failure = None

    return submit


def _put_on(state: _Patch, name: str, module: Any) -> None:
    _PUT_ON[name](state, module)


#: In an unknown version its bounded executors are shown as standard ones.
_switch = LibrarySwitch(
    "s3transfer",
    "waits to submit are not seen",
    _MODULES,
    _missing,
    make=_Patch,
    put=_put_on,
    forget=functools.partial(_instances.forget, owned=False),
)
patch, unpatch = _switch.on, _switch.off

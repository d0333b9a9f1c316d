"""asgiref's bridge between synchronous and asynchronous code, and so Django's.

asgiref makes standard executors of one thread each, which are seen like any other; but those that it makes for a
moment, one for each request that Django serves, are shown as one pool. These are the pools:

- `asgiref.sync_to_async`: the one thread of the process in which all synchronous code runs that is called outside of a
  request (thread-sensitive, without a context). It serialises its tasks, and is judged as a pool of one worker.
- `asgiref.contexts`: the threads of `ThreadSensitiveContext`, in Django's ASGI handler one for each request. The pool
  has as many workers as there were contexts at once lately: it is full when every request waits for its own thread,
  and has no queue that requests share.
- `asgiref.async_to_sync`: the threads with an event loop for one call of asynchronous code from outside of a loop.
- `asgiref.current_thread`: what asynchronous code gives back to the thread that waits for it, which may be in a task of
  `asgiref.contexts` meanwhile. Each call of `async_to_sync` has a `CurrentThreadExecutor` for that.

What is replaced, and put back by `unpatch`, is `CurrentThreadExecutor.submit`: it passes on the function wrapped.
"""

from __future__ import annotations

import functools
import os
import sys
from _thread import RLock
from types import CoroutineType

from poolscope.probe.adapters import unfamiliar
from poolscope.probe.executors.patching import Patch
from poolscope.probe.interpreter.imports import in_flight
from poolscope.probe.interpreter.shapes import takes
from poolscope.probe.interpreter.tracebacks import leave_out
from poolscope.probe.recording.ephemeral_pools import EphemeralPools, PlacedEphemeralPools
from poolscope.probe.recording.function_table import WRAPPERS
from poolscope.probe.recording.pool_watch import ADOPTERS, ATTRIBUTE, UNOPENED, WAITS, open_watch, report
from poolscope.probe.recording.registry import size_of
from poolscope.probe.recording.virtual_workers import VirtualWorkerTask

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType
    from typing import Any

    from poolscope.probe.recording.pool_watch import Watch

_MODULE = "asgiref.sync"
#: Where asgiref makes executors, by the name of the code, and what is made there.
_MAKERS = {
    "SyncToAsync": "asgiref.sync_to_async",
    "SyncToAsync.__call__": "asgiref.contexts",
    "AsyncToSync.__call__": "asgiref.async_to_sync",
}
_STANDARD = "concurrent.futures.thread"
_CURRENT_MODULE = "asgiref.current_thread_executor"
_CURRENT = "asgiref.current_thread"


class _Group(EphemeralPools):
    """Executors that asgiref makes for a moment."""

    def __init__(self, name: str) -> None:
        super().__init__(name, "asgiref", f"{_STANDARD}.ThreadPoolExecutor")
        self.in_contexts = name == _MAKERS["SyncToAsync.__call__"]

    def count(self) -> int:
        """As there. A context lets its executor go at once; that is there until its thread has ended."""
        module: Any = sys.modules.get(_MODULE) if self.in_contexts else None
        return super().count() if module is None else len(module.SyncToAsync.context_to_thread_executor)

    def forget(self) -> None:
        """See `EphemeralPools.forget`."""
        for executor in self.members():
            executor.__dict__.pop(ATTRIBUTE, None)
        super().forget()


class _Patch(Patch):
    """The patch of `CurrentThreadExecutor`."""

    #: Asked as an attribute: at shutdown the names of this module are gone.
    shutting_down = staticmethod(sys.is_finalizing)

    def arrived(self, executor: Any, fn: Any, args: tuple[Any, ...]) -> VirtualWorkerTask | None:
        """Return the task that goes into the pool's record. None: it is not watched. Never raises."""
        if not self.active or self.shutting_down():
            return None
        watch = None
        try:
            watch = _current_threads.add(executor, self.find_probe(), self.site)
            workers = _current_threads.workers
            if watch is None or workers is None:
                return None
            task = watch.arrive(fn, args)
            return None if task is None else VirtualWorkerTask(fn, watch, workers, *task)
        except Exception as exc:
            if watch is None:
                report(self.probe, exc)
            else:
                watch.give_up(exc)
            return None

    def put_on(self, cls: Any) -> None:
        """Replace `submit`."""
        original = cls.submit
        self.site = (f"{_CURRENT_MODULE.replace('.', '/')}.py:{original.__code__.co_firstlineno}", _CURRENT, "")

        @functools.wraps(original)
        def submit(self_: Any, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
            task = self.arrived(self_, fn, args)
            try:
                future = original(self_, fn if task is None else task, *args, **kwargs)
            except BaseException as exc:
                if task is not None:
                    task.refused()
                # A bare `raise` adds no line for this frame: the traceback is the one without us.
                leave_out(exc)
                raise
            if task is not None:
                future.add_done_callback(functools.partial(_ended, task))
            return future

        self.put(cls, "submit", submit)
        WAITS[cls.run_until_future.__code__] = _awaited_by


def _awaited_by(frame: FrameType) -> Any:
    """See `WAITS`: the task of the event loop in which the asynchronous code runs that `async_to_sync` was given. What
    else the thread runs meanwhile does not end its wait."""
    caller = frame.f_back
    if caller is None or caller.f_globals.get("__name__") != _MODULE:
        return None
    coroutine = caller.f_locals.get("awaitable")
    inner = coroutine.cr_frame if type(coroutine) is CoroutineType else None
    return None if inner is None else inner.f_locals.get("current_task")


def _ended(task: VirtualWorkerTask, future: Any) -> None:
    if future.cancelled():
        task.cancelled()


class _Adopter(Patch):
    """What the patch of the standard executor asks about each executor. Any thread may call it."""

    def __call__(self, executor: Any, made: bool) -> Any:
        """See `ADOPTERS`."""
        try:
            name = _maker() if made else _owner(executor)
            if name is None:
                return NotImplemented
            group = _groups.get(name)
            if group is not None:
                # A context has it once it is made.
                more = int(made and group.in_contexts)
                return group.add(executor, self.find_probe(), (_place(name), name, ""), more)
            if made:
                return UNOPENED  # with asgiref's import: most programs never use it
            return self._open_single(executor, name)
        except Exception as exc:
            report(self.probe, exc)
            return NotImplemented

    def _open_single(self, executor: Any, name: str) -> Watch | None:
        with _lock:
            found = executor.__dict__.get(ATTRIBUTE, UNOPENED)
            if found is UNOPENED:
                rule = self.find_probe().pool_rule(name, "asgiref")
                if rule is not None and rule.max_workers:
                    self.probe.notice(f"{name} stays one thread: asgiref promises that its calls run one by one")
                found = open_watch(
                    executor,
                    self.find_probe,
                    name=name,
                    prefix="",
                    kind="asgiref",
                    size_of=size_of,
                    site=(_place(name), name, ""),
                )
                executor.__dict__[ATTRIBUTE] = found
            watch: Watch | None = found
            return watch


def _maker() -> str | None:
    """Return what asgiref makes an executor for just now; None if it does not."""
    frame = sys._getframe(2)
    # Ours, and those of subclasses or of other tools around the constructor.
    while frame.f_code.co_name in ("__init__", "watch", "__call__") and frame.f_globals.get("__name__") != _MODULE:
        if frame.f_back is None:
            return None
        frame = frame.f_back
    if frame.f_globals.get("__name__") != _MODULE:
        return None
    return _MAKERS.get(frame.f_code.co_qualname)


def _owner(executor: Any) -> str | None:
    """Return what asgiref has made an executor for that is older than the patch."""
    module: Any = sys.modules.get(_MODULE)
    if module is None:
        return None
    if executor is module.SyncToAsync.single_thread_executor:
        return _MAKERS["SyncToAsync"]
    if any(executor is one for one in list(module.SyncToAsync.context_to_thread_executor.values())):
        return _MAKERS["SyncToAsync.__call__"]
    return None


def _place(name: str) -> str:
    """Where asgiref makes it, as `creation_site` says it."""
    module: Any = sys.modules.get(_MODULE)
    cls = (
        None if module is None else getattr(module, "AsyncToSync" if name.endswith("async_to_sync") else "SyncToAsync")
    )
    return "asgiref/sync.py" if cls is None else f"asgiref/sync.py:{cls.__call__.__code__.co_firstlineno}"


def _child(args: tuple[Any, ...], _: dict[str, Any]) -> Any:
    # self, loop, exc_info, task_context, func, child
    return args[5]


def _awaitable(args: tuple[Any, ...], _: dict[str, Any]) -> Any:
    """Return what `AsyncToSync` has a new loop run."""
    coroutine = args[0]
    frame = coroutine.cr_frame if type(coroutine) is CoroutineType else None
    if frame is None or frame.f_globals.get("__name__") != _MODULE:
        return None
    return frame.f_locals["self"].awaitable


WRAPPERS[f"{_MODULE}.SyncToAsync.thread_handler"] = _child
WRAPPERS["asyncio.runners.run"] = _awaitable

# Reentrant: a finalizer that runs while we are inside may make an executor.
_lock = RLock()
_groups = {name: _Group(name) for name in _MAKERS.values() if name != "asgiref.sync_to_async"}
_current_threads = PlacedEphemeralPools(_CURRENT, "asgiref", f"{_CURRENT_MODULE}.CurrentThreadExecutor", lent=True)
_adopter: _Adopter | None = None
_current: _Patch | None = None
_last_probe: Any = None


def _forget() -> None:
    """Begin anew under another probe, or in a forked child: the watches were the other's."""
    for group in _groups.values():
        group.forget()
    _current_threads.forget()
    module: Any = sys.modules.get(_MODULE)
    single = getattr(getattr(module, "SyncToAsync", None), "single_thread_executor", None)
    if single is not None:
        single.__dict__.pop(ATTRIBUTE, None)


def _forked() -> None:
    global _lock
    _lock = RLock()  # a thread of the parent may have held it
    _forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


def patch(probe: Any) -> None:
    """Name asgiref's executors, and show those that it makes for a moment as one. Does nothing if that is so already.

    If the version of asgiref is unknown, its executors are shown as any others, and the probe gets a notice.
    """
    global _adopter, _last_probe
    with _lock:
        module = sys.modules.get(_MODULE)
        missing = None if module is None else _missing(module)
        if missing:
            unfamiliar(probe, "asgiref", f"its threads are shown as those of any executor: no {missing}")
            _take_off()
        elif _adopter is None:
            if _last_probe is not probe:
                _forget()
            _last_probe = probe
            _adopter = _Adopter(probe)
            ADOPTERS.append(_adopter)
        _patch_current(probe)


def unpatch() -> None:
    """Leave asgiref's executors to the patch of the standard one. Does nothing if nothing is patched."""
    with _lock:
        _take_off()


def _patch_current(probe: Any) -> None:
    global _current
    module: Any = sys.modules.get(_CURRENT_MODULE)
    cls = getattr(module, "CurrentThreadExecutor", None)
    if _current is not None or cls is None or _adopter is None:
        return
    if not takes(cls.submit, ["self", "fn", "args", "kwargs"]):
        unfamiliar(probe, "asgiref", "what runs in the calling thread is not watched: no submit(self, fn, ...)")
        return
    _current = _Patch(probe)
    _current.put_on(cls)


def _take_off() -> None:
    global _adopter, _current
    if _current is not None:
        _current.take_off()
        _current = None
    if _adopter is not None:
        ADOPTERS.remove(_adopter)
        _adopter = None


def _missing(module: Any) -> str | None:
    """Return what `asgiref.sync` lacks of what we need. While it is being imported, nothing is known."""
    if in_flight(module) and not hasattr(module, "sync_to_async"):
        return None
    try:
        cls = module.SyncToAsync
        if not all(hasattr(cls, name) for name in ("single_thread_executor", "context_to_thread_executor")):
            return "SyncToAsync.single_thread_executor and .context_to_thread_executor"
        for maker in (cls, module.AsyncToSync):
            if "ThreadPoolExecutor" not in maker.__call__.__code__.co_names:
                return f"ThreadPoolExecutor in {maker.__name__}.__call__"
    except AttributeError as exc:
        return f"such module as expected ({exc})"
    return None

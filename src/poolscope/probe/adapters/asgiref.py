"""asgiref's bridge between synchronous and asynchronous code, and so Django's.

Nothing of asgiref is replaced. It makes standard executors of one thread each, which are seen like any other; but those
that it makes for a moment, one for each request that Django serves, are shown as one pool. There are three:

- `asgiref.sync_to_async`: the one thread of the process in which all synchronous code runs that is called outside of a
  request (thread-sensitive, without a context). It does serialise what comes, and is judged as a pool of one worker.
- `asgiref.contexts`: the threads of `ThreadSensitiveContext`, in Django's ASGI handler one for each request. The pool
  has as many workers as there were contexts at once lately: it is full when every request waits for its own thread,
  and has no queue that requests share.
- `asgiref.async_to_sync`: the threads with an event loop for one call of asynchronous code from outside of a loop.

What `CurrentThreadExecutor` runs, it runs inside of a task of these, or in a thread of the program's own.
"""

from __future__ import annotations

import os
import sys
from _thread import RLock
from types import CoroutineType
from weakref import ref

from poolscope.probe.adapters import unfamiliar
from poolscope.probe.pools.groups import Group
from poolscope.probe.pools.names import WRAPPERS
from poolscope.probe.pools.watching import ADOPTERS, ATTRIBUTE, UNOPENED, open_watch, report

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from poolscope.probe.pools.watching import Watch

_MODULE = "asgiref.sync"
#: Where asgiref makes executors, by the name of the code, and what is made there.
_MAKERS = {
    "SyncToAsync": "asgiref.sync_to_async",
    "SyncToAsync.__call__": "asgiref.contexts",
    "AsyncToSync.__call__": "asgiref.async_to_sync",
}
_STANDARD = "concurrent.futures.thread"


class _Group(Group):
    """Executors that asgiref makes for a moment."""

    def __init__(self, name: str) -> None:
        super().__init__(name, "asgiref", f"{_STANDARD}.ThreadPoolExecutor")
        self.in_contexts = name == _MAKERS["SyncToAsync.__call__"]

    def count(self) -> int:
        """See `Group.count`. A context lets its executor go at once; that is there until its thread has ended."""
        module: Any = sys.modules.get(_MODULE) if self.in_contexts else None
        return super().count() if module is None else len(module.SyncToAsync.context_to_thread_executor)

    def forget(self) -> None:
        """See `Group.forget`."""
        for executor in self.members():
            executor.__dict__.pop(ATTRIBUTE, None)
        super().forget()


class _Adopter:
    """What the patch of the standard executor asks about each. Any thread may."""

    def __init__(self, probe: Any) -> None:
        self.probe = probe
        self.pid = os.getpid()

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
                return group.add(executor, self._find_probe(), (_place(name), name), more)
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
                rule = self._find_probe().pool_rule(name)
                if rule is not None and rule.max_workers:
                    self.probe.notice(f"{name} stays one thread: asgiref promises that its calls run one by one")
                found = open_watch(
                    executor,
                    self._find_probe,
                    name=name,
                    prefix="",
                    kind="asgiref",
                    size_of=_size_of_one,
                    site=(_place(name), name),
                )
                executor.__dict__[ATTRIBUTE] = found
            watch: Watch | None = found
            return watch

    def _find_probe(self) -> Any:
        if os.getpid() != self.pid:
            from poolscope.probe import runtime

            self.probe = runtime.current()
            self.pid = os.getpid()
        return self.probe


def _size_of_one(executor: Any) -> Callable[[], tuple[int, int] | None]:
    weak = ref(executor)

    def size() -> tuple[int, int] | None:
        pool = weak()
        return None if pool is None else (len(pool._threads), pool._max_workers)

    return size


def _maker() -> str | None:
    """What asgiref makes an executor for just now; None if it does not."""
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
    """What asgiref has made an executor for that is older than the patch."""
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
    """What `AsyncToSync` has a new loop run."""
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
_adopter: _Adopter | None = None
_last_probe: Any = None


def _forget() -> None:
    """Under another probe, or in a forked child: the watches were the other's."""
    for group in _groups.values():
        group.forget()
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

    If asgiref is not as we know it, its executors are shown as any others, and the probe hears of it.
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


def unpatch() -> None:
    """Leave asgiref's executors to the patch of the standard one. Does nothing if nothing is patched."""
    with _lock:
        _take_off()


def _take_off() -> None:
    global _adopter
    if _adopter is not None:
        ADOPTERS.remove(_adopter)
        _adopter = None


def _missing(module: Any) -> str | None:
    """What we need of `asgiref.sync` and it has not. While it is being imported, nothing is known."""
    if getattr(module.__spec__, "_initializing", False) and not hasattr(module, "sync_to_async"):
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

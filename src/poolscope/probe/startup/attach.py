"""Records one existing pool, without watching the whole process."""

from __future__ import annotations

import sys

from poolscope.errors import PoolscopeError
from poolscope.probe import runtime
from poolscope.probe.recording.pool_watch import ATTRIBUTE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from concurrent.futures import Executor
    from multiprocessing.pool import Pool as ProcessPool  # the base of ThreadPool
    from typing import Any, TypeVar

    from poolscope.probe.recording.pool_watch import Watch

    Pool = TypeVar("Pool", bound=Executor | ProcessPool)


def attach(executor: Pool, *, name: str | None = None) -> Pool:
    """Record this pool from now on, and return it.

    Takes a ThreadPoolExecutor, a ProcessPoolExecutor or a `multiprocessing.pool.ThreadPool`; a `multiprocessing.Pool`
    only if `install` was called before it was made. What was submitted before is not recorded. Does nothing the second
    time, nor to one of poolscope's own executors, except for `name`, the name of the pool in reports; a pool that was
    reported already keeps its name. Submissions that a process pool or a `multiprocessing` one refuses are not
    counted.

    Any thread may call it. Raises PoolscopeError for anything else.
    """
    watch = _watched(executor, runtime.current(), name)
    if watch is not None and name is not None:
        _rename(watch, name)
    return executor


def _watched(executor: Any, probe: Any, name: str | None) -> Watch | None:
    if getattr(type(executor), "_poolscope_own", False):
        own: Watch | None = executor.__dict__.get(ATTRIBUTE)
        return own
    # A program that has such a pool has imported its module.
    if _is_a(executor, "concurrent.futures.thread", "ThreadPoolExecutor"):
        from poolscope.probe.executors import threadpool

        return threadpool.attach(executor, probe, name)
    if _is_a(executor, "concurrent.futures.process", "ProcessPoolExecutor"):
        from poolscope.probe.processes import processpool

        return processpool.watch_own(executor, lambda: probe, name)
    if _is_a(executor, "multiprocessing.pool", "ThreadPool"):
        from poolscope.probe.processes import multiprocessing_pool

        return multiprocessing_pool.watch_own(executor, lambda: probe, name)
    cls = type(executor)
    if _is_a(executor, "multiprocessing.pool", "Pool"):
        seen: Watch | None = executor.__dict__.get(ATTRIBUTE)
        if seen is not None:
            seen.own = True
            return seen
        raise PoolscopeError(
            f"cannot attach to {cls.__module__}.{cls.__qualname__}: its processes are there already; call"
            " poolscope.install() before it is made"
        )
    raise PoolscopeError(
        f"cannot attach to {cls.__module__}.{cls.__qualname__}: pass a ThreadPoolExecutor, a ProcessPoolExecutor or"
        " a multiprocessing.pool.ThreadPool"
    )


def _is_a(executor: object, module: str, name: str) -> bool:
    cls = getattr(sys.modules.get(module), name, None)
    return isinstance(cls, type) and isinstance(executor, cls)


def _rename(watch: Watch, name: str) -> None:
    recorder = watch.recorder
    if recorder.name == name:
        return
    if recorder.told:
        watch.probe.emit(("notice", f"pool {recorder.name}: keeps its name, as it was told of before attach({name!r})"))
    else:
        recorder.name = name

"""Worker threads that a library runs under capacity limiters, as anyio and trio do: each limiter is a pool.

The threads serve all limiters of their loop, so the workers of a pool are virtual ones. A task whose caller was
cancelled and did not wait has its place until its thread has ended it, though its token is free again: then more tasks
may run than there are tokens.
"""

from __future__ import annotations

import os
from _thread import RLock
from weakref import ref

from poolscope.probe.recording.pool_watch import open_watch, report, size_from_settings
from poolscope.probe.recording.virtual_workers import VirtualWorkers, VirtualWorkerTask

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from poolscope.probe.interpreter.stacks import Site
    from poolscope.probe.recording.ephemeral_pools import PlacedEphemeralPools
    from poolscope.probe.recording.pool_watch import Watch

#: Size to show for a limiter without a limit: more threads than there can be.
UNLIMITED = 1_000_000


class LimiterPool:
    """One limiter: where it was made and, from its first task on, how to record."""

    __slots__ = ("limiter", "site", "unopened", "watch", "workers")

    def __init__(self, limiter: ref[Any]) -> None:
        self.limiter = limiter
        self.site: Site | None = None
        self.forget()

    def forget(self) -> None:
        """Begin anew, as if it was never opened."""
        self.unopened = True
        self.watch: Watch | None = None
        self.workers: VirtualWorkers | None = None

    def read(self, name: str) -> int:
        """Return a number of the limiter; 0 if it is gone."""
        limiter = self.limiter()
        return 0 if limiter is None else min(getattr(limiter, name), UNLIMITED)

    def size(self) -> tuple[int, int] | None:
        """Return how many threads and tokens there are; None if the limiter is gone."""
        if self.limiter() is None:
            return None
        most = self.read("total_tokens")
        # The loop's threads serve its other limiters too, and there may be more of them.
        return 0 if self.workers is None else min(len(self.workers.threads), most), most


class LimitedThreads:
    """The limiters of one library. Any thread may call any method; none raises."""

    def __init__(
        self, kind: str, default: str, default_place: Callable[[], str], momentary: Mapping[str, PlacedEphemeralPools]
    ) -> None:
        """`default` is the name of the limiter for calls that name none, `default_place()` where the library gives it
        out; `momentary` are those that are made for a moment, by where they are made."""
        self._kind = kind
        self._default = default
        self._default_place = default_place
        self._momentary = momentary
        # By the limiter's id, for as long as it lives. Single dict operations only: any thread may make limiters.
        self._pools: dict[int, LimiterPool] = {}
        # Reentrant: a finalizer that runs while we are inside may run a task, too.
        self._lock = RLock()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forked)

    def _forked(self) -> None:
        self._lock = RLock()  # a thread of the parent may have held it
        self.forget()

    def forget(self) -> None:
        """Begin anew under another probe, or in a forked child: the watches were the other's."""
        for pool in list(self._pools.values()):
            pool.forget()
        for momentary in self._momentary.values():
            momentary.forget()

    def _pool_of(self, limiter: Any) -> LimiterPool:
        key = id(limiter)
        pools = self._pools
        pool = pools.get(key)
        if pool is None:
            pool = pools.setdefault(key, LimiterPool(ref(limiter, lambda _: pools.pop(key, None))))
        return pool

    def made(self, limiter: Any, probe: Any) -> None:
        """Note that a limiter was made just now. Its `__init__` may be called twice."""
        try:
            pool = self._pool_of(limiter)
            if pool.site is None:
                from poolscope.probe.interpreter.stacks import creation_site

                pool.site = creation_site(2)
        except Exception as exc:
            report(probe, exc)

    def arrived(
        self,
        call: tuple[Any, tuple[Any, ...]],
        limiter: Any,
        default: Callable[[], Any],
        find_probe: Callable[[], Any],
        task: type[VirtualWorkerTask] = VirtualWorkerTask,
    ) -> VirtualWorkerTask | None:
        """Return the task of a call (a function and its arguments), which goes into the record of the limiter's pool;
        None if it is not watched. `default()` returns the limiter for calls that name none."""
        watch = None
        try:
            pool = self._pools.get(id(limiter)) or self._pool_of(limiter)
            if pool.unopened:
                self._open(pool, limiter, default, find_probe)
            watch, workers = pool.watch, pool.workers
            if watch is None or workers is None:
                return None
            arrived = watch.arrive(*call)
            return None if arrived is None else task(call[0], watch, workers, *arrived)
        except Exception as exc:
            if watch is None:
                report(find_probe(), exc)
            else:
                watch.give_up(exc)
            return None

    def _open(self, pool: LimiterPool, limiter: Any, default: Callable[[], Any], find_probe: Callable[[], Any]) -> None:
        from poolscope.probe.interpreter.stacks import creation_site

        with self._lock:
            if not pool.unopened:
                return
            pool.unopened = False  # if this fails, it is not tried again
            name = None
            if limiter is default():
                name, pool.site = self._default, (self._default_place(), self._default, "")
            elif pool.site is None:  # older than the patch: its first user stands for its maker
                pool.site = creation_site(2)
            momentary = self._momentary.get(pool.site[1].removesuffix(f".{pool.site[2]}"))
            if momentary is not None:
                pool.watch = momentary.add(limiter, find_probe(), pool.site)
                pool.workers = momentary.workers
                return
            wanted = size_from_settings(find_probe, self._kind, pool.site[1])
            if wanted is not None:
                limiter.total_tokens = wanted
            pool.watch = watch = open_watch(
                limiter,
                find_probe,
                name=name,
                prefix="",
                kind=self._kind,
                size_of=lambda _: pool.size,
                site=pool.site,
            )
            if watch is not None:
                pool.workers = VirtualWorkers(watch.recorder, lambda: pool.read("total_tokens"))
                watch.recorder.taken = lambda: pool.read("borrowed_tokens")

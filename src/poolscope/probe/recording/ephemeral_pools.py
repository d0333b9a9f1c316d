"""Pools that a library makes for a moment, such as one for each request: recorded and shown as one.

Opening, reading and closing a pool costs more than the work of such a pool. No task of one waits for a worker of
another one, so each by itself says little. The pool that represents them has as many workers as all of them had lately:
it is full when all of them are.
"""

from __future__ import annotations

import sys
from _thread import RLock
from collections import deque
from functools import partial
from weakref import ref

from poolscope.probe.recording.pool_watch import open_watch
from poolscope.probe.recording.virtual_workers import EphemeralWatch, VirtualWorkers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from poolscope.probe.interpreter.stacks import Site

#: The size of the pool is the most members in so many readings, as tasks are judged a little later.
READINGS = 5


class EphemeralPools:
    """Members that come and go, each with one worker. Any thread may add one."""

    def __init__(self, name: str, kind: str, executor: str) -> None:
        """`executor` is the class path to show."""
        self.name = name
        self.watch: EphemeralWatch | None = None
        self._kind = kind
        self._executor = executor
        self._unopened = True
        self._members: dict[int, ref[Any]] = {}
        # The most at once since the last reading, and before that.
        self._most = 0
        self._before: deque[int] = deque(maxlen=READINGS)
        # Reentrant: a finalizer that runs while we are inside may add one.
        self._lock = RLock()

    def add(self, member: Any, probe: Any, site: Site, more: int = 0) -> EphemeralWatch | None:
        """Return the watch of all, for one more of them; None if they are not to be watched.

        `site` is where they are made (see `creation_site`), `more` how many `count` does not know yet.
        """
        if self._unopened:
            self._open(probe, site)
        watch = self.watch
        if watch is None or watch.recorder.given_up:
            return None
        key = id(member)
        self._members[key] = ref(member, partial(self._members.pop, key))
        self._most = max(self._most, self.count() + more)
        return watch

    def count(self) -> int:
        """Return the number of members now."""
        return len(self._members)

    def threads(self) -> int:
        """Return the number of their threads that have not ended."""
        return 0 if self.watch is None else len(self.watch.threads)

    def members(self) -> list[Any]:
        """Return the present members."""
        return [member for weak in list(self._members.values()) if (member := weak()) is not None]

    def forget(self) -> None:
        """Begin anew in a forked child, or under another probe: the watch was the other's."""
        self._lock = RLock()  # a thread of the parent may have held it
        self._members.clear()
        self._before.clear()
        self._most = 0
        self.watch = None
        self._unopened = True

    def _open(self, probe: Any, site: Site) -> None:
        with self._lock:
            if not self._unopened:
                return
            # It refers to the group, which lives as long as the process.
            watch = open_watch(
                self,
                lambda: probe,
                name=self.name,
                prefix="",
                kind=self._kind,
                size_of=lambda _: self._size,
                site=site,
            )
            if watch is not None:
                watch.recorder.executor = self._executor
                watch.recorder.settled = self._settled
                self.watch = EphemeralWatch(watch.probe, watch.recorder)
            self._unopened = False

    def _size(self) -> tuple[int, int]:
        self._before.append(max(1, self._most))
        self._most = self.count()
        return self.threads(), max(self._before)

    def _settled(self) -> bool:
        return max(self._before) == max(1, self.count())


class PlacedEphemeralPools(EphemeralPools):
    """The same, where each task takes a virtual worker while it runs: its thread is not the pool's own."""

    def __init__(self, name: str, kind: str, executor: str, *, lent: bool = False) -> None:
        """As for `EphemeralPools`; `lent` as for `VirtualWorkers`."""
        super().__init__(name, kind, executor)
        self._lent = lent
        self._workers: VirtualWorkers | None = None

    @property
    def workers(self) -> VirtualWorkers | None:
        """Return the virtual workers of all members; None if they are not watched."""
        if self._workers is None and self.watch is not None:
            # As many as there are tasks at once: none waits for a task of another pool.
            self._workers = VirtualWorkers(self.watch.recorder, lambda: sys.maxsize, lent=self._lent)
        return self._workers

    def threads(self) -> int:
        """See `EphemeralPools.threads`."""
        return 0 if self._workers is None else len(self._workers.threads)

    def forget(self) -> None:
        """See `EphemeralPools.forget`."""
        super().forget()
        self._workers = None

"""All limits of a family: which are noted, and which get a row.

Most locks are waited for once and for a moment, and programs may have many thousands of them. So to note one costs
little, and our own thread opens the row, with all that was noted, once it is worth one: something waits there again, or
for more than a moment.
"""

from __future__ import annotations

import sys
from functools import partial
from weakref import ref

from poolscope.probe.limits.limit import LIMITS_KEPT, Limit
from poolscope.probe.limits.naming import site_of
from poolscope.probe.recording.pool_watch import Watch, report

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from poolscope.probe.interpreter.stacks import Site
    from poolscope.probe.limits.limit import Look

#: How often our thread looks whether a limit is worth a row (s).
LOOK_SECONDS = 0.1

_getframe = sys._getframe


class Limits:
    """All limits of a family that are noted, weakly. Any thread may use it."""

    def __init__(self) -> None:
        # By id. Single dict operations only. `_fresh` are those without a row.
        self._limits: dict[int, ref[Limit]] = {}
        self._fresh: dict[int, ref[Limit]] = {}
        self._full = False
        self._stop_job: Callable[[], None] | None = None

    def note(
        self,
        owner: Any,
        find_probe: Callable[[], Any],
        *,
        kind: str,
        capacity: int | None,
        site: Site | None,
        look: Look,
        holders: Callable[[Limit], list[Any]] | None = None,
    ) -> Limit | None:
        """Return the record of a limit at which something waits for the first time; None if there is to be none.

        `site` is where it was made (see `naming.site_of`), if that is known: else who waits there first stands for who
        made it. The others are as `Limit` has them. Never raises because of a failure of ours.
        """
        probe = None
        try:
            probe = find_probe()
            if not probe.settings.limits or capacity == 0:
                return None
            limits = self._limits
            if len(limits) >= LIMITS_KEPT and not self._room(probe):
                return None
            recorder = probe.new_recorder(owner, kind)
            if recorder is None:
                return None
            limit = Limit(
                kind, capacity, Watch(probe, recorder), ref(owner), site or site_of(_getframe(1)), look, holders
            )
            # No function of ours is called by the collector.
            key = id(limit)
            limits[key] = self._fresh[key] = ref(limit, partial(limits.pop, key))
            self.start(probe)
            return limit
        except Exception as exc:
            report(probe, exc)
            return None

    def _room(self, probe: Any) -> bool:
        """Whether there is room for one more, once those are forgotten that were waited for once, and are free."""
        for key, weak in list(self._fresh.items()):
            limit = weak()
            if limit is not None and limit.at_rest and not limit.proven():
                self._fresh.pop(key, None)
                self._limits.pop(key, None)
                limit.over = limit.again = True
        if len(self._limits) < LIMITS_KEPT:
            return True
        if not self._full:
            self._full = True
            probe.notice(f"more than {LIMITS_KEPT} semaphores and locks are waited for: the others are not seen")
        return False

    def start(self, probe: Any) -> None:
        """Have our thread look at them, and what reads on demand."""
        if self._stop_job is not None:
            return
        self._stop_job = probe.add_job(LOOK_SECONDS, self.look)
        if self.look not in probe.before_flush:
            probe.before_flush.append(self.look)

    def look(self, _now_ns: int = 0) -> None:
        """Open the rows of those that are worth one by now. Any thread may."""
        fresh = self._fresh
        for key, weak in list(fresh.items()):
            limit = weak()
            if limit is None or limit.over:
                fresh.pop(key, None)
            # Of two threads that look, one takes it out.
            elif limit.proven() and fresh.pop(key, None) is not None:
                limit.open()

    def end(self) -> None:
        """Record none of them any more."""
        for weak in list(self._limits.values()):
            limit = weak()
            if limit is not None:
                limit.close()
        self._forget()

    def forget(self) -> None:
        """Likewise in a forked child: the records are the parent's."""
        for weak in list(self._limits.values()):
            limit = weak()
            if limit is not None:
                limit.over = limit.again = True
        self._stop_job = None  # it was the parent's
        self._forget()

    def _forget(self) -> None:
        if self._stop_job is not None:
            self._stop_job()
            self._stop_job = None
        self._limits.clear()
        self._fresh.clear()

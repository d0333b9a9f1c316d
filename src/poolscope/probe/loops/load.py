"""How much of its time an event loop is at work, and where: added up from looks at it. Pure: times (ns) come in.

Where it is at work is reported only of a loop that has little rest, or is late; for how long, of each. An idle one
costs nothing.
"""

from __future__ import annotations

from poolscope.probe.loops.evidence import Evidence

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from poolscope.probe.loops.meter import Counters

    Message = tuple[Any, ...]
    Lines = tuple[tuple[str, int, str], ...]

#: How often it is reported.
TOLD_NS = 1_000_000_000
#: The share of time at work from which on it is reported.
WORTH_SHARE = 0.5
#: A loop that is this late is reported as well.
LATE_NS = 10_000_000
#: The most lines of each kind to count apart, and to report.
_LINES_KEPT = 200
_LINES_TOLD = 10


class LoopLoad:
    """The time at work of one loop. One caller at a time."""

    __slots__ = (
        "_at_work_ns",
        "_base",
        "_blocked_ns",
        "_busy",
        "_busy_ns",
        "_gil",
        "_lag_ns",
        "_lines",
        "_loop",
        "_ready",
        "_ready_ns",
        "_seen_ns",
        "_tasks",
        "told",
    )

    def __init__(
        self, loop: int, *, blocked_ns: int, gil: bool = True, ready: Callable[[], int | None] | None = None
    ) -> None:
        """`ready` says how long the loop's thread was ready to run so far, but on no CPU (ns), if that is known."""
        self._loop = loop
        self._blocked_ns = blocked_ns
        self._gil = gil
        self._ready = ready
        #: Whether it was reported last time.
        self.told = False
        # For how long it was at work, and has not been taken.
        self._busy_ns = 0
        self._begin(None)

    def _begin(self, base: Counters | None) -> None:
        self._base: Counters | None = base
        self._ready_ns = None if base is None or self._ready is None else self._ready()
        self._at_work_ns = self._seen_ns = 0
        self._lag_ns = 0
        self._lines: dict[Lines, int] = {}
        self._busy: dict[Lines, int] = {}
        self._tasks = 0

    def late(self, lag_ns: int) -> None:
        """Take in how late the loop ran what was due."""
        self._lag_ns = max(self._lag_ns, lag_ns)

    def look(
        self, now: Counters, *, at_work: bool, lines: Lines, others: Sequence[tuple[Lines, int]], tasks: int
    ) -> list[Message]:
        """Take in a look, and return what to report. The state of this look counts for all time since the last one."""
        base = self._base
        if base is None:
            self._begin(now)
            return []
        gap_ns = now.at_ns - base.at_ns - self._seen_ns
        self._seen_ns += gap_ns
        self._tasks = max(self._tasks, tasks)
        if at_work:
            self._at_work_ns += gap_ns
            _add(self._lines, lines, gap_ns)
        for busy, cpu_ns in others:
            _add(self._busy, busy, cpu_ns)
        return self.tell(now) if self._seen_ns >= TOLD_NS else []

    def tell(self, now: Counters) -> list[Message]:
        """Return the load since the last report, if it deserves one, and begin anew."""
        base, at_work, lag_ns = self._base, self._at_work_ns, self._lag_ns
        lines, busy, tasks, ready_ns = self._lines, self._busy, self._tasks, self._ready_ns
        self._begin(now)
        if base is None or now.at_ns <= base.at_ns:
            return []
        evidence = Evidence.between(base, now, self._blocked_ns, self._gil)
        if ready_ns is not None and self._ready_ns is not None:
            evidence.delay = max(0, self._ready_ns - ready_ns) / evidence.wall_ns
        share = min(1.0, max(at_work / evidence.wall_ns, evidence.cpu or 0.0))
        self._busy_ns += round(share * evidence.wall_ns)
        self.told = share >= WORTH_SHARE or lag_ns >= LATE_NS
        if not self.told:
            return []
        seen = _heaviest(lines), _heaviest(busy)
        return [("loop_load", self._loop, base.at_ns, now.at_ns, share, tasks, evidence.told(), *seen)]

    def take_busy(self) -> int:
        """Return for how long it was at work (ns) since this was last asked."""
        taken, self._busy_ns = self._busy_ns, 0
        return taken


def _add(weights: dict[Lines, int], lines: Lines, weight: int) -> None:
    if lines and (lines in weights or len(weights) < _LINES_KEPT):
        weights[lines] = weights.get(lines, 0) + weight


def _heaviest(weights: dict[Lines, int]) -> list[tuple[Lines, int]]:
    return sorted(weights.items(), key=lambda item: -item[1])[:_LINES_TOLD]

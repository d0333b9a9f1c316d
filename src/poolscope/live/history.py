"""The last snapshots of a program as series: what its pools and event loops did from one look to the next.

Means come from the counters, which nothing between two looks escapes; what is now, from the gauges. Pure: the time (s,
as of the Unix epoch) comes in with each look. Not thread-safe.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Sequence
from itertools import accumulate
from operator import sub
from typing import NamedTuple, TypeVar

from poolscope.metrics.merge import buckets, pool_sum
from poolscope.signals.limits import KINDS as LIMITS
from poolscope.snapshot import LoopSnapshot, PoolSnapshot, Snapshot

#: Rates and percentiles are of so many seconds.
WINDOW_SECONDS = 10.0
#: Points kept of one series, and about how many of all together.
MOST_POINTS, ALL_POINTS, FEWEST_POINTS = 600, 60_000, 60
#: A batch is told of once hardly any tasks (a share of those that finish) have come for so long.
BATCH_SECONDS, COMING_SHARE = 2.0, 0.1

#: Name and kind.
Key = tuple[str, str]
_Row = TypeVar("_Row", PoolSnapshot, LoopSnapshot)


class Point(NamedTuple):
    """Up to `at` (s): mean tasks that ran and that were queued since the point before, and the age of the one that was
    queued longest then (s)."""

    at: float
    active: float
    queued: float
    oldest_seconds: float


class Batch(NamedTuple):
    """Tasks that came together and are worked off: done so far, in all, done in a second, and seconds left."""

    done: int
    total: int
    per_second: float
    left_seconds: float


class _Mark(NamedTuple):
    """The counters as of one look."""

    at: float
    submitted: int
    finished: int
    waits: tuple[int, ...]


class PoolSeries:
    """One row over time: all pools of a name and kind."""

    def __init__(self) -> None:
        self.points: deque[Point] = deque()
        self._marks: deque[_Mark] = deque()
        #: The looks before and after which tasks were queued first, without a pause since.
        self._began: tuple[_Mark, _Mark] | None = None
        self.row: PoolSnapshot

    def look(self, row: PoolSnapshot, at: float, most_points: int) -> None:
        """Take in the row as it is now."""
        before = self._marks[-1] if self._marks else None
        active, queued = float(row.active), float(row.queue_depth)
        if before is not None and at > before.at:
            seconds = at - before.at
            active = max(0.0, row.busy_seconds - self.row.busy_seconds) / seconds
            queued = max(0.0, row.queued_seconds - self.row.queued_seconds) / seconds
        mark = _Mark(at, row.submitted, row.succeeded + row.failed, tuple(row.wait_buckets))
        self.points.append(Point(at, active, queued, row.oldest_queued_seconds))
        while len(self.points) > most_points:
            self.points.popleft()
        self._marks.append(mark)
        while len(self._marks) > 2 and self._marks[1].at <= at - WINDOW_SECONDS:
            self._marks.popleft()
        if not row.queue_depth and (not row.active or queued == 0):
            self._began = None
        elif self._began is None and row.queue_depth:
            self._began = before or mark, mark
        self.row = row

    @property
    def per_second(self) -> float | None:
        """Tasks that finished in a second, lately; None after a single look."""
        first, last = self._marks[0], self._marks[-1]
        return None if last.at <= first.at else max(0, last.finished - first.finished) / (last.at - first.at)

    def wait_p95(self, bounds: Sequence[float]) -> float | None:
        """Return the wait (s) that 95 % of the tasks had at most that started lately; None where none did."""
        first, last = self._marks[0].waits, self._marks[-1].waits
        if len(first) != len(last) or len(last) != len(bounds) + 1:
            return None
        lately = last if len(self._marks) == 1 else tuple(map(sub, last, first))
        return percentile(bounds, lately, 0.95)

    @property
    def batch(self) -> Batch | None:
        """Its progress, where tasks came together and hardly any come now."""
        now = self._marks[-1]
        if self._began is None or self.row.kind in LIMITS or now.at - self._began[1].at < BATCH_SECONDS:
            return None
        before, seen = self._began
        since = next(mark for mark in reversed(self._marks) if mark.at <= now.at - BATCH_SECONDS)
        first = max(self._marks[0], seen)
        finished, seconds = now.finished - first.finished, now.at - first.at
        if finished <= 0 or now.submitted - since.submitted > COMING_SHARE * max(0, now.finished - since.finished):
            return None
        left = self.row.queue_depth + self.row.active
        done = now.finished - before.finished
        return Batch(done, done + left, finished / seconds, left * seconds / finished)


class LoopSeries:
    """One row over time: all event loops of a name and kind."""

    def __init__(self) -> None:
        #: Time (s), and the share of it since the look before in which callbacks held a loop.
        self.points: deque[tuple[float, float]] = deque()
        self._marks: deque[tuple[float, tuple[int, ...]]] = deque()
        self.row: LoopSnapshot
        self.loops = 0

    def look(self, rows: Sequence[LoopSnapshot], at: float, most_points: int) -> None:
        """Take in the rows as they are now."""
        living = [row for row in rows if row.alive]
        whole = LoopSnapshot(
            name=rows[0].name,
            kind=rows[0].kind,
            pid=rows[0].pid,
            alive=bool(living),
            lag_buckets=tuple(buckets([row.lag_buckets for row in rows])),
            lag_sum_seconds=math.fsum(row.lag_sum_seconds for row in rows),
            blocked_seconds=math.fsum(row.blocked_seconds for row in rows),
            busy_seconds=math.fsum(row.busy_seconds for row in rows),
            tasks=sum(row.tasks for row in living),
        )
        share = 0.0
        if self._marks and at > self._marks[-1][0]:
            seconds = (at - self._marks[-1][0]) * max(1, len(living))
            share = min(1.0, max(0.0, whole.blocked_seconds - self.row.blocked_seconds) / seconds)
        self.points.append((at, share))
        while len(self.points) > most_points:
            self.points.popleft()
        self._marks.append((at, whole.lag_buckets))
        while len(self._marks) > 2 and self._marks[1][0] <= at - WINDOW_SECONDS:
            self._marks.popleft()
        self.row, self.loops = whole, len(living)

    def lag_p95(self, bounds: Sequence[float]) -> float | None:
        """Return by how much (s) 95 % of what was due lately was late at most; None where nothing was."""
        first, last = self._marks[0][1], self._marks[-1][1]
        if len(first) != len(last) or len(last) != len(bounds) + 1:
            return None
        return percentile(bounds, last if len(self._marks) == 1 else tuple(map(sub, last, first)), 0.95)


class History:
    """What a program did over the last minutes, look by look."""

    def __init__(self) -> None:
        self.pools: dict[Key, PoolSeries] = {}
        self.loops: dict[Key, LoopSeries] = {}
        self.snapshot: Snapshot | None = None
        #: When it was looked at last, and first (s).
        self.at = self.since = 0.0

    def look(self, snapshot: Snapshot, at: float) -> None:
        """Take in what goes on at this time. What is in it no more is forgotten."""
        if self.snapshot is None:
            self.since = at
        self.snapshot, self.at = snapshot, at
        pools = _grouped(snapshot.pools)
        loops = _grouped(snapshot.loops)
        most = min(MOST_POINTS, max(FEWEST_POINTS, ALL_POINTS // max(1, len(pools) + len(loops))))
        self.pools = {key: self.pools.get(key) or PoolSeries() for key in pools}
        for key, rows in pools.items():
            self.pools[key].look(rows[0] if len(rows) == 1 else pool_sum(rows), at, most)
        self.loops = {key: self.loops.get(key) or LoopSeries() for key in loops}
        for key, its in loops.items():
            self.loops[key].look(its, at, most)


def percentile(bounds: Sequence[float], counts: Sequence[int], share: float) -> float | None:
    """Return what a histogram says of a percentile, even within a bucket, as Prometheus does it.

    `counts` are one more than `bounds` (s, upper). None without any; infinity where it lies beyond the last bound.
    """
    total = sum(count for count in counts if count > 0)
    if total <= 0:
        return None
    wanted = share * total
    for place, upto in enumerate(accumulate(max(0, count) for count in counts)):
        if upto >= wanted and counts[place] > 0:
            if place == len(bounds):
                return math.inf
            low = bounds[place - 1] if place else 0.0
            return low + (bounds[place] - low) * (wanted - (upto - counts[place])) / counts[place]
    return math.inf


def _grouped(rows: Iterable[_Row]) -> dict[Key, list[_Row]]:
    grouped: dict[Key, list[_Row]] = {}
    for row in rows:
        grouped.setdefault((row.name, row.kind), []).append(row)
    return grouped

"""What pictures of a pool or a loop show: its samples, thinned. Pure: no clock, no thread, no I/O."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from poolscope.fleet.readings import Reading


class Point(NamedTuple):
    """One moment (s since the epoch); NaN stands for a number that is not there, and in the midst of a gap for all."""

    at: float
    active: float = math.nan
    queued: float = math.nan
    limit: float = math.nan
    #: How late a loop was at most (s).
    late: float = math.nan


def thinned(reading: Reading, most: int) -> tuple[Point, ...]:
    """Return about `most` points, and one for each gap: the mean of what is active, the most of what waits or is
    late."""
    loop = reading.mapping.kind == "loop"
    active, queued, limit = (None, None, None) if loop else (reading.active, reading.queued, reading.limit)
    late = reading.gauge("lag") if loop else None
    gaps = dict(reading.gaps)
    found: list[Point] = []
    for first, last in _parts(reading, max(1, math.ceil(len(reading.at) / most)), gaps):
        mean = reading.mean(active, first, last), reading.mean(limit, first, last)
        shown, allowed = (math.nan if value is None else value for value in mean)
        found.append(Point(reading.at[first], shown, _most(queued, first, last), allowed, _most(late, first, last)))
        if (end := gaps.get(reading.at[last])) is not None:
            found.append(Point((reading.at[last] + end) / 2))
    return tuple(found)


def _parts(reading: Reading, step: int, gaps: dict[float, float]) -> Iterator[tuple[int, int]]:
    """First and last sample of each point; none is on both sides of a gap."""
    first = 0
    for at, time in enumerate(reading.at):
        if at - first == step - 1 or time in gaps or at == len(reading.at) - 1:
            yield first, at
            first = at + 1


def _most(values: Sequence[float] | None, first: int, last: int) -> float:
    there = [value for value in values[first : last + 1] if value == value] if values is not None else []
    return max(there, default=math.nan)

"""A distribution of durations whose percentiles are within 1.6 % of the exact ones, in bounded memory.

Values (ns) fall into log-linear buckets, 32 to each power of two: a bucket is at most 1/32 of its values wide, so its
midpoint is at most 1/64 off; below 64 ns each value has a bucket of its own. The least and the largest value are kept
exactly, and no percentile lies beyond them. Beside them stand exact counts per bound of a Prometheus histogram. Not
thread-safe: its owner guards it.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence

from poolscope.model import Distribution

_EXACT_BELOW = 64


def _key(value: int) -> int:
    if value < _EXACT_BELOW:
        return value
    shift = value.bit_length() - 6
    return (shift << 6) + (value >> shift)


def _range(key: int) -> tuple[int, int]:
    """Return the values [low, high) of one bucket."""
    if key < _EXACT_BELOW:
        return key, key + 1
    shift, mantissa = key >> 6, key & 63
    return mantissa << shift, (mantissa + 1) << shift


def _counted(ordered: Sequence[int]) -> dict[int, int]:
    """Count the values, sorted and none negative, in each bucket."""
    counts: dict[int, int] = {}
    place, end = 0, len(ordered)
    while place < end:
        value = ordered[place]
        # The same steps as in `_key` and `_range`.
        shift = value.bit_length() - 6
        mantissa = value >> shift if shift > 0 else value
        after = bisect_left(ordered, (mantissa + 1) << shift if shift > 0 else value + 1, place)
        counts[(shift << 6) + mantissa if shift > 0 else value] = after - place
        place = after
    return counts


class Histogram:
    """Durations (ns) added in batches; `bounds` are the histogram's upper bounds (ns), increasing."""

    __slots__ = ("bounds", "buckets", "count", "counts", "maximum", "minimum", "total")

    def __init__(self, bounds: Sequence[int] = ()) -> None:
        self.bounds = bounds
        self.buckets = [0] * (len(bounds) + 1)
        self.counts: dict[int, int] = {}
        self.count = 0
        self.total = 0
        #: The largest and the least value, exact; 0 if there is nothing.
        self.maximum = 0
        self.minimum = 0

    def add(self, values: Sequence[int], also: Histogram | None = None) -> None:
        """Add durations (ns), also to another distribution without bounds; negative ones (a clock that is not steady)
        count as 0."""
        if not values:
            return
        # In sorted values, each bucket and each bound costs one search, however many lie between.
        ordered = sorted(values)
        if ordered[0] < 0:
            ordered = [max(value, 0) for value in ordered]
        counts, total, count = _counted(ordered), sum(ordered), len(ordered)
        self._add(counts, count, total, ordered[0], ordered[-1])
        if also is not None:
            also._add(counts, count, total, ordered[0], ordered[-1])
            also.buckets[0] += count
        buckets, below = self.buckets, 0
        for place in range(bisect_left(self.bounds, ordered[0]), len(self.bounds)):
            upto = bisect_right(ordered, self.bounds[place], below)
            buckets[place] += upto - below
            if upto == count:
                break
            below = upto
        else:
            buckets[-1] += count - below

    def estimate(self, count: int, total: int, maximum: int, sample: Sequence[int], also: Histogram) -> None:
        """Add that many durations of which the sum (ns), the longest and a sample are known, each of the sample for as
        many as the others; also to a distribution without bounds. Count and sum stay exact."""
        ordered = sorted(max(value, 0) for value in sample) or [max(0, total // count)]
        maximum = max(maximum, ordered[-1])
        counts: dict[int, int] = {}
        taken = 0
        for place, value in enumerate(ordered, 1):
            share = place * count // len(ordered) - taken
            taken += share
            counts[_key(value)] = counts.get(_key(value), 0) + share
            self.buckets[bisect_left(self.bounds, value)] += share
        self._add(counts, count, max(0, total), ordered[0], maximum)
        also._add(counts, count, max(0, total), ordered[0], maximum)
        also.buckets[0] += count

    def put(self, value: int) -> None:
        """Add one duration (ns) to a distribution without bounds."""
        value = max(value, 0)
        key = _key(value)
        self.counts[key] = self.counts.get(key, 0) + 1
        self.buckets[0] += 1
        if value < self.minimum or not self.count:
            self.minimum = value
        self.count += 1
        self.total += value
        if value > self.maximum:
            self.maximum = value

    def _add(self, counts: Mapping[int, int], count: int, total: int, minimum: int, maximum: int) -> None:
        if not count:
            return
        self.minimum = min(self.minimum, minimum) if self.count else minimum
        self.count += count
        self.total += total
        self.maximum = max(self.maximum, maximum)
        mine = self.counts
        for key, number in counts.items():
            mine[key] = mine.get(key, 0) + number

    def rebound(self, bounds: Sequence[int]) -> None:
        """Other bounds (ns) from now on. What was counted is put between them by its log-linear bucket, so that a value
        within 1.6 % of a bound may be on its wrong side."""
        self.bounds = bounds
        self.buckets = [0] * (len(bounds) + 1)
        for key, count in self.counts.items():
            self.buckets[bisect_left(bounds, _range(key)[0])] += count

    def merge(self, other: Histogram) -> None:
        """Add all of another distribution over the same bounds."""
        self._add(other.counts, other.count, other.total, other.minimum, other.maximum)
        self.buckets = [mine + theirs for mine, theirs in zip(self.buckets, other.buckets, strict=True)]

    def quantiles(self, shares: Sequence[float]) -> list[float]:
        """Return the values (ns) below which the given shares (increasing, 0 to 1) lie; empty if there is nothing.
        None is below the least value or above the largest."""
        if not self.count:
            return []
        found: list[float] = []
        keys = sorted(self.counts)
        below = 0
        place = -1
        for share in shares:
            # The rank of the nearest-rank definition: at least `share` of the values are at or below it.
            rank = max(1, -int(-share * self.count // 1))
            while below < rank:
                place += 1
                below += self.counts[keys[place]]
            low, high = _range(keys[place])
            found.append((max(low, self.minimum) + min(high - 1, self.maximum)) / 2)
        return found

    def distribution(self) -> Distribution:
        """Return it as the report shows it, in seconds."""
        if not self.count:
            return Distribution()
        p50, p95, p99 = (value / 1e9 for value in self.quantiles((0.5, 0.95, 0.99)))
        return Distribution(mean=self.total / self.count / 1e9, p50=p50, p95=p95, p99=p99, max=self.maximum / 1e9)

"""A distribution of durations whose percentiles are within 1.6 % of the exact ones, in bounded memory.

Values (ns) fall into log-linear buckets, 32 to each power of two: a bucket is at most 1/32 of its values wide, so its
midpoint is at most 1/64 off; below 64 ns each value has a bucket of its own. Beside them stand exact counts per bound
of a Prometheus histogram. Not thread-safe: its owner guards it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import repeat

from poolscope.model import Distribution

_EXACT_BELOW = 64


def _key(value: int) -> int:
    if value < _EXACT_BELOW:
        return value
    shift = value.bit_length() - 6
    return (shift << 6) + (value >> shift)


def _range(key: int) -> tuple[int, int]:
    """The values [low, high) of one bucket."""
    if key < _EXACT_BELOW:
        return key, key + 1
    shift, mantissa = key >> 6, key & 63
    return mantissa << shift, (mantissa + 1) << shift


class Spread:
    """Durations (ns) added in batches; `bounds` are the histogram's upper bounds (ns), increasing."""

    __slots__ = ("_split", "bounds", "buckets", "count", "counts", "maximum", "total")

    def __init__(self, bounds: Sequence[int] = ()) -> None:
        self.bounds = bounds
        self.buckets = [0] * (len(bounds) + 1)
        # Buckets with a bound in them.
        self._split = frozenset(map(_key, bounds))
        self.counts: dict[int, int] = {}
        self.count = 0
        self.total = 0
        self.maximum = 0

    def add(self, values: Sequence[int], also: Spread | None = None) -> None:
        """Adds durations (ns), also to another distribution without bounds; negative ones (a clock that is not steady)
        count as 0."""
        if not values:
            return
        if min(values) < 0:
            values = [max(value, 0) for value in values]
        # As `_key` does it.
        keys = [(shift << 6) + (value >> shift) if (shift := value.bit_length() - 6) > 0 else value for value in values]
        counts, total, maximum = Counter(keys), sum(values), max(values)
        self._add(counts, len(values), total, maximum)
        if also is not None:
            also._add(counts, len(values), total, maximum)
            also.buckets[0] += len(values)
        # A bucket without a bound in it lies between the same two as its lowest value.
        split = self._split
        for key, count in counts.items():
            if key not in split:
                self.buckets[bisect_left(self.bounds, _range(key)[0])] += count
        if not split.isdisjoint(counts):
            near = [value for key, value in zip(keys, values, strict=True) if key in split]
            for place, count in Counter(map(bisect_left, repeat(self.bounds), near)).items():
                self.buckets[place] += count

    def put(self, value: int) -> None:
        """Adds one duration (ns) to a distribution without bounds."""
        value = max(value, 0)
        key = _key(value)
        self.counts[key] = self.counts.get(key, 0) + 1
        self.buckets[0] += 1
        self.count += 1
        self.total += value
        if value > self.maximum:
            self.maximum = value

    def _add(self, counts: Mapping[int, int], count: int, total: int, maximum: int) -> None:
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
        self._split = frozenset(map(_key, bounds))
        self.buckets = [0] * (len(bounds) + 1)
        for key, count in self.counts.items():
            self.buckets[bisect_left(bounds, _range(key)[0])] += count

    def merge(self, other: Spread) -> None:
        """Adds all of another distribution over the same bounds."""
        self._add(other.counts, other.count, other.total, other.maximum)
        self.buckets = [mine + theirs for mine, theirs in zip(self.buckets, other.buckets, strict=True)]

    def quantiles(self, shares: Sequence[float]) -> list[float]:
        """The values (ns) below which the given shares (increasing, 0 to 1) lie; empty if there is nothing."""
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
            found.append(min((low + high - 1) / 2, self.maximum))
        return found

    @property
    def fastest(self) -> float:
        """The least of the values (ns), within 1.6 %; 0 if there is nothing."""
        if not self.counts:
            return 0.0
        low, high = _range(min(self.counts))
        return (low + high - 1) / 2

    def distribution(self) -> Distribution:
        """As the report shows it, in seconds."""
        if not self.count:
            return Distribution()
        p50, p95, p99 = (value / 1e9 for value in self.quantiles((0.5, 0.95, 0.99)))
        return Distribution(mean=self.total / self.count / 1e9, p50=p50, p95=p95, p99=p99, max=self.maximum / 1e9)

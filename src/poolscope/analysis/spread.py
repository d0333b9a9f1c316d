"""A distribution of durations whose percentiles are within 1.6 % of the exact ones, in bounded memory.

Values (ns) fall into log-linear buckets, 32 to each power of two: a bucket is at most 1/32 of its values wide, so its
midpoint is at most 1/64 off; below 64 ns each value has a bucket of its own. Beside them stand exact counts per bound
of a Prometheus histogram. Not thread-safe: its owner guards it.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence

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

    __slots__ = ("bounds", "buckets", "count", "counts", "maximum", "total")

    def __init__(self, bounds: Sequence[int] = ()) -> None:
        self.bounds = bounds
        self.buckets = [0] * (len(bounds) + 1)
        self.counts: dict[int, int] = {}
        self.count = 0
        self.total = 0
        self.maximum = 0

    def add(self, values: Iterable[int]) -> None:
        """Adds durations (ns); negative ones (a clock that is not steady) count as 0."""
        # Sorted once, a run of equal buckets costs one look-up, so large batches are cheap.
        ordered = sorted(values)
        if not ordered:
            return
        if ordered[0] < 0:
            ordered = [max(value, 0) for value in ordered]
        size = len(ordered)
        self.count += size
        self.total += sum(ordered)
        self.maximum = max(self.maximum, ordered[-1])
        counts = self.counts
        at = 0
        while at < size:
            key = _key(ordered[at])
            end = bisect_left(ordered, _range(key)[1], at)
            counts[key] = counts.get(key, 0) + end - at
            at = end
        below = 0
        for place, bound in enumerate(self.bounds):
            up_to = bisect_right(ordered, bound, below)
            self.buckets[place] += up_to - below
            below = up_to
        self.buckets[-1] += size - below

    def merge(self, other: Spread) -> None:
        """Adds all of another distribution over the same bounds."""
        self.count += other.count
        self.total += other.total
        self.maximum = max(self.maximum, other.maximum)
        for key, count in other.counts.items():
            self.counts[key] = self.counts.get(key, 0) + count
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

    def distribution(self) -> Distribution:
        """As the report shows it, in seconds."""
        if not self.count:
            return Distribution()
        p50, p95, p99 = (value / 1e9 for value in self.quantiles((0.5, 0.95, 0.99)))
        return Distribution(mean=self.total / self.count / 1e9, p50=p50, p95=p95, p99=p99, max=self.maximum / 1e9)

"""What the rules say about one stretch of a pool, and the sums of short stretches. Pure."""

from __future__ import annotations

import msgspec

from poolscope.aggregation.stretches import Stretch
from poolscope.rules.reason import Diagnosis
from poolscope.signals.pool_signals import PoolSignals


class Judgement(msgspec.Struct, frozen=True):
    """A diagnosis, and its stretch (ns)."""

    diagnosis: Diagnosis
    begin_ns: int
    end_ns: int

    @property
    def signals(self) -> PoolSignals:
        """The numbers that the diagnosis rests on."""
        return self.diagnosis.signals


class Bursts:
    """Short or harmless saturation, in sums (ns)."""

    __slots__ = ("count", "first_ns", "last_ns", "longest", "longest_ns", "most_ns", "total_ns")

    def __init__(self) -> None:
        self.count = self.first_ns = self.last_ns = 0
        #: Saturated time of all stretches, and the most of one; both without the gaps that a stretch bridges.
        self.total_ns = self.most_ns = 0
        #: Length of the longest, from begin to end.
        self.longest_ns = 0
        #: The stretch that represents all of them.
        self.longest: Judgement | None = None

    def add(self, stretch: Stretch, judgement: Judgement | None) -> None:
        """Count a stretch; one that was not judged never represents the others."""
        if not self.count:
            self.first_ns = stretch.begin_ns
        self.count += 1
        self.total_ns += stretch.saturated_ns
        self.most_ns = max(self.most_ns, stretch.saturated_ns)
        self.last_ns = stretch.end_ns
        if judgement is not None and stretch.length_ns >= self.longest_ns:
            self.longest_ns, self.longest = stretch.length_ns, judgement

"""What the functions of a pool have done, by name, in a bounded number of names. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from poolscope.aggregation.durations import FunctionTotals
from poolscope.aggregation.histogram import Histogram
from poolscope.aggregation.top_functions import OTHER
from poolscope.model import FunctionReport

#: Functions that have names of their own among what a row has counted.
FUNCTIONS_KEPT = 1_000


class FunctionSum:
    """One function: tasks started, ns of workers, and its distributions."""

    __slots__ = ("busy_ns", "run", "started", "wait")

    def __init__(self) -> None:
        self.started = self.busy_ns = 0
        self.wait = Histogram()
        self.run = Histogram()

    def add(self, totals: FunctionTotals) -> None:
        """Add what a pool has of the function."""
        self.started += totals.started
        self.busy_ns += totals.run.total
        self.wait.merge(totals.wait)
        self.run.merge(totals.run)

    def merge(self, other: FunctionSum) -> None:
        """Add all of another one."""
        self.started += other.started
        self.busy_ns += other.busy_ns
        self.wait.merge(other.wait)
        self.run.merge(other.run)


class FunctionSums:
    """Sums by name. Where there are too many names, those that used the workers least are merged into `OTHER`."""

    def __init__(self, most: int = FUNCTIONS_KEPT) -> None:
        self._most = most
        self._sums: dict[str, FunctionSum] = {}
        #: How many times a name became a part of `OTHER`.
        self.folded = 0

    def __len__(self) -> int:
        return len(self._sums)

    def of(self, name: str) -> FunctionSum:
        """Return the sums of that name, for the caller to add to."""
        found = self._sums.get(name)
        if found is None:
            found = self._sums[name] = FunctionSum()
        return found

    def merge(self, other: FunctionSums) -> None:
        """Add all of another one."""
        for name, sums in other._sums.items():
            self.of(name).merge(sums)
        self.folded += other.folded
        self.bound()

    def bound(self, most: int | None = None) -> None:
        """Keep the busiest names if there are more than `most`: somewhat fewer, so that few calls have to choose."""
        most = self._most if most is None else most
        if len(self._sums) <= most:
            return
        names = sorted((name for name in self._sums if name != OTHER), key=lambda name: self._sums[name].busy_ns)
        folded = names[: len(names) - (most - most // 10)]
        other = self.of(OTHER)
        for name in folded:
            other.merge(self._sums.pop(name))
        self.folded += len(folded)

    def reports(self) -> Iterable[FunctionReport]:
        """Return them as the report shows them, the busiest first."""
        for name, sums in sorted(self._sums.items(), key=lambda item: -item[1].busy_ns):
            yield FunctionReport(
                name=name,
                started=sums.started,
                busy_seconds=sums.busy_ns / 1e9,
                wait_seconds=sums.wait.distribution(),
                run_seconds=sums.run.distribution(),
            )

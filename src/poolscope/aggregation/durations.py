"""How long the tasks of one pool waited and ran: the distributions of the pool and of each of its functions.

Pure: durations (ns) come in. Not thread-safe: its owner guards it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from poolscope.aggregation.columns import groups
from poolscope.aggregation.histogram import Histogram
from poolscope.messages import PoolSums

#: Fewer tasks of a function in a batch go into its distributions one by one.
FEW = 10


class FunctionTotals:
    """Started tasks of one function of a pool, and its distributions."""

    __slots__ = ("run", "started", "told", "wait")

    def __init__(self) -> None:
        self.started = 0
        #: Tasks started, and ns that they ran, as `Durations.grown` returned them last.
        self.told = (0, 0)
        self.wait = Histogram()
        self.run = Histogram()


class Durations:
    """Sums up waits and runs. Call `add` or `estimate` for tasks that ended, `start` for one that runs."""

    __slots__ = ("_grown", "_typical", "functions", "run", "wait")

    def __init__(self, wait_bounds: Sequence[int], run_bounds: Sequence[int]) -> None:
        """Take the bounds (ns) of the pool's histograms, increasing."""
        self.wait = Histogram(wait_bounds)
        self.run = Histogram(run_bounds)
        self.functions: dict[int, FunctionTotals] = {}
        self._grown: set[int] = set()
        #: Median runs by function, once the distributions are gone.
        self._typical: dict[int, int] = {}

    def start(self, function: int) -> None:
        """Count a task that was seen to run."""
        self.of(function).started += 1
        self._grown.add(function)

    def uncount(self, function: int) -> None:
        """Take back one `start`: the task will be counted among those that ended."""
        self.of(function).started -= 1

    def add(self, functions: Sequence[int], waits: list[int], runs: list[int]) -> None:
        """Add tasks that ended: a function, a wait and a run (ns) of each."""
        if functions.count(functions[0]) == len(functions):
            self._grown.add(functions[0])
            totals = self.of(functions[0])
            totals.started += len(functions)
            self.wait.add(waits, totals.wait)
            self.run.add(runs, totals.run)
            return
        different = set(functions)
        self._grown |= different
        if len(different) * FEW > len(functions):
            self._add_singly(functions, waits, runs)
        else:
            self._add_by_function(functions, waits, runs)

    def _add_singly(self, functions: Sequence[int], waits: list[int], runs: list[int]) -> None:
        self.wait.add(waits)
        self.run.add(runs)
        for function, wait, run in zip(functions, waits, runs, strict=True):
            totals = self.of(function)
            totals.started += 1
            totals.wait.put(wait)
            totals.run.put(run)

    def _add_by_function(self, functions: Sequence[int], waits: list[int], runs: list[int]) -> None:
        by_function: dict[int, tuple[list[int], list[int]]] = {}
        for function, wait, run in zip(functions, waits, runs, strict=True):
            mine = by_function.get(function)
            if mine is None:
                mine = by_function[function] = ([], [])
            mine[0].append(wait)
            mine[1].append(run)
        for function, (function_waits, function_runs) in by_function.items():
            totals = self.of(function)
            totals.started += len(function_waits)
            self.wait.add(function_waits, totals.wait)
            self.run.add(function_runs, totals.run)

    def estimate(self, sums: PoolSums) -> None:
        """Add ended tasks that are known by their sums, their longest and a sample only."""
        samples: dict[int, tuple[list[int], list[int]]] = {}
        for function, wait, run in groups(sums.sample, 3):
            waits, runs = samples.setdefault(function, ([], []))
            waits.append(wait)
            runs.append(run)
        for function, finished, _, wait_ns, run_ns, longest_wait, longest_run in groups(sums.functions, 7):
            totals = self.of(function)
            totals.started += finished
            self._grown.add(function)
            waits, runs = samples.get(function, ([], []))
            self.wait.estimate(finished, wait_ns, longest_wait, waits, totals.wait)
            self.run.estimate(finished, run_ns, longest_run, runs, totals.run)

    def of(self, function: int) -> FunctionTotals:
        """Return the totals of a function, made with its first task."""
        totals = self.functions.get(function)
        if totals is None:
            totals = self.functions[function] = FunctionTotals()
        return totals

    def grown(self) -> Iterator[tuple[int, int, int]]:
        """Return what each function has added since the last call: (function, tasks started, ns that ended tasks ran).

        Functions that have added nothing are left out. For one caller.
        """
        grown, self._grown = self._grown, set()
        for function in grown:
            totals = self.functions[function]
            before, totals.told = totals.told, (totals.started, totals.run.total)
            yield function, totals.told[0] - before[0], totals.told[1] - before[1]

    def usual_runs(self) -> Callable[[int], int]:
        """Return what gives the median run (ns) of a function, or of the pool where none of its tasks ended."""
        typical = dict(self._typical)

        def usual(function: int) -> int:
            if function not in typical:
                typical[function] = self._usual_ns(function)
            return typical[function]

        return usual

    def _usual_ns(self, function: int) -> int:
        totals = self.functions.get(function)
        run = totals.run if totals is not None and totals.run.count else self.run
        return int(run.quantiles((0.5,))[0]) if run.count else 0

    def retire(self, unfinished: Iterable[int]) -> None:
        """Drop the distributions, except the median runs of these functions."""
        self._typical = {function: self._usual_ns(function) for function in unfinished}
        self.wait, self.run = Histogram(), Histogram()
        self.functions, self._grown = {}, set()

    def forget_runs(self) -> None:
        """Drop those medians too."""
        self._typical = {}

"""What is shown as one row: the pools of one name in one process, those that ended included.

Counters and integrals add up, ages take the maximum. The time saturated is the union over the pools: exact for one,
and for several taken per tick as that of the pool saturated longest in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence, Set

from poolscope.analysis.busiest import Busiest, Total
from poolscope.analysis.findings import FINDINGS_KEPT, bursts_together
from poolscope.analysis.history import PoolHistory
from poolscope.analysis.loop_case import LoopCase
from poolscope.analysis.pool_case import PoolCase
from poolscope.analysis.spread import Spread
from poolscope.analysis.tracking import Sort
from poolscope.messages import FunctionNamed
from poolscope.model import (
    Finding,
    FindingCount,
    FunctionReport,
    LoopReport,
    LoopSnapshot,
    PoolReport,
    PoolSnapshot,
    PoolTrace,
    TaskCounts,
)

FunctionOf = Callable[[int], FunctionNamed | None]
_COUNTERS = ("submitted", "rejected", "succeeded", "failed", "cancelled", "started", "cpu_ns")


class FindingTally:
    """How many findings of one sort began; which last is asked of the cases."""

    def __init__(self) -> None:
        self.totals: dict[Sort, int] = {}

    def began(self, finding: Finding) -> None:
        """A finding began, or became one of another sort."""
        key = (finding.pattern, finding.cause, finding.severity)
        self.totals[key] = self.totals.get(key, 0) + 1

    def counts(self, kind: str, name: str, pid: int, active: Set[Sort]) -> list[FindingCount]:
        """One value per sort seen so far."""
        return [
            FindingCount(
                kind=kind,
                name=name,
                pid=pid,
                pattern=key[0],
                cause=key[1],
                severity="critical" if key[2] == "critical" else "warning" if key[2] == "warning" else "info",
                active=key in active,
                total=total,
            )
            for key, total in self.totals.items()
        ]


def _added(spreads: Sequence[Spread]) -> tuple[int, ...]:
    """Counts per bucket of several distributions over the same bounds."""
    filled = [spread.buckets for spread in spreads if spread.count] or [spreads[0].buckets]
    return tuple(filled[0] if len(filled) == 1 else map(sum, zip(*filled, strict=True)))


def _in_seconds(functions: Iterable[tuple[str, Total]]) -> tuple[tuple[str, int, float], ...]:
    return tuple((name, started, busy_ns / 1e9) for name, (started, busy_ns) in functions)


class _Function:
    __slots__ = ("busy_ns", "run", "started", "wait")

    def __init__(self) -> None:
        self.started = self.busy_ns = 0
        self.wait = Spread()
        self.run = Spread()

    def merge(self, other: _Function) -> None:
        self.started += other.started
        self.busy_ns += other.busy_ns
        self.wait.merge(other.wait)
        self.run.merge(other.run)


class PoolRow:
    """The pools of one name in one process."""

    def __init__(self, first: PoolHistory, function_of: FunctionOf, max_functions: int) -> None:
        """Scrapes show at most `max_functions` functions by name."""
        self.name = first.name
        self.pid = first.pid
        self.cases: list[PoolCase] = []
        self.tally = FindingTally()
        self._function_of = function_of
        #: The pool that stands for the row where only one can: the one that did most.
        self._main: PoolCase | None = None
        self._past = dict.fromkeys(_COUNTERS, 0)
        self._past_busy_ns = self._past_queued_ns = 0
        self._past_findings: list[Finding] = []
        self._past_functions: dict[str, _Function] = {}
        self._busiest = Busiest(max_functions)
        #: What the last scrape showed, until something changes.
        self._shown: PoolSnapshot | None = None
        self._scraped = False
        self._wait = Spread(first.wait.bounds)
        self._run = Spread(first.run.bounds)
        self._saturated_ns = 0
        self._seen_saturated: dict[PoolCase, int] = {}
        self._shown_seconds: dict[str, float] = {}
        self._first_submit_ns: int | None = None
        self._peaks = {"workers": 0, "active": 0, "queue": 0, "max": 0}

    def add(self, case: PoolCase) -> None:
        """A pool of this name was made."""
        self._shown = None
        self.cases.append(case)
        self._seen_saturated[case] = 0
        if self._main is None:
            self._main = case

    def remove(self, case: PoolCase, now_ns: int) -> None:
        """A pool ended and has been judged for the last time: its totals stay."""
        self._shown = None
        self.tick()
        self.cases.remove(case)
        del self._seen_saturated[case]
        history = case.history
        for counter in _COUNTERS:
            self._past[counter] += getattr(history, counter)
        self._past_busy_ns += history.busy_ns(now_ns)
        self._past_queued_ns += history.queued_ns(now_ns)
        self._wait.merge(history.wait)
        self._run.merge(history.run)
        self._take_functions(history)
        self._add_functions(history, self._past_functions, now_ns)
        past = [*self._past_findings, *case.findings()]
        self._past_findings = bursts_together(self.name, past)[-FINDINGS_KEPT:]
        if self._main is not None and self._main is not case and self._weight(case) > self._weight(self._main):
            self._main = case

    def rebound(self, wait_bounds: Sequence[int], run_bounds: Sequence[int]) -> None:
        """Other bounds (ns) of the histograms."""
        self._shown = None
        for wait in (self._wait, *(case.history.wait for case in self.cases)):
            wait.rebound(wait_bounds)
        for run in (self._run, *(case.history.run for case in self.cases)):
            run.rebound(run_bounds)

    def resize(self, max_functions: int) -> None:
        """Another number of functions that scrapes show by name."""
        self._shown = None
        self._busiest.resize(max_functions)

    def absorb(self, ended: PoolRow) -> None:
        """Takes over all that a row without live pools has counted; that one is of no more use."""
        self._shown = None
        for counter in _COUNTERS:
            self._past[counter] += ended._past[counter]
        self._past_busy_ns += ended._past_busy_ns
        self._past_queued_ns += ended._past_queued_ns
        self._saturated_ns += ended._saturated_ns
        self._wait.merge(ended._wait)
        self._run.merge(ended._run)
        for name, theirs in ended._past_functions.items():
            self._past_functions.setdefault(name, _Function()).merge(theirs)
        self._busiest.add(ended._busiest.done())
        past = [*ended._past_findings, *self._past_findings]
        self._past_findings = bursts_together(self.name, past)[-FINDINGS_KEPT:]
        for sort, total in ended.tally.totals.items():
            self.tally.totals[sort] = self.tally.totals.get(sort, 0) + total
        for peak, value in ended._peaks.items():
            self._peaks[peak] = max(self._peaks[peak], value)
        firsts = [first for first in (self._first_submit_ns, ended._first_submit_ns) if first is not None]
        self._first_submit_ns = min(firsts, default=None)

    def tick(self) -> None:
        """Time has gone on: takes peaks, and what was saturated."""
        self._shown = None
        workers = active = queue = most = grown = 0
        peaks = self._peaks
        for case in self.cases:
            history, occupancy = case.history, case.history.occupancy
            workers += history.workers
            active += len(history.running)
            queue += history.queue_depth
            most += history.max_workers
            peaks["workers"] = max(peaks["workers"], workers, history.peak_workers)
            peaks["active"] = max(peaks["active"], active, occupancy.peak_active)
            peaks["queue"] = max(peaks["queue"], queue, occupancy.peak_queue_depth)
            peaks["max"] = max(peaks["max"], most, history.peak_max_workers)
            saturated = history.saturated_ns
            grown = max(grown, saturated - self._seen_saturated[case])
            self._seen_saturated[case] = saturated
            first = history.first_submit_ns
            if first is not None and (self._first_submit_ns is None or first < self._first_submit_ns):
                self._first_submit_ns = first
        self._saturated_ns += grown
        if self._scraped:
            # As it comes, so that little is left for the next scrape. Before the first one nothing has its place yet.
            for case in self.cases:
                self._take_functions(case.history)
            self._busiest.count()

    @staticmethod
    def _weight(case: PoolCase) -> tuple[bool, int]:
        return case.warned, case.history.started

    def _leading(self) -> PoolCase:
        if [self._main] == self.cases:
            return self.cases[0]  # as nearly always
        candidates = [*self.cases, *([self._main] if self._main is not None else [])]
        return max(candidates, key=self._weight)

    def _counts(self) -> dict[str, int]:
        counts = dict(self._past)
        for case in self.cases:
            for counter in _COUNTERS:
                counts[counter] += getattr(case.history, counter)
        return counts

    @property
    def finished(self) -> int:
        """Tasks that ran to their end, well or not."""
        counts = self._counts()
        return counts["succeeded"] + counts["failed"]

    @property
    def weight(self) -> tuple[bool, int]:
        """How much is lost with the row: whether it warned, and how much it did."""
        return any(finding.severity != "info" for finding in self.findings()), self.finished

    def _name_of(self, function: int) -> str:
        named = self._function_of(function)
        return named.name if named is not None else "unknown"

    def _add_functions(self, history: PoolHistory, into: dict[str, _Function], now_ns: int) -> None:
        for function, totals in history.functions.items():
            name = self._name_of(function)
            sums = into.get(name)
            if sums is None:
                sums = into[name] = _Function()
            sums.started += totals.started
            sums.busy_ns += totals.run.total
            sums.wait.merge(totals.wait)
            sums.run.merge(totals.run)
        for task in history.running.values():
            into[self._name_of(task.function)].busy_ns += max(0, now_ns - task.started_ns)

    def _functions(self, now_ns: int) -> dict[str, _Function]:
        functions: dict[str, _Function] = {}
        for name, past in self._past_functions.items():
            functions[name] = _Function()
            functions[name].merge(past)
        for case in self.cases:
            self._add_functions(case.history, functions, now_ns)
        return functions

    def _distributions(self) -> tuple[Spread, Spread]:
        wait, run = Spread(self._wait.bounds), Spread(self._run.bounds)
        wait.merge(self._wait)
        run.merge(self._run)
        for case in self.cases:
            wait.merge(case.history.wait)
            run.merge(case.history.run)
        return wait, run

    def _take_functions(self, history: PoolHistory) -> None:
        name_of = self._name_of
        self._busiest.add((name_of(function), started, busy_ns) for function, started, busy_ns in history.grown())

    def _count_functions(self, now_ns: int) -> None:
        """For a scrape, which does not need their distributions."""
        running: dict[str, int] = {}
        for case in self.cases:
            self._take_functions(case.history)
            for task in case.history.running.values():
                name = self._name_of(task.function)
                running[name] = running.get(name, 0) + max(0, now_ns - task.started_ns)
        # As if they ended now.
        self._busiest.add((name, 0, busy_ns) for name, busy_ns in running.items())
        self._busiest.count()
        self._busiest.add((name, 0, -busy_ns) for name, busy_ns in running.items())

    def findings(self) -> tuple[Finding, ...]:
        """All findings of the row's pools, in order of time."""
        found = [*self._past_findings, *(finding for case in self.cases for finding in case.findings())]
        return tuple(sorted(bursts_together(self.name, found), key=lambda finding: finding.since_seconds))

    def finding_counts(self) -> list[FindingCount]:
        """For a scrape."""
        if not self.tally.totals:
            return []
        active = {sort for case in self.cases if (sort := case.active_sort) is not None}
        return self.tally.counts("pool", self.name, self.pid, active)

    def snapshot(self, now_ns: int) -> PoolSnapshot:
        """For a scrape. The same while all its pools rest: one that does something is awake until the next tick."""
        shown = self._shown
        if shown is None or shown.name != self.name or not all(case.resting for case in self.cases):
            shown = self._shown = self._snapshot(now_ns)
        return shown

    def _snapshot(self, now_ns: int) -> PoolSnapshot:
        self._scraped = True
        self._count_functions(now_ns)
        leading, counts = self._leading(), self._counts()
        max_workers = workers = active = queue_depth = oldest_ns = longest_ns = 0
        busy_ns, queued_ns = self._past_busy_ns, self._past_queued_ns
        waits, runs, suggested = [self._wait], [self._run], None
        for case in self.cases:
            history = case.history
            max_workers += history.max_workers
            workers += history.workers
            active += len(history.running)
            queue_depth += history.queue_depth
            oldest_ns = max(oldest_ns, history.oldest_queued_ns(now_ns))
            longest_ns = max(longest_ns, history.longest_running_ns(now_ns))
            busy_ns += history.busy_ns(now_ns)
            queued_ns += history.queued_ns(now_ns)
            waits.append(history.wait)
            runs.append(history.run)
            if case.suggested is not None:
                suggested = max(suggested or 0, case.suggested)
        return PoolSnapshot(
            name=self.name,
            kind=leading.history.opened.kind,
            executor=leading.history.opened.executor,
            pid=self.pid,
            alive=bool(self.cases),
            max_workers=max_workers,
            workers=workers,
            active=active,
            queue_depth=queue_depth,
            oldest_queued_seconds=oldest_ns / 1e9,
            longest_running_seconds=longest_ns / 1e9,
            submitted=counts["submitted"],
            rejected=counts["rejected"],
            succeeded=counts["succeeded"],
            failed=counts["failed"],
            cancelled=counts["cancelled"],
            busy_seconds=self._grown("busy", busy_ns),
            queued_seconds=self._grown("queued", queued_ns),
            saturated_seconds=self._saturated_ns / 1e9,
            cpu_seconds=counts["cpu_ns"] / 1e9,
            wait_buckets=_added(waits),
            wait_sum_seconds=sum(wait.total for wait in waits) / 1e9,
            run_buckets=_added(runs),
            run_sum_seconds=sum(run.total for run in runs) / 1e9,
            functions=_in_seconds(self._busiest.shown()),
            former_functions=_in_seconds(self._busiest.former()),
            suggested_max_workers=suggested,
        )

    def _grown(self, integral: str, ns: int) -> float:
        """Seconds, and never less than a scrape has shown: what is known here to run may have ended meanwhile."""
        self._shown_seconds[integral] = max(self._shown_seconds.get(integral, 0.0), ns / 1e9)
        return self._shown_seconds[integral]

    def report(self, now_ns: int, origin_ns: int) -> tuple[PoolReport, PoolTrace]:
        """For the report: the row, and what its leading pool's part was made from."""
        leading, counts = self._leading(), self._counts()
        history = leading.history
        wait, run = self._distributions()
        first = self._first_submit_ns
        functions = sorted(self._functions(now_ns).items(), key=lambda item: -item[1].busy_ns)
        row = PoolReport(
            name=self.name,
            kind=history.opened.kind,
            executor=history.opened.executor,
            created_at=history.opened.created_at,
            pid=self.pid,
            max_workers=self._peaks["max"],
            peak_workers=self._peaks["workers"],
            peak_active=self._peaks["active"],
            peak_queue_depth=self._peaks["queue"],
            first_submit_seconds=None if first is None else max(0.0, (first - origin_ns) / 1e9),
            busy_seconds=(self._past_busy_ns + sum(case.history.busy_ns(now_ns) for case in self.cases)) / 1e9,
            queued_seconds=(self._past_queued_ns + sum(case.history.queued_ns(now_ns) for case in self.cases)) / 1e9,
            saturated_seconds=self._saturated_ns / 1e9,
            cpu_seconds=counts["cpu_ns"] / 1e9,
            tasks=TaskCounts(**{field: counts[field] for field in TaskCounts.__struct_fields__}),
            wait_seconds=wait.distribution(),
            run_seconds=run.distribution(),
            functions=tuple(
                FunctionReport(
                    name=name,
                    started=sums.started,
                    busy_seconds=sums.busy_ns / 1e9,
                    wait_seconds=sums.wait.distribution(),
                    run_seconds=sums.run.distribution(),
                )
                for name, sums in functions
            ),
            sizing=leading.curve(),
            findings=self.findings(),
        )
        return row, self._trace(history, origin_ns)

    def _trace(self, history: PoolHistory, origin_ns: int) -> PoolTrace:
        ids = history.function_ids()
        indices = {function: index for index, function in enumerate(ids)}
        return PoolTrace(
            functions=tuple(map(self._name_of, ids)),
            tasks=history.packed_tasks(origin_ns, indices),
            timeline=history.occupancy.timeline(origin_ns),
        )


class LoopRow:
    """The event loops of one name in one process."""

    def __init__(self, case: LoopCase) -> None:
        self.name = case.history.name
        self.pid = case.history.pid
        self.case = case
        self.tally = FindingTally()

    def finding_counts(self) -> list[FindingCount]:
        """For a scrape."""
        history = self.case.history
        return self.tally.counts("loop", history.name, history.pid, self.case.active_sorts())

    def snapshot(self) -> LoopSnapshot:
        """For a scrape."""
        history = self.case.history
        return LoopSnapshot(
            name=history.name,
            kind=history.kind,
            pid=history.pid,
            alive=history.alive,
            lag_buckets=tuple(history.lag.buckets),
            lag_sum_seconds=history.lag.total / 1e9,
            blocked_seconds=history.blocked_so_far_ns() / 1e9,
            tasks=history.tasks,
        )

    def report(self, now_ns: int) -> LoopReport:
        """For the report."""
        history = self.case.history
        longest = max((line.signals(1).longest_seconds for line in history.lines.values()), default=0.0)
        return LoopReport(
            name=history.name,
            kind=history.kind,
            pid=history.pid,
            blocked_seconds=history.blocked_so_far_ns() / 1e9,
            longest_block_seconds=longest,
            lag_seconds=history.lag.distribution(),
            peak_tasks=history.peak_tasks,
            findings=self.case.findings(now_ns),
        )

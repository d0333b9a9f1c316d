"""What is shown as one row: the pools of one name in one process, those that ended included.

Counters and integrals add up, ages take the maximum. The time saturated is the union over the pools: exact for one,
and for several taken per tick as that of the pool saturated longest in it. The same goes for the time with any task.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import add

from poolscope.aggregation.floor import Floor
from poolscope.aggregation.function_sums import FUNCTIONS_KEPT, FunctionSums
from poolscope.aggregation.histogram import Histogram
from poolscope.aggregation.pool_history import PoolHistory
from poolscope.aggregation.top_functions import TopFunctions, Total
from poolscope.engine.finding_list import Event, FindingTally, bursts_together, most_important
from poolscope.engine.pool_case import PoolCase
from poolscope.engine.turn_case import TurnFindings
from poolscope.model import Concurrency, Finding, PoolReport, PoolTrace, TaskCounts
from poolscope.rules.in_turn import Row
from poolscope.snapshot import FindingCount, PoolSnapshot

_COUNTERS = ("submitted", "rejected", "succeeded", "failed", "cancelled", "started", "cpu_ns", "chunks", "items")

#: About how many bytes a number of a timeline or a record takes, a function with its distributions, and a finding.
_NUMBER, _FUNCTION, _FINDING = 16, 3_000, 3_000
#: Functions and findings that a row keeps when it has to take less memory.
_LIGHT_FUNCTIONS, _LIGHT_FINDINGS = 50, 5


def _added(spreads: Sequence[Histogram]) -> tuple[int, ...]:
    """Add up the buckets of several distributions over the same bounds."""
    filled = [spread.buckets for spread in spreads if spread.count] or [spreads[0].buckets]
    return tuple(filled[0] if len(filled) == 1 else map(sum, zip(*filled, strict=True)))


def _in_seconds(functions: Iterable[tuple[str, Total]]) -> tuple[tuple[str, int, float], ...]:
    return tuple((name, started, busy_ns / 1e9) for name, (started, busy_ns) in functions)


class PoolRow:
    """The pools of one name in one process."""

    def __init__(self, first: PoolHistory, max_functions: int, since_ns: int = 0) -> None:
        """Scrapes show at most `max_functions` functions by name. `since_ns`: see `PoolSnapshot`."""
        self.name = first.name
        self.kind = first.opened.kind
        self.pid = first.pid
        self.since_ns = since_ns
        self.cases: list[PoolCase] = []
        self._pools = 0
        self.tally = FindingTally()
        #: What is waited for in turn in these pools; None if that is not known.
        self.turns: TurnFindings | None = None
        #: The pool that represents the row where only one can: the one that did most.
        self._main: PoolCase | None = None
        self._past = dict.fromkeys(_COUNTERS, 0)
        self._past_busy_ns = self._past_queued_ns = 0
        self._past_findings: list[Finding] = []
        self._past_left_out = 0
        self._past_functions = FunctionSums()
        self._busiest = TopFunctions(max_functions)
        #: What the last scrape showed, until something changes.
        self._shown: PoolSnapshot | None = None
        self._scraped = False
        self._wait = Histogram(first.wait.bounds)
        self._run = Histogram(first.run.bounds)
        self._saturated_ns = 0
        self._seen_saturated: dict[PoolCase, int] = {}
        self._occupied_ns = 0
        self._seen_occupied: dict[PoolCase, int] = {}
        #: Keeps busy and queued seconds from going down: a task that seems to run may have ended meanwhile.
        self._floor = Floor()
        self._first_submit_ns: int | None = None
        self._peaks = {"workers": 0, "active": 0, "queue": 0, "max": 0}

    def add(self, case: PoolCase) -> None:
        """Note that a pool of this name was made."""
        self._shown = None
        self.cases.append(case)
        self._pools += 1
        self._seen_saturated[case] = self._seen_occupied[case] = 0
        if self._main is None:
            self._main = case

    def remove(self, case: PoolCase, now_ns: int) -> None:
        """Note that a pool ended and was judged for the last time: keep its totals."""
        self._shown = None
        self.tick()
        self.cases.remove(case)
        del self._seen_saturated[case], self._seen_occupied[case]
        history = case.history
        for counter in _COUNTERS:
            self._past[counter] += getattr(history, counter)
        self._past_busy_ns += history.busy_ns(now_ns)
        self._past_queued_ns += history.queued_ns(now_ns)
        self._wait.merge(history.wait)
        self._run.merge(history.run)
        self._take_functions(case)
        self._add_functions(case, self._past_functions, now_ns)
        self._past_functions.bound()
        self._past_left_out += case.left_out
        self._add_findings(case.findings())
        if self._main is not None and self._main is not case and self._weight(case) > self._weight(self._main):
            self._main = case
        if self._main is case:
            case.retire()
        if not self.cases:
            self._busiest.bound(FUNCTIONS_KEPT)

    def _add_findings(self, findings: Iterable[Finding], most: int | None = None) -> None:
        """Keep the findings of a pool that ended."""
        found = bursts_together(self.kind, self.name, [*self._past_findings, *findings])
        self._past_findings = most_important(found) if most is None else most_important(found, most)
        self._past_left_out += len(found) - len(self._past_findings)

    def rebound(self, wait_bounds: Sequence[int], run_bounds: Sequence[int]) -> None:
        """Set other bounds (ns) of the histograms."""
        self._shown = None
        for wait in (self._wait, *(case.history.wait for case in self.cases)):
            wait.rebound(wait_bounds)
        for run in (self._run, *(case.history.run for case in self.cases)):
            run.rebound(run_bounds)

    def resize(self, max_functions: int) -> None:
        """Set another number of functions that scrapes show by name."""
        self._shown = None
        self._busiest.resize(max_functions)

    def fold(self, _now_ns: int) -> list[Event]:
        """Return no events: its pools and their findings have ended. The row can join another one as it is."""
        return []

    def become(self, pid: int, name: str) -> None:
        """Stand for another process, or another name, from now on."""
        self._shown = None
        if name != self.name:
            self._forget_tasks()  # of one pool, under a name that stands for many
        self.pid, self.name = pid, name

    def absorb(self, ended: PoolRow) -> None:
        """Add the counts of a row without live pools, which is then of no more use."""
        self._shown = None
        self.since_ns = min(self.since_ns, ended.since_ns)
        self._pools += ended._pools
        self._floor.hold(tuple(map(add, self._shown_of_past(), ended._shown_of_past())))
        for counter in _COUNTERS:
            self._past[counter] += ended._past[counter]
        self._past_busy_ns += ended._past_busy_ns
        self._past_queued_ns += ended._past_queued_ns
        self._saturated_ns += ended._saturated_ns
        self._occupied_ns += ended._occupied_ns
        self._wait.merge(ended._wait)
        self._run.merge(ended._run)
        self._past_functions.merge(ended._past_functions)
        self._busiest.add(ended._busiest.done())
        self._busiest.bound(FUNCTIONS_KEPT)
        self._past_left_out += ended._past_left_out
        self._add_findings(ended._past_findings)
        self.tally.merge(ended.tally)
        if self.turns is not None and ended.turns is not None:
            self.turns.turns.merge(ended.turns.turns)
        for peak, value in ended._peaks.items():
            self._peaks[peak] = max(self._peaks[peak], value)
        firsts = [first for first in (self._first_submit_ns, ended._first_submit_ns) if first is not None]
        self._first_submit_ns = min(firsts, default=None)
        if ended.name == self.name and self._weight(ended._leading()) > self._weight(self._leading()):
            self._main = ended._main

    @property
    def alive(self) -> bool:
        """Whether one of the pools lives."""
        return bool(self.cases)

    @property
    def bytes_kept(self) -> int:
        """Estimated bytes of the row once its pools have ended."""
        numbers = self._leading().history.kept_count
        return numbers * _NUMBER + len(self._past_functions) * _FUNCTION + len(self._past_findings) * _FINDING

    def lighten(self) -> None:
        """Drop all but the totals: the tasks, the timeline, most functions and most findings."""
        self._shown = None
        self._forget_tasks()
        self._past_functions.bound(_LIGHT_FUNCTIONS)
        self._busiest.bound(_LIGHT_FUNCTIONS)
        self._add_findings((), _LIGHT_FINDINGS)

    def _forget_tasks(self) -> None:
        if self._main is not None and self._main not in self.cases:
            self._main.history.forget_tasks()

    def tick(self) -> None:
        """Note that time has gone on: take the peaks, and the time saturated."""
        self._shown = None
        workers = active = queue = most = grown = occupied_grown = 0
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
            occupied_grown = max(occupied_grown, history.occupied_ns - self._seen_occupied[case])
            self._seen_occupied[case] = history.occupied_ns
            first = history.first_submit_ns
            if first is not None and (self._first_submit_ns is None or first < self._first_submit_ns):
                self._first_submit_ns = first
        self._saturated_ns += grown
        self._occupied_ns += occupied_grown
        if self._scraped:
            # Count as tasks come: the next scrape has little left to do. Before the first one no names are chosen.
            for case in self.cases:
                self._take_functions(case)
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
        """Number of tasks that ran to their end, with or without success."""
        counts = self._counts()
        return counts["succeeded"] + counts["failed"]

    @property
    def weight(self) -> tuple[int, bool, int]:
        """Return how much the row matters: how often pools of that name were made, in powers of two, whether one of
        them warned, and how much they did."""
        return self._pools.bit_length(), any(finding.severity != "info" for finding in self.findings()), self.finished

    @property
    def findings_left_out(self) -> int:
        """Number of findings that were dropped."""
        return self._past_left_out + sum(case.left_out for case in self.cases)

    @property
    def functions_folded(self) -> int:
        """Number of functions that were merged into `other`."""
        return self._past_functions.folded

    @staticmethod
    def _add_functions(case: PoolCase, into: FunctionSums, now_ns: int) -> None:
        for function, totals in case.history.functions.items():
            into.of(case.name_of(function)).add(totals)
        for task in case.history.running.values():
            into.of(case.name_of(task.function)).busy_ns += max(0, now_ns - task.started_ns)

    def _functions(self, now_ns: int) -> FunctionSums:
        functions = FunctionSums()
        functions.merge(self._past_functions)
        for case in self.cases:
            self._add_functions(case, functions, now_ns)
        functions.bound()
        return functions

    def _distributions(self) -> tuple[Histogram, Histogram]:
        wait, run = Histogram(self._wait.bounds), Histogram(self._run.bounds)
        wait.merge(self._wait)
        run.merge(self._run)
        for case in self.cases:
            wait.merge(case.history.wait)
            run.merge(case.history.run)
        return wait, run

    def _take_functions(self, case: PoolCase) -> None:
        name_of = case.name_of
        self._busiest.add(
            (name_of(function), started, busy_ns) for function, started, busy_ns in case.history.durations.grown()
        )

    def _count_functions(self, now_ns: int) -> None:
        """Count what functions did for a scrape, which does not need their distributions."""
        running: dict[str, int] = {}
        for case in self.cases:
            self._take_functions(case)
            for task in case.history.running.values():
                name = case.name_of(task.function)
                running[name] = running.get(name, 0) + max(0, now_ns - task.started_ns)
        # As if they ended now.
        self._busiest.add((name, 0, busy_ns) for name, busy_ns in running.items())
        self._busiest.count()
        self._busiest.add((name, 0, -busy_ns) for name, busy_ns in running.items())

    def findings(self) -> tuple[Finding, ...]:
        """All findings of the row's pools, in order of time."""
        found = [*self._past_findings, *(finding for case in self.cases for finding in case.findings())]
        if self.turns is not None and (self.turns.turns.lines or self._counts()["chunks"]):
            found += self.turns.findings(self.in_turn)
        return tuple(sorted(bursts_together(self.kind, self.name, found), key=lambda finding: finding.since_seconds))

    @property
    def in_turn(self) -> Row:
        """What the rules about turns need to know about the row: its pools count together."""
        run_ns = self._run.total + sum(case.history.run.total for case in self.cases)
        histories = [case.history for case in (self._leading(), *self.cases)]
        counts = self._counts()
        return Row(
            kind="pool",
            name=self.name,
            workers=max(history.peak_max_workers for history in histories),
            finished=counts["succeeded"] + counts["failed"],
            busy_seconds=run_ns / 1e9,
            occupied_seconds=self._occupied_ns / 1e9,
            chunks=counts["chunks"],
            items=counts["items"],
            since_ns=self._first_submit_ns or 0,
            until_ns=max(history.last_finish_ns or 0 for history in histories),
            process_pools=self._pools if self.kind == "process" else 0,
        )

    def finding_counts(self) -> list[FindingCount]:
        """For a scrape."""
        if not self.tally.totals:
            return []
        active = {sort for case in self.cases if (sort := case.active_sort) is not None}
        return self.tally.counts("pool", self.name, self.pid, active, self.since_ns)

    def snapshot(self, now_ns: int) -> PoolSnapshot:
        """Return the row for a scrape: the same object while all pools rest. An active one rests only after a tick."""
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
        busy_seconds, queued_seconds = self._floor.hold((busy_ns / 1e9, queued_ns / 1e9))
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
            busy_seconds=busy_seconds,
            queued_seconds=queued_seconds,
            saturated_seconds=self._saturated_ns / 1e9,
            occupied_seconds=self._occupied_ns / 1e9,
            cpu_seconds=counts["cpu_ns"] / 1e9,
            wait_buckets=_added(waits),
            wait_sum_seconds=sum(wait.total for wait in waits) / 1e9,
            run_buckets=_added(runs),
            run_sum_seconds=sum(run.total for run in runs) / 1e9,
            functions=_in_seconds(self._busiest.shown()),
            former_functions=_in_seconds(self._busiest.former()),
            suggested_max_workers=suggested,
            since_ns=self.since_ns,
        )

    def _shown_of_past(self) -> tuple[float, ...]:
        """Return busy and queued seconds of the ended pools, or the values shown before if those are higher."""
        return self._floor.hold((self._past_busy_ns / 1e9, self._past_queued_ns / 1e9))

    def report(self, now_ns: int, origin_ns: int) -> tuple[PoolReport, PoolTrace]:
        """For the report: the row, and what its leading pool's part was made from."""
        leading, counts = self._leading(), self._counts()
        history = leading.history
        wait, run = self._distributions()
        first = self._first_submit_ns
        row = PoolReport(
            name=self.name,
            kind=history.opened.kind,
            executor=history.opened.executor,
            created_at=history.opened.created_at,
            pid=self.pid,
            max_workers=self._peaks["max"],
            # Workers may have come and gone between two readings.
            peak_workers=max(self._peaks["workers"], self._peaks["active"]),
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
            functions=tuple(self._functions(now_ns).reports()),
            sizing=leading.curve(),
            findings=self.findings(),
            created_by=history.opened.created_by or None,
            concurrency=self._concurrency(now_ns),
        )
        return row, self._trace(leading, origin_ns)

    def _concurrency(self, now_ns: int) -> Concurrency:
        """Return how many tasks ran at once while the row had any."""
        busy_ns = self._past_busy_ns + sum(case.history.busy_ns(now_ns) for case in self.cases)
        mean = min(busy_ns / self._occupied_ns, self._peaks["active"]) if self._occupied_ns else None
        return Concurrency(mean, self._peaks["active"])

    def _trace(self, case: PoolCase, origin_ns: int) -> PoolTrace:
        history = case.history
        ids = history.tasks.function_ids()
        indices = {function: index for index, function in enumerate(ids)}
        tasks, workers = history.tasks.packed(origin_ns, indices)
        return PoolTrace(
            functions=tuple(map(case.name_of, ids)),
            tasks=tasks,
            timeline=history.occupancy.timeline(origin_ns),
            workers=workers,
        )

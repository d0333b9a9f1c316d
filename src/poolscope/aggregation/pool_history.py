"""What one pool did, folded from its batches: totals, distributions and kept tasks.

Pure: times (ns) come in with the events. Not thread-safe: the engine's owner guards it.
"""

from __future__ import annotations

import sys
from array import array
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from operator import itemgetter, sub
from typing import Any

import msgspec

from poolscope.aggregation.columns import groups, listed, told_apart
from poolscope.aggregation.histogram import Histogram
from poolscope.aggregation.kept_tasks import KeptTask, KeptTasks
from poolscope.aggregation.occupancy import Occupancy, RunningTask
from poolscope.aggregation.recent import Recent
from poolscope.aggregation.regularity import regularity
from poolscope.aggregation.replacements import Replacements
from poolscope.aggregation.replay import Task, run_times
from poolscope.messages import (
    Chunks,
    Handover,
    HeldSample,
    Line,
    PoolBatch,
    PoolOpened,
    PoolSums,
    StackSample,
    WorkersStarted,
)
from poolscope.probe.transport.backlog import Backlog

#: Finished tasks looked at for one window, and how far back they are kept while no stretch needs them longer.
RECENT_TASKS = 50_000
STACK_SAMPLES = 600
#: The probe reads the CPU clocks of the workers once in this time (ns), but for the tick that it comes late.
CPU_INTERVAL_NS = 350_000_000
#: The latest arrivals, which show how regular they are.
LATEST_ARRIVALS = 100
#: How long (ns) a pool that says nothing is waited for. Where tasks compute, the probe gets at the GIL late, and what
#: it then tells happened up to a second ago.
PATIENCE_NS = 2_000_000_000
#: The kinds of pools that wake or start a worker for each task, while there is one that is idle or not started.
HAND_OUT = ("thread", "interpreter")
#: Tasks that were cancelled in the queue lately, and of those that still wait, about so many are looked at.
CANCELLED_TASKS = 5_000
QUEUED_TASKS = 500
#: The kinds whose workers take the next task as soon as they have ended one: one that does not has ended itself.
PULL = ("process",)
#: Fewer tasks of a function in a batch go into its distributions one by one.
FEW = 10
#: So many tasks of the record may stand before one that ended earlier.
OUT_OF_ORDER = 500


#: Of a pool that has ended: an empty deque takes half a kilobyte, and there may be a thousand such pools.
_NOTHING: deque[Any] = deque(maxlen=0)


class CpuReading(msgspec.Struct, frozen=True, array_like=True):
    """CPU time of the pool's workers so far, at one moment (ns)."""

    at_ns: int
    cpu_ns: int


class FunctionTotals:
    """Started tasks of one function of a pool, and its distributions."""

    __slots__ = ("run", "started", "told", "wait")

    def __init__(self) -> None:
        self.started = 0
        #: Tasks started, and ns that they ran, as `PoolHistory.grown` told them last.
        self.told = (0, 0)
        self.wait = Histogram()
        self.run = Histogram()


class PoolHistory:
    """Folds one pool's messages. Call `fold` for each batch in order, `settle` as time goes on, `finish` at the end."""

    def __init__(
        self,
        opened: PoolOpened,
        *,
        pid: int,
        keep_tasks: int,
        wait_bounds: Sequence[int],
        run_bounds: Sequence[int],
    ) -> None:
        self.opened = opened
        self.name = opened.name
        self.pid = pid
        self.max_workers = self.peak_max_workers = opened.max_workers
        #: What it is judged by: the last size that lets something run. A limiter may have no token left for a while.
        self.size = opened.max_workers or 1
        self.workers = self.peak_workers = 0
        #: Since when no worker has been there, though tasks were queued.
        self.gone_since_ns: int | None = None
        self.submitted = self.succeeded = self.failed = self.cancelled = self.rejected = self.broken = 0
        self.first_submit_ns: int | None = None
        self.last_finish_ns: int | None = None
        self.last_batch_ns = opened.at_ns
        self.cancelled_wait_ns = 0
        #: How many of the tasks were chunks of `map`, and how many items were in them.
        self.chunks = self.items = 0
        #: Tasks that ended of which nothing else is known, and since when each of them is.
        self.known_by_number = 0
        self.known_ns = opened.at_ns
        # Tasks that ended, and sums of their waits and runs, that the timeline does not have yet.
        self._skipped = [0, 0, 0]
        self.cpu_ns = 0
        self.wait = Histogram(wait_bounds)
        self.run = Histogram(run_bounds)
        self.functions: dict[int, FunctionTotals] = {}
        self._grown: set[int] = set()
        self.running: dict[int, RunningTask] = {}
        self.recent = Recent(RECENT_TASKS)
        #: (function, submitted, cancelled) of the latest tasks that were cancelled in the queue.
        self.withdrawn: deque[tuple[int, int, int]] = deque(maxlen=CANCELLED_TASKS)
        #: When the latest tasks were submitted, about in order.
        self.arrivals: deque[int] = deque(maxlen=LATEST_ARRIVALS)
        self._regularity: float | None = None
        self.cpu_readings: deque[CpuReading] = deque(maxlen=STACK_SAMPLES)
        #: How long the workers waited for a CPU, in the same form.
        self.ready_readings: deque[CpuReading] = deque(maxlen=STACK_SAMPLES)
        self.stacks: deque[StackSample] = deque(maxlen=STACK_SAMPLES)
        #: Which workers were in a task, and since when.
        self.held: deque[HeldSample] = deque(maxlen=STACK_SAMPLES)
        self.replacements = Replacements()
        #: Workers with tasks that have ended, though their results had yet to be taken -> start of the last one.
        self.under_way: dict[int, int] = {}
        #: Batch in which tasks were told last that ended.
        self.last_told_ns: int | None = None
        #: What was seen between the tasks.
        self.handovers: deque[Handover] = deque(maxlen=STACK_SAMPLES)
        #: The tasks that ended.
        self.kept = KeptTasks(keep_tasks)
        self._backlog = Backlog(partial(array, "q"))
        self.occupancy = Occupancy(
            opened.max_workers, opened.at_ns, hands_out=opened.kind in HAND_OUT, pulls=opened.kind in PULL
        )
        self._last_starts: dict[int, int] = {}  # worker -> start of its last task that ended
        #: Median runs by function, once the distributions are gone.
        self._typical: dict[int, int] = {}

    @property
    def keep_tasks(self) -> int:
        """How many tasks that ended are kept."""
        return self.kept.most

    @keep_tasks.setter
    def keep_tasks(self, most: int) -> None:
        self.kept.most = most

    # -- folding -------------------------------------------------------------------------------------------

    def fold(self, batch: PoolBatch) -> None:
        """Take in what happened since the last batch."""
        self.workers = batch.workers
        self.max_workers = self.occupancy.max_workers = batch.max_workers
        self.size = batch.max_workers or self.size
        self.peak_workers = max(self.peak_workers, batch.workers)
        self.peak_max_workers = max(self.peak_max_workers, batch.max_workers)
        self.rejected += batch.rejected
        if batch.at_ns:  # a part of a batch is as of no time
            self.last_batch_ns = max(self.last_batch_ns, batch.at_ns)
            self._read_cpu(batch.at_ns, batch.cpu_ns)
            if batch.finished:
                self.last_told_ns = batch.at_ns
            if batch.workers or batch.running:
                self.gone_since_ns = None
            elif self.gone_since_ns is None:
                self.gone_since_ns = batch.at_ns
        self._arrive(batch.arrivals)
        self._end_unstarted(batch.cancelled, cancelled=True)
        self._end_unstarted(batch.broken, cancelled=False)
        self._finish_tasks(batch.finished)
        for worker, function, submitted, started in groups(batch.running, 4):
            known = self.running.get(worker)
            if started <= self._last_starts.get(worker, -1) or (known and known.started_ns == started):
                continue  # seen before, or finished while the batch was being taken
            coupled = self.occupancy.start(worker, submitted, started)
            self.replacements.worked(worker, submitted, started)
            self._backlog.leave((submitted,))
            self._function(function).started += 1
            self._grown.add(function)
            self.running[worker] = RunningTask(function, submitted, started, coupled)

    def add_sums(self, sums: PoolSums) -> None:
        """Take in what is known by numbers only."""
        self._backlog.leave(listed(sums.left))
        self.submitted += sums.submitted
        if sums.submitted:
            self.first_submit_ns = min(self.first_submit_ns or sums.first_ns, sums.first_ns)
        self.cancelled += sums.cancelled
        self.broken += sums.broken
        self.cancelled_wait_ns += max(0, sums.unstarted_ns)
        samples: dict[int, tuple[list[int], list[int]]] = {}
        for function, wait, run in groups(sums.sample, 3):
            waits, runs = samples.setdefault(function, ([], []))
            waits.append(wait)
            runs.append(run)
        all_finished = all_failed = all_waits = all_runs = 0
        for function, finished, failed, wait_ns, run_ns, longest_wait, longest_run in groups(sums.functions, 7):
            totals = self._function(function)
            totals.started += finished
            self._grown.add(function)
            waits, runs = samples.get(function, ([], []))
            self.wait.estimate(finished, wait_ns, longest_wait, waits, totals.wait)
            self.run.estimate(finished, run_ns, longest_run, runs, totals.run)
            self.occupancy.note(longest_wait, 0)
            all_finished += finished
            all_failed += failed
            all_waits += wait_ns
            all_runs += run_ns
        self.failed += all_failed + sums.broken
        self.succeeded += all_finished - all_failed
        self.known_by_number += all_finished + sums.cancelled + sums.broken
        if sums.last_ns:
            self.last_finish_ns = max(self.last_finish_ns or 0, sums.last_ns)
        for place, number in enumerate((all_finished, all_waits, all_runs)):
            self._skipped[place] += number
        if sums.at_ns > sums.since_ns:
            self._skip(sums)

    def _skip(self, sums: PoolSums) -> None:
        """Note that the record goes on after a time of which tasks are missing: what is judged by all of them begins
        anew."""
        lasting = {(worker, started) for worker, _, _, started in groups(sums.running, 4)}
        for worker, seen in list(self.running.items()):
            if (worker, seen.started_ns) not in lasting:
                # Counted among those that ended.
                del self.running[worker]
                self._function(seen.function).started -= 1
        self._last_starts.update(groups(sums.latest, 2))
        since_ns = max(sums.since_ns, self.opened.at_ns)
        self.occupancy.skip(since_ns, sums.at_ns, self.queue_depth, self.running, self._skipped)
        self._skipped = [0, 0, 0]
        self.last_batch_ns = max(self.last_batch_ns, sums.at_ns)
        self.known_ns = sums.at_ns
        self.kept.miss()
        self.arrivals.clear()
        self._regularity = None

    def _read_cpu(self, at_ns: int, cpu_ns: int) -> None:
        readings = self.cpu_readings
        # A batch has the last reading again, unless a new one was due: then the workers have used none since.
        if cpu_ns > self.cpu_ns or not readings or at_ns - readings[-1].at_ns > CPU_INTERVAL_NS:
            self.cpu_ns = max(self.cpu_ns, cpu_ns)
            readings.append(CpuReading(at_ns, self.cpu_ns))

    def note_ready(self, at_ns: int, ready_ns: int) -> None:
        """Take in how long the workers have waited for a CPU so far."""
        self.ready_readings.append(CpuReading(at_ns, ready_ns))

    def sample(self, stacks: StackSample) -> None:
        """Take in where the workers were."""
        self.stacks.append(stacks)

    def note_chunks(self, message: Chunks) -> None:
        """Take in how many chunks there were so far."""
        self.chunks, self.items = message.chunks, message.items

    def note_started(self, message: WorkersStarted) -> None:
        """Take in that worker processes were started."""
        for worker, at_ns in groups(message.started, 2):
            self.replacements.began(worker, at_ns)

    def hand_over(self, handover: Handover) -> None:
        """Take in what goes on between the tasks."""
        self.handovers.append(handover)
        self.under_way.update(groups(handover.under_way, 2))

    def _arrive(self, arrivals: Sequence[int]) -> None:
        if not arrivals:
            return
        times = listed(arrivals[1::2])
        first = min(times)
        if self.first_submit_ns is None or first < self.first_submit_ns:
            self.first_submit_ns = first
        self._backlog.add(times, arrivals[::2])
        self.occupancy.arrive(times)
        self.arrivals.extend(times[-LATEST_ARRIVALS:])
        self._regularity = None
        self.submitted += len(times)

    def _end_unstarted(self, records: Sequence[int], *, cancelled: bool) -> None:
        if not records:
            return
        self._backlog.leave(listed(records[1::3]))
        for function, submitted, when in groups(records, 3):
            self.occupancy.leave(when)
            self.cancelled_wait_ns += max(0, when - submitted)
            if cancelled:
                self.cancelled += 1
                self.withdrawn.append((function, submitted, when))
            else:
                self.failed += 1
                self.broken += 1
            self.kept.add((function,), (submitted,), (-1,), (-1,))

    def _finish_tasks(self, finished: Sequence[int]) -> None:
        if not finished:
            return
        workers = listed(finished[::5])
        if workers != sorted(workers):
            finished = [item for task in sorted(groups(finished, 5), key=itemgetter(0)) for item in task]
            workers.sort()
        keys, submitted, started, ended = (listed(finished[column::5]) for column in range(1, 5))
        waits, runs = list(map(sub, started, submitted)), list(map(sub, ended, started))
        coupled: list[bool] = []
        left = submitted[:]
        latest_ns = begin = 0
        while begin < len(workers):
            worker = workers[begin]
            end = bisect_right(workers, worker, begin)
            own = slice(begin, end)
            seen = self.running.pop(worker, None)
            if seen is not None and seen.started_ns != started[begin]:
                seen = None
            coupled += self.occupancy.work(worker, submitted[own], started[own], ended[own], seen)
            if self.replacements.known:
                for place in range(begin, end):
                    self.replacements.worked(worker, submitted[place], started[place])
                    self.replacements.ended(worker, ended[place])
            if seen is not None:
                # Counted as started, and taken from the queue, when it was seen.
                self._function(seen.function).started -= 1
                del left[begin - len(submitted) + len(left)]
            self._last_starts[worker] = started[end - 1]
            latest_ns = max(latest_ns, ended[end - 1])
            begin = end
        self._backlog.leave(left)
        functions, failed = told_apart(keys)
        self.failed += failed
        self.succeeded += len(keys) - failed
        self.recent.extend(functions, submitted, started, ended, coupled)
        self.kept.add(functions, finished[2::5], finished[3::5], finished[4::5])
        self.last_finish_ns = max(self.last_finish_ns or 0, latest_ns)
        self._spread(functions, waits, runs)
        self.occupancy.learn_runs(functions, started, runs, latest_ns)
        self.occupancy.note(max(waits), len(waits))

    def _spread(self, functions: Sequence[int], waits: list[int], runs: list[int]) -> None:
        """Add to the distributions of the pool and of the functions."""
        if functions.count(functions[0]) == len(functions):
            self._grown.add(functions[0])
            totals = self._function(functions[0])
            totals.started += len(functions)
            self.wait.add(waits, totals.wait)
            self.run.add(runs, totals.run)
            return
        different = set(functions)
        self._grown |= different
        if len(different) * FEW > len(functions):
            self.wait.add(waits)
            self.run.add(runs)
            for function, wait, run in zip(functions, waits, runs, strict=True):
                totals = self._function(function)
                totals.started += 1
                totals.wait.put(wait)
                totals.run.put(run)
            return
        by_function: dict[int, tuple[list[int], list[int]]] = {}
        for function, wait, run in zip(functions, waits, runs, strict=True):
            mine = by_function.get(function)
            if mine is None:
                mine = by_function[function] = ([], [])
            mine[0].append(wait)
            mine[1].append(run)
        for function, (function_waits, function_runs) in by_function.items():
            totals = self._function(function)
            totals.started += len(function_waits)
            self.wait.add(function_waits, totals.wait)
            self.run.add(function_runs, totals.run)

    def _function(self, function: int) -> FunctionTotals:
        totals = self.functions.get(function)
        if totals is None:
            totals = self.functions[function] = FunctionTotals()
        return totals

    # -- time goes on --------------------------------------------------------------------------------------

    def settle(self, until_ns: int) -> None:
        """Work out saturation up to there, if all that is stamped before has been folded: what is after the last batch
        may be yet to come, so up to that, but never more than `PATIENCE_NS` less."""
        self._settle(min(until_ns, max(self.last_batch_ns, until_ns - PATIENCE_NS)))

    def finish(self, at_ns: int) -> None:
        """Note that the record ends at `at_ns`: nothing more will come."""
        self._settle(at_ns)
        self.occupancy.stretches.finish()
        self.occupancy.fills.finish()

    def retire(self) -> None:
        """Note that the pool has ended: keep its tasks, its timeline and its totals, and let go of all else."""
        unfinished = self.kept.unstarted() | {task.function for task in self.running.values()}
        unfinished |= {function for _, function in self._backlog.waiting()}
        self._typical = {function: self._usual_ns(function) for function in unfinished}
        self.wait, self.run = Histogram(), Histogram()
        self.functions, self._grown, self._last_starts = {}, set(), {}
        self.recent = Recent(0)
        self.arrivals = self.cpu_readings = self.ready_readings = self.stacks = self.withdrawn = self.held = (
            self.handovers
        ) = _NOTHING
        self.replacements = Replacements()
        self.occupancy.retire()

    def forget_tasks(self) -> None:
        """Let go of the tasks and the timeline of a pool that has ended, too."""
        self.kept = KeptTasks(self.keep_tasks)
        self._backlog, self.running, self._typical = Backlog(partial(array, "q")), {}, {}
        self.occupancy.forget_timeline()

    @property
    def kept_count(self) -> int:
        """How many numbers the kept tasks and the timeline are, about."""
        return 4 * len(self.kept) + 2 * self._backlog.depth + 4 * len(self.running) + self.occupancy.kept_count

    def _usual_ns(self, function: int) -> int:
        """Return the median run of a function, or of the pool."""
        totals = self.functions.get(function)
        run = totals.run if totals is not None and totals.run.count else self.run
        return int(run.quantiles((0.5,))[0]) if run.count else 0

    def _settle(self, until_ns: int) -> None:
        # In a stall nothing starts, so the wait shows only in the age of what is still queued.
        self.occupancy.note(self.oldest_queued_ns(until_ns), 0)
        self.occupancy.settle(until_ns, self.running.values(), self.oldest_submitted_ns)

    # -- reading -------------------------------------------------------------------------------------------

    def grown(self) -> Iterator[tuple[int, int, int]]:
        """Return what each function has added since it was asked last: (function, tasks started, ns that ended tasks
        ran).

        Those that have added nothing are left out. For one caller.
        """
        grown, self._grown = self._grown, set()
        for function in grown:
            totals = self.functions[function]
            before, totals.told = totals.told, (totals.started, totals.run.total)
            yield function, totals.told[0] - before[0], totals.told[1] - before[1]

    @property
    def regularity(self) -> float:
        """How regular the latest arrivals are (see `regularity`)."""
        if self._regularity is None:
            self._regularity = regularity(self.arrivals)
        return self._regularity

    @property
    def started(self) -> int:
        """Tasks that started."""
        return self.succeeded + self.failed - self.broken + len(self.running)

    @property
    def queue_depth(self) -> int:
        """Tasks submitted, not started and not cancelled, as of the last batch."""
        return self._backlog.depth

    @property
    def oldest_submitted_ns(self) -> int | None:
        """When the task that has been queued longest was submitted."""
        return self._backlog.oldest_ns

    def some_queued(self) -> tuple[list[tuple[int, int]], int]:
        """(when submitted, function) of tasks that wait, and how many each stands for: of a long queue not all."""
        return self._backlog.some(QUEUED_TASKS)

    def queued_since(self, at_ns: int) -> int:
        """Return how many of the queued tasks were submitted after that."""
        return self._backlog.later_than(at_ns)

    def oldest_queued_ns(self, now_ns: int) -> int:
        """Age of the oldest queued task."""
        oldest_ns = self.oldest_submitted_ns
        return max(0, now_ns - oldest_ns) if oldest_ns is not None else 0

    def has_ended(self, worker: int) -> bool:
        """Whether the task that a worker seems to be in has ended, and its result waits to be taken."""
        task = self.running.get(worker)
        return task is not None and self.under_way.get(worker, -1) >= task.started_ns

    def longest_running_ns(self, now_ns: int) -> int:
        """Age of the longest running task, from its start."""
        return max(0, now_ns - min(task.started_ns for task in self.running.values())) if self.running else 0

    def busy_ns(self, now_ns: int) -> int:
        """Time integral of the active workers."""
        return self.run.total + sum(max(0, now_ns - task.started_ns) for task in self.running.values())

    def queued_ns(self, now_ns: int) -> int:
        """Time integral of the queue depth."""
        running = sum(task.started_ns - task.submitted_ns for task in self.running.values())
        waiting = self.queue_depth * now_ns - self._backlog.total_ns
        return self.wait.total + self.cancelled_wait_ns + running + max(0, waiting)

    @property
    def saturated_ns(self) -> int:
        """Time saturated, as far as it is settled."""
        return self.occupancy.stretches.saturated_ns

    @property
    def occupied_ns(self) -> int:
        """Time with any task queued or running, as far as it is settled: busy time by it is the concurrency."""
        return self.occupancy.occupied_ns

    def spans(self, most: int | None = None) -> Iterator[tuple[int, int]]:
        """When each of the tasks that `tasks_for_replay` gives was submitted, and when it finished: for one that has
        not, beyond all times. Without tasks that never started."""
        yield from ((submitted, finished) for _, submitted, started, finished in self.kept.known(most) if started >= 0)
        yield from ((task.submitted_ns, sys.maxsize) for task in self.running.values())
        yield from ((submitted, sys.maxsize) for submitted, _ in islice(self._backlog.waiting(), most))

    def tasks_for_replay(
        self, now_ns: int, most: int | None = None, wanted: Callable[[int], bool] = lambda _: True
    ) -> list[Task]:
        """Return the kept tasks and those still queued or running, in order of submission, for a replay.

        Where tasks are missing, those since then. A task that never ran gets the median run time of its function, or of
        the pool; one that still runs at least the time it has run. `most` bounds how many: of those that ended the
        latest, of those that wait the first. `wanted` says of which functions.
        """
        known = [task for task in self.known_tasks(most) if wanted(task[0])]
        if not known:
            return []
        functions, submitted, started, finished = zip(*known, strict=True)
        runs = run_times(functions, started, finished, now_ns, self.usual_runs())
        # With the start: of tasks submitted at the same moment, the one that started first was first in the queue.
        starts = [at if at >= 0 else sys.maxsize for at in started]
        return [Task(at, run) for at, _, run in sorted(zip(submitted, starts, runs, strict=True))]

    def usual_runs(self) -> Callable[[int], int]:
        """Return what gives the median run (ns) of a function, or of the pool where none of its tasks ended."""
        typical = dict(self._typical)

        def usual(function: int) -> int:
            if function not in typical:
                typical[function] = self._usual_ns(function)
            return typical[function]

        return usual

    def known_tasks(self, most: int | None = None, *, cancelled: bool = True) -> list[KeptTask]:
        """Return the kept tasks, those that run and those that wait, bounded as in `tasks_for_replay`; `cancelled`: and
        those that ended without a start."""
        known = [task for task in self.kept.known(most) if cancelled or task[2] >= 0]
        known += [(task.function, task.submitted_ns, task.started_ns, -1) for task in self.running.values()]
        known += [(function, at, -1, -1) for at, function in islice(self._backlog.waiting(), most)]
        return known

    def ended_within(self, begin_ns: int, end_ns: int, most: int | None = None) -> list[KeptTask]:
        """Return those of the last `most` kept tasks that were submitted, ran and ended in this time."""
        known = self.kept.known(most)
        return [task for task in known if task[2] >= 0 and task[1] >= begin_ns and task[3] <= end_ns]

    def tasks_within(self, begin_ns: int, end_ns: int, now_ns: int, most: int | None = None) -> list[Task]:
        """Return the tasks that were in the pool in this time, as if what came or started before it had done so as it
        began; without those that never ran and never will."""
        known = [
            task
            for task in self.known_tasks(most, cancelled=False)
            if task[1] <= end_ns and not 0 <= task[3] <= begin_ns
        ]
        if not known:
            return []
        functions, submitted, started, finished = zip(*known, strict=True)
        starts = [max(at, begin_ns) if at >= 0 else at for at in started]
        runs = run_times(functions, starts, finished, now_ns, self.usual_runs())
        order = [at if at >= 0 else sys.maxsize for at in starts]
        tasks = sorted(zip((max(at, begin_ns) for at in submitted), order, runs, strict=True))
        return [Task(at, run) for at, _, run in tasks]

    def complete_since(self, most: int | None = None) -> int | None:
        """Return from when on all tasks that ended are among `known_tasks`; None: from the first on."""
        ended = self.succeeded + self.failed + self.cancelled
        known = len(self.kept) if most is None else min(most, len(self.kept))
        if known >= ended:
            return None
        # They are told in batches: the order of their ends is not quite that of the record.
        first = [finished for *_, finished in islice(self.kept.known(most), OUT_OF_ORDER)]
        return max([self.known_ns, *first])

    def packed_tasks(self, origin_ns: int, functions: dict[int, int]) -> bytes:
        """Return the kept tasks and those that have not ended, as a PoolTrace holds them.

        `functions` gives each function id its index there.
        """
        tasks = list(self.kept)
        tasks += [(task.function, task.submitted_ns, task.started_ns, -1) for task in self.running.values()]
        tasks += [(function, at, -1, -1) for at, function in self._backlog.waiting()]
        packed = array("q")
        # As they were in the queue, see `tasks_for_replay`.
        for function, *moments in sorted(tasks, key=lambda task: (task[1], task[2] < 0, task[2])):
            packed.append(functions[function])
            packed.extend(moment - origin_ns if moment >= 0 else -1 for moment in moments)
        if sys.byteorder == "big":
            packed.byteswap()
        return packed.tobytes()

    def function_ids(self) -> list[int]:
        """Return the functions of all tasks that `packed_tasks` holds."""
        ids = self.kept.functions()
        ids |= {task.function for task in self.running.values()}
        return sorted(ids | {function for _, function in self._backlog.waiting()})

    def lines(
        self, begin_ns: int, end_ns: int, only: frozenset[int] | None = None
    ) -> tuple[list[tuple[tuple[Line, ...], int]], int]:
        """Where the workers were in [begin, end]: (lines, count) by count, and the number of all looked at."""
        counts: dict[tuple[Line, ...], int] = {}
        for sample in self.stacks:
            if begin_ns <= sample.at_ns <= end_ns:
                for stack in sample.stacks:
                    key, workers = tuple(stack.lines), stack.tasks[::3]
                    count = len(workers) if only is None else sum(worker in only for worker in workers)
                    if count:
                        counts[key] = counts.get(key, 0) + count
        return sorted(counts.items(), key=lambda item: -item[1]), sum(counts.values())

    def waiting_lines(self, begin_ns: int, end_ns: int) -> tuple[list[tuple[tuple[Line, ...], int]], int]:
        """Return the same of what waited for a limit."""
        counts: dict[tuple[Line, ...], int] = {}
        for sample in self.stacks:
            if begin_ns <= sample.at_ns <= end_ns:
                for stack in sample.waiting:
                    key = tuple(stack.lines)
                    counts[key] = counts.get(key, 0) + len(stack.tasks) // 3
        return sorted(counts.items(), key=lambda item: -item[1]), sum(counts.values())

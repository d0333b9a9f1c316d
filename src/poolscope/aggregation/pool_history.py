"""What one pool did, folded from its messages: counts, what was seen of its workers, and its parts.

The parts: the tasks that are known one by one (`task_record`), how long tasks waited and ran (`durations`), and when
the pool was full (`occupancy`). Pure: times (ns) come in with the events. Not thread-safe: the engine's owner guards
it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Mapping, Sequence
from itertools import islice
from operator import itemgetter, sub
from typing import Any

import msgspec

from poolscope.aggregation.columns import groups, listed, told_apart
from poolscope.aggregation.durations import Durations, FunctionTotals
from poolscope.aggregation.histogram import Histogram
from poolscope.aggregation.occupancy import Occupancy, RunningTask
from poolscope.aggregation.recent import Recent
from poolscope.aggregation.regularity import regularity
from poolscope.aggregation.replacements import Replacements
from poolscope.aggregation.task_record import TaskRecord
from poolscope.messages import (
    Chunks,
    Handover,
    HeldSample,
    PoolBatch,
    PoolOpened,
    PoolSums,
    StackSample,
    WorkersStarted,
)

#: Finished tasks looked at for one window, and how far back they are kept while no stretch needs them longer.
RECENT_TASKS = 50_000
STACK_SAMPLES = 600
#: The probe reads the CPU clocks of the workers once in this time (ns), but for the tick that it comes late.
CPU_INTERVAL_NS = 350_000_000
#: The latest arrivals, which show how regular they are.
LATEST_ARRIVALS = 100
#: How long (ns) to wait for a silent pool. Where tasks compute, the probe gets the GIL late, and then reports what
#: happened up to a second ago.
PATIENCE_NS = 2_000_000_000
#: The kinds of pools that wake or start a worker for each task, while there is one that is idle or not started.
HAND_OUT = ("thread", "interpreter")
#: Tasks that were cancelled in the queue lately, and of those that still wait, about so many are looked at.
CANCELLED_TASKS = 5_000
QUEUED_TASKS = 500
#: The kinds whose workers take the next task as soon as they have ended one: one that does not has ended itself.
PULL = ("process", "dask")
#: So many tasks of the record may stand before one that ended earlier.
OUT_OF_ORDER = 500


#: Stands in for the deques of an ended pool: an empty one takes half a kilobyte, and a thousand pools may have ended.
_NOTHING: deque[Any] = deque(maxlen=0)


class CpuReading(msgspec.Struct, frozen=True, array_like=True):
    """CPU time of the pool's workers so far, at one moment (ns)."""

    at_ns: int
    cpu_ns: int


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
        #: The size to judge by: the last one above 0. A limiter may have no token left for a while.
        self.size = opened.max_workers or 1
        self.workers = self.peak_workers = 0
        #: Since when there has been no worker, though tasks were queued.
        self.gone_since_ns: int | None = None
        self.submitted = self.succeeded = self.failed = self.cancelled = self.rejected = self.broken = 0
        self.first_submit_ns: int | None = None
        self.last_finish_ns: int | None = None
        self.last_batch_ns = opened.at_ns
        self.cancelled_wait_ns = 0
        #: How many of the tasks were chunks of `map`, and how many items were in them.
        self.chunks = self.items = 0
        #: Number of ended tasks that are known by number only, and since when each task is known.
        self.known_by_number = 0
        self.known_ns = opened.at_ns
        # Ended tasks, and sums of their waits and runs, that are not in the timeline yet.
        self._skipped = [0, 0, 0]
        self.cpu_ns = 0
        self.durations = Durations(wait_bounds, run_bounds)
        #: The tasks that are known one by one.
        self.tasks = TaskRecord(keep_tasks, self.durations)
        self.recent = Recent(RECENT_TASKS)
        #: (function, submitted, cancelled) of the latest tasks that were cancelled in the queue.
        self.withdrawn: deque[tuple[int, int, int]] = deque(maxlen=CANCELLED_TASKS)
        #: When the latest tasks were submitted, about in order.
        self.arrivals: deque[int] = deque(maxlen=LATEST_ARRIVALS)
        self._regularity: float | None = None
        self.cpu_readings: deque[CpuReading] = deque(maxlen=STACK_SAMPLES)
        #: How long the workers waited for a CPU, in the form of `CpuReading`.
        self.ready_readings: deque[CpuReading] = deque(maxlen=STACK_SAMPLES)
        self.stacks: deque[StackSample] = deque(maxlen=STACK_SAMPLES)
        #: Which workers were in a task, and since when.
        self.held: deque[HeldSample] = deque(maxlen=STACK_SAMPLES)
        self.replacements = Replacements()
        #: Workers with tasks that have ended, though their results had yet to be taken -> start of the last one.
        self.under_way: dict[int, int] = {}
        #: The last batch with tasks that ended.
        self.last_told_ns: int | None = None
        #: What was seen between the tasks.
        self.handovers: deque[Handover] = deque(maxlen=STACK_SAMPLES)
        self.occupancy = Occupancy(
            opened.max_workers, opened.at_ns, hands_out=opened.kind in HAND_OUT, pulls=opened.kind in PULL
        )
        self._last_starts: dict[int, int] = {}  # worker -> start of its last task that ended

    @property
    def keep_tasks(self) -> int:
        """How many tasks that ended are kept."""
        return self.tasks.kept.most

    @keep_tasks.setter
    def keep_tasks(self, most: int) -> None:
        self.tasks.kept.most = most

    @property
    def running(self) -> Mapping[int, RunningTask]:
        """The tasks that run, by worker."""
        return self.tasks.running

    @property
    def wait(self) -> Histogram:
        """How long its tasks waited."""
        return self.durations.wait

    @property
    def run(self) -> Histogram:
        """How long its tasks ran."""
        return self.durations.run

    @property
    def functions(self) -> Mapping[int, FunctionTotals]:
        """What its functions did."""
        return self.durations.functions

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
        running = self.tasks.running
        for worker, function, submitted, started in groups(batch.running, 4):
            known = running.get(worker)
            if started <= self._last_starts.get(worker, -1) or (known and known.started_ns == started):
                continue  # seen before, or finished while the batch was being taken
            coupled = self.occupancy.start(worker, submitted, started)
            self.replacements.worked(worker, submitted, started)
            self.tasks.queued.leave((submitted,))
            self.durations.start(function)
            running[worker] = RunningTask(function, submitted, started, coupled)

    def add_sums(self, sums: PoolSums) -> None:
        """Take in tasks that are known by number only."""
        self.tasks.queued.leave(listed(sums.left))
        self.submitted += sums.submitted
        if sums.submitted:
            self.first_submit_ns = min(self.first_submit_ns or sums.first_ns, sums.first_ns)
        self.cancelled += sums.cancelled
        self.broken += sums.broken
        self.cancelled_wait_ns += max(0, sums.unstarted_ns)
        self.durations.estimate(sums)
        all_finished = all_failed = all_waits = all_runs = 0
        for _, finished, failed, wait_ns, run_ns, longest_wait, _ in groups(sums.functions, 7):
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
        """Note that tasks are missing before the record goes on: what needs all of them begins anew."""
        lasting = {(worker, started) for worker, _, _, started in groups(sums.running, 4)}
        running = self.tasks.running
        for worker, seen in list(running.items()):
            if (worker, seen.started_ns) not in lasting:
                # Counted among those that ended.
                del running[worker]
                self.durations.uncount(seen.function)
        self._last_starts.update(groups(sums.latest, 2))
        since_ns = max(sums.since_ns, self.opened.at_ns)
        self.occupancy.skip(since_ns, sums.at_ns, self.queue_depth, running, self._skipped)
        self._skipped = [0, 0, 0]
        self.last_batch_ns = max(self.last_batch_ns, sums.at_ns)
        self.known_ns = sums.at_ns
        self.tasks.kept.miss()
        self.arrivals.clear()
        self._regularity = None

    def _read_cpu(self, at_ns: int, cpu_ns: int) -> None:
        readings = self.cpu_readings
        # A batch repeats the last reading, unless a new one was due: then the workers have used no CPU since.
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
        self.tasks.queued.add(times, arrivals[::2])
        self.occupancy.arrive(times)
        self.arrivals.extend(times[-LATEST_ARRIVALS:])
        self._regularity = None
        self.submitted += len(times)

    def _end_unstarted(self, records: Sequence[int], *, cancelled: bool) -> None:
        if not records:
            return
        self.tasks.queued.leave(listed(records[1::3]))
        for function, submitted, when in groups(records, 3):
            self.occupancy.leave(when)
            self.cancelled_wait_ns += max(0, when - submitted)
            if cancelled:
                self.cancelled += 1
                self.withdrawn.append((function, submitted, when))
            else:
                self.failed += 1
                self.broken += 1
            self.tasks.kept.add((function,), (submitted,), (-1,), (-1,), (0,))

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
            seen = self.tasks.running.pop(worker, None)
            if seen is not None and seen.started_ns != started[begin]:
                seen = None
            coupled += self.occupancy.work(worker, submitted[own], started[own], ended[own], seen)
            if self.replacements.known:
                for place in range(begin, end):
                    self.replacements.worked(worker, submitted[place], started[place])
                    self.replacements.ended(worker, ended[place])
            if seen is not None:
                # Counted as started, and taken from the queue, when it was seen.
                self.durations.uncount(seen.function)
                del left[begin - len(submitted) + len(left)]
            self._last_starts[worker] = started[end - 1]
            latest_ns = max(latest_ns, ended[end - 1])
            begin = end
        self.tasks.queued.leave(left)
        functions, failed = told_apart(keys)
        self.failed += failed
        self.succeeded += len(keys) - failed
        self.recent.extend(functions, submitted, started, ended, coupled)
        self.tasks.kept.add(functions, finished[2::5], finished[3::5], finished[4::5], finished[::5])
        self.last_finish_ns = max(self.last_finish_ns or 0, latest_ns)
        self.durations.add(functions, waits, runs)
        self.occupancy.learn_runs(functions, started, runs, latest_ns)
        self.occupancy.note(max(waits), len(waits))

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
        self.durations.retire(self.tasks.unfinished())
        self._last_starts = {}
        self.recent = Recent(0)
        self.arrivals = self.cpu_readings = self.ready_readings = self.stacks = self.withdrawn = self.held = (
            self.handovers
        ) = _NOTHING
        self.replacements = Replacements()
        self.occupancy.retire()

    def forget_tasks(self) -> None:
        """Drop the tasks and the timeline of an ended pool too."""
        self.tasks.forget()
        self.durations.forget_runs()
        self.occupancy.forget_timeline()

    @property
    def kept_count(self) -> int:
        """Return about how many numbers the kept tasks and the timeline hold."""
        return self.tasks.numbers + self.occupancy.kept_count

    def _settle(self, until_ns: int) -> None:
        # In a stall nothing starts, so the wait shows only in the age of what is still queued.
        self.occupancy.note(self.oldest_queued_ns(until_ns), 0)
        self.occupancy.settle(until_ns, self.running.values(), self.oldest_submitted_ns)

    # -- reading -------------------------------------------------------------------------------------------

    @property
    def regularity(self) -> float:
        """Return how regular the latest arrivals are (see `regularity`)."""
        if self._regularity is None:
            self._regularity = regularity(self.arrivals)
        return self._regularity

    @property
    def started(self) -> int:
        """Number of tasks that started."""
        return self.succeeded + self.failed - self.broken + len(self.running)

    @property
    def queue_depth(self) -> int:
        """Number of tasks submitted, not started and not cancelled, as of the last batch."""
        return self.tasks.queued.depth

    @property
    def oldest_submitted_ns(self) -> int | None:
        """When the task that has been queued longest was submitted."""
        return self.tasks.queued.oldest_ns

    def some_queued(self) -> tuple[list[tuple[int, int]], int]:
        """Return (when submitted, function) of queued tasks, a sample of a long queue, and how many each stands for."""
        return self.tasks.queued.some(QUEUED_TASKS)

    def queued_since(self, at_ns: int) -> int:
        """Return how many of the queued tasks were submitted after that."""
        return self.tasks.queued.later_than(at_ns)

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
        waiting = self.queue_depth * now_ns - self.tasks.queued.total_ns
        return self.wait.total + self.cancelled_wait_ns + running + max(0, waiting)

    @property
    def saturated_ns(self) -> int:
        """Time saturated, as far as it is settled."""
        return self.occupancy.stretches.saturated_ns

    @property
    def occupied_ns(self) -> int:
        """Time with any task queued or running, as far as it is settled: busy time by it is the concurrency."""
        return self.occupancy.occupied_ns

    def complete_since(self, most: int | None = None) -> int | None:
        """Return from when on all tasks that ended are among `tasks.known(most)`; None: from the first on."""
        ended = self.succeeded + self.failed + self.cancelled
        kept = self.tasks.kept
        known = len(kept) if most is None else min(most, len(kept))
        if known >= ended:
            return None
        # They come in batches: the record is not quite in the order of their ends.
        first = [finished for *_, finished in islice(kept.known(most), OUT_OF_ORDER)]
        return max([self.known_ns, *first])

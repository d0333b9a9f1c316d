"""What one pool did, folded from its batches: totals, distributions and kept tasks.

Pure: times (ns) come in with the events. Not thread-safe: the judge's owner guards it.
"""

from __future__ import annotations

import sys
from array import array
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from operator import itemgetter, sub
from typing import Any

import msgspec

from poolscope.analysis.backlog import Backlog
from poolscope.analysis.chance import regularity
from poolscope.analysis.occupancy import Occupancy, RunningTask
from poolscope.analysis.sizing import Task
from poolscope.analysis.spread import Spread
from poolscope.messages import Line, PoolBatch, PoolOpened, StackSample

#: Finished tasks looked at for one window, and how far back they are kept while no stretch needs them longer.
RECENT_TASKS = 50_000
STACK_SAMPLES = 600
#: The probe reads the CPU clocks of the workers once in this time (ns), but for the tick that it comes late.
CPU_INTERVAL_NS = 350_000_000
#: The latest arrivals, by which it is told how regular they are.
LATEST_ARRIVALS = 100
#: How long (ns) a pool that says nothing is waited for. Where tasks compute, the probe gets at the GIL late, and what
#: it then tells happened up to a second ago.
PATIENCE_NS = 2_000_000_000
#: The kind of pool that wakes or starts a worker for each task, while there is one that is idle or not started.
HANDS_OUT = "thread"
#: Fewer tasks of a function in a batch go into its distributions one by one.
FEW = 10

#: A task that finished lately: function, submitted, started, finished, whether it had to wait for another one to end.
RecentTask = tuple[int, int, int, int, bool]


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
        self.wait = Spread()
        self.run = Spread()


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
        self.submitted = self.succeeded = self.failed = self.cancelled = self.rejected = self.broken = 0
        self.first_submit_ns: int | None = None
        self.last_finish_ns: int | None = None
        self.last_batch_ns = opened.at_ns
        self.cancelled_wait_ns = 0
        self.cpu_ns = 0
        self.wait = Spread(wait_bounds)
        self.run = Spread(run_bounds)
        self.functions: dict[int, FunctionTotals] = {}
        self._grown: set[int] = set()
        self.running: dict[int, RunningTask] = {}
        self.recent: deque[RecentTask] = deque(maxlen=RECENT_TASKS)
        #: When the latest tasks were submitted, about in order.
        self.arrivals: deque[int] = deque(maxlen=LATEST_ARRIVALS)
        self._regularity: float | None = None
        self.cpu_readings: deque[CpuReading] = deque(maxlen=STACK_SAMPLES)
        #: How long the workers waited for a CPU, in the same form.
        self.ready_readings: deque[CpuReading] = deque(maxlen=STACK_SAMPLES)
        self.stacks: deque[StackSample] = deque(maxlen=STACK_SAMPLES)
        self.keep_tasks = keep_tasks
        self._tasks = array("q")
        self._backlog = Backlog()
        self.occupancy = Occupancy(opened.max_workers, opened.at_ns, hands_out=opened.kind == HANDS_OUT)
        self._last_starts: dict[int, int] = {}  # worker -> start of its last task that ended

    # -- folding -------------------------------------------------------------------------------------------

    def fold(self, batch: PoolBatch) -> None:
        """Takes in what happened since the last batch."""
        self.workers = batch.workers
        self.max_workers = self.occupancy.max_workers = batch.max_workers
        self.size = batch.max_workers or self.size
        self.peak_workers = max(self.peak_workers, batch.workers)
        self.peak_max_workers = max(self.peak_max_workers, batch.max_workers)
        self.rejected += batch.rejected
        self.last_batch_ns = max(self.last_batch_ns, batch.at_ns)
        self._read_cpu(batch.at_ns, batch.cpu_ns)
        self._arrive(batch.arrivals)
        self._end_unstarted(batch.cancelled, cancelled=True)
        self._end_unstarted(batch.broken, cancelled=False)
        self._finish_tasks(batch.finished)
        for worker, function, submitted, started in _groups(batch.running, 4):
            known = self.running.get(worker)
            if started <= self._last_starts.get(worker, -1) or (known and known.started_ns == started):
                continue  # seen before, or finished while the batch was being taken
            coupled = self.occupancy.start(worker, submitted, started)
            self._backlog.leave((submitted,))
            self._function(function).started += 1
            self._grown.add(function)
            self.running[worker] = RunningTask(function, submitted, started, coupled)

    def _read_cpu(self, at_ns: int, cpu_ns: int) -> None:
        readings = self.cpu_readings
        # A batch has the last reading again, unless a new one was due: then the workers have used none since.
        if cpu_ns > self.cpu_ns or not readings or at_ns - readings[-1].at_ns > CPU_INTERVAL_NS:
            self.cpu_ns = max(self.cpu_ns, cpu_ns)
            readings.append(CpuReading(at_ns, self.cpu_ns))

    def note_ready(self, at_ns: int, ready_ns: int) -> None:
        """Takes in how long the workers have waited for a CPU so far."""
        self.ready_readings.append(CpuReading(at_ns, ready_ns))

    def sample(self, stacks: StackSample) -> None:
        """Takes in where the workers were."""
        self.stacks.append(stacks)

    def _arrive(self, arrivals: list[int]) -> None:
        if not arrivals:
            return
        times = arrivals[1::2]
        first = min(times)
        if self.first_submit_ns is None or first < self.first_submit_ns:
            self.first_submit_ns = first
        self._backlog.add(times, arrivals[::2])
        self.occupancy.arrive(times)
        self.arrivals.extend(times[-LATEST_ARRIVALS:])
        self._regularity = None
        self.submitted += len(times)

    def _end_unstarted(self, records: list[int], *, cancelled: bool) -> None:
        if not records:
            return
        self._backlog.leave(records[1::3])
        for function, submitted, when in _groups(records, 3):
            self.occupancy.leave(when)
            self.cancelled_wait_ns += max(0, when - submitted)
            if cancelled:
                self.cancelled += 1
            else:
                self.failed += 1
                self.broken += 1
            self._keep([function, submitted, -1, -1])

    def _finish_tasks(self, finished: list[int]) -> None:
        if not finished:
            return
        workers = finished[::5]
        if workers != sorted(workers):
            finished = [item for task in sorted(_groups(finished, 5), key=itemgetter(0)) for item in task]
            workers.sort()
        keys, submitted, started, ended = (finished[column::5] for column in range(1, 5))
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
            if seen is not None:
                # Counted as started, and taken from the queue, when it was seen.
                self._function(seen.function).started -= 1
                del left[begin - len(submitted) + len(left)]
            self._last_starts[worker] = started[end - 1]
            latest_ns = max(latest_ns, ended[end - 1])
            begin = end
        self._backlog.leave(left)
        failed = sum(key & 1 for key in keys)
        self.failed += failed
        self.succeeded += len(keys) - failed
        functions = [key >> 1 for key in keys]
        self.recent.extend(zip(functions, submitted, started, ended, coupled, strict=True))
        kept = [0] * (4 * len(keys))
        kept[::4], kept[1::4], kept[2::4], kept[3::4] = functions, submitted, started, ended
        self._keep(kept)
        self.last_finish_ns = max(self.last_finish_ns or 0, latest_ns)
        self._spread(functions, waits, runs)
        self.occupancy.learn_runs(functions, started, runs, latest_ns)
        self.occupancy.note(max(waits), len(waits))

    def _spread(self, functions: list[int], waits: list[int], runs: list[int]) -> None:
        """Adds to the distributions of the pool and of the functions."""
        if functions.count(functions[0]) == len(functions):
            self._grown.add(functions[0])
            totals = self._function(functions[0])
            totals.started += len(functions)
            self.wait.add(waits, totals.wait)
            self.run.add(runs, totals.run)
            return
        self.wait.add(waits)
        self.run.add(runs)
        different = set(functions)
        self._grown |= different
        if len(different) * FEW > len(functions):
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
            totals.wait.add(function_waits)
            totals.run.add(function_runs)

    def _function(self, function: int) -> FunctionTotals:
        totals = self.functions.get(function)
        if totals is None:
            totals = self.functions[function] = FunctionTotals()
        return totals

    def _keep(self, records: list[int]) -> None:
        """Remembers tasks (function, submitted, started, finished), flat."""
        if not self.keep_tasks:
            return
        self._tasks.extend(array("q", records))
        # Trimmed a quarter at a time, so that the cost of moving is shared by many tasks.
        if len(self._tasks) > 5 * self.keep_tasks:
            del self._tasks[: len(self._tasks) - 4 * self.keep_tasks]

    # -- time goes on --------------------------------------------------------------------------------------

    def settle(self, until_ns: int) -> None:
        """Works out saturation up to there, if all that is stamped before has been folded: what is after the last batch
        may be yet to come, so up to that, but never more than `PATIENCE_NS` less."""
        self._settle(min(until_ns, max(self.last_batch_ns, until_ns - PATIENCE_NS)))

    def finish(self, at_ns: int) -> None:
        """The record ends at `at_ns`: nothing more will come."""
        self._settle(at_ns)
        self.occupancy.stretches.finish()

    def _settle(self, until_ns: int) -> None:
        # In a stall nothing starts, so the wait shows only in the age of what is still queued.
        self.occupancy.note(self.oldest_queued_ns(until_ns), 0)
        self.occupancy.settle(until_ns, self.running.values())

    # -- reading -------------------------------------------------------------------------------------------

    def grown(self) -> Iterator[tuple[int, int, int]]:
        """What each function has added since it was asked last: (function, tasks started, ns that ended tasks ran).

        Those that have added nothing are left out. For one caller.
        """
        grown, self._grown = self._grown, set()
        for function in grown:
            totals = self.functions[function]
            before, totals.told = totals.told, (totals.started, totals.run.total)
            yield function, totals.told[0] - before[0], totals.told[1] - before[1]

    @property
    def regularity(self) -> float:
        """How regular the latest arrivals are (see `chance.regularity`)."""
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

    def oldest_queued_ns(self, now_ns: int) -> int:
        """Age of the oldest queued task."""
        oldest_ns = self.oldest_submitted_ns
        return max(0, now_ns - oldest_ns) if oldest_ns is not None else 0

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

    def kept(self, most: int | None = None) -> Iterator[tuple[int, int, int, int]]:
        """The kept tasks that ended, or the last `most`: (function, submitted, started, finished), -1 for what did not
        happen."""
        return _groups(self._tasks if most is None else self._tasks[-4 * most :], 4)

    def spans(self, most: int | None = None) -> Iterator[tuple[int, int]]:
        """When each of the tasks that `tasks_for_replay` gives was submitted, and when it finished: for one that has
        not, beyond all times. Without tasks that never started."""
        yield from ((submitted, finished) for _, submitted, started, finished in self.kept(most) if started >= 0)
        yield from ((task.submitted_ns, sys.maxsize) for task in self.running.values())
        yield from ((submitted, sys.maxsize) for submitted, _ in islice(self._backlog.waiting(), most))

    def tasks_for_replay(
        self, now_ns: int, most: int | None = None, wanted: Callable[[int], bool] = lambda _: True
    ) -> list[Task]:
        """The kept tasks and those still queued or running, in order of submission, for a replay.

        A task that never ran gets the median run time of its function, or of the pool; one that still runs at
        least the time it has run. `most` bounds how many: of those that ended the latest, of those that wait the first.
        `wanted` says of which functions.
        """
        typical: dict[int, int] = {}

        def usual(function: int) -> int:
            if function not in typical:
                totals = self.functions.get(function)
                run = totals.run if totals is not None and totals.run.count else self.run
                typical[function] = int(run.quantiles((0.5,))[0]) if run.count else 0
            return typical[function]

        # With the start: of tasks submitted at the same moment, the one that started first was first in the queue.
        tasks = [
            (submitted, started, finished - started) if started >= 0 else (submitted, sys.maxsize, usual(function))
            for function, submitted, started, finished in self.kept(most)
            if wanted(function)
        ]
        tasks += [
            (task.submitted_ns, task.started_ns, max(usual(task.function), now_ns - task.started_ns))
            for task in self.running.values()
            if wanted(task.function)
        ]
        tasks += [
            (submitted, sys.maxsize, usual(function))
            for submitted, function in islice(self._backlog.waiting(), most)
            if wanted(function)
        ]
        tasks.sort()
        return [Task(submitted, run) for submitted, _, run in tasks]

    def packed_tasks(self, origin_ns: int, functions: dict[int, int]) -> bytes:
        """The kept tasks and those that have not ended, as a PoolTrace holds them.

        `functions` gives each function id its index there.
        """
        tasks = [tuple(task) for task in self.kept()]
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
        """The functions of all tasks that `packed_tasks` holds."""
        ids = {function for function, *_ in self.kept()}
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


def _groups(flat: Sequence[int], size: int) -> Iterator[Any]:
    items = iter(flat)
    return zip(*([items] * size), strict=True)

"""What one pool did, folded from its batches: totals, distributions, kept tasks, and when it was saturated.

Saturation is exact, not sampled. From each worker's own order of tasks it is known whether a task was already waiting
when the worker ended the one before (a coupled start): between two such tasks the worker was never idle. So each
coupled start merges with the end before it, and sweeping the remaining events in order of time gives the number of
occupied workers and the queue depth at every moment.

Pure: times (ns) come in with the events. Not thread-safe: the judge's owner guards it.
"""

from __future__ import annotations

import sys
from array import array
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from poolscope.analysis.sizing import Task
from poolscope.analysis.spread import Spread
from poolscope.analysis.stretches import StretchTracker
from poolscope.messages import Line, PoolBatch, PoolOpened, StackSample
from poolscope.model import TimelinePoint

#: Finished tasks looked at for one window, and how far back they are kept while no stretch needs them longer.
RECENT_TASKS = 50_000
#: Run times of unhindered tasks that are remembered.
UNHINDERED_TASKS = 1_000
TIMELINE_POINTS = 2_400
STACK_SAMPLES = 600

_Event = tuple[int, int, int, tuple[int, int] | None, int]


class RecentTask(msgspec.Struct, frozen=True, array_like=True):
    """A task that finished lately. `coupled`: it had to wait for another task to end."""

    function: int
    submitted_ns: int
    started_ns: int
    finished_ns: int
    coupled: bool


class RunningTask(msgspec.Struct, frozen=True, array_like=True):
    """A task that a worker is in."""

    function: int
    submitted_ns: int
    started_ns: int
    coupled: bool


class CpuReading(msgspec.Struct, frozen=True, array_like=True):
    """CPU time of the pool's workers so far, at one moment (ns)."""

    at_ns: int
    cpu_ns: int


class Crest(msgspec.Struct, frozen=True):
    """The highest queue of a stretch: its depth, when it was reached, and how many tasks had arrived in the stretch
    by then."""

    queued: int
    at_ns: int
    arrivals: int


class FunctionTotals:
    """Started tasks of one function of a pool, and its distributions."""

    __slots__ = ("run", "started", "wait")

    def __init__(self) -> None:
        self.started = 0
        self.wait = Spread()
        self.run = Spread()


class _Step:
    """A timeline point being made, in sums over its width (ns)."""

    __slots__ = ("active_ns", "at_ns", "finished", "queued_ns", "started", "wait_ns", "width_ns")

    def __init__(self, at_ns: int) -> None:
        self.at_ns = at_ns
        self.width_ns = self.active_ns = self.queued_ns = 0
        self.wait_ns = self.started = self.finished = 0

    def merge(self, later: _Step) -> None:
        self.at_ns = later.at_ns
        self.width_ns += later.width_ns
        self.active_ns += later.active_ns
        self.queued_ns += later.queued_ns
        self.wait_ns = max(self.wait_ns, later.wait_ns)
        self.started += later.started
        self.finished += later.finished


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
        self.alive = True
        self.max_workers = self.peak_max_workers = opened.max_workers
        self.workers = self.peak_workers = self.peak_active = self.peak_queue_depth = 0
        self.submitted = self.succeeded = self.failed = self.cancelled = self.rejected = self.broken = 0
        self.first_submit_ns: int | None = None
        self.last_finish_ns: int | None = None
        self.last_batch_ns = opened.at_ns
        self.cancelled_wait_ns = 0
        self.cpu_ns = 0
        self.wait = Spread(wait_bounds)
        self.run = Spread(run_bounds)
        self.functions: dict[int, FunctionTotals] = {}
        self.running: dict[int, RunningTask] = {}
        self.stretches = StretchTracker()
        #: Crest of each stretch that has not been judged for the last time, by its begin.
        self.crests: dict[int, Crest] = {}
        self.recent: deque[RecentTask] = deque(maxlen=RECENT_TASKS)
        self.unhindered: deque[int] = deque(maxlen=UNHINDERED_TASKS)
        self.cpu_readings: deque[CpuReading] = deque(maxlen=STACK_SAMPLES)
        self.stacks: deque[StackSample] = deque(maxlen=STACK_SAMPLES)
        self._keep_tasks = keep_tasks
        self._tasks = array("q")
        self._waiting: dict[tuple[int, int], int] = {}
        self._waiting_sum = 0
        self._waiting_count = 0
        self._events: list[_Event] = []
        self._ends: dict[int, int] = {}  # worker -> end of its last task, not swept yet
        self._last_ends: dict[int, int] = {}  # worker -> end, and start, of its last task
        self._last_starts: dict[int, int] = {}
        # (worker, started) of tasks that started unhindered and still run, and run times of tasks that ended before
        # their start was swept.
        self._alone: set[tuple[int, int]] = set()
        self._unswept_runs: dict[tuple[int, int], int] = {}
        self._queued = self._occupied = 0
        self._stretch_arrivals = (0, 0)  # begin of a stretch, arrivals in it so far
        self._swept_ns = opened.at_ns
        self._steps: list[_Step] = []
        self._step = _Step(opened.at_ns)
        self._merge_every = 1

    # -- folding -------------------------------------------------------------------------------------------

    def fold(self, batch: PoolBatch) -> None:
        """Takes in what happened since the last batch."""
        self.workers, self.max_workers = batch.workers, batch.max_workers
        self.peak_workers = max(self.peak_workers, batch.workers)
        self.peak_max_workers = max(self.peak_max_workers, batch.max_workers)
        self.rejected += batch.rejected
        self.last_batch_ns = max(self.last_batch_ns, batch.at_ns)
        if batch.cpu_ns > self.cpu_ns or not self.cpu_readings:
            self.cpu_ns = max(self.cpu_ns, batch.cpu_ns)
        self.cpu_readings.append(CpuReading(batch.at_ns, self.cpu_ns))
        self._arrive(batch.arrivals)
        self._end_unstarted(batch.cancelled, cancelled=True)
        self._end_unstarted(batch.broken, cancelled=False)
        self._finish_tasks(batch.finished)
        for worker, function, submitted, started in _groups(batch.running, 4):
            known = self.running.get(worker)
            if started <= self._last_starts.get(worker, -1) or (known and known.started_ns == started):
                continue  # seen before, or finished while the batch was being taken
            self._start(worker, function, submitted, started, None)

    def sample(self, stacks: StackSample) -> None:
        """Takes in where the workers were."""
        self.stacks.append(stacks)

    def _arrive(self, arrivals: list[int]) -> None:
        events, waiting = self._events, self._waiting
        for function, submitted in _groups(arrivals, 2):
            if self.first_submit_ns is None or submitted < self.first_submit_ns:
                self.first_submit_ns = submitted
            key = (submitted, function)
            waiting[key] = waiting.get(key, 0) + 1
            self._waiting_sum += submitted
            events.append((submitted, 1, 0, None, 0))
        self._waiting_count += len(arrivals) // 2
        self.submitted += len(arrivals) // 2

    def _leave(self, function: int, submitted: int) -> bool:
        """A task leaves the queue. False if we never saw it arrive (it was queued before we watched)."""
        key = (submitted, function)
        count = self._waiting.get(key)
        if count is None:
            return False
        if count == 1:
            del self._waiting[key]
        else:
            self._waiting[key] = count - 1
        self._waiting_sum -= submitted
        self._waiting_count -= 1
        return True

    def _end_unstarted(self, records: list[int], *, cancelled: bool) -> None:
        for function, submitted, when in _groups(records, 3):
            if not self._leave(function, submitted):
                continue
            self._events.append((when, -1, 0, None, 0))
            self.cancelled_wait_ns += max(0, when - submitted)
            if cancelled:
                self.cancelled += 1
                self._keep(function, submitted, -1, -1)
            else:
                self.failed += 1
                self.broken += 1

    def _start(self, worker: int, function: int, submitted: int, started: int, run_ns: int | None) -> bool:
        """A worker begins a task; returns whether the start was coupled."""
        arrived = self._leave(function, submitted)
        ended = self._ends.pop(worker, None)
        last = self._last_ends.get(worker)
        coupled = last is not None and submitted < last
        occupies = 1
        if ended is not None:
            if coupled:
                occupies = 0  # the worker went from one task to the next: it was never idle
            else:
                self._events.append((ended, 0, -1, None, 0))
        self._events.append(
            (started, -1 if arrived else 0, occupies, (worker, started), -1 if run_ns is None else run_ns)
        )
        totals = self.functions.get(function)
        if totals is None:
            totals = self.functions[function] = FunctionTotals()
        totals.started += 1
        self.running[worker] = RunningTask(function, submitted, started, coupled)
        return coupled

    def _finish_tasks(self, finished: list[int]) -> None:
        waits: list[int] = []
        runs: list[int] = []
        by_function: dict[int, tuple[list[int], list[int]]] = {}
        for worker, key, submitted, started, ended in _groups(finished, 5):
            function = key >> 1
            known = self.running.get(worker)
            if known is not None and known.started_ns == started:
                coupled = known.coupled
                if (worker, started) in self._alone:
                    self._alone.discard((worker, started))
                    self.unhindered.append(ended - started)
                elif started > self._swept_ns:
                    self._unswept_runs[worker, started] = ended - started
            else:
                coupled = self._start(worker, function, submitted, started, ended - started)
            self.running.pop(worker, None)
            self._ends[worker] = self._last_ends[worker] = ended
            self._last_starts[worker] = started
            if key & 1:
                self.failed += 1
            else:
                self.succeeded += 1
            waits.append(started - submitted)
            runs.append(ended - started)
            mine = by_function.get(function)
            if mine is None:
                mine = by_function[function] = ([], [])
            mine[0].append(started - submitted)
            mine[1].append(ended - started)
            self.recent.append(RecentTask(function, submitted, started, ended, coupled))
            self._keep(function, submitted, started, ended)
            if self.last_finish_ns is None or ended > self.last_finish_ns:
                self.last_finish_ns = ended
        self.wait.add(waits)
        self.run.add(runs)
        for function, (function_waits, function_runs) in by_function.items():
            self.functions[function].wait.add(function_waits)
            self.functions[function].run.add(function_runs)
        if waits:
            self._step.wait_ns = max(self._step.wait_ns, max(waits))
            self._step.finished += len(waits)

    def _keep(self, function: int, submitted: int, started: int, finished: int) -> None:
        if not self._keep_tasks:
            return
        self._tasks.extend((function, submitted, started, finished))
        # Trimmed a quarter at a time, so that the cost of moving is shared by many tasks.
        if len(self._tasks) > 5 * self._keep_tasks:
            del self._tasks[: len(self._tasks) - 4 * self._keep_tasks]

    # -- time goes on --------------------------------------------------------------------------------------

    def settle(self, until_ns: int) -> None:
        """Everything stamped before `until_ns` has been folded: works out saturation up to there."""
        if until_ns <= self._swept_ns:
            return
        for worker, ended in list(self._ends.items()):
            if ended <= until_ns:  # nothing followed it by now: the worker went idle
                self._events.append((ended, 0, -1, None, 0))
                del self._ends[worker]
        self._events.sort()
        place = 0
        for place, event in enumerate(self._events):  # noqa: B007 - how far it got is used below
            if event[0] > until_ns:
                break
            self._sweep(*event)
        else:
            place = len(self._events)
        del self._events[:place]
        self._pass(until_ns)
        self.stretches.advance(until_ns)
        self._end_step(until_ns)

    def _pass(self, at_ns: int) -> None:
        elapsed = at_ns - self._swept_ns
        if elapsed > 0:
            self._step.width_ns += elapsed
            self._step.active_ns += self._occupied * elapsed
            self._step.queued_ns += self._queued * elapsed
            self._swept_ns = at_ns

    def _sweep(self, at_ns: int, queued: int, occupied: int, started: tuple[int, int] | None, run_ns: int) -> None:
        self._pass(at_ns)
        at_ns = max(at_ns, self._swept_ns)  # an event that came late counts from now on
        self._queued += queued
        self._occupied += occupied
        self.peak_queue_depth = max(self.peak_queue_depth, self._queued)
        self.peak_active = max(self.peak_active, self._occupied)
        if started is not None:
            self._step.started += 1
            if self._unswept_runs and run_ns < 0:
                run_ns = self._unswept_runs.pop(started, -1)
            if self._occupied <= max(1, self.max_workers / 4):
                if run_ns >= 0:
                    self.unhindered.append(run_ns)
                elif (task := self.running.get(started[0])) and task.started_ns == started[1]:
                    self._alone.add(started)
        self.stretches.turn(self._queued > 0 and self._occupied >= self.max_workers, at_ns)
        if (stretch_ns := self.stretches.begin_ns) is not None:
            begin, arrivals = self._stretch_arrivals
            arrivals = (arrivals if begin == stretch_ns else 0) + (queued > 0)
            self._stretch_arrivals = (stretch_ns, arrivals)
            crest = self.crests.get(stretch_ns)
            if crest is None or self._queued > crest.queued:
                self.crests[stretch_ns] = Crest(self._queued, at_ns, arrivals)

    def _end_step(self, at_ns: int) -> None:
        step = self._step
        step.at_ns = at_ns
        # In a stall nothing starts, so the wait shows only in the age of what is still queued.
        step.wait_ns = max(step.wait_ns, self.oldest_queued_ns(at_ns))
        if self._steps and self._steps[-1].width_ns + step.width_ns <= self._merge_every * 100_000_000:
            self._steps[-1].merge(step)
        else:
            self._steps.append(step)
        if len(self._steps) > TIMELINE_POINTS:
            for left, right in zip(self._steps[::2], self._steps[1::2], strict=False):
                left.merge(right)
            self._steps = self._steps[::2]
            self._merge_every *= 2
        self._step = _Step(at_ns)

    def finish(self, at_ns: int) -> None:
        """The record ends at `at_ns`: nothing more will come."""
        self.settle(at_ns)
        self.stretches.finish()
        self.alive = False

    # -- reading -------------------------------------------------------------------------------------------

    @property
    def started(self) -> int:
        """Tasks that started."""
        return self.succeeded + self.failed - self.broken + len(self.running)

    @property
    def queue_depth(self) -> int:
        """Tasks submitted, not started and not cancelled, as of the last batch."""
        return self._waiting_count

    def oldest_queued_ns(self, now_ns: int) -> int:
        """Age of the oldest queued task."""
        return max(0, now_ns - next(iter(self._waiting))[0]) if self._waiting else 0

    def longest_running_ns(self, now_ns: int) -> int:
        """Age of the longest running task, from its start."""
        return max(0, now_ns - min(task.started_ns for task in self.running.values())) if self.running else 0

    def busy_ns(self, now_ns: int) -> int:
        """Time integral of the active workers."""
        return self.run.total + sum(max(0, now_ns - task.started_ns) for task in self.running.values())

    def queued_ns(self, now_ns: int) -> int:
        """Time integral of the queue depth."""
        running = sum(task.started_ns - task.submitted_ns for task in self.running.values())
        waiting = self._waiting_count * now_ns - self._waiting_sum
        return self.wait.total + self.cancelled_wait_ns + running + max(0, waiting)

    def waiting_ages_ns(self, now_ns: int) -> list[int]:
        """Ages of all queued tasks, oldest first."""
        return [max(0, now_ns - submitted) for (submitted, _), count in self._waiting.items() for _ in range(count)]

    def timeline(self, origin_ns: int) -> tuple[TimelinePoint, ...]:
        """The pool over time, as offsets from `origin_ns`."""
        return tuple(
            TimelinePoint(
                at_seconds=(step.at_ns - origin_ns) / 1e9,
                width_seconds=step.width_ns / 1e9,
                active=step.active_ns / step.width_ns,
                queued=step.queued_ns / step.width_ns,
                wait_seconds=step.wait_ns / 1e9,
                started=step.started,
                finished=step.finished,
            )
            for step in self._steps
            if step.width_ns > 0
        )

    def kept(self) -> Iterator[tuple[int, int, int, int]]:
        """The kept tasks that ended: (function, submitted, started, finished), -1 for what did not happen."""
        return _groups(self._tasks, 4)

    def tasks_for_replay(self, now_ns: int, most: int | None = None) -> list[Task]:
        """The kept tasks and those still queued or running, in order of submission, for a replay.

        A task that never ran gets the median run time of its function, or of the pool; one that still runs at
        least the time it has run.
        """
        typical: dict[int, int] = {}

        def usual(function: int) -> int:
            if function not in typical:
                totals = self.functions.get(function)
                run = totals.run if totals is not None and totals.run.count else self.run
                typical[function] = int(run.quantiles((0.5,))[0]) if run.count else 0
            return typical[function]

        tasks = [
            Task(submitted, finished - started if started >= 0 else usual(function))
            for function, submitted, started, finished in self.kept()
        ]
        tasks += [
            Task(task.submitted_ns, max(usual(task.function), now_ns - task.started_ns))
            for task in self.running.values()
        ]
        tasks += [
            Task(submitted, usual(function))
            for (submitted, function), count in self._waiting.items()
            for _ in range(count)
        ]
        tasks.sort(key=lambda task: task.submitted_ns)
        return tasks if most is None else tasks[-most:]

    def packed_tasks(self, origin_ns: int, functions: dict[int, int]) -> bytes:
        """The kept tasks and those that have not ended, as a PoolTrace holds them.

        `functions` gives each function id its index there.
        """
        tasks = [tuple(task) for task in self.kept()]
        tasks += [(task.function, task.submitted_ns, task.started_ns, -1) for task in self.running.values()]
        tasks += [(function, at, -1, -1) for (at, function), count in self._waiting.items() for _ in range(count)]
        packed = array("q")
        for function, *moments in sorted(tasks, key=lambda task: task[1]):
            packed.append(functions[function])
            packed.extend(moment - origin_ns if moment >= 0 else -1 for moment in moments)
        if sys.byteorder == "big":
            packed.byteswap()
        return packed.tobytes()

    def function_ids(self) -> list[int]:
        """The functions of all tasks that `packed_tasks` holds."""
        ids = {function for function, *_ in self.kept()}
        ids |= {task.function for task in self.running.values()}
        return sorted(ids | {function for _, function in self._waiting})

    def lines(self, begin_ns: int, end_ns: int) -> tuple[list[tuple[tuple[Line, ...], int]], int]:
        """Where the workers were in [begin, end]: (lines, count) by count, and the number of all looked at."""
        counts: dict[tuple[Line, ...], int] = {}
        for sample in self.stacks:
            if begin_ns <= sample.at_ns <= end_ns:
                for count, stack in sample.stacks:
                    key = tuple(stack)
                    counts[key] = counts.get(key, 0) + count
        return sorted(counts.items(), key=lambda item: -item[1]), sum(counts.values())


def _groups(flat: Sequence[int], size: int) -> Iterator[Any]:
    items = iter(flat)
    return zip(*([items] * size), strict=True)

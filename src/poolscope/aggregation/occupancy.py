"""How many workers were occupied, and how many tasks queued, at every moment: exact, not sampled.

The order of a worker's tasks shows whether a task was already waiting when the worker ended the one before (a coupled
start): between two such tasks the worker was never idle. So each coupled start merges with the end before it, and a
sweep through the remaining events in order of time gives saturation, its stretches, peaks and timeline.

A worker that was woken or started for a task is not idle either, though where others compute under the GIL it takes
long until it is in the task. So a pool that wakes or starts one for each task while there is one (`hands_out`) is full
once more tasks are in it than it has workers.

A worker process that has ended a task and leaves an older one in the queue is not idle either: it still has to unpickle
that task, or the process itself has ended and its replacement has not started yet. So a pool whose workers fetch their
own tasks (`pulls`) stays full meanwhile.

Pure: times (ns) come in with the events. Not thread-safe: the engine's owner guards it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from itertools import islice, repeat
from operator import lt

import msgspec

from poolscope.aggregation.stretches import StretchTracker
from poolscope.aggregation.sweep import ARRIVED, BEGAN, WENT_IDLE, WENT_ON, WITHDRAWN, Sweep
from poolscope.model import TimelinePoint

#: With fewer workers, half of them being occupied says nothing.
SEVERAL = 2
#: Run times of unhindered tasks that are remembered.
UNHINDERED_TASKS = 1_000
TIMELINE_POINTS = 2_400
#: Width of a timeline point while there are few enough.
STEP_NS = 100_000_000


#: Stands in for the containers of a pool that has ended, as in `pool_history`.
_NOTHING: deque[tuple[int, int]] = deque(maxlen=0)


class RunningTask(msgspec.Struct, frozen=True, array_like=True):
    """A task that a worker is in."""

    function: int
    submitted_ns: int
    started_ns: int
    coupled: bool


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


def half(workers: int) -> int:
    """Return half of several workers, at least two."""
    return max(SEVERAL, (workers + 1) // 2)


class Occupancy:
    """Takes the events of a pool's tasks as they become known, and sweeps them in order of time."""

    def __init__(self, max_workers: int, opened_ns: int, *, hands_out: bool = False, pulls: bool = False) -> None:
        self._pulls = pulls
        # Workers that count as occupied but are in no task, and up to when they are already off the timeline.
        self._away: dict[int, int] = {}
        self._sweep = Sweep(max_workers, opened_ns, hands_out=hands_out)
        self.stretches = self._sweep.stretches
        #: The times in which half of several workers were occupied, whether tasks were queued or not: what submits may
        #: wait for the GIL that they hold, or for one of them to end, and so hardly ever have all of them at work.
        self.fills = StretchTracker()
        #: Peak of each stretch that has not been judged for the last time, by its begin.
        self.peaks = self._sweep.peaks
        #: Function and run time (ns) of tasks that started while hardly any other worker was occupied, the latest ones.
        self.unhindered: deque[tuple[int, int]] = deque(maxlen=UNHINDERED_TASKS)
        # Times of what was not swept yet, by kind.
        self._pending: tuple[list[int], ...] = ([], [], [], [], [])
        self._ends: dict[int, int] = {}  # worker -> end of its last task, not swept yet
        self._last_ends: dict[int, int] = {}  # worker -> end of its last task
        # Starts of tasks that started unhindered and still run, and (latest end, functions, starts, run times) of tasks
        # that ended before all of their starts were swept. Tasks are known by their start.
        self._alone: set[int] = set()
        self._ended: list[tuple[int, Sequence[int], Sequence[int], Sequence[int]]] = []
        #: Time (ns) in which any task was queued or running, as far as it is settled.
        self.occupied_ns = 0
        self._steps: list[_Step] = []
        self._step = _Step(opened_ns)
        self._merge_every = 1

    @property
    def max_workers(self) -> int:
        """The largest number of workers that there may be."""
        return self._sweep.max_workers

    @max_workers.setter
    def max_workers(self, max_workers: int) -> None:
        self._sweep.max_workers = max_workers

    @property
    def peak_active(self) -> int:
        """The most workers that were occupied at once."""
        return self._sweep.peak_occupied

    @property
    def peak_queue_depth(self) -> int:
        """The most tasks that were queued at once."""
        return self._sweep.peak_queued

    @property
    def settled_ns(self) -> int:
        """Time (ns) up to which occupancy is known."""
        return self._sweep.swept_ns

    def arrive(self, times: Sequence[int]) -> None:
        """Take in submitted tasks."""
        self._pending[ARRIVED].extend(times)

    def leave(self, at_ns: int) -> None:
        """Note that a queued task ended without a start."""
        self._pending[WITHDRAWN].append(at_ns)

    def start(self, worker: int, submitted: int, started: int) -> bool:
        """Note that a worker begins a task; return whether the start was coupled."""
        coupled = submitted < self._last_ends.get(worker, -1)
        ended = self._ends.pop(worker, None)
        if self._away:
            self._take_off(worker, started)
            self._away.pop(worker, None)
        if ended is not None and coupled:
            # From one task straight to the next the worker was never idle: it stays occupied.
            self._pending[WENT_ON].append(started)
        else:
            self._pending[BEGAN].append(started)
            if ended is not None:
                self._pending[WENT_IDLE].append(ended)
        return coupled

    def work(
        self,
        worker: int,
        submitted: Sequence[int],
        started: Sequence[int],
        ended: Sequence[int],
        seen: RunningTask | None,
    ) -> list[bool]:
        """Take in tasks that a worker did one after the other, of which the first may have been seen running; return
        which starts were coupled."""
        coupled = [seen.coupled if seen is not None else self.start(worker, submitted[0], started[0])]
        coupled += map(lt, islice(submitted, 1, None), ended)
        _, _, went_on, went_idle, began = self._pending
        later = coupled.count(True) - coupled[0]
        if later == len(coupled) - 1:
            went_on += islice(started, 1, None)
        elif not later:
            went_idle += islice(ended, len(ended) - 1)
            began += islice(started, 1, None)
        else:
            for place in range(1, len(coupled)):
                if coupled[place]:
                    went_on.append(started[place])
                else:
                    went_idle.append(ended[place - 1])
                    began.append(started[place])
        self._ends[worker] = self._last_ends[worker] = ended[-1]
        return coupled

    def learn_runs(self, functions: Sequence[int], started: Sequence[int], runs: Sequence[int], latest_ns: int) -> None:
        """Take in run times of tasks that ended, the last one at `latest_ns`."""
        self._ended.append((latest_ns, functions, started, runs))
        if self._alone:
            for function, at, run_ns in zip(functions, started, runs, strict=True):
                if at in self._alone:
                    self._alone.discard(at)
                    self.unhindered.append((function, run_ns))

    def note(self, wait_ns: int, finished: int) -> None:
        """Take in a wait and finished tasks for the timeline."""
        self._step.wait_ns = max(self._step.wait_ns, wait_ns)
        self._step.finished += finished

    def _take_off(self, worker: int, until_ns: int) -> None:
        """Remove the time until then from the timeline if the worker was in no task."""
        since_ns = self._away.get(worker)
        if since_ns is not None and until_ns > since_ns:
            self._step.active_ns -= until_ns - since_ns
            self._away[worker] = until_ns

    def settle(self, until_ns: int, running: Collection[RunningTask], oldest_ns: int | None = None) -> None:
        """Compute occupancy up to `until_ns`: all events before that time have come.

        `running` are the tasks that run, and `oldest_ns` is when the task was submitted that is queued longest.
        """
        sweep = self._sweep
        if until_ns <= sweep.swept_ns:
            return
        for worker, ended in list(self._ends.items()):
            if ended > until_ns:
                continue
            if self._pulls and oldest_ns is not None and oldest_ns < ended:
                self._away.setdefault(worker, ended)
                continue
            # No task has followed: the worker went idle.
            self._pending[WENT_IDLE].append(ended)
            del self._ends[worker]
            self._away.pop(worker, None)
        sweep.away = len(self._away)
        step, width = self._step, until_ns - sweep.swept_ns
        step.width_ns += width
        step.queued_ns += sweep.queued * width
        step.active_ns += sweep.occupied * width
        # The limit may have changed.
        self.stretches.turn(sweep.saturated, sweep.swept_ns)
        if any(self._pending):  # most pools do nothing most of the time
            due = [_take_until(times, until_ns) for times in self._pending]
            self._integrate(due, until_ns)
            self.occupied_ns += self._with_tasks(due, until_ns)
            self._fill(due[WENT_IDLE], due[BEGAN])
            sweep.sweep(due)
            if sweep.alone:
                self._note_unhindered(sweep.alone, running)
                sweep.alone = []
        elif sweep.queued or sweep.occupied:
            self.occupied_ns += width
        sweep.swept_ns = until_ns
        self._ended = [ended for ended in self._ended if ended[0] > until_ns]
        self.stretches.advance(until_ns)
        self.fills.advance(until_ns)
        for worker in self._away:
            self._take_off(worker, until_ns)
        self._end_step(until_ns)

    def skip(
        self, since_ns: int, until_ns: int, queued: int, running: Mapping[int, RunningTask], done: Sequence[int]
    ) -> None:
        """Note that what happened from `since_ns` to `until_ns` is known by number only: `done` are how many tasks
        started and ended, and the sums of their waits and runs (ns). In the end so many tasks are queued, and these
        workers run.

        A stretch ends before that time, and another one may begin after it: what is not known is not judged.
        """
        self.settle(since_ns, running.values())
        sweep = self._sweep
        self.stretches.turn(False, sweep.swept_ns)
        self.stretches.finish()
        self.fills.finish()
        # Some events that happened later have already come.
        self._step.started += sum(len(self._pending[kind]) for kind in (WENT_ON, BEGAN))
        for times in self._pending:
            times.clear()
        self._ends.clear()
        self._away.clear()
        self._ended.clear()
        self._last_ends = {worker: at for worker, at in self._last_ends.items() if worker in running}
        self._alone &= {task.started_ns for task in running.values()}
        finished, wait_ns, run_ns = done
        step = self._step
        step.width_ns += max(0, until_ns - sweep.swept_ns)
        self.occupied_ns += max(0, until_ns - sweep.swept_ns) if finished else 0
        sweep.jump(until_ns, queued, len(running))
        # Little's law: arrivals per second, times how long each stayed.
        step.queued_ns += wait_ns
        step.active_ns += run_ns
        step.started += finished
        step.finished += finished
        self._end_step(sweep.swept_ns)

    def _fill(self, went_idle: Sequence[int], began: Sequence[int]) -> None:
        """Note when half of the workers are occupied, and when no longer. Times are in order."""
        sweep, fills = self._sweep, self.fills
        occupied, begin_ns, workers = sweep.occupied, sweep.swept_ns, half(sweep.max_workers)
        if sweep.max_workers < SEVERAL or occupied + len(began) < workers:
            fills.turn(False, begin_ns)
            return
        fills.turn(occupied >= workers, begin_ns)
        # At the same moment a worker goes idle before another one begins.
        for at, _, change in sorted([(at, 0, -1) for at in went_idle] + [(at, 1, 1) for at in began]):
            occupied += change
            if (occupied >= workers) is not (occupied - change >= workers):
                fills.turn(occupied >= workers, max(at, begin_ns))

    def _integrate(self, due: Sequence[Sequence[int]], until_ns: int) -> None:
        """Add changes to the sums of the queue and of the occupied workers, each from its time on."""
        begin_ns = self._sweep.swept_ns
        # A late event counts from the present time.
        after = [
            len(times) * until_ns
            - (sum(times) if not times or times[0] >= begin_ns else sum(map(max, times, repeat(begin_ns))))
            for times in due
        ]
        step = self._step
        left = after[WITHDRAWN] + after[WENT_ON] + after[BEGAN]
        step.queued_ns += after[ARRIVED] - left
        step.active_ns += after[BEGAN] - after[WENT_IDLE]
        step.started += len(due[WENT_ON]) + len(due[BEGAN])

    def _with_tasks(self, due: Sequence[Sequence[int]], until_ns: int) -> int:
        """Return how long any task was in the pool up to then. Call it before these changes, each sorted, are swept."""
        sweep = self._sweep
        since_ns, inside = sweep.swept_ns, sweep.queued + sweep.occupied
        arrived, leaving = due[ARRIVED], [*due[WITHDRAWN], *due[WENT_ON], *due[WENT_IDLE]]
        if inside > len(leaving):
            return until_ns - since_ns
        # At the same moment, a task comes before another one leaves.
        changes = sorted([at << 1 for at in arrived] + [at << 1 | 1 for at in leaving])
        occupied_ns = 0
        for change in changes:
            at = max(change >> 1, sweep.swept_ns)
            if inside > 0:
                occupied_ns += at - since_ns
            since_ns = at
            inside += -1 if change & 1 else 1
        return occupied_ns + (until_ns - since_ns if inside > 0 else 0)

    def _note_unhindered(self, starts: Sequence[int], running: Collection[RunningTask]) -> None:
        """Remember the run times of the tasks that started then, now or once they have ended."""
        lasting = {task.started_ns for task in running}
        known: dict[int, tuple[int, int]] = {}
        for _, functions, started, runs in self._ended:
            known.update(zip(started, zip(functions, runs, strict=True), strict=True))
        for at in starts:
            if at in known:
                self.unhindered.append(known[at])
            elif at in lasting:
                self._alone.add(at)

    def _end_step(self, at_ns: int) -> None:
        step = self._step
        step.at_ns = at_ns
        if self._steps and self._steps[-1].width_ns + step.width_ns <= self._merge_every * STEP_NS:
            self._steps[-1].merge(step)
        else:
            self._steps.append(step)
        if len(self._steps) > TIMELINE_POINTS:
            for left, right in zip(self._steps[::2], self._steps[1::2], strict=False):
                left.merge(right)
            self._steps = self._steps[::2]
            self._merge_every *= 2
        self._step = _Step(at_ns)

    def retire(self) -> None:
        """Keep only the timeline and the peaks: no more events will come."""
        self._pending = ([], [], [], [], [])
        self._ends, self._last_ends, self._alone, self._ended = {}, {}, set(), []
        self._away = {}
        self.unhindered = _NOTHING
        self.peaks = {}
        self.fills.finish()
        self.fills.closed.clear()

    def forget_timeline(self) -> None:
        """Drop the timeline too."""
        self._steps = []

    @property
    def kept_count(self) -> int:
        """Return how many numbers the timeline holds."""
        return 7 * len(self._steps)

    def timeline(self, origin_ns: int) -> tuple[TimelinePoint, ...]:
        """Return the pool over time, as offsets from `origin_ns`."""
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


def _take_until(times: list[int], until_ns: int) -> list[int]:
    """Remove and return the times up to `until_ns`, sorted."""
    times.sort()
    place = bisect_right(times, until_ns)
    taken = times[:place]
    del times[:place]
    return taken

"""How many workers were occupied, and how many tasks queued, at every moment: exact, not sampled.

From each worker's own order of tasks it is known whether a task was already waiting when the worker ended the one
before (a coupled start): between two such tasks the worker was never idle. So each coupled start merges with the end
before it, and sweeping the remaining events in order of time gives saturation, its stretches, peaks and timeline.

A worker that was woken or started for a task is not idle either, though where others compute under the GIL it takes
long until it is in the task. So a pool that wakes or starts one for each task while there is one (`hands_out`) is full
once more tasks are in it than it has workers.

Pure: times (ns) come in with the events. Not thread-safe: the judge's owner guards it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Collection, Sequence
from itertools import islice, repeat
from operator import lt

import msgspec

from poolscope.analysis.stretches import StretchTracker
from poolscope.model import TimelinePoint

#: Run times of unhindered tasks that are remembered.
UNHINDERED_TASKS = 1_000
TIMELINE_POINTS = 2_400
#: Width of a timeline point while there are few enough.
STEP_NS = 100_000_000

#: What changes the queue and the occupied workers, in the order in which it counts at the same nanosecond. Together
#: with its time (ns << _KIND_BITS) an event is one integer, which sorts fast: a task was submitted, a queued one ended
#: without a start, an occupied worker went on to the next task, a worker went idle, an idle worker began a task.
_ARRIVED, _WITHDRAWN, _WENT_ON, _WENT_IDLE, _BEGAN = range(5)
_KIND_BITS = 3
_KIND = (1 << _KIND_BITS) - 1


class RunningTask(msgspec.Struct, frozen=True, array_like=True):
    """A task that a worker is in."""

    function: int
    submitted_ns: int
    started_ns: int
    coupled: bool


class Crest(msgspec.Struct, frozen=True):
    """The highest queue of a stretch: its depth, when it was reached, and how many tasks had arrived for the stretch by
    then, those queued as it began included."""

    queued: int
    at_ns: int
    arrivals: int


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


class Occupancy:
    """Takes the events of a pool's tasks as they become known, and sweeps them in order of time as that goes on."""

    def __init__(self, max_workers: int, opened_ns: int, *, hands_out: bool = False) -> None:
        self.max_workers = max_workers
        self._hands_out = hands_out
        self.peak_active = self.peak_queue_depth = 0
        self.stretches = StretchTracker()
        #: Crest of each stretch that has not been judged for the last time, by its begin.
        self.crests: dict[int, Crest] = {}
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
        self._queued = self._occupied = 0
        self._stretch_arrivals = 0
        self._swept_ns = opened_ns
        self._steps: list[_Step] = []
        self._step = _Step(opened_ns)
        self._merge_every = 1

    @property
    def settled_ns(self) -> int:
        """Up to when it is worked out what was occupied."""
        return self._swept_ns

    def arrive(self, times: Sequence[int]) -> None:
        """Tasks were submitted."""
        self._pending[_ARRIVED].extend(times)

    def leave(self, at_ns: int) -> None:
        """A queued task ended without a start."""
        self._pending[_WITHDRAWN].append(at_ns)

    def start(self, worker: int, submitted: int, started: int) -> bool:
        """A worker begins a task; returns whether the start was coupled."""
        coupled = submitted < self._last_ends.get(worker, -1)
        ended = self._ends.pop(worker, None)
        if ended is not None and coupled:
            # From one task straight to the next the worker was never idle: it stays occupied.
            self._pending[_WENT_ON].append(started)
        else:
            self._pending[_BEGAN].append(started)
            if ended is not None:
                self._pending[_WENT_IDLE].append(ended)
        return coupled

    def work(
        self,
        worker: int,
        submitted: Sequence[int],
        started: Sequence[int],
        ended: Sequence[int],
        seen: RunningTask | None,
    ) -> list[bool]:
        """A worker did tasks one after the other, of which the first may have been seen running; returns which starts
        were coupled."""
        coupled = [seen.coupled if seen is not None else self.start(worker, submitted[0], started[0])]
        coupled += map(lt, islice(submitted, 1, None), ended)
        _, _, went_on, went_idle, began = self._pending
        if all(islice(coupled, 1, None)):
            went_on += islice(started, 1, None)
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
        """Run times of tasks that ended, at `latest_ns` the last."""
        self._ended.append((latest_ns, functions, started, runs))
        if self._alone:
            for function, at, run_ns in zip(functions, started, runs, strict=True):
                if at in self._alone:
                    self._alone.discard(at)
                    self.unhindered.append((function, run_ns))

    def note(self, wait_ns: int, finished: int) -> None:
        """For the timeline: a wait that was seen, and tasks that finished."""
        self._step.wait_ns = max(self._step.wait_ns, wait_ns)
        self._step.finished += finished

    def settle(self, until_ns: int, running: Collection[RunningTask]) -> None:
        """Every event stamped before `until_ns` has been told: works out what was occupied up to there.

        `running` are the tasks that run.
        """
        if until_ns <= self._swept_ns:
            return
        for worker, ended in list(self._ends.items()):
            if ended <= until_ns:  # nothing followed it by now: the worker went idle
                self._pending[_WENT_IDLE].append(ended)
                del self._ends[worker]
        step, width = self._step, until_ns - self._swept_ns
        step.width_ns += width
        step.queued_ns += self._queued * width
        step.active_ns += self._occupied * width
        # The limit may be another one than it was.
        self.stretches.turn(self._saturated, self._swept_ns)
        if any(self._pending):  # most pools do nothing most of the time
            due = [_take_until(times, until_ns) for times in self._pending]
            self._integrate(due, until_ns)
            events = [at << _KIND_BITS | kind for kind, times in enumerate(due) for at in times]
            events.sort()
            alone = self._sweep(events)
            if alone:
                self._note_unhindered(alone, running)
        self._swept_ns = until_ns
        self._ended = [ended for ended in self._ended if ended[0] > until_ns]
        self.stretches.advance(until_ns)
        self._end_step(until_ns)

    @property
    def _saturated(self) -> bool:
        """Whether tasks wait while no worker is idle. Before the first worker is in a task, a pool is being set up."""
        queued, occupied, limit = self._queued, self._occupied, self.max_workers
        return queued > 0 and (occupied >= limit or (self._hands_out and 0 < occupied > limit - queued))

    def _integrate(self, due: Sequence[Sequence[int]], until_ns: int) -> None:
        """Adds to the sums of the queue and of the occupied workers what changes, each change from its time on."""
        begin_ns = self._swept_ns
        # An event that came late counts from where we are.
        after = [
            len(times) * until_ns
            - (sum(times) if not times or times[0] >= begin_ns else sum(map(max, times, repeat(begin_ns))))
            for times in due
        ]
        step = self._step
        left = after[_WITHDRAWN] + after[_WENT_ON] + after[_BEGAN]
        step.queued_ns += after[_ARRIVED] - left
        step.active_ns += after[_BEGAN] - after[_WENT_IDLE]
        step.started += len(due[_WENT_ON]) + len(due[_BEGAN])

    def _sweep(self, events: list[int]) -> list[int]:
        """Goes through events in order of time; returns the starts while hardly any other worker was occupied. The
        judge's inner loop: what it needs is at hand in local names."""
        queued, occupied, limit, hands_out = self._queued, self._occupied, self.max_workers, self._hands_out
        few = max(1, limit / 4)
        peak_queued, peak_occupied = self.peak_queue_depth, self.peak_active
        saturated = self._saturated
        alone: list[int] = []
        highest, arrivals = self._highest(saturated), self._stretch_arrivals
        crest = None  # event, queue and arrivals
        for event in events:
            kind = event & _KIND
            if kind == _ARRIVED:
                queued += 1
                if queued > peak_queued:
                    peak_queued = queued
                if saturated:
                    arrivals += 1
            elif kind == _WENT_IDLE:
                occupied -= 1
            else:
                queued -= 1
                if kind == _BEGAN:
                    occupied += 1
                    if occupied > peak_occupied:
                        peak_occupied = occupied
                if occupied <= few and kind != _WITHDRAWN:
                    alone.append(event >> _KIND_BITS)
            # As in `_saturated`.
            full = queued > 0 and (occupied >= limit or (hands_out and 0 < occupied > limit - queued))
            if full is not saturated:
                if crest is not None:
                    self._set_crest(*crest)
                    crest = None
                saturated = not saturated
                self.stretches.turn(saturated, max(event >> _KIND_BITS, self._swept_ns))
                highest = self._highest(saturated)
                if saturated and kind == _ARRIVED:
                    arrivals += 1
            if saturated and queued > highest:
                # Some of it has a worker that is on its way.
                waiting = queued if occupied >= limit else queued + occupied - limit
                if waiting > highest:
                    # What waits as the last worker is taken has just come: before, an idle worker would have taken it.
                    if not highest:
                        arrivals = waiting
                    highest = waiting
                    crest = (event, waiting, arrivals)
        if crest is not None:
            self._set_crest(*crest)
        self._queued, self._occupied, self._stretch_arrivals = queued, occupied, arrivals
        self.peak_queue_depth, self.peak_active = peak_queued, peak_occupied
        return alone

    def _highest(self, saturated: bool) -> int:
        """The highest queue of the stretch so far; 0 if it begins, or if there is none."""
        begin_ns = self.stretches.begin_ns
        crest = self.crests.get(begin_ns) if saturated and begin_ns is not None else None
        return crest.queued if crest is not None else 0

    def _set_crest(self, event: int, queued: int, arrivals: int) -> None:
        begin_ns = self.stretches.begin_ns
        assert begin_ns is not None
        self.crests[begin_ns] = Crest(queued, max(event >> _KIND_BITS, self._swept_ns), arrivals)

    def _note_unhindered(self, starts: Sequence[int], running: Collection[RunningTask]) -> None:
        """Remembers how long the tasks ran that started then, or that they are to be."""
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


def _take_until(times: list[int], until_ns: int) -> list[int]:
    """Takes the times up to `until_ns` out of the list, in order."""
    times.sort()
    place = bisect_right(times, until_ns)
    taken = times[:place]
    del times[:place]
    return taken

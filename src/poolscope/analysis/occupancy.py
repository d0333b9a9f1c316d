"""How many workers were occupied, and how many tasks queued, at every moment: exact, not sampled.

From each worker's own order of tasks it is known whether a task was already waiting when the worker ended the one
before (a coupled start): between two such tasks the worker was never idle. So each coupled start merges with the end
before it, and sweeping the remaining events in order of time gives saturation, its stretches, peaks and timeline.

Pure: times (ns) come in with the events. Not thread-safe: the judge's owner guards it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Mapping, Sequence
from operator import itemgetter

import msgspec

from poolscope.analysis.stretches import StretchTracker
from poolscope.model import TimelinePoint

#: Run times of unhindered tasks that are remembered.
UNHINDERED_TASKS = 1_000
TIMELINE_POINTS = 2_400
#: Width of a timeline point while there are few enough.
STEP_NS = 100_000_000

#: When, change of the queue, change of the occupied workers, run time of the task that starts (None: none does; -1: not
#: known yet), worker.
_Event = tuple[int, int, int, int | None, int]


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

    def __init__(self, max_workers: int, opened_ns: int) -> None:
        self.max_workers = max_workers
        self.peak_active = self.peak_queue_depth = 0
        self.stretches = StretchTracker()
        #: Crest of each stretch that has not been judged for the last time, by its begin.
        self.crests: dict[int, Crest] = {}
        #: Run times (ns) of tasks that started while hardly any other worker was occupied, the latest ones.
        self.unhindered: deque[int] = deque(maxlen=UNHINDERED_TASKS)
        self._events: list[_Event] = []
        self._ends: dict[int, int] = {}  # worker -> end of its last task, not swept yet
        self._last_ends: dict[int, int] = {}  # worker -> end of its last task
        # (worker, started) of tasks that started unhindered and still run, and run times of tasks that ended before
        # their start was swept.
        self._alone: set[tuple[int, int]] = set()
        self._unswept_runs: dict[tuple[int, int], int] = {}
        self._queued = self._occupied = 0
        self._stretch_arrivals = 0
        self._swept_ns = opened_ns
        self._steps: list[_Step] = []
        self._step = _Step(opened_ns)
        self._merge_every = 1

    def arrive(self, times: Sequence[int]) -> None:
        """Tasks were submitted."""
        self._events += [(at, 1, 0, None, 0) for at in times]

    def leave(self, at_ns: int) -> None:
        """A queued task ended without a start."""
        self._events.append((at_ns, -1, 0, None, 0))

    def start(self, worker: int, submitted: int, started: int, run_ns: int) -> bool:
        """A worker begins a task; returns whether the start was coupled."""
        coupled = submitted < self._last_ends.get(worker, -1)
        ended = self._ends.pop(worker, None)
        if ended is not None and not coupled:
            self._events.append((ended, 0, -1, None, 0))
        # From one task straight to the next the worker was never idle: it stays occupied.
        self._events.append((started, -1, 0 if ended is not None and coupled else 1, run_ns, worker))
        return coupled

    def end(self, worker: int, ended: int) -> None:
        """A worker ended its task."""
        self._ends[worker] = self._last_ends[worker] = ended

    def learn_run(self, worker: int, started: int, run_ns: int) -> None:
        """The run time of a task that was seen running before."""
        if (worker, started) in self._alone:
            self._alone.discard((worker, started))
            self.unhindered.append(run_ns)
        elif started > self._swept_ns:
            self._unswept_runs[worker, started] = run_ns

    def note(self, wait_ns: int, finished: int) -> None:
        """For the timeline: a wait that was seen, and tasks that finished."""
        self._step.wait_ns = max(self._step.wait_ns, wait_ns)
        self._step.finished += finished

    def settle(self, until_ns: int, running: Mapping[int, int]) -> None:
        """Every event stamped before `until_ns` has been told: works out what was occupied up to there.

        `running` has the starts of the tasks that run, by worker.
        """
        if until_ns <= self._swept_ns:
            return
        for worker, ended in list(self._ends.items()):
            if ended <= until_ns:  # nothing followed it by now: the worker went idle
                self._events.append((ended, 0, -1, None, 0))
                del self._ends[worker]
        self._events.sort(key=itemgetter(0))
        place = bisect_right(self._events, until_ns, key=itemgetter(0))
        self._sweep(self._events[:place], running)
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

    def _sweep(self, events: list[_Event], running: Mapping[int, int]) -> None:
        """Goes through events in order of time. The judge's inner loop: what it needs is at hand in local names."""
        queued, occupied, limit = self._queued, self._occupied, self.max_workers
        few = max(1, limit / 4)
        peak_queued, peak_occupied = self.peak_queue_depth, self.peak_active
        saturated = queued > 0 and occupied >= limit
        for at_ns, queue_change, worker_change, run_ns, worker in events:
            self._queued, self._occupied = queued, occupied
            self._pass(at_ns)
            queued += queue_change
            occupied += worker_change
            if queued > peak_queued:
                peak_queued = queued
            if occupied > peak_occupied:
                peak_occupied = occupied
            if run_ns is not None:
                self._step.started += 1
                if run_ns == -1 or occupied <= few:
                    self._note_start(worker, at_ns, run_ns, occupied <= few, running)
            if (queued > 0 and occupied >= limit) is not saturated:
                saturated = not saturated
                # An event that came late counts from where we are.
                self.stretches.turn(saturated, self._swept_ns)
            if saturated:
                self._rise(queued, queue_change > 0)
        self._queued, self._occupied = queued, occupied
        self.peak_queue_depth, self.peak_active = peak_queued, peak_occupied

    def _note_start(self, worker: int, at_ns: int, run_ns: int, alone: bool, running: Mapping[int, int]) -> None:
        """A task started unhindered, or one that was running when it was first seen."""
        if run_ns == -1:
            run_ns = self._unswept_runs.pop((worker, at_ns), -1)
        if not alone:
            return
        if run_ns >= 0:
            self.unhindered.append(run_ns)
        elif running.get(worker) == at_ns:
            self._alone.add((worker, at_ns))

    def _rise(self, queued: int, arrived: bool) -> None:
        """Follows the crest of the stretch."""
        begin_ns = self.stretches.begin_ns
        assert begin_ns is not None
        crest = self.crests.get(begin_ns)
        # What is queued as the last worker is taken has just come: before, an idle worker would have taken it.
        self._stretch_arrivals = queued if crest is None else self._stretch_arrivals + arrived
        if crest is None or queued > crest.queued:
            self.crests[begin_ns] = Crest(queued, self._swept_ns, self._stretch_arrivals)

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

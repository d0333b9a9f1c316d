"""Goes through what changed in a pool in order of time: when it was saturated, how deep its queue was, which tasks
started alone.

A pool is saturated where its queue has a depth that depends on its occupied workers only (`_least`). So while no worker
begins or goes idle, it turns where the queue crosses that depth. How many tasks came and left in a block of time bounds
the queue in it: only blocks in which it may have crossed that depth are walked event by event, and only in those where
it may have been deepest is its top looked for.

Pure: times are ns. Not thread-safe: its owner guards it.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence

import msgspec

from poolscope.aggregation.stretches import StretchTracker

#: What changes the queue and the occupied workers, in the order in which it counts at the same nanosecond. Together
#: with its time (ns << KIND_BITS) an event is one integer, which sorts fast: a task was submitted, a queued one ended
#: without a start, an occupied worker went on to the next task, a worker went idle, an idle worker began a task.
ARRIVED, WITHDRAWN, WENT_ON, WENT_IDLE, BEGAN = range(5)
KIND_BITS = 3
KIND = (1 << KIND_BITS) - 1

#: The most arrivals, and departures, of a block: to bound it costs as much as to walk a few of them.
BLOCK = 64
#: Fewer events than this between two workers that begin or go idle are walked.
RUSH = 32
#: No queue is as deep.
_NEVER = 1 << 62


class Peak(msgspec.Struct, frozen=True):
    """The highest queue of a stretch: its depth, when it was reached, and how many tasks had arrived for the stretch by
    then, those queued as it began included."""

    queued: int
    at_ns: int
    arrivals: int


class _Rise(msgspec.Struct, frozen=True, gc=False):
    """A block of a saturated pool in which the queue may have been highest: its events, as places in the lists of those
    which tasks arrived and left; the queue before it, and the arrivals of the stretch."""

    arrived: int
    arrived_end: int
    left: int
    left_end: int
    queued: int
    arrivals: int


class Sweep:
    """A pool between two events, which `sweep` brings up to the last of those that it is given."""

    def __init__(self, max_workers: int, begin_ns: int, *, hands_out: bool) -> None:
        self.max_workers = max_workers
        self.swept_ns = begin_ns
        self.queued = self.occupied = 0
        #: Of the occupied workers, those that are in no task as far as is known by now.
        self.away = 0
        self.peak_queued = self.peak_occupied = 0
        self.stretches = StretchTracker()
        #: By the begin of their stretches.
        self.peaks: dict[int, Peak] = {}
        #: Starts while hardly any other worker was occupied, since they were last taken.
        self.alone: list[int] = []
        self._hands_out = hands_out
        self._arrivals = 0  # of the stretch so far
        # While a sweep goes on: whether the pool is saturated, and the highest queue of the stretch so far.
        self._saturated = False
        self._highest = 0

    @property
    def saturated(self) -> bool:
        """Whether tasks wait while no worker is idle. Before the first worker is in a task, a pool is being set up."""
        return self.queued >= self._least(self.occupied)

    def _least(self, occupied: int) -> int:
        """Return the depth of the queue from which on the pool is saturated. One that hands out tasks has a worker on
        its way for each of them, as long as there is one that is idle."""
        if occupied >= self.max_workers:
            return 1
        return self.max_workers - occupied + 1 if self._hands_out and occupied > 0 else _NEVER

    def jump(self, at_ns: int, queued: int, occupied: int) -> None:
        """Set the state at that time, regardless of earlier events."""
        self.swept_ns = max(self.swept_ns, at_ns)
        self.queued, self.occupied = queued, occupied
        self.peak_queued, self.peak_occupied = max(self.peak_queued, queued), max(self.peak_occupied, occupied)

    def sweep(self, due: Sequence[Sequence[int]]) -> None:
        """Take in the sorted times of events, by kind."""
        self._saturated = self.saturated
        self._highest = self._known_peak()
        arrived, withdrawn, went_on, went_idle, began = due
        if withdrawn or len(arrived) + len(went_on) < RUSH * (1 + len(went_idle) + len(began)):
            self._walk(_events(due))
            return
        place = left = 0
        for event in _events(((), (), (), went_idle, began)):
            at_ns = event >> KIND_BITS
            place_end, left_end = bisect_right(arrived, at_ns, place), bisect_right(went_on, at_ns, left)
            self._rush(arrived, place, place_end, went_on, left, left_end)
            self._walk((event,))
            place, left = place_end, left_end
        self._rush(arrived, place, len(arrived), went_on, left, len(went_on))

    def _walk(self, events: Sequence[int]) -> None:
        """Go through events one by one: the inner loop, with what it needs in local names."""
        queued, occupied, limit, hands_out = self.queued, self.occupied, self.max_workers, self._hands_out
        few = max(1, limit / 4) + self.away
        peak_queued, peak_occupied, alone = self.peak_queued, self.peak_occupied, self.alone
        saturated, highest, arrivals = self._saturated, self._highest, self._arrivals
        least = self._least(occupied)
        peak = None  # event, queue and arrivals
        for event in events:
            kind = event & KIND
            if kind == ARRIVED:
                queued += 1
                if queued > peak_queued:
                    peak_queued = queued
                if saturated:
                    arrivals += 1
                elif queued < least:
                    continue
            elif kind == WENT_IDLE:
                occupied -= 1
                # As `_least` has it.
                least = 1 if occupied >= limit else limit - occupied + 1 if hands_out and occupied > 0 else _NEVER
                if not saturated:
                    continue
            else:
                queued -= 1
                if kind == BEGAN:
                    occupied += 1
                    if occupied > peak_occupied:
                        peak_occupied = occupied
                    least = 1 if occupied >= limit else limit - occupied + 1 if hands_out and occupied > 0 else _NEVER
                if occupied <= few and kind != WITHDRAWN:
                    alone.append(event >> KIND_BITS)
                if not saturated and queued < least:
                    continue
            if (queued >= least) is not saturated:
                if peak is not None:
                    self._set_peak(*peak)
                    peak = None
                saturated = self._saturated = not saturated
                self.stretches.turn(saturated, max(event >> KIND_BITS, self.swept_ns))
                highest = self._known_peak()
                if saturated and kind == ARRIVED:
                    arrivals += 1
            if saturated and queued > highest:
                # Some of it has a worker that is on its way.
                waiting = queued if occupied >= limit else queued + occupied - limit
                if waiting > highest:
                    # What waits as the last worker is taken has just come: before, an idle worker would have taken it.
                    if not highest:
                        arrivals = waiting
                    highest = waiting
                    peak = (event >> KIND_BITS, waiting, arrivals)
        if peak is not None:
            self._set_peak(*peak)
        self.queued, self.occupied, self._highest, self._arrivals = queued, occupied, highest, arrivals
        self.peak_queued, self.peak_occupied = peak_queued, peak_occupied

    def _rush(
        self, arrived: Sequence[int], place: int, place_end: int, went_on: Sequence[int], left: int, left_end: int
    ) -> None:
        """Go through these arrivals and departures (parts of lists), while the same workers are occupied."""
        least, on_their_way = self._least(self.occupied), max(0, self.max_workers - self.occupied)
        alone = self.occupied <= max(1, self.max_workers / 4) + self.away
        rises: list[_Rise] = []
        while place < place_end or left < left_end:
            # As far as the nearer end of two blocks; of one moment, all that arrive before any that leaves.
            next_place, next_left = min(place + BLOCK, place_end), min(left + BLOCK, left_end)
            if place == next_place or (left < next_left and went_on[next_left - 1] < arrived[next_place - 1]):
                next_place = bisect_right(arrived, went_on[next_left - 1], place, next_place)
            else:
                next_place = bisect_right(arrived, arrived[next_place - 1], next_place, place_end)
                next_left = bisect_right(went_on, arrived[next_place - 1], left, next_left)
            lowest, deepest = self.queued - (next_left - left), self.queued + (next_place - place)
            known = rises or self.queued - on_their_way <= self._highest
            if self._saturated and lowest >= least and known:
                if deepest > min(self.peak_queued, self._highest + on_their_way):
                    rises.append(_Rise(place, next_place, left, next_left, self.queued, self._arrivals))
                self._arrivals += next_place - place
            elif self._saturated or deepest >= least or deepest > self.peak_queued:
                self._rise(rises, arrived, went_on, on_their_way)
                rises = []
                self._walk(_events((arrived[place:next_place], (), went_on[left:next_left], (), ())))
                place, left = next_place, next_left
                continue
            if alone:
                self.alone += went_on[left:next_left]
            self.queued += next_place - place - (next_left - left)
            place, left = next_place, next_left
        self._rise(rises, arrived, went_on, on_their_way)

    def _rise(self, rises: Sequence[_Rise], arrived: Sequence[int], went_on: Sequence[int], on_their_way: int) -> None:
        """Look for the highest queue in blocks of a stretch, and when it was reached."""
        if not rises:
            return
        # It was this high at the end of one of them.
        reached = max(rise.queued + rise.arrived_end - rise.arrived - (rise.left_end - rise.left) for rise in rises)
        top, when = min(self.peak_queued, self._highest + on_their_way), None
        for rise in rises:
            if rise.queued + rise.arrived_end - rise.arrived <= max(top, reached - 1):
                continue
            left = rise.left
            for place in range(rise.arrived, rise.arrived_end):
                # At one moment tasks come before others leave.
                left = bisect_left(went_on, arrived[place], left, rise.left_end)
                queued = rise.queued + (place + 1 - rise.arrived) - (left - rise.left)
                if queued > top:
                    top, when = queued, (arrived[place], rise.arrivals + place + 1 - rise.arrived)
        if when is None:
            return
        self.peak_queued = max(self.peak_queued, top)
        if top - on_their_way > self._highest:
            self._highest = top - on_their_way
            self._set_peak(when[0], self._highest, when[1])

    def _known_peak(self) -> int:
        """Return the highest queue of the stretch so far; 0 at its begin, or outside of one."""
        begin_ns = self.stretches.begin_ns
        peak = self.peaks.get(begin_ns) if self._saturated and begin_ns is not None else None
        return peak.queued if peak is not None else 0

    def _set_peak(self, at_ns: int, queued: int, arrivals: int) -> None:
        begin_ns = self.stretches.begin_ns
        assert begin_ns is not None
        self.peaks[begin_ns] = Peak(queued, max(at_ns, self.swept_ns), arrivals)


def _events(due: Sequence[Sequence[int]]) -> list[int]:
    """Return the times by kind as sorted events."""
    events = [at << KIND_BITS | kind for kind, times in enumerate(due) for at in times]
    events.sort()
    return events

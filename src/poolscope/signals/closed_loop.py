"""A closed loop, replayed with its population: so many submitters, each of which waits for a result before it goes on.

On another size their tasks come at other times, so what is replayed is not when they came but what they answered. Let N
be the most tasks that were in the pool at a time. Then before every arrival but the first N as many tasks had ended as
come before it less N: the k-th arrival answers the (k - N)-th end, after a time to think that was recorded. On another
size the ends come at other times, and the answers with them.

N is the number of submitters only if now and then none of them thinks. Where hardly any of them thinks at a time the
error is small; where more do, who they are and how many is not known, and there is no replay: nor where their number
grows, nor where the tasks of one function keep to a number of their own beside those of another.

Pure. Times are nanoseconds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from heapq import heapify, heappop, heappush
from itertools import accumulate, pairwise

import msgspec

from poolscope.model import SizingPoint

#: Of the population, or in tasks: so many think at a time, in the mean.
THINKING_SHARE = 0.1
MOST_THINKING = 10
#: Fewer tasks than this for each of the population say little about how long it thinks.
ROUNDS_NEEDED = 3
#: So many of the functions with most tasks may be what keeps to a number of its own, or what comes beside that.
FUNCTIONS = 5
#: Of the time, in which the number of tasks in the pool is steady: the middle of it.
STEADY_SHARE = 0.9


class Visit(msgspec.Struct, frozen=True, array_like=True):
    """A task in a pool: of which function, when it came and ended (one that has not: beyond all times), and its run."""

    function: int
    submitted_ns: int
    finished_ns: int
    run_ns: int


class ClosedLoop(msgspec.Struct, frozen=True):
    """So many submitters, when the first task of each came, how long it took each later one to come after the end that
    it answers, and the runs of all in order of arrival."""

    population: int
    first_ns: list[int]
    thinks_ns: list[int]
    runs_ns: list[int]

    def point(self, workers: int) -> SizingPoint:
        """Return what this many workers would have done; percentiles by nearest rank."""
        waits, makespan = self._replay(workers)
        waits.sort()
        p50, p95 = (waits[(len(waits) - 1) * percent // 100] / 1e9 for percent in (50, 95))
        return SizingPoint(workers, p50, p95, makespan / 1e9)

    def _replay(self, workers: int) -> tuple[list[int], int]:
        """Return the wait of each task, and the time from the first arrival to the last end."""
        coming, thinks = list(self.first_ns), iter(self.thinks_ns)
        last = begin = self.first_ns[0]
        free, ends, waits = [begin] * workers, list[int](), list[int]()
        heapify(coming)
        for run in self.runs_ns:
            # What ends before the next arrival may be answered sooner than that.
            while ends and (not coming or ends[0] <= coming[0]):
                end = heappop(ends)
                if (think := next(thinks, None)) is not None:
                    heappush(coming, end + think)
            at = heappop(coming)
            start = max(at, heappop(free))
            waits.append(start - at)
            last = max(last, start + run)
            heappush(free, start + run)
            heappush(ends, start + run)
        return waits, last - begin


def closed_loop(visits: Iterable[Visit]) -> ClosedLoop | None:
    """Return the loop that the tasks of a stretch were, those included that were there as it began or still are; None
    if they are not known to be one that can be replayed."""
    tasks = sorted(visits, key=lambda visit: visit.submitted_ns)
    if not tasks or _mixed(tasks):
        return None
    levels = _levels(tasks)
    population = max(level for _, level in levels)
    lasted = sum(length for length, _ in levels)
    thinking = population - sum(length * level for length, level in levels) / max(1, lasted)
    if thinking > min(MOST_THINKING, max(1.0, THINKING_SHARE * population)):
        return None
    if len(tasks) < ROUNDS_NEEDED * population:
        return None
    ends = sorted(visit.finished_ns for visit in tasks)
    arrivals = [visit.submitted_ns for visit in tasks]
    thinks = [at - end for at, end in zip(arrivals[population:], ends, strict=False)]
    return ClosedLoop(population, arrivals[:population], thinks, [visit.run_ns for visit in tasks])


def _levels(tasks: Sequence[Visit]) -> list[tuple[int, int]]:
    """Return how many tasks were in the pool for how long, from the first to the last arrival."""
    # What ends as another comes has made room for it.
    changes = sorted(change for task in tasks for change in ((task.submitted_ns, 1), (task.finished_ns, -1)))
    until = max(task.submitted_ns for task in tasks)
    changes = [change for change in changes if change[0] <= until]
    counts = accumulate(step for _, step in changes)
    lengths = (later - at for (at, _), (later, _) in pairwise([*changes, (until, 0)]))
    return list(zip(lengths, counts, strict=True))


def _mixed(tasks: Sequence[Visit]) -> bool:
    """Whether the tasks without those of some function keep to a number better than all do: those come on their own."""
    counts = Counter(task.function for task in tasks)
    if len(counts) == 1:
        return False
    whole = _width(_levels(tasks))
    without = ([task for task in tasks if task.function != each] for each, _ in counts.most_common(FUNCTIONS))
    return any(_width(_levels(rest)) < whole for rest in without)


def _width(levels: Sequence[tuple[int, int]]) -> int:
    """Return between which numbers of tasks the pool is most of the time."""
    ordered = sorted((level, length) for length, level in levels)
    passed = list(accumulate(length for _, length in ordered))
    edge = (1 - STEADY_SHARE) / 2 * passed[-1]
    low = next(level for (level, _), so_far in zip(ordered, passed, strict=True) if so_far >= edge)
    high = next(level for (level, _), so_far in zip(ordered, passed, strict=True) if so_far >= passed[-1] - edge)
    return high - low

"""Whether arrivals answer completions: a closed loop, whose record must not be replayed on another size.

In an open load tasks come whatever the pool does. In a closed one a submitter waits for results before it submits
more: on a larger pool it would have submitted sooner, so the recorded arrivals say nothing about that pool. Two facts
tell a closed loop, and neither needs to know who submitted:

1. A fixed population. N clients with at most one task each keep the tasks in the pool (submitted, not finished) at N
   less the few that are about to submit. Independent arrivals and completions make it a random walk, which over m
   arrivals strays by sqrt(m) and more where either is as random as a Poisson stream: its middle nine tenths are
   narrower than 0.3 sqrt(m) less than once in ten thousand times (Brownian motion, simulated). Where b come at a time,
   as from clients in step, each time is a step of b, and for sqrt(m) stands the root of the sum of all b^2 (a compound
   Poisson stream). A walk that stays within a width w becomes less likely all the time: its nats grow as the variance
   over w^2 (Brownian motion between two walls), and for steps of b as that over (w + b)^2 at the least (simulated).
2. Rounds. A submitter of batches that waits for each of them submits more than the pool can run, lets the pool empty,
   and goes on at once, again and again.

Arrivals may also be those of another pool's workers. While that pool is full its tasks start as others end, so what
they submit comes as fast as that pool works, and would come faster on a larger one. That shows in arrivals that keep
close to such starts: the distance of an independent arrival to the nearest one is that of a random moment.

Pure. Times are nanoseconds.
"""

from __future__ import annotations

import math
from bisect import bisect
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import accumulate, pairwise
from statistics import fmean

import msgspec

#: Fewer arrivals than this, or fewer than there are tasks in the pool, say nothing about its population.
ARRIVALS_NEEDED = 20
#: Of the population: by how much (its 5th to 95th percentile) it may vary, and by how much of the root of the sum of
#: squares: 0.3, less the part of it that comes of arrivals that are together by chance.
POPULATION_SHARE = 0.4
WALK_SHARE = 0.27
#: Arrivals come together that are nearer to each other than this part of their mean distance.
TOGETHER_SHARE = 0.1
#: What a fixed population is evidence of, at the least: random arrivals look like one once in ten thousand times.
POPULATION_NATS = math.log(10_000)
#: The filling of the pool may take this many completions for each arrival after it. Where a load outgrows its pool
#: steadily, half of all come before the population's median is reached.
FILLING_SHARE = 0.5
#: Rounds: at least so many, with this part of the tasks, each submitted within this part of the time of the last one.
ROUNDS_NEEDED = 3
ROUNDS_SHARE = 0.8
ROUND_GAP_SHARE = 0.05

#: Of another pool: so many of its starts, this part of which had to wait for another task to end, must have arrivals
#: near them, in the mean nearer than all but this part of all moments.
STARTS_NEEDED = 20
COUPLED_SHARE = 0.8
NEAR_SHARE = 0.1


class Population(msgspec.Struct, frozen=True):
    """So many tasks the submitters keep in a pool, and how unlikely it is that random arrivals would, in nats."""

    tasks: int
    nats: float = POPULATION_NATS


#: When a task was submitted and when it finished; an end after all others for one that has not.
Span = tuple[int, int]


class _Level(msgspec.Struct, frozen=True, gc=False):
    """So many tasks were in the pool from `begin_ns` to `end_ns`, after one had come (`arrived`) or finished."""

    begin_ns: int
    end_ns: int
    tasks: int
    arrived: bool


def closed_population(spans: Iterable[Span], workers: int, begin_ns: int, end_ns: int) -> Population | None:
    """The tasks that the submitters keep in a pool of this many workers, if they wait for results; else None.

    `spans` are all tasks that are known; the pool was saturated from `begin_ns` to `end_ns`.
    """
    levels = _levels(spans, end_ns)
    fixed = _fixed_population([level for level in levels if level.begin_ns >= begin_ns], workers)
    return _rounds(levels, workers) if fixed is None else fixed


def _levels(spans: Iterable[Span], until_ns: int) -> list[_Level]:
    """The population over time, up to `until_ns`."""
    # Arrivals are odd: at one moment they come after what finishes.
    changes = [change for submitted, finished in spans for change in (2 * submitted + 1, 2 * finished)]
    changes = [change for change in sorted(changes) if change < 2 * until_ns]
    levels: list[_Level] = []
    tasks = 0
    for change, following in pairwise([*changes, 2 * until_ns]):
        tasks += 1 if change & 1 else -1
        levels.append(_Level(change >> 1, following >> 1, tasks, bool(change & 1)))
    return levels


def _fixed_population(levels: list[_Level], workers: int) -> Population | None:
    """The population of a stretch, if it is fixed."""
    while levels and not levels[-1].arrived:
        levels.pop()  # after the last arrival the pool only empties
    if not levels:
        return None
    (middle,) = _percentiles(levels, (0.5,))
    filled = next(index for index, level in enumerate(levels) if level.tasks >= middle)
    steady = levels[filled:]
    low, population = _percentiles(steady, (0.05, 0.95))
    arrivals = [level.begin_ns for level in steady if level.arrived]
    finishes = sum(not level.arrived for level in levels[:filled])
    enough = len(arrivals) >= max(ARRIVALS_NEEDED, population) and finishes <= FILLING_SHARE * len(arrivals)
    if not enough or population <= workers:
        return None
    squares = _squares(arrivals)
    width, step, walk = population - low, squares / len(arrivals), WALK_SHARE * math.sqrt(squares)
    if width > max(1.0, min(POPULATION_SHARE * population, walk - (step - 1))):
        return None
    return Population(population, POPULATION_NATS * max(1.0, (walk / (width + step)) ** 2))


def _squares(arrivals: Sequence[int]) -> int:
    """How many arrivals come together each time: the sum of squares."""
    near = TOGETHER_SHARE * (arrivals[-1] - arrivals[0]) / len(arrivals)
    total, together = 0, 1
    for earlier, later in pairwise(arrivals):
        if later - earlier <= near:
            together += 1
        else:
            total, together = total + together**2, 1
    return total + together**2


def _percentiles(levels: list[_Level], shares: Sequence[float]) -> list[int]:
    """The populations that were not exceeded for these shares (ascending) of the time."""
    lasted: Counter[int] = Counter()
    for level in levels:
        lasted[level.tasks] += level.end_ns - level.begin_ns
    found: list[int] = []
    passed, whole = 0, lasted.total()
    for tasks in sorted(lasted):
        passed += lasted[tasks]
        while len(found) < len(shares) and passed >= shares[len(found)] * whole:
            found.append(tasks)
    return found


def _rounds(levels: list[_Level], workers: int) -> Population | None:
    """The size of the largest of the rounds, if nearly all tasks came in rounds."""
    total = answered = rounds = largest = 0
    begin_ns = last_arrival_ns = arrived = 0
    last_end_ns: int | None = None
    last_length_ns = 0
    for level in levels:
        if level.arrived:
            if not arrived:
                begin_ns = level.begin_ns
            last_arrival_ns = level.begin_ns
            arrived += 1
        if level.tasks:
            continue
        length_ns = level.begin_ns - begin_ns
        at_once = last_end_ns is None or begin_ns - last_end_ns <= ROUND_GAP_SHARE * last_length_ns
        total += arrived
        if at_once and arrived > workers and last_arrival_ns - begin_ns <= length_ns / 2:
            rounds += 1
            answered += arrived
            largest = max(largest, arrived)
        last_end_ns, last_length_ns, arrived = level.begin_ns, length_ns, 0
    return Population(largest) if rounds >= ROUNDS_NEEDED and answered >= ROUNDS_SHARE * total else None


def follow(arrivals: Iterable[int], starts: Iterable[tuple[int, bool]]) -> bool:
    """Whether these arrivals come from the tasks of another pool that was full: (when, coupled) are its starts then."""
    starts = list(starts)
    coupled_starts = [at for at, coupled in starts if coupled]
    moments = sorted(set(coupled_starts))
    if len(moments) < STARTS_NEEDED or len(coupled_starts) < COUPLED_SHARE * len(starts):
        return False
    gaps = sorted(later - earlier for earlier, later in pairwise(moments))
    sums = [0, *accumulate(gaps)]

    def nearer(distance: int) -> float:
        """Part of all moments that are as near to a start: of each gap, so much at either end of it."""
        shorter = bisect(gaps, 2 * distance)
        return (sums[shorter] + 2 * distance * (len(gaps) - shorter)) / sums[-1]

    by_start: dict[int, list[float]] = {}
    for at in arrivals:
        place = bisect(moments, at)
        if 0 < place < len(moments):
            nearest, after = moments[place - 1], moments[place]
            if after - at < at - nearest:
                nearest = after
            by_start.setdefault(nearest, []).append(nearer(abs(at - nearest)))
    return len(by_start) >= STARTS_NEEDED and fmean(map(fmean, by_start.values())) <= NEAR_SHARE

"""Whether arrivals answer completions: a closed loop, whose record must not be replayed on another size.

In an open load tasks come whatever the pool does. In a closed one a submitter waits for results before it submits
more: on a larger pool it would have submitted sooner, so the recorded arrivals say nothing about that pool. Three facts
show a closed loop; none of them needs to know what submitted a task:

1. A fixed population. N clients with at most one task each keep the tasks in the pool (submitted, not finished) at N
   less the few that are about to submit. Independent arrivals and completions make it a random walk, which over m
   arrivals strays by sqrt(m) and more where either is as random as a Poisson stream: its middle nine tenths are
   narrower than 0.3 sqrt(m) less than once in ten thousand times (Brownian motion, simulated). Where b come at a time,
   as from clients in step, each time is a step of b, and for sqrt(m) stands the root of the sum of all b^2 (a compound
   Poisson stream). A walk that stays within a width w becomes less likely all the time: its nats grow as the variance
   over w^2 (Brownian motion between two walls), and for steps of b as that over (w + b)^2 at the least (simulated).
   Where more and more clients come, that holds of what is left once the growth is taken off, in parts of the record,
   if the growth is small beside the arrivals, and these do not come by a clock, which would stray as little.
2. Answers. A client that waits for a result and does not think submits just after a task of its function ended: nearer
   to that than a random moment is.
3. Rounds. A submitter of batches that waits for each of them submits more than the pool can run, lets the pool empty,
   and goes on at once, again and again.

Arrivals may also be those of another pool's workers. While that pool is full its tasks start as others end, so what
they submit comes as fast as that pool works, and would come faster on a larger one. Such arrivals keep close to those
starts: the distance of an independent arrival to the nearest one is that of a random moment. A clock that the runs
divide keeps close to the starts as well, as they begin at its beats; but it strays no more from its own beat than from
them, while what the workers submit is late whenever they are.

Pure. Times are nanoseconds.
"""

from __future__ import annotations

import math
from bisect import bisect
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate, pairwise
from statistics import fmean, linear_regression, pvariance

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

#: A growing population: over so many parts of the record, the straying that is left is no more than this part of the
#: root of the sum of squares in the mean (3 in 10,000 walks have less than 0.36), times how irregular the arrivals are;
#: and the population grows by no more than this part of the arrivals.
PARTS = 4
DETRENDED_SHARE = 0.3
GROWN_SHARE = 0.2
#: Answers: this part of the arrivals of a function come as near after an end of one of its tasks as this part of all
#: moments are; and a pool is closed if functions of which that holds have this part of its workers' time.
ANSWERS_SHARE = 0.8
ANSWERED_SHARE = 0.5
#: Answers among others: this part of the arrivals, and as many standard deviations more than chance has near an end.
PART_SHARE = 0.25
PART_DEVIATIONS = 6.0

#: Of another pool: so many of its starts, this part of which had to wait for another task to end, must have arrivals
#: near them, in the mean nearer than all but this part of all moments.
STARTS_NEEDED = 20
COUPLED_SHARE = 0.8
NEAR_SHARE = 0.1
#: They are no clock's, if there are so many beats, and their squared distances to the starts are no more than this part
#: of those to its beats.
BEATS_NEEDED = 10
CLOCK_SHARE = 0.5


class Population(msgspec.Struct, frozen=True):
    """How many tasks the submitters keep in a pool, and how unlikely random arrivals would do so (nats)."""

    tasks: int
    nats: float = POPULATION_NATS


#: When a task was submitted and when it finished; an end after all others for one that has not.
Span = tuple[int, int]


class _Level(msgspec.Struct, frozen=True, gc=False):
    """The number of tasks in the pool from `begin_ns` to `end_ns`, after one had come (`arrived`) or finished."""

    begin_ns: int
    end_ns: int
    tasks: int
    arrived: bool


def closed_population(spans: Iterable[Span], workers: int, begin_ns: int, end_ns: int) -> Population | None:
    """Return the tasks that the submitters keep in a pool of this many workers, if they wait for results; else None.

    `spans` are all tasks that are known; the pool was saturated from `begin_ns` to `end_ns`.
    """
    levels = _levels(spans, end_ns)
    fixed = _fixed_population([level for level in levels if level.begin_ns >= begin_ns], workers)
    return _rounds(levels, workers) if fixed is None else fixed


def _levels(spans: Iterable[Span], until_ns: int) -> list[_Level]:
    """Return the population over time, up to `until_ns`."""
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
    """Return the population of a stretch, if it is fixed."""
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
    """Return the populations that were not exceeded for these shares (ascending) of the time."""
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
    """Return the size of the largest of the rounds, if nearly all tasks came in rounds."""
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


def closed_by_growth(spans: Iterable[Span], workers: int, begin_ns: int, end_ns: int) -> Population | None:
    """Return the tasks that more and more clients keep in a pool in the end; None if it is no such load.

    It keeps a number of workers from being suggested: better no number than a wrong one. For the arguments see
    `closed_population`.
    """
    levels = [level for level in _levels(spans, end_ns) if level.begin_ns >= begin_ns]
    arrived = [level for level in levels if level.arrived]
    count = len(arrived) // PARTS
    if count < ARRIVALS_NEEDED:
        return None
    grown = arrived[-1].tasks - arrived[0].tasks
    if arrived[-1].tasks <= workers or not 0 <= grown <= GROWN_SHARE * len(arrived):
        return None
    strayed = allowed = 0.0
    for first in range(0, PARTS * count, count):
        part = arrived[first : first + count]
        moments = [level.begin_ns for level in part]
        strayed += _width(_detrended([level.tasks for level in part]))
        allowed += DETRENDED_SHARE * math.sqrt(_squares(moments) * min(1.0, _irregularity(moments)))
    return Population(arrived[-1].tasks) if strayed <= allowed else None


def _detrended(values: Sequence[int]) -> list[float]:
    """Subtract the line that fits them best."""
    middle, mean = (len(values) - 1) / 2, fmean(values)
    steepness = sum((place - middle) * value for place, value in enumerate(values))
    steepness /= sum((place - middle) ** 2 for place in range(len(values)))
    return [value - mean - steepness * (place - middle) for place, value in enumerate(values)]


def _width(values: Sequence[float]) -> float:
    """Return how far the middle nine tenths reach."""
    ordered = sorted(values)
    return ordered[round(0.95 * (len(ordered) - 1))] - ordered[round(0.05 * (len(ordered) - 1))]


def _irregularity(moments: Sequence[int]) -> float:
    """Return the squared coefficient of variation of the distances: 0 of a clock, 1 of a Poisson stream."""
    gaps = [later - earlier for earlier, later in pairwise(moments)]
    mean = fmean(gaps)
    return fmean((gap - mean) ** 2 for gap in gaps) / mean**2 if mean > 0 else 0.0


def answers(arrivals: Iterable[int], ends: Iterable[int]) -> bool:
    """Whether these tasks come as answers to others that ended then."""
    near, count = _near_after(arrivals, ends)
    return count >= ARRIVALS_NEEDED and near >= ANSWERS_SHARE * count


def _near_after(arrivals: Iterable[int], ends: Iterable[int]) -> tuple[int, int]:
    """Return how many of these arrivals come as near after an end as a tenth of all moments do, and how many there
    are."""
    moments = sorted(set(ends))
    gaps = sorted(later - earlier for earlier, later in pairwise(moments))
    if len(gaps) < ARRIVALS_NEEDED:
        return 0, 0
    sums = [0, *accumulate(gaps)]
    near = count = 0
    for at in arrivals:
        place = bisect(moments, at)
        if 0 < place < len(moments):
            distance = at - moments[place - 1]
            shorter = bisect(gaps, distance)
            count += 1
            # The part of all moments that are as near after an end.
            near += sums[shorter] + distance * (len(gaps) - shorter) <= NEAR_SHARE * sums[-1]
    return near, count


def answers_in_part(arrivals: Iterable[int], ends: Iterable[int]) -> bool:
    """Whether some of these tasks come as answers to others that ended then, which is more than chance.

    What comes at one moment counts once, and a clock answers nothing, though tasks may end at its beats.
    """
    arrivals, moments = sorted(arrivals), sorted(set(ends))
    if len(arrivals) < ARRIVALS_NEEDED or len(moments) < ARRIVALS_NEEDED:
        return False
    apart = _apart(arrivals, int(TOGETHER_SHARE * (arrivals[-1] - arrivals[0]) / len(arrivals)))
    near, count = _near_after(apart, moments)
    chance = NEAR_SHARE * count
    if count < ARRIVALS_NEEDED or near < max(PART_SHARE * count, chance + PART_DEVIATIONS * math.sqrt(chance)):
        return False
    return not _keep_to_a_clock(arrivals, moments)


def closed_by_answers(
    tasks: Iterable[tuple[int, int, int, int]], answers: Callable[[Iterable[int], Iterable[int]], bool] = answers
) -> Population | None:
    """Return the most tasks that such clients keep in a pool, where their functions hold most of its workers' time.

    `tasks` are those of a stretch that ended: function, submitted, started, finished. For a number of workers, which is
    better not given than wrong, `answers_in_part` is enough.
    """
    every: dict[int, list[tuple[int, int, int]]] = {}
    for function, *times in tasks:
        every.setdefault(function, []).append((times[0], times[1], times[2]))
    busy = closed = 0
    spans: list[Span] = []
    for own in every.values():
        held = sum(finished - started for _, started, finished in own)
        busy += held
        if len(own) >= ARRIVALS_NEEDED and answers((task[0] for task in own), (task[2] for task in own)):
            closed += held
            spans += [(submitted, finished) for submitted, _, finished in own]
    if not closed or closed < ANSWERED_SHARE * busy:
        return None
    levels = _levels(spans, max(finished for _, finished in spans) + 1)
    return Population(max(level.tasks for level in levels))


def follow(arrivals: Iterable[int], starts: Iterable[tuple[int, bool]]) -> bool:
    """Whether these arrivals come from the tasks of another pool that was full: (when, coupled) are its starts then."""
    arrivals, starts = sorted(arrivals), list(starts)
    coupled_starts = [at for at, coupled in starts if coupled]
    moments = sorted(set(coupled_starts))
    if len(moments) < STARTS_NEEDED or len(coupled_starts) < COUPLED_SHARE * len(starts):
        return False
    return _are_near(arrivals, moments) and not _keep_to_a_clock(arrivals, moments)


def _are_near(arrivals: Sequence[int], moments: Sequence[int]) -> bool:
    """Whether these arrivals are nearer to these moments than a random one would be. Both are in order."""
    gaps = sorted(later - earlier for earlier, later in pairwise(moments))
    sums = [0, *accumulate(gaps)]

    def nearer(distance: int) -> float:
        """Part of all moments that are as near to a start: of each gap, so much at either end of it."""
        shorter = bisect(gaps, 2 * distance)
        return (sums[shorter] + 2 * distance * (len(gaps) - shorter)) / sums[-1]

    by_start: dict[int, list[float]] = {}
    for at in arrivals:
        if moments[0] <= at < moments[-1]:
            nearest = _nearest(moments, at)
            by_start.setdefault(nearest, []).append(nearer(abs(at - nearest)))
    return len(by_start) >= STARTS_NEEDED and fmean(map(fmean, by_start.values())) <= NEAR_SHARE


def _keep_to_a_clock(arrivals: Sequence[int], moments: Sequence[int]) -> bool:
    """Whether these arrivals keep to a clock no worse than to these moments; where there are too few, they may. Both
    are in order.

    What comes together counts by its first: of many moments that are close to each other one is near by chance.
    """
    arrivals = [at for at in arrivals if moments[0] <= at < moments[-1]]
    period = _usual_gap(arrivals)
    beats, firsts = _apart(arrivals, period // 2), _apart(moments, _usual_gap(moments) // 2)
    if len(beats) < BEATS_NEEDED:
        return True
    return pvariance(at - _nearest(firsts, at) for at in beats) > CLOCK_SHARE * pvariance(_off_beat(beats, period))


def _nearest(moments: Sequence[int], at: int) -> int:
    """Return the one that is nearest to a time. They are in order."""
    place = bisect(moments, at)
    return min(moments[max(0, place - 1) : place + 1], key=lambda moment: abs(at - moment))


def _usual_gap(moments: Sequence[int]) -> int:
    """Return the gap between those that do not come together: no longer ones make up a quarter of the time."""
    gaps = sorted(later - earlier for earlier, later in pairwise(moments))
    quarter = sum(gaps) / 4
    return next((gap for gap, passed in zip(gaps, accumulate(gaps), strict=True) if passed >= quarter), 0)


def _apart(moments: Sequence[int], least: int) -> list[int]:
    """Return the first of each of those that come together: nearer to the one before than this."""
    return [*moments[:1], *(later for earlier, later in pairwise(moments) if later - earlier >= least)]


def _off_beat(beats: Sequence[int], period: int) -> list[float]:
    """Return how late each is by the clock of about this period that fits them best; beats may be left out."""
    if not period:
        return [0.0] * len(beats)
    counts = [0, *accumulate(max(1, round((later - earlier) / period)) for earlier, later in pairwise(beats))]
    passed = [at - beats[0] for at in beats]
    line = linear_regression(counts, passed)
    return [at - line.intercept - line.slope * count for count, at in zip(counts, passed, strict=True)]

"""Whether runs take longer the more of them there are at once, which tells a scarce resource from a slow one.

Where only k of c workers get on at a time, by Little's law a task that starts as the a-th takes a / k times as long as
alone, once a > k: the part a / c of what it takes in a full pool. Where tasks do not hinder each other it takes as long
as alone, and if what they wait for becomes slower all of a sudden, as long as in a full pool, whatever a is. So the
tasks tell that started while the pool was filling, or busy but not full.

That runs follow a / c by chance has the probability exp(-n D) at most, D = s ln(s / q) + (1 - s) ln((1 - s) / (1 - q))
(Chernoff 1952): n tasks, of which the part s is near it, where runs in the full pool would be with probability q.

Pure. Times are nanoseconds.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right, insort
from collections.abc import Mapping, Sequence
from statistics import median
from typing import NamedTuple

from poolscope.aggregation.pool_history import PoolHistory
from poolscope.signals.contention import divergence
from poolscope.signals.window import LAST_UNHINDERED, WORK_SHARE

#: At most this many tasks before the stretch are looked at, and this many of its first ones.
TASKS_BEFORE = 2_000
TASKS_FULL = 200
#: Fewer runs in the full pool than this say nothing about how long one takes there, nor fewer of one function.
FULL_NEEDED = 10
OF_FUNCTION_NEEDED = 5
#: A run within this part of the expected one is near it.
NEAR = 0.4
#: Only tasks tell that should take so many times as long as alone, and no longer than this part of what they take in
#: the full pool.
TELLING_TIMES = 1.7
TELLING_SHARE = 0.6
#: As long as in the full pool.
SAME = 0.8
#: Most of those that tell.
MOST = 0.7
#: The part of the variation of runs that the number of running tasks may leave unexplained.
EXPLAINED = 0.5
#: How often runs may follow the number of workers by chance.
CHANCE = 5e-4
#: So many tasks that took no longer than alone, or as long as in the full pool, say that none holds up another.
ALIKE_NEEDED = 10


class Start(NamedTuple):
    """A task: how many ran as it started, itself included, as a part of the workers (`crowd`); its run, and an
    unhindered run if that is known, as parts of the median of its function in the full pool; and whether it ended
    before the pool was full (`calm`), so that hardly more ran beside it later on."""

    crowd: float
    run: float
    alone: float | None
    calm: bool = False


def grow(starts: Sequence[Start], full: Sequence[float]) -> bool | None:
    """Whether runs grow with the number of workers that are busy; None if that does not show.

    `full` are the runs in the full pool, as parts of their medians.
    """
    if len(full) < FULL_NEEDED or not starts:
        return None
    # Nearer to a run alone than to the expected longer one.
    hindered = [start for start in starts if start.alone is not None and start.crowd >= TELLING_TIMES * start.alone]
    alike = sum(start.alone is not None and 2 * start.run < start.crowd + start.alone for start in hindered)
    if alike >= max(ALIKE_NEEDED, MOST * len(hindered)):
        return False
    # As long as in the full pool, where few ran.
    calm = [start for start in starts if start.calm and start.crowd <= TELLING_SHARE]
    if sum(start.run >= SAME for start in calm) >= max(ALIKE_NEEDED, MOST * len(calm)):
        return False
    followed = _follow([start for start in hindered if start.crowd <= TELLING_SHARE], full)
    unknown = [start for start in starts if start.alone is None and start.crowd <= TELLING_SHARE]
    return True if followed or _follow_one_another(unknown, full) else None


def _follow(starts: Sequence[Start], full: Sequence[float], least: float = 0.0) -> bool:
    """Whether runs follow the crowd, as those in the full pool hardly would; none takes less than `least`."""
    expected = [max(start.crowd, least) for start in starts]
    near = sum(abs(start.run - run) <= NEAR * run for start, run in zip(starts, expected, strict=True))
    if not starts or near < MOST * len(starts):
        return False
    ordered = sorted(full)
    likely = sum(_part(ordered, run) for run in expected) / len(starts)
    return len(starts) * divergence(near / len(starts), likely) >= -math.log(CHANCE)


def _follow_one_another(starts: Sequence[Start], full: Sequence[float]) -> bool:
    """Return the same where it is not known how long one takes alone: it may be as long in every crowd, and what they
    wait for was faster. So the crowd has to explain the runs far better than one run for all does."""
    if not starts or min(start.run for start in starts) <= 0:
        return False
    least, usual = min(start.run for start in starts), median(start.run for start in starts)
    unexplained = sum(abs(math.log(start.run / max(start.crowd, least))) for start in starts)
    if unexplained > EXPLAINED * sum(abs(math.log(start.run / usual)) for start in starts):
        return False
    return _follow(starts, full, least)


def _part(ordered: Sequence[float], run: float) -> float:
    """Return the part of these runs that is near to one, and never none."""
    near = bisect_right(ordered, (1 + NEAR) * run) - bisect_left(ordered, (1 - NEAR) * run)
    return min(1.0, (near + 0.5) / (len(ordered) + 1))


def growth(history: PoolHistory, begin_ns: int) -> bool | None:
    """`grow` for the stretch of a pool that began then, by the functions that have most of the workers' time."""
    partial: list[tuple[int, int, int, float]] = []
    runs: dict[int, list[int]] = {}
    ends: list[float] = []
    left = TASKS_FULL
    for function, started, ended in _around(history, begin_ns):
        del ends[: bisect_right(ends, started)]
        insort(ends, ended)
        crowd = len(ends) / history.size
        if ended == math.inf:
            continue
        run = int(ended - started)
        if crowd < 1:
            partial.append((function, started, run, crowd))
        elif started >= begin_ns and left:
            left -= 1
            runs.setdefault(function, []).append(run)
    usual = _usual(runs)
    alone: dict[int, list[int]] = {function: [] for function in usual}
    for function, run in history.occupancy.unhindered:
        if function in usual:
            alone[function].append(run)
    known = {function: median(own) for function, own in alone.items() if len(own) >= LAST_UNHINDERED}
    starts = [
        Start(
            crowd,
            run / usual[function],
            known[function] / usual[function] if function in known else None,
            started + run < begin_ns,
        )
        for function, started, run, crowd in partial
        # Later, a worker is between two tasks where the pool seems not to be full.
        if function in usual and started < begin_ns + usual[function] / 2
    ]
    return grow(starts, [run / usual[function] for function in usual for run in runs[function]])


def _usual(runs: Mapping[int, Sequence[int]]) -> dict[int, float]:
    """Return the medians of the functions that take most of the time, the busiest first; none if one of them is not
    known."""
    left = WORK_SHARE * sum(map(sum, runs.values()))
    usual: dict[int, float] = {}
    for function, own in sorted(runs.items(), key=lambda item: -sum(item[1])):
        if left <= 0:
            break
        left -= sum(own)
        usual[function] = median(own)
        if len(own) < OF_FUNCTION_NEEDED or not usual[function]:
            return {}
    return usual


def _around(history: PoolHistory, begin_ns: int) -> list[tuple[int, int, float]]:
    """Return (function, started, ended) of tasks before the begin of a stretch and after it, in order of their
    starts."""
    tasks: list[tuple[int, int, float]] = [
        (task.function, task.started_ns, math.inf) for task in history.running.values()
    ]
    earlier = 0
    for function, _, started, ended, _ in reversed(history.recent):
        earlier += started < begin_ns
        if earlier > TASKS_BEFORE or ended < history.known_ns:
            break
        tasks.append((function, started, ended))
    return sorted(tasks, key=lambda task: task[1])

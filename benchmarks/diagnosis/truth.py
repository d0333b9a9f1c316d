"""What the realised log of a pool says, by the definitions of docs/concepts.md#terms and by nothing of poolscope's own.

Simple on purpose: it sweeps the whole log at once, where poolscope works it out as time goes on. Times are ns. A log is
`workers` and tasks (submitted, started, ended, cancelled), None for what did not happen.
"""

import math
from bisect import bisect_left
from heapq import heapify, heapreplace
from statistics import median
from typing import NamedTuple

SECOND = 1_000_000_000
SUSTAIN = SECOND
AMPLIFICATION = 2.0
SERIAL_PARALLELISM = 1.5
#: Nearer to a limit than this, either verdict is right: the stamps of the log and of poolscope are not the same ones.
MARGIN = 0.15
UNHINDERED_NEEDED = 20
LARGEST = 1000


class Stretch(NamedTuple):
    begin: int
    end: int

    @property
    def length(self):
        return self.end - self.begin


class Trouble(NamedTuple):
    """A stretch that lasts and amplifies: since when (the knee), from when on that is known, and its pattern."""

    knee: int
    due: int
    end: int
    #: Those that are right: two where the log is near the limit.
    patterns: tuple


def stretches(workers, tasks):
    """Stretches of saturation. More tasks than workers are in a pool that hands out work: full, and some wait."""
    changes = []
    for submitted, _, ended, cancelled in tasks:
        gone = ended or cancelled
        changes.append((submitted, 1))
        if gone:
            changes.append((gone, -1))
    changes.sort()
    found = []
    inside, since = 0, None
    for at, change in changes:
        inside += change
        if inside > workers and since is None:
            since = at
        elif inside <= workers and since is not None:
            if found and since - found[-1].end <= max(SECOND // 50, found[-1].length // 50):
                found[-1] = Stretch(found[-1].begin, at)
            else:
                found.append(Stretch(since, at))
            since = None
    return found


def amplification(tasks, working=None):
    """Of tasks that all started and ended, each of which has so much work of its own if it is not its whole run."""
    if not tasks:
        return 1.0
    run = median(ended - started for _, started, ended, _ in tasks)
    waits = median(started - submitted for submitted, started, *_ in tasks)
    return (waits + run) / max(1, run if working is None else max(working, run / 10))


def unhindered(workers, tasks):
    """Median run of the tasks that started while a <= max(1, c / 4), themselves included; None for too few of them."""
    done = sorted((started, ended) for _, started, ended, _ in tasks if ended)
    ends = sorted(ended for _, ended in done)
    # Of those that start at the same moment, each finds the ones before it.
    runs = [
        ended - started
        for place, (started, ended) in enumerate(done)
        if place + 1 - bisect_left(ends, started) <= max(1, workers / 4)
    ]
    return median(runs) if len(runs) >= UNHINDERED_NEEDED else None


def patterns(workers, tasks, stretch, limit):
    """`serial` or `async_then_serial`; both where the log is near the limit. `limit` as the construction knows it."""
    if workers == 1:
        return ("serial",)
    alone = unhindered(workers, tasks)
    done = sum(bool(ended) and stretch.begin <= ended <= stretch.end for _, _, ended, _ in tasks)
    parallelism = limit or math.inf if alone is None else done * alone / stretch.length
    if parallelism < SERIAL_PARALLELISM * (1 - MARGIN):
        return ("serial",)
    return (
        ("async_then_serial",) if parallelism > SERIAL_PARALLELISM * (1 + MARGIN) else ("async_then_serial", "serial")
    )


def troubles(workers, tasks, limit=None, working=None):
    """(those that are, whether there may be others): the second for stretches that nearly are. `working`: see
    `amplification`."""
    found, doubtful = [], False
    done = sorted((task for task in tasks if task[2]), key=lambda task: task[1])
    for stretch in stretches(workers, tasks):
        if stretch.length < SUSTAIN * (1 - MARGIN):
            continue
        inside = [task for task in done if stretch.begin <= task[1] <= stretch.end]
        whole = amplification(inside, working)
        # The part from the knee on that first lasts and amplifies.
        first = bisect_left([task[1] for task in inside], stretch.begin + SUSTAIN)
        parts = (inside[: count + 1] for count in range(first, len(inside)))
        part = next((part for part in parts if amplification(part, working) >= AMPLIFICATION), None)
        due = part[-1][1] if part else stretch.end
        if stretch.length >= SUSTAIN * (1 + MARGIN) and whole >= AMPLIFICATION * (1 + MARGIN):
            found.append(Trouble(stretch.begin, due, stretch.end, patterns(workers, tasks, stretch, limit)))
        elif whole >= AMPLIFICATION * (1 - MARGIN) or part:
            doubtful = True
    return found, doubtful


def main_troubles(found):
    """Those to compare with: that last at least half as long as the longest. A healthy load may have had others by
    chance."""
    longest = max(trouble.end - trouble.knee for trouble in found)
    return [trouble for trouble in found if 2 * (trouble.end - trouble.knee) >= longest]


def needed_workers(tasks):
    """The smallest size with which the replayed log has no stretch that lasts; None if none up to 1000 has."""
    done = sorted((submitted, started, ended) for submitted, started, ended, _ in tasks if ended)
    load = [(submitted, ended - started) for submitted, started, ended in done]

    def enough(workers):
        free = [0] * workers
        heapify(free)
        replayed = []
        for submitted, run in load:
            start = max(submitted, free[0])
            heapreplace(free, start + run)
            replayed.append((submitted, start, start + run, None))
        return all(stretch.length < SUSTAIN for stretch in stretches(workers, replayed))

    low, high = 0, LARGEST + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high if high <= LARGEST else None


def first_size(workers, tasks):
    """The size to be told first (docs/concepts.md#sizing): the needed one, unless that is far away."""
    needed, far = needed_workers(tasks), min(64, 8 * workers)
    if needed is None or needed <= far:
        return needed
    return far if far > workers else min(needed, 2 * workers)

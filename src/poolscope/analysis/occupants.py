"""What holds a full pool's workers: facts from the lines they were sampled at, and from the functions they ran.

Each fact stands for itself; what follows from it is decided in `detection`. Pure: no clock, no thread, no I/O.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from operator import itemgetter

import msgspec

from poolscope.messages import Line, StackSample

#: Fewer samples of a full pool than this say nothing about who waits for whom (section 2 of the contract).
SAMPLES_NEEDED = 10
#: Part of the workers that must be seen in a sample for it to count: the others are between two tasks.
SEEN_SHARE = 0.75
#: Part of the samples in which exactly k workers are elsewhere than at the line where the others wait. Tasks of two
#: stages scatter: were each worker at the second stage by itself, k of them would be there in less than half of the
#: samples (the mode of a binomial distribution of mean 1 has 0.37 to 0.5).
CONSTANT_SHARE = 0.8
#: The holders must be this few of the workers: nearly all others wait. Of two halves nobody could say which one waits.
HOLDERS_SHARE = 1 / 3
#: Tasks that must have started for each holder, so that the samples saw different ones (by Little's law k holders are
#: renewed once in k starts).
RENEWALS_NEEDED = 10
#: Functions hold a pool if they are less than half of the starts and more than half of the worker time, and take this
#: many times as long as the others.
LONGER = 5.0
#: Fewer tasks of the others than this give no median.
OTHERS_NEEDED = 10


class Contention(msgspec.Struct, frozen=True):
    """`holders` workers at a time are past the line `waiting`, and nearly all others wait at it."""

    holders: int
    waiting: tuple[Line, ...]
    #: Where the holders are most often.
    holding: tuple[Line, ...]
    samples: int


def contention(
    samples: Iterable[StackSample], max_workers: int, *, lasting: frozenset[int], starts: int
) -> Contention | None:
    """Whether the workers queue for something scarcer than the pool, judged by the lines they are at.

    Of all lines, take the one where most are, and count in each sample the workers that are elsewhere, or, where tasks
    do something else first, those at one other line. If that number k is the same again and again, though tasks come
    and go, then something lets only k of them pass at a time: a lock (1), a pool of connections (its size), a database
    that admits one writer. `lasting` are workers that were in one task all the time; elsewhere, they are consumers that
    keep their workers and no holders. `starts`: of tasks, meanwhile.
    """
    seen = [
        {worker: tuple(lines) for workers, lines in sample.stacks if lines for worker in workers} for sample in samples
    ]
    seen = [places for places in seen if len(places) >= SEEN_SHARE * max_workers]
    if len(seen) < SAMPLES_NEEDED:
        return None
    lines = Counter(place for places in seen for place in places.values())
    waiting, most = lines.most_common(1)[0]
    elsewhere = [
        Counter(place for worker, place in places.items() if place != waiting and worker not in lasting)
        for places in seen
    ]
    whereabouts = sum(elsewhere, Counter[tuple[Line, ...]]()).most_common()
    if 2 * most < lines.total() or not whereabouts:
        return None
    candidates = [(whereabouts[0][0], [places.total() for places in elsewhere])]
    candidates += [(line, [places[line] for places in elsewhere]) for line, _ in whereabouts]
    found: tuple[int, int, tuple[Line, ...]] | None = None
    for holding, counts in candidates:
        holders, often = Counter(counts).most_common(1)[0]
        constant = often >= CONSTANT_SHARE * len(seen)
        if constant and 1 <= holders <= HOLDERS_SHARE * max_workers and starts >= RENEWALS_NEEDED * holders:
            # Few samples may make those that are on their way there look constant, too.
            found = max(found or (0, 0, holding), (often, -holders, holding), key=itemgetter(0, 1))
    return None if found is None else Contention(-found[1], waiting, found[2], len(seen))


class FunctionShare(msgspec.Struct, frozen=True):
    """One function of a pool over a window; ns. `waits` and `runs` are of the tasks that both started and ended."""

    function: int
    starts: int
    busy_ns: int
    waits: Sequence[int]
    runs: Sequence[int]


class Hogs(msgspec.Struct, frozen=True):
    """Few long tasks hold the workers, and the many short ones wait; shares of 1, ns."""

    functions: tuple[int, ...]
    busy_share: float
    start_share: float
    #: Medians of the others.
    others_wait_ns: float
    others_run_ns: float


def hogs(shares: Sequence[FunctionShare]) -> Hogs | None:
    """The functions that take longest, as few as hold most of the worker time, if they are a minority of the starts."""
    starts, busy = sum(share.starts for share in shares), sum(share.busy_ns for share in shares)
    if len(shares) < 2 or not starts or not busy:
        return None
    longest_first = sorted(shares, key=lambda share: share.busy_ns / max(1, share.starts), reverse=True)
    held = started = count = 0
    for share in longest_first:
        held, started, count = held + share.busy_ns, started + share.starts, count + 1
        if 2 * held > busy:
            break
    others = longest_first[count:]
    waits = sorted(wait for share in others for wait in share.waits)
    runs = sorted(run for share in others for run in share.runs)
    if 2 * started >= starts or min(len(waits), len(runs)) < OTHERS_NEEDED:
        return None
    if held / max(1, started) < LONGER * (busy - held) / max(1, starts - started):
        return None
    return Hogs(
        tuple(share.function for share in longest_first[:count]),
        held / busy,
        started / starts,
        waits[len(waits) // 2],
        runs[len(runs) // 2],
    )

"""What holds a full pool's workers: facts from the lines they were sampled at, and from the functions they ran.

Each fact stands for itself; what follows from it is decided in `rules`. Pure: no clock, no thread, no I/O.

How `contention` sees that workers queue for something scarcer than the pool: take a line, and count in each sample the
workers that are past it: at any other line, or, where tasks do something else as well, at one other line. If that
number k is the same again and again, though tasks come and go, and there is always a worker at the first line, then
something lets only k of them pass at a time: a lock (1), a pool of connections (its size), a database that admits one
writer.

What is known of the tasks rules out what else looks like that:

- Tasks of two ordinary stages scatter. Were each of n workers at the second one by itself, with probability p, then the
  count would be binomial and its most frequent value would come with some probability q < 1. That it comes in a part
  s > q of N samples then has a probability of at most exp(-N D), D = s ln(s / q) + (1 - s) ln((1 - s) / (1 - q))
  (Chernoff 1952). N counts samples that saw other holders: by Little's law these are renewed once in k starts.
- Stages of fixed times may be in step. But then tasks are never held up: what gets done at once, had each task taken
  only as long as it can, is all workers' worth. `worth` is that number of tasks (Little's law: tasks finished a second,
  times that run). Where w workers wait on average, it is less by w.
- The line comes before what is held: a task at it has longer to go.
- A task that waits for room in a full queue neither waits for workers of the pool nor holds what they want: another
  thread empties it.
- Tasks that wait come and go. Those that starve all the time want what the holders have: their tasks are of a function
  that is seen there, and something scarce is taken at their line. Elsewhere they do not come back.

Where all are at one line, as in a call that takes a lock and does its work in C, those that starve show by having run
for far longer than the median of their function. Then N counts how many times such tasks have ended: each time there
might be another number of them from then on. Those that stay may just be long: then it is not `sure`.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from statistics import median
from typing import NamedTuple

import msgspec

from poolscope.messages import Line, StackSample

#: Fewer samples of a full pool than this say nothing about what waits for what (docs/concepts.md#causes).
SAMPLES_NEEDED = 10
#: Part of the workers that must be seen in a sample for it to count: the others are between two tasks.
SEEN_SHARE = 0.75
#: Part of the samples in which exactly k workers are past the line where the others wait, and at least one does wait.
CONSTANT_SHARE = 0.8
#: From here on one count is as constant as another.
CONSTANT_ENOUGH = 0.9
#: How often tasks of two stages that have nothing to do with each other may look like that.
CHANCE = 5e-4
#: Tasks that must have started for each holder, so that the samples saw different ones (by Little's law k holders are
#: renewed once in k starts).
RENEWALS_NEEDED = 10
#: So many generations of those that wait must have been seen, or so many that starve: a single one may be stuck.
QUEUES_NEEDED = 2
STARVING_NEEDED = 2
#: Of more samples than this only so many are looked at, and of a large pool only so many workers in all, as long as
#: that leaves enough samples.
SAMPLES_KEPT = 100
OCCUPANTS = 1_200
SAMPLES_LEFT = 30
#: The places looked at, those with the most workers first.
PLACES = 5
#: Functions hold a pool if they are less than half of the starts and more than half of the worker time, and take this
#: many times as long as the others.
LONGER = 5.0
#: Fewer tasks of the others than this give no median.
OTHERS_NEEDED = 10

#: A task is overdue once it has run for this many times the median run of its function.
OVERDUE_RUNS = 3.0

#: The gates of those that wait for a child process, or for anything in an event loop, which hold up no other worker.
_CHILD = "child"
#: Those at which something scarce is taken.
_SCARCE = ("lock", "semaphore")
_AWAIT = "await"

#: Lines, and the instruction in the last of them.
Place = tuple[tuple[Line, ...], int]


class Contention(msgspec.Struct, frozen=True):
    """`holders` workers at a time are past the line `waiting`, and others wait at it. There is no such line where it is
    none at which something scarce is taken, as far as that can be read."""

    holders: int
    waiting: tuple[Line, ...]
    #: Where the holders are most often.
    holding: tuple[Line, ...]
    samples: int
    #: False: those that wait may just be tasks that take long.
    sure: bool = True


class HeldUp(msgspec.Struct, frozen=True):
    """Workers wait at something that lets few pass (`gate`, as a `Stack` has it): this share of them, on average, most
    of those at `waiting`."""

    gate: str
    share: float
    waiting: tuple[Line, ...]


def held_up(samples: Sequence[StackSample], lasting: frozenset[int]) -> HeldUp | None:
    """At what most of the workers wait that are stopped by a lock, a semaphore or a full queue; None if none is, or the
    pool has not been looked at often enough.

    Not of the workers that were in one task all the time (`lasting`): consumers may wait like that for work.
    """
    if len(samples) < SAMPLES_NEEDED:
        return None
    places: Counter[tuple[str, tuple[Line, ...]]] = Counter()
    for sample in samples:
        for stack in sample.stacks:
            passing = sum(worker not in lasting for worker in stack.tasks[::3])
            places[stack.gate, tuple(stack.lines)] += passing
    gates: Counter[str] = Counter()
    for (gate, _), count in places.items():
        gates[gate] += count
    total = gates.total()
    for gate in ("", _CHILD, _AWAIT):
        gates.pop(gate, None)
    if not gates.total():
        return None
    [(most, _)] = gates.most_common(1)
    waiting = max((place for place in places if place[0] == most), key=lambda place: places[place])
    return HeldUp(most, gates.total() / total, waiting[1])


def children_share(samples: Sequence[StackSample]) -> float:
    """Return the part of the workers that wait for child processes; 0 if the pool has not been looked at often
    enough."""
    counts: Counter[bool] = Counter()
    for stack in (stack for sample in samples for stack in sample.stacks):
        counts[stack.gate == _CHILD] += len(stack.tasks)
    return counts[True] / counts.total() if len(samples) >= SAMPLES_NEEDED and counts else 0.0


class _Occupant(NamedTuple):
    """A worker in a sample, at a place by its number."""

    place: int
    #: Whether the task has run for far longer than is usual.
    overdue: bool
    function: int
    started_ns: int
    #: How long the task went on after that (ns); at least, if it has not ended.
    left_ns: int
    lasting: bool


def contention(
    samples: Sequence[StackSample],
    max_workers: int,
    *,
    lasting: frozenset[int],
    starts: int,
    ended: Mapping[tuple[int, int], int],
    usual: Mapping[int, float],
    worth: float,
    takes: Callable[[tuple[Line, ...]], bool] = lambda _: True,
) -> Contention | None:
    """Return what the workers queue for that is scarcer than the pool; None if nothing shows it.

    `lasting` are workers that were in one task all the time; elsewhere, they are consumers that keep their workers and
    no holders. `starts`: of tasks, meanwhile. `ended` gives (function, started) -> finished, as far as tasks have, and
    `usual` the median run of a function (ns). `worth` is the number of tasks' worth of work that got done at once.
    `takes` says whether something scarce is taken at a line: of several that look like it, it is such a one where the
    others wait, or one at a lock or semaphore.
    """
    if len(samples) < SAMPLES_NEEDED or starts < RENEWALS_NEEDED or worth > max_workers - CONSTANT_SHARE / 2:
        return None  # what gets done is all workers' worth: none waits
    look = _Look(max(sample.at_ns for sample in samples), lasting, ended, usual)
    kept = min(SAMPLES_KEPT, max(SAMPLES_LEFT, OCCUPANTS // max_workers))
    looked_at = map(look.occupants, samples[:: max(1, len(samples) // kept)])
    seen = [occupants for occupants in looked_at if len(occupants) >= SEEN_SHARE * max_workers]
    if len(seen) < SAMPLES_NEEDED:
        return None
    lines, gates = look.lines(), look.gates

    def taken_at(place: int) -> bool:
        return gates.get(place) in _SCARCE or takes(lines[place])

    found, sure = _found(seen, taken_at, starts, worth)
    if found is None:
        return None
    holders, waiting, holding = found
    if "queue" in (gates.get(waiting), gates.get(holding)):
        return None
    return Contention(holders, lines[waiting] if taken_at(waiting) else (), lines[holding], len(seen), sure)


class _Look:
    """Numbers the places of samples, so that what follows need not look at lines again and again."""

    def __init__(
        self,
        latest_ns: int,
        lasting: frozenset[int],
        ended: Mapping[tuple[int, int], int],
        usual: Mapping[int, float],
    ) -> None:
        """See `contention`; `latest_ns` is when the last sample was taken."""
        self._latest_ns, self._lasting, self._ended, self._usual = latest_ns, lasting, ended, usual
        self._numbers: dict[Place, int] = {}
        #: Of the places at which workers are stopped.
        self.gates: dict[int, str] = {}

    def lines(self) -> list[tuple[Line, ...]]:
        """Return the lines of each place."""
        return [lines for lines, _ in self._numbers]

    def occupants(self, sample: StackSample) -> list[_Occupant]:
        """Return the workers of a sample."""
        usual, ended, lasting = self._usual, self._ended, self._lasting
        numbers = self._numbers
        occupants = []
        for stack in sample.stacks:
            place, tasks = numbers.setdefault((tuple(stack.lines), stack.spot), len(numbers)), iter(stack.tasks)
            if stack.gate:
                self.gates[place] = stack.gate
            for worker, function, started in zip(tasks, tasks, tasks, strict=True):
                overdue = function in usual and sample.at_ns - started > OVERDUE_RUNS * usual[function]
                left_ns = ended.get((function, started), self._latest_ns) - sample.at_ns
                occupants.append(_Occupant(place, overdue, function, started, left_ns, worker in lasting))
        return occupants


def _found(
    seen: Sequence[Sequence[_Occupant]], taken_at: Callable[[int], bool], starts: int, worth: float
) -> tuple[tuple[int, int, int] | None, bool]:
    """Return the result of `_Places.find`, and whether it is sure: by places alone, or else by overdue tasks too."""
    found = _Places(seen, taken_at, by_age=False).find(starts, worth)
    if found is not None:
        return found, True
    # All may be at one place: then by whether they are overdue.
    places = _Places(seen, taken_at, by_age=True)
    found = places.find(starts, worth)
    if found is not None:
        return found, True
    return places.find(starts, worth, sure=False), False


class _Places:
    """How many workers were where, in each of the samples `seen`. A place is a number, and if it counts `by_age`, one
    and another for those that are overdue."""

    def __init__(self, seen: Sequence[Sequence[_Occupant]], taken_at: Callable[[int], bool], *, by_age: bool) -> None:
        self._taken_at = taken_at
        self._seen = len(seen)
        self._present = sum(map(len, seen)) / len(seen)
        # In each sample: all by place and function, and by place those that come and go, and the tasks.
        self._all: list[dict[int, Counter[int]]] = []
        self._passing: list[Counter[int]] = []
        self._tasks: list[dict[int, set[tuple[int, int]]]] = []
        # All together, by place.
        self._ever: dict[int, set[tuple[int, int]]] = defaultdict(set)
        self._left: dict[int, list[int]] = {}
        self._functions: dict[int, set[int]] = {}
        for occupants in seen:
            everyone: dict[int, Counter[int]] = defaultdict(Counter)
            passing: Counter[int] = Counter()
            tasks: dict[int, set[tuple[int, int]]] = defaultdict(set)
            for number, overdue, function, started_ns, left_ns, lasting in occupants:
                place = 2 * number + (by_age and overdue)
                everyone[place][function] += 1
                self._left.setdefault(place, []).append(left_ns)
                tasks[place].add((function, started_ns))
                if not lasting:
                    passing[place] += 1
                    self._functions.setdefault(place, set()).add(function)
            self._all.append(everyone)
            self._passing.append(passing)
            self._tasks.append(tasks)
            for place, there in tasks.items():
                self._ever[place] |= there

    def find(self, starts: int, worth: float, *, sure: bool = True) -> tuple[int, int, int] | None:
        """How many workers are past which place, and where these are, if that looks like contention."""
        places = sorted(self._left, key=lambda place: -len(self._left[place]))[:PLACES]
        left = {place: median(self._left[place]) for place in places}
        best: tuple[tuple[bool, float, int, float], tuple[int, int, int]] | None = None
        for waiting in places:
            for holding in (None, *(place for place in places if left[place] < left[waiting])):
                found = self._admitted(waiting, holding, starts, worth, sure)
                if found is None:
                    continue
                often, holders, where = found
                # Few samples may make those that are on their way there look constant, too. Of several lines that come
                # before, the last one is where the others wait.
                rank = self._taken_at(waiting // 2), min(often, CONSTANT_ENOUGH), -holders, -left[waiting]
                if left.get(where, 0) < left[waiting] and (best is None or rank > best[0]):
                    best = rank, (holders, waiting // 2, where // 2)
        return None if best is None else best[1]

    def _admitted(
        self, waiting: int, holding: int | None, starts: int, worth: float, sure: bool
    ) -> tuple[float, int, int] | None:
        """In which part of the samples exactly how many workers are at `holding`, or anywhere but at `waiting`, and
        where most of them are; None if nothing follows from that."""
        if holding is not None:
            past = [passing[holding] for passing in self._passing]
        else:
            past = [passing.total() - passing[waiting] for passing in self._passing]
        holders, times = Counter(past).most_common(1)[0]
        often = times / self._seen
        if holders < 1 or often < CONSTANT_SHARE or starts < RENEWALS_NEEDED * holders:
            return None
        held = [holding] if holding is not None else [place for place in self._functions if place != waiting]
        where = max(held, key=lambda place: sum(passing[place] for passing in self._passing))
        queued = [everyone[waiting].total() for everyone in self._all]
        generations = len(self._ever[waiting]) * self._seen / sum(queued)
        samples = min(self._seen, starts // holders)
        if where // 2 == waiting // 2:
            samples = min(samples, self._departures(waiting)) if sure else samples
        elif generations < QUEUES_NEEDED:
            # Those that starve want what others get; one that never gets past that place may want another thing.
            wanted = set().union(*(self._functions[place] for place in held))
            queued = [sum(everyone[waiting][function] for function in wanted) for everyone in self._all]
            starving = sum(queued) >= STARVING_NEEDED * sum(map(bool, queued))
            if not (starving and self._taken_at(waiting // 2)):
                return None
        if sum(map(bool, queued)) < CONSTANT_SHARE * self._seen:
            return None
        if worth > self._present - sum(queued) / self._seen / 2:
            return None
        share = sum(past) / self._seen / self._present
        if samples * divergence(often, _most_likely(round(self._present), share)) < -math.log(CHANCE):
            return None
        return often, holders, where

    def _departures(self, place: int) -> int:
        """How many times tasks that had been seen there have ended."""
        return sum(not earlier[place] <= set().union(*later.values()) for earlier, later in pairwise(self._tasks))


def _most_likely(count: int, share: float) -> float:
    """Return the probability of the most frequent value of a binomial distribution."""
    value = min(count, int((count + 1) * share))
    return math.comb(count, value) * share**value * (1 - share) ** (count - value)


def divergence(share: float, likely: float) -> float:
    """How much a share tells against a probability: Kullback-Leibler, in nats; 0 if it is no greater."""
    if share <= likely:
        return 0.0
    rest = (1 - share) * math.log((1 - share) / (1 - likely)) if share < 1 else 0.0
    return share * math.log(share / likely) + rest


class FunctionShare(msgspec.Struct, frozen=True):
    """One function of a pool over a window; ns. `runs` are of the tasks that both started and ended, `waits` also of
    those that did not start; `tasks` counts them all, or is 0 if they all started."""

    function: int
    starts: int
    busy_ns: int
    waits: Sequence[int]
    runs: Sequence[int]
    tasks: int = 0


class Hogs(msgspec.Struct, frozen=True):
    """Few long tasks hold the workers, and the many short ones wait; shares of 1, ns."""

    functions: tuple[int, ...]
    busy_share: float
    start_share: float
    #: Medians of the others.
    others_wait_ns: float
    others_run_ns: float


def hogs(shares: Sequence[FunctionShare]) -> Hogs | None:
    """Return the functions that take longest, as few as hold most of the worker time, if they are a minority of the
    starts."""
    starts, busy = sum(share.starts for share in shares), sum(share.busy_ns for share in shares)
    came = sum(max(share.starts, share.tasks) for share in shares)
    if len(shares) < 2 or not came or not busy:
        return None
    longest_first = sorted(shares, key=lambda share: share.busy_ns / max(1, share.starts), reverse=True)
    held = started = come = count = 0
    for share in longest_first:
        held, started, count = held + share.busy_ns, started + share.starts, count + 1
        come += max(share.starts, share.tasks)
        if 2 * held > busy:
            break
    others = longest_first[count:]
    waits = sorted(wait for share in others for wait in share.waits)
    runs = sorted(run for share in others for run in share.runs)
    # Those that wait behind them may not start any more.
    minority = 2 * started < starts or 2 * come < came
    if not minority or min(len(waits), len(runs)) < OTHERS_NEEDED:
        return None
    if held / max(1, started) < LONGER * (busy - held) / max(1, starts - started):
        return None
    return Hogs(
        tuple(share.function for share in longest_first[:count]),
        held / busy,
        started / starts if 2 * started < starts else come / came,
        waits[len(waits) // 2],
        runs[len(runs) // 2],
    )

"""How large a pool should have been: an exact first-come first-served replay of what was recorded.

The replay is Kiefer and Wolfowitz's recursion for a queue with n servers: a task starts when it has been submitted
and the earliest free worker is free, and holds that worker for its recorded run time. From that recursion follows, by
induction over the tasks, that more workers never start any task later. Two things rest on it:

- The tasks that wait on n workers are among those that wait on fewer. So what is replayed on a larger size is only
  the blocks of tasks in which a task waited, or was still held up, on a smaller one; everywhere else tasks start as
  they are submitted, and nothing is left to work out.
- The stretches on n workers lie within those on fewer, bridged gaps included, so the longest one can only shrink
  with n, and the smallest sufficient n is found by bisection.

Times are nanoseconds. Inside they are floats, which hold whole nanoseconds exactly up to 2**53 (104 days) and are
compared and sorted faster than integers of that size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from heapq import heappop, heappush, heappushpop
from operator import add, gt, sub

import msgspec

from poolscope.aggregation.replay import Task
from poolscope.aggregation.stretches import bridges
from poolscope.model import SizingPoint

#: The largest size that is ever suggested (docs/concepts.md#sizing), and the largest that is replayed.
LARGEST = 1000
#: Tasks in a block: what is replayed as a whole, or not at all.
BLOCK = 256
#: Where a pool is this large, or as many times as large as it is, what its tasks wait for is no longer the same.
FAR = 64
FAR_TIMES = 8
#: More workers help little where any number of them would make a batch shorter by no more than this part.
HELPS_LITTLE = 0.1
#: Of this many values each is looked at to find a percentile's neighbourhood.
SAMPLE_STEP = 64


class _Block(msgspec.Struct, frozen=True):
    """Tasks in order of submission; times from the first submission of the record on."""

    submitted: list[float]
    runs: list[float]
    #: In order, the ends of the earlier tasks that would still run at the first submission of the block, had no task
    #: ever waited. None if there are more of them than any size has workers.
    held: list[float] | None


#: Takes a block in which a task may wait, and for each of its tasks the moment at which the earliest worker is free
#: (one more than there are tasks: the last is for the task after them). Returns whether it has seen enough.
_Visitor = Callable[[_Block, list[float]], bool]


class Replayer:
    """Replays one record on one size after another, the fastest from small sizes to large ones. Not thread-safe."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        """`tasks` are in order of submission."""
        self.count = len(tasks)
        origin = tasks[0].submitted_ns if tasks else 0
        self._blocks = _blocks(
            [float(task.submitted_ns - origin) for task in tasks], [float(task.run_ns) for task in tasks]
        )
        self._unhindered_end = max((max(map(add, block.submitted, block.runs)) for block in self._blocks), default=0.0)
        # Of each size replayed to the end: the blocks in which a task waited or was held up.
        self._congested: dict[int, list[int]] = {}

    def waits(self, workers: int) -> tuple[list[float], float]:
        """Return the waits on this many workers (1 to LARGEST), and the makespan from the first submission to the last
        end.

        Tasks that did not wait have 0, a negative number or nothing among the waits.
        """
        waits: list[float] = []

        def visit(block: _Block, free: list[float]) -> bool:
            waits.extend(map(sub, free, block.submitted))
            return False

        return waits, self._replay(workers, visit)

    def longest_stretch(self, workers: int, stop_at_ns: float | None = None) -> float:
        """Return the longest stretch of saturation on this many workers (1 to LARGEST).

        Ends early, with what it has by then, once a stretch has lasted `stop_at_ns`.
        """
        begin = end = -1.0  # the stretch so far; none yet
        longest = 0.0

        def visit(block: _Block, free: list[float]) -> bool:
            nonlocal begin, end, longest
            for submitted, start in zip(block.submitted, free, strict=False):
                if start > submitted:
                    # While a task waits first come, first served, no worker is idle: its wait is time of saturation.
                    if submitted > end and (end < 0 or not bridges(end - begin, submitted - end)):
                        begin = submitted
                    end = start  # tasks start in order, so no earlier one has started later
                    if end - begin > longest:
                        longest = end - begin
            return stop_at_ns is not None and longest >= stop_at_ns

        self._replay(workers, visit)
        return longest

    def point(self, workers: int) -> SizingPoint:
        """Return what this many workers would have done; percentiles by nearest rank."""
        waits, makespan = self.waits(workers)
        return SizingPoint(
            workers=workers,
            wait_p50_seconds=self._wait(waits, 50) / 1e9,
            wait_p95_seconds=self._wait(waits, 95) / 1e9,
            makespan_seconds=makespan / 1e9,
        )

    def _wait(self, waits: list[float], percent: int) -> float:
        from_top = self.count - 1 - (self.count - 1) * percent // 100
        return max(0.0, _largest(waits, from_top)) if from_top < len(waits) else 0.0

    def _replay(self, workers: int, visit: _Visitor) -> float:
        """Show every block in which a task waits on this many workers. Returns the end of the last task."""
        blocks = self._blocks
        smaller = max((size for size in self._congested if size <= workers), default=None)
        congested: list[int] = []
        last_end = self._unhindered_end
        ends: list[float] = []  # of each worker's last task, a heap without the earliest,
        free = 0.0  # which is here
        clear = True  # the next block begins as if no task had ever waited
        for index in range(len(blocks)) if smaller is None else self._congested[smaller]:
            block = blocks[index]
            if clear:
                assert block.held is not None
                ends = [0.0] * (workers - len(block.held)) + block.held  # in order, hence a heap
                free = ends.pop(0)
            earliest = [free]
            if free > block.submitted[-1]:  # and it only grows: all of them wait
                earliest += [free := heappushpop(ends, free + run) for run in block.runs]
                waited = True
            else:
                earliest += [
                    free := heappushpop(ends, (free if free > submitted else submitted) + run)
                    for submitted, run in zip(block.submitted, block.runs, strict=True)
                ]
                waited = any(map(gt, earliest, block.submitted))
            if clear and not waited:
                continue
            congested.append(index)
            if waited and visit(block, earliest):
                return last_end
            clear = index + 1 < len(blocks) and _is_clear(blocks[index + 1], earliest[-2], [free, *ends])
            if clear or index + 1 == len(blocks):
                # A worker's last end is never replaced by an earlier one: the latest of all is still among them.
                last_end = max(last_end, free, *ends)
        self._congested[workers] = congested
        return last_end


def _is_clear(block: _Block, last_start: float, ends: list[float]) -> bool:
    """Whether no task before `block` is queued or late any more at its first submission.

    `last_start` is when a worker was free for the task before it, `ends` when each worker's last task ends. No task
    ends earlier than it would unhindered, so if the ends to come are those of the unhindered tasks, each is on time.
    """
    at = block.submitted[0]
    held = block.held
    if held is None or last_start > at:
        return False
    to_come = [end for end in ends if end > at]
    return len(to_come) == len(held) and sorted(to_come) == held


def _blocks(submitted: list[float], runs: list[float]) -> list[_Block]:
    blocks: list[_Block] = []
    ends: list[float] = []
    for at in range(0, len(submitted), BLOCK):
        block_submitted, block_runs = submitted[at : at + BLOCK], runs[at : at + BLOCK]
        while ends and ends[0] <= block_submitted[0]:
            heappop(ends)
        blocks.append(_Block(block_submitted, block_runs, sorted(ends) if len(ends) <= LARGEST else None))
        for end in map(add, block_submitted, block_runs):
            heappush(ends, end)
    return blocks


def _largest(values: list[float], rank: int) -> float:
    """Return the value with this many larger ones (by position where values are equal). Sorts only its
    neighbourhood."""
    sample = sorted(values[::SAMPLE_STEP], reverse=True)
    place, margin = rank // SAMPLE_STEP, len(sample) // 32 + 1
    low = sample[min(place + margin, len(sample) - 1)]
    high = sample[max(place - margin, 0)]
    upper = [value for value in values if value >= low]
    near = [value for value in upper if value <= high]
    above = len(upper) - len(near)
    if above <= rank < len(upper):
        return sorted(near, reverse=True)[rank - above]
    return sorted(values, reverse=True)[rank]  # the sample was not like the rest


class Sizing(msgspec.Struct, frozen=True):
    """The advice on a pool's size: a number, that no number is enough (`suggested` None), or why there is none."""

    suggested: int | None
    #: Set where submitters wait for results before they submit more (see `arrivals`): they keep so many tasks in the
    #: pool, and as they would come at other times on another size, a replay of the record gives no number.
    population: int | None = None
    #: Set where the workers of this pool, itself full, submit the tasks, another one or the same: the same holds.
    feeder: str | None = None
    #: Whether there was a record to replay: the settings may say to keep none.
    recorded: bool = True
    #: Whether the replay at the present size gives what was recorded (see `fidelity`); if not, there is no number.
    faithful: bool = True
    #: The smallest size that is enough, where it is so large that `suggested` is only a first step.
    enough: int | None = None
    #: What submitters that wait for results would have had of other sizes (see `closed_loop`), the present one among
    #: them; empty where that is not known.
    points: tuple[SizingPoint, ...] = ()


class BatchCurve(msgspec.Struct, frozen=True):
    """How long a batch takes: (workers, seconds) for the present size and its doubles, and the number of workers from
    which on more of them help little."""

    tasks: int
    points: tuple[tuple[int, float], ...]
    enough: int


class SplitSizes(msgspec.Struct, frozen=True):
    """Workers for the slow functions of a pool and for the others, had each a pool of their own; None: no number."""

    slow: int | None
    others: int | None


def suggest(tasks: Sequence[Task], sustain_ns: int) -> int | None:
    """Return the smallest size up to LARGEST whose replay has no stretch of `sustain_ns`; None if there is none.

    `tasks` are in order of submission.
    """
    replayer = Replayer(tasks)

    def suffices(workers: int) -> bool:
        return replayer.longest_stretch(workers, stop_at_ns=sustain_ns) < sustain_ns

    low, high = 0, 1  # low never suffices
    while not suffices(high):
        if high == LARGEST:
            return None
        low, high = high, min(high * 2, LARGEST)
    while high - low > 1:
        middle = (low + high) // 2
        if suffices(middle):
            high = middle
        else:
            low = middle
    return high


def first_step(now: int, suggested: int) -> int:
    """Return the size to try first: a pool is not made more than eight times as large, or larger than 64, at once.

    The same, where it is no more than that, and where there is no such size above the present one.
    """
    step = min(FAR, FAR_TIMES * now)
    return min(suggested, step if step > now else 2 * now)


def curve(tasks: Sequence[Task], sizes: Sequence[int]) -> tuple[SizingPoint, ...]:
    """Wait and makespan (seconds) for each size (1 to LARGEST), in order; empty if nothing was recorded."""
    if not tasks:
        return ()
    replayer = Replayer(tasks)
    return tuple(replayer.point(size) for size in sorted(sizes))


def batch_curve(tasks: Sequence[Task], now: int) -> BatchCurve:
    """Return how long the tasks of a batch take on `now` workers, on twice and on four times as many."""
    replayer = Replayer(tasks)

    def makespan(workers: int) -> float:
        return replayer.waits(workers)[1]

    points = [(size, makespan(size)) for size in (now, 2 * now, 4 * now) if size <= LARGEST]
    # More workers never make it longer.
    low, high = now - 1, min(LARGEST, max(now, len(tasks)))
    least = (1 + HELPS_LITTLE) * makespan(high)
    while high - low > 1:
        middle = (low + high) // 2
        if makespan(middle) <= least:
            high = middle
        else:
            low = middle
    return BatchCurve(len(tasks), tuple((size, length / 1e9) for size, length in points), high)


def sizes_around(now: int, suggested: int | None) -> list[int]:
    """Return the sizes worth showing: halves and doubles of the present one, and the suggested one."""
    sizes = {max(1, now // 2), now, now * 2, now * 4}
    if suggested is not None:
        sizes |= {suggested, max(1, suggested - 1)}
    return sorted(size for size in sizes if size <= LARGEST)

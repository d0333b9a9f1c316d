"""How large a pool should have been: an exact first-come first-served replay of what was recorded.

The replay is Kiefer and Wolfowitz's recursion for a queue with n servers: a task starts when it has been submitted
and the earliest free worker is free, and holds that worker for its recorded run time. More workers never start any
task later, so the longest stretch can only shrink with n, and the smallest sufficient n is found by bisection.
Times are nanoseconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heapify, heapreplace

import msgspec

from poolscope.analysis.stretches import bridges
from poolscope.model import SizingPoint

#: The largest size that is ever suggested (section 2 of the contract).
LARGEST = 1000


class Task(msgspec.Struct, frozen=True, array_like=True):
    """One task of the record: when it was submitted and how long it ran, ns."""

    submitted_ns: int
    run_ns: int


class Replay(msgspec.Struct, frozen=True):
    """What a pool of one size would have done. `waits_ns` in order of submission; `longest_stretch_ns` of saturation;
    `makespan_ns` from the first submission to the last end."""

    waits_ns: list[int]
    longest_stretch_ns: int
    makespan_ns: int


def replay(tasks: Sequence[Task], workers: int, *, stop_at_ns: int | None = None) -> Replay:
    """Replays `tasks` (in order of submission) on `workers` workers.

    Ends early, with what it has by then, once a stretch has lasted `stop_at_ns`.
    """
    if not tasks:
        return Replay([], 0, 0)
    free = [tasks[0].submitted_ns] * min(workers, len(tasks))
    heapify(free)
    waits: list[int] = []
    begin = end = -1  # the stretch so far; none yet
    longest = last_end = 0
    for task in tasks:
        submitted = task.submitted_ns
        start = max(submitted, free[0])
        finish = start + task.run_ns
        heapreplace(free, finish)
        waits.append(start - submitted)
        last_end = max(last_end, finish)
        if start > submitted:
            # While a task waits first come, first served, no worker is idle: its wait is a time of saturation.
            if end < 0 or (submitted > end and not bridges(end - begin, submitted - end)):
                begin = submitted
            end = max(end, start)
            if end - begin > longest:
                longest = end - begin
                if stop_at_ns is not None and longest >= stop_at_ns:
                    break
    return Replay(waits, longest, last_end - tasks[0].submitted_ns)


def suggest(tasks: Sequence[Task], sustain_ns: int) -> int | None:
    """The smallest size up to LARGEST whose replay has no stretch of `sustain_ns`; None if there is none."""

    def suffices(workers: int) -> bool:
        return replay(tasks, workers, stop_at_ns=sustain_ns).longest_stretch_ns < sustain_ns

    if not suffices(LARGEST):
        return None
    low, high = 0, 1  # low never suffices
    while not suffices(high):
        low, high = high, min(high * 2, LARGEST)
    while high - low > 1:
        middle = (low + high) // 2
        if suffices(middle):
            high = middle
        else:
            low = middle
    return high


def curve(tasks: Sequence[Task], sizes: Sequence[int]) -> tuple[SizingPoint, ...]:
    """Waits and makespan (seconds) for each size; empty if nothing was recorded."""
    if not tasks:
        return ()
    points: list[SizingPoint] = []
    for size in sizes:
        result = replay(tasks, size)
        waits = sorted(result.waits_ns)
        points.append(
            SizingPoint(
                workers=size,
                wait_p50_seconds=waits[(len(waits) - 1) // 2] / 1e9,
                wait_p95_seconds=waits[(len(waits) - 1) * 95 // 100] / 1e9,
                makespan_seconds=result.makespan_ns / 1e9,
            )
        )
    return tuple(points)


def sizes_around(now: int, suggested: int | None) -> list[int]:
    """The sizes worth showing: halves and doubles of the present one, and the suggested one."""
    sizes = {max(1, now // 2), now, now * 2, now * 4}
    if suggested is not None:
        sizes |= {suggested, max(1, suggested - 1)}
    return sorted(size for size in sizes if size <= LARGEST)

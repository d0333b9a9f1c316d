"""The tasks of a recorded pool, unpacked. A session's numbers may be anything: no time here is beyond what fits."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterable, Iterator
from heapq import heappop, heappush
from typing import NamedTuple

from poolscope.model import PoolTrace

#: No run has lasted longer (ns): such times only come from a made-up session.
FOREVER_NS = 10**19


class Task(NamedTuple):
    """Times in ns from the start of the program; -1 for what had not happened. `worker` is 0 where it is not known."""

    function: int
    submitted: int
    started: int
    finished: int
    worker: int = 0


def tasks(trace: PoolTrace) -> Iterator[Task]:
    """Return the tasks as they were recorded, those without a possible order of times left out."""
    numbers, workers = _numbers(trace.tasks), _numbers(trace.workers)
    if not workers:
        workers = array("q", bytes(len(trace.tasks) // 4))
    for task in map(Task, *(numbers[field::4] for field in range(4)), workers):
        ended = task.finished if task.finished >= 0 else task.started
        if task.started < 0 or task.submitted <= task.started <= ended:
            yield task


def _numbers(packed: bytes) -> array[int]:
    numbers = array("q", packed)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers


def lanes(tasks: Iterable[tuple[int, int, int]]) -> list[int]:
    """Return the lane of each task (start, end, worker), from 0 on: a worker has one for all of its tasks.

    A worker that has ended leaves its lane to the next one, so that there are no more lanes than workers at a time. A
    task whose worker is not known has the first lane in which nothing runs when it starts.
    """
    tasks = list(tasks)
    spans: dict[int, tuple[int, int]] = {}
    for place, (start, end, worker) in enumerate(tasks):
        # A task of an unknown worker is one of its own.
        worker = worker or -1 - place
        since, until = spans.get(worker, (start, end))
        spans[worker] = min(since, start), max(until, end)
    of = _first_free(spans)
    return [of[worker or -1 - place] for place, (_, _, worker) in enumerate(tasks)]


def _first_free(spans: dict[int, tuple[int, int]]) -> dict[int, int]:
    """Return for each the first lane that is free from its begin on."""
    free: list[int] = []
    busy: list[tuple[int, int]] = []  # until, lane
    lane_of: dict[int, int] = {}
    for key, (since, until) in sorted(spans.items(), key=lambda item: (item[1][0], abs(item[0]))):
        while busy and busy[0][0] <= since:
            heappush(free, heappop(busy)[1])
        lane = heappop(free) if free else len(busy)
        heappush(busy, (until, lane))
        lane_of[key] = lane
    return lane_of

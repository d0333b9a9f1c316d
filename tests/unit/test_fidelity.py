"""Records that a replay gives, and such that it does not."""

from __future__ import annotations

import random

import pytest
from pool_support import poisson, simulate

from poolscope.signals.fidelity import Span, agrees

SECOND = 1_000_000_000


def record(load: list[tuple[float, float, int]], workers: int) -> list[tuple[int, int, int]]:
    return [(submitted, started, ended) for _, _, submitted, started, ended in simulate(load, workers)]


@pytest.mark.parametrize("workers", [1, 4, 16])
def test_a_pool_that_does_nothing_but_its_tasks(workers: int) -> None:
    rng = random.Random(workers)
    load = [(at, rng.expovariate(20), 1) for at in poisson(1.5 * workers * 20, 4.0, seed=1)]
    tasks = record(load, workers)
    assert agrees(tasks, workers)
    # From some moment on: the first for each worker start as they did.
    assert agrees([task for task in tasks if task[2] > 2.5 * SECOND], workers)
    until = int(4.5 * SECOND)
    still: list[Span] = [(at, start, end if end <= until else None) for at, start, end in tasks if start <= until]
    assert agrees(still, workers)
    assert not agrees(tasks, 2 * workers)


@pytest.mark.parametrize(("between", "like"), [(0.0, True), (0.005, True), (0.05, False), (0.5, False)])
def test_time_between_the_tasks(between: float, like: bool) -> None:
    """Callbacks, or results that are handed over: the worker comes back late from each task of 0.1 s."""
    occupied = record([(0.001 * number, 0.1 + between, 1) for number in range(200)], 4)
    assert agrees([(at, start, end - int(between * SECOND)) for at, start, end in occupied], 4) is like


def test_a_size_that_changed() -> None:
    """Eight workers for half of the time, and then four."""
    first = record([(0.0, 0.1, 1)] * 200, 8)
    later = [
        (at, start + 5 * SECOND // 2, end + 5 * SECOND // 2) for at, start, end in record([(0.0, 0.1, 1)] * 200, 4)
    ]
    assert not agrees([*first, *later], 4)
    assert not agrees([*first, *later], 8)


def test_fewer_tasks_than_workers_say_nothing() -> None:
    assert agrees([], 4)
    assert agrees(record([(0.0, 0.1, 1)] * 4, 4), 4)

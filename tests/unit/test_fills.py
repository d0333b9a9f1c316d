"""When half of the workers of a pool are taken, tasks waiting or not: against every event gone through one by one."""

import random

import pytest
from pool_support import ORIGIN, SECOND, TICK, batches, simulate

from poolscope.aggregation.occupancy import half
from poolscope.aggregation.pool_history import PoolHistory
from poolscope.aggregation.stretches import Stretch, StretchTracker
from poolscope.messages import PoolOpened


def told(load: list[tuple[float, float, int]], workers: int) -> tuple[list[Stretch], int]:
    """Stretches as they are settled tick by tick, and when the last of all was told."""
    opened = PoolOpened(1, "pool", "thread", "x", "app.py:1", workers, ORIGIN)
    history = PoolHistory(opened, pid=1, keep_tasks=100, wait_bounds=(), run_bounds=())
    for batch in batches(simulate(load, workers), workers):
        history.fold(batch)
        history.settle(batch.at_ns - 2 * TICK)
    history.finish(batch.at_ns)
    return history.occupancy.fills.closed, batch.at_ns


def one_by_one(load: list[tuple[float, float, int]], workers: int, end_ns: int) -> list[Stretch]:
    tasks = simulate(load, workers)
    # A worker that goes on at once was never idle.
    changes = [(end, 1, -1) for *_, end in tasks] + [
        (start, 0 if start > sub else 2, 1) for _, _, sub, start, _ in tasks
    ]
    tracker, occupied = StretchTracker(), 0
    moments = sorted(changes)
    for place, (at, _, change) in enumerate(moments):
        occupied += change
        if place + 1 == len(moments) or moments[place + 1][0] > at:
            tracker.turn(occupied >= half(workers), at)
    tracker.advance(end_ns)
    tracker.finish()
    return tracker.closed


@pytest.mark.parametrize("seed", range(12))
def test_it_is_that_of_all_events(seed: int) -> None:
    rng = random.Random(seed)
    workers, run = rng.choice((2, 3, 8)), rng.uniform(0.02, 0.3)
    rate = rng.uniform(0.3, 1.5) * workers / run
    load = [(rng.uniform(0, 6), rng.expovariate(1 / run), 1) for _ in range(int(6 * rate))]
    found, end_ns = told(load, workers)
    expected = one_by_one(load, workers, end_ns)
    assert [(each.begin_ns, each.end_ns) for each in found] == [(each.begin_ns, each.end_ns) for each in expected]


def test_one_worker_is_no_crowd() -> None:
    assert told([(0.0, 3.0, 1)], 1)[0] == []


def test_a_pool_that_is_full_all_the_time_without_a_queue() -> None:
    found, _ = told([(number * 0.1, 0.4, 1) for number in range(100)], 4)
    assert found[0].length_ns > 9 * SECOND

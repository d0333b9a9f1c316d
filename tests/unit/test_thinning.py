"""What is told by number, against the same pool told task by task."""

from __future__ import annotations

import random
from collections.abc import Iterator
from heapq import heappop, heappush
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poolscope.aggregation.pool_history import PoolHistory
from poolscope.messages import PoolOpened, parse
from poolscope.probe.transport import thinning
from poolscope.probe.transport.thinning import Thinning, split_batch

ORIGIN = 10**9
WORKERS = 3
Message = tuple[Any, ...]


def history() -> PoolHistory:
    opened = PoolOpened(1, "pool", "thread", "x.Pool", "app.py:1", WORKERS, ORIGIN)
    bounds = (1_000, 50_000, 10**6)
    return PoolHistory(opened, pid=1, keep_tasks=10_000, wait_bounds=bounds, run_bounds=bounds)


def take(subject: PoolHistory, message: Message) -> None:
    if message[0] == "pool_sums":
        subject.add_sums(parse(message))  # type: ignore[arg-type]
    else:
        subject.fold(parse(message))  # type: ignore[arg-type]


class Load:
    """A pool whose tasks come in bursts; some are cancelled, some break, some run for long."""

    def __init__(self, seed: int, count: int) -> None:
        self.rng = rng = random.Random(seed)
        free = [(0, worker) for worker in range(1, WORKERS + 1)]
        self.arrivals: list[tuple[int, int]] = []
        self.finished: list[tuple[int, int, int, int, int]] = []
        self.ended: dict[str, list[tuple[int, int, int]]] = {"cancelled": [], "broken": []}
        at = ORIGIN
        for _ in range(count):
            at += rng.choice((0, 1, 10, 1_000, 30_000 * (rng.random() < 0.1)))
            function = rng.choice((1, 1, 1, 2, 3))
            self.arrivals.append((function, at))
            if rng.random() < 0.1:
                self.ended[rng.choice(("cancelled", "broken"))].append((function, at, at + rng.randrange(50_000)))
                continue
            when, worker = heappop(free)
            started = max(at, when)
            ended = started + rng.choice((1, 100, 3_000, rng.choice((7, 200_000))))
            heappush(free, (ended, worker))
            self.finished.append((worker, function * 2 + (rng.random() < 0.2), at, started, ended))
        self.end = max(
            [ended for *_, ended in self.finished] + [when for each in self.ended.values() for *_, when in each]
        )

    def batches(self) -> Iterator[Message]:
        at = ORIGIN
        while at <= self.end:
            begin, at = at, at + self.rng.randrange(1_000, 60_000)
            # As each worker's log has it.
            finished = sorted(
                (task for task in self.finished if begin <= task[4] < at), key=lambda task: (task[0], task[3], task[4])
            )
            late = at - self.rng.randrange(500)
            # What a worker was in when it was looked at, which it may have ended by the time its log was read.
            running = {
                worker: (worker, key >> 1, submitted, started)
                for worker, key, submitted, started, ended in self.finished
                if started <= late < ended
            }
            ended = [[n for task in each if begin <= task[2] < at for n in task] for each in self.ended.values()]
            arrivals = [n for function, when in self.arrivals if begin <= when < at for n in (function, when)]
            flat = [[n for task in tasks for n in task] for tasks in (finished, running.values())]
            yield ("pool_batch", 1, at, WORKERS, WORKERS, at - ORIGIN, 1, *flat, *ended, arrivals)


def totals(subject: PoolHistory, at: int) -> dict[str, Any]:
    return {
        "counts": [
            getattr(subject, name)
            for name in ("submitted", "succeeded", "failed", "cancelled", "broken", "rejected", "started")
        ],
        "queue": (subject.queue_depth, subject.oldest_submitted_ns),
        "running": {worker: (task.function, task.started_ns) for worker, task in subject.running.items()},
        "time": (subject.busy_ns(at), subject.queued_ns(at), subject.cancelled_wait_ns),
        "first": subject.first_submit_ns,
        "last": subject.last_finish_ns,
        "functions": {
            function: (
                each.started,
                each.wait.total,
                each.wait.maximum,
                each.run.count,
                each.run.total,
                each.run.maximum,
            )
            for function, each in subject.functions.items()
        },
        "buckets": (sum(subject.wait.buckets), sum(subject.run.buckets)),
        "cpu": subject.cpu_ns,
    }


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from((30, 300)), st.sampled_from((7, 60, 30_000)))
def test_counts_sums_and_the_queue_stay_exact(seed: int, count: int, most_numbers: int) -> None:
    exact, subject, thinned = history(), history(), Thinning()
    rng = random.Random(seed)
    behind = rng.random() < 0.3
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(thinning, "MOST_NUMBERS", most_numbers)
        patch.setattr(thinning, "SAMPLE_TASKS", 10)
        load = Load(seed, count)
        for batch in load.batches():
            take(exact, batch)
            if rng.random() < 0.2:
                behind = not behind
            if behind:
                thinned.add(batch)
                continue
            parts = [*thinned.take(), *split_batch(batch)]
            thinned.passed(batch)
            sizes = [sum(len(item) for item in part if isinstance(item, list)) for part in parts]
            assert max(sizes) <= max(most_numbers, 6 * WORKERS)
            for part in parts:
                take(subject, part)
            subject.settle(batch[2] - 20_000)
            assert totals(subject, batch[2]) == totals(exact, batch[2])
        for part in thinned.take():
            take(subject, part)
    assert totals(subject, load.end) == totals(exact, load.end)
    subject.finish(load.end + 10**6)
    sweep = subject.occupancy._sweep
    assert (sweep.queued, sweep.occupied) == (subject.queue_depth, len(subject.running))
    assert (
        sum(point.finished for point in subject.occupancy.timeline(ORIGIN))
        == subject.succeeded + subject.failed - subject.broken
    )

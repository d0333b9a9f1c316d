"""Closed loops in virtual time, replayed on other sizes, against the same clients on those sizes."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from functools import partial
from heapq import heapify, heappop, heappush
from statistics import fmean

import pytest
from pool_support import poisson

from poolscope.signals.closed_loop import Visit, closed_loop

SECOND = 1_000_000_000
END = 6.0
RUN = 0.1

RUNS: dict[str, Callable[[random.Random], float]] = {
    "fixed": lambda rng: RUN,
    "exponential": lambda rng: rng.expovariate(1 / RUN),
    "bimodal": lambda rng: RUN / 2 if rng.random() < 0.8 else 3 * RUN,
}

#: function, submitted, started, finished (seconds)
Done = list[tuple[int, float, float, float]]


def clients(
    starts: list[float],
    workers: int,
    run: Callable[[], float],
    think: Callable[[], float],
    others: list[tuple[float, float]] | None = None,
    count: int = sys.maxsize,
) -> Done:
    """Clients that begin at these times and go on, each after it has its result and has thought, and other tasks (when,
    run) that come by themselves."""
    free = [0.0] * workers
    coming = [(at, 1, 0.0) for at in starts] + [(at, 2, run) for at, run in others or []]
    heapify(coming)
    done: Done = []
    while coming and len(done) < count and coming[0][0] < END * (1 if count == sys.maxsize else 100):
        at, function, seconds = heappop(coming)
        start = max(at, heappop(free))
        end = start + (run() if function == 1 else seconds)
        heappush(free, end)
        if function == 1:
            heappush(coming, (end + think(), 1, 0.0))
        done.append((function, at, start, end))
    return done


def seen(done: Done) -> list[Visit]:
    """What is known of them in the end."""
    return [
        Visit(
            function,
            round(at * SECOND),
            round(end * SECOND) if end <= END else sys.maxsize,
            round((end - start) * SECOND),
        )
        for function, at, start, end in done
    ]


def at_once(count: int) -> list[float]:
    return [0.0001 * number for number in range(count)]


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize(("count", "workers"), [(100, 40), (24, 6)])
@pytest.mark.parametrize("think", [0.0, 0.0002, 0.002, 0.01])
def test_the_replay_is_what_the_same_clients_do_on_another_size(
    run: str, count: int, workers: int, think: float
) -> None:
    def load(workers: int, upto: int = sys.maxsize) -> Done:
        rng = random.Random(1)  # the same runs, in order of arrival
        thinking = random.Random(2)
        return clients(
            at_once(count),
            workers,
            partial(RUNS[run], rng),
            lambda: thinking.expovariate(1 / think) if think else 0.0,
            count=upto,
        )

    done = load(workers)
    loop = closed_loop(seen(done))
    assert loop is not None
    assert count - 1 <= loop.population <= count
    for size in (workers, 2 * workers, count - 1, count):
        real, point = load(size, len(done)), loop.point(size)
        waits = sorted(start - at for _, at, start, _ in real)
        last = len(waits) - 1
        assert point.wait_p50_seconds == pytest.approx(waits[last * 50 // 100], rel=0.15, abs=0.05 * RUN)
        assert point.wait_p95_seconds == pytest.approx(waits[last * 95 // 100], rel=0.15, abs=0.05 * RUN)
        assert point.makespan_seconds == pytest.approx(max(end for *_, end in real), rel=0.15)


def test_nobody_waits_where_there_is_a_worker_for_each() -> None:
    rng = random.Random(1)
    loop = closed_loop(seen(clients(at_once(20), 5, partial(rng.expovariate, 10), lambda: 0.0)))
    assert loop is not None
    assert loop.point(20).wait_p95_seconds == 0
    assert fmean(loop.thinks_ns) == pytest.approx(0, abs=2)


@pytest.mark.parametrize("think", [0.1, 0.5])
def test_clients_that_think_for_as_long_as_a_run_are_not_counted(think: float) -> None:
    rng = random.Random(1)
    done = clients(at_once(40), 8, partial(rng.expovariate, 10), partial(rng.expovariate, 1 / think))
    assert closed_loop(seen(done)) is None


def test_more_and_more_clients_are_not_replayed() -> None:
    rng = random.Random(1)
    starts = [0.2 * number for number in range(30)]
    assert closed_loop(seen(clients(starts, 4, partial(rng.expovariate, 10), lambda: 0.001))) is None


def test_an_open_load_is_not_replayed_as_clients() -> None:
    done = clients([], 4, lambda: 0.0, lambda: 0.0, [(at, RUN) for at in poisson(60.0, END, seed=1)])
    assert closed_loop(seen(done)) is None


@pytest.mark.parametrize("rate", [3.0, 20.0])
def test_clients_beside_others_are_not_replayed(rate: float) -> None:
    """The clients alone keep to their number, and all tasks do so less well."""
    rng = random.Random(1)
    others = [(at, 0.005) for at in poisson(rate, END, seed=1)]
    done = clients(at_once(16), 4, partial(rng.expovariate, 10), lambda: 0.0, others)
    assert closed_loop(seen(done)) is None


def test_clients_that_call_one_function_or_another_are_replayed() -> None:
    rng = random.Random(1)
    done = clients(at_once(16), 4, partial(rng.expovariate, 10), lambda: 0.0)
    visits = [Visit(rng.choice((1, 2, 3)), visit.submitted_ns, visit.finished_ns, visit.run_ns) for visit in seen(done)]
    loop = closed_loop(visits)
    assert loop is not None
    assert loop.population == 16


def test_too_few_rounds_say_nothing() -> None:
    done = clients(at_once(20), 4, lambda: RUN, lambda: 0.0, count=50)
    assert closed_loop(seen(done)) is None
    assert closed_loop([]) is None

"""Closed loops told from open loads, in virtual time: first come, first served, with the clients that each load has."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from functools import partial
from heapq import heapify, heappop, heappush

import pytest
from pool_support import poisson

from poolscope.signals.arrivals import (
    POPULATION_NATS,
    Population,
    Span,
    answers_in_part,
    closed_by_answers,
    closed_by_growth,
    closed_population,
    follow,
)

SECOND = 1_000_000_000
#: Twenty were tried when the thresholds were set.
SEEDS = 1

RUNS: dict[str, Callable[[random.Random], float]] = {
    "fixed": lambda rng: 0.05,
    "exponential": lambda rng: rng.expovariate(20),
    "bimodal": lambda rng: 0.02 if rng.random() < 0.8 else 0.17,
    "lognormal": lambda rng: rng.lognormvariate(-3.1, 0.5),
}


def open_loop(arrivals: Iterator[float], workers: int, run: Callable[[], float]) -> list[tuple[float, float, float]]:
    """(submitted, started, finished) of tasks that come whatever the pool does."""
    free = [0.0] * workers
    done = []
    for at in arrivals:
        start = max(at, heappop(free))
        end = start + run()
        heappush(free, end)
        done.append((at, start, end))
    return done


def closed_loop(
    clients: int, workers: int, run: Callable[[], float], think: Callable[[], float], seconds: float = 20.0
) -> list[tuple[float, float, float]]:
    """The same of clients that submit, wait for the result, think, and submit again."""
    free = [0.0] * workers
    coming = [think() + 0.001 * client for client in range(clients)]
    heapify(coming)
    done = []
    while (at := heappop(coming)) < seconds:
        start = max(at, heappop(free))
        end = start + run()
        heappush(free, end)
        heappush(coming, end + think())
        done.append((at, start, end))
    return sorted(done)


def found_in(done: list[tuple[float, float, float]], workers: int) -> Population | None:
    waited = [(at, start) for at, start, _ in done if start > at]
    spans: list[Span] = [(int(at * SECOND), int(end * SECOND)) for at, _, end in done]
    return closed_population(
        spans, workers, int(waited[0][0] * SECOND), int(max(start for _, start in waited) * SECOND)
    )


def population(done: list[tuple[float, float, float]], workers: int) -> int | None:
    found = found_in(done, workers)
    return found.tasks if found is not None else None


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize(("workers", "clients"), [(1, 2), (1, 3), (2, 5), (4, 8), (4, 16), (8, 50), (16, 200)])
@pytest.mark.parametrize("think", [0.0, 0.001])
def test_clients_that_wait_for_their_results_are_a_closed_loop(
    run: str, workers: int, clients: int, think: float
) -> None:
    for seed in range(SEEDS):
        rng = random.Random(f"{run}{workers}{seed}")
        done = closed_loop(
            clients, workers, partial(RUNS[run], rng), partial(rng.expovariate, 1 / think) if think else lambda: 0.0
        )
        found = population(done, workers)
        assert found is not None
        assert clients - 1 <= found <= clients


@pytest.mark.parametrize("workers", [4, 8])
def test_clients_that_think_for_as_long_as_a_run_are_a_closed_loop(workers: int) -> None:
    for seed in range(SEEDS):
        rng = random.Random(seed)
        done = closed_loop(
            8 * workers, workers, partial(rng.expovariate, 20), partial(rng.expovariate, 20), seconds=60.0
        )
        assert population(done, workers) is not None


@pytest.mark.parametrize("clients", [24, 40])
@pytest.mark.parametrize("think", [0.1, 0.5])
def test_clients_in_step_are_a_closed_loop(clients: int, think: float) -> None:
    """Eight workers end at about one moment, and a while later eight tasks come: the population has two values."""
    done = closed_loop(clients, 8, lambda: 0.2, lambda: think * 0.2, seconds=15.0)
    assert population(done, 8) == clients


def test_the_longer_a_population_stays_the_less_likely_it_does_by_chance() -> None:
    short, long = (found_in(closed_loop(9, 3, lambda: 0.05, lambda: 0.0, seconds=each), 3) for each in (4.0, 8.0))
    assert short is not None
    assert long is not None
    assert long.nats == pytest.approx(2 * short.nats, rel=0.05)
    few = found_in(closed_loop(9, 3, lambda: 0.05, lambda: 0.0, seconds=0.5), 3)
    assert few is not None
    assert few.nats == POPULATION_NATS


def rates(name: str, capacity: float, rng: random.Random) -> Iterator[float]:
    """Arrivals (seconds) of loads that come to more than `capacity`, or to a little less."""
    kind, _, factor = name.partition(" ")
    at = 0.0
    if kind == "poisson":
        yield from poisson(float(factor) * capacity, 20.0, seed=rng.randrange(10**6))
    elif kind == "fixed":
        for _ in range(int(20 * float(factor) * capacity)):
            at += 1 / (float(factor) * capacity)
            yield at
    elif kind == "ramp":
        while at < 20:
            at += rng.expovariate(float(factor) * capacity * (0.1 + at / 10))
            yield at
    elif kind == "clumps":  # of eight, at random
        for moment in poisson(float(factor) * capacity / 8, 20.0, seed=rng.randrange(10**6)):
            yield from [moment] * 8
    elif kind == "bursts":
        for burst in range(10):
            yield from [burst * 2.0 + number * 0.0005 for number in range(int(float(factor) * capacity * 2))]
    elif kind == "batch":
        yield from [0.5] * 1000
    elif kind == "backlog":  # a batch, and then as much as the pool can do
        yield from [0.5] * 100
        yield from sorted(poisson(capacity, 20.0, seed=rng.randrange(10**6), begin=0.5))


#: Kinds of arrivals, and how much comes for what the pool can do.
OPEN = [f"{kind} {factor}" for kind in ("poisson", "fixed") for factor in (0.95, 1.03, 1.1, 2)]
OPEN += [
    "clumps 0.95",
    "clumps 1.03",
    "clumps 1.1",
    "ramp 1",
    "ramp 2",
    "bursts 0.5",
    "bursts 0.8",
    "bursts 1.2",
    "batch",
    "backlog",
]


@pytest.mark.slow
@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("workers", [1, 4, 16])
@pytest.mark.parametrize(
    "load",
    OPEN,
)
def test_a_load_that_comes_whatever_the_pool_does_is_none(run: str, workers: int, load: str) -> None:
    for seed in range(SEEDS):
        rng = random.Random(f"{run}{workers}{load}{seed}")
        mean = sum(RUNS[run](random.Random(number)) for number in range(2000)) / 2000
        done = open_loop(rates(load, workers / mean, rng), workers, partial(RUNS[run], rng))
        if any(start > at for at, start, _ in done):
            assert population(done, workers) is None, seed


def test_batches_one_after_the_other_are_a_closed_loop() -> None:
    rng = random.Random(1)
    at, done = 0.0, []
    for _ in range(5):
        batch = open_loop(iter([at + 0.0001 * number for number in range(100)]), 4, lambda: rng.expovariate(20))
        done += batch
        at = max(end for *_, end in batch) + 0.001
    assert population(done, 4) == 100
    assert population(done[:100], 4) is None, "one batch is an open load"


def starts(done: list[tuple[float, float, float]]) -> list[tuple[int, bool]]:
    return [(int(start * SECOND), start > at) for at, start, _ in done]


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("begin", [True, False])
def test_what_the_workers_of_a_full_pool_submit_follows_it(run: str, begin: bool) -> None:
    rng = random.Random(run)
    feeder = open_loop(poisson(200, 10.0, seed=1), 4, partial(RUNS[run], rng))
    submitted = [int((start + 0.0002 if begin else end - 0.0002) * SECOND) for _, start, end in feeder]
    assert follow(submitted, starts(feeder))
    assert not follow(submitted[:15], starts(feeder)), "too few to tell"
    idle = [(at, False) for at, _ in starts(feeder)]
    assert not follow(submitted, idle), "a pool that is not full is no bottleneck"


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("load", ["poisson 1", "poisson 2", "fixed 1.1", "fixed 2", "ramp 2", "bursts 1.2", "batch"])
def test_what_comes_at_the_same_time_as_the_tasks_of_a_full_pool_does_not_follow_it(run: str, load: str) -> None:
    rng = random.Random(f"{run}{load}")
    other = open_loop(poisson(200, 20.0, seed=1), 4, partial(RUNS[run], rng))
    arrivals = [int(at * SECOND) for at in rates(load, 80, rng)]
    assert not follow(arrivals, starts(other))
    assert not follow([int(at * SECOND) for at, *_ in other], starts(other)), "nor do that pool's own arrivals"


def a_little_more(seconds: float, rng: random.Random) -> float:
    return seconds + 0.0001 + rng.expovariate(10_000)


def by_a_clock(every: float, together: int, seconds: float, rng: random.Random) -> Iterator[float]:
    """So many at each beat, which comes up to a millisecond late."""
    for beat in range(int(seconds / every)):
        late = rng.uniform(0, 0.001)
        yield from [beat * every + late + 0.00005 * number for number in range(together)]


@pytest.mark.parametrize(
    ("every", "together", "run", "workers"),
    [(0.1, 3, 0.5, 10), (0.1, 3, 0.5, 14), (0.1, 30, 0.5, 140), (0.1, 1, 0.1, 1), (0.1, 2, 0.1, 1), (0.2, 4, 0.2, 3)],
)
@pytest.mark.parametrize("seconds", [3.0, 20.0])
def test_a_clock_that_the_runs_divide_follows_no_pool(
    every: float, together: int, run: float, workers: int, seconds: float
) -> None:
    """Each task ends at a beat of the clock, a little late, and the next one starts."""
    for seed in range(SEEDS):
        rng = random.Random(seed)
        done = open_loop(by_a_clock(every, together, seconds, rng), workers, partial(a_little_more, run, rng))
        assert not follow([int(at * SECOND) for at, *_ in done], starts(done)), seed


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("step", [0.0, 0.01])
def test_a_full_pool_that_keeps_time_like_a_clock_is_followed_all_the_same(workers: int, step: float) -> None:
    """Its tasks sleep for a tenth of a second each, in step or one after the other."""
    rng = random.Random(1)
    begin = (step * number for number in range(workers))
    feeder = open_loop(iter([*begin, *([0.05] * 50 * workers)]), workers, partial(a_little_more, 0.1, rng))
    submitted = [int((start + rng.uniform(0.00001, 0.00003)) * SECOND) for _, start, _ in feeder]
    assert follow(submitted, starts(feeder))


def growing_clients(
    workers: int, run: Callable[[], float], think: Callable[[], float], *, every: float, seconds: float
) -> list[tuple[float, float, float]]:
    """Another client each so many seconds; (submitted, started, ended) of their tasks."""
    free, ready, done = [0.0] * workers, [every * number for number in range(int(seconds / every))], []
    heapify(free)
    while ready and (at := heappop(ready)) < seconds:
        start = max(at, heappop(free))
        heappush(free, end := start + run())
        heappush(ready, end + think())
        done.append((at, start, end))
    return done


def grown(done: list[tuple[float, float, float]], workers: int) -> int | None:
    waited = [(at, start) for at, start, _ in done if start > at]
    found = closed_by_growth(
        [(int(at * SECOND), int(end * SECOND)) for at, _, end in done],
        workers,
        int(waited[0][0] * SECOND),
        int(waited[-1][1] * SECOND),
    )
    return found.tasks if found is not None else None


def answered(done: list[tuple[float, float, float]], function: int = 1) -> list[tuple[int, int, int, int]]:
    return [(function, int(at * SECOND), int(start * SECOND), int(end * SECOND)) for at, start, end in done]


@pytest.mark.parametrize("workers", [4, 16])
def test_more_and_more_clients_are_a_closed_loop(workers: int) -> None:
    for seed in range(SEEDS):
        rng = random.Random(seed)
        run, think = partial(rng.expovariate, 20), partial(rng.expovariate, 200)
        found = grown(growing_clients(workers, run, think, every=0.3, seconds=20.0), workers)
        assert found is not None
        assert found <= 67


@pytest.mark.slow
@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("load", [load for load in OPEN if not load.startswith("fixed") or load.endswith(" 2")])
def test_a_load_that_grows_by_itself_is_no_closed_loop(run: str, load: str) -> None:
    """But for one by a clock with runs that are all alike, which strays as little as any client."""
    for seed in range(SEEDS):
        rng = random.Random(f"{run}{load}{seed}")
        mean = sum(RUNS[run](random.Random(number)) for number in range(2000)) / 2000
        done = open_loop(rates(load, 4 / mean, rng), 4, partial(RUNS[run], rng))
        if any(start > at for at, start, _ in done):
            assert grown(done, 4) is None, seed
            assert closed_by_answers(answered(done)) is None, seed
            assert closed_by_answers(answered(done), answers_in_part) is None, seed


def test_clients_of_a_function_that_go_on_as_soon_as_they_are_answered_are_a_closed_loop() -> None:
    """Sockets that ask a thread again and again for the next message, more and more of them, beside few short tasks."""
    rng = random.Random(1)
    sockets = growing_clients(6, lambda: 1.0, lambda: 0.0005, every=0.6, seconds=20.0)
    others = [(at, at, at + 0.005) for at in poisson(20.0, 20.0, seed=1)]
    found = closed_by_answers([*answered(sockets), *answered(others, 2)])
    assert found is not None
    assert 6 < found.tasks <= 33
    assert closed_by_answers(answered(others, 2)) is None
    heavy = [(at, at, at + 5.0) for at in poisson(20.0, 20.0, seed=rng.randrange(10**6))]
    assert closed_by_answers([*answered(sockets), *answered(heavy, 2)]) is None, "most of the time is another load's"


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("rate", [5.0, 30.0])
def test_clients_beside_others_of_the_same_function_are_closed_in_part(run: str, rate: float) -> None:
    for seed in range(SEEDS):
        rng = random.Random(f"{run}{rate}{seed}")
        free, done = [0.0] * 6, []
        coming = [(0.001 * client, True) for client in range(24)]
        coming += [(at, False) for at in poisson(rate, 20.0, seed=rng.randrange(10**6))]
        heapify(coming)
        while coming and coming[0][0] < 20.0:
            at, again = heappop(coming)
            start = max(at, heappop(free))
            end = start + RUNS[run](rng)
            heappush(free, end)
            done.append((at, start, end))
            if again:
                heappush(coming, (end + 0.0002, True))
        assert closed_by_answers(answered(done), answers_in_part) is not None, seed


@pytest.mark.parametrize(
    ("every", "together", "run", "workers"), [(0.1, 3, 0.5, 10), (0.1, 1, 0.3, 2), (0.1, 2, 0.1, 1)]
)
def test_a_clock_that_the_runs_divide_answers_nothing(every: float, together: int, run: float, workers: int) -> None:
    for seed in range(SEEDS):
        rng = random.Random(seed)
        done = open_loop(by_a_clock(every, together, 10.0, rng), workers, partial(a_little_more, run, rng))
        assert closed_by_answers(answered(done), answers_in_part) is None, seed

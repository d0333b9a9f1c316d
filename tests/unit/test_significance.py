"""How unlikely a stretch is for a healthy pool: the formulas, and what they say of pools that are healthy."""

import math
import random
from itertools import accumulate

import msgspec
import pytest
from pool_support import VirtualPool, poisson

from poolscope.aggregation.regularity import GAPS_NEEDED, MOST_REGULAR, regularity
from poolscope.signals.significance import (
    ALARMS_PER_HOUR,
    AT_ONCE_NATS,
    HEALTHY_UTILISATION,
    LEAST_UTILISATION,
    SAME_MOMENT,
    Before,
    LoadTest,
    Runs,
)


def runs(count: int, each: float) -> Runs:
    return Runs(count, count * each, count * each * each)


#: Four workers, tasks of 0.1 s; ten tasks queued after a second in which 60 came.
CROWD = LoadTest(workers=4, stretch_seconds=1.0, queue=10, arrivals=60, seconds=1.0, runs=runs(40, 0.1))


def but(**changes: object) -> LoadTest:
    return msgspec.structs.replace(CROWD, **changes)


def test_the_arrivals_of_a_crowd() -> None:
    expected = HEALTHY_UTILISATION * 40
    assert CROWD.surprise == pytest.approx(60 * math.log(60 / expected) - (60 - expected))


def test_a_queue_that_came_at_once() -> None:
    # By the arrivals alone it would be beyond all bounds.
    assert but(queue=200, arrivals=0, seconds=0.0).surprise == pytest.approx(-200 * math.log(HEALTHY_UTILISATION))
    expected = HEALTHY_UTILISATION * 40 * SAME_MOMENT * 0.1
    for count in (12, 24):
        nats = count * math.log(count / expected) - (count - expected)
        assert but(arrivals=count, queue=0, seconds=0.0).surprise == pytest.approx(nats - AT_ONCE_NATS)


def test_a_clump_is_more_likely_than_a_crowd_that_lasts() -> None:
    """Twelve in a tenth of a second are soon worked off. As many more as that in each tenth are not."""
    expected = HEALTHY_UTILISATION * 40 * 0.1
    clump = 12 * math.log(12 / expected) - (12 - expected)
    assert but(arrivals=12, queue=0, seconds=0.1).surprise == pytest.approx(clump - AT_ONCE_NATS)
    assert but(arrivals=120, queue=0, seconds=1.0).surprise == pytest.approx(10 * clump)
    # Where a second is not asked for, the stretch is what there is.
    short = but(arrivals=40, queue=0, seconds=0.1, stretch_seconds=0.5)
    expected = HEALTHY_UTILISATION * 40 * 0.5
    sustained = 40 * math.log(40 / expected) - (40 - expected)
    at_once = 40 * math.log(40 / 3.2) - 36.8 - AT_ONCE_NATS
    assert short.surprise == pytest.approx(max(sustained, at_once))


def test_a_stretch_between_regular_arrivals_is_less_likely() -> None:
    assert CROWD.surprise is not None
    assert but(regularity=2.5).surprise == pytest.approx(2.5 * CROWD.surprise)


def test_how_regular_arrivals_are() -> None:
    rng = random.Random(3)
    gaps = {
        "clock": [1.0] * 99,
        "clock that gets faster": [1.0 / (1 + 0.01 * number) for number in range(99)],
        "poisson": [rng.expovariate(1.0) for _ in range(99)],
        "bursts": [1.0 if number % 9 == 0 else 0.001 for number in range(99)],
        "all at once": [0.0] * 99,
        "few": [1.0] * GAPS_NEEDED,
    }
    found = {kind: regularity(int(at * 1e9) for at in accumulate(each)) for kind, each in gaps.items()}
    assert found == {kind: MOST_REGULAR if kind.startswith("clock") else 1.0 for kind in gaps}
    # Of the shape of a gamma process it is what is sure.
    shapes = [
        regularity(int(at * 1e9) for at in accumulate(rng.gammavariate(3, 1) for _ in range(99))) for _ in range(9)
    ]
    assert 1.5 < sorted(shapes)[4] < 3


def test_a_long_stretch() -> None:
    decay = 100 * 40 * (1 - math.sqrt(HEALTHY_UTILISATION)) ** 2
    assert but(stretch_seconds=100.0).surprise == pytest.approx(decay)


def test_a_load_that_was_low_before_makes_it_less_likely() -> None:
    before = [Before(10.0, arrivals, runs(100, 0.1)) for arrivals in (50, 280, 390)]
    surprises = [but(before=each).surprise for each in before]
    low, middle, high = (LEAST_UTILISATION, (280 + 2 * math.sqrt(280) + 3) / 400, HEALTHY_UTILISATION)
    for utilisation, surprise in zip((low, middle, high), surprises, strict=True):
        expected = utilisation * 40
        assert surprise == pytest.approx(60 * math.log(60 / expected) - (60 - expected))
    # What came just before says nothing.
    assert but(before=Before(0.1, 0, runs(100, 0.1))).surprise == CROWD.surprise


def test_runs_longer_than_before_are_unlikely_too() -> None:
    before = Before(10.0, 390, runs(360, 0.1))
    slow = but(before=before, runs=runs(40, 0.2), arrivals=20, queue=0)
    times = 0.2 / 0.11
    variation = max(1.0, (360 * 0.1**2 + 40 * 0.2**2) / 400 / 0.11**2 - 1)
    assert slow.surprise == pytest.approx(40 * (times - 1 - math.log(times)) / variation)
    # Where runs vary that much anyway, it says less.
    wild = Before(10.0, 390, Runs(360, 36.0, 360 * 0.1))
    less = msgspec.structs.replace(slow, before=wild).surprise
    assert less is not None
    assert slow.surprise is not None
    assert less < slow.surprise / 5


def test_what_is_known_beside_it_adds_up() -> None:
    assert CROWD.surprise is not None
    assert but(nats=9.0).surprise == pytest.approx(CROWD.surprise + 9.0)


def test_nothing_is_known_without_a_run() -> None:
    assert but(runs=Runs()).surprise is None
    assert but(runs=Runs()).surprise_needed == math.inf


def test_short_tasks_have_to_show_more() -> None:
    slow, fast = CROWD.surprise_needed, but(runs=runs(40, 0.001)).surprise_needed
    assert fast == pytest.approx(slow + math.log(100))
    # At the very least what is one alarm in so many hours.
    assert but(workers=1, runs=runs(40, 1e6)).surprise_needed == pytest.approx(-math.log(ALARMS_PER_HOUR))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_random_arrivals_at_a_healthy_load_are_no_trouble(seed: int) -> None:
    rng = random.Random(seed)
    workers, run = rng.choice((2, 4, 8)), rng.uniform(0.05, 0.2)
    rate = rng.uniform(0.6, 0.8) * workers / run
    load = [(at, rng.expovariate(1 / run), 1) for at in poisson(rate, 60.0, seed)]
    pool = VirtualPool(workers).run(load)
    assert {finding.pattern for finding in pool.case.findings()} <= {"burst"}


@pytest.mark.parametrize("seed", range(6))
def test_half_as_much_again_as_there_is_room_for_is(seed: int) -> None:
    rng = random.Random(seed)
    workers, run = rng.choice((4, 8)), rng.uniform(0.05, 0.1)
    calm = [(at, run, 1) for at in poisson(0.4 * workers / run, 5.0, seed)]
    pool = VirtualPool(workers).run(calm + [(at, run, 1) for at in poisson(1.5 * workers / run, 5.0, seed, 5.0)])
    [finding] = [finding for finding in pool.case.findings() if finding.severity != "info"]
    assert (finding.pattern, finding.cause) == ("async_then_serial", "blocking_io")
    assert finding.detected_after_seconds < 3.5


def test_clients_that_wait_for_their_results_are_told_at_last() -> None:
    """Three workers, nine clients: the queue is never long, but no random load keeps it as it is."""
    load, ready, free = [], [0.0] * 9, [0.0] * 3
    while (at := min(ready)) < 15:
        ready.remove(at)
        start = max(at, min(free))
        free[free.index(min(free))] = start + 0.1
        ready.append(start + 0.1)
        load.append((at, 0.1, 1))
    pool = VirtualPool(3).run(load)
    [finding] = [finding for finding in pool.case.findings() if finding.severity != "info"]
    assert finding.pattern == "async_then_serial"
    assert finding.evidence["closed_population"] == 9
    assert finding.advice.suggested_max_workers is None

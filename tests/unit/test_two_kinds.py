"""Whether the calls of a function are of two kinds, and what is said of them."""

import random

import pytest
from signals_support import but

from poolscope.rules.reason import Criteria, Scene
from poolscope.rules.table import diagnose
from poolscope.rules.wording import every
from poolscope.signals.two_kinds import two_kinds

MS = 1_000_000


def test_every_third_call_runs_into_a_timeout() -> None:
    rng = random.Random(1)
    runs = [int((900 if number % 3 == 0 else 2) * MS * rng.uniform(0.8, 1.3)) for number in range(300)]
    found = two_kinds(7, runs)
    assert found is not None
    assert (found.function, round(1 / found.share)) == (7, 3)
    assert found.long_seconds == pytest.approx(0.95, rel=0.1)
    assert found.short_seconds == pytest.approx(0.002, rel=0.1)
    assert found.mean_seconds == pytest.approx(sum(runs) / 300 / 1e9)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100))
def test_what_varies_by_itself_is_of_one_kind(seed: int) -> None:
    rng = random.Random(seed)
    draw = rng.choice(
        (
            lambda: rng.expovariate(1.0),
            lambda: rng.lognormvariate(0, 1.5),
            lambda: rng.uniform(0.1, 9),
            lambda: rng.paretovariate(1.5),
            lambda: 1.0,
        )
    )
    assert two_kinds(1, [int(1e6 * draw()) for _ in range(rng.choice((30, 100, 1000)))]) is None


@pytest.mark.parametrize(
    "runs",
    [
        [2 * MS] * 20 + [900 * MS] * 9,  # too few
        [2 * MS] * 96 + [900 * MS] * 4,  # of one kind
        [2 * MS] * 1000 + [900 * MS] * 1,
        [100 * MS] * 60 + [500 * MS] * 30,  # not that far apart
        [2 * MS] * 960 + [80 * MS] * 20,  # that takes little of the time
        [MS * number for number in range(1, 1000)],
        [],
        [0] * 100,
    ],
)
def test_what_is_of_one_kind(runs: list[int]) -> None:
    assert two_kinds(1, runs) is None


def test_a_clock_that_stands_does_no_harm() -> None:
    found = two_kinds(1, [0] * 60 + [900 * MS] * 30)
    assert found is not None
    assert found.short_seconds == 0


@pytest.mark.parametrize(
    ("share", "function", "expected"),
    [
        (1 / 3, "fetch", "every third call of fetch takes"),
        (0.5, None, "every second call takes"),
        (0.1, "fetch", "every tenth call of fetch takes"),
        (0.05, None, "one call in 20 takes"),
        (0.68, "fetch", "7 calls in 10 of fetch take"),
    ],
)
def test_how_often(share: float, function: str | None, expected: str) -> None:
    assert every(share, function) == expected


def test_the_sentence_says_so() -> None:
    found = two_kinds(1, [2 * MS] * 200 + [900 * MS] * 100)
    signals = but(kinds=found, run_p50_seconds=0.002)
    diagnosis = diagnose(signals, Criteria())
    sentence = diagnosis.sentence(Scene(pool="pool", since_seconds=1.0, name_of={1: "fetch"}.get))
    assert sentence.endswith("for 2.0 ms of its own work; every third call of fetch takes 900 ms, the others 2.0 ms.")
    # The mean of both is what a task takes, not the median.
    assert signals.amplification == pytest.approx((1.0 + 0.3013) / 0.3013, rel=0.01)

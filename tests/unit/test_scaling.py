"""Runs against the number of workers that were busy: grown with it, alike, or not known."""

import random

import pytest
from pool_support import VirtualPool

from poolscope.signals.scaling import Start, grow

#: Runs in a full pool, as parts of their median.
FULL = [0.9 + number * 0.002 for number in range(100)]


def starts(crowds: list[float], alone: float | None, run: float | None = None, noise: float = 0.0) -> list[Start]:
    """Tasks that run in proportion to the crowd, or for `run`."""
    rng = random.Random(1)
    return [Start(crowd, (crowd if run is None else run) * (1 + rng.uniform(-noise, noise)), alone) for crowd in crowds]


ONE_BY_ONE = [place / 12 for place in range(1, 12)]


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_runs_that_follow_the_crowd_have_grown(noise: float) -> None:
    assert grow(starts(ONE_BY_ONE, 0.1, noise=noise), FULL) is True
    assert grow(starts(ONE_BY_ONE, None, noise=noise), FULL) is True
    assert grow(starts([0.3] * 2 + [0.5] * 2, 0.1, noise=noise), FULL) is True


def test_runs_that_are_as_long_as_alone_in_every_crowd_have_not() -> None:
    assert grow(starts([0.6, 0.7, 0.8] * 5, 0.25, 0.25), FULL) is False
    # Once what they wait for is slower, those that fill the pool take as long as those after them.
    assert grow(starts([0.6, 0.7] * 10, 0.25, 0.25) + starts([0.5, 0.75], 0.25, 1.0), FULL) is False


def test_runs_that_were_as_long_with_few_at_once_have_not() -> None:
    calm = [start._replace(calm=True) for start in starts([0.3, 0.5] * 5, None, 1.0)]
    assert grow(calm, FULL) is False
    assert grow(calm[:9], FULL) is None
    assert grow(starts([0.3, 0.5] * 5, None, 1.0), FULL) is None  # more came beside them


@pytest.mark.parametrize(
    ("before", "full"),
    [
        ([], FULL),
        (starts([0.1, 0.2] * 10, 0.2, 0.2), FULL),  # never more at once than can get on
        (starts([0.6] * 9, 0.25, 0.25), FULL),  # too few
        (starts(ONE_BY_ONE, None, 1.0), FULL),  # all at once, and alike
        (starts([0.3, 0.4, 0.5], 0.1, 1.0), FULL),  # as long as in the full pool from the first on
        (starts(ONE_BY_ONE, None), FULL[:9]),
        (starts([0.375] * 30 + [0.5] * 3, None, 0.3, 0.1), FULL),  # as long in each crowd, and now longer
    ],
)
def test_nothing_is_known(before: list[Start], full: list[float]) -> None:
    assert grow(before, full) is None


@pytest.mark.parametrize("workers", [4, 6, 8, 12, 16])
def test_random_runs_hardly_ever_look_grown(workers: int) -> None:
    rng = random.Random(workers)
    found = 0
    for _ in range(500):
        runs = [rng.expovariate(1.0) for _ in range(100)]
        median = sorted(runs)[50]
        filling = [Start(place / workers, rng.expovariate(1.0) / median, None) for place in range(1, workers)]
        found += grow(filling, [run / median for run in runs]) is not None
    assert found <= 2


def hindered(workers: int, alone: float, count: int) -> list[tuple[float, float, int]]:
    """Tasks all at once, of which one at a time gets on: each waits for those before it, and then for a full pool."""
    filling = [(place / 1000, alone * place, 1) for place in range(1, workers + 1)]
    return filling + [(workers / 1000, alone * workers, 1)] * (count - workers)


def test_a_batch_whose_first_tasks_queue_for_one_place() -> None:
    (finding,) = VirtualPool(8).run(hindered(8, 0.05, 100)).case.findings()
    assert finding.cause == "shared_resource"
    assert "the more of them run at once, the longer each takes" in finding.summary


def test_a_batch_of_tasks_that_do_not_hinder_each_other() -> None:
    (finding,) = VirtualPool(8).run([(0.0, 0.4, 1)] * 100).case.findings()
    assert (finding.pattern, finding.cause, finding.advice.action) == ("batch", "blocking_io", "none")
    assert "how long one takes with fewer at once was not seen" in finding.advice.text


def test_a_load_that_was_seen_with_few_at_once() -> None:
    calm = [(number * 0.05, 0.12, 1) for number in range(100)]
    (finding,) = VirtualPool(6).run(calm + [(5 + number * 0.01, 0.12, 1) for number in range(300)]).case.findings()
    assert finding.cause == "blocking_io"
    assert finding.advice.text.endswith("if they run as long as they did.")


def test_what_they_wait_for_becomes_slower() -> None:
    """In the calm several ran at once, and none for longer than alone."""
    calm = [(number * 0.2, 0.1, 1) for number in range(25)] + [(5 + number * 0.025, 0.1, 1) for number in range(80)]
    slow = [(7 + number * 0.025, 0.4, 1) for number in range(200)]
    (finding,) = VirtualPool(6).run(calm + slow).case.findings()
    assert finding.cause == "blocking_io"
    assert "which takes 4.0 times as long as before" in finding.summary
    assert "see first to what has become slower: a task takes 400 ms, and took 100 ms before" in finding.advice.text

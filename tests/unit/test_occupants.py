"""Facts from lines and functions: who waits for whom, and who holds the workers."""

import random

import pytest

from poolscope.analysis.occupants import FunctionShare, contention, hogs
from poolscope.messages import StackSample

WAIT, HOLD, OTHER = ("/app/db.py", 8, "save"), ("/app/db.py", 9, "save"), ("/app/db.py", 20, "load")
NOBODY: frozenset[int] = frozenset()


def sample(at: int, workers: int, elsewhere: dict[int, tuple[str, int, str]]) -> StackSample:
    places: dict[tuple[str, int, str], list[int]] = {}
    for worker in range(1, workers + 1):
        places.setdefault(elsewhere.get(worker, WAIT), []).append(worker)
    return StackSample(1, at, [(found, [line]) for line, found in places.items()])


def resource(workers: int, holders: int, count: int = 20, *, noise: float = 0.0) -> list[StackSample]:
    """`holders` workers at a time hold it, others each time; now and then one is seen in between."""
    rng = random.Random(workers)
    samples = []
    for at in range(count):
        holding = rng.sample(range(1, workers + 1), holders + (rng.random() < noise))
        samples.append(sample(at, workers, dict.fromkeys(holding, HOLD)))
    return samples


@pytest.mark.parametrize(("workers", "holders"), [(16, 1), (20, 2), (10, 1), (4, 1), (64, 8), (12, 4)])
def test_a_constant_number_gets_past_the_line(workers: int, holders: int) -> None:
    found = contention(resource(workers, holders, noise=0.1), workers, lasting=NOBODY, starts=200)
    assert found is not None
    assert (found.holders, found.waiting, found.holding) == (holders, (WAIT,), (HOLD,))


@pytest.mark.parametrize("seed", range(200))
def test_two_stages_scatter(seed: int) -> None:
    rng = random.Random(seed)
    workers, share = rng.choice([4, 8, 16, 32]), rng.uniform(0.03, 0.4)
    samples = [
        sample(at, workers, {worker: HOLD for worker in range(1, workers + 1) if rng.random() < share})
        for at in range(rng.randint(10, 50))
    ]
    found = contention(samples, workers, lasting=NOBODY, starts=200)
    # of ten samples that hardly anybody is elsewhere in, eight may be alike
    assert found is None or (workers * share < 1.5 and len(samples) < 20)


@pytest.mark.parametrize(
    ("samples", "workers"),
    [
        (resource(16, 1, count=9), 16),  # too few
        (resource(8, 5), 8),  # most hold it, few wait
        (resource(8, 0), 8),  # all at one line
        ([sample(at, 8, {3: OTHER}) for at in range(50)], 8),  # one consumer that keeps its worker
        ([sample(at, 4, dict.fromkeys(range(1, at % 4), HOLD)) for at in range(50)], 4),  # it changes
        (resource(8, 1), 16),  # half of the workers are between two tasks
    ],
)
def test_what_is_no_shared_resource(samples: list[StackSample], workers: int) -> None:
    assert contention(samples, workers, lasting=frozenset({3}), starts=200) is None


def test_it_takes_tasks_that_come_and_go() -> None:
    assert contention(resource(8, 2), 8, lasting=NOBODY, starts=19) is None
    assert contention(resource(8, 2), 8, lasting=NOBODY, starts=20) is not None


def test_tasks_may_do_something_else_before() -> None:
    samples = []
    for at in range(30):
        elsewhere = {1 + at % 8: HOLD} | {1 + (at + ahead) % 8: OTHER for ahead in range(1, 1 + at % 4)}
        samples.append(sample(at, 8, elsewhere))
    found = contention(samples, 8, lasting=NOBODY, starts=100)
    assert found is not None
    assert (found.holders, found.waiting, found.holding) == (1, (WAIT,), (HOLD,))


def test_the_unlucky_may_wait_all_the_time() -> None:
    samples = [sample(at, 8, {1: OTHER, 2: HOLD}) for at in range(30)]
    found = contention(samples, 8, lasting=frozenset({1, *range(3, 9)}), starts=100)
    assert found is not None
    assert (found.holders, found.waiting, found.holding) == (1, (WAIT,), (HOLD,))


def share(function: int, starts: int, run: int, wait: int = 0) -> FunctionShare:
    return FunctionShare(function, starts, starts * run, [wait] * starts, [run] * starts)


def test_few_long_tasks_hold_the_pool() -> None:
    found = hogs([share(1, 900, 10, 500), share(2, 80, 1000), share(3, 20, 3000)])
    assert found is not None
    assert found.functions == (3, 2)
    assert (found.busy_share, found.start_share) == (pytest.approx(140 / 149), pytest.approx(0.1))
    assert (found.others_wait_ns, found.others_run_ns) == (500, 10)


@pytest.mark.parametrize(
    "shares",
    [
        [],
        [share(1, 100, 10)],
        [share(1, 100, 10), share(2, 100, 11)],  # alike
        [share(1, 10, 10), share(2, 100, 1000)],  # the long ones are the many
        [share(1, 900, 10), share(2, 1, 1000)],  # hold little
        [share(1, 9, 10), share(2, 3, 1000)],  # too few of the others
    ],
)
def test_pools_that_nobody_hogs(shares: list[FunctionShare]) -> None:
    assert hogs(shares) is None


def test_those_on_their_way_there_are_no_holders() -> None:
    """Ten samples: one worker holds it each time, and three others are elsewhere most of the time."""
    samples = []
    for at in range(10):
        ahead = 3 if at < 9 else 1
        elsewhere = {1 + at: HOLD} | {1 + (at + step) % 12: OTHER for step in range(1, 1 + ahead)}
        samples.append(sample(at, 12, elsewhere))
    found = contention(samples, 12, lasting=NOBODY, starts=100)
    assert found is not None
    assert (found.holders, found.holding) == (1, (HOLD,))

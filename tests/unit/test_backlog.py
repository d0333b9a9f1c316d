"""The backlog against a list that is searched for each task that leaves."""

import random
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolscope.probe.transport.backlog import SLACK, Backlog

ORDERS = {
    "first": lambda rng, size: 0,
    "last": lambda rng, size: size - 1,
    "any": lambda rng, size: rng.randrange(size),
}


@pytest.mark.parametrize("order", ORDERS)
@given(seed=st.integers(0, 10**6), same_moment=st.sampled_from([1, 3]))
def test_whatever_leaves_the_others_wait(order: str, seed: int, same_moment: int) -> None:
    rng = random.Random(seed)
    backlog, expected, at = Backlog(), [], 0
    for _ in range(20):
        fresh = [(at + number // same_moment) for number in range(rng.randrange(30))]
        at += 30
        # Of tasks of the same moment any may be left: they are given the same function.
        expected += [(when, when % 3) for when in fresh]
        rng.shuffle(fresh)
        backlog.add(fresh, [when % 3 for when in fresh])
        leaving = [expected.pop(ORDERS[order](rng, len(expected)))[0] for _ in range(rng.randrange(len(expected) + 1))]
        backlog.leave(leaving)
        assert list(backlog.waiting()) == expected
        assert (backlog.depth, backlog.total_ns) == (len(expected), sum(when for when, _ in expected))
        assert backlog.oldest_ns == (expected[0][0] if expected else None)


def test_a_task_that_left_before_it_was_told_of_never_waits() -> None:
    backlog = Backlog()
    backlog.leave([5])
    backlog.add([5, 6], [1, 1])
    backlog.leave([])
    assert (backlog.oldest_ns, list(backlog.waiting())) == (6, [(6, 1)])


@pytest.mark.parametrize("starved", [0, 1])
def test_memory_follows_what_waits_not_what_has_passed(starved: int) -> None:
    """Also if the first task waits for ever while all later ones leave."""
    backlog = Backlog()
    backlog.add([0] * starved, [1] * starved)
    tracemalloc.start()
    try:
        for at in range(1, 20 * SLACK, 10):
            backlog.add(list(range(at, at + 10)), [1] * 10)
            backlog.leave(range(at, at + 10))
        used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert used < 200 * SLACK
    assert backlog.depth == starved

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poolscope.analysis.sizing import LARGEST, Task, curve, replay, sizes_around, suggest
from poolscope.analysis.stretches import bridges

SECOND = 1_000_000_000


def batch(count: int, run: float) -> list[Task]:
    return [Task(0, int(run * SECOND)) for _ in range(count)]


def by_hand(tasks: list[Task], workers: int) -> tuple[list[int], int]:
    """The same queue told differently: time steps from event to event, with a list for the queue."""
    free, waits, queue, at = workers, {}, [], 0
    ends: list[int] = []
    coming = list(enumerate(tasks))
    intervals: list[tuple[int, int]] = []
    while coming or queue or ends:
        at = min([t.submitted_ns for _, t in coming[:1]] + ends[:1])
        while ends and ends[0] <= at:
            ends.pop(0)
            free += 1
        while coming and coming[0][1].submitted_ns <= at:
            queue.append(coming.pop(0))
        while queue and free:
            number, task = queue.pop(0)
            waits[number] = at - task.submitted_ns
            if waits[number]:
                intervals.append((task.submitted_ns, at))
            free -= 1
            ends = sorted([*ends, at + task.run_ns])
    longest, begin, end = 0, None, None
    for low, high in sorted(intervals):
        if begin is None or (low > end and not bridges(end - begin, low - end)):
            begin, end = low, high
        end = max(end, high)
        longest = max(longest, end - begin)
    return [waits[number] for number in range(len(tasks))], longest


@settings(max_examples=150)
@given(
    st.lists(st.tuples(st.integers(0, 10**8), st.integers(1, 10**9)), min_size=1, max_size=40),
    st.integers(1, 6),
)
def test_the_replay_is_a_first_come_first_served_queue(spec: list[tuple[int, int]], workers: int) -> None:
    at, tasks = 0, []
    for gap, run in spec:
        at += gap
        tasks.append(Task(at, run))
    result = replay(tasks, workers)
    assert (result.waits_ns, result.longest_stretch_ns) == by_hand(tasks, workers)


def test_makespan_and_waits_of_a_batch() -> None:
    result = replay(batch(8, 1.0), 4)
    assert result.makespan_ns == 2 * SECOND
    assert result.waits_ns == [0] * 4 + [SECOND] * 4
    assert result.longest_stretch_ns == SECOND


@settings(max_examples=60)
@given(st.integers(0, 10_000))
def test_the_suggested_size_is_the_smallest_that_suffices(seed: int) -> None:
    rng = random.Random(seed)
    at, tasks = 0, []
    for _ in range(200):
        at += int(rng.expovariate(100) * SECOND)
        tasks.append(Task(at, int(rng.expovariate(10) * SECOND)))
    found = suggest(tasks, SECOND // 4)
    assert found is not None
    assert replay(tasks, found).longest_stretch_ns < SECOND // 4
    assert found == 1 or replay(tasks, found - 1).longest_stretch_ns >= SECOND // 4


def test_no_size_is_enough_for_a_flood() -> None:
    assert suggest(batch(3 * LARGEST, 1.0), SECOND) is None


def test_without_tasks_one_worker_is_enough() -> None:
    assert suggest([], SECOND) == 1
    assert curve([], [1, 2]) == ()


def test_the_curve_shows_waits_and_makespan() -> None:
    points = curve(batch(8, 1.0), [4, 8])
    assert [point.workers for point in points] == [4, 8]
    assert points[0].wait_p95_seconds == pytest.approx(1.0)
    assert points[1].wait_p95_seconds == 0
    assert points[1].makespan_seconds == pytest.approx(1.0)


def test_the_sizes_shown_hold_the_present_and_the_suggested_one() -> None:
    assert sizes_around(4, 10) == [2, 4, 8, 9, 10, 16]
    assert sizes_around(1, None) == [1, 2, 4]

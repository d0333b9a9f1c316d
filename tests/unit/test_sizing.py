import random
from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poolscope.aggregation.replay import Task
from poolscope.aggregation.stretches import bridges
from poolscope.signals import sizing
from poolscope.signals.sizing import LARGEST, Replayer, batch_curve, curve, first_step, sizes_around, suggest

SECOND = 1_000_000_000


def batch(count: int, run: float) -> list[Task]:
    return [Task(0, int(run * SECOND)) for _ in range(count)]


@dataclass
class ByHand:
    waits: list[int]
    longest: int
    makespan: int

    def percentile(self, percent: int) -> float:
        return sorted(self.waits)[(len(self.waits) - 1) * percent // 100] / 1e9


def by_hand(tasks: list[Task], workers: int) -> ByHand:
    """The same queue told differently: time steps from event to event, with a list for the queue."""
    idle, waits = workers, {}
    queue: list[tuple[int, Task]] = []
    coming = list(enumerate(tasks))
    ends: list[int] = []
    intervals: list[tuple[int, int]] = []
    at = 0
    while coming or queue or ends:
        at = min([t.submitted_ns for _, t in coming[:1]] + ends[:1])
        while ends and ends[0] <= at:
            ends.pop(0)
            idle += 1
        while coming and coming[0][1].submitted_ns <= at:
            queue.append(coming.pop(0))
        while queue and idle:
            number, task = queue.pop(0)
            waits[number] = at - task.submitted_ns
            if waits[number]:
                intervals.append((task.submitted_ns, at))
            idle -= 1
            ends = sorted([*ends, at + task.run_ns])
    longest = 0
    begin, end = min(intervals, default=(0, 0))
    for low, high in sorted(intervals):
        if low > end and not bridges(end - begin, low - end):
            begin, end = low, high
        end = max(end, high)
        longest = max(longest, end - begin)
    return ByHand([waits[number] for number in range(len(tasks))], longest, at - tasks[0].submitted_ns)


def spaced(spec: list[tuple[int, int]]) -> list[Task]:
    at, tasks = 0, []
    for gap, run in spec:
        at += gap
        tasks.append(Task(at, run))
    return tasks


#: Gaps and run times that often coincide (small numbers), and others that bridge or do not (up to a second).
MOMENTS = st.one_of(st.integers(0, 4), st.integers(0, 10**8), st.integers(0, 10**9))
RECORDS = st.lists(st.tuples(MOMENTS, MOMENTS), min_size=1, max_size=60).map(spaced)


@pytest.fixture(params=[1, 3, 256], autouse=True)
def block(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks so small that short records have many of them."""
    monkeypatch.setattr(sizing, "BLOCK", request.param)


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(RECORDS, st.lists(st.integers(1, 8), min_size=1, max_size=5))
def test_the_replay_is_a_first_come_first_served_queue(tasks: list[Task], sizes: list[int]) -> None:
    replayer = Replayer(tasks)  # the sizes in any order: what one replay has learned serves the next
    for size in sizes:
        expected = by_hand(tasks, size)
        waits, makespan = replayer.waits(size)
        assert [wait for wait in waits if wait > 0] == [wait for wait in expected.waits if wait]
        assert makespan == expected.makespan
        assert replayer.longest_stretch(size) == expected.longest
        point = replayer.point(size)
        assert (point.wait_p50_seconds, point.wait_p95_seconds) == (expected.percentile(50), expected.percentile(95))


@settings(max_examples=100, deadline=None)
@given(RECORDS)
def test_more_workers_never_start_a_task_later_nor_lengthen_a_stretch(tasks: list[Task]) -> None:
    several = [by_hand(tasks, workers) for workers in range(1, 8)]
    for fewer, more in pairwise(several):
        assert all(late >= early for late, early in zip(fewer.waits, more.waits, strict=True))
        assert fewer.longest >= more.longest


@settings(max_examples=60, deadline=None)
@given(RECORDS, st.integers(1, 2 * SECOND))
def test_the_suggested_size_is_the_smallest_that_suffices(tasks: list[Task], sustain_ns: int) -> None:
    smallest = next(size for size in range(1, LARGEST) if by_hand(tasks, size).longest < sustain_ns)
    assert suggest(tasks, sustain_ns) == smallest


@pytest.mark.slow
@pytest.mark.parametrize("load", [0.7, 1.0, 1.5])
def test_a_long_random_record_replayed_in_one_go_and_size_by_size_gives_the_same(load: float) -> None:
    rng = random.Random(int(load * 10))
    tasks = spaced([(int(rng.expovariate(40 * load) * SECOND), int(rng.expovariate(10) * SECOND)) for _ in range(2000)])
    sizes = range(1, 17)
    assert curve(tasks, sizes) == tuple(Replayer(tasks).point(size) for size in sizes)
    for size in (2, 4, 5):
        expected = by_hand(tasks, size)
        assert Replayer(tasks).point(size).wait_p95_seconds == expected.percentile(95)


def test_a_percentile_is_exact_where_the_sample_misleads() -> None:
    waits = [float(number if number % 64 else 10**9 + number) for number in range(6400)]
    for rank in (0, 99, 100, 101, 3200, 6399):
        assert sizing._largest(waits, rank) == sorted(waits, reverse=True)[rank]


def test_makespan_and_waits_of_a_batch() -> None:
    waits, makespan = Replayer(batch(8, 1.0)).waits(4)
    assert makespan == 2 * SECOND
    assert [wait for wait in waits if wait > 0] == [SECOND] * 4
    assert Replayer(batch(8, 1.0)).longest_stretch(4) == SECOND


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


@pytest.mark.parametrize(
    ("now", "suggested", "first"),
    [(4, 11, 11), (4, 32, 32), (4, 33, 32), (20, 64, 64), (20, 65, 64), (64, 100, 100), (64, 300, 128), (1, 9, 8)],
)
def test_the_first_step_is_no_more_than_eight_times_as_large_and_no_more_than_64(
    now: int, suggested: int, first: int
) -> None:
    assert first_step(now, suggested) == first


def test_a_batch_on_its_doubles_and_from_where_on_more_help_little() -> None:
    curve = batch_curve([*batch(99, 0.1), Task(0, SECOND)], 4)
    assert curve.points == ((4, 3.4), (8, 2.2), (16, 1.6))
    assert curve.enough == 50
    short = batch_curve(batch(8, 0.1), 8)
    assert (short.points[0], short.enough) == ((8, 0.1), 8)

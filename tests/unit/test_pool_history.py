"""A pool's history against the same pool told by its construction (tests/pool_support.py)."""

import random
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pool_support import ORIGIN, SECOND, TICK, VirtualPool, batches, simulate

from poolscope.aggregation.pool_history import PATIENCE_NS, PoolHistory
from poolscope.aggregation.sampled_lines import worker_lines
from poolscope.messages import PoolBatch, PoolOpened, PoolSums, Stack, StackSample
from poolscope.signals.measure import rate

OPENED = PoolOpened(1, "pool", "thread", "x.ThreadPoolExecutor", "app.py:1", 2, ORIGIN)


def history(keep_tasks: int = 1000) -> PoolHistory:
    return PoolHistory(OPENED, pid=1, keep_tasks=keep_tasks, wait_bounds=(), run_bounds=())


def batch(at: float, **events: list[int]) -> PoolBatch:
    empty: dict[str, list[int]] = {
        "finished": [],
        "running": [],
        "cancelled": [],
        "broken": [],
        "arrivals": [],
    }
    return PoolBatch(1, ns(at), 2, 2, 0, 0, **{**empty, **events})


def ns(seconds: float) -> int:
    return ORIGIN + round(seconds * SECOND)


def saturated_by_hand(tasks: list[tuple[int, int, int, int, int]], workers: int) -> int:
    """Time with a task waiting: first come, first served, no worker is idle then."""
    edges = sorted({at for _, _, sub, start, _ in tasks for at in (sub, start)})
    return sum(
        right - left
        for left, right in pairwise(edges)
        if any(sub <= left and right <= start for _, _, sub, start, _ in tasks)
    )


def occupied_by_hand(tasks: list[tuple[int, int, int, int, int]]) -> int:
    """Time with any task in the pool."""
    total, until = 0, 0
    for _, _, submitted, _, end in sorted(tasks, key=lambda task: task[2]):
        total += max(0, end - max(until, submitted))
        until = max(until, end)
    return total


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 5))
def test_totals_integrals_and_saturation_are_those_of_the_construction(seed: int, workers: int) -> None:
    rng = random.Random(seed)
    load, at = [], 0.0
    for _ in range(120):
        at += rng.expovariate(20)
        load.append((at, rng.expovariate(10), rng.randrange(1, 4)))
    pool = VirtualPool(workers).run(load)
    tasks = simulate(load, workers)
    end = pool.history.last_batch_ns
    assert pool.history.submitted == pool.history.succeeded == pool.history.started == len(load)
    assert pool.history.queue_depth == 0
    assert pool.history.busy_ns(end) == sum(e - s for *_, s, e in tasks)
    assert pool.history.queued_ns(end) == sum(s - sub for _, _, sub, s, _ in tasks)
    assert pool.history.saturated_ns == saturated_by_hand(tasks, workers)
    assert pool.history.occupied_ns == occupied_by_hand(tasks)
    assert pool.history.occupancy.peak_active <= workers
    for function in (1, 2, 3):
        mine = [task for task in tasks if task[1] == function]
        assert pool.history.functions[function].started == len(mine)
        assert pool.history.functions[function].run.total == sum(e - s for *_, s, e in mine)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6))
def test_at_each_moment_every_task_is_somewhere(seed: int) -> None:
    rng = random.Random(seed)
    load = [(rng.random() * 3, rng.expovariate(5), 1) for _ in range(60)]
    subject = history()
    for each in batches(simulate(load, 2), 2):
        subject.fold(each)
        subject.settle(each.at_ns - 2 * TICK)
        done = subject.succeeded + subject.failed + subject.cancelled
        assert subject.submitted == done + subject.queue_depth + len(subject.running)


def test_a_cancelled_task_leaves_the_queue_at_once() -> None:
    subject = history()
    subject.fold(batch(1, arrivals=[1, ns(0.1), 1, ns(0.2), 1, ns(0.3)], running=[1, 1, ns(0.1), ns(0.1)]))
    assert subject.queue_depth == 2
    assert subject.oldest_queued_ns(ns(1)) == ns(1) - ns(0.2)
    subject.fold(batch(2, cancelled=[1, ns(0.2), ns(1.5)], running=[1, 1, ns(0.1), ns(0.1)]))
    assert (subject.queue_depth, subject.cancelled) == (1, 1)
    assert subject.oldest_queued_ns(ns(2)) == ns(2) - ns(0.3)
    assert subject.longest_running_ns(ns(2)) == ns(2) - ns(0.1)
    assert subject.queued_ns(ns(2)) == (ns(1.5) - ns(0.2)) + (ns(2) - ns(0.3))


def test_tasks_of_a_broken_pool_failed_without_a_start() -> None:
    subject = history()
    subject.fold(batch(1, arrivals=[1, ns(0.1), 1, ns(0.2)], broken=[1, ns(0.1), ns(0.5), 1, ns(0.2), ns(0.5)]))
    assert (subject.failed, subject.started, subject.queue_depth) == (2, 0, 0)


def test_two_tasks_submitted_in_the_same_nanosecond_are_two() -> None:
    subject = history()
    subject.fold(batch(1, arrivals=[1, ns(0.1), 1, ns(0.1)]))
    assert subject.queue_depth == 2
    subject.fold(batch(2, finished=[1, 2, ns(0.1), ns(1.1), ns(1.2)]))
    assert subject.queue_depth == 1


def test_a_task_seen_running_and_finished_in_one_batch_counts_once() -> None:
    subject = history()
    subject.fold(
        batch(
            1,
            arrivals=[1, ns(0.1)],
            running=[1, 1, ns(0.1), ns(0.2)],
            finished=[1, 2, ns(0.1), ns(0.2), ns(0.3)],
        )
    )
    assert (subject.started, subject.succeeded, len(subject.running)) == (1, 1, 0)


def test_a_failure_is_told_from_a_success() -> None:
    subject = history()
    subject.fold(batch(1, arrivals=[1, ns(0.1)], finished=[1, 1 * 2 + 1, ns(0.1), ns(0.2), ns(0.3)]))
    assert (subject.succeeded, subject.failed) == (0, 1)


def test_a_worker_between_two_tasks_is_not_idle() -> None:
    """Both workers change tasks with 5 ms in between while a third waits: one stretch, and all of it saturated."""
    subject = history()
    arrivals = [n for at in (0.0, 0.0, 0.01, 0.02, 0.03) for n in (1, ns(at))]
    done = []
    for worker, first, second, end in ((1, 0.0, 0.01, 0.9), (2, 0.0, 0.02, 1.0)):
        done += [worker, 2, ns(first), ns(0.001), ns(0.5), worker, 2, ns(second), ns(0.505), ns(end)]
    done += [1, 2, ns(0.03), ns(0.905), ns(1.2)]
    subject.fold(batch(2, arrivals=arrivals, finished=done))
    subject.settle(ns(3))
    (stretch,) = subject.occupancy.stretches.closed
    assert stretch.begin_ns == ns(0.01)
    assert stretch.end_ns == ns(0.905)
    assert subject.saturated_ns == stretch.length_ns


def test_the_unhindered_run_is_that_of_lonely_tasks() -> None:
    lonely = [(number * 1.0, 0.2, 1) for number in range(25)]
    crowded = [(30.0, 0.7, 1) for _ in range(40)]
    pool = VirtualPool(8).run(lonely + crowded)
    assert len(pool.history.occupancy.unhindered) >= 25
    assert sorted(run for _, run in pool.history.occupancy.unhindered)[12] == pytest.approx(0.2 * SECOND)


def test_kept_tasks_are_bounded_and_the_newest() -> None:
    pool = VirtualPool(2, keep_tasks=50).run([(number * 0.01, 0.001, 1) for number in range(400)])
    kept = list(pool.history.tasks.kept)
    assert 50 <= len(kept) <= 63
    assert max(submitted for _, submitted, _, _ in kept) == ns(3.99)


def test_queued_and_cancelled_tasks_are_replayed_with_their_functions_usual_run() -> None:
    subject = history()
    subject.fold(
        batch(
            1,
            arrivals=[1, ns(0.0), 1, ns(0.3), 1, ns(0.4)],
            finished=[1, 2, ns(0.0), ns(0.0), ns(0.2)],
            cancelled=[1, ns(0.3), ns(0.9)],
        )
    )
    runs = [task.run_ns / SECOND for task in subject.tasks.for_replay(ns(1))]
    assert runs == pytest.approx([0.2, 0.2, 0.2], rel=0.02)


def test_the_timeline_stays_bounded_and_keeps_its_integrals() -> None:
    pool = VirtualPool(1).run([(number * 1.0, 0.5, 1) for number in range(300)])
    points = pool.history.occupancy.timeline(ORIGIN)
    assert len(points) <= 2400
    assert sum(point.active * point.width_seconds for point in points) == pytest.approx(150, rel=0.001)
    assert sum(point.finished for point in points) == 300


def test_lines_are_counted_within_a_window_only() -> None:
    subject = history()
    line = ("app.py", 3, "fetch")
    for at in (1.0, 2.0, 3.0):
        subject.sample(StackSample(1, ns(at), [Stack([line], 0, [1, 1, 0, 2, 1, 0, 3, 1, 0, 4, 1, 0])]))
    groups, total = worker_lines(subject.stacks, ns(1.5), ns(2.5))
    assert (groups, total) == ([((line,), 4)], 4)


def test_tasks_told_out_of_the_order_of_workers_are_the_same_tasks() -> None:
    first, second = [1, 2, ns(0.1), ns(0.1), ns(0.4)], [1, 2, ns(0.2), ns(0.5), ns(0.6)]
    other = [2, 2, ns(0.1), ns(0.1), ns(0.7)]
    seen = []
    for finished in ([*first, *second, *other], [*first, *other, *second]):
        subject = history()
        subject.fold(batch(1, arrivals=[1, ns(0.1), 1, ns(0.1), 1, ns(0.2)], finished=finished))
        subject.finish(ns(2))
        seen.append((list(subject.recent), subject.occupancy.stretches.closed, subject.saturated_ns))
    assert seen[0] == seen[1]
    assert seen[0][2] == ns(0.5) - ns(0.2)


def test_a_pool_that_shrinks_below_its_load_is_saturated_from_then_on() -> None:
    subject = history()
    subject.fold(
        msgspec.structs.replace(
            batch(
                1,
                arrivals=[1, ns(0.1), 1, ns(0.1), 1, ns(0.2)],
                running=[1, 1, ns(0.1), ns(0.1), 2, 1, ns(0.1), ns(0.1)],
            ),
            max_workers=4,
        )
    )
    subject.settle(ns(1))
    assert subject.saturated_ns == 0
    subject.fold(batch(2, arrivals=[1, ns(1.5)]))
    subject.settle(ns(2))
    assert subject.saturated_ns == ns(2) - ns(1)


def test_what_a_function_has_added_is_told_once() -> None:
    subject = history()
    subject.fold(batch(1, arrivals=[1, ns(0), 2, ns(0)], running=[1, 1, ns(0), ns(0), 2, 2, ns(0), ns(0.5)]))
    assert sorted(subject.durations.grown()) == [(1, 1, 0), (2, 1, 0)]
    assert list(subject.durations.grown()) == []
    subject.fold(batch(2, finished=[1, 2, ns(0), ns(0), ns(1.5)], running=[2, 2, ns(0), ns(0.5)]))
    assert list(subject.durations.grown()) == [(1, 0, 3 * SECOND // 2)]
    records = [item for number in range(30) for item in (1, 2 + 2 * (number % 3), ns(2), ns(2), ns(2) + 1)]
    subject.fold(batch(3, arrivals=[1, ns(2)] * 30, finished=records, running=[2, 2, ns(0), ns(0.5)]))
    assert sorted(subject.durations.grown()) == [(1, 10, 10), (2, 10, 10), (3, 10, 10)]


@pytest.mark.parametrize("tasks", [3, 200])
def test_functions_have_their_own_distributions_however_many_tasks_come_at_once(tasks: int) -> None:
    subject = history()
    records = [
        (1 + number % 3, ns(number), ns(number + 0.2), ns(number + 0.2 + number % 3 / 10)) for number in range(tasks)
    ]
    arrivals = [item for function, submitted, *_ in records for item in (function, submitted)]
    finished = [item for function, *moments in records for item in (1, function * 2, *moments)]
    subject.fold(batch(tasks + 1, arrivals=arrivals, finished=finished))
    for function, totals in subject.functions.items():
        own = [record for record in records if record[0] == function]
        assert totals.started == totals.wait.count == totals.run.count == len(own)
        assert totals.wait.total == sum(started - submitted for _, submitted, started, _ in own)
        assert totals.run.total == sum(ended - started for *_, started, ended in own)


@pytest.mark.parametrize("busy", [True, False])
def test_a_batch_that_comes_late_still_tells_when_the_pool_filled(busy: bool) -> None:
    """Threads that compute keep the probe's own thread from the GIL: what it tells comes a second late."""
    pool = history()
    first = [1, 7, ns(0.05), ns(0.06)] if busy else []
    pool.fold(batch(0.1, running=first, arrivals=[7, ns(0.05)] if busy else []))
    for tenth in range(1, 20):
        pool.settle(ns(tenth / 10))
    times = [ns(0.3 + each / 1000) for each in range(6)]
    free = [2] if busy else [1, 2]
    running = [number for worker, at in zip(free, times, strict=False) for number in (worker, 7, at, at)]
    pool.fold(batch(0.4, running=first + running, arrivals=[number for at in times for number in (7, at)]))
    pool.settle(ns(2.0))
    stretch = pool.occupancy.stretches.current
    assert stretch is not None
    assert stretch.begin_ns == times[len(free)]


def test_a_pool_that_is_silent_for_long_is_settled_all_the_same() -> None:
    pool = history()
    pool.fold(batch(0.1, running=[1, 7, ns(0.05), ns(0.05)], arrivals=[7, ns(0.05)]))
    pool.settle(ns(60.0))
    assert pool.occupancy.settled_ns == ns(60.0) - PATIENCE_NS
    pool.finish(ns(61.0))
    assert pool.occupancy.settled_ns == ns(61.0)


def test_a_batch_that_has_the_last_reading_of_the_cpu_again_is_none() -> None:
    """The workers compute all along, and their clocks are read every 0.3 s."""
    pool = history()
    for tenth in range(16):
        read = batch(0.1 * tenth)
        pool.fold(msgspec.structs.replace(read, cpu_ns=(tenth - tenth % 3) * SECOND // 10))
    assert rate(pool.cpu_readings, ns(0.0), ns(1.1)) == pytest.approx(1.0)
    # With no new one for longer than that, nothing was used.
    for tenth in range(16, 30):
        pool.fold(msgspec.structs.replace(batch(0.1 * tenth), cpu_ns=3 * SECOND // 2))
    assert rate(pool.cpu_readings, ns(1.6), ns(2.9)) == 0.0


@pytest.mark.parametrize(("kind", "knee"), [("thread", 0.302), ("multiprocessing", 1.2)])
def test_a_worker_that_is_started_for_a_task_is_not_idle(kind: str, knee: float) -> None:
    """The first worker computes under the GIL, and the second gets at it a second after it was started. A pool that
    gives a worker several tasks at once may well leave others idle."""
    pool = PoolHistory(
        msgspec.structs.replace(OPENED, kind=kind), pid=1, keep_tasks=1000, wait_bounds=(), run_bounds=()
    )
    times = [ns(0.3 + each / 1000) for each in range(6)]
    pool.fold(batch(0.4, running=[1, 7, times[0], ns(0.3)], arrivals=[number for at in times for number in (7, at)]))
    pool.settle(ns(0.4))
    pool.fold(batch(1.3, running=[1, 7, times[0], ns(0.3), 2, 7, times[1], ns(1.2)]))
    pool.settle(ns(1.3))
    stretch = pool.occupancy.stretches.current
    assert stretch is not None
    assert stretch.begin_ns == ns(knee)
    assert pool.occupancy.peaks[stretch.begin_ns].queued == 4
    # What runs and what is queued are told as they are.
    assert (pool.occupancy.peak_active, pool.occupancy.peak_queue_depth) == (2, 5)


def test_a_pool_is_not_saturated_before_its_first_worker_is_in_a_task() -> None:
    """Its workers may be starting for long, as with an initializer."""
    pool = history()
    pool.fold(batch(0.4, arrivals=[7, ns(0.1)] * 5))
    pool.settle(ns(0.4))
    assert pool.occupancy.stretches.current is None


def sums(since: float, at: float, finished: int, **more: Any) -> PoolSums:
    """So many tasks of function 1 came and went, each of which waited a second and ran for two."""
    functions = [1, finished, 0, finished * SECOND, 2 * finished * SECOND, SECOND, 2 * SECOND]
    whole = {
        "submitted": finished,
        "first_ns": ns(since),
        "last_ns": ns(at),
        "cancelled": 0,
        "broken": 0,
        "unstarted_ns": 0,
        "functions": functions if finished else [],
        "sample": [],
        "left": [],
        "running": [],
        "latest": [],
    }
    return PoolSums(1, ns(since), ns(at), **{**whole, **more})


def saturated(begin: float) -> PoolBatch:
    """Two workers in a task each, and two tasks in the queue, from then on."""
    arrivals = [n for turn in range(4) for n in (1, ns(begin) + turn)]
    running = [n for turn in range(2) for n in (turn + 1, 1, ns(begin) + turn, ns(begin + 0.1) + turn)]
    return batch(begin + 0.5, arrivals=arrivals, running=running)


def test_a_stretch_ends_where_tasks_are_missing() -> None:
    subject = history()
    subject.fold(saturated(1))
    subject.settle(ns(1.5))
    gone = [ns(1) + turn for turn in range(2, 4)]
    subject.add_sums(sums(1.5, 3, 10, left=gone, submitted=6))
    assert (subject.submitted, subject.succeeded, subject.started) == (10, 10, 10)
    assert (subject.queue_depth, subject.running) == (0, {})
    assert subject.known_ns == ns(3)
    subject.fold(saturated(3))
    subject.settle(ns(3.5))
    [closed] = subject.occupancy.stretches.closed
    assert (closed.begin_ns, closed.end_ns) == (ns(1.1), ns(1.5))
    current = subject.occupancy.stretches.current
    assert current is not None
    assert (current.begin_ns, current.open) == (ns(3.1), True)
    assert subject.saturated_ns == pytest.approx(0.8 * SECOND, abs=10)
    before, missing, after = subject.occupancy.timeline(0)
    assert (missing.width_seconds, missing.finished, missing.queued, missing.active) == (1.5, 10, 10 / 1.5, 20 / 1.5)
    assert (before.active, after.queued) != (0, 0)


def test_what_lasts_while_tasks_are_missing_goes_on() -> None:
    subject = history()
    subject.fold(saturated(1))
    worker, function, submitted, started = 1, 1, ns(1), ns(1.1)
    subject.add_sums(sums(1.5, 3, 0, left=[ns(1) + 2], running=[worker, function, submitted, started]))
    assert list(subject.running) == [1]
    subject.fold(batch(4, finished=[1, 2, submitted, started, ns(3.5)]))
    assert (subject.succeeded, subject.started, subject.functions[1].started) == (1, 1, 1)


def test_a_replay_takes_the_tasks_since_the_last_were_missing() -> None:
    subject = history()
    for at in (1, 2):
        subject.fold(batch(at, arrivals=[1, ns(at - 0.5)], finished=[1, 2, ns(at - 0.5), ns(at - 0.4), ns(at - 0.3)]))
    subject.add_sums(sums(2, 4, 10))
    subject.fold(batch(5, arrivals=[1, ns(4.5)], finished=[1, 2, ns(4.5), ns(4.6), ns(4.7)]))
    assert [task.submitted_ns for task in subject.tasks.for_replay(ns(5))] == [ns(4.5)]
    assert list(subject.tasks.spans()) == [(ns(4.5), ns(4.7))]
    assert len(list(subject.tasks.kept)) == 3

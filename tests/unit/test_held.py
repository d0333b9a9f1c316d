"""What is said of workers that are in one task for long."""

from typing import cast

import pytest

from poolscope.aggregation.occupancy import RunningTask
from poolscope.aggregation.pool_history import PoolHistory
from poolscope.aggregation.replacements import Replacements
from poolscope.messages import HeldSample, Line, PoolBatch, PoolOpened, Stack, StackSample, WorkersStarted
from poolscope.signals.held import Standing, given_up_share, held_workers, standing

SECOND = 1_000_000_000
LINE: Line = ("/app/feed.py", 8, "watch")


def pool(workers: int = 2, kind: str = "thread") -> PoolHistory:
    opened = PoolOpened(1, "pool", kind, "x.Executor", "app.py:1", workers, 0)
    return PoolHistory(opened, pid=1, keep_tasks=100, wait_bounds=(), run_bounds=())


def fold(history: PoolHistory, at: float, *, running: list[int], finished: list[int], arrivals: list[int]) -> None:
    moment = round(at * SECOND)
    history.fold(
        PoolBatch(1, moment, history.size, history.size, 0, 0, finished, running, [], [], arrivals),
    )
    history.settle(moment)


def watched(*, moves: bool = False, turns: bool = False, came_back: bool = False) -> PoolHistory:
    """One worker is in function 1 from 1 s on, and is looked at until 9 s."""
    history = pool()
    finished = [2, 2, 0, 0, SECOND // 10] if came_back else [2, 4, 0, 0, SECOND // 10]
    fold(history, 1.0, running=[1, 1, SECOND, SECOND], finished=finished, arrivals=[1, SECOND, 1, 0])
    for second in range(2, 10):
        cpu = second * 1000 if moves else 5000
        history.held.append(HeldSample(1, second * SECOND, [1, SECOND, cpu, 0]))
        line = ("/app/feed.py", 8 + second % 2, "watch") if turns else LINE
        history.sample(StackSample(1, second * SECOND, [Stack([line], 0, [1, 1, SECOND])]))
    return history


def test_a_task_that_moves_between_looks_stays_on_purpose() -> None:
    assert held_workers(watched(moves=True), 9 * SECOND)[0].stays
    assert held_workers(watched(turns=True), 9 * SECOND)[0].stays


def test_a_task_that_stands_does_not() -> None:
    assert not held_workers(watched(), 9 * SECOND)[0].stays


def test_a_task_that_the_source_has_in_a_loop_does() -> None:
    assert held_workers(watched(), 9 * SECOND, lambda line: line == LINE)[0].stays


def test_a_task_that_polls_for_an_answer_which_others_of_its_function_have_got_hangs() -> None:
    [held] = held_workers(watched(moves=True, turns=True, came_back=True), 9 * SECOND, lambda _: True)
    assert not held.stays
    assert held.times == pytest.approx(80, rel=0.02)


def test_a_function_that_never_finished_is_compared_with_nothing() -> None:
    assert held_workers(watched(), 9 * SECOND)[0].times is None


def test_of_another_task_of_the_same_worker_nothing_is_taken_over() -> None:
    history = watched(moves=True)
    fold(history, 9.5, running=[1, 1, SECOND, 19 * SECOND // 2], finished=[], arrivals=[])
    cast(dict[int, RunningTask], history.running)[1] = type(history.running[1])(1, SECOND, 19 * SECOND // 2, False)
    assert not held_workers(history, 11 * SECOND)[0].stays


def looks(given_up: int, count: int = 10) -> list[HeldSample]:
    return [HeldSample(1, at, [1, 0, -1, given_up]) for at in range(count)]


@pytest.mark.parametrize(("samples", "share"), [(looks(1), 0.5), (looks(0), 0.0), (looks(1, 9), 0.0), ([], 0.0)])
def test_the_share_of_workers_in_calls_that_nothing_waits_for(samples: list[HeldSample], share: float) -> None:
    assert given_up_share(samples, 2) == share


def stood(gate: str, *, still: bool = True, workers: int = 2, moved_at: float | None = None) -> PoolHistory:
    """Both workers are at one line each from 1 s to 15 s, in the first task of each."""
    history = pool()
    running = [item for worker in range(1, workers + 1) for item in (worker, 1, SECOND, SECOND)]
    fold(history, 1.0, running=running, finished=[], arrivals=[1, SECOND] * (workers + 3))
    for tenth in range(10, 150):
        at = tenth * SECOND // 10
        spot = int(moved_at is not None and tenth < 10 * moved_at)
        tasks = [item for worker in range(1, workers + 1) for item in (worker, 1, SECOND)]
        history.sample(StackSample(1, at, [Stack([LINE], spot, tasks, gate)]))
        history.held.append(HeldSample(1, at, [], still))
    return history


@pytest.mark.parametrize("gate", ["lock", "semaphore", "queue"])
def test_all_stand_at_what_others_have_while_nothing_moves(gate: str) -> None:
    found = standing(stood(gate), 15 * SECOND)
    assert found is not None
    assert found == Standing(found.seconds, inherited=False)
    assert found.seconds == pytest.approx(14.0)


def test_they_do_not_where_another_thread_moves() -> None:
    found = standing(stood("lock", still=False), 15 * SECOND)
    assert found is not None
    assert found.seconds < 0.2


def test_an_inherited_lock_is_released_by_no_other_thread() -> None:
    found = standing(stood("inherited", still=False), 15 * SECOND)
    assert found == Standing(14.0, inherited=True)


def test_they_stand_from_when_they_came_there() -> None:
    found = standing(stood("lock", moved_at=9.0), 15 * SECOND)
    assert found is not None
    assert found.seconds == pytest.approx(6.0)


def test_they_do_not_stand_where_one_is_idle_or_elsewhere_or_was_not_seen() -> None:
    assert standing(stood("lock", workers=1), 15 * SECOND) is None
    assert standing(stood(""), 15 * SECOND) is None
    assert standing(stood("child"), 15 * SECOND) is None
    assert standing(stood("lock"), 20 * SECOND) is None
    assert standing(pool(), 15 * SECOND) is None


def test_gaps_of_replaced_workers() -> None:
    replaced = Replacements()
    assert not replaced.known
    replaced.began(1, 0)
    replaced.worked(1, 0, 200)  # set up
    replaced.ended(1, 300)
    replaced.began(1, 310)
    replaced.worked(1, 0, 700)
    replaced.ended(1, 800)
    assert replaced.known
    assert replaced.waited_ns(0, 1000, None) == 400
    assert replaced.waited_ns(500, 600, None) == 100
    replaced.began(1, 810)
    assert replaced.waited_ns(0, 1000, 0) == 600  # still starting
    assert replaced.waited_ns(0, 1000, 950) == 450
    assert replaced.waited_ns(0, 1000, None) == 400
    replaced.worked(1, 990, 995)  # nothing waited while it started
    assert replaced.waited_ns(0, 1000, None) == 405


def test_a_start_may_be_told_before_the_task_of_the_process_before_it() -> None:
    replaced = Replacements()
    replaced.began(1, 0)
    replaced.worked(1, 0, 200)
    replaced.ended(1, 300)
    replaced.began(1, 310)
    replaced.began(1, 810)
    replaced.worked(1, 0, 700)
    replaced.ended(1, 800)
    assert replaced.waited_ns(0, 1000, None) == 400
    assert replaced.waited_ns(0, 1000, 0) == 600
    replaced.worked(1, 0, 1000)
    assert replaced.waited_ns(0, 1000, None) == 600


def test_a_pool_whose_workers_end_stays_full_until_they_are_replaced() -> None:
    """Both processes have ended after a task each, and older tasks are queued."""
    history = pool(kind="process")
    history.note_started(WorkersStarted(1, 0, [1, 0, 2, 0]))
    arrivals = [1, SECOND // 10] * 6
    tasks = [number for worker in (1, 2) for number in (worker, 1, SECOND // 10, SECOND // 2)]
    fold(history, 1.0, running=tasks, finished=[], arrivals=arrivals)
    ended = [number for worker in (1, 2) for number in (worker, 2, SECOND // 10, SECOND // 2, 3 * SECOND // 2)]
    fold(history, 2.0, running=[], finished=ended, arrivals=[])
    for second in range(3, 9):
        fold(history, float(second), running=[], finished=[], arrivals=[])
    stretch = history.occupancy.stretches.current
    assert stretch is not None
    assert (stretch.begin_ns, stretch.end_ns) == (SECOND // 2, 8 * SECOND)
    assert [round(point.active, 2) for point in history.occupancy.timeline(0)] == [1.0, 1.0, *[0.0] * 6]


def test_a_thread_that_has_ended_a_task_is_idle() -> None:
    history = pool(kind="thread")
    arrivals = [1, SECOND // 10] * 6
    fold(history, 1.0, running=[1, 1, SECOND // 10, SECOND // 2], finished=[], arrivals=arrivals)
    assert history.occupancy.stretches.current is not None


def test_half_a_record_is_refused() -> None:
    from poolscope.errors import PoolscopeError
    from poolscope.messages import parse

    for message in (("held", 1, 2, [1, 2, 3]), ("workers_started", 1, 2, [1])):
        with pytest.raises(PoolscopeError, match="half a record"):
            parse(message)
    assert parse(("held", 1, 2, [])) == HeldSample(1, 2, [])

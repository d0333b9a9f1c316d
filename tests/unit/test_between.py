"""What is seen between the tasks of a pool, in numbers, and what follows from it."""

from __future__ import annotations

from typing import Any, cast

import msgspec
import pytest
from signals_support import IDLE_HOST, ONE_CORE_BUSY, but

from poolscope.aggregation.occupancy import Occupancy, RunningTask
from poolscope.aggregation.pool_history import PoolHistory
from poolscope.aggregation.stretches import Stretch
from poolscope.messages import Handover, PoolBatch, PoolOpened, parse
from poolscope.model import Frame
from poolscope.rules.reason import Criteria, Scene
from poolscope.rules.table import diagnose
from poolscope.signals.handover import SAMPLES_NEEDED, Between, between
from poolscope.signals.held import held_workers
from poolscope.signals.measure import Surroundings, measure
from poolscope.signals.pool_signals import PoolSignals
from poolscope.signals.significance import Before, Runs
from poolscope.signals.window import Window

SECOND = 1_000_000_000
LINE = ("/srv/app/tasks.py", 12, "report")
PLACES = (((LINE,), 10),)
#: Of worker processes: nothing of theirs computes under the GIL of their parent.
PROCESSES = msgspec.structs.replace(IDLE_HOST, gil=False)
SEEN = Between(samples=10)


def seen(**changes: object) -> Between:
    return msgspec.structs.replace(SEEN, **changes)


def handing(*, sender: float = 0.0, receiver: float = 0.0) -> Between:
    """With threads that send and receive on an idle host."""
    return seen(sender_cores=sender, sender_busy=sender, receiver_cores=receiver, receiver_busy=receiver)


def test_workers_in_callbacks_are_a_part_of_all_workers() -> None:
    found = between([Handover(1, at, [[LINE], [LINE]]) for at in range(10)], 4)
    assert found is not None
    assert (found.callback_share, found.callback_places) == (0.5, (((LINE,), 20),))
    assert found.receiver_callback_share is None


def test_what_the_tasks_leave_of_the_workers_time_is_the_most_that_callbacks_take() -> None:
    found = between([Handover(1, at, [[LINE], [LINE]]) for at in range(10)], 4, task_share=0.8)
    assert found is not None
    assert found.callback_share == pytest.approx(0.2)


def test_a_thread_that_takes_results_is_in_a_callback_or_not() -> None:
    found = between([Handover(1, at, receiving=[LINE] if at % 2 else []) for at in range(10)], 4)
    assert found is not None
    assert (found.receiver_callback_share, found.receiver_places) == (0.5, (((LINE,), 5),))


def test_few_samples_say_nothing() -> None:
    assert between([Handover(1, at) for at in range(SAMPLES_NEEDED - 1)], 4) is None


def test_cores_are_those_between_the_first_and_the_last_reading() -> None:
    samples = [Handover(1, at * 100, sender_ns=at * 80, receiver_ns=-1, sender_ready_ns=at * 15) for at in range(10)]
    found = between(samples, 4)
    assert found is not None
    assert (found.sender_cores, found.receiver_cores) == (0.8, None)
    assert (found.sender_busy, found.receiver_busy) == (0.95, 0.0)


def test_a_clock_that_goes_back_is_that_of_another_thread() -> None:
    samples = [Handover(1, at * 100, sender_ns=1000 - at) for at in range(10)]
    assert between(samples, 4).sender_cores is None  # type: ignore[union-attr]


def test_results_are_under_way_in_the_mean() -> None:
    samples = [Handover(1, at, returned=at, returned_ns=at * 2_000_000_000) for at in range(10)]
    assert between(samples, 4).return_seconds == 2.0  # type: ignore[union-attr]


def test_a_consumer_is_slow_where_results_wait_while_it_is_at_a_line_of_its_own() -> None:
    own, waiting = Handover(1, 0, taking=[(7, [LINE])]), Handover(1, 0, taking=[(0, [])])
    found = between([own] * 8 + [waiting, own], 4)
    assert found is not None
    assert (found.untaken_share, found.untaken, found.taker_places) == (0.9, 7, (((LINE,), 9),))


def test_a_second_iterator_whose_consumer_waits_excuses_the_first() -> None:
    found = between([Handover(1, 0, taking=[(7, [LINE]), (3, [])])] * 10, 4)
    assert found is not None
    assert found.untaken_share == 0


def test_a_message_of_a_probe_with_fewer_fields_can_be_read() -> None:
    assert parse(("handover", 1, 5)) == Handover(1, 5)
    whole: tuple[Any, ...] = ("handover", 1, 5, [[["a.py", 3, "f"]]], [], 1, 2, 3, 4, [[5, [["a.py", 3, "f"]]]])
    assert parse(whole) == Handover(1, 5, [[("a.py", 3, "f")]], [], 1, 2, 3, 4, [(5, [("a.py", 3, "f")])])


IN_PROCESSES = {"process": PROCESSES, "worker_cores": 0.8, "task_share": 0.1, "run_p50_seconds": 0.4}


@pytest.mark.parametrize(
    ("changes", "cause", "action"),
    [
        ({"between": seen(callback_share=0.5, callback_places=PLACES)}, "results_not_taken", "speed_up_consumer"),
        ({"between": seen(callback_share=0.49, callback_places=PLACES)}, "blocking_io", "raise_max_workers"),
        # one thread takes the results: as long as it has a rest it keeps up
        (
            {"between": seen(receiver_callback_share=0.9, receiver_places=PLACES)},
            "results_not_taken",
            "speed_up_consumer",
        ),
        ({"between": seen(receiver_callback_share=0.7, receiver_places=PLACES)}, "blocking_io", "raise_max_workers"),
        # more results wait than there are workers, and their consumer is always at a line of its own
        (
            {"between": seen(untaken_share=0.9, untaken=5, taker_places=PLACES)},
            "results_not_taken",
            "speed_up_consumer",
        ),
        ({"between": seen(untaken_share=0.9, untaken=4, taker_places=PLACES)}, "blocking_io", "raise_max_workers"),
        (
            {"between": seen(untaken_share=0.9, untaken=5, taker_places=PLACES), "finished": 60},
            "blocking_io",
            "raise_max_workers",
        ),
        ({"between": seen(untaken_share=0.6, untaken=5, taker_places=PLACES)}, "blocking_io", "raise_max_workers"),
        # worker processes with little to do, while a thread pickles
        ({"between": handing(sender=0.9), **IN_PROCESSES}, "transfer", "send_less"),
        ({"between": handing(sender=0.0, receiver=0.9), **IN_PROCESSES}, "transfer", "send_less"),
        (
            {"between": handing(sender=0.1, receiver=0.1), **IN_PROCESSES, "worker_cores": 3.0},
            "transfer",
            "send_less",
        ),
        ({"between": handing(sender=0.3), **IN_PROCESSES}, "blocking_io", "raise_max_workers"),
        ({"between": handing(sender=0.9), **IN_PROCESSES, "task_share": 0.6}, "blocking_io", "raise_max_workers"),
        ({"between": seen(), **IN_PROCESSES, "task_share": None}, "blocking_io", "raise_max_workers"),
        # so many that it is their number which costs
        (
            {"between": handing(sender=0.5, receiver=0.5)}
            | {**IN_PROCESSES, "finished": 10_000, "run_p50_seconds": 1e-5, "wait_p50_seconds": 1.0},
            "cpu_bound",
            "larger_tasks",
        ),
        # threads that use the CPU between the tasks, or in them
        (
            {"process": ONE_CORE_BUSY, "worker_cores": 0.5, "worker_cpu_share": 1.0, "task_share": 0.02}
            | {"finished": 20_000, "run_p50_seconds": 1e-5},
            "cpu_bound",
            "larger_tasks",
        ),
        (
            {"process": ONE_CORE_BUSY, "worker_cores": 0.9, "worker_cpu_share": 0.9, "task_share": 0.24}
            | {"finished": 3_000, "run_p50_seconds": 6e-4},
            "cpu_bound",
            "use_process_pool",
        ),
        # they compute, and to hand each to a process would take longer than it takes
        (
            {"process": ONE_CORE_BUSY, "worker_cores": 0.9, "worker_cpu_share": 0.9, "task_share": 0.24}
            | {"finished": 20_000, "run_p50_seconds": 9e-5},
            "cpu_bound",
            "larger_tasks",
        ),
    ],
)
def test_the_cause_of_time_between_tasks(changes: dict[str, object], cause: str, action: str) -> None:
    found = diagnose(but(**changes), Criteria())
    assert (found.pattern, found.severity) == ("async_then_serial", "warning")
    assert (found.cause, found.action) == (cause, action)
    assert found.sized == (cause == "blocking_io")


def told(signals: PoolSignals) -> tuple[str, str]:
    diagnosis = diagnose(signals, Criteria())
    frames = (Frame("/srv/app/tasks.py", 12, "report", "write(result)", 0.9),)
    scene = Scene(pool="images", since_seconds=12.0, frames=frames)
    return diagnosis.sentence(scene), diagnosis.advice(scene).text


def test_what_is_said_of_callbacks_in_workers() -> None:
    summary, advice = told(but(between=seen(callback_share=0.75, callback_places=PLACES)))
    assert summary == (
        "Pool 'images' turned serial at 12.0 s: its 4 workers spend 75 % of their time in callbacks of finished tasks "
        "at tasks.py:12 (report), and a task now waits 1.0 s for 400 ms of its own work."
    )
    assert "make the callback at tasks.py:12 (report) faster" in advice


def test_what_is_said_of_callbacks_in_the_thread_that_takes_results() -> None:
    summary, _ = told(but(between=seen(receiver_callback_share=1.0, receiver_places=PLACES, return_seconds=4.2)))
    assert (
        "the one thread that takes its results spends 100 % of its time in callbacks at tasks.py:12 (report), and a "
        "result waits 4.2 s for it" in summary
    )


def test_what_is_said_of_a_slow_consumer() -> None:
    summary, advice = told(but(between=seen(untaken_share=1.0, untaken=50, taker_places=PLACES)))
    assert "what takes its results is slower than the workers" in summary
    assert "50 results wait for it" in summary
    assert "would end nothing sooner" in advice


def test_what_is_said_of_arguments_that_are_the_work() -> None:
    summary, advice = told(but(between=handing(sender=0.93), **IN_PROCESSES))
    assert "spend 10 % of their time in tasks" in summary
    assert "the one thread that pickles the arguments is on a CPU, or ready for one, 93 % of the time" in summary
    assert "give the workers once what all tasks need" in advice


def test_nothing_waits_at_the_line_of_a_def() -> None:
    diagnosis = diagnose(but(), Criteria())
    scene = Scene(
        pool="images", since_seconds=12.0, frames=(Frame("/srv/app/tasks.py", 10, "resize", "def resize():"),)
    )
    assert "all 4 workers are waiting in resize, tasks come" in diagnosis.sentence(scene)


def saturated(*, pulls: bool) -> list[tuple[int, int]]:
    """Of a worker process that is in a task for a tenth of each second, while five were submitted at once."""
    occupancy = Occupancy(1, 0, pulls=pulls)
    occupancy.arrive([0] * 5)
    for second in range(5):
        started = second * SECOND
        oldest = 0 if second < 4 else None
        occupancy.settle(started, (), 0)
        occupancy.work(1, [0], [started], [started + SECOND // 10], None)
        for tenth in range(1, 10):
            occupancy.settle(started + tenth * SECOND // 10, (), oldest)
    occupancy.settle(8 * SECOND, ())
    occupancy.stretches.finish()
    return [(stretch.begin_ns, stretch.end_ns) for stretch in occupancy.stretches.closed]


def test_a_worker_process_that_is_yet_to_get_the_next_task_is_not_idle() -> None:
    [(begin, end)] = saturated(pulls=True)
    assert (begin, end) == (0, 4 * SECOND)  # then the last one has started
    assert len(saturated(pulls=False)) == 4


def of_processes() -> PoolHistory:
    """A pool of two worker processes, each in a task since 1 s, of a function that has taken a millisecond before."""
    opened = PoolOpened(1, "images", "process", "multiprocessing.pool.Pool", "app.py:1", 2, 0)
    history = PoolHistory(opened, pid=1, keep_tasks=0, wait_bounds=(), run_bounds=())
    before = [number for at in range(10) for number in (1, 2, 0, at * 1_000_000, (at + 1) * 1_000_000)]
    arrivals = [1, 0] * 40
    running = [1, 1, 0, SECOND, 2, 1, 0, SECOND]
    history.fold(PoolBatch(1, SECOND + 1, 2, 2, 0, 0, before, running, [], [], arrivals))
    return history


def test_a_task_whose_result_is_under_way_holds_no_worker() -> None:
    history = of_processes()
    assert [held.worker for held in held_workers(history, 60 * SECOND)] == [1, 2]
    history.hand_over(Handover(1, 5 * SECOND, receiving=[LINE], under_way=[1, SECOND]))
    assert [held.worker for held in held_workers(history, 60 * SECOND)] == [2]
    # A later one of that worker has ended, so this one has too; of one that began since then nothing is known.
    history.hand_over(Handover(1, 5 * SECOND, receiving=[LINE], under_way=[2, 2 * SECOND]))
    assert held_workers(history, 60 * SECOND) == ()
    running = cast(dict[int, RunningTask], history.running)
    running[2] = msgspec.structs.replace(running[2], started_ns=3 * SECOND)
    assert [held.worker for held in held_workers(history, 60 * SECOND)] == [2]


def test_results_that_come_late_are_no_stall() -> None:
    history = of_processes()
    stretch = Stretch(0, 20 * SECOND, open=True)

    def quiet() -> float | None:
        window = Window(history, 0, 20 * SECOND)
        around = Surroundings(process=PROCESSES, came_before=Before(0.0, 0, Runs()))
        return measure(history, stretch, window, around).seconds_since_finish

    assert quiet() == pytest.approx(19.0)
    ended = [1, 2, 0, SECOND, SECOND + 1_000_000]
    history.fold(PoolBatch(1, 19 * SECOND, 2, 2, 0, 0, ended, [], [], [], []))
    assert quiet() == pytest.approx(1.0)


@pytest.mark.parametrize(("late_ms", "alone"), [(25, 80), (5, 40)])
def test_while_workers_are_in_callbacks_a_task_may_run_alone_though_none_is_idle(late_ms: int, alone: int) -> None:
    """Two workers, each of which is in a task for 10 ms of every 50 and in callbacks for the rest, while tasks wait."""
    history = of_processes()
    ms = SECOND // 1000
    ended = [
        number
        for worker, late in ((1, 0), (2, late_ms))
        for begin in range(SECOND + late * ms, 3 * SECOND, 50 * ms)
        for number in (worker, 2, 0, begin, begin + 10 * ms)
    ]
    history.fold(PoolBatch(1, 4 * SECOND, 2, 2, 0, 0, ended, [], [], [], []))
    assert Window(history, SECOND, 4 * SECOND).alone(2) == [(1, 10 * ms)] * alone
    assert Window(history, 2 * SECOND, 4 * SECOND).alone(2) == [(1, 10 * ms)] * (alone // 2)

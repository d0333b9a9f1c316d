"""What is judged of work queues: their consumers are workers, and a single one is on purpose more often than not."""

from __future__ import annotations

import msgspec
import pytest
from signals_support import but

from poolscope.aggregation.pool_history import PoolHistory
from poolscope.messages import PoolBatch, PoolOpened, parse
from poolscope.rules.reason import Criteria, Scene
from poolscope.rules.table import diagnose
from poolscope.signals.sizing import Sizing
from poolscope.signals.window import Window
from poolscope.signals.work_queues import WorkQueueSignals, work_queue_signals

SECOND = 10**9
QUIET = WorkQueueSignals()
HELD_BACK = WorkQueueSignals(held_back_share=0.5)
STALLED = {"seconds_since_finish": 20.0, "window_seconds": 20.0, "longest_run_seconds": 1.0}
GROWING = WorkQueueSignals(growing=True)


def one(queue, **changes):
    return but(max_workers=1, work_queue=queue, **changes)


@pytest.mark.parametrize(
    ("signals", "criteria", "severity"),
    [
        (one(QUIET), Criteria(), "info"),
        (one(HELD_BACK), Criteria(), "warning"),
        (one(msgspec.structs.replace(HELD_BACK, held_back_share=0.4)), Criteria(), "info"),
        (one(GROWING, stretch_seconds=5.0), Criteria(), "warning"),
        (one(GROWING, stretch_seconds=4.9), Criteria(), "info"),
        (one(HELD_BACK), Criteria(intended=True), "info"),
        (one(HELD_BACK, **STALLED), Criteria(), "critical"),
        (one(QUIET, **STALLED), Criteria(), "critical"),
        (but(max_workers=4, work_queue=QUIET), Criteria(), "warning"),
        (but(max_workers=1), Criteria(), "warning"),
    ],
)  # fmt: skip
def test_one_consumer_is_a_note_unless_something_suffers(signals, criteria, severity):
    assert diagnose(signals, criteria).severity == severity


@pytest.mark.parametrize("sizing", [Sizing(12), Sizing(12, enough=200), Sizing(None, 20)])
def test_the_advice_is_more_consumers(sizing):
    found = diagnose(but(max_workers=4, work_queue=QUIET), Criteria())
    advice = found.advice(Scene(pool="app:jobs", kind="queue", since_seconds=1.0, sizing=sizing))
    assert "onsumers" in advice.text
    assert "max_workers" not in advice.text
    assert advice.suggested_max_workers == sizing.suggested


# -- from messages to signals ------------------------------------------------------------------------------------------


def history(kind="queue", waits=(), made_by="queue.Queue"):
    made = PoolHistory(
        PoolOpened(1, "app:jobs", kind, made_by, "app.py:3", 1, 0),
        pid=1,
        keep_tasks=100,
        wait_bounds=[SECOND],
        run_bounds=[SECOND],
    )
    finished, arrivals = [], []
    for number, wait in enumerate(waits):
        start = 10 * SECOND + number * SECOND // 10
        finished += [1, 2, start - wait, start, start + SECOND // 20]
        arrivals += [1, start - wait]
    made.fold(PoolBatch(1, 20 * SECOND, 1, 1, 0, 0, finished, [], [], [], arrivals))
    return made


def sample(at_ns, *gates):
    waiting = [[["app.py", 4, "f"]], 1, [0, 0, 0], gates[0]] if gates else []
    return parse(("stacks", 1, at_ns, [], [waiting] if gates else []))


def test_what_a_queue_is_judged_by():
    made = history(waits=[number * SECOND // 20 for number in range(50)])
    window = Window(made, 10 * SECOND, 15 * SECOND)
    samples = [sample(10 * SECOND + number, *(["put"] if number % 2 else [])) for number in range(6)]
    assert work_queue_signals(made, window, samples) == WorkQueueSignals(held_back_share=0.5, growing=True)
    assert work_queue_signals(made, window, samples[:4]) == WorkQueueSignals(growing=True)


@pytest.mark.parametrize(
    "waits",
    [[SECOND] * 50, [SECOND // (number + 1) for number in range(50)], [number * SECOND // 20 for number in range(10)]],
    ids=["as long", "shorter", "few"],
)
def test_waits_that_do_not_grow(waits):
    made = history(waits=waits)
    assert work_queue_signals(made, Window(made, 10 * SECOND, 15 * SECOND), []) == WorkQueueSignals()


def test_items_of_an_order_of_their_own_may_be_there_for_later():
    made = history(waits=[number * SECOND // 20 for number in range(50)], made_by="asyncio.queues.PriorityQueue")
    assert work_queue_signals(made, Window(made, 10 * SECOND, 15 * SECOND), []) == WorkQueueSignals()


def test_other_pools_are_no_queues():
    made = history("thread")
    assert work_queue_signals(made, Window(made, 0, SECOND), []) is None

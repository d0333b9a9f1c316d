"""Places as workers: which one a task takes, and what the judge makes of it."""

from __future__ import annotations

from runtime_support import FakeCpu

from poolscope.probe.pools.recording import PoolRecorder
from poolscope.probe.pools.slots import Slots


def places(limit):
    recorder = PoolRecorder(1, name="p", kind="anyio", executor="x", created_at="", size=lambda: (0, limit))
    return Slots(recorder, lambda: limit), recorder


def test_a_place_that_was_free_at_submission_is_taken_the_one_free_longest():
    slots, _ = places(4)
    first, second = slots.take(1), slots.take(1)
    slots.give_back(second, 10)
    slots.give_back(first, 20)
    assert slots.take(30) is second
    assert slots.take(30) is first


def test_where_the_limit_let_it_start_at_once_a_task_gets_a_new_place():
    slots, recorder = places(2)
    first = slots.take(1)
    slots.give_back(first, 10)
    # Submitted while the other one ran: it did not wait for its end.
    second = slots.take(5)
    assert second is not first
    assert slots.take(11) is first
    assert len(recorder.workers) == 2


def test_at_the_limit_a_task_gets_the_place_that_it_waited_for():
    slots, recorder = places(2)
    first, second = slots.take(1), slots.take(1)
    slots.give_back(second, 10)
    slots.give_back(first, 20)
    assert slots.take(5) is second
    assert slots.take(5) is first
    assert len(recorder.workers) == 2


def test_tasks_beyond_the_limit_get_places():
    slots, recorder = places(1)
    assert len({slots.take(1).worker for _ in range(3)}) == 3
    assert len(recorder.workers) == 3


def test_what_a_task_uses_is_told_while_it_runs_and_never_taken_back():
    slots, _ = places(1)
    slot = slots.take(1)
    used, native_id, before = slot._used
    assert used == 0
    cpu = FakeCpu()
    cpu.threads[native_id] = before + 70_000_000_000
    assert slot.cpu_now(cpu) == 70_000_000_000
    slots.give_back(slot, 2)  # it was less: the reading was of another task's time
    assert slot.cpu_now(cpu) == 70_000_000_000
    cpu.threads.clear()  # the thread has ended
    assert slot.cpu_now(cpu) == 70_000_000_000


def test_threads_are_counted_once():
    slots, _ = places(3)
    assert len(slots.threads) == 0
    for _ in range(3):
        slots.take(1)
    assert len(slots.threads) == 1

"""Places as workers: which one a task takes, and what the judge makes of it."""

from __future__ import annotations

import threading
import time

import pytest
from runtime_support import FakeCpu

from poolscope.probe.interpreter.cpu import CpuClocks
from poolscope.probe.recording.recorder import PoolRecorder
from poolscope.probe.recording.virtual_workers import VirtualWorkers, _thread


@pytest.fixture(autouse=True)
def serves_none():
    yield
    _thread.sign.serve(None)


def pool_of(limit, lent=False):
    recorder = PoolRecorder(1, name="p", kind="anyio", executor="x", created_at="", size=lambda: (0, limit))
    return VirtualWorkers(recorder, lambda: limit, lent=lent), recorder


def serves():
    assert _thread.sign.serves is not None
    return _thread.sign.serves


def test_a_place_that_was_free_at_submission_is_taken_the_one_free_longest():
    workers, _ = pool_of(4)
    first, second = workers.take(1), workers.take(1)
    workers.give_back(second, 10)
    workers.give_back(first, 20)
    assert workers.take(30) is second
    assert workers.take(30) is first


def test_where_the_limit_let_it_start_at_once_a_task_gets_a_new_place():
    workers, recorder = pool_of(2)
    first = workers.take(1)
    workers.give_back(first, 10)
    # Submitted while the other one ran: it did not wait for its end.
    second = workers.take(5)
    assert second is not first
    assert workers.take(11) is first
    assert len(recorder.workers) == 2


def test_at_the_limit_a_task_gets_the_place_that_it_waited_for():
    workers, recorder = pool_of(2)
    first, second = workers.take(1), workers.take(1)
    workers.give_back(second, 10)
    workers.give_back(first, 20)
    assert workers.take(5) is second
    assert workers.take(5) is first
    assert len(recorder.workers) == 2


def test_tasks_beyond_the_limit_get_places():
    workers, recorder = pool_of(1)
    assert len({workers.take(1).worker for _ in range(3)}) == 3
    assert len(recorder.workers) == 3


@pytest.mark.parametrize("lent", [False, True])
def test_what_a_thread_uses_is_told_while_it_runs_and_never_taken_back(lent):
    workers, recorder = pool_of(1, lent=lent)
    worker = workers.take(1)
    _, before = serves()
    cpu = FakeCpu()
    cpu.threads[worker.native_id] = before + 70_000_000_000
    assert recorder.cpu(cpu) == 70_000_000_000
    workers.give_back(worker, 2)  # it was less: the reading was of another task's time
    assert recorder.cpu(cpu) == 70_000_000_000
    cpu.threads.clear()  # the thread has ended
    assert recorder.cpu(cpu) == 70_000_000_000


def test_a_thread_serves_one_pool_after_the_other():
    """Its time goes to the one whose task it has run last, from the start of that."""
    (first, mine), (second, theirs) = pool_of(1), pool_of(1)
    first.give_back(first.take(1), 2)
    began, start = serves()
    first.give_back(first.take(3), 4)
    assert _thread.sign.serves == (began, start)  # it goes on
    cpu = FakeCpu()
    second.take(5)
    assert _thread.sign.serves[0] is second.threads
    cpu.threads[_thread.sign.native_id] = _thread.sign.serves[1] + 5_000
    assert mine.cpu(cpu) == _thread.sign.serves[1] - start
    assert theirs.cpu(cpu) == 5_000


def test_what_a_thread_has_used_that_ends_is_counted():
    workers, recorder = pool_of(1)

    def work():
        workers.give_back(workers.take(1), 2)
        while time.thread_time_ns() - serves()[1] < 2_000_000:
            pass

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert recorder.cpu(CpuClocks()) >= 2_000_000


def test_a_lent_thread_is_counted_during_its_tasks_alone():
    workers, _ = pool_of(1, lent=True)
    workers.give_back(workers.take(1), 2)
    assert _thread.sign.serves is None


def test_threads_are_counted_once():
    workers, _ = pool_of(3)
    assert len(workers.threads) == 0
    for _ in range(3):
        workers.take(1)
    assert len(workers.threads) == 1

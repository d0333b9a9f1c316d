"""threading's semaphores as pools of holds: what is recorded, and that they stay what they are."""

from __future__ import annotations

import gc
import sys
import threading
import time
import weakref
from types import SimpleNamespace

import pytest
from probe_support import FakeProbe, Ledger

from poolscope.probe.interpreter.shapes import Unfamiliar, threading_limits
from poolscope.probe.limits import threading_semaphores

LIMIT = 30  # seconds for what is sure to come
BEFORE = dict(vars(threading.Semaphore))


@pytest.fixture
def probe():
    made = FakeProbe()
    threading_semaphores.patch(made)
    yield made
    threading_semaphores.unpatch()
    assert not made.faults
    assert dict(vars(threading.Semaphore)) == BEFORE


def open_rows(probe):
    """The row of each that is noted, as if it were worth one by now."""
    for weak in list(threading_semaphores._state.limits._fresh.values()):
        weak().open()


class Holder:
    """A thread that holds a semaphore until it is told to go."""

    def __init__(self, semaphore):
        self.semaphore = semaphore
        self.got, self.go = threading.Event(), threading.Event()
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self):
        with self.semaphore:
            self.got.set()
            assert self.go.wait(LIMIT)

    def end(self):
        self.go.set()
        self.thread.join(LIMIT)


def until(what):
    patience = time.monotonic() + LIMIT
    while not what():
        assert time.monotonic() < patience
        time.sleep(0.001)


def waiting(semaphore, number):
    until(lambda: len(semaphore._cond._waiters) == number)


@pytest.mark.parametrize("make", [threading.Semaphore, threading.BoundedSemaphore])
@pytest.mark.parametrize("size", [1, 2])
def test_a_hold_is_a_task(probe, make, size):
    semaphore = make(size)
    holders = [Holder(semaphore) for _ in range(size)]
    for holder in holders:
        assert holder.got.wait(LIMIT)
    assert probe.recorders == []
    late = Holder(semaphore)
    waiting(semaphore, 1)
    open_rows(probe)
    book = Ledger(probe.recorders[0], probe)
    book.only(submitted=size + 1, running=size, queued=1)
    assert (book.workers, book.max_workers) == (size, size)
    holders[0].end()
    assert late.got.wait(LIMIT)
    book.only(submitted=size + 1, running=size, succeeded=1)
    late.end()
    for holder in holders:
        holder.end()
    book.only(submitted=size + 1, succeeded=size + 1)
    assert probe.function_names()[1].endswith("Holder.run")
    assert type(semaphore._cond) is threading_semaphores._Idle


def test_one_that_runs_into_its_timeout_is_cancelled(probe):
    semaphore = threading.Semaphore(1)
    holder = Holder(semaphore)
    assert holder.got.wait(LIMIT)
    assert not semaphore.acquire(timeout=0.01)
    assert not semaphore.acquire(blocking=False)
    holder.end()
    Ledger(probe.recorders[0], probe).only(submitted=2, succeeded=1, cancelled=1)


def test_what_is_given_back_by_others_is_a_signal(probe):
    room = threading.Semaphore(2)
    taken = []

    def produce():
        for _ in range(6):
            room.acquire()
            taken.append(1)

    producer = threading.Thread(target=produce)
    producer.start()
    for number in range(2, 6):
        until(lambda number=number: len(taken) == number)
        waiting(room, 1)
        room.release()
    producer.join(LIMIT)
    assert len(taken) == 6
    probe.do_jobs()
    assert probe.opened == []
    assert probe.recorders[0].given_up


def test_a_semaphore_made_with_0_is_a_signal(probe):
    signal = threading.Semaphore(0)
    thread = threading.Thread(target=signal.acquire)
    thread.start()
    waiting(signal, 1)
    signal.release()
    thread.join(LIMIT)
    assert probe.recorders == []


def test_several_are_given_back_at_once(probe):
    semaphore = threading.Semaphore(2)
    semaphore.acquire()
    semaphore.acquire()
    late = [Holder(semaphore) for _ in range(2)]
    waiting(semaphore, 2)
    semaphore.release(2)
    for holder in late:
        holder.end()
    Ledger(probe.recorders[0], probe).only(submitted=4, succeeded=4)


def test_many_threads_that_are_faster_than_those_that_wait(probe):
    semaphore, inside, most = threading.Semaphore(2), [], []

    def take():
        for _ in range(200):
            with semaphore:
                inside.append(1)
                most.append(len(inside))
                time.sleep(0)
                inside.pop()

    threads = [threading.Thread(target=take) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    assert max(most) <= 2
    assert semaphore._value == 2
    if probe.recorders:
        book = Ledger(probe.recorders[0], probe).read()
        assert book.running == book.queued == 0
        assert not probe.recorders[0].given_up


def test_subclasses_that_override_are_left_alone(probe):
    class Mine(threading.Semaphore):
        def acquire(self, *args, **kwargs):
            return super().acquire(*args, **kwargs)

    assert type(Mine()._cond) is threading.Condition
    assert type(threading.Semaphore()._cond) is threading_semaphores._Idle


def test_no_frame_of_ours_stands_in_a_thread_that_waits(probe):
    semaphore = threading.Semaphore(1)
    holder = Holder(semaphore)
    assert holder.got.wait(LIMIT)
    late = Holder(semaphore)
    waiting(semaphore, 1)

    def codes():
        frame = sys._current_frames()[late.thread.ident]
        found = []
        while frame is not None:
            found.append(frame.f_code)
            frame = frame.f_back
        return found

    until(lambda: codes()[0] is threading.Condition.wait.__code__)
    assert codes()[1] is threading.Semaphore.acquire.__code__
    open_rows(probe)
    held, queued = probe.recorders[0].look(256)
    assert [stack[0][0][2] for stack in queued] == ["Holder.run"]
    assert held == []  # it had it before anything waited
    holder.end()
    late.end()


def test_one_that_is_contended_when_the_patch_goes_works_on():
    probe = FakeProbe()
    threading_semaphores.patch(probe)
    semaphore = threading.Semaphore(1)
    holder = Holder(semaphore)
    assert holder.got.wait(LIMIT)
    late = Holder(semaphore)
    waiting(semaphore, 1)
    threading_semaphores.unpatch()
    holder.end()
    late.end()
    assert semaphore._value == 1
    assert not probe.faults
    Ledger(probe.recorders[0], probe).only(submitted=2, succeeded=1, cancelled=1)


def test_nothing_of_ours_keeps_a_semaphore(probe):
    semaphore = threading.Semaphore(1)
    semaphore.acquire()
    assert not semaphore.acquire(timeout=0.001)
    reference = weakref.ref(semaphore)
    del semaphore
    gc.collect()
    assert reference() is None


def test_a_standard_library_of_another_shape_costs_one_notice():
    with pytest.raises(Unfamiliar, match="no Semaphore"):
        threading_limits(SimpleNamespace(__name__="threading", Condition=threading.Condition, Lock=threading.Lock))


def test_what_is_taken_while_others_wait_is_seen(probe):
    semaphore, other = threading.Semaphore(2), threading.Semaphore(2)
    holders = [Holder(semaphore) for _ in range(2)]
    for holder in holders:
        assert holder.got.wait(LIMIT)
    late = Holder(semaphore)
    waiting(semaphore, 1)
    with semaphore._cond:
        # As if this thread were faster than the one that is woken.
        semaphore._value += 1
        semaphore._cond.notify()
        semaphore._value -= 1
    waiting(semaphore, 1)
    semaphore._value += 1
    assert semaphore.acquire(blocking=False)
    open_rows(probe)
    book = Ledger(probe.recorders[0], probe)
    book.only(submitted=4, running=3, queued=1)
    semaphore.release()
    assert late.got.wait(LIMIT)
    late.end()
    for holder in holders:
        holder.end()
    book.only(submitted=4, succeeded=4)
    assert book.max_workers == 3  # changed from outside
    assert other.acquire(blocking=False)
    assert len(probe.recorders) == 1


def test_what_a_thread_takes_again_after_a_wait_is_seen(probe):
    semaphore, got, again = threading.Semaphore(1), threading.Event(), threading.Event()
    first = Holder(semaphore)
    assert first.got.wait(LIMIT)

    def take_twice():
        for wait in (True, False):  # in one line, so that the frames of both calls may be at one address
            assert semaphore.acquire(blocking=wait)
            got.set()
            assert again.wait(LIMIT)
            semaphore.release()

    thread = threading.Thread(target=take_twice)
    thread.start()
    waiting(semaphore, 1)
    late = [Holder(semaphore) for _ in range(2)]
    waiting(semaphore, 3)
    first.end()
    assert got.wait(LIMIT)
    with semaphore._cond:
        # As if it were faster than those that wait: one of them is woken, the other one waits on.
        semaphore._value += 1
    again.set()
    thread.join(LIMIT)
    for holder in late:
        assert holder.got.wait(LIMIT)
        holder.end()
    Ledger(probe.recorders[0], probe).only(submitted=5, succeeded=5)


def test_one_that_was_watched_before_is_watched_again():
    probe = FakeProbe()
    threading_semaphores.patch(probe)
    semaphore, books = threading.Semaphore(1), []
    for _ in range(2):
        holder = Holder(semaphore)
        assert holder.got.wait(LIMIT)
        late = Holder(semaphore)
        waiting(semaphore, 1)
        holder.end()
        late.end()
        threading_semaphores.unpatch()
        books.append(Ledger(probe.recorders[0], probe).read().submitted)
        assert not probe.faults
        probe = FakeProbe()
        threading_semaphores.patch(probe)
    threading_semaphores.unpatch()
    assert books == [2, 2]

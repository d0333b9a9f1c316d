"""Iterators over the results of real pools: what waits in them, and which thread takes it."""

from __future__ import annotations

import concurrent.futures
import gc
import threading
import traceback
from concurrent.futures import ThreadPoolExecutor, as_completed
from multiprocessing.pool import ThreadPool

import pytest
from probe_support import FakeProbe

from poolscope.probe.executors import threadpool
from poolscope.probe.processes import multiprocessing_pool

LIMIT = 30  # seconds for what is sure to come


@pytest.fixture
def probe():
    made = FakeProbe()
    threadpool.patch(made)
    multiprocessing_pool.patch(made)
    yield made
    multiprocessing_pool.unpatch()
    threadpool.unpatch()
    assert not made.faults


def taken(probe):
    """(how many results wait, thread) of each iterator of the last pool."""
    return [each.waiting() for each in list(probe.recorders[-1].taking.values())]


def take(results, found):
    found.append(next(results))


def identity(item):
    return item


def test_results_of_a_map_wait_until_they_are_taken(probe):
    with ThreadPoolExecutor(2) as pool:
        results = pool.map(identity, range(5))
        assert next(results) == 0
        pool.shutdown()
        assert taken(probe) == [(4, threading.get_ident())]
        assert list(results) == [1, 2, 3, 4]
        del results
        gc.collect()
        assert taken(probe) == []


def test_what_is_done_behind_a_task_that_is_not_does_not_wait_for_the_consumer(probe):
    gate = threading.Event()
    with ThreadPoolExecutor(2) as pool:
        results = pool.map(lambda item: item if item else gate.wait(LIMIT), range(3))
        rest = threading.Event()
        pool.submit(rest.set)
        assert rest.wait(LIMIT)
        assert taken(probe)[0][0] in (0, 2)  # it has not begun
        gate.set()
        assert list(results) == [True, 1, 2]


def test_a_map_that_is_dropped_cancels_what_is_queued_as_without_us(probe):
    gate = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        results = pool.map(lambda item: item if not item else gate.wait(LIMIT), range(50))
        assert next(results) == 0
        del results
        gc.collect()
        assert taken(probe) == []
        gate.set()
    counted = [len(records) for records in (probe.recorders[-1].cancelled,)]
    assert counted[0] >= 3 * 47


def test_a_map_that_cannot_submit_raises_without_a_line_of_ours(probe):
    pool = ThreadPoolExecutor(1)
    pool.shutdown()
    with pytest.raises(RuntimeError) as caught:
        pool.map(identity, range(3))
    assert not any("results.py" in frame.filename for frame in traceback.extract_tb(caught.value.__traceback__)[1:])


def test_results_of_as_completed_wait_until_they_are_taken(probe):
    gate, done = threading.Event(), threading.Event()
    with ThreadPoolExecutor(1) as pool:
        futures = [pool.submit(gate.wait, LIMIT), *(pool.submit(identity, item) for item in range(4))]
        completed = as_completed(futures)
        assert taken(probe) == []  # it has not begun
        gate.set()
        futures[-1].add_done_callback(lambda _: done.set())
        first = next(completed)
        assert first.done()
        assert done.wait(LIMIT)
        waiting = taken(probe)
        # Noted only if one of them had not started as it began.
        assert waiting in ([], [(4, threading.get_ident())])
        assert len(list(completed)) == 4
        del completed
        gc.collect()
        assert taken(probe) == []


@pytest.mark.parametrize("method", ["imap", "imap_unordered"])
def test_results_of_an_imap_wait_for_the_thread_that_takes_them(probe, method):
    with ThreadPool(2) as pool:
        last = threading.Event()
        results = getattr(pool, method)(lambda item: last.set() if item == 9 else item, range(10))
        assert taken(probe) == [(None, 0)]  # none has been taken, so it is not known who does
        found = [next(results)]
        assert last.wait(LIMIT)
        pool.close()
        pool.join()
        assert taken(probe) == [(9, threading.get_ident())]
        other = []
        thread = threading.Thread(target=take, args=(results, other))
        thread.start()
        thread.join()
        assert taken(probe) == [(8, thread.ident)]
        found += [*other, *results]
        assert sorted(item for item in found if item is not None) == list(range(9))
        del results
        gc.collect()
        assert taken(probe) == []


def test_taking_off_puts_back_what_was_there():
    base = concurrent.futures._base
    before = base.Executor.map, base._create_and_install_waiters
    probe = FakeProbe()
    threadpool.patch(probe)
    assert base.Executor.map is not before[0]
    threadpool.unpatch()
    assert (base.Executor.map, base._create_and_install_waiters) == before

"""`multiprocessing.pool.ThreadPool` patched in place or attached: real threads, gated by events."""

from __future__ import annotations

import gc
import multiprocessing.dummy
import multiprocessing.pool
import threading
import time
import traceback
import weakref
from multiprocessing.pool import Pool, ThreadPool

import pytest
from probe_support import FakeProbe, Ledger, as_ours

from poolscope.probe.processes import multiprocessing_pool as family

LIMIT = 30  # seconds for what is sure to come


@pytest.fixture
def probe():
    made = FakeProbe()
    yield made
    family.unpatch()
    assert not made.faults


@pytest.fixture(params=["patched", "older than the patch", "attached"])
def make(request, probe):
    made = []

    def make(processes=1):
        if request.param == "patched":
            family.patch(probe)
        pool = ThreadPool(processes)
        made.append(pool)
        if request.param == "older than the patch":
            family.patch(probe)
        elif request.param == "attached":
            family.watch_own(pool, lambda: probe, None)
        return pool

    yield make
    for pool in made:
        pool.terminate()
        pool.join()


def ledger(probe):
    return Ledger(probe.recorders[-1], probe)


class Gate:
    """A task that lasts until the gate is opened; any number of them."""

    def __init__(self):
        self._started = threading.Semaphore(0)
        self._opened = threading.Event()

    def __call__(self, *_):
        self._started.release()
        assert self._opened.wait(LIMIT)

    def await_started(self, count):
        for _ in range(count):
            assert self._started.acquire(timeout=LIMIT)

    def open(self):
        self._opened.set()


def square(number):
    return number * number


def add(left, right):
    return left + right


def fail(*_):
    raise ValueError("no")


def test_what_runs_and_what_waits(make, probe):
    gate, pool = Gate(), make(2)
    results = [pool.apply_async(gate) for _ in range(5)]
    gate.await_started(2)
    book = ledger(probe)
    book.only(submitted=5, running=2, queued=3)
    assert (book.workers, book.max_workers) == (2, 2)
    gate.open()
    for result in results:
        result.get(LIMIT)
    book.only(submitted=5, succeeded=5)
    pool.close()
    pool.join()
    assert book.read().workers == 0
    assert probe.recorders[0].kind == "multiprocessing"


@pytest.mark.parametrize(
    ("call", "expected", "tasks"),
    [
        (lambda pool: pool.apply(square, (3,)), 9, 1),
        (lambda pool: pool.map(square, range(4), chunksize=1), [0, 1, 4, 9], 4),
        (lambda pool: pool.map(square, range(5), chunksize=2), [0, 1, 4, 9, 16], 3),
        (lambda pool: pool.map(square, []), [], 0),
        (lambda pool: pool.map_async(square, range(3), 1).get(LIMIT), [0, 1, 4], 3),
        (lambda pool: list(pool.imap(square, range(4))), [0, 1, 4, 9], 4),
        (lambda pool: list(pool.imap(square, range(4), chunksize=2)), [0, 1, 4, 9], 2),
        (lambda pool: sorted(pool.imap_unordered(square, iter(range(4)))), [0, 1, 4, 9], 4),
    ],
)
def test_every_way_to_submit(make, probe, call, expected, tasks):
    assert call(make(2)) == expected
    if tasks:
        ledger(probe).only(submitted=tasks, succeeded=tasks)
        assert probe.function_names() == {1: f"{__name__}.square"}


def test_starmap(make, probe):
    pool = make()
    assert pool.starmap(add, [(1, 2), (3, 4)], chunksize=1) == [3, 7]
    ledger(probe).only(submitted=2, succeeded=2)
    assert probe.function_names() == {1: f"{__name__}.add"}


def test_errors_and_their_tracebacks_are_those_of_the_standard_pool(make, probe):
    def lines(pool):
        shown = []
        for call in (lambda: pool.apply(fail), lambda: pool.map(fail, [1]), lambda: pool.apply(int, ("x",))):
            try:
                call()
            except ValueError as error:
                shown.append([(line.filename, line.name) for line in traceback.extract_tb(error.__traceback__)])
        return shown

    with ThreadPool(1) as plain:
        expected = lines(plain)
    assert lines(make()) == expected
    ledger(probe).only(submitted=3, failed=3)


def test_an_iterable_that_raises_is_no_task(make, probe):
    def numbers():
        yield 1
        raise KeyError("mine")

    results = make().imap(square, numbers())
    assert next(results) == 1
    with pytest.raises(KeyError, match="mine"):
        next(results)
    ledger(probe).only(submitted=1, succeeded=1)


def test_callbacks_find_their_task_recorded(make, probe):
    pool, seen = make(), []
    done = threading.Event()

    def heard(_):
        seen.append(ledger(probe).read().counts())
        done.set()

    pool.apply_async(square, (2,), callback=heard)
    assert done.wait(LIMIT)
    assert seen[0]["succeeded"] == 1


def test_terminate_cancels_what_waits(make, probe):
    gate, pool = Gate(), make()
    for _ in range(5):
        pool.apply_async(gate)
    gate.await_started(1)
    # One that the pool has in its hand as it is terminated may stay in the queue of the workers, unseen.
    deadline = time.monotonic() + LIMIT
    while pool._inqueue.qsize() < 4 and time.monotonic() < deadline:
        time.sleep(0.001)
    book = ledger(probe)
    pool.terminate()
    book.only(submitted=5, running=1, cancelled=4)
    gate.open()
    pool.join()
    book.only(submitted=5, succeeded=1, cancelled=4)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_exit_of_the_worker_is_a_failure(make, probe):
    pool, ended = make(2), []

    def exit_thread():
        ended.append(threading.current_thread())
        gate.open()
        raise SystemExit

    gate = Gate()
    pool.apply_async(exit_thread)  # no result ever comes
    pool.apply(gate)
    ended[0].join(LIMIT)
    ledger(probe).only(submitted=2, succeeded=1, failed=1)


def test_a_closed_pool_refuses_as_ever(make, probe):
    pool = make()
    pool.close()
    with pytest.raises(ValueError, match="not running"):
        pool.apply(square, (1,))


@pytest.mark.filterwarnings("ignore:unclosed running multiprocessing pool:ResourceWarning")
@pytest.mark.parametrize("watched", [False, True])
def test_a_dropped_pool_ends_its_threads(probe, watched):
    if watched:
        family.patch(probe)
    pool = ThreadPool(2)
    pool.map(square, range(3))
    threads, gone = list(pool._pool), weakref.ref(pool)
    del pool
    deadline = time.monotonic() + LIMIT
    while gone() is not None and time.monotonic() < deadline:
        gc.collect()  # the thread that brings results may still hold the last one, and that its pool
    assert gone() is None
    for thread in threads:
        thread.join(LIMIT)
        assert not thread.is_alive()


def test_a_pool_made_by_multiprocessing_dummy(probe):
    family.patch(probe)
    with multiprocessing.dummy.Pool(1) as pool:
        assert pool.map(square, [2]) == [4]
    ledger(probe).only(submitted=1, succeeded=1)


def test_undo_leaves_everything_as_it_was(probe):
    def state():
        return [dict(vars(owner)) for owner in (ThreadPool, Pool, multiprocessing.pool)]

    before = state()
    for _ in range(2):
        family.patch(probe)
        family.patch(probe)
        assert state() != before
        family.unpatch()
        family.unpatch()
        assert state() == before


def test_uninstall_while_tasks_run(probe):
    family.patch(probe)
    gate = Gate()
    with ThreadPool(1) as pool:
        results = [pool.apply_async(gate) for _ in range(3)]
        gate.await_started(1)
        family.unpatch()
        results.append(pool.apply_async(square, (2,)))
        family.patch(probe)
        results.append(pool.apply_async(square, (2,)))
        gate.open()
        for result in results:
            result.get(LIMIT)
        ledger(probe).only(submitted=4, succeeded=4)
    assert len(probe.recorders) == 1


def test_tasks_from_before_are_left_alone(probe):
    gate = Gate()
    with ThreadPool(1) as pool:
        results = [pool.apply_async(gate) for _ in range(2)]
        gate.await_started(1)
        family.watch_own(pool, lambda: probe, None)
        results.append(pool.apply_async(square, (2,)))
        book = ledger(probe)
        book.only(submitted=1, queued=1)
        gate.open()
        for result in results:
            result.get(LIMIT)
        book.only(submitted=1, succeeded=1)


def test_where_the_standard_library_is_another_one_nothing_is_done(probe, monkeypatch):
    monkeypatch.setattr(Pool, "apply_async", lambda self, func: None)
    before = dict(vars(ThreadPool))
    family.patch(probe)
    assert dict(vars(ThreadPool)) == before
    assert ["not watched" in message[1] for message in probe.messages] == [True]


def test_the_settings_may_give_another_size(probe):
    probe.add_rule(f"{__name__}:test_the_settings_may_give_another_size.pool", 2)
    family.patch(probe)
    with ThreadPool(1) as pool:
        assert len(pool._pool) == 2
        pool.map(square, range(4))
    assert ledger(probe).read().max_workers == 2


def test_counts_hold_while_it_is_installed_and_uninstalled(probe):
    """Each task is recorded wholly or not at all."""
    stop = threading.Event()

    def toggle():
        while not stop.is_set():
            family.patch(probe)
            family.unpatch()

    family.patch(probe)
    with ThreadPool(3) as pool:
        pool.apply(square, (1,))
        toggler = threading.Thread(target=toggle)
        toggler.start()
        try:
            for _ in range(20):
                assert pool.map(square, range(50), chunksize=1) == [number * number for number in range(50)]
        finally:
            stop.set()
            toggler.join(LIMIT)
    pool.join()
    book = ledger(probe).read()
    assert len(probe.recorders) == 1
    assert book.queued == book.running == book.failed == book.cancelled == 0
    assert set(book.tasks.values()) <= {0}


@pytest.mark.parametrize("after", range(3))
def test_a_clock_that_fails_is_not_the_tasks_business(after):
    readings = iter(range(after))
    probe = FakeProbe(as_ours(lambda: next(readings) + 1))
    family.patch(probe)
    with ThreadPool(1) as pool:
        assert pool.map(square, range(5), chunksize=1) == [0, 1, 4, 9, 16]
        with pytest.raises(ValueError, match="no"):
            pool.apply(fail)
    pool.join()
    family.unpatch()
    assert probe.faults
    assert probe.recorders[0].given_up

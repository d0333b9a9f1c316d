"""`multiprocessing.pool.Pool` patched in place: real processes, gated by files."""

from __future__ import annotations

import gc
import multiprocessing
import multiprocessing.pool
import re
import sys
import threading
import time
import traceback
import weakref
from multiprocessing.heap import BufferWrapper
from multiprocessing.pool import Pool, ThreadPool
from time import perf_counter_ns
from types import SimpleNamespace

import process_support as child
import pytest
from probe_support import FakeProbe, Ledger, as_ours
from process_support import LIMIT, Gate

from poolscope.probe.interpreter.cpu import CpuClocks, thread_clocks_readable
from poolscope.probe.processes import multiprocessing_pool as family
from poolscope.probe.processes import processchild
from poolscope.probe.processes.worker_table import WorkerTable
from poolscope.probe.recording.pool_watch import Watch

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")

METHODS = ["fork", "spawn", "forkserver"]


@pytest.fixture
def probe():
    made = FakeProbe(perf_counter_ns)
    yield made
    family.unpatch()
    assert not made.faults


@pytest.fixture
def gate(tmp_path):
    made = Gate(tmp_path)
    yield made
    made.open()


@pytest.fixture
def make(probe):
    """Makes a watched pool; its ledger is `ledger(probe)`."""
    made = []

    def make(processes=1, method="fork", **options):
        family.patch(probe)
        pool = multiprocessing.get_context(method).Pool(processes, **options)
        made.append(pool)
        return pool

    yield make
    for pool in made:
        pool.terminate()
        pool.join()


def ledger(probe):
    return Ledger(probe.recorders[-1], probe)


def notices(probe):
    return [message[1] for message in probe.messages if message[0] == "notice"]


@pytest.mark.parametrize("method", METHODS)
def test_what_runs_and_what_waits(make, probe, gate, method):
    pool = make(2, method)
    results = [pool.apply_async(*task(gate, name)) for name in "abcdef"]
    gate.await_started("a", "b")
    book = ledger(probe)
    book.only(submitted=6, running=2, queued=4)
    assert (book.workers, book.max_workers) == (2, 2)
    gate.open()
    assert [result.get(LIMIT) for result in results] == list("abcdef")
    book.only(submitted=6, succeeded=6)
    assert {task[0] for task in book.finished} == {1, 2}
    pool.close()
    pool.join()
    assert book.read().workers == 0
    assert (probe.recorders[0].kind, probe.recorders[0].executor) == ("process", "multiprocessing.pool.Pool")
    assert probe.function_names() == {1: "process_support.hold"}
    assert not notices(probe)


def task(gate, name):
    fn, *args = gate.task(name)
    return fn, args


@pytest.mark.parametrize("method", METHODS)
def test_the_start_is_the_one_in_the_child(make, probe, method):
    pool = make(1, method)
    inside = [pool.apply(child.now) for _ in range(3)]
    book = ledger(probe).read()
    assert len(book.finished) == 3
    for at, (*_, submitted, started, ended) in zip(inside, book.finished, strict=True):
        assert submitted <= started <= at <= ended <= perf_counter_ns()


@pytest.mark.parametrize(
    ("call", "expected", "tasks"),
    [
        (lambda pool: pool.apply(child.square, (3,)), 9, 1),
        (lambda pool: pool.map(child.square, range(4), chunksize=1), [0, 1, 4, 9], 4),
        (lambda pool: pool.map(child.square, range(5), chunksize=2), [0, 1, 4, 9, 16], 3),
        (lambda pool: pool.map(child.square, []), [], 0),
        (lambda pool: pool.map_async(child.square, range(3), 1).get(LIMIT), [0, 1, 4], 3),
        (lambda pool: pool.starmap(child.square, [(1,), (2,)], 1), [1, 4], 2),
        (lambda pool: list(pool.imap(child.square, range(4))), [0, 1, 4, 9], 4),
        (lambda pool: list(pool.imap(child.square, range(4), chunksize=2)), [0, 1, 4, 9], 2),
        (lambda pool: sorted(pool.imap_unordered(child.square, iter(range(4)))), [0, 1, 4, 9], 4),
    ],
)
def test_every_way_to_submit(make, probe, call, expected, tasks):
    assert call(make(2)) == expected
    ledger(probe).only(submitted=tasks, succeeded=tasks)
    assert set(probe.function_names().values()) <= {"process_support.square"}


def test_all_tasks_of_a_map_arrive_at_once(make, probe, gate):
    """They are sent one by one, as the pipe to the workers has room."""
    pool = make()
    number = 5_000  # more than fit in
    pool.apply_async(*task(gate, "a"))
    gate.await_started("a")
    result = pool.map_async(child.square, range(number), chunksize=1)
    book = ledger(probe)
    book.only(submitted=1 + number, running=1, queued=number)
    gate.open()
    assert result.get(LIMIT) == [item * item for item in range(number)]
    book.only(submitted=1 + number, succeeded=1 + number)


@pytest.mark.parametrize(
    ("call", "chunked"),
    [
        (lambda pool: pool.map(child.square, range(5), chunksize=5), (1, 5)),
        (lambda pool: pool.map(child.square, range(5), chunksize=2), (3, 5)),
        (lambda pool: list(pool.imap(child.square, range(5), chunksize=4)), (2, 5)),
        (lambda pool: list(pool.imap(child.square, range(5))), (0, 0)),
        (lambda pool: pool.apply(child.square, (5,)), (0, 0)),
    ],
)
def test_items_in_chunks_are_counted(make, probe, call, chunked):
    call(make())
    assert probe.recorders[-1].chunked == chunked


def test_a_great_map_arrives_bit_by_bit(make, probe, monkeypatch):
    monkeypatch.setattr(family, "_AT_ONCE", 3)
    assert make().map(child.square, range(4), chunksize=1) == [0, 1, 4, 9]
    ledger(probe).only(submitted=4, succeeded=4)


def raised(call):
    try:
        return call()
    except Exception as error:
        return error


@pytest.mark.parametrize("method", METHODS)
def test_errors_are_those_of_the_standard_pool(make, probe, method):
    lock = threading.Lock()

    def outcomes(pool):
        found = []
        for call in (
            lambda: pool.apply(child.fail, ("no",)),
            lambda: pool.map(child.fail, ["no"]),
            lambda: pool.apply(child.unpicklable),
            lambda: pool.apply(child.square, (lock,)),
            lambda: list(pool.imap(child.square, child.first_numbers())),
        ):
            error = raised(call)
            places = [(line.filename, line.name) for line in traceback.extract_tb(error.__traceback__)]
            text = re.sub(r"0x\w+", "", f"{error}\n{error.__cause__}")
            found.append((type(error), text, places[1:]))
        return found

    with multiprocessing.get_context(method).Pool(1) as pool:
        expected = outcomes(pool)
    pool.join()
    assert outcomes(make(1, method)) == expected
    ledger(probe).only(submitted=5, succeeded=1, failed=3, broken=1)


def test_callbacks_find_their_task_recorded(make, probe):
    pool, seen, done = make(), [], threading.Semaphore(0)

    def heard(_):
        book = ledger(probe).read()
        seen.append((book.succeeded, book.failed))
        done.release()

    pool.apply_async(child.square, (2,), callback=heard)
    assert done.acquire(timeout=LIMIT)
    pool.apply_async(child.fail, ("no",), error_callback=heard)
    assert done.acquire(timeout=LIMIT)
    assert seen == [(1, 0), (0, 1)]


@pytest.fixture
def held_up(request, make):
    """A pool of one worker whose results nobody takes until the second value is set: a callback holds that thread."""
    pool, held, go_on = make(**getattr(request, "param", {})), threading.Event(), threading.Event()

    def hold_up(_):
        held.set()
        assert go_on.wait(LIMIT)

    pool.apply_async(child.nothing, callback=hold_up)
    assert held.wait(LIMIT)
    yield pool, go_on
    go_on.set()


def test_results_that_nobody_takes_yet(held_up, probe, gate):
    """The worker is told of with the first one under way."""
    pool, go_on = held_up
    results = [pool.apply_async(child.square, (number,)) for number in range(20)]
    pool.apply_async(*task(gate, "a"))
    gate.await_started("a")
    book = ledger(probe)
    book.only(submitted=22, succeeded=1, running=1, queued=20)
    assert probe.function_names()[book.running_tasks[0][1]] == "process_support.square"
    # Though it has ended, as have those after it but the last one.
    [worker] = probe.recorders[-1].workers
    [*ended, last] = worker.calls()
    assert worker.under_way() == (worker.worker, ended[-1][2])
    assert worker.running[2] <= ended[-1][2] <= last[2]
    go_on.set()
    gate.open()
    assert [result.get(LIMIT) for result in results] == [number * number for number in range(20)]
    pool.apply(child.nothing)
    book.only(submitted=23, succeeded=23)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("fatal", "how"),
    [
        ((child.die, ()), "was killed (signal 9) in process_support.die"),
        ((child.leave, (0,)), "ended (exit status 0) in process_support.leave"),
        ((child.leave, (3,)), "ended (exit status 3) in process_support.leave"),
    ],
)
def test_a_task_that_takes_its_worker_along(make, probe, method, fatal, how):
    pool = make(1, method)
    assert pool.apply(child.square, (2,)) == 4
    for _ in range(2):
        pool.apply_async(*fatal)  # no result ever comes
        assert pool.apply(child.square, (3,)) == 9
    book = ledger(probe)
    book.only(submitted=5, succeeded=3, failed=2)
    assert [run[0] for run in book.finished] == [1] * 5
    assert [run[2] for run in book.finished] == [0, 1, 0, 1, 0]
    assert how in notices(probe)[0]
    assert "the thread that waits for the result waits for ever" in notices(probe)[0]


def test_a_worker_is_killed_while_results_are_under_way(held_up, probe, gate):
    """Its failure is told after them: a worker's tasks are in order."""
    pool, go_on = held_up
    results = [pool.apply_async(child.square, (2,)) for _ in range(3)]
    pool.apply_async(*task(gate, "a"))
    gate.await_started("a")
    first = pool._pool[0]
    first.kill()
    first.join(LIMIT)
    pool.apply_async(*task(gate, "b"))
    gate.await_started("b")
    book = ledger(probe).read()
    assert (book.succeeded, book.failed) == (1, 0)
    assert "was killed (signal 9) in process_support.hold" in notices(probe)[0]
    go_on.set()
    for result in results:
        assert result.get(LIMIT) == 4
    gate.open()
    assert pool.apply(child.square, (2,)) == 4
    book.only(submitted=7, succeeded=6, failed=1)
    assert [run[2] for run in book.finished] == [0, 0, 0, 0, 1, 0, 0]
    assert [run[4] for run in book.finished] == sorted(run[4] for run in book.finished)


@pytest.mark.parametrize("held_up", [{"maxtasksperchild": 3}], indirect=True)
def test_a_worker_has_done_its_tasks_while_results_are_under_way(held_up, probe, gate):
    pool, go_on = held_up
    results = [pool.apply_async(child.square, (2,)) for _ in range(2)]
    pool.apply_async(*task(gate, "a"))
    gate.await_started("a")  # by the next one
    assert not notices(probe)
    go_on.set()
    gate.open()
    assert [result.get(LIMIT) for result in results] == [4, 4]
    pool.apply(child.nothing)
    ledger(probe).only(submitted=5, succeeded=5)


@pytest.mark.parametrize("method", METHODS)
def test_processes_that_replace_each_other_are_one_worker(make, probe, method):
    pool = make(1, method, maxtasksperchild=2)
    assert len({pool.apply(child.pid) for _ in range(5)}) == 3
    book = ledger(probe)
    book.only(submitted=5, succeeded=5)
    assert [run[0] for run in book.finished] == [1] * 5
    if thread_clocks_readable:
        [worker] = probe.recorders[0].workers
        first = worker.cpu_now(CpuClocks())
        assert 0 < first <= worker.cpu_now(CpuClocks())
    assert not notices(probe)


def test_terminate_fails_what_runs_and_cancels_what_waits(make, probe, gate):
    pool = make(2)
    for name in "abcde":
        pool.apply_async(*task(gate, name))
    pool.map_async(child.square, range(10), chunksize=1)
    gate.await_started("a", "b")
    book = ledger(probe)
    book.only(submitted=15, running=2, queued=13)
    pool.terminate()
    book.only(submitted=15, failed=2, cancelled=13)
    pool.join()
    assert book.read().workers == 0


def test_what_is_submitted_while_the_pool_is_terminated_is_cancelled(make, probe, monkeypatch):
    pool = make()
    pool.terminate()
    monkeypatch.setattr(pool, "_check_running", lambda: None)  # it was asked before
    pool.apply_async(child.nothing)
    pool.map_async(child.nothing_of, range(3), 1)
    ledger(probe).only(submitted=4, cancelled=4)


@pytest.mark.filterwarnings("ignore:unclosed running multiprocessing pool:ResourceWarning")
def test_a_dropped_pool_is_not_held(probe):
    """That its threads end is up to the standard library, where one may wait for ever."""
    family.patch(probe)
    pool = multiprocessing.get_context("fork").Pool(2)
    pool.map(child.square, range(3))
    gone = weakref.ref(pool)
    deadline = time.monotonic() + LIMIT
    del pool
    while gone() is not None and time.monotonic() < deadline:
        gc.collect()  # the thread that brings results may still hold the last one, and that its pool
    assert gone() is None
    ledger(probe).only(submitted=3, succeeded=3)


@pytest.mark.filterwarnings("ignore:unclosed running multiprocessing pool:ResourceWarning")
def test_a_pool_in_a_cycle_ends_without_a_word(probe, monkeypatch):
    """Its end writes to a pipe that may have been collected before it, which without us is a matter of luck."""
    said, context = [], multiprocessing.get_context("fork")
    queues = [context.SimpleQueue() for _ in range(3)]  # older than the pool, they come first
    monkeypatch.setattr(sys, "unraisablehook", said.append)
    family.patch(probe)
    with monkeypatch.context() as patch:
        patch.setattr(context, "SimpleQueue", queues.pop)
        pool = context.Pool(1)
    pool.itself, gone, notifier = pool, weakref.ref(pool), weakref.ref(pool._change_notifier)
    pool.apply(child.nothing)
    pool._terminate()  # as the end of the program does
    del pool
    gc.collect()
    assert (gone(), notifier()) == (None, None)
    assert not said


def test_children_load_nothing_of_ours(make):
    assert make(1, "spawn").apply(child.modules_of_ours) == []


def test_a_closed_pool_refuses_as_ever(make):
    pool = make()
    pool.close()
    with pytest.raises(ValueError, match="not running"):
        pool.apply(child.nothing)


def test_wrong_arguments_are_refused_as_ever(probe):
    family.patch(probe)
    for wrong in ({"processes": 0}, {"initializer": 3}, {"maxtasksperchild": 0}):
        with pytest.raises((ValueError, TypeError)):
            multiprocessing.Pool(**wrong)
    assert not probe.recorders


def test_a_pool_from_before_is_left_alone_with_a_notice(probe):
    with multiprocessing.get_context("fork").Pool(1) as pool:
        family.patch(probe)
        assert [pool.apply(child.square, (2,)) for _ in range(2)] == [4, 4]
    assert ["multiprocessing.pool.Pool is not watched" in text for text in notices(probe)] == [True]
    assert not probe.recorders


class NoDaemonProcess(multiprocessing.get_context("fork").Process):
    daemon = property(lambda _: False, lambda *_: None)


class NoDaemonContext(type(multiprocessing.get_context("fork"))):
    Process = NoDaemonProcess


class PoolWithContext(Pool):
    def __init__(self, processes):
        super().__init__(processes, context=NoDaemonContext())


class PoolWithProcess(Pool):
    def Process(self, *args, **kwds):  # noqa: N802 - the standard name
        process = super().Process(*args, **kwds)
        process.__class__ = NoDaemonProcess
        return process


class PoolWithWorkers(Pool):
    def _repopulate_pool(self):
        for _ in range(self._processes - len(self._pool)):
            args = (self._inqueue, self._outqueue, self._initializer, self._initargs, self._maxtasksperchild, True)
            process = self.Process(self._ctx, target=multiprocessing.pool.worker, args=args)
            process.start()
            self._pool.append(process)


@pytest.mark.parametrize("cls", [PoolWithContext, PoolWithProcess, PoolWithWorkers])
def test_subclasses_as_people_write_them(probe, cls):
    family.patch(probe)
    with cls(2) as pool:
        assert pool.map(child.square, range(4), 1) == [0, 1, 4, 9]
        daemons = {process.daemon for process in pool._pool}
        pool.close()
        pool.join()
    assert daemons == {False}
    ledger(probe).only(submitted=4, succeeded=4)
    assert not notices(probe)


class PoolOfItsOwn(Pool):
    @staticmethod
    def Process(context, *args, **kwds):  # noqa: N802 - the standard name
        return context.Process(*args, **kwds)


def test_a_subclass_that_makes_its_processes_itself_is_left_alone(probe):
    family.patch(probe)
    with PoolOfItsOwn(1) as pool:
        assert pool.apply(child.square, (2,)) == 4
    assert [f"{__name__}.PoolOfItsOwn is not watched" in text for text in notices(probe)] == [True]
    assert not probe.recorders


def test_undo_leaves_everything_as_it_was(probe):
    def state():
        return [dict(vars(owner)) for owner in (Pool, multiprocessing.pool)]

    before = state()
    family.patch(probe)
    assert state() != before
    with Pool(1) as pool:
        assert pool.apply(child.square, (2,)) == 4
    family.unpatch()
    assert state() == before


def test_uninstall_and_install_while_tasks_run(make, probe, gate):
    pool = make()
    results = [pool.apply_async(*task(gate, name)) for name in "ab"]
    gate.await_started("a")
    family.unpatch()
    results.append(pool.apply_async(child.nothing))
    results.append(pool.map_async(child.nothing_of, [1, 2], 1))
    family.patch(probe)
    results.append(pool.apply_async(child.nothing))
    gate.open()
    for result in results:
        result.get(LIMIT)
    ledger(probe).only(submitted=3, succeeded=3)
    assert len(probe.recorders) == 1


def other_init(self):
    self._check_running()


def test_where_the_standard_library_is_another_one_nothing_is_done(probe, monkeypatch):
    monkeypatch.setattr(Pool, "__init__", other_init)
    before = dict(vars(Pool))
    family.patch(probe)
    assert dict(vars(Pool)) == before
    said = "multiprocessing's pools are not watched: __init__ of multiprocessing.pool.Pool does not use _taskqueue"
    assert notices(probe) == [f"{said} in Python {sys.version.split()[0]}"]


def test_where_only_its_processes_are_other_ones_threads_are_watched(probe, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(multiprocessing.pool, "worker", lambda calls, results: None)
        family.patch(probe)
    said = (
        "pools of processes are not watched: worker of multiprocessing.pool does not take (inqueue, outqueue) in Python"
    )
    assert notices(probe) == [f"multiprocessing's {said} {sys.version.split()[0]}"]
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply(child.square, (2,)) == 4
    assert not probe.recorders
    with ThreadPool(1) as pool:
        assert pool.apply(child.square, (2,)) == 4
    ledger(probe).only(submitted=1, succeeded=1)
    assert len(notices(probe)) == 1


def test_the_settings_may_give_another_size(probe):
    probe.add_rule(f"{__name__}:test_the_settings_may_give_another_size.pool", 2)
    family.patch(probe)
    for arguments in ({}, {"processes": 5}):
        with multiprocessing.get_context("fork").Pool(**arguments) as pool:
            assert len(pool._pool) == 2
    with Pool(1) as pool:
        assert len(pool._pool) == 2
        pool.map(child.square, range(4))
    assert ledger(probe).read().max_workers == 2


def test_counts_hold_while_it_is_installed_and_uninstalled(make, probe):
    """Each task is recorded wholly or not at all."""
    stop = threading.Event()

    def toggle():
        while not stop.is_set():
            family.patch(probe)
            family.unpatch()

    pool = make(2, maxtasksperchild=30)
    pool.apply(child.square, (1,))
    toggler = threading.Thread(target=toggle)
    toggler.start()
    try:
        for _ in range(10):
            assert pool.map(child.square, range(30), chunksize=1) == [number * number for number in range(30)]
            assert sum(pool.imap_unordered(child.square, range(10))) == 285
    finally:
        stop.set()
        toggler.join(LIMIT)
    book = ledger(probe).read()
    assert len(probe.recorders) == 1
    assert book.queued == book.running == book.failed == book.broken == book.cancelled == 0
    assert set(book.tasks.values()) <= {0}


@pytest.mark.parametrize("after", range(3))
def test_a_clock_that_fails_is_not_the_tasks_business(after):
    readings = iter(range(after))
    probe = FakeProbe(as_ours(lambda: next(readings) + 1))
    family.patch(probe)
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.map(child.square, range(5), chunksize=1) == [0, 1, 4, 9, 16]
        assert list(pool.imap(child.square, range(3))) == [0, 1, 4]
        with pytest.raises(ValueError, match="no"):
            pool.apply(child.fail, ("no",))
        pool.apply_async(child.die)
        assert pool.apply(child.square, (2,)) == 4
    family.unpatch()
    assert probe.faults
    assert probe.recorders[0].given_up


@pytest.mark.parametrize("at_get", [True, False])
def test_an_interrupted_worker_prints_the_traceback_of_the_standard_one(at_get):
    def interrupted(*_):
        raise KeyboardInterrupt

    def worker(calls, results):
        calls.get()
        results.put((1, 2, (True, None)))

    calls = SimpleNamespace(get=interrupted if at_get else lambda: (1, 2, child.nothing, (), {}))
    results = SimpleNamespace(put=interrupted)
    shared = BufferWrapper(processchild.PER_WORKER * 8)
    with pytest.raises(KeyboardInterrupt) as caught:
        processchild.work(worker, (calls, results), shared, 1, 0)
    assert [entry.name for entry in caught.traceback[1:]] == ["worker", "interrupted"]


def test_what_a_worker_was_lost_in_is_told_once(probe):
    """The process that takes its place may end before its first call."""

    def worker(calls, _):
        calls.get()

    recorder = probe.open_pool(probe, name="p", prefix="", kind="process", size=lambda: None)
    table = WorkerTable(Watch(probe, recorder), 1, {})
    process_worker = table.take(lambda _: True)
    process = table.arguments_for(
        process_worker, worker, (SimpleNamespace(get=lambda: (1, 2)), SimpleNamespace(put=None))
    )
    assert process_worker.interrupted() is None
    process["target"](*process["args"])
    assert process_worker.interrupted()[:2] == (1, processchild.work_id(1, 2))
    assert process_worker.interrupted() is None
    assert process_worker.last_number() == 1

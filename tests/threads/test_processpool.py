"""Process pools, drop-in, attached and patched in place: real processes, gated by files."""

from __future__ import annotations

import concurrent.futures.process as standard
import copy
import functools
import gc
import inspect
import multiprocessing
import pickle
import re
import sys
import threading
import traceback
import weakref
from concurrent.futures import ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from time import perf_counter_ns

import process_support as child
import pytest
from probe_support import FakeProbe, Ledger, as_ours
from process_support import LIMIT, Gate
from runtime_support import FakeCpu, FakeExecutor, HandClock, Record, submit

from poolscope.executors import processes as dropin
from poolscope.probe.interpreter.cpu import CpuClocks, thread_clocks_readable
from poolscope.probe.processes import processchild, processpool
from poolscope.probe.recording.registry import Pools

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")

WAYS = ["drop-in", "patched", "attached"]
METHODS = ["fork", "spawn", "forkserver"]


@pytest.fixture
def probe(monkeypatch):
    made = FakeProbe(perf_counter_ns)
    monkeypatch.setattr(dropin, "_find_probe", lambda: made)
    yield made
    processpool.unpatch()
    assert not made.faults


@pytest.fixture
def gate(tmp_path):
    made = Gate(tmp_path)
    yield made
    made.open()


@pytest.fixture(params=WAYS)
def make(request, probe):
    """Makes a watched pool in one of the ways; its ledger is `ledger(probe)`."""

    def make(max_workers=1, method="fork", **options):
        context = multiprocessing.get_context(method)
        if request.param == "drop-in":
            return dropin.ProcessPoolExecutor(max_workers, context, **options)
        if request.param == "patched":
            processpool.patch(probe)
        pool = ProcessPoolExecutor(max_workers, context, **options)
        if request.param == "attached":
            processpool.watch_own(pool, lambda: probe, None)
        return pool

    return make


def patched(probe, max_workers=1, method="fork", **options):
    processpool.patch(probe)
    return ProcessPoolExecutor(max_workers, multiprocessing.get_context(method), **options)


def ledger(probe):
    return Ledger(probe.recorders[-1], probe)


def notices(probe):
    return [message[1] for message in probe.messages if message[0] == "notice"]


@pytest.mark.parametrize("method", METHODS)
def test_what_runs_and_what_waits(make, probe, gate, method):
    with make(2, method) as pool:
        futures = [pool.submit(*gate.task(name)) for name in "abcdef"]
        gate.await_started("a", "b")
        book = ledger(probe)
        # A third one is in the pipe by now, and its future says that it runs.
        book.only(submitted=6, running=2, queued=4)
        assert (book.workers, book.max_workers) == (2, 2)
        gate.open()
        assert [future.result(LIMIT) for future in futures] == list("abcdef")
        book.only(submitted=6, succeeded=6)
        assert {task[0] for task in book.finished} == {1, 2}
    book.read()
    assert book.workers == 0
    assert probe.recorders[0].kind == "process"
    assert probe.function_names() == {1: "process_support.hold"}
    assert not notices(probe)


@pytest.mark.parametrize("method", METHODS)
def test_the_start_is_the_one_in_the_child(probe, method):
    with patched(probe, 1, method) as pool:
        inside = [pool.submit(child.now).result(LIMIT) for _ in range(3)]
        book = ledger(probe).read()
    assert len(book.finished) == 3
    for at, (*_, submitted, started, ended) in zip(inside, book.finished, strict=True):
        assert submitted <= started <= at <= ended <= perf_counter_ns()


@pytest.mark.parametrize("method", METHODS)
def test_errors_are_those_of_the_standard_pool(make, probe, method):
    lock = threading.Lock()

    def outcomes(pool):
        found = []
        for task in ((child.fail, "no"), (lambda: 1,), (child.unpicklable,), (child.square, lock)):
            error = pool.submit(*task).exception(LIMIT)
            found.append((type(error), re.sub(r"0x\w+", "", f"{error}\n{error.__cause__}")))
        return found

    with ProcessPoolExecutor(1, multiprocessing.get_context(method)) as pool:
        expected = outcomes(pool)
    with make(1, method) as pool:
        assert outcomes(pool) == expected  # with the child's tracebacks
        assert outcomes(pool) == expected
    ledger(probe).only(submitted=8, failed=4, broken=4)


def test_cancelled_while_queued(make, probe, gate):
    with make() as pool:
        pool.submit(*gate.task("a"))
        gate.await_started("a")
        futures = [pool.submit(child.nothing) for _ in range(8)]
        book = ledger(probe)
        assert futures[-1].cancel()
        book.only(submitted=9, running=1, cancelled=1, queued=7)
        manager = pool._executor_manager_thread
        pool.shutdown(wait=False, cancel_futures=True)
        gate.open()
        manager.join(LIMIT)
    cancelled = sum(future.cancelled() for future in futures)
    assert cancelled >= 6  # what is in the pipe is not cancelled any more
    book.only(submitted=9, succeeded=9 - cancelled, cancelled=cancelled)


@pytest.mark.parametrize("method", METHODS)
def test_a_worker_is_killed(make, probe, gate, method):
    with make(2, method) as pool:
        pool.submit(child.pid).result(LIMIT)
        futures = [pool.submit(*gate.task("a")), pool.submit(*gate.task("b"))]
        gate.await_started("a", "b")
        futures += [pool.submit(child.nothing) for _ in range(5)]
        book = ledger(probe)
        book.only(submitted=8, succeeded=1, running=2, queued=5)
        next(iter(pool._processes.values())).kill()
        for future in futures:
            assert isinstance(future.exception(LIMIT), BrokenProcessPool)
        with pytest.raises(BrokenProcessPool):
            pool.submit(child.nothing)
        pool._executor_manager_thread.join(LIMIT)
    # The two that ran have failed, the others never started. No refusal is seen of a pool that is attached only.
    attached = type(pool) is ProcessPoolExecutor and not processpool._is_patched()
    book.only(submitted=8, succeeded=1, failed=2, broken=5, rejected=0 if attached else 1)


@pytest.mark.skipif(not hasattr(ProcessPoolExecutor, "kill_workers"), reason="this Python cannot end workers by force")
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("how", ["terminate_workers", "kill_workers", "kill_workers, estimated"])
def test_the_workers_are_ended_by_force(make, probe, gate, monkeypatch, how, method):
    """As the standard library tells the futures: what ran has failed, and so has what had left the queue for the pipe
    to the workers, without a start; what was queued is cancelled."""
    if "estimated" in how:
        monkeypatch.setattr(processchild, "__file__", "/nowhere/processchild.py")
    with make(2, method) as pool:
        futures = [pool.submit(*gate.task(name)) for name in "ab"]
        gate.await_started("a", "b")
        futures += [pool.submit(child.nothing) for _ in range(8)]
        child.await_that(lambda: sum(future.running() for future in futures) == 5)  # and one more than workers waits
        book = ledger(probe)
        book.only(submitted=10, running=2, queued=8)
        manager = pool._executor_manager_thread
        getattr(pool, how.partition(",")[0])()
        manager.join(LIMIT)
        assert [future.cancelled() for future in futures] == [False] * 5 + [True] * 5
        assert all(isinstance(future.exception(), BrokenProcessPool) for future in futures[:5])
        with pytest.raises(RuntimeError):
            pool.submit(child.nothing)
    attached = type(pool) is ProcessPoolExecutor and not processpool._is_patched()
    book.only(submitted=10, failed=2, broken=3, cancelled=5, rejected=0 if attached else 1)
    assert book.workers == 0


@pytest.mark.skipif(not hasattr(ProcessPoolExecutor, "kill_workers"), reason="this Python cannot end workers by force")
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_worker_ends_while_the_others_are_ended_by_force(probe, gate, method):
    """It is not replaced, and what is left has failed without a start."""
    with patched(probe, 1, method, max_tasks_per_child=1) as pool:
        futures = [pool.submit(*gate.task(name)) for name in "abc"]
        gate.await_started("a")
        with pool._shutdown_lock:
            pool._force_shutting_down = True
        gate.open()
        assert futures[0].result(LIMIT) == "a"
        for future in futures[1:]:
            assert isinstance(future.exception(LIMIT), BrokenProcessPool)
    ledger(probe).only(submitted=3, succeeded=1, broken=2)


def test_a_task_that_kills_its_worker(make, probe):
    with make() as pool:
        assert isinstance(pool.submit(child.die).exception(LIMIT), BrokenProcessPool)
    ledger(probe).only(submitted=1, failed=1)


def test_the_initializer_fails(make, probe):
    with make(initializer=child.fail, initargs=("no",)) as pool:
        assert isinstance(pool.submit(child.nothing).exception(LIMIT), BrokenProcessPool)
    ledger(probe).only(submitted=1, broken=1)


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_processes_that_replace_each_other_are_one_worker(make, probe, method):
    with make(1, method, max_tasks_per_child=2) as pool:
        assert len({pool.submit(child.pid).result(LIMIT) for _ in range(5)}) == 3
        book = ledger(probe)
        book.only(submitted=5, succeeded=5)
        assert [task[0] for task in book.finished] == [1] * 5
        if thread_clocks_readable:
            [worker] = probe.recorders[0].workers
            first = worker.cpu_now(CpuClocks())
            assert 0 < first <= worker.cpu_now(CpuClocks())


@pytest.mark.skipif(not hasattr(standard, "_spawn_worker"), reason="the manager of this Python's pools may never end")
@pytest.mark.parametrize("end", ["shut down", "dropped"])
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_worker_is_replaced_unless_the_pool_has_gone(probe, gate, method, end):
    pool = patched(probe, 1, method, max_tasks_per_child=1)
    futures = [pool.submit(*gate.task(name)) for name in "abc"]
    gate.await_started("a")
    manager = pool._executor_manager_thread
    if end == "shut down":
        pool.shutdown(wait=False)
    else:
        del pool
    gate.open()
    manager.join(LIMIT)
    if end == "shut down":
        assert [future.result() for future in futures] == list("abc")
        ledger(probe).only(submitted=3, succeeded=3)
    else:
        assert all(isinstance(future.exception(), BrokenProcessPool) for future in futures[1:])
        ledger(probe).only(submitted=3, succeeded=1, broken=2)


def test_items_in_chunks_are_counted(make, probe):
    assert list(make().map(child.square, range(10), chunksize=4)) == [number * number for number in range(10)]
    assert probe.recorders[-1].chunked == (3, 10)


@pytest.mark.skipif("buffersize" not in inspect.signature(ProcessPoolExecutor.map).parameters, reason="no buffersize")
def test_map_with_a_buffer_sends_a_chunk_when_there_is_room(make, probe):
    with make(2) as pool:
        results = pool.map(child.square, range(10), chunksize=3, buffersize=2)
        book = ledger(probe)
        assert book.read().submitted == 2
        assert next(results) == 0
        assert book.read().submitted == 3
        assert list(results) == [number * number for number in range(1, 10)]
    book.only(submitted=4, succeeded=4)
    assert probe.function_names() == {1: "process_support.square"}


def test_refused_after_shutdown(probe):
    for make in (patched, lambda _: dropin.ProcessPoolExecutor(1)):
        pool = make(probe)
        pool.shutdown()
        with pytest.raises(RuntimeError, match="after shutdown"):
            pool.submit(child.nothing)
        ledger(probe).only(rejected=1)


@pytest.mark.parametrize("way", WAYS)
def test_the_start_method_is_the_one_of_the_interpreter(probe, way):
    """`forkserver` from 3.14 on, where `fork` was before."""
    if way == "patched":
        processpool.patch(probe)
    with dropin.ProcessPoolExecutor(1) if way == "drop-in" else ProcessPoolExecutor(1) as pool:
        if way == "attached":
            processpool.watch_own(pool, lambda: probe, None)
        assert pool._mp_context.get_start_method() == multiprocessing.get_start_method()
        inside = [pool.submit(child.now).result(LIMIT) for _ in range(3)]
        book = ledger(probe)
        book.only(submitted=3, succeeded=3)
    for at, (*_, submitted, started, ended) in zip(inside, book.finished, strict=True):
        assert submitted <= started <= at <= ended
    assert not notices(probe)


def test_the_context_shows_like_the_one_that_was_given(make):
    context = multiprocessing.get_context("spawn")
    with make(1, "spawn") as pool:
        shown = pool._mp_context
        assert isinstance(shown, type(context))
        assert shown.get_start_method() == "spawn"
        assert shown.SimpleQueue.__func__ is context.SimpleQueue.__func__
        assert type(pickle.loads(pickle.dumps(shown))) is type(copy.copy(shown)) is type(context)
        with pytest.raises(AttributeError):
            shown.nothing  # noqa: B018


@pytest.mark.parametrize("method", METHODS)
def test_a_process_that_cannot_start_fails_the_submission_as_ever(make, probe, method, monkeypatch):
    def failed(pool):
        with pytest.raises(OSError, match="no more") as caught, pool:
            pool.submit(child.nothing)
        return [(line.filename, line.name) for line in traceback.extract_tb(caught.value.__traceback__)][1:]

    def no_start(_):
        raise OSError("no more")

    process = multiprocessing.get_context(method).Process
    monkeypatch.setattr(process, "_Popen", staticmethod(no_start))
    expected = failed(ProcessPoolExecutor(1, multiprocessing.get_context(method)))
    own = (inspect.getfile(dropin), "submit")
    assert [line for line in failed(make(1, method)) if line != own] == expected


def test_children_load_nothing_of_ours(make, probe):
    with make(1, "spawn") as pool:
        assert pool.submit(child.modules_of_ours).result(LIMIT) == []


def test_without_our_file_the_workers_are_the_standard_ones(make, probe, gate, monkeypatch):
    monkeypatch.setattr(processchild, "__file__", "/nowhere/processchild.py")
    with make(2, "spawn") as pool:
        futures = [pool.submit(*gate.task(name)) for name in "abcd"]
        gate.await_started("a", "b")
        book = ledger(probe)
        book.only(submitted=4, running=2, queued=2)
        gate.open()
        wait(futures, LIMIT)
    book.only(submitted=4, succeeded=4)
    assert "estimated" in notices(probe)[0]


@pytest.mark.parametrize("way", ["patched", "attached"])
def test_a_pool_in_use_is_recorded_from_now_on(probe, gate, way):
    with ProcessPoolExecutor(2, multiprocessing.get_context("fork")) as pool:
        futures = [pool.submit(*gate.task(name)) for name in "abcd"]
        gate.await_started("a", "b")
        if way == "patched":
            processpool.patch(probe)
        else:
            processpool.watch_own(pool, lambda: probe, None)
        futures += [pool.submit(*gate.task(name)) for name in "ef"]
        assert pool.submit(child.nothing).cancel()
        book = ledger(probe)
        book.only(submitted=3, queued=2, cancelled=1)
        gate.open()
        wait(futures, LIMIT)
        pool.submit(child.square, 2).result(LIMIT)
    book.only(submitted=4, succeeded=3, cancelled=1)


def test_uninstall_and_install_while_tasks_run(probe, gate):
    with patched(probe, 1) as pool:
        futures = [pool.submit(*gate.task(name)) for name in "ab"]
        gate.await_started("a")
        processpool.unpatch()
        processpool.unpatch()
        futures.append(pool.submit(child.nothing))
        processpool.patch(probe)
        processpool.patch(probe)
        futures.append(pool.submit(child.nothing))
        gate.open()
        wait(futures, LIMIT)
        ledger(probe).only(submitted=3, succeeded=3)
    assert len(probe.recorders) == 1


def test_undo_leaves_everything_as_it_was(probe):
    def state():
        return [dict(vars(owner)) for owner in (ProcessPoolExecutor, standard._ExecutorManagerThread, standard)]

    before = state()
    processpool.patch(probe)
    assert state() != before
    with ProcessPoolExecutor(1) as pool:
        pool.submit(child.nothing).result(LIMIT)
    processpool.unpatch()
    assert state() == before


@pytest.mark.parametrize("first", ["theirs", "ours"])
def test_beside_another_tool_that_wraps_submit(probe, monkeypatch, first):
    calls = []
    plain = ProcessPoolExecutor.submit

    def wrap():
        inner = ProcessPoolExecutor.submit

        @functools.wraps(inner)
        def submit(self, *args):
            calls.append(args[0])
            return inner(self, *args)

        ProcessPoolExecutor.submit = submit

    try:
        if first == "theirs":
            wrap()
        processpool.patch(probe)
        if first == "ours":
            wrap()
        with ProcessPoolExecutor(1) as pool:
            pool.submit(child.nothing).result(LIMIT)
            processpool.unpatch()
            pool.submit(child.nothing).result(LIMIT)
    finally:
        ProcessPoolExecutor.submit = plain
    assert len(calls) == 2
    ledger(probe).only(submitted=1, succeeded=1)


def test_a_subclass_with_its_own_submit(probe):
    class Own(ProcessPoolExecutor):
        def submit(self, fn, /, *args, **kwargs):
            return super().submit(fn, *args, **kwargs)

    processpool.patch(probe)
    with Own(1) as pool:
        assert pool.submit(child.square, 3).result(LIMIT) == 9
    ledger(probe).only(submitted=1, succeeded=1)


def test_a_dropped_pool_is_gone_at_once(make):
    gc.disable()
    try:
        pool = make()
        future = pool.submit(child.nothing)
        future.result(LIMIT)
        manager, reader = pool._executor_manager_thread, weakref.ref(pool._result_queue._reader)
        gone = weakref.ref(pool)
        del pool
        assert gone() is None
        manager.join(LIMIT)
        assert not manager.is_alive()
        del manager
        assert reader() is None  # and with it the pipe
    finally:
        gc.enable()


def test_where_the_standard_library_is_another_one_nothing_is_done(probe, monkeypatch):
    monkeypatch.setattr(standard, "_WorkItem", lambda future, task: None)
    before = dict(vars(ProcessPoolExecutor))
    processpool.patch(probe)
    pool = ProcessPoolExecutor(1)
    assert processpool.watch_own(pool, lambda: probe, None) is None
    pool.shutdown()
    assert dict(vars(ProcessPoolExecutor)) == before
    said = "_WorkItem of concurrent.futures.process does not take (future, fn, args, kwargs) in Python "
    assert notices(probe) == [f"process pools are not watched: {said}{sys.version.split()[0]}"] * 2
    assert not probe.recorders


def test_where_the_workers_are_other_ones_their_starts_are_estimated(make, probe, gate, monkeypatch):
    monkeypatch.delattr(standard, "_CallItem")
    pool = make(2)
    monkeypatch.undo()
    with pool:
        futures = [pool.submit(*gate.task(name)) for name in "abcd"]
        gate.await_started("a", "b")
        book = ledger(probe)
        book.only(submitted=4, running=2, queued=2)
        gate.open()
        wait(futures, LIMIT)
    book.only(submitted=4, succeeded=4)
    said = "when the tasks of process pools start is estimated: no _CallItem in concurrent.futures.process in Python "
    assert notices(probe) == [said + sys.version.split()[0]]


def test_where_chunks_are_other_ones_only_their_functions_are_not_told(make, probe, monkeypatch):
    monkeypatch.setattr(standard, "_process_chunk", child.chunk)
    pool = make()
    monkeypatch.undo()
    with pool:
        assert list(pool.map(child.square, [1, 2])) == [1, 4]
    ledger(probe).only(submitted=2, succeeded=2)
    said = "the functions of ProcessPoolExecutor.map are not told: _process_chunk of concurrent.futures.process"
    assert [notice.startswith(said) for notice in notices(probe)] == [True]


def test_the_drop_in_shows_like_the_standard_one():
    ours = inspect.signature(dropin.ProcessPoolExecutor)
    assert [name for name in ours.parameters if name != "name"] == list(
        inspect.signature(ProcessPoolExecutor).parameters
    )
    assert inspect.signature(dropin.ProcessPoolExecutor.submit).parameters.keys() == (
        inspect.signature(ProcessPoolExecutor.submit).parameters.keys()
    )
    assert dropin.ProcessPoolExecutor.submit.__doc__ == ProcessPoolExecutor.submit.__doc__
    assert "max_tasks_per_child" in dropin.ProcessPoolExecutor.__init__.__doc__
    for wrong in ({"max_workers": 0}, {"initializer": 3}):
        for cls in (ProcessPoolExecutor, dropin.ProcessPoolExecutor):
            with pytest.raises((ValueError, TypeError)):
                cls(**wrong)


def test_named_and_ignored(probe):
    probe.ignored.add("quiet")
    with dropin.ProcessPoolExecutor(1, name="quiet") as pool:
        assert pool.submit(child.square, 2).result(LIMIT) == 4
    assert not probe.recorders
    with dropin.ProcessPoolExecutor(1, name="loud") as pool:
        pool.submit(child.square, 2).result(LIMIT)
    assert probe.recorders[0].name == "loud"
    assert sys.modules["concurrent.futures.process"] is standard


def test_the_settings_may_give_another_size(probe):
    probe.add_rule("named", 3)
    with dropin.ProcessPoolExecutor(1, name="named") as pool:
        assert pool._max_workers == 3
    probe.add_rule(f"{__name__}:{inspect.currentframe().f_code.co_qualname}.pool", 2)
    processpool.patch(probe)
    for arguments in ({}, {"max_workers": 5}):
        with ProcessPoolExecutor(**arguments) as pool:
            assert pool._max_workers == 2
    with ProcessPoolExecutor(1) as pool:
        assert pool._max_workers == 2
        assert pool._call_queue._maxsize == 3


def test_counts_hold_while_it_is_installed_and_uninstalled(probe):
    """Each submission is recorded wholly or not at all."""
    stop = threading.Event()

    def toggle():
        while not stop.is_set():
            processpool.patch(probe)
            processpool.unpatch()

    with patched(probe, 2) as pool:
        pool.submit(child.nothing).result(LIMIT)
        toggler = threading.Thread(target=toggle)
        toggler.start()
        try:
            futures = [pool.submit(child.square, number) for number in range(300)]
            for number in range(0, 300, 7):
                futures[number].cancel()
            results = [future.result(LIMIT) for future in futures if not future.cancelled()]
        finally:
            stop.set()
            toggler.join(LIMIT)
    assert set(results) <= {number * number for number in range(300)}
    book = ledger(probe).read()
    assert len(probe.recorders) == 1
    assert book.queued == book.running == book.failed == book.broken == 0
    assert set(book.tasks.values()) <= {0}


@pytest.mark.parametrize("after", range(2))
def test_a_clock_that_fails_is_not_the_tasks_business(after):
    readings = iter(range(after))
    probe = FakeProbe(as_ours(lambda: next(readings) + 1))
    with patched(probe) as pool:
        assert list(pool.map(child.square, range(5))) == [0, 1, 4, 9, 16]
        assert pool.submit(child.nothing).cancelled() is False
    processpool.unpatch()
    assert probe.faults
    assert probe.recorders[0].given_up


def test_a_pool_that_is_shut_down_goes_on_while_a_worker_is_replaced():
    told, clock, executor = Record(), HandClock(), FakeExecutor(1)
    executor._shutdown_thread = True
    pools = Pools(clock, FakeCpu(), told, lambda exc: pytest.fail(str(exc)))
    recorder = pools.open(executor, name="p", kind="process", created_at="", size=lambda: (0, 1))
    submitted = submit(recorder, clock)
    pools.read()
    assert "pool_closed" not in told.tags()
    log = recorder.join(1, 1)
    log.finished.extend((1, 2, submitted, clock(), clock()))
    pools.read()
    assert told.tags()[-1] == "pool_closed"


def test_the_probe_is_woken_when_the_workers_are_forked(probe, gate, monkeypatch):
    """Its thread has ended for the forks, and nothing else would start it as long as the first task lasts."""
    forked_at, woken_at = [], []
    monkeypatch.setattr(probe, "wake", lambda: woken_at.append(perf_counter_ns()))
    with patched(probe, 2) as pool:
        spawn = pool._spawn_process
        monkeypatch.setattr(pool, "_spawn_process", lambda: (spawn(), forked_at.append(perf_counter_ns())))
        pool.submit(*gate.task("a"))
        gate.await_started("a")
        gate.open()
    assert len(forked_at) == 2
    assert woken_at[0] < forked_at[0] < forked_at[1] < woken_at[1]

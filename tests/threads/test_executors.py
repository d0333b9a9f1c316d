"""What holds for the drop-in executor and the patched standard one alike, and what is the drop-in's own."""

from __future__ import annotations

import asyncio
import concurrent.futures
import concurrent.futures.thread
import enum
import functools
import gc
import inspect
import itertools
import logging
import pathlib
import pickle
import queue
import random
import re
import subprocess
import sys
import threading
import time
import types
import weakref
from concurrent.futures import BrokenExecutor, CancelledError
from unittest import mock

import pytest
from probe_support import FakeProbe, Ledger, mistake, run_here, task_of

from poolscope.executors import threads as executors
from poolscope.probe import runtime
from poolscope.probe.executors import threadpool
from poolscope.probe.recording import pool_watch

Standard = concurrent.futures.ThreadPoolExecutor
LIMIT = 30  # seconds for what is sure to come


class Pools:
    """Makes executors of one kind, and knows their ledgers."""

    def __init__(self, kind, probe, executor_class):
        self.kind = kind
        self.probe = probe
        self.executor_class = executor_class
        self.made = []

    def make(self, max_workers=1, *args, **kwargs):
        pool = self.executor_class(max_workers, *args, **kwargs)
        self.made.append(weakref.ref(pool))
        return pool

    @property
    def ledger(self):
        """Of the pool that was made last."""
        return Ledger(self.probe.recorders[-1], self.probe)

    def names(self, ledger):
        functions = self.probe.function_names()
        return [functions[row[1]].removeprefix(f"{__name__}.") for row in ledger.finished]

    def close(self):
        for weak in self.made:
            pool = weak()
            if pool is not None:
                pool.shutdown(wait=True, cancel_futures=True)


def wrapped_by_another_tool(submit):
    @functools.wraps(submit)
    def theirs(self, fn, /, *args, **kwargs):
        return submit(self, fn, *args, **kwargs)

    return theirs


@pytest.fixture(params=["drop-in", "patched", "patched over another tool's patch"])
def pools(request, monkeypatch):
    probe = FakeProbe()
    if request.param == "drop-in":
        monkeypatch.setattr(runtime, "current", lambda: probe)
        made = Pools(request.param, probe, executors.ThreadPoolExecutor)
        yield made
        made.close()
    else:
        if request.param != "patched":
            monkeypatch.setattr(Standard, "submit", wrapped_by_another_tool(Standard.submit))
        threadpool.patch(probe)
        made = Pools(request.param, probe, Standard)
        yield made
        made.close()
        threadpool.unpatch()
    assert not probe.faults


@pytest.fixture
def drop_in(monkeypatch):
    probe = FakeProbe()
    monkeypatch.setattr(runtime, "current", lambda: probe)
    made = Pools("drop-in", probe, executors.ThreadPoolExecutor)
    yield made
    made.close()


class Gate:
    """A task that says it has started and then waits to be let go."""

    def __init__(self):
        self.started = threading.Event()
        self.opened = threading.Event()

    def __call__(self, value=None):
        self.started.set()
        assert self.opened.wait(LIMIT)
        return value

    def block(self, pool):
        future = pool.submit(self)
        assert self.started.wait(LIMIT)
        return future


def nothing():
    pass


def fail(exc):
    raise exc


# Counting


def test_a_task_from_submit_to_end(pools):
    pool = pools.make()
    ledger = pools.ledger
    gate = Gate()
    first = pool.submit(gate, "value")
    assert gate.started.wait(LIMIT)
    second = pool.submit(nothing)
    ledger.only(submitted=2, running=1, queued=1)
    assert (ledger.workers, ledger.max_workers) == (1, 1)
    gate.opened.set()
    assert first.result(LIMIT) == "value"
    second.result(LIMIT)
    ledger.only(submitted=2, succeeded=2)
    assert pools.names(ledger) == ["Gate", "nothing"]
    (_, _, _, submitted, started, finished), (_, _, _, submitted2, started2, _) = ledger.finished
    assert submitted < started < finished < started2
    assert submitted < submitted2 < finished


@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt, GeneratorExit, BaseException])
def test_a_failure_reaches_the_caller_and_frees_the_worker(pools, error):
    pool = pools.make()
    ledger = pools.ledger
    raised = error("mine")
    future = pool.submit(fail, raised)
    assert future.exception(LIMIT) is raised
    ledger.only(submitted=1, failed=1)
    pool.submit(nothing).result(LIMIT)
    ledger.only(submitted=2, failed=1, succeeded=1)


@pytest.mark.parametrize("error", [None, ValueError()])
def test_the_end_is_recorded_before_the_future_is_set(pools, error):
    pool = pools.make()
    ledger = pools.ledger
    gate = Gate()
    gate.block(pool)
    seen = []
    future = pool.submit(nothing) if error is None else pool.submit(fail, error)
    future.add_done_callback(lambda _: seen.append(ledger.read().counts()))
    gate.opened.set()
    concurrent.futures.wait([future], LIMIT)
    pool.shutdown()
    [counts] = seen
    assert (counts["succeeded"] + counts["failed"], counts["running"], counts["queued"]) == (2, 0, 0)
    assert counts["failed"] == (error is not None)


def test_the_arrival_is_recorded_before_the_enqueue(pools):
    pool = pools.make()
    ledger = pools.ledger
    seen = []

    class Watched:
        def __init__(self):
            self.inner = queue.SimpleQueue()

        def put(self, item):
            if item is not None:
                seen.append(ledger.read().counts()["submitted"])
            self.inner.put(item)

        def __getattr__(self, name):
            return getattr(self.inner, name)

    pool._work_queue = Watched()
    pool.submit(nothing).result(LIMIT)
    pool.submit(nothing).result(LIMIT)
    assert seen == [1, 2]


def test_the_queue_counts_live_tasks_only(pools):
    pool = pools.make()
    ledger = pools.ledger
    gate = Gate()
    gate.block(pool)
    futures = [pool.submit(nothing) for _ in range(5)]
    assert futures[1].cancel()
    assert futures[3].cancel()
    assert pool._work_queue.qsize() == 5
    ledger.only(submitted=6, running=1, queued=3, cancelled=2)
    gate.opened.set()
    pool.shutdown()
    ledger.only(submitted=6, succeeded=4, cancelled=2)
    assert futures[1].cancelled()


def test_a_cancellation_counts_once(pools):
    pool = pools.make()
    ledger = pools.ledger
    gate = Gate()
    running = gate.block(pool)
    future = pool.submit(nothing)
    assert [future.cancel(), future.cancel()] == [True, True]
    assert not running.cancel()
    gate.opened.set()
    pool.shutdown()
    assert not running.cancel()
    assert future.cancel()
    with pytest.raises(CancelledError):
        future.result()
    ledger.only(submitted=2, succeeded=1, cancelled=1)


def test_two_threads_cancel_at_once(pools):
    pool = pools.make()
    ledger = pools.ledger
    gate = Gate()
    gate.block(pool)
    future = pool.submit(nothing)
    barrier = threading.Barrier(4)
    inside = future._condition

    class Together:
        """Lets four threads reach the lock before the first of them may take it."""

        def __enter__(self):
            barrier.wait(LIMIT)
            return inside.__enter__()

        def __exit__(self, *args):
            return inside.__exit__(*args)

        def notify_all(self):
            inside.notify_all()

    attribute = "_made" if pools.kind == "drop-in" else "_condition"
    setattr(future, attribute, Together())
    said = []
    threads = [threading.Thread(target=lambda: said.append(future.cancel())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    setattr(future, attribute, inside)
    assert said == [True] * 4
    gate.opened.set()
    pool.shutdown()
    ledger.only(submitted=2, succeeded=1, cancelled=1)


@pytest.mark.parametrize("cancel_first", [True, False])
def test_a_cancellation_races_with_the_start(pools, cancel_first):
    pool = pools.make()
    ledger = pools.ledger
    gate = Gate()
    gate.block(pool)
    ran = []
    future = pool.submit(ran.append, 1)
    said = []
    if pools.kind == "drop-in":
        start = future._start

        def raced():
            if cancel_first:
                said.append(future.cancel())
            live = start()
            if not cancel_first:
                said.append(future.cancel())
            return live

        future._start = raced
    else:
        lock = future._condition._lock

        class Raced:
            """The lock of the future, which the worker takes for its start."""

            def __enter__(self):
                if cancel_first and not said:
                    said.append(None)
                    said[0] = future.cancel()
                lock.acquire()

            def __exit__(self, *_):
                lock.release()
                if not cancel_first and not said:
                    said.append(None)
                    said[0] = future.cancel()

        future._condition._lock = Raced()
    gate.opened.set()
    pool.shutdown()
    if pools.kind == "drop-in":
        del future._start
    assert said == [cancel_first]
    assert ran == ([] if cancel_first else [1])
    ledger.only(submitted=2, succeeded=1 if cancel_first else 2, cancelled=int(cancel_first))


def test_shutdown_can_cancel_what_is_queued(pools):
    pool = pools.make()
    ledger = pools.ledger
    gate = Gate()
    running = gate.block(pool)
    futures = [pool.submit(nothing) for _ in range(10)]
    futures[0].cancel()
    pool.shutdown(wait=False, cancel_futures=True)
    ledger.only(submitted=11, running=1, cancelled=10)
    gate.opened.set()
    running.result(LIMIT)
    pool.shutdown()
    ledger.only(submitted=11, succeeded=1, cancelled=10)
    assert ledger.workers == 0


def test_a_refused_task_is_rejected_and_nothing_else(pools):
    pool = pools.make()
    ledger = pools.ledger
    pool.submit(nothing).result(LIMIT)
    pool.shutdown()
    for _ in range(3):
        with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
            pool.submit(nothing)
    ledger.only(submitted=1, succeeded=1, rejected=3)


def test_a_refusal_while_the_interpreter_exits(pools, monkeypatch):
    pool = pools.make()
    monkeypatch.setattr(concurrent.futures.thread, "_shutdown", True)
    with pytest.raises(RuntimeError, match="cannot schedule new futures after interpreter shutdown"):
        pool.submit(nothing)
    pools.ledger.only(rejected=1)


def test_a_thread_that_cannot_start_leaves_the_task_queued(pools, monkeypatch):
    pool = pools.make()
    ledger = pools.ledger
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", lambda self: fail(RuntimeError("can't start new thread")))
        with pytest.raises(RuntimeError, match="can't start"):
            pool.submit(nothing)
    ledger.only(submitted=1, queued=1)
    pool.submit(nothing).result(LIMIT)
    pool.shutdown()
    ledger.only(submitted=2, succeeded=2)


def test_a_failing_initializer_breaks_the_queued_tasks(pools, caplog):
    gate = Gate()
    pool = pools.make(2, initializer=lambda: fail(ValueError(gate())))
    ledger = pools.ledger
    seen = []
    first = pool.submit(nothing)
    assert gate.started.wait(LIMIT)
    rest = [pool.submit(nothing) for _ in range(4)]
    rest[-1].add_done_callback(lambda _: seen.append(ledger.read().counts()))
    ledger.only(submitted=5, queued=5)
    gate.opened.set()
    for future in [first, *rest]:
        assert isinstance(future.exception(LIMIT), BrokenExecutor)
    with pytest.raises(BrokenExecutor, match="A thread initializer failed, the thread pool is not usable"):
        pool.submit(nothing)
    pool.shutdown()
    ledger.only(submitted=5, broken=5, rejected=1)
    assert [counts["broken"] for counts in seen] == [5]
    assert "Exception in initializer:" in caplog.text


def test_an_exception_of_the_same_kind_is_the_tasks_own(pools):
    pool = pools.make()
    broken = concurrent.futures.thread.BrokenThreadPool("mine")
    assert pool.submit(fail, broken).exception(LIMIT) is broken
    pools.ledger.only(submitted=1, failed=1)


def test_a_future_that_somebody_else_sets(pools, caplog):
    pool = pools.make(2)
    ledger = pools.ledger
    gate = Gate()
    other = Gate()
    gate.block(pool)
    other.block(pool)
    with caplog.at_level(logging.CRITICAL, "concurrent.futures"):
        spoiled = pool.submit(nothing)
        spoiled.set_result("not yours")
        gate.opened.set()  # this worker dies of it, as with the standard executor
        other.opened.set()
        assert pool.submit(nothing).result(LIMIT) is None
        pool.shutdown()
    assert spoiled.result() == "not yours"
    assert "Exception in worker" in caplog.text
    ledger.only(submitted=4, succeeded=3, broken=1)


def test_a_running_task_that_runs_another_is_still_running_after(pools):
    pool = pools.make()
    ledger = pools.ledger
    inner = []

    def helping():
        pool.submit(nothing)
        run_here(pool)
        inner.append(ledger.read().counts())

    pool.submit(helping).result(LIMIT)
    [counts] = inner
    assert (counts["succeeded"], counts["running"], counts["queued"]) == (1, 1, 0)
    ledger.only(submitted=2, succeeded=2)


def test_map_passes_its_arguments_on(pools):
    pool = pools.make(3)
    assert list(pool.map(pow, [2, 3], [5, 2], timeout=LIMIT, chunksize=7)) == [32, 9]
    assert list(pool.map(nothing)) == []
    pool.shutdown()
    ledger = pools.ledger
    ledger.only(submitted=2, succeeded=2)
    assert pools.names(ledger) == ["builtins.pow"] * 2


def test_map_that_times_out_cancels_the_rest(pools):
    pool = pools.make()
    ledger = pools.ledger
    gate = Gate()
    with pytest.raises(TimeoutError):
        list(pool.map(gate, range(4), timeout=0))
    assert gate.started.wait(LIMIT)
    gate.opened.set()
    pool.shutdown()
    ledger.only(submitted=4, succeeded=1, cancelled=3)


def test_initializers_are_called_in_each_worker(pools):
    called = []
    barrier = threading.Barrier(2)

    def start(*args):
        called.append((threading.current_thread().name, args))

    pool = pools.make(2, "prefix", start, (1, 2))
    futures = [pool.submit(barrier.wait, LIMIT) for _ in range(2)]
    for future in futures:
        future.result(LIMIT)
    assert sorted(called) == [("prefix_0", (1, 2)), ("prefix_1", (1, 2))]
    assert pools.probe.recorders[-1].name == "prefix"


def test_keywords_of_any_name_reach_the_task(pools):
    pool = pools.make()

    def echo(**kwargs):
        return kwargs

    kwargs = {"self": 1, "fn": 2, "args": 3, "watch": 4, "name": 5}
    assert pool.submit(echo, **kwargs).result(LIMIT) == kwargs


def test_wrong_calls_fail_as_before(pools):
    pool = pools.make()
    with pytest.raises(TypeError, match=r"submit\(\) missing 1 required positional argument"):
        pool.submit()
    with pytest.raises(TypeError):
        pool.submit(fn=nothing)
    with pytest.raises(ValueError, match="max_workers must be greater than 0"):
        pools.executor_class(0)
    with pytest.raises(TypeError, match="initializer must be a callable"):
        pools.executor_class(initializer=3)
    with pytest.raises(TypeError, match="unexpected keyword argument"):
        pools.executor_class(workers=3)
    with pytest.raises(TypeError):
        pool.submit(3).result(LIMIT)
    pools.ledger.only(submitted=1, failed=1)
    assert len(pools.probe.recorders) == 1


# Exactness


def test_every_task_is_accounted_for(pools):
    producers, each = 4, 750
    pool = pools.make(3)
    ledger = pools.ledger
    stop = threading.Event()
    futures = [[] for _ in range(producers)]

    def produce(number):
        rng = random.Random(number)
        for at in range(each):
            future = pool.submit(fail, ValueError()) if rng.random() < 0.3 else pool.submit(nothing)
            futures[number].append(future)
            if rng.random() < 0.3:
                rng.choice(futures[number]).cancel()
            if at % 250 == 0:
                pool.submit(nothing).exception()  # wait for the workers now and then

    def read():
        while not stop.is_set():
            ledger.read()
            assert ledger.running <= 3
            assert ledger.queued >= 0

    errors = []

    def guarded(fn, *args):
        try:
            fn(*args)
        except BaseException as exc:
            errors.append(exc)

    threads = [threading.Thread(target=guarded, args=(produce, number)) for number in range(producers)]
    reader = threading.Thread(target=guarded, args=(read,))
    for thread in [*threads, reader]:
        thread.start()
    for thread in threads:
        thread.join()
    pool.shutdown()
    stop.set()
    reader.join()
    assert not errors
    everything = [future for row in futures for future in row]
    cancelled = sum(future.cancelled() for future in everything)
    failed = sum(not future.cancelled() and future.exception() is not None for future in everything)
    submitted = producers * (each + 3)
    assert cancelled > 0
    assert failed > 0
    ledger.only(submitted=submitted, cancelled=cancelled, failed=failed, succeeded=submitted - cancelled - failed)
    assert set(ledger.tasks.values()) == {0}  # each one once, each end to its own arrival


def test_submitting_while_another_thread_shuts_down(pools):
    pool = pools.make(2)
    ledger = pools.ledger
    accepted = []
    refused = []
    going = threading.Barrier(4)

    def produce():
        going.wait(LIMIT)
        for _ in range(300):
            try:
                accepted.append(pool.submit(nothing))
            except RuntimeError as exc:
                refused.append(exc)

    threads = [threading.Thread(target=produce) for _ in range(3)]
    for thread in threads:
        thread.start()
    going.wait(LIMIT)
    accepted.append(pool.submit(nothing))
    pool.shutdown(wait=False, cancel_futures=True)
    for thread in threads:
        thread.join()
    pool.shutdown()
    cancelled = sum(future.cancelled() for future in accepted)
    ledger.only(
        submitted=len(accepted),
        rejected=len(refused),
        cancelled=cancelled,
        succeeded=len(accepted) - cancelled,
    )


# Callables


class BadRepr:
    def __repr__(self):
        raise RuntimeError("no repr")

    def method(self):
        return "ran"


class BadGetattr:
    def __getattr__(self, name):
        raise RuntimeError(name)

    def __call__(self):
        return "ran"


def test_odd_callables_run_and_have_sane_names(pools):
    pool = pools.make()
    ledger = pools.ledger
    inner = functools.partial(BadRepr.method)
    inner.note = "keeps the two apart"
    tasks = {
        "BadGetattr": BadGetattr(),
        "BadRepr.method": BadRepr().method,
    }
    for fn in tasks.values():
        assert pool.submit(fn).result(LIMIT) == "ran"
    assert pool.submit(functools.partial(inner, BadRepr())).result(LIMIT) == "ran"
    answers_all = mock.MagicMock(return_value="ran")
    assert pool.submit(answers_all).result(LIMIT) == "ran"
    assert answers_all.mock_calls == [mock.call()]
    ledger.only(submitted=4, succeeded=4)
    assert pools.names(ledger) == [*tasks, "BadRepr.method", "unittest.mock.MagicMock"]


def test_a_task_is_called_as_it_is(pools):
    pool = pools.make()
    item = []
    put = pool._work_queue.put

    class Spy:
        def put(self, work_item):
            item.extend([] if work_item is None else [task_of(work_item)[0]])
            put(work_item)

        def __getattr__(self, name):
            return getattr(self.inner, name)

    spy = Spy()
    spy.inner = pool._work_queue
    pool._work_queue = spy
    pool.submit(nothing).result(LIMIT)
    assert item == [nothing]  # as it stands in the queue


def test_to_thread_is_named_by_the_users_function(pools):
    async def main():
        loop = asyncio.get_running_loop()
        pool = pools.make(1)
        loop.set_default_executor(pool)
        await asyncio.to_thread(nothing)
        await loop.run_in_executor(None, nothing)
        await loop.run_in_executor(pool, functools.partial(nothing))

    asyncio.run(main())
    ledger = pools.ledger
    ledger.only(submitted=3, succeeded=3)
    assert pools.names(ledger) == ["nothing"] * 3


# References


class Payload:
    pass


def test_what_a_task_was_given_is_freed_with_it(pools):
    pool = pools.make()
    payload = Payload()
    gone = weakref.ref(payload)
    future = pool.submit(lambda value: None, payload)
    del payload
    future.result(LIMIT)
    pool.submit(nothing).result(LIMIT)  # the worker has let go of the item before this one
    assert gone() is None


def test_an_exception_does_not_keep_the_task(pools):
    pool = pools.make()
    payload = Payload()
    gone = weakref.ref(payload)

    def failing(value):
        del value
        raise ValueError

    gc.collect()
    gc.disable()
    try:
        future = pool.submit(failing, payload)
        error = future.exception(LIMIT)
        pool.submit(nothing).result(LIMIT)
        del payload
        # From 3.14 on a frame of the standard context keeps the arguments, in its traceback.
        assert (gone() is None) == (pools.kind == "drop-in" or not hasattr(concurrent.futures.thread, "WorkerContext"))
        kept = weakref.ref(future)
        del error, future
        assert kept() is None
    finally:
        gc.enable()


def test_a_dead_pool_is_forgotten(pools):
    pool = pools.make(2)
    pool.submit(nothing).result(LIMIT)
    recorder = pools.probe.recorders[-1]
    threads = list(pool._threads)
    gone = weakref.ref(pool)
    del pool
    gc.collect()
    assert gone() is None
    for thread in threads:
        thread.join(LIMIT)
    assert recorder.size() is None
    assert [log.left for log in recorder.workers] == [True] * len(threads)


def test_workers_that_left_hold_no_log(pools):
    pool = pools.make(3)
    barrier = threading.Barrier(3)
    for future in [pool.submit(barrier.wait, LIMIT) for _ in range(3)]:
        future.result(LIMIT)
    recorder = pools.probe.recorders[-1]
    assert sorted(log.worker for log in recorder.workers) == [1, 2, 3]
    assert {log.ident for log in recorder.workers} == {thread.ident for thread in pool._threads}
    assert {log.native_id for log in recorder.workers} == {thread.native_id for thread in pool._threads}
    assert recorder.size() == (3, 3)
    pool.shutdown()
    assert recorder.size() == (0, 3)
    assert all(log.left and log.running is None for log in recorder.workers)


# What the standard executor does


def test_the_names_that_others_poke_at(pools):
    pool = pools.make(4)
    assert pool._max_workers == 4
    assert pool._work_queue.qsize() == 0
    assert len(pool._threads) == 0
    assert isinstance(pool._idle_semaphore, threading.Semaphore)
    pool.submit(nothing).result(LIMIT)
    assert len(pool._threads) == 1
    assert "ThreadPoolExecutor" in str(type(pool))
    assert isinstance(pool, Standard)


def test_it_cannot_be_pickled_either(pools):
    with pytest.raises((TypeError, pickle.PicklingError)) as standard, Standard(1) as pool:
        pickle.dumps(pool)
    with pytest.raises(standard.type) as ours:
        pickle.dumps(pools.make())
    # Up to the address of an object.
    assert str(ours.value).partition(" at 0x")[0] == str(standard.value).partition(" at 0x")[0]


def test_futures_look_alike(pools):
    pool = pools.make()
    gate = Gate()
    running = gate.block(pool)
    queued = pool.submit(nothing)
    assert re.fullmatch(r"<Future at 0x[0-9a-f]+ state=running>", repr(running))
    assert re.fullmatch(r"<Future at 0x[0-9a-f]+ state=pending>", repr(queued))
    queued.cancel()
    assert re.fullmatch(r"<Future at 0x[0-9a-f]+ state=cancelled>", repr(queued))
    gate.opened.set()
    running.result(LIMIT)
    assert re.fullmatch(r"<Future at 0x[0-9a-f]+ state=finished returned NoneType>", repr(running))
    assert isinstance(running, concurrent.futures.Future)


def test_waiting_for_a_mix(pools):
    pool = pools.make()
    gate = Gate()
    gate.block(pool)
    queued = [pool.submit(nothing), pool.submit(fail, ValueError()), pool.submit(nothing)]
    queued[2].cancel()
    gate.opened.set()
    done, pending = concurrent.futures.wait(queued, LIMIT)
    assert (done, pending) == (set(queued), set())
    assert set(concurrent.futures.as_completed(queued, LIMIT)) == set(queued)


def test_a_context_manager_waits(pools):
    with pools.make() as pool:
        future = pool.submit(nothing)
    assert future.done()


def test_callbacks_of_a_cancelled_future_may_use_it_from_another_thread(pools):
    pool = pools.make()
    gate = Gate()
    gate.block(pool)
    future = pool.submit(nothing)
    seen = []

    def elsewhere(cancelled):
        thread = threading.Thread(target=lambda: seen.append(cancelled.cancelled()))
        thread.start()
        thread.join(LIMIT)

    future.add_done_callback(elsewhere)
    future.cancel()
    assert seen == [True]
    gate.opened.set()


PROGRAM = """
import sys
from probe_support import FakeProbe
from poolscope.executors import threads as executors
from poolscope.probe import runtime
from poolscope.probe.executors import threadpool
from concurrent.futures import ThreadPoolExecutor

probe = FakeProbe()
if sys.argv[1] == "drop-in":
    runtime.current = lambda: probe
    ThreadPoolExecutor = executors.ThreadPoolExecutor
elif sys.argv[1] == "patched":
    threadpool.patch(probe)
import time

def task(n):
    time.sleep(0.001)
    print(n, flush=True)

pool = ThreadPoolExecutor(1)
for n in range(20):
    pool.submit(task, n)
print("end of main", flush=True)
"""


@pytest.mark.parametrize("kind", ["plain", "drop-in", "patched"])
def test_the_interpreter_exits_after_the_last_task(kind):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, kind],
        capture_output=True,
        text=True,
        timeout=60,
        env={"PYTHONPATH": ":".join(sys.path)},
    )
    assert (done.stderr, done.returncode) == ("", 0)
    lines = done.stdout.split("\n")
    assert sorted(lines) == sorted([*map(str, range(20)), "end of main", ""])


# Settings and failures of ours


def test_names(pools):
    made = pools.make(1, "given")
    del made
    assert pools.probe.opened[-1] == (None, "given", "thread")
    pools.make(1)
    assert pools.probe.opened[-1] == (None, "", "thread")


def test_the_settings_may_change_the_size(pools):
    pools.probe.add_rule("db", 3)
    pool = pools.make(1, "db")
    barrier = threading.Barrier(3)
    for future in [pool.submit(barrier.wait, LIMIT) for _ in range(3)]:
        future.result(LIMIT)
    assert pool._max_workers == 3
    assert pools.probe.recorders[-1].size() == (3, 3)
    with pytest.raises(ValueError, match="max_workers"):
        pools.executor_class(0, "db")


def test_an_ignored_pool_is_a_plain_one(pools):
    pools.probe.ignored.add("secret")
    pool = pools.make(1, "secret")
    gate = Gate()
    gate.block(pool)
    assert pool.submit(nothing).cancel()
    gate.opened.set()
    assert pool.submit(pow, 2, 3).result(LIMIT) == 8
    error = ValueError()
    assert pool.submit(fail, error).exception(LIMIT) is error
    pool.shutdown()
    with pytest.raises(RuntimeError):
        pool.submit(nothing)
    assert not pools.probe.recorders
    assert not pools.probe.messages
    assert not pools.probe.wakes


def test_our_failure_at_construction_leaves_a_plain_executor(pools):
    failure = OSError("ours")
    pools.probe.open_pool = mistake(failure)
    pool = pools.make(1)
    assert pool.submit(pow, 2, 3).result(LIMIT) == 8
    assert pools.probe.faults == [("pools", failure)]
    pools.probe.faults.clear()


def test_our_failure_to_report_is_not_the_users_either(pools):
    pools.probe.open_pool = mistake(OSError())
    pools.probe.fail = mistake(OSError())
    assert pools.make(1).submit(pow, 2, 3).result(LIMIT) == 8


def test_the_probe_is_woken_when_there_is_news_at_last(pools):
    pool = pools.make()
    assert pools.probe.wakes == 0
    pool.submit(nothing).result(LIMIT)
    pool.submit(nothing).result(LIMIT)
    assert pools.probe.wakes == 1
    pools.ledger.only(submitted=2, succeeded=2)
    pool.submit(nothing).result(LIMIT)
    assert pools.probe.wakes == 2


def test_a_probe_that_cannot_wake(pools):
    failure = RuntimeError("can't start new thread")
    pools.probe.wake = mistake(failure)
    assert pools.make().submit(pow, 2, 3).result(LIMIT) == 8
    assert pools.probe.faults == [("pools", failure)]
    pools.probe.faults.clear()
    pools.ledger.only(submitted=1, succeeded=1)


def test_records_that_nobody_fetches_are_bounded(pools, monkeypatch):
    for module in (pool_watch, executors, threadpool):
        monkeypatch.setattr(module, "UNREAD_LIMIT", 6)
    pool = pools.make()
    for _ in range(10):
        pool.submit(nothing).result(LIMIT)
    pool.shutdown()
    with pytest.raises(RuntimeError):
        pool.submit(nothing)
    [(part, error)] = pools.probe.faults
    assert part == "pools"
    assert "nothing was drained" in str(error)
    pools.probe.faults.clear()
    pools.ledger.only(submitted=3, succeeded=3)


def test_a_forked_child_opens_the_pool_again(pools):
    pool = pools.make(1, "given")
    (executors if pools.kind == "drop-in" else threadpool)._instances._forked()
    pool.submit(nothing).result(LIMIT)
    pool.submit(nothing).result(LIMIT)
    assert [recorder.name for recorder in pools.probe.recorders] == ["given", "given"]
    pools.ledger.only(submitted=2, succeeded=2)


def test_first_tasks_from_two_threads_open_one_pool(pools):
    pool = pools.make(2, "given")
    (executors if pools.kind == "drop-in" else threadpool)._instances.forget()
    opening = threading.Event()
    open_pool = pools.probe.open_pool

    def slow(*args, **kwargs):
        opening.set()
        assert not released.wait(0.05)  # the other thread is on its way in, and must wait
        return open_pool(*args, **kwargs)

    released = threading.Event()
    pools.probe.open_pool = slow
    threads = [threading.Thread(target=pool.submit, args=(nothing,)) for _ in range(2)]
    threads[0].start()
    assert opening.wait(LIMIT)
    threads[1].start()
    for thread in threads:
        thread.join()
    pool.shutdown()
    assert len(pools.probe.recorders) == 2
    pools.ledger.only(submitted=2, succeeded=2)


# The drop-in


def test_the_drop_in_has_the_standard_signatures():
    ours = executors.ThreadPoolExecutor
    parameters = dict(inspect.signature(ours).parameters)
    assert parameters.pop("name").kind is inspect.Parameter.KEYWORD_ONLY
    standard = inspect.signature(Standard).parameters
    assert [(p.name, p.kind, p.default) for p in parameters.values()] == [
        (p.name, p.kind, p.default) for p in standard.values()
    ]
    assert issubclass(ours, Standard)
    assert ours.submit.__doc__ == Standard.submit.__doc__
    assert inspect.getdoc(ours.shutdown) == inspect.getdoc(Standard.shutdown)
    assert executors.Future.cancel.__doc__ == concurrent.futures.Future.cancel.__doc__


def test_the_name_given_wins(drop_in):
    pool = drop_in.make(1, "prefix", name="mine")
    assert drop_in.probe.recorders[-1].name == "mine"
    assert pool._thread_name_prefix == "prefix"
    assert drop_in.probe.opened[-1] == ("mine", "prefix", "thread")


def test_without_a_probe_it_is_a_plain_executor(monkeypatch, caplog):
    monkeypatch.setattr(runtime, "current", mistake(OSError("no probe")))
    with executors.ThreadPoolExecutor(1) as pool:
        assert pool.submit(pow, 2, 3).result(LIMIT) == 8
    assert [record.name for record in caplog.records] == ["poolscope"]
    assert "OSError: no probe" in caplog.text


def test_idle_workers_are_reused(drop_in):
    pool = drop_in.make(8)
    for _ in range(50):
        pool.submit(nothing).result(LIMIT)
        while not pool._idle:
            time.sleep(0)  # the result may be there before its worker is idle again
    assert len(pool._threads) == 1


def test_busy_workers_are_not(drop_in):
    pool = drop_in.make(5)
    barrier = threading.Barrier(6)
    for _ in range(5):
        pool.submit(barrier.wait, LIMIT)
    barrier.wait(LIMIT)
    assert len(pool._threads) == 5


def test_a_cancelled_task_in_a_breaking_pool_counts_as_cancelled(drop_in, caplog):
    gate = Gate()
    pool = drop_in.make(1, initializer=lambda: fail(ValueError(gate())))
    futures = [pool.submit(nothing) for _ in range(4)]
    futures[1].cancel()
    futures[2].set_result("somebody else's")
    gate.opened.set()
    assert isinstance(futures[3].exception(LIMIT), BrokenExecutor)
    pool.shutdown()
    drop_in.ledger.only(submitted=4, broken=3, cancelled=1)
    assert futures[2].result() == "somebody else's"


def test_items_of_others_in_the_queue_are_run(drop_in):
    pool = drop_in.make()
    foreign = types.SimpleNamespace(ran=threading.Event())
    foreign.run = lambda *context: foreign.ran.set()
    pool.submit(nothing).result(LIMIT)
    pool._work_queue.put(foreign)
    assert foreign.ran.wait(LIMIT)
    drop_in.ledger.only(submitted=1, succeeded=1)


def test_a_subclass_with_standard_workers_is_recorded_too(drop_in, monkeypatch):
    class Own(executors.ThreadPoolExecutor):
        _adjust_thread_count = Standard._adjust_thread_count

    pool = Own(2)
    for _ in range(20):
        pool.submit(nothing).result(LIMIT)
    pool.shutdown()
    drop_in.ledger.only(submitted=20, succeeded=20)
    assert len(drop_in.probe.recorders[-1].workers) <= 2


# The future's condition, which is only made when somebody asks for it


def test_a_condition_is_made_for_who_asks(drop_in):
    pool = drop_in.make()
    gate = Gate()
    gate.block(pool)
    future = pool.submit(nothing)
    called = []
    future.add_done_callback(called.append)
    assert not future.done()
    assert future._made is None
    condition = future._condition
    assert future._made is condition
    with condition:
        condition.notify_all()
        condition.notify()
        assert not condition.wait(0)
        assert not condition.wait_for(lambda: False, 0)
        assert condition.wait_for(lambda: 5) == 5
    for use in (condition.wait, condition.notify, condition.notify_all, lambda: condition.wait_for(bool)):
        with pytest.raises(RuntimeError, match="un-acquired lock"):
            use()
    gate.opened.set()
    pool.shutdown()
    assert called == [future]


def test_a_waiter_wakes_for_a_notification_from_outside(drop_in):
    pool = drop_in.make()
    gate = Gate()
    future = gate.block(pool)
    ended = []

    def wait():
        try:
            future.exception(LIMIT)
        except TimeoutError as exc:
            ended.append(exc)

    thread = threading.Thread(target=wait)
    thread.start()
    while True:
        with future._condition:
            if future._condition._waiters:
                future._condition.notify_all()
                break
        time.sleep(0)
    thread.join(LIMIT)
    assert len(ended) == 1
    gate.opened.set()


def test_many_threads_wait_for_one_future(drop_in):
    pool = drop_in.make()
    gate = Gate()
    future = pool.submit(gate, "value")
    found = []
    threads = [threading.Thread(target=lambda: found.append(future.result(LIMIT))) for _ in range(8)]
    for thread in threads:
        thread.start()
    gate.opened.set()
    for thread in threads:
        thread.join(LIMIT)
    assert found == ["value"] * 8


# What programs do with the queue, the work items and the names of an executor


def test_a_queue_of_the_programs_may_read_and_change_items(pools):
    """As services make a pool with priorities: by a keyword that the task does not get."""

    class Priorities(queue.PriorityQueue):
        def put(self, item, block=True, timeout=None):
            rank = 9 if item is None else task_of(item)[2].pop("rank", 5)
            super().put((rank, id(item), item))

        def get(self, block=True, timeout=None):
            return super().get(block, timeout)[2]

    pool = pools.make()
    pool._work_queue = Priorities()
    gate = Gate()
    gate.block(pool)
    order = []
    last = pool.submit(order.append, "last", rank=7)
    first = pool.submit(order.append, "first", rank=1)
    middle = pool.submit(order.append, "middle")
    gate.opened.set()
    assert [future.result(LIMIT) for future in (first, middle, last)] == [None] * 3
    assert order == ["first", "middle", "last"]
    pools.ledger.only(submitted=4, succeeded=4)


def test_a_future_class_makes_plain_futures(pools):
    future = type(pools.make().submit(nothing))()
    assert not future.done()
    future.set_result(3)
    assert future.result(0) == 3


def test_cancelled_tasks_that_shutdown_drains_keep_nothing(pools):
    pool = pools.make()
    gate = Gate()
    gate.block(pool)
    payload = Payload()
    gone = weakref.ref(payload)
    future = pool.submit(nothing, payload)
    del payload
    pool.shutdown(wait=False, cancel_futures=True)
    assert future.cancelled()
    assert gone() is None
    gate.opened.set()


class Colour(enum.Enum):
    RED = "red"


class Unspeakable:
    def __str__(self):
        raise ValueError("no words")


@pytest.mark.parametrize(
    ("prefix", "name"),
    [(7, "7"), (pathlib.PurePosixPath("a/b"), "a/b"), (Colour.RED, "Colour.RED"), (Unspeakable(), "Unspeakable")],
)
def test_a_name_of_any_type_is_text(pools, prefix, name):
    pool = pools.make(1, prefix)
    if name != "Unspeakable":  # else the standard class cannot name its threads
        pool.submit(nothing).result(LIMIT)
    assert [(type(recorder.name), recorder.name) for recorder in pools.probe.recorders] == [(str, name)]


# What newer interpreters have. Each asks for the attribute, not for a version.


@pytest.mark.skipif(not hasattr(Standard, "prepare_context"), reason="this Python has no contexts of workers")
def test_a_context_of_the_programs_runs_the_tasks(pools):
    class Context:
        def __init__(self, calls):
            self.calls = calls

        def initialize(self):
            self.calls.append("initialize")

        def finalize(self):
            self.calls.append("finalize")

        def run(self, task):
            self.calls.append(task)
            return task[::-1]

    class Own(pools.executor_class):
        @classmethod
        def prepare_context(cls, initializer, initargs, *, calls):
            return lambda: Context(calls), lambda fn, args, kwargs: (*args, fn.__name__)

    calls = []
    with Own(1, calls=calls) as pool:
        assert pool.submit(nothing, 1, 2).result(LIMIT) == ("nothing", 2, 1)
    assert calls == ["initialize", (1, 2, "nothing"), "finalize"]
    ledger = Ledger(pools.probe.recorders[-1], pools.probe)
    ledger.only(submitted=1, succeeded=1)
    assert pools.names(ledger) == ["nothing"]


@pytest.mark.skipif("buffersize" not in inspect.signature(Standard.map).parameters, reason="map has no buffer here")
def test_map_with_a_buffer_submits_as_results_are_taken(pools):
    pool = pools.make(2)
    ledger = pools.ledger
    results = pool.map(abs, itertools.count(-100), buffersize=3)
    assert next(results) == 100
    assert ledger.read().counts()["submitted"] == 4
    assert [next(results) for _ in range(20)] == list(range(99, 79, -1))
    assert ledger.read().counts()["submitted"] == 24
    results.close()

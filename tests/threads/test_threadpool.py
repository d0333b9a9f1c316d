"""The standard thread pool patched in place; what it shares with the drop-in is in test_executors.py."""

from __future__ import annotations

import asyncio
import concurrent.futures
import concurrent.futures.thread
import gc
import inspect
import logging
import os
import subprocess
import sys
import threading
import types
import weakref
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from probe_support import FakeProbe, Ledger, run_here

from poolscope.executors import threads as executors
from poolscope.probe import runtime
from poolscope.probe.executors import threadpool

LIMIT = 30  # seconds for what is sure to come


@pytest.fixture
def probe():
    made = FakeProbe()
    yield made
    threadpool.unpatch()
    assert not made.faults


def ledger(probe):
    return Ledger(probe.recorders[-1], probe)


class Gate:
    def __init__(self):
        self.started = threading.Event()
        self.opened = threading.Event()

    def __call__(self):
        self.started.set()
        assert self.opened.wait(LIMIT)

    def block(self, pool):
        future = pool.submit(self)
        assert self.started.wait(LIMIT)
        return future


def nothing():
    pass


def standard_state():
    thread = concurrent.futures.thread
    return [dict(vars(owner)) for owner in (ThreadPoolExecutor, thread._WorkItem, Future, thread)]


def test_undo_leaves_everything_as_it_was(probe):
    before = standard_state()
    threadpool.patch(probe)
    assert standard_state() != before
    with ThreadPoolExecutor(1) as pool:
        pool.submit(nothing).result(LIMIT)
    threadpool.unpatch()
    assert standard_state() == before


def test_patching_is_idempotent_and_repeatable(probe):
    before = standard_state()
    threadpool.unpatch()
    for _ in range(3):
        threadpool.patch(probe)
        patched = standard_state()
        threadpool.patch(FakeProbe())
        assert standard_state() == patched
        with ThreadPoolExecutor(1) as pool:
            pool.submit(nothing).result(LIMIT)
        ledger(probe).only(submitted=1, succeeded=1)
        threadpool.unpatch()
        threadpool.unpatch()
        assert standard_state() == before
    assert len(probe.recorders) == 3


def test_an_executor_is_the_same_pool_under_the_next_patch(probe):
    threadpool.patch(probe)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(nothing).result(LIMIT)
        threadpool.unpatch()
        pool.submit(nothing).result(LIMIT)
        threadpool.patch(probe)
        pool.submit(nothing).result(LIMIT)
        ledger(probe).only(submitted=2, succeeded=2)
        assert len(probe.recorders) == 1
        threadpool.unpatch()
        other = FakeProbe()
        threadpool.patch(other)
        pool.submit(nothing).result(LIMIT)
        ledger(other).only(submitted=1, succeeded=1)


def test_signatures_names_and_docstrings_stay(probe):
    def shown():
        return [
            (f.__name__, f.__qualname__, f.__module__, f.__doc__, inspect.signature(f))
            for f in (
                ThreadPoolExecutor.__init__,
                ThreadPoolExecutor.submit,
                Future.cancel,
                Future.set_exception,
                concurrent.futures.thread._WorkItem,
                ThreadPoolExecutor,
            )
        ]

    before = shown()
    threadpool.patch(probe)
    assert shown() == before


def test_instances_made_before_are_seen_from_their_next_task_on(probe):
    with ThreadPoolExecutor(2) as pool, ThreadPoolExecutor(1, "named") as named:
        pool.submit(nothing).result(LIMIT)
        threadpool.patch(probe)
        assert not probe.recorders
        pool.submit(nothing).result(LIMIT)
        ledger(probe).only(submitted=1, succeeded=1)
        named.submit(nothing).result(LIMIT)
        ledger(probe).only(submitted=1, succeeded=1)
        assert probe.opened == [(None, "", "thread"), (None, "named", "thread")]


def test_tasks_queued_before_are_left_alone(probe):
    gate = Gate()
    with ThreadPoolExecutor(1) as pool:
        gate.block(pool)
        early = pool.submit(nothing)
        cancelled = pool.submit(nothing)
        threadpool.patch(probe)
        late = pool.submit(nothing)
        cancelled.cancel()
        gate.opened.set()
        assert early.result(LIMIT) is None
        late.result(LIMIT)
    ledger(probe).only(submitted=1, succeeded=1)


def test_tasks_in_flight_are_recorded_to_their_end(probe):
    gate = Gate()
    threadpool.patch(probe)
    with ThreadPoolExecutor(1) as pool:
        gate.block(pool)
        queued = [pool.submit(nothing) for _ in range(3)]
        book = ledger(probe)
        book.only(submitted=4, running=1, queued=3)
        threadpool.unpatch()
        unseen = pool.submit(nothing)
        queued[0].cancel()
        gate.opened.set()
        unseen.result(LIMIT)
    book.only(submitted=4, succeeded=3, cancelled=1)


def test_subclasses_that_call_super(probe):
    class Own(ThreadPoolExecutor):
        __hash__ = None

        def __init__(self):
            super().__init__(1, "own")

        def submit(self, fn, /, *args, **kwargs):
            return super().submit(fn, *args, **kwargs)

        def __eq__(self, other):
            return NotImplemented

    threadpool.patch(probe)
    with Own() as pool:
        pool.submit(nothing).result(LIMIT)
    ledger(probe).only(submitted=1, succeeded=1)
    assert probe.recorders[0].executor.endswith("Own")


def test_a_subclass_that_replaces_submit_stays_out_of_it(probe):
    class Own(ThreadPoolExecutor):
        def submit(self, fn, /, *args, **kwargs):
            future = Future()
            future.set_result(fn(*args, **kwargs))
            return future

    threadpool.patch(probe)
    with Own(1) as pool:
        assert pool.submit(pow, 2, 3).result() == 8
    ledger(probe).only()


def test_asyncios_default_executor(probe):
    threadpool.patch(probe)

    async def main():
        await asyncio.to_thread(nothing)
        await asyncio.get_running_loop().run_in_executor(None, nothing)

    asyncio.run(main())
    ledger(probe).only(submitted=2, succeeded=2)
    assert probe.opened == [(None, "asyncio", "thread")]
    assert list(probe.function_names().values()) == [f"{__name__}.nothing"]


@pytest.mark.parametrize("ignored", [True, False])
def test_the_drop_in_is_recorded_once(probe, monkeypatch, ignored):
    own = FakeProbe()
    own.ignored = {"unnamed"} if ignored else set()
    monkeypatch.setattr(runtime, "current", lambda: own)
    threadpool.patch(probe)
    with executors.ThreadPoolExecutor(1) as pool:
        pool.submit(nothing).result(LIMIT)
        gate = Gate()
        gate.block(pool)
        pool.submit(nothing).cancel()
        gate.opened.set()
    assert not probe.recorders
    if not ignored:
        ledger(own).only(submitted=3, succeeded=2, cancelled=1)


def test_an_unfamiliar_work_item_switches_the_patch_off(probe, monkeypatch):
    class Newer:
        def __init__(self, future, call):
            pass

        def run(self, interpreter):
            pass

    monkeypatch.setattr(concurrent.futures.thread, "_WorkItem", Newer)
    before = standard_state()
    threadpool.patch(probe)
    assert standard_state() == before
    [(tag, text)] = probe.messages
    assert tag == "notice"
    assert text.startswith("thread pools are not watched")


def test_the_module_in_use_is_patched(probe, monkeypatch):
    module = concurrent.futures.thread
    again = types.ModuleType(module.__name__)
    again.__file__ = module.__file__
    with open(module.__file__) as source:
        code = compile(source.read(), module.__file__, "exec")
    with monkeypatch.context() as patch:
        # the copy must not be waited for when this interpreter exits
        patch.setattr(threading, "_register_atexit", lambda fn: None)
        patch.setattr(os, "register_at_fork", lambda **hooks: None)
        exec(code, again.__dict__)
    before = standard_state()
    monkeypatch.setitem(sys.modules, module.__name__, again)
    threadpool.patch(probe)
    with again.ThreadPoolExecutor(1) as pool:
        pool.submit(nothing).result(LIMIT)
    ledger(probe).only(submitted=1, succeeded=1)
    assert [before[0], before[1], before[3]] == [
        dict(vars(owner)) for owner in (ThreadPoolExecutor, module._WorkItem, module)
    ]


def test_a_wrapper_around_ours_survives_the_undo(probe):
    threadpool.patch(probe)
    ours = ThreadPoolExecutor.submit
    seen = []

    def theirs(self, fn, /, *args, **kwargs):
        seen.append(fn)
        return ours(self, fn, *args, **kwargs)

    try:
        ThreadPoolExecutor.submit = theirs
        threadpool.unpatch()
        assert ThreadPoolExecutor.submit is theirs
        with ThreadPoolExecutor(1) as pool:
            pool.submit(nothing).result(LIMIT)
        assert seen == [nothing]
        assert not probe.recorders
        # and once more on top of theirs: still one record of each task
        threadpool.patch(probe)
        with ThreadPoolExecutor(1) as pool:
            pool.submit(nothing).result(LIMIT)
        ledger(probe).only(submitted=1, succeeded=1)
        threadpool.unpatch()
        assert ThreadPoolExecutor.submit is theirs
    finally:
        ThreadPoolExecutor.submit = ours.__wrapped__
    assert not hasattr(ThreadPoolExecutor.submit, "__wrapped__")


def test_a_finalizer_that_submits_while_a_task_is_submitted(probe):
    threadpool.patch(probe)
    with ThreadPoolExecutor(1, "outer") as outer, ThreadPoolExecutor(1, "inner") as inner:
        original = outer._shutdown_lock

        class Finalizing:
            """A lock whose taking runs a finalizer first, as an allocation may."""

            def __enter__(self):
                inner.submit(nothing).result(LIMIT)
                return original.__enter__()

            def __exit__(self, *args):
                return original.__exit__(*args)

        outer._shutdown_lock = Finalizing()
        outer.submit(nothing).result(LIMIT)
        outer._shutdown_lock = original
    for recorder in probe.recorders:
        Ledger(recorder, probe).only(submitted=1, succeeded=1)


def test_a_foreign_thread_that_runs_many_items_has_one_log(probe):
    threadpool.patch(probe)
    gate = Gate()
    with ThreadPoolExecutor(1) as pool:
        gate.block(pool)
        for _ in range(10):
            pool.submit(nothing)
            run_here(pool)
        gate.opened.set()
    ledger(probe).only(submitted=11, succeeded=11)
    assert len(probe.recorders[0].workers) == 2


def test_a_thread_that_works_for_two_pools_in_turn_keeps_its_logs_apart(probe):
    threadpool.patch(probe)
    gates = [Gate(), Gate()]
    with ThreadPoolExecutor(1, "a") as a, ThreadPoolExecutor(1, "b") as b:
        for gate, pool in zip(gates, (a, b), strict=True):
            gate.block(pool)
        for _ in range(5):
            for pool in (a, b):
                pool.submit(nothing)
                run_here(pool)
        for gate in gates:
            gate.opened.set()
    for recorder in probe.recorders:
        Ledger(recorder, probe).only(submitted=6, succeeded=6)
        assert len(recorder.workers) == 2


def test_two_cancels_of_which_both_find_the_future_pending(probe, monkeypatch):
    barrier = threading.Barrier(2)
    cancel = Future.cancel

    def together(self):
        done = cancel(self)
        barrier.wait(LIMIT)  # neither has recorded anything yet
        return done

    monkeypatch.setattr(Future, "cancel", together)
    threadpool.patch(probe)
    gate = Gate()
    with ThreadPoolExecutor(1) as pool:
        gate.block(pool)
        future = pool.submit(nothing)
        threads = [threading.Thread(target=future.cancel) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        gate.opened.set()
    threadpool.unpatch()
    ledger(probe).only(submitted=2, succeeded=1, cancelled=1)


def test_a_worker_that_meets_a_cancelled_task_before_the_canceller_has_recorded_it(probe, monkeypatch):
    met = threading.Event()
    cancel = Future.cancel

    def slow(self):
        done = cancel(self)
        gate.opened.set()
        assert met.wait(LIMIT)
        return done

    monkeypatch.setattr(Future, "cancel", slow)
    threadpool.patch(probe)
    gate = Gate()
    with ThreadPoolExecutor(1) as pool:
        gate.block(pool)
        future = pool.submit(nothing)
        pool.submit(met.set)
        assert future.cancel()
    threadpool.unpatch()
    ledger(probe).only(submitted=3, succeeded=2, cancelled=1)


def test_futures_of_nobodys_are_as_before(probe):
    threadpool.patch(probe)
    future = Future()
    future.set_exception(concurrent.futures.thread.BrokenThreadPool("mine"))
    assert not future.cancel()
    assert str(future.exception()) == "mine"
    assert Future().cancel()


def test_futures_of_finished_tasks_carry_nothing_of_ours(probe):
    plain = set(vars(Future()))
    threadpool.patch(probe)
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(nothing)
        done.result(LIMIT)
        gate = Gate()
        gate.block(pool)
        cancelled = pool.submit(nothing)
        cancelled.cancel()
        gate.opened.set()
    assert set(vars(done)) == set(vars(cancelled)) == plain


def test_nothing_of_a_dead_pool_is_kept(probe):
    threadpool.patch(probe)
    pool = ThreadPoolExecutor(1)
    pool.submit(nothing).result(LIMIT)
    [thread] = pool._threads
    watch = weakref.ref(pool)
    del pool
    gc.collect()
    assert watch() is None
    thread.join(LIMIT)
    assert not threadpool._instances._refs


def test_an_executor_without_its_attributes_is_reported_and_left_alone(probe):
    class Odd(ThreadPoolExecutor):
        def __init__(self):  # does not call the standard one
            self.calls = []

    threadpool.patch(probe)
    with pytest.raises(AttributeError):
        Odd().submit(nothing)
    [(part, error)] = probe.faults
    assert part == "pools"
    assert isinstance(error, AttributeError)
    probe.faults.clear()


def test_a_notice_in_the_log_is_not_needed(probe, caplog):
    with caplog.at_level(logging.DEBUG):
        threadpool.patch(probe)
        with ThreadPoolExecutor(1) as pool:
            pool.submit(nothing).result(LIMIT)
        threadpool.unpatch()
    assert not caplog.records


FORKING = """
import os, sys, warnings
warnings.simplefilter("ignore")  # of forking: the parent has no other thread by then
from concurrent.futures import ThreadPoolExecutor
from probe_support import FakeProbe, Ledger
from poolscope.executors import threads as executors
from poolscope.probe import runtime
from poolscope.probe.executors import threadpool

parent, child = FakeProbe(), FakeProbe()
in_use = [parent]
runtime.current = lambda: in_use[0]
threadpool.patch(parent)
pools = [ThreadPoolExecutor(1, "patched"), executors.ThreadPoolExecutor(1, name="own")]
pid = os.fork()
if pid == 0:
    in_use[0] = child
    for pool in pools:
        pool.submit(pow, 2, 3).result(30)
        pool.shutdown()
    for recorder in child.recorders:
        Ledger(recorder, child).only(submitted=1, succeeded=1)
    print([recorder.name for recorder in child.recorders], len(parent.recorders), flush=True)
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
for pool in pools:
    pool.submit(pow, 2, 3).result(30)
    pool.shutdown()
for recorder in parent.recorders:
    Ledger(recorder, parent).only(submitted=1, succeeded=1)
print([recorder.name for recorder in parent.recorders], flush=True)
"""


def test_a_forked_child_records_into_its_own_probe():
    done = subprocess.run(
        [sys.executable, "-c", FORKING],
        capture_output=True,
        text=True,
        timeout=60,
        env={"PYTHONPATH": ":".join(sys.path)},
    )
    assert (done.stderr, done.returncode) == ("", 0)
    assert done.stdout.splitlines() == ["['patched', 'own'] 2", "['patched', 'own']"]


@pytest.mark.parametrize("method", ["set_running_or_notify_cancel", "set_result"])
@pytest.mark.parametrize("later", [False, True], ids=["before the patch", "after it"])
def test_a_method_of_futures_that_another_tool_has_replaced_is_called(probe, monkeypatch, method, later):
    original, calls = getattr(Future, method), []

    def replaced(self, *args):
        calls.append(args)
        return original(self, *args)

    if not later:
        monkeypatch.setattr(Future, method, replaced)
    threadpool.patch(probe)
    with ThreadPoolExecutor(1) as pool:
        if later:
            monkeypatch.setattr(Future, method, replaced)
        assert pool.submit(int, 3).result(LIMIT) == 3
    assert calls == [(3,) if method == "set_result" else ()]
    ledger(probe).only(submitted=1, succeeded=1)


def test_a_future_of_a_class_of_its_own_gets_its_result_by_its_method(probe):
    """As a subclass of the executor may have it put into its queue."""
    results = []

    class Counted(Future):
        def set_result(self, result):
            results.append(result)
            super().set_result(result)

    threadpool.patch(probe)
    with ThreadPoolExecutor(1) as pool:
        gate = Gate()
        gate.block(pool)
        future = pool.submit(int, 4)
        future.__class__ = Counted
        gate.opened.set()
        assert future.result(LIMIT) == 4
    assert results == [4]

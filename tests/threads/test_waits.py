"""What real workers are seen to wait for, in drop-in pools and in standard ones that are patched."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import itertools
import multiprocessing
import queue
import sys
import threading
import time
import weakref
from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION, Future, as_completed, wait
from types import SimpleNamespace

import process_support
import pytest
from probe_support import FakeProbe

from poolscope.executors import processes
from poolscope.executors import threads as executors
from poolscope.probe import runtime
from poolscope.probe.executors import threadpool
from poolscope.probe.sampling import waits
from poolscope.probe.sampling.coroutines import LOOPS, Follower

LIMIT = 30  # seconds for what is sure to come


class Pools:
    """A pool `here`, whose workers are looked at, and a pool `there` of one worker, which is held by a task."""

    def __init__(self, probe, executor_class):
        self.probe = probe
        self.here = executor_class(2, "here")
        self.there = executor_class(1, "there")
        self.opened = threading.Event()
        started = threading.Event()
        self.holder = self.there.submit(lambda: started.set() or self.opened.wait(LIMIT))
        assert started.wait(LIMIT)
        self.reader = waits.WaitReader()

    def watches(self):
        return [SimpleNamespace(recorder=recorder) for recorder in self.probe.recorders]

    def read(self):
        """(worker, any, targets) of those that wait in `here`."""
        everyone = self.watches()
        told = self.reader.read(everyone[:1], everyone)
        for pool, worker, started, since, _, _ in told:
            task = self.probe.recorders[pool - 1].workers[worker - 1].running
            assert task is None or started == task[2] <= since <= self.probe.clock()
        return sorted((worker, enough, set(targets)) for pool, worker, _, _, enough, targets in told if pool == 1)

    def await_waits(self, *expected):
        """Looks until it is so: a thread that has been told to wait may not have got there."""
        patience = time.monotonic() + LIMIT
        while (found := self.read()) != list(expected):
            assert time.monotonic() < patience, found
            time.sleep(0.001)

    def close(self):
        self.opened.set()
        for pool in (self.here, self.there):
            pool.shutdown(wait=True, cancel_futures=True)


@pytest.fixture(params=["drop-in", "patched"])
def pools(request, monkeypatch):
    probe = FakeProbe()
    if request.param == "drop-in":
        monkeypatch.setattr(runtime, "current", lambda: probe)
        made = Pools(probe, executors.ThreadPoolExecutor)
    else:
        threadpool.patch(probe)
        made = Pools(probe, concurrent.futures.ThreadPoolExecutor)
    yield made
    made.close()
    threadpool.unpatch()
    assert not probe.faults


def nothing(*_):
    pass


HERE, THERE, HOLDER, UNKNOWN = (1, 0), (2, 0), (2, 1), (0, 0)


@pytest.mark.parametrize("timeout", [None, LIMIT])
@pytest.mark.parametrize(
    ("how", "any_of", "targets"),
    [
        (lambda pools, timeout: pools.there.submit(nothing).result(timeout), False, {THERE}),
        (lambda pools, timeout: pools.there.submit(nothing).exception(timeout), False, {THERE}),
        (lambda pools, timeout: pools.holder.result(timeout), False, {HOLDER}),
        (lambda pools, timeout: list(pools.there.map(nothing, range(3), timeout=timeout)), False, {THERE}),
        (
            lambda pools, timeout: wait([pools.holder, pools.there.submit(nothing)], timeout, ALL_COMPLETED),
            False,
            {HOLDER, THERE},
        ),
        (lambda pools, timeout: wait([pools.holder, Future()], LIMIT, FIRST_COMPLETED), True, {HOLDER, UNKNOWN}),
        (lambda pools, timeout: wait([pools.holder], timeout, FIRST_EXCEPTION), True, {HOLDER}),
        (
            lambda pools, timeout: list(as_completed([pools.holder, pools.there.submit(nothing)], timeout)),
            True,
            {HOLDER, THERE},
        ),
    ],
    ids=["result", "exception", "of a running task", "map", "all", "first", "first exception", "as completed"],
)
def test_each_way_to_wait_is_seen_and_over_when_it_is_over(pools, how, any_of, targets, timeout):
    task = pools.here.submit(how, pools, timeout)
    pools.await_waits((1, any_of, targets))
    pools.opened.set()
    if UNKNOWN not in targets:
        task.result(LIMIT)
    pools.await_waits()


def test_a_task_of_the_own_pool_and_a_pool_within_a_pool(pools):
    inner = pools.here.submit(lambda: pools.here.submit(lambda: pools.there.submit(nothing).result()).result())
    # The outer task waits for the second worker, and that one for the queue of the other pool.
    pools.await_waits((1, False, {(1, 2)}), (2, False, {THERE}))
    second = pools.here.submit(nothing)
    assert not second.running()
    pools.opened.set()
    inner.result(LIMIT)


def test_no_worker_left_for_what_all_of_them_wait_for(pools):
    met, inner = threading.Barrier(2), []

    def task():
        met.wait(LIMIT)
        future = pools.here.submit(nothing)
        inner.append(future)
        future.result()

    for _ in range(2):
        pools.here.submit(task)
    pools.await_waits((1, False, {HERE}), (2, False, {HERE}))
    inner[0].cancel()
    pools.await_waits()


@pytest.mark.parametrize(
    "how",
    [
        lambda pools: pools.opened.wait(LIMIT),
        lambda pools: time.sleep(0.2),
        lambda pools: queue.SimpleQueue().get(timeout=0.2),
        lambda pools: threading.Barrier(2).wait(0.2),
    ],
    ids=["event", "sleep", "queue", "barrier"],
)
def test_who_waits_for_something_else_is_not_told(pools, how):
    started = threading.Event()
    pools.here.submit(lambda: started.set() or how(pools))
    assert started.wait(LIMIT)
    assert [pools.read() for _ in range(20)] == [[]] * 20


def test_futures_of_nobody_are_unknown_and_never_asked(pools):
    class Own(Future):
        over = False

        @property
        def _state(self):
            assert self.over or threading.current_thread().name.startswith("here"), "not our business"
            return "RUNNING"

        @_state.setter
        def _state(self, value):
            pass

    own, plain = pools.here.submit(Own).result(), Future()
    pools.here.submit(wait, [own], LIMIT)
    pools.here.submit(plain.result, LIMIT)
    pools.await_waits((1, False, {UNKNOWN}), (2, False, {UNKNOWN}))
    own.over = True
    own.set_result(None)
    plain.set_result(None)


def test_what_is_done_does_not_count(pools):
    first, second = Future(), pools.there.submit(nothing)
    pools.here.submit(wait, [first, second])
    pools.here.submit(wait, [first, second], return_when=FIRST_EXCEPTION)
    pools.await_waits((1, False, {UNKNOWN, THERE}), (2, True, {UNKNOWN, THERE}))
    first.set_result("no exception")
    pools.await_waits((1, False, {THERE}), (2, True, {THERE}))


def test_of_too_many_futures_the_rest_is_unknown(pools, monkeypatch):
    monkeypatch.setattr(waits, "FUTURES_LIMIT", 3)
    pools.here.submit(lambda: list(as_completed([pools.there.submit(nothing) for _ in range(5)])))
    pools.await_waits((1, True, {THERE, UNKNOWN}))


def test_other_pools_are_looked_at_only_if_one_waits_in_a_full_pool(pools):
    pools.there.submit(pools.here.submit(pools.opened.wait, LIMIT).result)
    everyone = pools.watches()
    assert pools.reader.read(everyone[:1], everyone) == []


async def submitted(pools):
    return await asyncio.get_running_loop().run_in_executor(pools.there, nothing)


async def through_a_task(pools):
    return await asyncio.create_task(submitted(pools))


async def shielded(pools):
    return await asyncio.shield(asyncio.wrap_future(pools.holder))


async def in_a_group(pools):
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(submitted(pools))


async def without_a_pool(pools):
    await asyncio.sleep(0)
    while not pools.opened.is_set():
        await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("coroutine", "target"),
    [(submitted, THERE), (through_a_task, THERE), (shielded, HOLDER), (in_a_group, UNKNOWN), (without_a_pool, UNKNOWN)],
)
@pytest.mark.parametrize("eager", [False, True])
def test_through_the_tasks_of_an_event_loop(pools, coroutine, target, eager):
    loop = asyncio.new_event_loop()
    # From 3.12 on.
    loop.set_task_factory(getattr(asyncio, "eager_task_factory", None) if eager else None)
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        task = pools.here.submit(lambda: asyncio.run_coroutine_threadsafe(coroutine(pools), loop).result())
        pools.await_waits((1, False, {target}))
        pools.opened.set()
        task.result(LIMIT)
        pools.await_waits()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(LIMIT)
        loop.close()


def test_the_event_loop_whose_coroutine_a_worker_waits_for(pools, monkeypatch):
    loop = asyncio.new_event_loop()
    monkeypatch.setitem(LOOPS, id(loop), (weakref.ref(loop), 7))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        task = pools.here.submit(lambda: asyncio.run_coroutine_threadsafe(without_a_pool(pools), loop).result())
        patience = time.monotonic() + LIMIT
        while not (told := pools.reader.read(pools.watches()[:1], pools.watches())) or len(told[0]) < 7:
            assert time.monotonic() < patience, told
            time.sleep(0.001)
        assert told[0][5:] == [[UNKNOWN], 7]
        pools.opened.set()
        task.result(LIMIT)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(LIMIT)
        loop.close()


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_task_in_a_process_is_known_by_its_pool(pools, tmp_path, monkeypatch):
    gate = process_support.Gate(tmp_path)
    monkeypatch.setattr(processes, "_find_probe", lambda: pools.probe)
    with processes.ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as pool:
        tasks = [pool.submit(*gate.task(name)) for name in ("runs", "queued")]
        for task in tasks:
            pools.here.submit(task.result)
        pools.await_waits((1, False, {(3, 0)}), (2, False, {(3, 0)}))
        gate.open()


def test_without_a_gil_no_task_is_followed(monkeypatch):
    monkeypatch.setattr(sys, "_is_gil_enabled", lambda: False, raising=False)
    future, source = Future(), Future()

    async def main():
        asyncio.futures._chain_future(source, future)
        assert Follower(concurrent.futures._base).follow(future) is future
        monkeypatch.setattr(sys, "_is_gil_enabled", lambda: True)
        assert Follower(concurrent.futures._base).follow(future) is source

    asyncio.run(main())


def test_nothing_is_kept_alive(pools):
    """A future that is raised from must go with its last user, without the garbage collector, seen or not."""
    futures = []

    def make():
        future = pools.there.submit(fail)
        futures.append(weakref.ref(future))
        return future

    def task():
        try:
            make().result()
        except ValueError:
            pass

    started, go_on = threading.Event(), threading.Event()

    def fail():
        started.set()
        assert go_on.wait(LIMIT)
        raise ValueError

    done = pools.here.submit(task)
    pools.await_waits((1, False, {THERE}))
    pools.opened.set()
    assert started.wait(LIMIT)
    pools.await_waits((1, False, {(2, 1)}))
    gc.disable()
    try:
        go_on.set()
        done.result(LIMIT)
        # The worker that has failed lets go of its task a moment after it has told.
        for _ in itertools.takewhile(lambda _: futures[0]() is not None, range(1000)):
            time.sleep(0.001)
        assert futures[0]() is None
    finally:
        gc.enable()

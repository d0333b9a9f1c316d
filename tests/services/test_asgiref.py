"""asgiref's executors: in process, gated by events."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import gc
import os
import subprocess
import sys
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from typing import Any

import pytest
from adapter_support import Gate
from asgiref.current_thread_executor import CurrentThreadExecutor
from asgiref.sync import SyncToAsync, ThreadSensitiveContext, async_to_sync, sync_to_async
from probe_support import FakeProbe, Ledger, mistake, waits

from poolscope.probe import adapters
from poolscope.probe.adapters import asgiref as adapter
from poolscope.probe.executors import threadpool
from poolscope.probe.interpreter.cpu import CpuClocks
from poolscope.probe.recording import pool_watch
from poolscope.probe.recording.ephemeral_pools import READINGS
from poolscope.probe.sampling.waits import WaitReader

LIMIT = 30  # seconds for what is sure to come
SINGLE, CONTEXTS, LOOPS = "asgiref.sync_to_async", "asgiref.contexts", "asgiref.async_to_sync"
CURRENT = "asgiref.current_thread"


@pytest.fixture
def probe():
    made = FakeProbe()
    threadpool.patch(made)
    adapter.patch(made)
    yield made
    adapter.unpatch()
    threadpool.unpatch()
    assert not made.faults


@pytest.fixture(autouse=True)
def single_thread(monkeypatch):
    """The executor that a fresh process has."""

    def make(patched):
        if not patched:
            return ThreadPoolExecutor(max_workers=1)
        namespace: dict[str, Any] = {"__name__": "asgiref.sync", "ThreadPoolExecutor": ThreadPoolExecutor}
        exec("class SyncToAsync:\n    made = ThreadPoolExecutor(max_workers=1)", namespace)
        return namespace["SyncToAsync"].made

    made = []

    def renew(patched=True):
        made.append(make(patched))
        monkeypatch.setattr(SyncToAsync, "single_thread_executor", made[-1])

    yield renew
    for executor in made:
        executor.shutdown()


def square(number):
    return number * number


def fail():
    raise ValueError("no")


async def until(condition, times=1):
    async with asyncio.timeout(LIMIT):
        while times:
            if condition():
                times -= 1
            else:
                await asyncio.sleep(0.001)


def ledger(probe, name):
    [recorder] = [recorder for recorder in probe.recorders if recorder.name == name]
    return Ledger(recorder, probe)


async def in_context(*calls):
    async with ThreadSensitiveContext():
        return await asyncio.gather(*(sync_to_async(call)() for call in calls))


def test_the_threads_of_contexts_are_one_pool(probe):
    async def main():
        gates = [Gate() for _ in range(3)]
        requests = [asyncio.create_task(in_context(gate)) for gate in gates[:2]]
        requests.append(asyncio.create_task(in_context(gates[2], functools.partial(square, 3))))
        for gate in gates:
            await gate.started(1)
        book = ledger(probe, CONTEXTS)
        await until(lambda: book.read().submitted == 4)
        book.only(submitted=4, running=3, queued=1)
        assert (book.workers, book.max_workers) == (3, 3)
        gates[2].open()
        assert await requests[2] == [None, 9]
        book.only(submitted=4, succeeded=2, running=2)
        for gate in gates:
            gate.open()
        await asyncio.gather(*requests)
        book.only(submitted=4, succeeded=4)

    asyncio.run(main())
    assert probe.opened == [(CONTEXTS, "", "asgiref")]
    assert set(probe.function_names().values()) == {f"{Gate.__module__}.Gate", f"{__name__}.square"}
    assert probe.recorders[0].executor == "concurrent.futures.thread.ThreadPoolExecutor"


def test_many_contexts_leave_nothing_behind(probe, monkeypatch):
    monkeypatch.setattr("poolscope.probe.recording.virtual_workers.REST_NS", 0)

    async def main(requests):
        for number in range(requests):
            assert await in_context(functools.partial(square, number)) == [number * number]

    asyncio.run(main(20))
    group: Any = adapter._groups[CONTEXTS]
    places = len(group.watch.recorder.workers)
    asyncio.run(main(200))
    ledger(probe, CONTEXTS).only(submitted=220, succeeded=220)
    # A thread may be there a moment longer than its context.
    assert len(group.watch.recorder.workers) <= places + 10
    assert not group.watch.logs
    gc.collect()
    assert not group._members
    for _ in range(READINGS + 1):
        size = group._size()
    assert size == (0, 1)


def test_the_size_is_the_most_contexts_lately(probe):
    async def main():
        gate = Gate()
        requests = [asyncio.create_task(in_context(gate)) for _ in range(4)]
        await gate.started(4)
        gate.open()
        await asyncio.gather(*requests)
        del requests

    asyncio.run(main())
    gc.collect()
    sizes = [ledger(probe, CONTEXTS).read().max_workers for _ in range(READINGS + 1)]
    assert sizes == [4] * READINGS + [1]


def test_without_a_context_there_is_one_thread(probe, single_thread):
    single_thread()
    assert not probe.opened  # most programs that import asgiref never use it

    async def main():
        gate = Gate()
        # Each in a context of its own: asgiref would rather fail than wait for itself.
        calls = [asyncio.create_task(sync_to_async(gate)()) for _ in range(3)]
        await gate.started(1)
        book = ledger(probe, SINGLE)
        await until(lambda: book.read().submitted == 3)
        book.only(submitted=3, running=1, queued=2)
        assert (book.workers, book.max_workers) == (1, 1)
        gate.open()
        await asyncio.gather(*calls)
        book.only(submitted=3, succeeded=3)

    asyncio.run(main())
    assert probe.opened == [(SINGLE, "", "asgiref")]


def test_it_stays_one_thread_whatever_the_settings_say(probe, single_thread):
    single_thread()
    probe.add_rule(SINGLE, 8)

    async def main():
        return await asyncio.create_task(sync_to_async(square)(2))

    assert asyncio.run(main()) == 4
    assert ledger(probe, SINGLE).read().max_workers == 1
    assert [message[1] for message in probe.messages if message[0] == "notice"] == [
        f"{SINGLE} stays one thread: asgiref promises that its calls run one by one"
    ]


def test_a_task_that_is_cancelled_while_it_waits(probe, single_thread):
    single_thread()

    async def main():
        gate = Gate()
        first = asyncio.create_task(sync_to_async(gate)())
        await gate.started(1)
        second = asyncio.create_task(sync_to_async(square)(1))
        book = ledger(probe, SINGLE)
        await until(lambda: book.read().submitted == 2)
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        book.only(submitted=2, running=1, cancelled=1)
        gate.open()
        await first

    asyncio.run(main())


def test_executors_that_are_older_than_the_patch(probe, single_thread):
    adapter.unpatch()
    threadpool.unpatch()
    single_thread(patched=False)

    async def main():
        async with ThreadSensitiveContext():
            assert await sync_to_async(square)(2) == 4
            threadpool.patch(probe)
            adapter.patch(probe)
            assert await sync_to_async(square)(3) == 9
        assert await asyncio.create_task(sync_to_async(square)(4)) == 16

    asyncio.run(main())
    assert [name for name, *_ in probe.opened] == [CONTEXTS, SINGLE]
    ledger(probe, CONTEXTS).only(submitted=1, succeeded=1)
    ledger(probe, SINGLE).only(submitted=1, succeeded=1)


def test_asynchronous_code_from_synchronous_code(probe):
    async def double(number):
        await asyncio.sleep(0)
        return 2 * number

    for number in range(3):
        assert async_to_sync(double)(number) == 2 * number
    ledger(probe, LOOPS).only(submitted=3, succeeded=3)
    assert set(probe.function_names().values()) == {f"{__name__}.{double.__qualname__}"}


def test_what_asynchronous_code_gives_back_to_the_thread_that_waits_for_it(probe):
    main_thread = threading.get_ident()

    def where(number):
        assert threading.get_ident() == main_thread
        if number == 2:
            raise ValueError(number)
        return number

    async def several():
        return await asyncio.gather(*(sync_to_async(where)(number) for number in range(4)), return_exceptions=True)

    def both():
        return [repr(found) for found in async_to_sync(several)()]

    watched = both()
    assert watched == ["0", "1", "ValueError(2)", "3"]
    ledger(probe, CURRENT).only(submitted=4, succeeded=3, failed=1)
    assert f"{__name__}.{where.__qualname__}" in probe.function_names().values()
    adapter.unpatch()
    threadpool.unpatch()
    assert both() == watched


def test_what_is_given_back_too_late_is_refused(probe):
    executor = CurrentThreadExecutor(None)
    executor._broken = True
    errors = []

    def submit():
        try:
            executor.submit(square, 2)
        except RuntimeError as error:
            errors.append((str(error), [line.name for line in traceback.extract_tb(error.__traceback__)]))

    for patched in (True, False):
        if not patched:
            adapter.unpatch()
        thread = threading.Thread(target=submit)
        thread.start()
        thread.join(LIMIT)
    assert errors[0] == errors[1]
    assert "already quit" in errors[0][0]
    ledger(probe, CURRENT).only(submitted=0, rejected=1)


def test_what_is_cancelled_before_the_thread_comes_to_it(probe):
    executor = CurrentThreadExecutor(None)
    futures: list[Any] = []

    def submit():
        futures.extend(executor.submit(square, number) for number in (2, 3))
        assert futures[0].cancel()

    thread = threading.Thread(target=submit)
    thread.start()
    thread.join(LIMIT)
    ledger(probe, CURRENT).only(submitted=2, queued=1, cancelled=1)
    executor.run_until_future(futures[1])


def test_an_executor_of_the_users_stays_a_pool_of_its_own(probe):
    async def main():
        with ThreadPoolExecutor(2, "mine") as executor:
            assert await sync_to_async(square, thread_sensitive=False, executor=executor)(2) == 4

    asyncio.run(main())
    assert probe.opened == [(None, "mine", "thread")]
    assert set(probe.function_names().values()) == {f"{__name__}.square"}


def test_results_errors_and_context_variables_are_as_without_us(probe):
    variable = contextvars.ContextVar("variable", default=0)

    def count():
        variable.set(variable.get() + 1)
        return variable.get()

    async def main():
        variable.set(5)
        async with ThreadSensitiveContext():
            first = await sync_to_async(count)()
            with pytest.raises(ValueError, match="no") as raised:
                await sync_to_async(fail)()
            names = [line.name for line in raised.traceback]
        return first, variable.get(), names

    watched = asyncio.run(main())
    adapter.unpatch()
    threadpool.unpatch()
    assert watched == asyncio.run(main())
    ledger(probe, CONTEXTS).only(submitted=2, succeeded=1, failed=1)


def test_undo_leaves_the_patch_of_the_standard_executor_as_it_was(probe):
    adapter.patch(probe)
    assert len(pool_watch.ADOPTERS) == 1
    adapter.unpatch()
    adapter.unpatch()
    assert pool_watch.ADOPTERS == []
    asyncio.run(in_context(functools.partial(square, 2)))
    [(name, _, kind)] = probe.opened
    assert (name, kind) == (None, "thread")


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_opens_pools_of_its_own(probe):
    asyncio.run(in_context(functools.partial(square, 2)))
    child = os.fork()
    if child == 0:
        status = 1
        try:
            mine = FakeProbe()
            vars(adapter)["_adopter"].find_probe = lambda: mine
            asyncio.run(in_context(functools.partial(square, 2)))
            status = 0 if mine.opened == probe.opened else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    ledger(probe, CONTEXTS).only(submitted=1, succeeded=1)


def test_under_another_probe_the_one_thread_is_another_pool(probe, single_thread):
    single_thread()

    async def main():
        return await asyncio.create_task(sync_to_async(square)(2))

    asyncio.run(main())
    adapter.unpatch()
    threadpool.unpatch()
    other = FakeProbe()
    threadpool.patch(other)
    adapter.patch(other)
    asyncio.run(main())
    for one in (probe, other):
        assert one.opened == [(SINGLE, "", "asgiref")]
        ledger(one, SINGLE).only(submitted=1, succeeded=1)


def test_another_asgiref_is_left_to_the_patch_of_the_standard_executor(probe, monkeypatch, caplog):
    monkeypatch.setattr(adapters, "_logged", set())
    adapter.unpatch()
    monkeypatch.delattr(SyncToAsync, "context_to_thread_executor")
    for _ in range(2):
        adapter.patch(probe)
    assert pool_watch.ADOPTERS == []
    [text] = {message[1] for message in probe.messages if message[0] == "notice"}
    version = metadata.version("asgiref")
    assert text.startswith(f"asgiref {version}: its threads are shown as those of any executor: no SyncToAsync.")
    assert [record.getMessage() for record in caplog.records] == [text]


def test_a_failure_of_ours_leaves_the_executor_a_plain_one(monkeypatch):
    probe = FakeProbe()
    monkeypatch.setattr(adapter._Group, "add", mistake(ZeroDivisionError()))
    threadpool.patch(probe)
    adapter.patch(probe)
    try:
        assert asyncio.run(in_context(functools.partial(square, 2))) == [4]
    finally:
        adapter.unpatch()
        threadpool.unpatch()
    assert [type(exc) for _, exc in probe.faults] == [ZeroDivisionError]
    assert [kind for *_, kind in probe.opened] == ["thread"]


def test_it_is_patched_before_asgiref_makes_its_first_executor():
    """In a program that imports it later, under `install`."""
    code = """
import poolscope, sys
with poolscope.install(loops=False):
    import asgiref.sync, asyncio
    from poolscope.probe import runtime
    assert not len(runtime.current()._pools)
    async def main():
        return await asyncio.create_task(asgiref.sync.sync_to_async(abs)(-1))
    assert asyncio.run(main()) == 1
    [watch] = runtime.current()._pools.everyone()
    print(watch.recorder.name, watch.recorder.kind, watch.recorder.created_at.split(":")[0])
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (ended.stdout, ended.stderr) == (f"{SINGLE} asgiref asgiref/sync.py\n", "")


def test_the_time_of_its_threads_is_counted():
    probe = FakeProbe(time.perf_counter_ns)

    def burn():
        end = time.thread_time_ns() + 5_000_000
        while time.thread_time_ns() < end:
            pass

    threadpool.patch(probe)
    adapter.patch(probe)
    try:
        for _ in range(3):
            asyncio.run(in_context(burn))
    finally:
        adapter.unpatch()
        threadpool.unpatch()
    recorder = probe.recorders[0]
    gc.collect()
    assert sum(place.cpu_now(CpuClocks()) for place in recorder.workers) >= 15_000_000


def test_a_thread_that_waits_for_a_task_that_waits_for_the_thread(probe, single_thread):
    """The task is older than the call, and so knows nothing of the thread that waits for it."""
    single_thread()

    async def main():
        begin = asyncio.Event()

        async def other():
            await begin.wait()
            return await sync_to_async(square)(3)

        async def inner():
            begin.set()
            return await asyncio.shield(task)

        task = asyncio.create_task(other())
        outer = asyncio.create_task(sync_to_async(lambda: async_to_sync(inner)())())
        reader = WaitReader()
        await until(lambda: waits(probe, reader) == [(1, 1, True, {(1, 0)})])
        assert ledger(probe, SINGLE).read().running == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await outer
        assert waits(probe, reader) == []

    asyncio.run(main())

"""The same as `test_interruptions`, of semaphores, locks, queues and clients' connections.

An exception that comes up in the midst of our code reaches the program. In what is recorded nothing waits or is held
for ever: a record that may be torn has ended, and another one begins.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import queue
import threading
from itertools import count

import pytest
from probe_support import FakeProbe, Ledger
from stepping import LIMIT, interrupting

from poolscope.probe.executors.patching import Patch
from poolscope.probe.limits import asyncio_locks, asyncio_queues, connections, threading_queues, threading_semaphores
from poolscope.probe.limits.lending import Lender

MODULES = tuple(
    f"poolscope.probe.limits.{name}"
    for name in (
        *("asyncio_locks", "first_waits", "known_limits", "limit", "threading_semaphores"),
        *("asyncio_queues", "threading_queues", "queue_patch", "queue_registry", "work_queue", "stamps"),
        *("connections", "lending", "holders"),
    )
)


#: What stands in the place of a method of the standard library or of a deque.
OVERRIDES = (
    *("Waiters.remove", "Waiters.__bool__", "_Heard.__exit__", "_Heard._is_owned"),
    *("_Idle._release_save", "_Idle._acquire_restore"),
)


@pytest.fixture(scope="module")
def interrupt():
    with interrupting(MODULES, OVERRIDES) as interrupt:
        yield interrupt


@contextlib.contextmanager
def watched(module):
    """A probe by which the module's limits are watched; nothing of ours may fail meanwhile."""
    probe = FakeProbe()
    module.patch(probe)
    gc.disable()
    try:
        yield probe
    finally:
        gc.enable()
        module.unpatch()
    assert not probe.faults


def settled(probe, where):
    """Nothing is left in what was recorded."""
    for recorder in probe.recorders:
        # What has no row is dropped with its owner.
        if recorder.ended or not recorder.name:
            continue
        counts = Ledger(recorder, probe).read().counts()
        assert (counts["queued"], counts["running"]) == (0, 0), f"left by an interruption in {where}: {counts}"


def steps(interrupt, module, call, least):
    """Interrupts `call` at each of its steps."""
    for at in count(1):
        with watched(module) as probe:
            where = interrupt(call, at)
            settled(probe, where)
        if where is None:
            break
    assert at > least


@pytest.mark.parametrize("make", [asyncio.Lock, lambda: asyncio.Semaphore(2)])
def test_tasks_at_a_limit_may_be_interrupted_at_each_step(interrupt, make):
    async def take(limit):
        async with limit:
            await asyncio.sleep(0)

    async def main():
        limit = make()
        tasks = [asyncio.ensure_future(take(limit)) for _ in range(5)]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            asyncio_locks._state.limits.look()

    steps(interrupt, asyncio_locks, lambda: asyncio.run(main()), 50)


def test_threads_at_a_semaphore_may_be_interrupted_at_each_step(interrupt):
    def use():
        semaphore = threading.Semaphore(1)
        try:
            with semaphore:
                for _ in range(2):
                    assert not semaphore.acquire(timeout=0.0001)
            with semaphore:
                pass
        finally:
            threading_semaphores._state.limits.look()

    steps(interrupt, threading_semaphores, use, 20)


def test_tasks_at_a_queue_may_be_interrupted_at_each_step(interrupt):
    async def main():
        work = asyncio.Queue()

        async def consume():
            while await work.get() is not None:
                work.task_done()

        consumers = [asyncio.ensure_future(consume()) for _ in range(2)]
        try:
            for item in (1, 2, 3, None, None):
                await work.put(item)
            await asyncio.gather(*consumers)
        finally:
            for consumer in consumers:
                consumer.cancel()
            await asyncio.gather(*consumers, return_exceptions=True)

    steps(interrupt, asyncio_queues, lambda: asyncio.run(main()), 50)


@pytest.mark.parametrize("make", [queue.Queue, queue.PriorityQueue, queue.LifoQueue])
def test_threads_at_a_queue_may_be_interrupted_at_each_step(interrupt, make):
    def use():
        work = make()
        for item in (1, 2, 3):
            work.put(item)
        for _ in range(3):
            assert work.get(timeout=LIMIT)
            work.task_done()
        with contextlib.suppress(queue.Empty):
            work.get_nowait()

    steps(interrupt, threading_queues, use, 20)


class Client:
    """A client's pool of one connection."""

    def __init__(self):
        self.free = [object()]

    def take(self):
        if not self.free:
            raise IndexError("none is free")
        return self.free.pop()

    def give(self, connection):
        self.free.append(connection)


def test_a_loan_may_be_interrupted_at_each_step(interrupt):
    for at in count(1):
        probe, patch = FakeProbe(), None

        class Patched(Client):
            __init__, take, give = Client.__init__, Client.take, Client.give

        lender = Lender(("client",), full=lambda pool: not pool.free, capacity=lambda _: 1)
        patch = Patch(probe)
        lender.put_constructor(patch, Patched)
        lender.put_lend(patch, Patched, "take")
        lender.put_take_back(patch, Patched, "give")

        def use(client=Patched):
            pool = client()
            connection = pool.take()
            with contextlib.suppress(IndexError):
                pool.take()
            pool.give(connection)
            pool.give(pool.take())

        where = interrupt(use, at)
        patch.take_off()
        connections.end(patch)
        assert not probe.faults
        settled(probe, where)
        assert threading.get_ident() not in connections.AWAITED
        if where is None:
            break
    assert at > 20
    assert where is None


def test_a_semaphore_is_recorded_on_after_an_interruption(interrupt):
    """Each of two records has its own holds; none is lost but in the step that was interrupted."""
    with watched(threading_semaphores) as probe:
        semaphore = threading.Semaphore(1)

        def contend():
            with semaphore:
                assert not semaphore.acquire(timeout=0.0001)

        contend()
        where = interrupt(contend, 3)
        assert where is not None
        semaphore.release() if semaphore._value == 0 else None
        for _ in range(2):
            contend()
        assert [recorder.ended for recorder in probe.recorders][-1] is False
        counts = Ledger(probe.recorders[-1], probe).read().counts()
        assert counts["cancelled"] >= 2

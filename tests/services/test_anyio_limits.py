"""anyio's semaphores and locks as pools of holds: what is recorded, and that they stay what they are."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import anyio
import pytest
from anyio._backends import _asyncio as backend
from probe_support import FakeProbe, Ledger

from poolscope.probe.interpreter.shapes import Unfamiliar, anyio_limits
from poolscope.probe.limits import anyio_locks

CLASSES = (backend.Lock, backend.Semaphore)
BEFORE = {cls: dict(vars(cls)) for cls in CLASSES}


@pytest.fixture
def probe():
    made = FakeProbe()
    anyio_locks.patch(made)
    yield made
    anyio_locks.unpatch()
    assert not made.faults
    for cls in CLASSES:
        assert dict(vars(cls)) == BEFORE[cls]


def open_rows(probe):
    """The row of each that is noted, as if it were worth one by now."""
    for weak in list(anyio_locks._state.limits._fresh.values()):
        fresh: Any = weak()
        fresh.open()


async def turns(times=1):
    for _ in range(times):
        await asyncio.sleep(0)


async def hold(limit, opened):
    async with limit:
        await opened.wait()


@pytest.mark.parametrize(
    ("make", "kind", "size"), [(anyio.Lock, "lock", 1), (lambda: anyio.Semaphore(2, max_value=2), "semaphore", 2)]
)
def test_a_hold_is_a_task(probe, make, kind, size):
    async def main():
        limit, opened = make(), asyncio.Event()
        holds = [asyncio.ensure_future(hold(limit, opened)) for _ in range(size + 2)]
        await turns(6)
        open_rows(probe)
        book = Ledger(probe.recorders[0], probe)
        book.only(submitted=size + 2, running=size, queued=2)
        assert book.max_workers == size
        opened.set()
        await asyncio.gather(*holds)
        book.only(submitted=size + 2, succeeded=size + 2)
        assert probe.recorders[0].kind == kind
        # Nothing waits any more: nothing is recorded, and it is what it was.
        async with limit:
            pass
        book.only(submitted=size + 2, succeeded=size + 2)

    asyncio.run(main())
    assert probe.function_names()[1].endswith("test_anyio_limits.hold")


@pytest.mark.parametrize("make", [anyio.Lock, lambda: anyio.Semaphore(1)])
def test_what_is_cancelled_while_it_waits_is_cancelled(probe, make):
    async def main():
        limit, opened = make(), asyncio.Event()
        first, second, third = (asyncio.ensure_future(hold(limit, opened)) for _ in range(3))
        await turns(6)
        second.cancel()
        await turns(2)
        book = Ledger(probe.recorders[0], probe)
        book.only(submitted=3, running=1, queued=1, cancelled=1)
        opened.set()
        await asyncio.gather(first, third)
        book.only(submitted=3, succeeded=2, cancelled=1)

    asyncio.run(main())


@pytest.mark.parametrize("make", [anyio.Lock, lambda: anyio.Semaphore(1)])
def test_what_is_cancelled_as_it_is_given_back_is_passed_over(probe, make):
    async def main():
        limit, gates = make(), [asyncio.Event() for _ in range(3)]
        first, second, third = (asyncio.ensure_future(hold(limit, gate)) for gate in gates)
        await turns(6)
        for gate in gates:
            gate.set()
        await turns(1)
        second.cancel()
        await asyncio.gather(first, third)
        await asyncio.gather(second, return_exceptions=True)
        book = Ledger(probe.recorders[0], probe).read()
        assert book.running == book.queued == 0
        assert not probe.recorders[0].given_up
        async with limit:
            pass

    asyncio.run(main())


def test_a_semaphore_made_with_0_is_a_signal(probe):
    async def main():
        signal = anyio.Semaphore(0)
        waiting = asyncio.ensure_future(signal.acquire())
        await turns(2)
        signal.release()
        await waiting

    asyncio.run(main())
    assert probe.recorders == []


def test_what_is_given_back_by_others_is_a_signal(probe):
    async def main():
        room = anyio.Semaphore(2)

        async def produce():
            for _ in range(8):
                await room.acquire()

        producing = asyncio.ensure_future(produce())
        await turns(12)
        for _ in range(6):
            room.release()
            await turns(3)
        await producing
        probe.do_jobs()
        assert probe.opened == []
        assert probe.recorders[0].given_up

    asyncio.run(main())


def test_one_that_is_contended_when_the_patch_goes_works_on():
    probe = FakeProbe()
    anyio_locks.patch(probe)

    async def main():
        lock, opened = anyio.Lock(), asyncio.Event()
        holds = [asyncio.ensure_future(hold(lock, opened)) for _ in range(4)]
        await turns(6)
        anyio_locks.unpatch()
        opened.set()
        await asyncio.gather(*holds)
        assert not lock.locked()
        Ledger(probe.recorders[0], probe).only(submitted=4, succeeded=1, cancelled=3)

    asyncio.run(main())
    assert not probe.faults


def test_another_shape_is_left_alone():
    with pytest.raises(Unfamiliar, match="no Semaphore"):
        anyio_limits(SimpleNamespace(__name__="anyio", Lock=backend.Lock))

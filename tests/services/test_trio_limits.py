"""trio's semaphores, limiters and locks as pools of holds, and that they stay what they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import trio
import trio.testing
from probe_support import FakeProbe, Ledger

from poolscope.probe.interpreter.shapes import Unfamiliar
from poolscope.probe.limits import trio as trio_limits

CLASSES = (trio.Semaphore, trio.CapacityLimiter, trio.Lock.__base__)
BEFORE = {cls: dict(vars(cls)) for cls in CLASSES}

KINDS = [
    (trio.Lock, "lock", 1),
    (trio.StrictFIFOLock, "lock", 1),
    (lambda: trio.Semaphore(2), "semaphore", 2),
    (lambda: trio.CapacityLimiter(3), "semaphore", 3),
]


@pytest.fixture
def probe() -> Iterator[FakeProbe]:
    made = FakeProbe()
    trio_limits.patch(made)
    yield made
    trio_limits.unpatch()
    assert not made.faults
    for cls in CLASSES:
        assert dict(vars(cls)) == BEFORE[cls]


async def hold(limit: Any, opened: trio.Event) -> None:
    async with limit:
        await opened.wait()


async def held(nursery: trio.Nursery, limit: Any, times: int) -> trio.Event:
    opened = trio.Event()
    for _ in range(times):
        nursery.start_soon(hold, limit, opened)
    await trio.testing.wait_all_tasks_blocked()
    return opened


def open_rows() -> None:
    """The row of each that is noted, as if it were worth one by now."""
    for weak in list(trio_limits._state.limits._fresh.values()):
        limit = weak()
        assert limit is not None
        limit.open()


def ledger(probe: FakeProbe) -> Ledger:
    return Ledger(probe.recorders[0], probe)


@pytest.mark.parametrize(("make", "kind", "size"), KINDS)
def test_a_hold_is_a_task(probe: FakeProbe, make: Callable[[], Any], kind: str, size: int) -> None:
    async def main() -> None:
        limit = make()
        async with trio.open_nursery() as nursery:
            opened = await held(nursery, limit, size + 2)
            open_rows()
            book = ledger(probe)
            book.only(submitted=size + 2, running=size, queued=2)
            assert (book.workers, book.max_workers) == (size, size)
            opened.set()
        book.only(submitted=size + 2, succeeded=size + 2)
        assert probe.recorders[0].kind == kind
        # It is as any other one once nothing waits.
        async with limit:
            pass
        book.only(submitted=size + 2, succeeded=size + 2)

    trio.run(main)


@pytest.mark.parametrize("make", [make for make, _, _ in KINDS])
def test_nothing_is_opened_for_what_never_waits(probe: FakeProbe, make: Callable[[], Any]) -> None:
    async def main() -> None:
        limit = make()
        for _ in range(3):
            async with limit:
                await trio.lowlevel.checkpoint()

    trio.run(main)
    assert probe.recorders == []


def test_what_is_cancelled_while_it_waits_is_cancelled(probe: FakeProbe) -> None:
    async def main() -> None:
        lock = trio.Lock()
        async with trio.open_nursery() as nursery:
            opened = await held(nursery, lock, 1)
            with trio.move_on_after(0.01) as scope:
                await lock.acquire()
            assert scope.cancelled_caught
            opened.set()
        ledger(probe).only(submitted=2, succeeded=1, cancelled=1)

    trio.run(main)


@pytest.mark.parametrize("make", [trio.Lock, lambda: trio.CapacityLimiter(1)])
def test_the_lines_of_holder_and_waiter_are_seen(probe: FakeProbe, make: Callable[[], Any]) -> None:
    async def main() -> None:
        limit = make()
        async with trio.open_nursery() as nursery:
            opened = await held(nursery, limit, 2)
            open_rows()
            holding, waiting = probe.recorders[0].look(9)
            first = hold.__code__.co_firstlineno
            assert [(stack[0][0][1:], stack[3]) for stack in holding] == [((first + 2, "hold"), "await")]
            assert [stack[0][0][1:] for stack in waiting] == [(first + 1, "hold")]
            assert waiting[0][3] in ("lock", "semaphore")
            opened.set()

    trio.run(main)


def test_what_takes_a_limiter_for_a_thread_is_no_hold(probe: FakeProbe) -> None:
    async def main() -> None:
        limiter = trio.CapacityLimiter(1)
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(lambda: trio.to_thread.run_sync(lambda: None, limiter=limiter))

    trio.run(main)
    assert probe.recorders == []


def test_what_others_give_back_is_a_signal(probe: FakeProbe) -> None:
    async def main() -> None:
        room = trio.Semaphore(1)
        async with trio.open_nursery() as nursery:

            async def take() -> None:
                for _ in range(20):
                    await room.acquire()

            nursery.start_soon(take)
            for _ in range(19):
                await trio.testing.wait_all_tasks_blocked()
                room.release()
        probe.do_jobs()
        assert probe.recorders[0].given_up or not probe.opened

    trio.run(main)


def test_an_unknown_trio_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    made = FakeProbe()
    monkeypatch.delattr(trio.lowlevel.ParkingLot, "_pop_several")
    with pytest.raises(Unfamiliar):
        trio_limits._check(trio._sync)
    trio_limits.patch(made)
    trio_limits.unpatch()
    [(_, text)] = made.messages
    assert text.startswith("semaphores, limiters and locks of trio are not watched: no _pop_several")

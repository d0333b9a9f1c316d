"""Who holds a lock or semaphore of asyncio that nothing had waited for: read from coroutines, and only where it is
sure."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any
from weakref import ref

import pytest
from probe_support import FakeProbe

from poolscope.probe.limits import asyncio_locks, inside
from poolscope.probe.limits.limit import MOMENT_NS
from poolscope.probe.sampling.coroutines import LOOPS
from poolscope.probe.sampling.waits import WaitReader

Limit = asyncio.Lock | asyncio.Semaphore


@pytest.fixture
def probe(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeProbe]:
    made = FakeProbe()
    # At once, however long something has waited.
    monkeypatch.setattr(inside, "STANDSTILL_NS", 0)
    monkeypatch.setattr(inside, "COST_FACTOR", 0)
    asyncio_locks.patch(made)
    yield made
    asyncio_locks.unpatch()
    assert not made.faults


async def turns(times: int = 4) -> None:
    for _ in range(times):
        await asyncio.sleep(0)


async def heard(probe: FakeProbe) -> None:
    """The rows of all at which something waits, also for the first time, as if that had lasted."""
    probe.clock.jump(MOMENT_NS)
    probe.do_jobs()
    await turns()
    for weak in list(asyncio_locks._state.limits._fresh.values()):
        limit = weak()
        assert limit is not None
        limit.open()


def run(main: Callable[[], Any]) -> None:
    async def watched() -> None:
        loop = asyncio.get_running_loop()
        LOOPS[id(loop)] = ref(loop), 1
        try:
            await main()
        finally:
            del LOOPS[id(loop)]

    asyncio.run(watched())


async def ended(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def found(probe: FakeProbe, which: int = 0) -> list[Any]:
    holding: Any = probe.recorders[which].holders
    return [task for _, _, task in holding()]


async def within(limit: Limit) -> None:
    async with limit:
        await asyncio.Event().wait()


@asynccontextmanager
async def entered(limit: Limit) -> Any:
    async with limit:
        yield


async def below(limit: Limit) -> None:
    async with entered(limit):
        await asyncio.sleep(1000)


async def given_back(limit: Limit) -> None:
    async with limit:
        limit.release()
        await asyncio.Event().wait()


@asynccontextmanager
async def unlocked(limit: Limit) -> Any:
    limit.release()
    try:
        yield
    finally:
        await limit.acquire()


async def without(limit: Limit) -> None:
    async with limit, unlocked(limit):
        await asyncio.Event().wait()


class Unlocked:
    def __init__(self, limit: Limit) -> None:
        self.limit = limit

    async def __aenter__(self) -> None:
        self.limit.release()

    async def __aexit__(self, *_: object) -> None:
        await self.limit.acquire()


async def by_a_class(limit: Limit) -> None:
    async with limit, Unlocked(limit):
        await asyncio.Event().wait()


async def by_hand(limit: Limit) -> None:
    await limit.acquire()
    await asyncio.Event().wait()


@pytest.mark.parametrize("make", [asyncio.Lock, lambda: asyncio.Semaphore(2)])
@pytest.mark.parametrize("hold", [within, below])
def test_what_is_inside_holds_it(probe: FakeProbe, make: Callable[[], Limit], hold: Any) -> None:
    async def main() -> None:
        limit = make()
        holding = [asyncio.create_task(hold(limit)) for _ in range(getattr(limit, "_value", 1))]
        await turns()
        waiting = asyncio.create_task(within(limit))
        await turns()
        await heard(probe)
        assert sorted(map(id, found(probe))) == sorted(map(id, holding))
        await ended(*holding, waiting)

    run(main)


def test_what_only_waits_at_the_door_does_not(probe: FakeProbe) -> None:
    async def main() -> None:
        lock = asyncio.Lock()
        holding = asyncio.create_task(by_hand(lock))
        await turns()
        waiting = [asyncio.create_task(within(lock)) for _ in range(3)]
        await turns()
        await heard(probe)
        assert found(probe) == []
        await ended(holding, *waiting)

    run(main)


@pytest.mark.parametrize("hold", [given_back, without, by_a_class])
def test_what_has_given_it_back_for_a_while_does_not(probe: FakeProbe, hold: Any) -> None:
    async def main() -> None:
        lock = asyncio.Lock()
        gone = asyncio.create_task(hold(lock))
        await turns()
        tasks = [gone, asyncio.create_task(by_hand(lock))]
        await turns()
        tasks.append(asyncio.create_task(within(lock)))
        await turns()
        await heard(probe)
        assert found(probe) == []
        lock.release()  # by hand, so that what has it no more can take it again
        await asyncio.gather(*(ended(task) for task in tasks), return_exceptions=True)

    run(main)


def test_what_waits_for_a_condition_does_not(probe: FakeProbe) -> None:
    async def main() -> None:
        lock = asyncio.Lock()
        condition = asyncio.Condition(lock)

        async def listening() -> None:
            async with lock:
                await condition.wait()

        tasks = [asyncio.create_task(listening())]
        await turns()
        tasks.append(asyncio.create_task(by_hand(lock)))
        await turns()
        tasks.append(asyncio.create_task(within(lock)))
        await turns()
        await heard(probe)
        assert found(probe) == []
        lock.release()
        await ended(*reversed(tasks))

    run(main)


async def both(first: Limit, second: Limit, met: asyncio.Barrier) -> None:
    async with first:
        await met.wait()
        async with second:
            pass


def told(probe: FakeProbe) -> dict[tuple[int, int], list[tuple[int, int]]]:
    """What the holders of all limits wait for."""
    watches: Any = [Watched(recorder) for recorder in probe.recorders]
    return {(pool, worker): targets for pool, worker, _, _, _, targets, *_ in WaitReader().read(watches, watches)}


class Watched:
    def __init__(self, recorder: Any) -> None:
        self.recorder = recorder


def test_two_that_wait_for_each_other_are_told(probe: FakeProbe) -> None:
    async def main() -> None:
        one, two, met = asyncio.Lock(), asyncio.Lock(), asyncio.Barrier(2)
        tasks = [asyncio.create_task(both(one, two, met)), asyncio.create_task(both(two, one, met))]
        await turns(8)
        await heard(probe)
        first, second = (recorder.id for recorder in probe.recorders)
        assert told(probe) == {(first, 1): [(second, 0)], (second, 1): [(first, 0)]}
        await ended(*tasks)

    run(main)


def test_one_that_waits_for_itself_is_told(probe: FakeProbe) -> None:
    async def main() -> None:
        lock = asyncio.Lock()

        async def again() -> None:
            async with lock:
                await within(lock)

        task = asyncio.create_task(again())
        await turns()
        await heard(probe)
        [only] = (recorder.id for recorder in probe.recorders)
        assert told(probe) == {(only, 1): [(only, 0)]}
        await ended(task)

    run(main)


def test_one_that_waits_for_something_else_is_not_told(probe: FakeProbe) -> None:
    async def main() -> None:
        lock = asyncio.Lock()
        tasks = [asyncio.create_task(within(lock)) for _ in range(2)]
        await turns()
        await heard(probe)
        assert told(probe) == {}
        await ended(*tasks)

    run(main)

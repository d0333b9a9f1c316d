"""asyncio's semaphores and locks as pools of holds: what is recorded, and that they stay what they are."""

from __future__ import annotations

import asyncio
import copy
import gc
import inspect
import weakref
from collections import deque
from types import SimpleNamespace

import pytest
from probe_support import FakeProbe, Ledger

from poolscope.probe.interpreter.shapes import Unfamiliar, asyncio_limits
from poolscope.probe.limits import asyncio_locks, first_waits, known_limits

CLASSES = (asyncio.Lock, asyncio.Semaphore)
BEFORE = {cls: dict(vars(cls)) for cls in CLASSES}


class Probe(FakeProbe):
    def __init__(self):
        super().__init__()
        self.sites = []

    def open_pool(self, executor, *, site=None, **how):
        self.sites.append(site)
        return super().open_pool(executor, site=site, **how)


@pytest.fixture
def probe():
    made = Probe()
    asyncio_locks.patch(made)
    yield made
    asyncio_locks.unpatch()
    assert not made.faults
    for cls in CLASSES:
        assert dict(vars(cls)) == BEFORE[cls]


def ledger(probe, which=0):
    return Ledger(probe.recorders[which], probe)


def open_rows(probe):
    """The row of each that is noted, as if it were worth one by now."""
    for weak in list(asyncio_locks._state.limits._fresh.values()):
        weak().open()


async def turns(times=1):
    for _ in range(times):
        await asyncio.sleep(0)


async def hold(limit, opened):
    async with limit:
        await opened.wait()


def test_nothing_is_opened_for_what_never_waits(probe):
    async def main():
        lock = asyncio.Lock()
        for _ in range(3):
            async with lock:
                await asyncio.sleep(0)

    asyncio.run(main())
    assert probe.recorders == []


@pytest.mark.parametrize(
    ("make", "kind", "size"),
    [
        (asyncio.Lock, "lock", 1),
        (lambda: asyncio.Semaphore(2), "semaphore", 2),
        (lambda: asyncio.BoundedSemaphore(3), "semaphore", 3),
        (asyncio.Condition, "lock", 1),
    ],
)
def test_a_hold_is_a_task(probe, make, kind, size):
    async def main():
        limit, opened = make(), asyncio.Event()
        holds = [asyncio.ensure_future(hold(limit, opened)) for _ in range(size + 2)]
        await turns(3)
        open_rows(probe)
        book = ledger(probe)
        book.only(submitted=size + 2, running=size, queued=2)
        assert (book.workers, book.max_workers) == (size, size)
        opened.set()
        await asyncio.gather(*holds)
        book.only(submitted=size + 2, succeeded=size + 2)
        # The first of those that waited got its place when the first holder left.
        assert sorted(task[4] for task in book.finished)[-2] in [task[5] for task in book.finished]
        assert probe.recorders[0].kind == kind

    asyncio.run(main())
    assert probe.function_names()[1].endswith("test_asyncio_limits.hold")


def test_it_is_named_by_where_it_was_made(probe):
    async def main():
        lock, opened = asyncio.Lock(), asyncio.Event()
        holds = [asyncio.ensure_future(hold(lock, opened)) for _ in range(3)]
        await turns(2)
        opened.set()
        await asyncio.gather(*holds)
        probe.do_jobs()

    asyncio.run(main())
    [(place, name, _)] = probe.sites
    first = main.__code__.co_firstlineno
    assert place == f"threads/test_asyncio_limits.py:{first + 1}"
    assert name.endswith(f"test_it_is_named_by_where_it_was_made.<locals>.main:{first + 1}")


def test_what_is_cancelled_while_it_waits_is_cancelled(probe):
    async def main():
        lock, opened = asyncio.Lock(), asyncio.Event()
        first, second, third = (asyncio.ensure_future(hold(lock, opened)) for _ in range(3))
        await turns(2)
        second.cancel()
        await turns(2)
        book = ledger(probe)
        book.only(submitted=3, running=1, queued=1, cancelled=1)
        opened.set()
        await asyncio.gather(first, third)
        book.only(submitted=3, succeeded=2, cancelled=1)

    asyncio.run(main())


@pytest.mark.parametrize("make", [asyncio.Lock, asyncio.Semaphore])
def test_what_is_cancelled_after_it_was_granted_gives_it_back(probe, make):
    async def main():
        limit = make()
        await limit.acquire()
        second, third = (asyncio.ensure_future(limit.acquire()) for _ in range(2))
        await turns(2)
        limit.release()
        second.cancel()  # it has it, and has yet to run
        await turns(3)
        assert second.cancelled()
        assert third.done()
        limit.release()
        assert not limit.locked()
        ledger(probe).only(submitted=3, succeeded=3)

    asyncio.run(main())


def test_what_is_given_back_by_others_is_a_signal(probe):
    async def main():
        room = asyncio.Semaphore(2)
        fill = [asyncio.ensure_future(room.acquire()) for _ in range(2)]

        async def producer():
            for _ in range(6):
                await room.acquire()

        producing = asyncio.ensure_future(producer())
        await turns(3)
        for _ in range(6):
            room.release()
            await turns(3)
        await asyncio.gather(producing, *fill)
        probe.do_jobs()
        assert probe.opened == []
        assert probe.recorders[0].given_up

    asyncio.run(main())


def test_a_semaphore_made_with_0_is_a_signal(probe):
    async def main():
        signal = asyncio.Semaphore(0)
        waiting = asyncio.ensure_future(signal.acquire())
        await turns(2)
        signal.release()
        assert await waiting

    asyncio.run(main())
    assert probe.recorders == []


def test_one_that_is_older_than_the_patch_is_learned():
    semaphore = asyncio.Semaphore(2)
    probe = Probe()
    asyncio_locks.patch(probe)
    try:

        async def main():
            opened = asyncio.Event()
            holds = [asyncio.ensure_future(hold(semaphore, opened)) for _ in range(7)]
            await turns(2)
            opened.set()
            await asyncio.gather(*holds)
            probe.do_jobs()
            assert probe.recorders[0].size()[1] == 2

        asyncio.run(main())
    finally:
        asyncio_locks.unpatch()
    assert not probe.faults


def test_one_that_is_contended_when_the_patch_goes_works_on():
    probe = Probe()
    asyncio_locks.patch(probe)

    async def main():
        lock, opened = asyncio.Lock(), asyncio.Event()
        holds = [asyncio.ensure_future(hold(lock, opened)) for _ in range(4)]
        await turns(2)
        asyncio_locks.unpatch()
        opened.set()
        await asyncio.gather(*holds)
        assert not lock.locked()
        ledger(probe).only(submitted=4, succeeded=1, cancelled=3)

    asyncio.run(main())
    assert not probe.faults
    for cls in CLASSES:
        assert dict(vars(cls)) == BEFORE[cls]


def test_a_subclass_that_overrides_is_left_alone(probe):
    class Mine(asyncio.Lock):
        async def acquire(self):
            return await super().acquire()

    class Other(asyncio.Semaphore):
        pass

    async def main():
        for limit in (Mine(), Other(1)):
            opened = asyncio.Event()
            holds = [asyncio.ensure_future(hold(limit, opened)) for _ in range(3)]
            await turns(2)
            opened.set()
            await asyncio.gather(*holds)

    asyncio.run(main())
    assert [recorder.executor.rpartition(".")[2] for recorder in probe.recorders] == ["Other"]


def test_order_is_that_without_us(probe):
    async def main():
        lock, order = asyncio.Lock(), []

        async def take(number):
            async with lock:
                order.append(number)
                await asyncio.sleep(0)

        await asyncio.gather(*(take(number) for number in range(20)))
        return order

    assert asyncio.run(main()) == list(range(20))


def test_another_loop_is_refused_as_without_us(probe):
    lock = asyncio.Lock()

    async def contend():
        await lock.acquire()
        waiting = asyncio.ensure_future(lock.acquire())
        await turns(2)
        waiting.cancel()
        lock.release()

    asyncio.run(contend())

    async def again():
        await lock.acquire()
        await lock.acquire()

    with pytest.raises(RuntimeError, match="bound to a different event loop") as caught:
        asyncio.run(again())
    assert all("poolscope/probe" not in str(entry.path) for entry in caught.traceback)


def test_nothing_of_ours_keeps_a_limit_or_what_waits_there(probe):
    async def main():
        lock = asyncio.Lock()
        await lock.acquire()
        waiting = asyncio.ensure_future(lock.acquire())
        await turns(2)
        waiting.cancel()
        await turns(2)
        return weakref.ref(lock), weakref.ref(waiting)

    references = asyncio.run(main())
    gc.collect()
    assert [reference() for reference in references] == [None, None]


def test_it_looks_and_copies_as_without_us(probe):
    assert str(inspect.signature(asyncio.Semaphore)) == "(value=1)"
    assert inspect.iscoroutinefunction(asyncio.Lock().acquire)

    async def main():
        lock, opened = asyncio.Lock(), asyncio.Event()
        holds = [asyncio.ensure_future(hold(lock, opened)) for _ in range(3)]
        await turns(2)
        assert repr(lock).endswith("[locked, waiters:2]>")
        opened.set()
        await asyncio.gather(*holds)
        assert type(copy.copy(lock._waiters)) is deque

    asyncio.run(main())


def test_holders_and_what_waits_are_seen_in_their_coroutines(probe):
    async def main():
        lock, first, opened = asyncio.Lock(), asyncio.Event(), asyncio.Event()
        holds = [asyncio.ensure_future(hold(lock, event)) for event in (first, opened, opened)]
        await turns(2)
        first.set()
        await turns(4)
        open_rows(probe)
        held, waiting = probe.recorders[0].look(256)
        opened.set()
        await asyncio.gather(*holds)
        return held, waiting

    held, waiting = asyncio.run(main())
    first = hold.__code__.co_firstlineno
    assert [(stack[0][0][1], stack[3]) for stack in held] == [(first + 2, "await")]
    assert [(stack[0][0][1], stack[2][0], stack[3]) for stack in waiting] == [(first + 1, 0, "lock")]


def test_a_standard_library_of_another_shape_costs_one_notice():
    class Lock:
        async def acquire(self):
            return True

        def release(self):
            pass

    strange = SimpleNamespace(Lock=Lock, Semaphore=asyncio.Semaphore)
    with pytest.raises(Unfamiliar, match="_get_loop"):
        asyncio_limits(strange)


def test_the_settings_turn_it_off():
    probe = Probe()
    probe.settings.limits = False
    asyncio_locks.patch(probe)
    for cls in CLASSES:
        assert dict(vars(cls)) == BEFORE[cls]


def test_one_that_was_watched_before_is_watched_again():
    lock, books = asyncio.Lock(), []

    async def main():
        opened = asyncio.Event()
        holds = [asyncio.ensure_future(hold(lock, opened)) for _ in range(3)]
        await turns(2)
        opened.set()
        await asyncio.gather(*holds)

    with asyncio.Runner() as runner:
        for _ in range(2):
            probe = Probe()
            asyncio_locks.patch(probe)
            runner.run(main())
            asyncio_locks.unpatch()
            books.append(ledger(probe).read().submitted)
            assert not probe.faults
    assert books == [3, 3]


@pytest.mark.parametrize("make", [asyncio.Lock, lambda: asyncio.Semaphore(2)])
def test_one_for_which_nothing_waits_any_more_has_a_plain_queue(probe, make):
    async def main():
        limit = make()
        for _ in range(3):
            opened = asyncio.Event()
            holds = [asyncio.ensure_future(hold(limit, opened)) for _ in range(4)]
            await turns(2)
            assert type(limit._waiters) is asyncio_locks.Waiters
            opened.set()
            await asyncio.gather(*holds)
            assert type(limit._waiters) is deque
        assert len(probe.recorders) == 1
        ledger(probe).only(submitted=12, succeeded=12)

    asyncio.run(main())


def test_a_first_wait_that_is_soon_over_costs_a_note(probe):
    async def main():
        locks = [asyncio.Lock() for _ in range(3)]
        for lock in locks:
            opened = asyncio.Event()
            holds = [asyncio.ensure_future(hold(lock, opened)) for _ in range(2)]
            await turns(2)
            assert type(lock._waiters) is deque
            opened.set()
            await asyncio.gather(*holds)
        probe.later(first_waits.MOMENT_NS)
        probe.do_jobs()
        await turns(2)

    asyncio.run(main())
    assert probe.recorders == []


def test_a_first_wait_that_lasts_is_heard_of(probe):
    async def main():
        lock, opened, late = asyncio.Lock(), asyncio.Event(), asyncio.Event()
        holds = [asyncio.ensure_future(hold(lock, event)) for event in (opened, late)]
        await turns(2)
        probe.do_jobs()
        await turns(2)
        assert probe.recorders == []
        probe.later(first_waits.MOMENT_NS)
        probe.do_jobs()
        await turns(2)
        book = ledger(probe)
        book.only(submitted=2, running=1, queued=1)
        assert probe.opened == []  # it may be a signal, as long as nothing has come back
        opened.set()
        await turns(4)
        book.only(submitted=2, running=1, succeeded=1)
        late.set()
        await asyncio.gather(*holds)
        probe.do_jobs()
        assert probe.opened == [(None, "", "lock")]
        book.only(submitted=2, succeeded=2)
        waited = [task[4] - task[3] for task in book.finished]
        assert max(waited) >= first_waits.MOMENT_NS

    asyncio.run(main())


def test_a_wait_on_a_loop_that_is_closed_is_let_go(probe):
    async def main():
        lock = asyncio.Lock()
        await lock.acquire()
        waiting = asyncio.ensure_future(lock.acquire())
        await turns(2)
        return lock, waiting

    loop = asyncio.new_event_loop()
    lock, waiting = loop.run_until_complete(main())
    waiting.cancel()
    loop.close()
    probe.later(first_waits.MOMENT_NS)
    probe.do_jobs()
    assert lock._waiters
    assert probe.recorders == []


def test_those_that_were_waited_for_once_make_room_for_others(probe, monkeypatch):
    monkeypatch.setattr(known_limits, "LIMITS_KEPT", 2)

    async def contend(lock, times):
        for _ in range(times):
            opened = asyncio.Event()
            holds = [asyncio.ensure_future(hold(lock, opened)) for _ in range(2)]
            await turns(2)
            opened.set()
            await asyncio.gather(*holds)

    async def main():
        probe.rules.clear()
        locks = [asyncio.Lock() for _ in range(4)]
        for lock in locks:
            await contend(lock, 3)
            probe.do_jobs()
        return locks

    asyncio.run(main())
    assert len(probe.opened) == 2
    assert [message for message in probe.messages if message[0] == "notice"] == [
        ("notice", "more than 2 semaphores and locks are waited for: the others are not seen")
    ]


def test_a_class_of_the_programs_is_asked_for_nothing(probe):
    asked = []

    class Mine(asyncio.Lock):
        def __getattr__(self, name):
            asked.append(name)
            raise AttributeError(name)

        def __bool__(self):
            raise TypeError("ask nothing")

        def __eq__(self, other):
            raise TypeError("ask nothing")

        __hash__ = None

    async def main():
        lock, opened = Mine(), asyncio.Event()
        holds = [asyncio.ensure_future(hold(lock, opened)) for _ in range(4)]
        await turns(2)
        opened.set()
        await asyncio.gather(*holds)
        probe.do_jobs()

    asyncio.run(main())
    assert asked == []
    assert len(probe.opened) == 1

"""Pools of connections as pools of holds, in process and without servers: what is recorded, and what stays as it is."""

from __future__ import annotations

import asyncio
import gc
import sqlite3
import sys
import threading
from typing import Any, cast

import pytest
import sqlalchemy.log
import sqlalchemy.pool.impl
import urllib3.connectionpool
from cli_support import await_true
from connection_support import LIMIT, TASKS, THREADS, Psycopg, Redis, RedisTasks, Sqlalchemy
from probe_support import FakeProbe, Ledger, waits

from poolscope.probe import adapters, targets
from poolscope.probe.interpreter import shapes
from poolscope.probe.limits import connections
from poolscope.probe.recording.pool_watch import AWAITED

NAMES = ("sqlalchemy", "psycopg_pool", "redis", "urllib3", "httpcore", "aiohttp", "asyncpg", "pymongo")
MODULES = [sys.modules[name] for family in NAMES for name in targets.POOLS[family][1]] + [sqlalchemy.log]
OURS = {family: targets.POOLS[family][0]() for family in NAMES}


def state():
    """All that a patch may change."""
    return {
        (module.__name__, name): {key: of for key, of in vars(cls).items() if callable(of)}
        for module in MODULES
        for name, cls in vars(module).items()
        if isinstance(cls, type)
    } | {"logger": sqlalchemy.log.instance_logger}


BEFORE = state()


@pytest.fixture
def probe():
    made = FakeProbe()
    for adapter in OURS.values():
        adapter.patch(made)
    assert not [message for message in made.messages if message[0] == "notice"]
    yield made
    for adapter in OURS.values():
        adapter.unpatch()
    assert not made.faults
    assert not AWAITED
    assert state() == BEFORE


async def opened(make):
    client = make()
    if hasattr(client, "open"):
        await client.open()
    return client


async def closed(client):
    if hasattr(client, "close"):
        await client.close()


async def turns_until(condition):
    async with asyncio.timeout(LIMIT):
        while not condition():
            await asyncio.sleep(0.001)


# -- what is recorded ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", THREADS)
def test_a_connection_of_threads_is_a_hold(probe, make):
    client = make()
    first, second = client.take(), client.take()
    assert probe.recorders == []  # nothing has to wait
    client.give(second)
    second = client.take()
    got = []

    def borrow():
        got.append(client.take())
        client.give(got[0])

    thread = threading.Thread(target=borrow)
    thread.start()
    await_true(lambda: probe.recorders and probe.recorders[0].arrivals[4:], "it does not wait")
    [recorder] = probe.recorders
    book = Ledger(recorder, probe)
    book.only(submitted=3, running=2, queued=1)
    assert (recorder.kind, book.workers, book.max_workers) == ("connections", 2, 2)
    held, waiting = recorder.look(10)
    # It has the line that waits, and those that have one.
    assert [stack[0][0][2] for stack in waiting] == [f"{make.__qualname__}.take"]
    assert [stack[3] for stack in waiting] == ["connections"]
    assert sum(len(stack[2]) // 3 for stack in held) == 2
    client.give(first)
    thread.join(LIMIT)
    client.give(second)
    book.only(submitted=3, succeeded=3)
    # From now on each is recorded.
    third = client.take()
    book.only(submitted=4, succeeded=3, running=1)
    client.give(third)
    book.only(submitted=4, succeeded=4)
    assert got[0] is not None
    if hasattr(client, "close"):
        client.close()


@pytest.mark.parametrize("make", TASKS)
def test_a_connection_of_tasks_is_a_hold(probe, make):
    async def main():
        client = await opened(make)
        first, second = await client.take(), await client.take()
        assert probe.recorders == []
        await client.give(second)
        second = await client.take()

        async def borrow():
            connection = await client.take()
            await client.give(connection)

        asked, unasked = (asyncio.ensure_future(borrow()) for _ in range(2))
        await turns_until(lambda: probe.recorders and probe.recorders[0].arrivals[6:])
        [recorder] = probe.recorders
        book = Ledger(recorder, probe)
        book.only(submitted=4, running=2, queued=2)
        assert (recorder.kind, book.workers, book.max_workers) == ("connections", 2, 2)
        _, waiting = recorder.look(10)
        assert [stack[3] for stack in waiting] == ["connections"]
        assert waiting[0][0][0][2].endswith(f"{make.__mro__[-2].__qualname__}.take")
        unasked.cancel()
        await asyncio.wait([unasked])
        book.only(submitted=4, running=2, queued=1, cancelled=1)
        await client.give(first)
        await asked
        await client.give(second)
        book.only(submitted=4, succeeded=3, cancelled=1)
        await closed(client)

    asyncio.run(main())


@pytest.mark.parametrize("make", [Sqlalchemy, Redis])
def test_a_worker_that_waits_for_a_connection_waits_for_its_pool(probe, make):
    from poolscope.probe.executors import threadpool

    threadpool.patch(probe)
    try:
        client = make()
        held = [client.take(), client.take()]
        with threadpool_of(2) as pool:
            futures = [pool.submit(lambda: client.give(client.take())) for _ in range(3)]
            await_true(lambda: len(AWAITED) == 2, "they do not wait")
            threads, row = probe.recorders
            found = waits(probe)
            assert [wait[0] for wait in found] == [threads.id, threads.id]
            assert [wait[3] for wait in found] == [{(row.id, 0)}] * 2
            for connection in held:
                client.give(connection)
            for future in futures:
                future.result(LIMIT)
        assert waits(probe) == []
        if hasattr(client, "close"):
            client.close()
    finally:
        threadpool.unpatch()


def threadpool_of(workers):
    from concurrent.futures import ThreadPoolExecutor

    return ThreadPoolExecutor(workers)


def leaks(recorder):
    return [stack[0][0][2] for stack in recorder.look(10)[0] if stack[3] == "leaked"]


def test_what_took_it_has_ended_and_it_is_not_given_back(probe):
    client = Redis()
    thread = threading.Thread(target=client.take)
    thread.start()
    thread.join(LIMIT)
    mine = client.take()
    other = threading.Thread(target=lambda: client.give(client.take()))
    other.start()
    await_true(lambda: probe.recorders, "it does not wait")
    gc.collect()
    assert leaks(probe.recorders[0]) == ["Redis.take"]
    client.give(mine)
    other.join(LIMIT)


def test_a_task_of_a_pool_that_has_ended_has_leaked_what_it_took(probe):
    from poolscope.probe.executors import threadpool

    threadpool.patch(probe)
    try:
        client = Redis()
        with threadpool_of(1) as pool:
            kept = [pool.submit(client.take).result(LIMIT) for _ in range(2)]
            waiting = pool.submit(lambda: client.give(client.take()))
            await_true(lambda: len(probe.recorders) == 2, "it does not wait")
            assert leaks(probe.recorders[1]) == ["Redis.take"]
            assert len(probe.recorders[1].look(10)[0][0][2]) == 6
            client.give(kept[0])
            waiting.result(LIMIT)
    finally:
        threadpool.unpatch()


def test_a_connection_that_was_dropped_is_lost_whoever_took_it(probe):
    client = Psycopg()
    client.take()
    gc.collect()
    mine = client.take()
    other = threading.Thread(target=lambda: client.give(client.take()))
    other.start()
    await_true(lambda: probe.recorders, "it does not wait")
    assert leaks(probe.recorders[0]) == ["Psycopg.take"]
    client.give(mine)
    other.join(LIMIT)
    client.close()


def test_a_task_that_has_ended_has_leaked_what_it_took(probe):
    async def main():
        client = RedisTasks()
        kept = await asyncio.ensure_future(client.take())
        mine = await client.take()
        waiting = asyncio.ensure_future(client.take())
        await turns_until(lambda: probe.recorders)
        assert leaks(probe.recorders[0]) == ["RedisTasks.take"]
        await client.give(kept)
        await client.give(mine)
        await client.give(await waiting)

    asyncio.run(main())


# -- that they stay what they are ------------------------------------------------------------------------------------


def test_a_timeout_is_the_same_with_us(probe):
    pool = sqlalchemy.pool.impl.QueuePool(
        lambda: cast(Any, sqlite3.connect(":memory:")), pool_size=1, max_overflow=0, timeout=0.01
    )
    mine = pool.connect()
    with pytest.raises(sqlalchemy.exc.TimeoutError) as raised:
        pool.connect()
    assert "lend" not in [entry.frame.code.name for entry in raised.traceback]
    Ledger(probe.recorders[0], probe).only(submitted=2, running=1, cancelled=1)
    mine.close()
    pool.dispose()


def test_a_pool_that_takes_the_place_of_a_disposed_one_has_its_name(probe):
    engine = sqlalchemy.create_engine("sqlite://", poolclass=sqlalchemy.pool.QueuePool)
    before = vars(engine.pool)[connections.ATTRIBUTE].site
    engine.dispose()
    assert vars(engine.pool)[connections.ATTRIBUTE].site == before
    assert before[1].endswith("test_a_pool_that_takes_the_place_of_a_disposed_one_has_its_name.engine")


def test_a_pool_of_a_session_goes_by_its_host(probe):
    manager = urllib3.PoolManager(maxsize=1, block=True)
    pool = manager.connection_from_url("http://example.org:8080/")
    assert vars(pool)[connections.ATTRIBUTE].site[1:] == ("http://example.org:8080", "")
    own = urllib3.HTTPSConnectionPool("example.org", block=True)
    assert vars(own)[connections.ATTRIBUTE].site[2] == "own"
    assert connections.ATTRIBUTE not in vars(urllib3.HTTPConnectionPool("example.org"))


def test_one_that_is_older_than_the_patch_is_full_all_the_same():
    client = Redis()
    held = [client.take(), client.take()]
    probe = FakeProbe()
    OURS["redis"].patch(probe)
    try:
        other = threading.Thread(target=lambda: client.give(client.take()))
        other.start()
        await_true(lambda: probe.recorders, "it does not wait")
        book = Ledger(probe.recorders[0], probe)
        await_true(lambda: probe.recorders[0].arrivals[4:], "it is not full")
        book.only(submitted=3, running=2, queued=1)
        for connection in held:
            client.give(connection)
        other.join(LIMIT)
        book.only(submitted=3, succeeded=3)
    finally:
        OURS["redis"].unpatch()
    assert not probe.faults


def test_one_that_is_in_use_when_the_patch_goes_works_on():
    probe = FakeProbe()
    OURS["redis"].patch(probe)
    client = Redis()
    held = [client.take(), client.take()]
    other = threading.Thread(target=lambda: client.give(client.take()))
    other.start()
    await_true(lambda: probe.recorders and probe.recorders[0].arrivals[4:], "it does not wait")
    OURS["redis"].unpatch()
    for connection in held:
        client.give(connection)
    other.join(LIMIT)
    Ledger(probe.recorders[0], probe).only(submitted=3, succeeded=2, cancelled=1)
    assert not probe.faults
    OURS["redis"].patch(second := FakeProbe())
    client.give(client.take())
    assert second.recorders == []
    OURS["redis"].unpatch()


@pytest.mark.parametrize("family", NAMES)
def test_another_shape_is_left_alone_and_told_once(family, monkeypatch):
    probe = FakeProbe()
    monkeypatch.setattr(adapters, "_logged", set())

    def unknown(_):
        raise shapes.Unfamiliar("no pool in it")

    monkeypatch.setattr(OURS[family]._client, "_check", unknown)
    OURS[family].patch(probe)
    OURS[family].patch(probe)
    told = [message[1] for message in probe.messages]
    assert len(told) == len(targets.POOLS[family][1])
    assert all("pools of connections are not watched" in text for text in told)
    OURS[family].unpatch()
    assert state() == BEFORE


def test_the_settings_turn_it_off():
    probe = FakeProbe()
    probe.settings.connections = False
    for adapter in OURS.values():
        adapter.patch(probe)
    assert state() == BEFORE

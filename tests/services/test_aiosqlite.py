"""aiosqlite's connections, each with a thread of its own: in process, gated by events, and in a program."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import traceback
from pathlib import Path

import aiosqlite
import pytest
from adapter_support import patched
from aiosqlite import core
from cli_support import script, watched
from probe_support import FakeProbe, FrozenError, Ledger

from poolscope.probe.adapters import aiosqlite as adapter

LIMIT = 30  # seconds for what is sure to come


@pytest.fixture
def probe():
    with patched(adapter) as made:
        yield made


def ledger(probe):
    return Ledger(probe.recorders[0], probe)


def test_requests_are_tasks_of_the_functions_that_await_them(probe):
    async def save(connection):
        await connection.execute("create table hosts (name)")
        await connection.execute("insert into hosts values (?)", ("host.test",))

    async def read(connection):
        with pytest.raises(sqlite3.OperationalError):
            await connection.execute("select address from hosts")
        return await connection.execute_fetchall("select name from hosts")

    async def main():
        async with aiosqlite.connect(":memory:") as connection:
            await save(connection)
            return await read(connection)

    assert asyncio.run(main()) == [("host.test",)]
    book = ledger(probe)
    book.read()
    assert (book.failed, book.queued, book.running, book.max_workers) == (1, 0, 0, 1)
    names = probe.function_names()
    started = [names[function].rpartition(".")[2] for _, function, *_ in book.finished]
    assert started.count("save") == 2
    assert started.count("read") == 2
    assert probe.recorders[0].kind == "aiosqlite"


def test_what_is_asked_meanwhile_is_queued(probe):
    gate, inside = threading.Event(), threading.Event()

    def hold():
        inside.set()
        return gate.wait(LIMIT)

    async def main():
        async with aiosqlite.connect(":memory:") as connection:
            await connection.create_function("hold", 0, hold)
            book = ledger(probe)
            book.read()
            before = book.succeeded
            asked = [asyncio.create_task(connection.execute("select hold()")) for _ in range(3)]
            await asyncio.to_thread(inside.wait, LIMIT)
            await asyncio.sleep(0)
            book.only(submitted=before + 3, succeeded=before, running=1, queued=2)
            gate.set()
            for task in asked:
                await task
            book.only(submitted=before + 3, succeeded=before + 3)

    asyncio.run(main())


def test_a_traceback_and_a_log_are_as_without_us(probe, caplog):
    caplog.set_level("DEBUG", "aiosqlite")
    used = []

    async def main():
        async with aiosqlite.connect(":memory:") as connection:
            used.append(connection)
            try:
                await connection.execute("select nothing from nowhere")
            except sqlite3.OperationalError as exc:
                return [(frame.name, Path(frame.filename).name) for frame in traceback.extract_tb(exc.__traceback__)]

    def told():
        caplog.clear()
        shown = asyncio.run(main())
        used.pop()._thread.join(LIMIT)
        return shown, [record.getMessage().partition(" at 0x")[0] for record in caplog.records]

    patched = told()
    adapter.unpatch()
    assert patched == told()


def test_a_connection_outlives_the_patch(probe):
    async def main():
        async with aiosqlite.connect(":memory:") as connection:
            await connection.execute("select 1")
            adapter.unpatch()
            await connection.execute("select 2")

    before = core.Connection.__init__
    asyncio.run(main())
    assert core.Connection.__init__ is not before
    book = ledger(probe)
    book.read()
    assert (book.queued, book.running) == (0, 0)
    assert book.succeeded == 2, "the end of the connection is after the patch"


def test_an_exception_that_refuses_to_be_written_to_is_the_caller_s(probe):
    def refuse():
        raise FrozenError("no such name")

    async def main():
        async with aiosqlite.connect(":memory:") as connection:
            with pytest.raises(FrozenError):
                await connection._execute(refuse)

    asyncio.run(main())


def test_an_unknown_version_is_left_alone(monkeypatch):
    probe = FakeProbe()
    monkeypatch.setattr(core.Connection, "_execute", lambda self: None)
    before = dict(core.Connection.__dict__)
    adapter.patch(probe)
    assert dict(core.Connection.__dict__) == before
    assert "the threads of its connections are not watched" in str(probe.messages)
    adapter.unpatch()


PROGRAM = """
    import asyncio, time
    import aiosqlite

    async def order(connection, number):
        await connection.execute("select slow(?)", (number,))

    async def main():
        async with aiosqlite.connect(":memory:") as connection:
            await connection.create_function("slow", 1, lambda number: time.sleep(0.05))
            for number in range(3):
                await order(connection, number)
            await asyncio.gather(*(order(connection, number) for number in range(40)))

    asyncio.run(main())
    print("done")
"""


def test_requests_that_queue_behind_each_other(tmp_path: Path) -> None:
    outcome, report = watched(script(tmp_path, PROGRAM), cwd=tmp_path)
    assert outcome == (0, "done\n", "")
    (pool,) = report["pools"]
    assert (pool["name"], pool["kind"], pool["max_workers"]) == ("__main__:main:9", "aiosqlite", 1)
    assert pool["created_at"] == f"{tmp_path.name}/program.py:9"
    assert {"name": "__main__.order", "started": 43}.items() <= pool["functions"][0].items()
    (finding,) = [finding for finding in pool["findings"] if finding["severity"] != "info"]
    assert (finding["pattern"], finding["cause"]) == ("serial", "single_worker")
    assert "open another connection" in finding["advice"]["text"]
    assert not [notice for notice in report["notices"] if "aiosqlite" in notice]

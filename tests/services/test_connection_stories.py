"""Programs whose clients run out of connections: told with who has them and who waits, and silent where they do not."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from cli_support import poolscope, script
from database_support import postgresql, redis_server
from service_support import serving

HEAD = """
    import asyncio, sys, threading, time
    from concurrent.futures import ThreadPoolExecutor

    port = int(sys.argv[1]) if len(sys.argv) > 1 else 0

    def behind(workers, call, times, pause):
        with ThreadPoolExecutor(workers, f"handlers of {call.__name__}") as handlers:
            futures = []
            for number in range(times):
                futures.append(handlers.submit(call, number))
                time.sleep(pause)
        return sum(future.result() for future in futures)

    def together(*calls):
        threads = [threading.Thread(target=call) for call in calls]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    async def calls(call, times, pause):
        tasks = []
        for number in range(times):
            tasks.append(asyncio.create_task(call(number)))
            await asyncio.sleep(pause)
        return sum(await asyncio.gather(*tasks))
"""

ENGINE = """
    from sqlalchemy import create_engine, text
    from sqlalchemy.pool import QueuePool

    engine = create_engine(
        "sqlite://", poolclass=QueuePool, pool_size=SIZE, max_overflow=0, pool_timeout=TIMEOUT,
        connect_args={"check_same_thread": False},
    )
"""

THREADS = """
    def load(number):
        with engine.connect() as connection:
            connection.execute(text("select 1"))
            time.sleep(0.05)
        return number

    print(behind(8, load, 160, 0.01))
"""

LEAKS = """
    kept = []

    def load(number):
        if number % 4 == 3:
            kept.append(engine.connect())
        return number

    print(behind(4, load, 24, 0.01))
"""

#: The pool is large enough: it is in use, and nothing waits.
ENOUGH = """
    print(behind(3, lambda number: [engine.connect().close(), time.sleep(0.02), number][2], 110, 0.01))
"""

#: At its limit, and for microseconds.
SHORT = """
    def load(number):
        for _ in range(30):
            engine.connect().close()
        time.sleep(0.02)
        return number

    print(behind(6, load, 140, 0.008))
"""

DATABASE = """
    import asyncpg, psycopg_pool

    async def main():
        pool = await asyncpg.create_pool(host="127.0.0.1", port=port, user="postgres", min_size=0, max_size=3)

        async def query(number):
            async with pool.acquire() as connection:
                await connection.fetchval("select pg_sleep(0.1)")
            return number

        assert await calls(query, 100, 0.015) == 4950
        await pool.close()

    clients = psycopg_pool.ConnectionPool(
        f"host=127.0.0.1 port={port} user=postgres", min_size=2, max_size=2, open=True
    )
    clients.wait()

    def insert(number):
        with clients.connection() as connection:
            connection.execute("select pg_sleep(0.05)")
        return number

    together(lambda: asyncio.run(main()), lambda: behind(6, insert, 80, 0.01))
    clients.close()
    print("done")
"""

CACHE = """
    import redis, redis.asyncio

    cache = redis.Redis(connection_pool=redis.BlockingConnectionPool(port=port, max_connections=2))

    def pop(number):
        cache.blpop(f"list {number}", 0.05)
        return number

    async def main():
        client = redis.asyncio.Redis(
            connection_pool=redis.asyncio.BlockingConnectionPool(port=port, max_connections=2)
        )

        async def take(number):
            await client.blpop(f"row {number}", 0.05)
            return number

        await calls(take, 60, 0.01)
        await client.aclose()

    together(lambda: asyncio.run(main()), lambda: behind(6, pop, 60, 0.01))
    cache.close()
    print("done")
"""

WEB = """
    import aiohttp, httpx, requests, requests.adapters

    url = f"http://127.0.0.1:{port}/"
    session = requests.Session()
    session.mount("http://", requests.adapters.HTTPAdapter(pool_maxsize=2, pool_block=True))
    web = httpx.Client(limits=httpx.Limits(max_connections=2), timeout=30)

    def get(number):
        assert session.get(url).status_code == 200
        return number

    def fetch(number):
        assert web.get(url).status_code == 200
        return number

    async def main():
        site = aiohttp.TCPConnector(limit=2)
        async with aiohttp.ClientSession(connector=site) as client:

            async def look(number):
                async with client.get(url) as answer:
                    await answer.read()
                return number

            await calls(look, 120, 0.01)

    together(lambda: asyncio.run(main()), lambda: behind(6, get, 120, 0.01), lambda: behind(6, fetch, 120, 0.01))
    print("done")
"""

SERVER = """
    import sys, time
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            time.sleep(0.05)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def report_of(
    tmp_path: Path, program: str, *words: str, out: str, options: tuple[str, ...] = (), status: int = 0
) -> tuple[dict[str, Any], str]:
    """What is told of it, and the lines while it ran; `out` is what it prints."""
    script(tmp_path, HEAD + program)
    outcome = poolscope("run", "--json", "it.json", *options, "program.py", *words, cwd=tmp_path)
    assert (outcome.status, outcome.out) == (status, out), outcome.err
    report: dict[str, Any] = json.loads((tmp_path / "it.json").read_text())
    return report, "\n".join(line for line in outcome.err.splitlines() if line.startswith("poolscope: "))


def engine(size: int, timeout: int = 30) -> str:
    return ENGINE.replace("SIZE", str(size)).replace("TIMEOUT", str(timeout))


def warning_of(report: dict[str, Any], name: str) -> dict[str, Any]:
    [pool] = [pool for pool in report["pools"] if pool["name"] == name]
    assert pool["kind"] == "connections"
    [finding] = [finding for finding in pool["findings"] if finding["severity"] != "info"]
    found: dict[str, Any] = finding
    return found


def sources(finding: dict[str, Any]) -> set[str]:
    return {frame["source"] for frame in finding["frames"]}


def test_threads_behind_connections_are_one_story(tmp_path: Path) -> None:
    report, lines = report_of(tmp_path, engine(3) + THREADS, out="12720\n")
    finding = warning_of(report, "__main__:engine")
    assert (finding["pattern"], finding["cause"]) == ("async_then_serial", "limit_reached")
    assert {"time.sleep(0.05)", "with engine.connect() as connection:"} <= sources(finding)
    assert "all its 3 connections in use" in finding["summary"]
    [handlers] = [pool for pool in report["pools"] if pool["name"] == "handlers of load"]
    [behind] = [finding for finding in handlers["findings"] if finding["severity"] != "info"]
    assert behind["cause"] == "shared_resource"
    advice = behind["advice"]
    assert (advice["pool"], advice["suggested_max_workers"]) == ("__main__:engine", None)
    assert [finding["cause"] for finding in report["findings"][:2]] == ["limit_reached", "shared_resource"]
    told = [line for line in lines.splitlines() if " over: " not in line]
    assert len(told) == 1
    assert "'__main__:engine': async_then_serial (limit_reached)" in told[0]


def test_connections_that_are_never_given_back(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("detection: {stall_seconds: 1.0}")
    report, _ = report_of(tmp_path, engine(2, timeout=2) + LEAKS, out="", options=("--config", "c.yaml"), status=1)
    finding = warning_of(report, "__main__:engine")
    assert (finding["pattern"], finding["cause"]) == ("stuck_workers", "leaked")
    assert finding["advice"]["action"] == "give_back"
    assert "kept.append(engine.connect())" in sources(finding)
    assert "has lost 2 of its 2 connections" in finding["summary"]


@pytest.mark.parametrize(
    ("program", "out"), [(ENOUGH, "5995\n"), (SHORT, "9730\n")], ids=["nothing waits", "for microseconds"]
)
def test_connections_that_are_enough_are_left_in_peace(tmp_path: Path, program: str, out: str) -> None:
    report, lines = report_of(tmp_path, engine(4) + program, out=out)
    assert report["verdict"] == "concurrent", report["findings"]
    assert lines == ""
    if program is ENOUGH:
        assert [pool["kind"] for pool in report["pools"]] == ["thread"]


def test_the_settings_turn_it_off(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("connections: false")
    program = engine(2) + THREADS.replace("160", "16")
    report, _ = report_of(tmp_path, program, out="120\n", options=("--config", "c.yaml"))
    assert [pool["kind"] for pool in report["pools"]] == ["thread"]


def test_postgresql(tmp_path: Path) -> None:
    with postgresql() as port:
        report, _ = report_of(tmp_path, DATABASE, str(port), out="done\n")
    rows = [pool for pool in report["pools"] if pool["kind"] == "connections"]
    [tasks, threads] = sorted(rows, key=lambda pool: -pool["max_workers"])
    assert (tasks["max_workers"], threads["max_workers"]) == (3, 2)
    assert threads["name"] == "__main__:clients"
    finding = warning_of(report, tasks["name"])
    assert finding["cause"] == "limit_reached"
    assert 'await connection.fetchval("select pg_sleep(0.1)")' in sources(finding)
    assert "async with pool.acquire() as connection:" in sources(finding)
    # Asked for each 15 ms and held for 100 ms.
    assert 6 <= finding["advice"]["suggested_max_workers"] <= 16
    assert warning_of(report, "__main__:clients")["cause"] == "limit_reached"


def test_redis(tmp_path: Path) -> None:
    with redis_server() as port:
        report, _ = report_of(tmp_path, CACHE, str(port), out="done\n")
    rows = [pool for pool in report["pools"] if pool["kind"] == "connections"]
    assert [pool["max_workers"] for pool in rows] == [2, 2]
    for row in rows:
        assert warning_of(report, row["name"])["cause"] == "limit_reached"


def test_clients_of_the_web(tmp_path: Path) -> None:
    script(tmp_path, SERVER, "server.py")
    with serving(sys.executable, "server.py", "{port}", folder=tmp_path, watched=False) as server:
        report, _ = report_of(tmp_path, WEB, str(server.port), out="done\n")
    rows = {pool["name"]: pool for pool in report["pools"] if pool["kind"] == "connections"}
    assert set(rows) == {f"http://127.0.0.1:{server.port}", "__main__:web", "__main__:main.site"}
    for name, row in rows.items():
        assert row["max_workers"] == 2
        assert warning_of(report, name)["cause"] == "limit_reached"

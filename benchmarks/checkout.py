"""What watching costs of clients' pools of connections: one that nothing waits for, and one that threads queue for.

    python benchmarks/checkout.py [--repeat N] [--rounds N] [--json FILE]

A round takes a connection and gives it back, in one task or thread; or the same where two threads take turns at one
connection. The connections are stand-ins that cost next to nothing, so what is compared is the client's own code: a
query of a real server takes a hundred times as long. Each client has an interpreter of its own, where each repetition
runs it without us, installed, and without us again, in an order drawn anew. One thread is measured in CPU time. Figures
are nanoseconds without us, what we add, and the ratio, as median (min..max); "again" is the noise.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import connection_support as clients
import watched


def free(make):
    def run(rounds):
        client = make()
        began = time.thread_time_ns()
        for _ in range(rounds):
            client.give(client.take())
        took = (time.thread_time_ns() - began) / rounds
        if hasattr(client, "close"):
            client.close()
        return took

    return run


def contended(make):
    """Two threads and one connection left."""

    def run(rounds):
        client = make()
        held = client.take()
        ready = threading.Barrier(3)

        def take():
            ready.wait()
            for _ in range(rounds // 2):
                connection = client.take()
                time.sleep(0)
                client.give(connection)
            ready.wait()

        threads = [threading.Thread(target=take) for _ in range(2)]
        for thread in threads:
            thread.start()
        ready.wait()
        began = time.perf_counter_ns()
        ready.wait()
        took = time.perf_counter_ns() - began
        for thread in threads:
            thread.join()
        client.give(held)
        if hasattr(client, "close"):
            client.close()
        return took / rounds

    return run


def free_tasks(make):
    def run(rounds):
        async def main():
            client = make()
            if hasattr(client, "open"):
                await client.open()
            began = time.thread_time_ns()
            for _ in range(rounds):
                await client.give(await client.take())
            took = (time.thread_time_ns() - began) / rounds
            if hasattr(client, "close"):
                await client.close()
            return took

        return asyncio.run(main())

    return run


FAMILIES = {
    "SQLAlchemy": free(clients.Sqlalchemy),
    "psycopg_pool": free(clients.Psycopg),
    "redis-py": free(clients.Redis),
    "urllib3": free(clients.Urllib3),
    "httpcore": free(clients.Httpcore),
    "PyMongo": free(clients.Pymongo),
    "psycopg_pool, asyncio": free_tasks(clients.PsycopgTasks),
    "redis-py, asyncio": free_tasks(clients.RedisTasks),
    "httpcore, asyncio": free_tasks(clients.HttpcoreTasks),
    "aiohttp": free_tasks(clients.Aiohttp),
    "asyncpg": free_tasks(clients.Asyncpg),
    "PyMongo, asyncio": free_tasks(clients.PymongoTasks),
    "SQLAlchemy, contended": contended(clients.Sqlalchemy),
    "redis-py, contended": contended(clients.Redis),
}


if __name__ == "__main__":
    watched.main(__file__, "checkout", __doc__, {family: (run, 1.0) for family, run in FAMILIES.items()}, rounds=2_000)

"""Programs with clients' pools of connections: those that run out of them, and those that do not."""

import asyncio
import os
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

from benchmarks.diagnosis.gates import Gate, play
from benchmarks.diagnosis.recording import Expected, Task, arrivals, family

SECONDS = 7.0
NAMED = {"pools": [{"match": "benchmarks.diagnosis.connections:*", "name": "pool"}]}
ON_PURPOSE = {"pools": [{"match": "benchmarks.diagnosis.connections:*", "name": "pool", "intended": True}]}
LEAKING = {**NAMED, "detection": {"stall_seconds": 2.0, "stuck_task_seconds": 2.0}}

REACHED = Expected("pool", "saturated", "limit_reached", line="inside", action="raise_limit", size="any")
BEHIND = Expected("workers", "saturated", "shared_resource", action="relieve_shared_resource")
LEAKED = Expected("pool", "stuck_workers", "leaked", line="taken", action="give_back")
#: Where nothing waits there is nothing to see.
QUIET = Expected(optional=True)


class Cache:
    """What redis-py asks of a connection, without a server."""

    def __init__(self, **_):
        self.pid = os.getpid()

    async def connect(self):
        pass

    disconnect = re_auth = connect

    async def can_read_destructive(self):
        return False

    can_read = can_read_destructive

    def should_reconnect(self):
        return False


class Database:
    """What psycopg_pool asks of a connection, likewise."""

    _pool = None
    closed = False

    def __init__(self):
        from psycopg.pq import TransactionStatus

        self.pgconn = SimpleNamespace(transaction_status=TransactionStatus.IDLE)

    @classmethod
    def connect(cls, *_, **__):
        return cls()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def close(self):
        pass


def caches(recording, workers):
    from redis.asyncio import BlockingConnectionPool

    made = BlockingConnectionPool(max_connections=workers, timeout=60, connection_class=Cache)
    recording.pools["pool"] = Gate(made, workers)
    return recording.pools["pool"]


async def fetch(gate, seconds):
    task = Task()
    gate.tasks.append(task)
    connection = await gate.limit.get_connection()
    with task:
        await asyncio.sleep(seconds)  # <- inside
    await gate.limit.release(connection)


def fetches(recording, workers, load, *, before=None):
    """Connections held for 0.05 to 0.15 s, so many times as often as there are; `before`: in the first seconds."""
    rng = recording.random
    run = rng.uniform(0.05, 0.15)
    rate = workers / run
    phases = [(2.0, before * rate)] if before is not None else []
    times = list(arrivals(rng, [*phases, (SECONDS - 2.0, load * rate)]))

    async def main():
        gate = caches(recording, workers)
        await play(times, lambda: fetch(gate, run))

    asyncio.run(main())


@family(REACHED, settings=NAMED)
def connections_too_few(recording):
    fetches(recording, recording.random.randint(2, 6), recording.random.uniform(1.5, 2.5), before=0.3)


@family(QUIET, settings=NAMED)
def connections_with_room(recording):
    fetches(recording, recording.random.randint(4, 10), recording.random.uniform(0.2, 0.6))


@family(Expected(), settings=ON_PURPOSE)
def connections_few_on_purpose(recording):
    fetches(recording, recording.random.randint(2, 6), recording.random.uniform(1.5, 2.5), before=0.3)


@family(QUIET, settings=NAMED)
def connections_for_microseconds(recording):
    """All are out again and again, each for one turn of the loop."""
    rng = recording.random

    async def touch(gate):
        connection = await gate.limit.get_connection()
        await asyncio.sleep(0)
        await gate.limit.release(connection)

    async def main():
        gate = caches(recording, 2)
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            await asyncio.gather(*(touch(gate) for _ in range(rng.randint(10, 30))))
            await asyncio.sleep(rng.uniform(0.01, 0.05))

    asyncio.run(main())


async def forget(gate, kept):
    kept.append(await gate.limit.get_connection())  # <- taken


@family(LEAKED, settings=LEAKING)
def connections_never_given_back(recording):
    rng = recording.random
    workers, run = rng.randint(2, 6), rng.uniform(0.05, 0.15)
    rate = 0.3 * workers / run
    before, after = list(arrivals(rng, [(2.5, rate)])), list(arrivals(rng, [(6.0, rate)]))

    async def main():
        gate, kept = caches(recording, workers), []
        await play(before, lambda: fetch(gate, run))
        for _ in range(workers):
            await asyncio.create_task(forget(gate, kept))
        recording.moment("stuck")
        waiting = asyncio.create_task(play(after, lambda: fetch(gate, run)))
        await asyncio.sleep(6.0)
        waiting.cancel()
        await asyncio.wait([waiting])

    asyncio.run(main())


def query(task, held, databases, seconds):
    with task:
        own = Task()
        held.append(own)
        with databases.connection(), own:
            time.sleep(seconds)  # <- inside
    return task


@family(REACHED, BEHIND, settings=NAMED)
def threads_behind_connections(recording):
    """Twice as many threads as connections: both are full, and these are what is short."""
    from psycopg_pool import ConnectionPool

    rng = recording.random
    workers, run = rng.randint(2, 4), rng.uniform(0.05, 0.12)
    databases = ConnectionPool("", connection_class=Database, min_size=workers, max_size=workers, open=True)
    databases.wait()
    gate = recording.pools["pool"] = Gate(None, workers)
    threads = rng.randint(3, 4) * workers
    recording.limit, recording.working = workers, run
    pool = recording.pool(ThreadPoolExecutor(threads, "workers"), "workers")
    rate = workers / run
    times = arrivals(rng, [(2.0, 0.3 * rate), (SECONDS - 2.0, rng.uniform(1.8, 2.5) * rate)])
    pool.play((at, query, gate.tasks, databases, run) for at in times)
    pool.close()
    databases.close()

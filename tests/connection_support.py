"""Clients with a pool of two connections each, without a server: how to take one, and how to give it back."""

from __future__ import annotations

import os
import sqlite3
import time
from types import SimpleNamespace
from typing import Any, cast

import aiohttp.connector
import asyncpg
import httpcore
import psycopg_pool
import pymongo.asynchronous.pool
import pymongo.synchronous.pool
import redis.asyncio.connection
import redis.connection
import sqlalchemy.pool.impl
import urllib3.connectionpool
from psycopg.pq import TransactionStatus
from pymongo.pool_options import PoolOptions
from sqlalchemy.ext.asyncio import create_async_engine

LIMIT = 30  # seconds for what is sure to come


class Sqlalchemy:
    def __init__(self):
        self.pool = sqlalchemy.pool.impl.QueuePool(
            lambda: cast(Any, sqlite3.connect(":memory:", check_same_thread=False)),
            pool_size=1,
            max_overflow=1,
            timeout=LIMIT,
        )

    def take(self):
        return self.pool.connect()

    def give(self, connection):
        connection.close()

    def close(self):
        self.pool.dispose()


class FakePsycopg:
    """What psycopg_pool asks of a connection."""

    def __init__(self):
        self.pgconn = SimpleNamespace(transaction_status=TransactionStatus.IDLE)
        self._pool = None
        self.closed = False

    @classmethod
    def connect(cls, *_, **__):
        return cls()

    def close(self):
        self.closed = True


class Psycopg:
    def __init__(self):
        self.pool = psycopg_pool.ConnectionPool(
            "", connection_class=cast(Any, FakePsycopg), min_size=2, max_size=2, open=True, timeout=LIMIT
        )
        self.pool.wait(LIMIT)

    def take(self):
        return self.pool.getconn()

    def give(self, connection):
        self.pool.putconn(connection)

    def close(self):
        self.pool.close()


class FakeRedis:
    def __init__(self, **_):
        self.pid = os.getpid()

    def connect(self):
        pass

    disconnect = connect

    def can_read(self, timeout=0):
        return False

    def should_reconnect(self):
        return False

    def get_protocol(self):
        return 2


class Redis:
    def __init__(self):
        self.pool = redis.connection.BlockingConnectionPool(
            max_connections=2, timeout=LIMIT, connection_class=FakeRedis
        )

    def take(self):
        return self.pool.get_connection()

    def give(self, connection):
        self.pool.release(connection)


class Urllib3:
    def __init__(self):
        self.pool = urllib3.connectionpool.HTTPConnectionPool("localhost", maxsize=2, block=True)

    def take(self):
        return self.pool._get_conn(LIMIT)

    def give(self, connection):
        self.pool._put_conn(connection)


REQUEST = httpcore.Request("GET", "http://localhost/", headers={"Host": "localhost"})
ANSWER = [b"HTTP/1.1 200 OK\r\n", b"Content-Length: 0\r\n", b"\r\n"]


class Httpcore:
    def __init__(self):
        self.pool = httpcore.ConnectionPool(max_connections=2, network_backend=httpcore.MockBackend(ANSWER))

    def take(self):
        return self.pool.handle_request(REQUEST)

    def give(self, response):
        response.close()


class FakeMongo:
    pinned_txn = pinned_cursor = False
    closed = active = False
    generation = service_id = None
    id = 1

    def __init__(self):
        self.cancel_context = object()

    def __getattr__(self, name):
        return lambda *_: 0.0


class Pymongo:
    def __init__(self):
        class Pool(pymongo.synchronous.pool.Pool):
            def connect(self, handler=None):
                return FakeMongo()

            def _perished(self, conn):
                return False

            def stale_generation(self, gen, service_id):
                return False

        self.pool = Pool(("localhost", 27017), PoolOptions(max_pool_size=2, wait_queue_timeout=LIMIT))
        self.pool.ready()

    def take(self):
        return self.pool._get_conn(time.monotonic())

    def give(self, connection):
        self.pool.checkin(connection)


THREADS = [Sqlalchemy, Psycopg, Redis, Urllib3, Httpcore, Pymongo]


class SqlalchemyTasks:
    def __init__(self):
        self.engine = create_async_engine(
            "sqlite+aiosqlite://",
            poolclass=sqlalchemy.pool.impl.AsyncAdaptedQueuePool,
            pool_size=2,
            max_overflow=0,
            pool_timeout=LIMIT,
        )

    async def take(self):
        return await self.engine.connect()

    async def give(self, connection):
        await connection.close()

    async def close(self):
        await self.engine.dispose()


class FakePsycopgTasks(FakePsycopg):
    @classmethod
    async def connect(cls, *_, **__):
        return cls()

    async def close(self):
        self.closed = True


class PsycopgTasks:
    def __init__(self):
        self.pool = psycopg_pool.AsyncConnectionPool(
            "", connection_class=cast(Any, FakePsycopgTasks), min_size=2, max_size=2, open=False, timeout=LIMIT
        )

    async def open(self):
        await self.pool.open(wait=True)

    async def take(self):
        return await self.pool.getconn()

    async def give(self, connection):
        await self.pool.putconn(connection)

    async def close(self):
        await self.pool.close()


class FakeRedisTasks(FakeRedis):
    async def connect(self):
        pass

    disconnect = re_auth = connect

    async def can_read_destructive(self):
        return False

    async def can_read(self, timeout=0):
        return False


class RedisTasks:
    def __init__(self):
        self.pool = redis.asyncio.connection.BlockingConnectionPool(
            max_connections=2, timeout=LIMIT, connection_class=cast(Any, FakeRedisTasks)
        )

    async def take(self):
        return await self.pool.get_connection()

    async def give(self, connection):
        await self.pool.release(connection)


class HttpcoreTasks:
    def __init__(self):
        self.pool = httpcore.AsyncConnectionPool(max_connections=2, network_backend=httpcore.AsyncMockBackend(ANSWER))

    async def take(self):
        return await self.pool.handle_async_request(REQUEST)

    async def give(self, response):
        await response.aclose()


class FakeProtocol:
    should_close = False
    transport = closed = None

    def is_connected(self):
        return True

    def close(self):
        pass


class Aiohttp:
    how: dict[str, Any] = {"limit": 2}

    def __init__(self):
        class Connector(aiohttp.connector.BaseConnector):
            async def _create_connection(self, req, traces, timeout):
                return FakeProtocol()

        self.pool = Connector(**self.how)
        key = aiohttp.client_reqrep.ConnectionKey("localhost", 80, False, True, None, None, None)
        self.request: Any = SimpleNamespace(connection_key=key, proxy=None)

    async def take(self):
        return await self.pool.connect(self.request, [], aiohttp.ClientTimeout())

    async def give(self, connection):
        connection.release()

    async def close(self):
        await self.pool.close()


class AiohttpHost(Aiohttp):
    how = {"limit": 100, "limit_per_host": 2}


class FakeAsyncpg(asyncpg.Connection):  # type: ignore[misc]
    def __init__(self):
        self._source_traceback = None
        self._protocol = SimpleNamespace(queries_count=0, _is_cancelling=lambda: False)

    def __del__(self):
        pass

    def is_closed(self):
        return False

    def _set_proxy(self, proxy):
        pass

    def _on_release(self, stacklevel=1):
        pass

    async def reset(self, *, timeout=None):
        pass

    async def close(self, *, timeout=None):
        self._pool_holder()._release_on_close()

    def terminate(self):
        pass


class Asyncpg:
    def __init__(self):
        async def connect(*_, **__):
            return FakeAsyncpg()

        self.pool = asyncpg.create_pool(
            min_size=0,
            max_size=2,
            connect=connect,
            connection_class=FakeAsyncpg,
            max_inactive_connection_lifetime=0,
        )

    async def open(self):
        await self.pool

    async def take(self):
        return await self.pool.acquire()

    async def give(self, connection):
        await self.pool.release(connection)

    async def close(self):
        await self.pool.close()


class PymongoTasks:
    def __init__(self):
        class Pool(pymongo.asynchronous.pool.Pool):
            async def connect(self, handler=None):
                return FakeMongo()

            async def _perished(self, conn):
                return False

            def stale_generation(self, gen, service_id):
                return False

        self.pool = Pool(("localhost", 27017), PoolOptions(max_pool_size=2, wait_queue_timeout=LIMIT))

    async def open(self):
        await self.pool.ready()

    async def take(self):
        return await self.pool._get_conn(time.monotonic())

    async def give(self, connection):
        await self.pool.checkin(connection)


TASKS = [SqlalchemyTasks, PsycopgTasks, RedisTasks, HttpcoreTasks, Aiohttp, AiohttpHost, Asyncpg, PymongoTasks]

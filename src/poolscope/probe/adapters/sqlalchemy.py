"""SQLAlchemy: a `QueuePool`, which an engine has unless it is told otherwise, and the one of an asyncio engine.

Replaced are its methods `_do_get` and `_do_return_conn`, through which all connections go, and `recreate`, as a pool
that takes the place of a disposed one is the same to the reader. To know where an engine was made, the function is
replaced that its constructors call for a logger: `create_engine` reads their own parameters.
"""

from __future__ import annotations

import functools
import sys

from poolscope.probe.adapters.clients import Client
from poolscope.probe.interpreter.shapes import needs, needs_parameters, needs_use
from poolscope.probe.limits.connections import ATTRIBUTE
from poolscope.probe.limits.lending import Lender

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from poolscope.probe.executors.patching import Patch

#: SQLAlchemy, and what it speaks to databases with.
LIBRARIES = (
    "sqlalchemy",
    "aiomysql",
    "aiosqlite",
    "asyncmy",
    "asyncpg",
    "cx_Oracle",
    "MySQLdb",
    "mysql",
    "oracledb",
    "pg8000",
    "psycopg",
    "psycopg2",
    "pymssql",
    "pymysql",
    "pyodbc",
    "sqlite3",
)


def _full(pool: Any) -> bool:
    return -1 < pool._max_overflow <= pool._overflow and not pool._pool.qsize()


def _capacity(pool: Any) -> int | None:
    return pool._pool.maxsize + pool._max_overflow if pool._max_overflow > -1 else None


def _check(module: Any) -> None:
    needs(module, ("QueuePool", "AsyncAdaptedQueuePool"))
    cls = module.QueuePool
    needs_use(cls, "__init__", ("_pool", "_overflow", "_max_overflow"))
    needs_use(cls, "_do_get", ("_pool", "get", "_overflow", "_max_overflow"))
    needs_use(cls, "_do_return_conn", ("_pool", "put"))
    needs_use(cls, "size", ("maxsize",))
    needs(cls, ("recreate", "_is_asyncio"))
    needs_use(sys.modules["sqlalchemy.pool.base"].Pool, "__init__", ("log", "instance_logger"))
    needs_parameters(sys.modules["sqlalchemy.log"], "instance_logger", ["instance", "echoflag"])


def _put(patch: Patch, module: Any) -> None:
    cls, log = module.QueuePool, sys.modules["sqlalchemy.log"]
    lender = _Lender(LIBRARIES, full=_full, capacity=_capacity)
    patch.put(log, "instance_logger", _instance_logger(patch, lender, cls, log.instance_logger))
    lender.put_lend(patch, cls, "_do_get")
    lender.put_take_back(patch, cls, "_do_return_conn")
    patch.put(cls, "recreate", _recreate(patch, lender, cls.recreate))


class _Lender(Lender):
    """One for both kinds, which share the methods."""

    def record(self, owner: Any, patch: Patch) -> Any:
        """See `Lender.record`."""
        found = super().record(owner, patch)
        found.tasks = owner._is_asyncio
        return found


def _instance_logger(patch: Patch, lender: Lender, cls: Any, original: Any) -> Any:
    @functools.wraps(original)
    def instance_logger(instance: Any, *args: Any, **kwargs: Any) -> None:
        original(instance, *args, **kwargs)
        # It comes before the queue of connections.
        if isinstance(instance, cls) and "_pool" not in instance.__dict__:
            lender.made(instance, patch)

    return instance_logger


def _recreate(patch: Patch, lender: Lender, original: Any) -> Any:
    @functools.wraps(original)
    def recreate(self: Any) -> Any:
        pool = original(self)
        before = self.__dict__.get(ATTRIBUTE)
        if before is not None and before.site is not None:
            lender.made(pool, patch, before.site)
        return pool

    return recreate


_client = Client("SQLAlchemy", {"sqlalchemy.pool.impl": "AsyncAdaptedQueuePool"}, _check, _put)
patch, unpatch = _client.patch, _client.unpatch

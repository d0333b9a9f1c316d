"""psycopg_pool: `ConnectionPool` and `AsyncConnectionPool`, and the null pools that derive from them.

Replaced are `getconn` and `putconn`, through which `connection()` goes too, and `__init__`, to know where a pool was
made.
"""

from __future__ import annotations

from poolscope.probe.adapters.clients import Client
from poolscope.probe.interpreter.shapes import needs_parameters, needs_use
from poolscope.probe.limits.lending import Lender

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from poolscope.probe.executors.patching import Patch

_ASYNC = "psycopg_pool.pool_async"
LIBRARIES = ("psycopg_pool", "psycopg")


def _pool(module: Any) -> Any:
    return module.AsyncConnectionPool if module.__name__ == _ASYNC else module.ConnectionPool


def _full(pool: Any) -> bool:
    return 0 < pool._max_size <= pool._nconns and not pool._pool


def _capacity(pool: Any) -> int | None:
    return pool._max_size or None


def _check(module: Any) -> None:
    cls = _pool(module)
    needs_parameters(cls, "getconn", ["self", "timeout"])
    needs_parameters(cls, "putconn", ["self", "conn"])
    needs_use(cls, "_get_ready_connection", ("_pool",))
    needs_use(cls, "_maybe_grow_pool", ("_nconns", "_max_size"))


def _put(patch: Patch, module: Any) -> None:
    cls = _pool(module)
    tasks = module.__name__ == _ASYNC
    lender = Lender(LIBRARIES, full=_full, capacity=_capacity, tasks=tasks)
    lender.put_constructor(patch, cls)
    if tasks:
        lender.put_async_lend(patch, cls, "getconn")
        lender.put_async_take_back(patch, cls, "putconn")
    else:
        lender.put_lend(patch, cls, "getconn")
        lender.put_take_back(patch, cls, "putconn")


_client = Client("psycopg-pool", {"psycopg_pool.pool": "ConnectionPool", _ASYNC: "AsyncConnectionPool"}, _check, _put)
patch, unpatch = _client.patch, _client.unpatch

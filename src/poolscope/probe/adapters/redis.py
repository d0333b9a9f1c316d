"""redis-py: the `BlockingConnectionPool` of threads and that of asyncio. The other pools never wait: they raise.

Replaced are `get_connection` and `release`, and `__init__`, to know where a pool was made.
"""

from __future__ import annotations

from poolscope.probe.adapters.clients import Client
from poolscope.probe.interpreter.shapes import needs, needs_parameters, needs_use
from poolscope.probe.limits.lending import Lender

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from poolscope.probe.executors.patching import Patch

_ASYNC = "redis.asyncio.connection"


def _full(pool: Any) -> bool:
    return not pool.pool.qsize()


def _all_out(pool: Any) -> bool:
    return not pool.can_get_connection()


def _capacity(pool: Any) -> int | None:
    size: int = pool.max_connections
    return size


def _check(module: Any) -> None:
    needs(module, ("BlockingConnectionPool",))
    cls = module.BlockingConnectionPool
    needs_parameters(cls, "release", ["self", "connection"])
    needs_parameters(cls, "get_connection", ["self"], more=True)
    if module.__name__ == _ASYNC:
        needs(cls, ("can_get_connection",))
    else:
        needs_use(cls, "get_connection", ("pool", "get", "make_connection"))
        needs_use(cls, "reset", ("pool", "queue_class", "max_connections"))


def _put(patch: Patch, module: Any) -> None:
    cls = module.BlockingConnectionPool
    tasks = module.__name__ == _ASYNC
    lender = Lender(("redis",), full=_all_out if tasks else _full, capacity=_capacity, tasks=tasks)
    lender.put_constructor(patch, cls)
    if tasks:
        lender.put_async_lend(patch, cls, "get_connection")
        lender.put_async_take_back(patch, cls, "release")
    else:
        lender.put_lend(patch, cls, "get_connection")
        lender.put_take_back(patch, cls, "release")


_client = Client(
    "redis", {"redis.connection": "BlockingConnectionPool", _ASYNC: "BlockingConnectionPool"}, _check, _put
)
patch, unpatch = _client.patch, _client.unpatch

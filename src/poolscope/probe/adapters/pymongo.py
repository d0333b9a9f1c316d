"""PyMongo: the pool of connections to each server (`maxPoolSize`), of its client for threads and that for asyncio.

Replaced are `_get_conn` and `checkin`, and `__init__`, to know the server, after which a pool is called: the client
makes it, and for some servers in a thread of its own. Pools of what watches the servers are left out.
"""

from __future__ import annotations

import sys

from poolscope.probe.adapters.clients import Client
from poolscope.probe.interpreter.shapes import needs_parameters, needs_use
from poolscope.probe.limits.lending import Lender
from poolscope.probe.limits.naming import place_of_user

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from poolscope.probe.executors.patching import Patch
    from poolscope.probe.interpreter.stacks import Site
    from poolscope.probe.limits.connections import Loan

_ASYNC = "pymongo.asynchronous.pool"


def _full(pool: Any) -> bool:
    return bool(pool.requests >= pool.max_pool_size)


def _capacity(pool: Any) -> int | None:
    size: float = pool.max_pool_size
    return int(size) if size != float("inf") else None


class _Lender(Lender):
    def made(self, owner: Any, patch: Patch, site: Site | None = None) -> None:
        """See `Lender.made`."""
        if not owner.is_sdam:
            host, port = owner.address[:2]
            name = f"mongodb://{host}" + ("" if port is None else f":{port}")
            super().made(owner, patch, site or (place_of_user(sys._getframe(1)), name, ""))

    def asks(self, owner: Any, patch: Patch) -> Loan | None:
        """See `Lender.asks`."""
        return None if owner.is_sdam else super().asks(owner, patch)


def _check(module: Any) -> None:
    cls = module.Pool
    needs_parameters(cls, "_get_conn", ["self"], more=True)
    needs_parameters(cls, "checkin", ["self", "conn"])
    needs_parameters(cls, "__init__", ["self", "address", "options", "is_sdam"], more=True)
    needs_use(cls, "_get_conn", ("requests", "max_pool_size", "size_cond"))


def _put(patch: Patch, module: Any) -> None:
    cls = module.Pool
    tasks = module.__name__ == _ASYNC
    lender = _Lender(("pymongo", "motor"), full=_full, capacity=_capacity, tasks=tasks)
    lender.put_constructor(patch, cls)
    if tasks:
        lender.put_async_lend(patch, cls, "_get_conn")
        lender.put_async_take_back(patch, cls, "checkin")
    else:
        lender.put_lend(patch, cls, "_get_conn")
        lender.put_take_back(patch, cls, "checkin")


_client = Client("pymongo", {"pymongo.synchronous.pool": "Pool", _ASYNC: "Pool"}, _check, _put)
patch, unpatch = _client.patch, _client.unpatch

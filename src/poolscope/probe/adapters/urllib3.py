"""urllib3, and requests on top of it: the pool of a host, where it was made with `block=True` (`pool_block=True`).

Any other never waits: it opens one connection more and throws it away. Replaced are `_get_conn` and `_put_conn`, and
`__init__`, to know where a pool was made. One that a manager or a session makes for itself, with the first request to a
host, goes by the name of that host.
"""

from __future__ import annotations

import sys

from poolscope.probe.adapters.clients import Client
from poolscope.probe.interpreter.shapes import needs_parameters, needs_use
from poolscope.probe.limits.connections import ATTRIBUTE
from poolscope.probe.limits.lending import Lender
from poolscope.probe.limits.naming import made_by_user, place_of_user

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from poolscope.probe.executors.patching import Patch
    from poolscope.probe.interpreter.stacks import Site
    from poolscope.probe.limits.connections import Loan


def _full(pool: Any) -> bool:
    return pool.pool is not None and not pool.pool.qsize()


def _capacity(pool: Any) -> int | None:
    return None if pool.pool is None else pool.pool.maxsize


class _Lender(Lender):
    def made(self, owner: Any, patch: Patch, site: Site | None = None) -> None:
        """See `Lender.made`."""
        if not owner.block:
            return
        frame = sys._getframe(1)
        if not made_by_user(frame):
            port = "" if owner.port is None else f":{owner.port}"
            site = place_of_user(frame), f"{owner.scheme}://{owner.host}{port}", ""
        super().made(owner, patch, site)

    def asks(self, owner: Any, patch: Patch) -> Loan | None:
        """See `Lender.asks`."""
        return super().asks(owner, patch) if owner.block else None

    def gave_back(self, owner: Any, patch: Patch, connection: Any) -> None:
        """See `Lender.gave_back`: after a failure it is an empty place that the same thread gives back."""
        if connection is None and (record := owner.__dict__.get(ATTRIBUTE)) is not None:
            connection = record.own()
        super().gave_back(owner, patch, connection)


def _check(module: Any) -> None:
    cls = module.HTTPConnectionPool
    needs_parameters(cls, "_get_conn", ["self", "timeout"])
    needs_parameters(cls, "_put_conn", ["self", "conn"])
    needs_use(cls, "_get_conn", ("pool", "get", "block"))
    needs_use(cls, "__init__", ("pool", "block", "maxsize"))


def _put(patch: Patch, module: Any) -> None:
    cls = module.HTTPConnectionPool
    lender = _Lender(("urllib3", "requests", "http"), full=_full, capacity=_capacity)
    lender.put_constructor(patch, cls)
    lender.put_lend(patch, cls, "_get_conn")
    lender.put_take_back(patch, cls, "_put_conn")


_client = Client("urllib3", {"urllib3.connectionpool": "HTTPSConnectionPool"}, _check, _put)
patch, unpatch = _client.patch, _client.unpatch

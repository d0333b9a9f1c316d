"""httpcore, and httpx on top of it: the connections of a client (`max_connections` of its limits).

A request has a connection from when it is assigned one until its response is closed. Replaced is the method that the
pool calls whenever that may have changed: we compare its requests with those of the last time. With HTTP/2 several
requests share a connection, and more of them may be out than there are connections. Under trio, threads and tasks of
those that wait are not known.
"""

from __future__ import annotations

import functools
import sys

from poolscope.probe.adapters.clients import Client
from poolscope.probe.interpreter.shapes import needs, needs_parameters, needs_use
from poolscope.probe.limits.lending import Lender
from poolscope.probe.recording.pool_watch import report

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from poolscope.probe.executors.patching import Patch
    from poolscope.probe.limits.connections import Loan

_ASYNC = "httpcore._async.connection_pool"
#: Where a pool keeps the loans of its requests.
REQUESTS = "_poolscope_requests"
_ASSIGN = "_assign_requests_to_connections"


def _pool(module: Any) -> Any:
    return module.AsyncConnectionPool if module.__name__ == _ASYNC else module.ConnectionPool


def _capacity(pool: Any) -> int | None:
    size: int = pool._max_connections
    return size if size < sys.maxsize else None


def _check(module: Any) -> None:
    cls = _pool(module)
    needs_parameters(cls, _ASSIGN, ["self"])
    needs_use(cls, _ASSIGN, ("_requests", "_connections", "_max_connections"))
    needs_use(cls, "__init__", ("_http2",))
    needs_use(module.AsyncPoolRequest if module.__name__ == _ASYNC else module.PoolRequest, "__init__", ("connection",))
    needs(module.AsyncPoolRequest if module.__name__ == _ASYNC else module.PoolRequest, ("is_queued",))


def _put(patch: Patch, module: Any) -> None:
    cls = _pool(module)
    # Each request says whether it waits.
    libraries = ("httpcore", "httpx", "h11", "h2")
    lender = Lender(libraries, full=lambda _: False, capacity=_capacity, tasks=module.__name__ == _ASYNC)
    lender.put_constructor(patch, cls)
    patch.put(cls, _ASSIGN, _assign(patch, lender, getattr(cls, _ASSIGN)))


def _assign(patch: Patch, lender: Lender, original: Callable[[Any], Any]) -> Callable[[Any], Any]:
    @functools.wraps(original)
    def assign(self: Any) -> Any:
        closing = original(self)
        if patch.active and not sys.is_finalizing():
            try:
                _compare(self, patch, lender)
            except Exception as exc:
                report(patch.probe, exc)
        return closing

    return assign


def _compare(pool: Any, patch: Patch, lender: Lender) -> None:
    """Note what has changed since the last time: a request that is new is the caller's."""
    record = lender.record(pool, patch)
    if record.closed:
        return
    loans: dict[int, Loan] = pool.__dict__.setdefault(REQUESTS, {})
    requests = {id(request): request for request in pool._requests}
    # First what is given back: it may be what others got.
    for key, loan in list(loans.items()):
        request = requests.get(key)
        out = record.out.get(key) is loan
        if request is not None and (not out or not request.is_queued()):
            continue
        del loans[key]
        if out:
            record.gave_back(key)
        else:
            record.gave_up(loan)
    # An idle connection may be assigned to several at once. With HTTP/1 one of them gets it: the others come back.
    assigned = [id(request.connection) for request in requests.values() if not request.is_queued()]
    for key, request in requests.items():
        has = not request.is_queued() and (pool._http2 or assigned.count(id(request.connection)) == 1)
        known = loans.get(key)
        loan = loans[key] = record.asks(not has) if known is None else known
        if has and record.out.get(key) is not loan:
            record.took(loan, key, request)


_client = Client(
    "httpcore",
    {"httpcore._sync.connection_pool": "PoolByteStream", _ASYNC: "PoolByteStream"},
    _check,
    _put,
)
patch, unpatch = _client.patch, _client.unpatch

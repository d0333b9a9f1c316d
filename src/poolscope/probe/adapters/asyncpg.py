"""asyncpg: its `Pool`.

Replaced are `Pool._acquire`, `PoolConnectionHolder._release`, through which a connection comes back on any way, and
`__init__`, to know where a pool was made. A pool takes no attribute and no weak reference: what we know hangs on the
queue of its connections.
"""

from __future__ import annotations

import functools
import sys

from poolscope.probe.adapters.clients import Client
from poolscope.probe.interpreter.shapes import needs_parameters, needs_use
from poolscope.probe.interpreter.tracebacks import leave_out
from poolscope.probe.limits.connections import ATTRIBUTE
from poolscope.probe.limits.lending import Lender
from poolscope.probe.limits.naming import site_of, users_frame
from poolscope.probe.recording.pool_watch import report

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from poolscope.probe.executors.patching import Patch
    from poolscope.probe.interpreter.stacks import Site

#: So many pools may be made and not used, until the first of them have no name.
_SITES_KEPT = 1_000


def _full(queue: Any) -> bool:
    return bool(queue.empty())


def _capacity(queue: Any) -> int | None:
    return queue.maxsize or None


def _check(module: Any) -> None:
    cls = module.Pool
    needs_parameters(cls, "_acquire", ["self", "timeout"])
    needs_use(cls, "_initialize", ("_queue", "_maxsize"))
    needs_use(module.PoolConnectionHolder, "_release", ("_pool", "_queue", "put_nowait"))


def _put(patch: Patch, module: Any) -> None:
    lender = Lender(("asyncpg",), full=_full, capacity=_capacity, key=_holder, tasks=True)
    # By id, until the pool has its queue.
    sites: dict[int, Site] = {}
    cls, holder = module.Pool, module.PoolConnectionHolder
    patch.put_constructor(cls, "", lambda _: None, functools.partial(_made, patch, sites))
    patch.put(cls, "_acquire", _acquire(patch, lender, sites, cls._acquire))
    patch.put(holder, "_release", _release(patch, holder._release))


def _holder(connection: Any) -> int:
    return id(connection._holder)


def _made(patch: Patch, sites: dict[int, Site], pool: Any) -> None:
    if not patch.active or sys.is_finalizing():
        return
    try:
        if len(sites) >= _SITES_KEPT:
            sites.pop(next(iter(sites), 0), None)
        sites[id(pool)] = site_of(users_frame(sys._getframe(1)))
    except Exception as exc:
        report(patch.probe, exc)


def _acquire(
    patch: Patch, lender: Lender, sites: dict[int, Site], original: Callable[[Any, Any], Any]
) -> Callable[[Any, Any], Any]:
    @functools.wraps(original)
    async def acquire(self: Any, timeout: Any) -> Any:
        queue = self._queue
        site = sites.pop(id(self), None) if queue is not None else None
        if site is not None:
            lender.made(queue, patch, site)
        loan = None if queue is None else lender.asks(queue, patch)
        try:
            connection = await original(self, timeout)
        except BaseException as exc:
            if loan is not None:
                lender.gave_up(loan)
            # A bare `raise` adds no line for this frame: the traceback is the one without us.
            leave_out(exc)
            raise
        if loan is not None:
            lender.took(loan, connection)
        return connection

    return acquire


def _release(patch: Patch, original: Callable[[Any], None]) -> Callable[[Any], None]:
    @functools.wraps(original)
    def release(self: Any) -> None:
        if self._in_use is not None and patch.active and not sys.is_finalizing():
            try:
                record = self._pool._queue.__dict__.get(ATTRIBUTE)
                if record is not None:
                    record.gave_back(id(self))
            except Exception as exc:
                report(patch.probe, exc)
        original(self)

    return release


_client = Client("asyncpg", {"asyncpg.pool": "Pool"}, _check, _put)
patch, unpatch = _client.patch, _client.unpatch

"""aiohttp: the connector of a client session (`limit`, and `limit_per_host`, of which each host is a row of its own).

Replaced are `BaseConnector.connect` and `_release_acquired`, through which a connection comes back on any way, and
`__init__`, to know where a connector was made.
"""

from __future__ import annotations

import functools
import sys

from poolscope.probe.adapters.clients import Client
from poolscope.probe.interpreter.shapes import needs_parameters, needs_use
from poolscope.probe.interpreter.tracebacks import leave_out
from poolscope.probe.limits.connections import Connections
from poolscope.probe.limits.lending import Lender
from poolscope.probe.recording.pool_watch import report

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from poolscope.probe.executors.patching import Patch
    from poolscope.probe.limits.connections import Loan

#: Where a connector keeps the records of its hosts.
HOSTS = "_poolscope_hosts"


def _check(module: Any) -> None:
    cls = module.BaseConnector
    needs_parameters(cls, "connect", ["self", "req", "traces", "timeout"])
    needs_parameters(cls, "_release_acquired", ["self", "key", "proto"])
    needs_use(cls, "_available_connections", ("_limit", "_acquired", "_limit_per_host", "_acquired_per_host"))
    needs_use(cls, "connect", ("connection_key", "_get", "_available_connections"))
    needs_use(module.Connection, "__init__", ("_protocol",))


def _put(patch: Patch, module: Any) -> None:
    lenders = _Lenders(patch)
    cls = module.BaseConnector
    lenders.whole.put_constructor(patch, cls)
    patch.put(cls, "connect", _connect(lenders, cls.connect))
    patch.put(cls, "_release_acquired", _release_acquired(lenders, cls._release_acquired))


class _Lenders:
    """A connector lends from its limit, and from that of the host."""

    def __init__(self, patch: Patch) -> None:
        self.patch = patch
        libraries = ("aiohttp",)
        self.whole = Lender(libraries, full=lambda _: False, capacity=lambda it: it._limit or None, tasks=True)
        self._host = Lender(libraries, full=lambda _: False, capacity=lambda it: it._limit_per_host or None, tasks=True)

    def asks(self, connector: Any, key: Any) -> list[Loan]:
        """Note that a connection to a host is asked for. Never raises because of a failure of ours."""
        if not self.patch.active or sys.is_finalizing():
            return []
        try:
            record = self.whole.record(connector, self.patch)
            if record.closed:
                return []
            waits = not connector._conns.get(key) and connector._available_connections(key) <= 0
            all_out = waits and 0 < connector._limit <= len(connector._acquired)
            loans = [record.asks(all_out)]
            if connector._limit_per_host:
                loans.append(self._of_host(connector, record, key).asks(waits and not all_out))
            return loans
        except Exception as exc:
            report(self.patch.probe, exc)
            return []

    def _of_host(self, connector: Any, whole: Connections, key: Any) -> Connections:
        hosts: dict[Any, Connections] = connector.__dict__.setdefault(HOSTS, {})
        found = hosts.get(key)
        if found is None or found.patch is not self.patch:
            site = whole.site
            if site is not None:
                site = site[0], f"{site[1]} {key.host}:{key.port}", site[2]
            found = hosts[key] = self._host.new(connector, self.patch, site)
            found.older = whole.older
        return found

    def gave_back(self, connector: Any, key: Any, protocol: Any) -> None:
        """Note that a connection to a host is given back. Never raises because of a failure of ours."""
        if not self.patch.active or sys.is_finalizing():
            return
        self.whole.gave_back(connector, self.patch, protocol)
        try:
            host = connector.__dict__.get(HOSTS, {}).get(key)
            if host is not None:
                host.gave_back(id(protocol))
        except Exception as exc:
            report(self.patch.probe, exc)


def _connect(lenders: _Lenders, original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    async def connect(self: Any, req: Any, *args: Any, **kwargs: Any) -> Any:
        loans = lenders.asks(self, req.connection_key)
        try:
            connection = await original(self, req, *args, **kwargs)
        except BaseException as exc:
            for loan in loans:
                lenders.whole.gave_up(loan)
            # A bare `raise` adds no line for this frame: the traceback is the one without us.
            leave_out(exc)
            raise
        for loan in loans:
            lenders.whole.took(loan, connection._protocol)
        return connection

    return connect


def _release_acquired(lenders: _Lenders, original: Callable[[Any, Any, Any], None]) -> Callable[[Any, Any, Any], None]:
    @functools.wraps(original)
    def release_acquired(self: Any, key: Any, proto: Any) -> None:
        lenders.gave_back(self, key, proto)
        original(self, key, proto)

    return release_acquired


_client = Client("aiohttp", {"aiohttp.connector": "BaseConnector"}, _check, _put)
patch, unpatch = _client.patch, _client.unpatch

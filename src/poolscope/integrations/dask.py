"""Dask: has each worker of a cluster watched, and reports on all of them.

    from poolscope.integrations.dask import WatchWorkers, report

    client.register_plugin(WatchWorkers())
    ...
    print(report(client))

poolscope is to be installed where the workers are. Under `poolscope run` the workers that the program starts itself are
watched without this, and are in the report of the run.
"""

from __future__ import annotations

import sys
from typing import Any

import msgspec
from distributed.diagnostics.plugin import WorkerPlugin

import poolscope
from poolscope.errors import PoolscopeError
from poolscope.integrations.together import together
from poolscope.model import Report
from poolscope.probe import runtime
from poolscope.probe.adapters import dask as adapter


class WatchWorkers(WorkerPlugin):  # type: ignore[misc]  # distributed is not there where types are checked
    """Watches each worker, those to come included: its threads with the tasks that are ready, its thread for
    serialisation, its event loop, and what tasks start in it."""

    name = "poolscope"
    idempotent = True

    def setup(self, worker: Any) -> None:
        """Begin, in the worker's process and loop."""
        self._installation = poolscope.install()
        adapter.adopt(worker)

    def teardown(self, worker: Any) -> None:  # noqa: ARG002 - Dask calls it so
        """End."""
        self._installation.uninstall()


def report(client: Any) -> Report:
    """Return one report of all workers that are watched; their addresses stand for their commands.

    Raises PoolscopeError if none of them is, or if they run under `poolscope run`, which has its own report.
    """
    answers: dict[str, bytes | None] = client.run(_of_this_process)
    found = {address: answer for address, answer in answers.items() if answer is not None}
    if not found:
        raise PoolscopeError(
            "no worker reports: register WatchWorkers(), unless they are under `poolscope run`, which reports itself"
        )
    decode = msgspec.msgpack.Decoder(Report).decode
    return together({address: decode(answer) for address, answer in sorted(found.items())}, [sys.executable, *sys.argv])


def _of_this_process() -> bytes | None:
    """In a worker: its report."""
    if runtime.current().supervised or not adapter.is_patched():
        return None
    return msgspec.msgpack.encode(poolscope.report())

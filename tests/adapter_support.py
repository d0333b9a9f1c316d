"""What tests of adapters share: a probe that is patched in, a task with a gate, and what is known of libraries that run
their users' functions."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from probe_support import FakeProbe

LIMIT = 30  # seconds for what is sure to come

#: Module of a library -> its name as a package, and what is looked through there.
AROUND = {
    "apscheduler.executors.base": ("APScheduler", ["run_job"]),
    "celery.concurrency.base": ("celery", ["apply_target"]),
    "dask.local": ("dask", ["batch_execute_tasks"]),
    "grpc._server": ("grpcio", ["_unary_response_in_pool", "_stream_response_in_pool"]),
    "gunicorn.workers.gthread": ("gunicorn", ["ThreadWorker.handle"]),
    "joblib._utils": ("joblib", ["_TracebackCapturingWrapper"]),
    "joblib.parallel": ("joblib", ["BatchedCalls"]),
}


@contextmanager
def patched(adapter: Any) -> Iterator[FakeProbe]:
    """The probe that an adapter records for; nothing of ours may fail meanwhile."""
    made = FakeProbe()
    adapter.patch(made)
    yield made
    adapter.unpatch()
    assert not made.faults


class Gate:
    """A task that lasts until the gate is opened; any number of them. For asyncio's loops and trio's."""

    def __init__(self) -> None:
        self._started = threading.Semaphore(0)
        self._opened = threading.Event()

    def __call__(self) -> None:
        self._started.release()
        assert self._opened.wait(LIMIT)

    async def started(self, count: int) -> None:
        """Wait until so many of them have started."""
        import anyio

        with anyio.fail_after(LIMIT):
            while count:
                count -= self._started.acquire(blocking=False)
                await anyio.sleep(0.001)

    def open(self) -> None:
        self._opened.set()

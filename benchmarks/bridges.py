"""What watching costs where a library carries calls into threads: anyio (FastAPI, Starlette), asgiref (Django), trio,
aiosqlite, waitress, cheroot (CherryPy), s3transfer (boto3).

    python benchmarks/bridges.py [--calls N] [--repetitions N]

Each pair of figures is taken in one run, patched and unpatched by turns; the probe's thread runs and reads as under
`poolscope run`. The ratio is the median of the pairs' ratios, the noise that of the unpatched one to itself.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from statistics import median
from types import SimpleNamespace

import aiosqlite
import anyio
import trio
from anyio import to_thread
from asgiref.sync import ThreadSensitiveContext, sync_to_async
from cheroot.server import HTTPConnection
from cheroot.workers.threadpool import ThreadPool
from s3transfer.futures import BoundedExecutor
from waitress.task import ThreadedTaskDispatcher

import poolscope
from poolscope.probe import runtime


def nothing() -> None:
    pass


async def one_by_one(calls: int) -> None:
    for _ in range(calls):
        await to_thread.run_sync(nothing)


async def batch(calls: int) -> None:
    async with anyio.create_task_group() as tasks:
        for _ in range(calls):
            tasks.start_soon(to_thread.run_sync, nothing)


async def requests(calls: int) -> None:
    """As Django serves a request: a context of its own, and five calls in its thread."""
    call = sync_to_async(nothing)
    for _ in range(calls // 5):
        async with ThreadSensitiveContext():
            for _ in range(5):
                await call()


async def trios(calls: int) -> None:
    async def one_by_one() -> None:
        for _ in range(calls):
            await trio.to_thread.run_sync(nothing)

    # Not in asyncio's thread, whose signals it would take over.
    await asyncio.to_thread(trio.run, one_by_one)


async def queried(calls: int) -> None:
    async with aiosqlite.connect(":memory:") as connection:
        for _ in range(calls):
            await connection.commit()


class Turn(HTTPConnection):
    """A connection of cheroot's on which nothing comes."""

    remote_addr = remote_port = ""

    def __init__(self, server: SimpleNamespace, ended: threading.Semaphore) -> None:
        self.server = server
        self._ended = ended
        request = SimpleNamespace(ready=False, parse_request=nothing)
        self.RequestHandlerClass = lambda *_: request

    def close(self) -> None:
        self._ended.release()


#: One for all runs: it takes its time to start.
SERVER = SimpleNamespace(stats={"Enabled": False, "Worker Threads": {}}, error_log=print, wsgi_app=nothing)
SERVER.requests = ThreadPool(SERVER, min=4)


async def served(calls: int) -> None:
    if not SERVER.requests._threads:
        SERVER.requests.start()
    ended = threading.Semaphore(0)
    for _ in range(calls):
        SERVER.requests.put(Turn(SERVER, ended))
    for _ in range(calls):
        ended.acquire()


class Task:
    """As waitress and s3transfer want it."""

    transfer_id = 0

    def __init__(self, ended: threading.Semaphore) -> None:
        self._ended = ended

    def service(self) -> None:
        self._ended.release()

    def __call__(self, _: object) -> None:
        self._ended.release()


async def dispatched(calls: int) -> None:
    dispatcher, ended = ThreadedTaskDispatcher(), threading.Semaphore(0)
    dispatcher.queue_logger.disabled = True
    dispatcher.set_thread_count(4)
    for _ in range(calls):
        dispatcher.add_task(Task(ended))
    for _ in range(calls):
        ended.acquire()
    dispatcher.shutdown()


async def transferred(calls: int) -> None:
    executor, ended = BoundedExecutor(100, 4), threading.Semaphore(0)
    for _ in range(calls):
        executor.submit(Task(ended))
    executor.shutdown()


CASES: dict[str, Callable[[int], Awaitable[None]]] = {
    "anyio: a call, wait for it": one_by_one,
    "anyio: a batch of calls": batch,
    "asgiref: five calls in a context": requests,
    "trio: a call, wait for it": trios,
    "aiosqlite: a request, wait for it": queried,
    "waitress: a batch of tasks": dispatched,
    "cheroot: a batch of turns": served,
    "s3transfer: a batch, 100 in at once": transferred,
}


async def measure(case: Callable[[int], Awaitable[None]], calls: int, repetitions: int) -> tuple[list[float], ...]:
    async def timed() -> float:
        began = time.perf_counter()
        await case(calls)
        return (time.perf_counter() - began) / calls * 1e6

    await case(calls // 5)
    plain, watched, again = [], [], []
    for _ in range(repetitions):
        plain.append(await timed())
        with poolscope.install(loops=False):
            watched.append(await timed())
        again.append(await timed())
    return plain, watched, again


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=2_000)
    parser.add_argument("--repetitions", type=int, default=9)
    options = parser.parse_args()
    # As under a parent: everything is read and sent, here to a sink that drops it.
    probe = runtime.current()
    probe.supervised = True
    probe.add_sink(bool)
    print(f"CPython {sys.version.split()[0]}; us per call: plain, watched; ratio; noise")
    for name, case in CASES.items():
        plain, watched, again = asyncio.run(measure(case, options.calls, options.repetitions))
        ratio = median(ours / theirs for ours, theirs in zip(watched, plain, strict=True))
        noise = median(second / first for first, second in zip(plain, again, strict=True))
        print(f"{name:36} {median(plain):6.1f} {median(watched):6.1f}  {ratio:5.2f}  {noise:5.2f}")
    SERVER.requests.stop()


if __name__ == "__main__":
    main()

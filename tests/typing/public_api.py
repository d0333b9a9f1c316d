"""The whole public API as a user types it; mypy reads this file in strict mode, nobody runs it."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import Future
from concurrent.futures import ProcessPoolExecutor as StandardProcesses
from concurrent.futures import ThreadPoolExecutor as StandardExecutor
from multiprocessing.pool import ThreadPool

from prometheus_client import CollectorRegistry

import poolscope


def work(number: int) -> str:
    return str(number)


def drop_in() -> list[str]:
    with poolscope.ThreadPoolExecutor(4, "crawler", name="crawler") as pool:
        standard: StandardExecutor = pool
        future: Future[str] = pool.submit(work, 1)
        return [future.result(), *standard.map(work, range(3))]


def drop_in_processes() -> list[str]:
    context = multiprocessing.get_context("spawn")
    with poolscope.ProcessPoolExecutor(4, context, max_tasks_per_child=100, name="crunching") as pool:
        standard: StandardProcesses = pool
        future: Future[str] = pool.submit(work, 1)
        return [future.result(), *standard.map(work, range(3), chunksize=2)]


def attach() -> None:
    threads: StandardExecutor = poolscope.attach(StandardExecutor(4), name="crawler")
    processes: StandardProcesses = poolscope.attach(StandardProcesses())
    older: ThreadPool = poolscope.attach(ThreadPool(4))
    print(threads, processes, older)


def watch_everything() -> None:
    installation: poolscope.Installation = poolscope.install(pools=True, loops=True)
    installation.uninstall()
    with poolscope.install(loops=False):
        pass


def profile_a_block() -> str:
    with poolscope.profile(sample_interval=0.05, detection={"sustain_seconds": 2.0}) as profile:
        drop_in()
    report: poolscope.Report = profile.report
    return report.verdict


def serve() -> str:
    with poolscope.serve("127.0.0.1:0") as server:
        return server.url


def own_registry() -> None:
    CollectorRegistry().register(poolscope.collector())


def look() -> list[str]:
    findings: tuple[poolscope.Finding, ...] = poolscope.findings()
    for finding in findings:
        suggested: int | None = finding.advice.suggested_max_workers
        print(finding.pattern, finding.cause, finding.since_seconds, suggested)
    return [pool.name for pool in poolscope.report().pools]


def listen() -> None:
    def heard(finding: poolscope.Finding, began: bool) -> None:
        print(finding.summary, began)

    unsubscribe = poolscope.on_finding(heard)
    unsubscribe()


def refused() -> None:
    try:
        poolscope.serve("nowhere")
    except poolscope.PoolscopeError as error:
        print(error)

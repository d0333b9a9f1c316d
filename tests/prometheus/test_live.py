"""Scrapes of pools that work meanwhile: exact, nothing lost in between, and nobody waits for a scrape."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from endpoint_support import BUCKETS, until
from metrics_support import Scrape, get

from poolscope import ThreadPoolExecutor
from poolscope.config import from_mapping
from poolscope.endpoint import Server
from poolscope.metrics.families import serve_snapshots
from poolscope.probe import runtime
from poolscope.profiler import Observer

SETTINGS = from_mapping({"listen": "127.0.0.1:0", "metrics": BUCKETS})
SCRAPERS, SCRAPES, TASKS = 6, 8, 3000


@pytest.fixture
def server() -> Iterator[Server]:
    """The endpoint of this process, with a judge of its own."""
    observer = Observer(runtime.current(), SETTINGS)
    with serve_snapshots(observer.snapshot, SETTINGS, observer.failed, detailed=observer.detailed) as opened:
        yield opened
    observer.close()


def scrape(server: Server, *, openmetrics: bool = False) -> Scrape:
    headers = {"Accept": "application/openmetrics-text;version=1.0.0"} if openmetrics else {}
    status, _, body = get(f"{server.url}/metrics", **headers)
    assert status == 200
    return Scrape(body.decode(), openmetrics=openmetrics)


def counters(read: Scrape) -> dict[object, float]:
    endings = ("_total", "_bucket", "_count", "_sum")
    return {key: value for key, value in read.samples.items() if key[0].endswith(endings)}


def nothing() -> None:
    pass


def test_scrapes_at_once_are_exact_and_never_go_down(server: Server) -> None:
    wrong: list[object] = []

    def hammer(number: int) -> None:
        before: dict[object, float] = {}
        for _ in range(SCRAPES):
            after = counters(scrape(server, openmetrics=number % 2 == 0))
            wrong.extend(key for key, value in before.items() if after.get(key, -1.0) < value)
            before = after

    with ThreadPoolExecutor(4, name="hammered") as pool:
        scrapers = [threading.Thread(target=hammer, args=(number,)) for number in range(SCRAPERS)]
        for scraper in scrapers:
            scraper.start()
        for future in [pool.submit(nothing) for _ in range(TASKS)]:
            future.result()
        for scraper in scrapers:
            scraper.join()
        assert wrong == []
        # A task's result is there a moment before its end is recorded.
        finished = {"pool": "hammered", "outcome": "succeeded"}
        until(lambda: scrape(server).value("poolscope_pool_tasks_finished_total", **finished) == TASKS)
        read = scrape(server)
        assert read.value("poolscope_pool_tasks_submitted_total", pool="hammered") == TASKS
        assert read.value("poolscope_task_wait_seconds_count", pool="hammered") == TASKS
        assert read.value("poolscope_task_run_seconds_count", pool="hammered") == TASKS
        task = f"{__name__}.nothing"
        assert read.value("poolscope_function_started_total", pool="hammered", task=task) == TASKS


def test_nothing_between_two_scrapes_is_lost(server: Server) -> None:
    """A pool fills and empties while nobody looks: its integrals hold all of it."""
    with ThreadPoolExecutor(2, name="between") as pool:
        pool.submit(nothing).result()
        before = scrape(server)
        gate = threading.Event()
        waiting = [pool.submit(gate.wait, 60) for _ in range(2)] + [pool.submit(nothing) for _ in range(5)]
        threading.Timer(0.05, gate.set).start()
        for future in waiting:
            future.result()
        count = {"pool": "between"}
        until(lambda: scrape(server).value("poolscope_task_run_seconds_count", **count) == 8)
        after = scrape(server)
        for integral, distribution in (("busy", "run"), ("queued", "wait")):
            total = after.value(f"poolscope_pool_{integral}_seconds_total", pool="between")
            assert total == pytest.approx(after.value(f"poolscope_task_{distribution}_seconds_sum", pool="between"))
            grown = (total or 0) - (before.value(f"poolscope_pool_{integral}_seconds_total", pool="between") or 0)
            # Two tasks held their workers, and five waited for them, for as long as the gate was shut.
            assert grown > 0.05
        assert after.value("poolscope_pool_queue_depth", pool="between") == 0
        # Up to where it is settled.
        until(lambda: (scrape(server).value("poolscope_pool_saturated_seconds_total", pool="between") or 0) > 0.02)


def test_what_lasts_is_counted_up_to_now(server: Server) -> None:
    gate = threading.Event()
    with ThreadPoolExecutor(1, name="lasting") as pool:
        futures = [pool.submit(gate.wait, 60), pool.submit(nothing)]
        read = until(
            lambda: (found := scrape(server)).value("poolscope_pool_active_workers", pool="lasting") == 1 and found
        )
        assert read.value("poolscope_pool_queue_depth", pool="lasting") == 1
        for name in ("busy_seconds_total", "queued_seconds_total", "oldest_queued_seconds", "longest_running_seconds"):
            first = read.value(f"poolscope_pool_{name}", pool="lasting")
            assert first is not None
            assert (scrape(server).value(f"poolscope_pool_{name}", pool="lasting") or 0) > first > 0
        gate.set()
        for future in futures:
            future.result()
    # Its gauges leave with it, its counters stay.
    until(lambda: scrape(server).value("poolscope_pool_max_workers", pool="lasting") is None)
    read = scrape(server)
    assert read.value("poolscope_pool_tasks_submitted_total", pool="lasting") == 2
    assert read.value("poolscope_pool_oldest_queued_seconds", pool="lasting") is None


def test_a_scrape_that_takes_forever_holds_up_no_task() -> None:
    entered, leave = threading.Event(), threading.Event()
    observer = Observer(runtime.current(), SETTINGS)

    def source() -> object:
        with observer._lock:  # where the judge is read
            entered.set()
            leave.wait(60)
            return observer.snapshot()

    with (
        serve_snapshots(source, SETTINGS) as opened,  # type: ignore[arg-type]
        ThreadPoolExecutor(2, name="unhindered") as pool,
    ):
        client = threading.Thread(target=get, args=(f"{opened.url}/metrics",))
        client.start()
        entered.wait(60)
        assert sum(future.result(60) is None for future in [pool.submit(nothing) for _ in range(1000)]) == 1000
        assert client.is_alive()
        leave.set()
        client.join()
    observer.close()

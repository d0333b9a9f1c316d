"""Programs with queues and consumers: told as the pools that they are, and silent where they do their work."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cli_support import poolscope, script

HEAD = """
    import asyncio, logging, logging.handlers, queue, threading, time

    async def consume(items, seconds):
        while True:
            await items.get()
            await asyncio.sleep(seconds)
            items.task_done()

    def work(items, seconds):
        while items.get() is not None:
            time.sleep(seconds)

    async def feed(items, times, pause):
        for number in range(times):
            await items.put(number)
            await asyncio.sleep(pause)
"""

TASKS = """
    async def main():
        items = asyncio.Queue()
        consumers = [asyncio.create_task(consume(items, 0.1)) for _ in range(3)]
        await feed(items, 10, 0.1)
        await feed(items, 100, 0.015)
        await items.join()

    asyncio.run(main())
"""

THREADS = """
    class Crawler:
        def __init__(self):
            self.pages = queue.Queue()

    crawler = Crawler()
    threads = [threading.Thread(target=work, args=(crawler.pages, 0.1)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(100):
        crawler.pages.put(number)
        time.sleep(0.015)
    for thread in threads:
        crawler.pages.put(None)
    for thread in threads:
        thread.join()
"""

#: The queue is bounded, and whoever puts an item waits.
HELD_BACK = """
    async def main():
        items = asyncio.Queue(10)
        consumer = asyncio.create_task(consume(items, 0.03))
        await feed(items, 100, 0)

    asyncio.run(main())
"""

#: The same without anybody that waits, and not for long enough to know that it gets worse and worse.
ONE = """
    async def main():
        items = asyncio.Queue()
        consumer = asyncio.create_task(consume(items, 0.05))
        await feed(items, 90, 0.03)

    asyncio.run(main())
"""

IDLE = """
    async def main():
        items = asyncio.Queue()
        consumers = [asyncio.create_task(consume(items, 0.05)) for _ in range(8)]
        await feed(items, 100, 0.02)

    asyncio.run(main())
"""

LISTENER = """
    class Slow(logging.Handler):
        def emit(self, record):
            time.sleep(0.01)

    records = queue.Queue()
    log = logging.Logger("log")
    log.addHandler(logging.handlers.QueueHandler(records))
    listener = logging.handlers.QueueListener(records, Slow())
    listener.start()
    for number in range(200):
        log.warning("line %d", number)
        time.sleep(0.005)
    listener.stop()
"""

STOCK = """
    stock = queue.LifoQueue()
    for number in range(3):
        stock.put(object())

    def query():
        for _ in range(60):
            connection = stock.get()
            time.sleep(0.02)
            stock.put(connection)

    threads = [threading.Thread(target=query) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
"""

RESULTS = """
    results = queue.Queue()

    def produce():
        for number in range(50):
            time.sleep(0.01)
            results.put(number)

    threads = [threading.Thread(target=produce) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(200):
        results.get()
        time.sleep(0.008)
    for thread in threads:
        thread.join()
"""

UNIQUE = """
    class Unique(queue.Queue):
        def _put(self, item):
            if item not in self.queue:
                super()._put(item)

    items = Unique()
    threads = [threading.Thread(target=work, args=(items, 0.01)) for _ in range(2)]
    for number in [*range(100), None]:
        items.put(number)
    for thread in threads:
        thread.start()
    threads[0].join(0.8)
    items.put(None)
    for thread in threads:
        thread.join()
"""


def report_of(tmp_path: Path, program: str, *words: str) -> dict[str, Any]:
    script(tmp_path, HEAD + program)
    outcome = poolscope("run", "--quiet", "--json", "it.json", *words, "program.py", cwd=tmp_path)
    assert (outcome.status, outcome.out, outcome.err) == (0, "", "")
    report: dict[str, Any] = json.loads((tmp_path / "it.json").read_text())
    return report


@pytest.mark.parametrize(
    ("program", "name", "size", "expected", "sources"),
    [
        (
            TASKS,
            "__main__:main.items",
            3,
            ("async_then_serial", "blocking_io", "raise_max_workers"),
            {"await asyncio.sleep(seconds)"},
        ),
        (
            THREADS,
            "__main__:Crawler.__init__.pages",
            3,
            ("async_then_serial", "blocking_io", "raise_max_workers"),
            {"time.sleep(seconds)"},
        ),
        (
            HELD_BACK,
            "__main__:main.items",
            1,
            ("serial", "single_worker", "raise_max_workers"),
            {"await asyncio.sleep(seconds)", "await items.put(number)"},
        ),
    ],
    ids=["tasks", "threads", "one that holds others up"],
)
def test_a_queue_with_too_few_consumers_is_told(
    tmp_path: Path, program: str, name: str, size: int, expected: tuple[str, ...], sources: set[str]
) -> None:
    report = report_of(tmp_path, program)
    [pool] = report["pools"]
    assert (pool["name"], pool["kind"], pool["max_workers"]) == (name, "queue", size)
    [finding] = [finding for finding in pool["findings"] if finding["severity"] != "info"]
    assert report["verdict"] == finding["pattern"] == expected[0]
    assert sources <= {frame["source"] for frame in finding["frames"]}
    assert "max_workers" not in finding["advice"]["text"]
    # On a machine that is short of CPUs, what only rests on there being nothing else may not be known.
    assert finding["cause"] in (expected[1], "unknown")
    if finding["cause"] == expected[1]:
        assert finding["advice"]["action"] == expected[2]
        assert "consumers" in finding["advice"]["text"]
    [function] = pool["functions"]
    assert function["name"] in ("__main__.consume", "__main__.work")


def test_one_consumer_that_holds_nobody_up_is_a_note(tmp_path: Path) -> None:
    report = report_of(tmp_path, ONE)
    [pool] = report["pools"]
    assert {finding["severity"] for finding in pool["findings"]} == {"info"}
    assert report["verdict"] == "concurrent"


@pytest.mark.parametrize(
    "program",
    [IDLE, LISTENER, STOCK, RESULTS],
    ids=["consumers that idle", "a log", "a stock", "results"],
)
def test_what_does_its_work_or_is_no_pool_is_left_in_peace(tmp_path: Path, program: str) -> None:
    report = report_of(tmp_path, program)
    assert all(finding["severity"] == "info" for pool in report["pools"] for finding in pool["findings"])
    if program is not IDLE:
        assert report["pools"] == []


def test_one_that_keeps_its_items_in_its_own_way_is_said_to_be_unseen(tmp_path: Path) -> None:
    report = report_of(tmp_path, UNIQUE)
    assert report["pools"] == []
    assert [notice for notice in report["notices"] if "__main__.Unique" in notice and "_put" in notice]

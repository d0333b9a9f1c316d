"""How long a timeline for Perfetto and a page take, and how large they are: `python benchmarks/trace.py [TASKS]` (a
million; a page has 200,000 at most).

The figures to hold: 60 s and 100 MB for a million tasks, 3 MB for a page.
"""

from __future__ import annotations

import heapq
import random
import sys
import time
from array import array
from collections.abc import Callable

from poolscope.model import Distribution, Overhead, PoolReport, PoolTrace, Report, Session, TaskCounts
from poolscope.rendering import html, trace

WORKERS = 16


def recorded(tasks: int) -> Session:
    """A pool that is nearly full."""
    chance = random.Random(1)
    numbers, workers, at, free = array("q"), array("q"), 0, [(0, worker) for worker in range(1, WORKERS + 1)]
    for _ in range(tasks):
        at += chance.randrange(2_000_000)
        free_ns, worker = heapq.heappop(free)
        started = max(at, free_ns)
        finished = started + chance.randrange(30_000_000)
        heapq.heappush(free, (finished, worker))
        numbers.extend((chance.randrange(3), at, started, finished))
        workers.append(worker)
    if sys.byteorder == "big":
        numbers.byteswap()
        workers.byteswap()
    nothing = Distribution()
    pool = PoolReport(
        "fetch", "thread", "", "", 1, WORKERS, WORKERS, WORKERS, 0, 0.0, 0.0, 0.0, 0.0, 0.0, TaskCounts(),
        nothing, nothing, (), None, (),
    )  # fmt: skip
    report = Report(
        poolscope_version="",
        python="",
        command=(),
        started_at="",
        duration_seconds=at / 1e9,
        exit_code=0,
        verdict="concurrent",
        processes=(),
        pools=(pool,),
        event_loops=(),
        findings=(),
        notices=(),
        overhead=Overhead(0.0, 0.0),
    )
    functions = ("shop.jobs:fetch_page", "shop.jobs:parse", "shop.jobs:store")
    return Session(report, (PoolTrace(functions, numbers.tobytes(), (), workers.tobytes()),))


def main() -> None:
    """Measure each way to write it."""
    tasks = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    session = recorded(tasks)
    ways: dict[str, Callable[[], bytes]] = {
        "timeline": lambda: trace.encode(session),
        "timeline, compressed": lambda: trace.encode(session, compressed=True),
        "page": lambda: html.encode(session, ""),
    }
    for name, write in ways.items():
        began = time.perf_counter()
        size = len(write())
        took = time.perf_counter() - began
        print(f"{tasks:,} tasks, {name}: {took:.1f} s, {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()

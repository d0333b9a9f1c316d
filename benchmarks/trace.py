"""How long a timeline for Perfetto takes, and how large it is: `python benchmarks/trace.py [TASKS]` (a million).

The two figures to hold for a million tasks: 60 s and 100 MB.
"""

from __future__ import annotations

import heapq
import random
import sys
import time
from array import array

from poolscope.model import Distribution, Overhead, PoolReport, PoolTrace, Report, Session, TaskCounts
from poolscope.rendering.trace import encode

WORKERS = 16


def recorded(tasks: int) -> Session:
    """A pool that is nearly full."""
    chance = random.Random(1)
    numbers, at, free = array("q"), 0, [0] * WORKERS
    for _ in range(tasks):
        at += chance.randrange(2_000_000)
        started = max(at, heapq.heappop(free))
        finished = started + chance.randrange(30_000_000)
        heapq.heappush(free, finished)
        numbers.extend((chance.randrange(3), at, started, finished))
    if sys.byteorder == "big":
        numbers.byteswap()
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
    return Session(report, (PoolTrace(functions, numbers.tobytes(), ()),))


def main() -> None:
    """Measures both ways to write it."""
    tasks = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    session = recorded(tasks)
    for compressed in (False, True):
        began = time.perf_counter()
        size = len(encode(session, compressed=compressed))
        took = time.perf_counter() - began
        print(f"{tasks:,} tasks{', compressed' if compressed else ''}: {took:.1f} s, {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()

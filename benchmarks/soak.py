"""What stays in memory: many tasks through one pool, and many pools made and dropped, judged in the process.

    python benchmarks/soak.py [--tasks N] [--keep-tasks N] [--pools N] [--names one|many] [--json]

Resident memory (RSS) is printed as it goes, ten times each. It grows while `keep_tasks` tasks fill up, and must be
flat from then on; pools of one name must leave nothing but their totals. `names many` gives each pool its own name,
so that its totals, and their series, stay too.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import threading
import time
from collections import deque

import psutil
from prometheus_client import CollectorRegistry, generate_latest

import poolscope
from poolscope import profiler
from poolscope.config import from_mapping
from poolscope.probe import runtime

#: Tasks in flight at most: the queue is not what is measured.
WINDOW = 10_000


def nothing():
    pass


def standing():
    """What is held now, by place."""
    profiler._observer.snapshot()
    gc.collect()
    registry = CollectorRegistry()
    registry.register(poolscope.collector())
    series = [line for line in generate_latest(registry).decode().splitlines() if not line.startswith("#")]
    process = psutil.Process()
    return {
        "rss_mb": round(process.memory_info().rss / 2**20, 1),
        "probe_pools": len(runtime.current()._pools),
        "rows": len(profiler._observer._engine._ingest.pool_rows),
        "live_cases": sum(len(row.cases) for row in profiler._observer._engine._ingest.pool_rows.values()),
        "series": len(series),
        "threads": threading.active_count(),
        "native_threads": process.num_threads(),
        "files": len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else None,
        "objects": len(gc.get_objects()),
    }


def run_tasks(total):
    """Yields (tasks done, seconds) ten times on the way."""
    began = time.perf_counter()
    with poolscope.ThreadPoolExecutor(4, name="soak") as pool:
        waiting = deque()
        for number in range(1, total + 1):
            waiting.append(pool.submit(nothing))
            if len(waiting) >= WINDOW:
                waiting.popleft().result()
            if number % (total // 10) == 0:
                while waiting:
                    waiting.popleft().result()
                yield number, time.perf_counter() - began


def make_pools(total, name):
    began = time.perf_counter()
    for number in range(1, total + 1):
        pool = poolscope.ThreadPoolExecutor(1, name=name(number))
        pool.submit(nothing).result()
        if number % 2:
            pool.shutdown()
        del pool  # the other half is dropped
        if number % (total // 10) == 0:
            yield number, time.perf_counter() - began


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=10_000_000)
    parser.add_argument("--keep-tasks", type=int, default=200_000)
    parser.add_argument("--pools", type=int, default=10_000)
    parser.add_argument("--names", choices=("one", "many"), default="one")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    profiler._make(from_mapping({"keep_tasks": options.keep_tasks}, "soak"))
    runs = []
    if options.tasks >= 10:
        runs.append(("tasks", run_tasks(options.tasks)))
    if options.pools >= 10:
        one = options.names == "one"
        runs.append(("pools", make_pools(options.pools, (lambda _: "churn") if one else "churn-{}".format)))
    results = []
    for what, steps in runs:
        for done, seconds in steps:
            row = {what: done, "seconds": round(seconds, 1), **standing()}
            results.append(row)
            if not options.json:
                print("  ".join(f"{name} {value:,}" for name, value in row.items()), flush=True)
        if what == "tasks":
            row = next(pool for pool in poolscope.report().pools if pool.name == "soak")
            assert row.tasks.submitted == row.tasks.succeeded == options.tasks, row.tasks
    time.sleep(1)
    last = {"at the end": 1, **standing()}
    results.append(last)
    print(json.dumps(results) if options.json else "  ".join(f"{name} {value:,}" for name, value in last.items()))


if __name__ == "__main__":
    main()

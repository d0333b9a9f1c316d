"""What watching costs: the drop-in and the patched executor against the standard one.

    python benchmarks/overhead.py [--repeat N] [--tasks N] [--workers N] [--json]

Each repetition runs the standard executor and the watched ones one after another, in an order drawn anew, on
pools whose threads have started; each figure is the ratio to the standard executor of the same repetition.
`standard` is the standard executor against itself: the noise of this machine. While it runs, a background
thread fetches what is recorded, as in a real program.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import random
import statistics
import threading
import time
from concurrent.futures import ThreadPoolExecutor, wait

from poolscope.executors import threads as executors
from poolscope.probe import runtime
from poolscope.probe.pools import threadpool

KINDS = ("standard", "drop-in", "patched")


def nothing(*_):
    pass


def batch(pool, tasks):
    wait([pool.submit(nothing) for _ in range(tasks)])
    return tasks


def mapped(pool, tasks):
    return len(list(pool.map(nothing, range(tasks))))


def ping_pong(pool, tasks):
    trips = tasks // 10
    for _ in range(trips):
        pool.submit(nothing).result()
    return trips


WORKLOADS = {"batch": batch, "map": mapped, "ping-pong": ping_pong}


def watching(judged):
    """The probe of this process. Unless it is to be judged here too, what it tells goes nowhere."""
    probe = runtime.current()
    if not judged:
        probe.add_sink(lambda _: None)
    return probe


def measure(kind, work, tasks, workers, probe, clock):
    """Nanoseconds a task, or a round trip."""
    if kind == "patched":
        threadpool.patch(probe)
    try:
        with (executors.ThreadPoolExecutor if kind == "drop-in" else ThreadPoolExecutor)(workers) as pool:
            barrier = threading.Barrier(workers)
            wait([pool.submit(barrier.wait) for _ in range(workers)])
            gc.collect()
            began = clock()
            done = work(pool, tasks)
            return (clock() - began) / done
    finally:
        if kind == "patched":
            threadpool.unpatch()


def compare(name, repeat, tasks, workers, probe, clock):
    work = WORKLOADS[name]
    ratios = {kind: [] for kind in KINDS}
    base = []
    rng = random.Random(1)
    for _ in range(repeat):
        # the standard executor twice: once as the measure, once as a contestant
        order = ["base", *KINDS]
        rng.shuffle(order)
        took = {kind: measure(kind, work, tasks, workers, probe, clock) for kind in order}
        base.append(took["base"])
        for kind in KINDS:
            ratios[kind].append(took[kind] / took["base"])
    rows = {
        kind: {"min": min(found), "median": statistics.median(found), "max": max(found)}
        for kind, found in ratios.items()
    }
    return {"standard_ns_per_task": statistics.median(base), "ratios": rows}


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeat", type=int, default=15)
    parser.add_argument("--tasks", type=int, default=5000)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--workload", choices=WORKLOADS, action="append")
    parser.add_argument("--judged", action="store_true", help="include the judge, as in a process of its own")
    parser.add_argument("--cpu", action="store_true", help="compare CPU time of the process, not time passed")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    probe = watching(options.judged)
    clock = time.process_time_ns if options.cpu else time.perf_counter_ns
    results = {
        name: compare(name, options.repeat, options.tasks, options.workers, probe, clock)
        for name in options.workload or WORKLOADS
    }
    if options.json:
        print(json.dumps({"python": platform.python_version(), "workloads": results}, indent=2))
        return
    print(f"Python {platform.python_version()}, {options.repeat} repetitions, {options.workers} workers")
    for name, result in results.items():
        print(f"{name}: standard {result['standard_ns_per_task'] / 1000:.1f} us a task")
        for kind, row in result["ratios"].items():
            print(f"  {kind:<10} min {row['min']:.2f}  median {row['median']:.2f}  max {row['max']:.2f}")


if __name__ == "__main__":
    main()

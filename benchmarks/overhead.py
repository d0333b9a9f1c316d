"""What watching costs: poolscope's executors and its peers against the standard executor.

    python benchmarks/overhead.py [--workers 1,4,32] [--workload batch,map,...] [--repeat N] [--tasks N]
                                  [--pinned] [--cpu] [--drained] [--json FILE]

Each workload has an interpreter of its own. Each repetition runs all contestants there one after another, in an order
drawn anew, on pools whose threads have started; each figure is the ratio to the standard executor of the same
repetition, as median (min..max). `standard again` is the standard executor against itself: the noise of this machine.
Below 1 is faster than without poolscope.

A background thread fetches what is recorded meanwhile, as in a real program; what is left of it after the last task
is not in the time, unless `--drained`. A peer that is not installed, or fails at a workload, says so in its row.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import os
import random
import sys
import threading
import time
from concurrent.futures import wait

from common import (
    headline,
    in_child,
    integers,
    names,
    nothing,
    print_table,
    save,
    shown,
    spread,
    start_workers,
    starting,
    to_standard,
)
from contestants import CONTESTANTS, watch

PRODUCERS = 4


def batch(pool, tasks):
    wait([pool.submit(nothing) for _ in range(tasks)])
    return tasks


def mapped(pool, tasks):
    return len(list(pool.map(nothing, range(tasks))))


def ping_pong(pool, tasks):
    trips = max(1, tasks // 10)
    for _ in range(trips):
        pool.submit(nothing).result()
    return trips


def callbacks(pool, tasks):
    called = itertools.count(1)
    all_called = threading.Event()

    def done(_):
        if next(called) == tasks:  # `next` of a count is one step: no two workers get the same number
            all_called.set()

    for _ in range(tasks):
        pool.submit(nothing).add_done_callback(done)
    all_called.wait()
    return tasks


def producers(pool, tasks):
    share = max(1, tasks // PRODUCERS)
    submitted = []

    def produce():
        submitted.extend([pool.submit(nothing) for _ in range(share)])

    threads = [threading.Thread(target=produce) for _ in range(PRODUCERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wait(submitted)
    return share * PRODUCERS


WORKLOADS = {
    "batch": batch,
    "map": mapped,
    "callbacks": callbacks,
    "producers": producers,
    "ping-pong": ping_pong,
    "ping-pong pinned": ping_pong,
}


#: CPython 3.13 gives up caching the attributes of a class that has been patched some hundred times, which slows the
#: standard executor too. So each workload has an interpreter of its own, and no more repetitions than this.
MOST_REPETITIONS = 100


def pin():
    """This process on one CPU: a round trip then costs no wake-up of another one. For its only thread so far."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def measure(contestant, name, workers, options, probe):
    """Nanoseconds a task, or a round trip."""
    clock = time.process_time_ns if options.cpu else time.perf_counter_ns
    with CONTESTANTS[contestant](workers) as pool:
        start_workers(pool, workers)
        probe.flush()  # what others have left is not for this one to fetch
        gc.collect()
        began = clock()
        done = WORKLOADS[name](pool, options.tasks)
        if options.drained:
            probe.flush()
        return (clock() - began) / done


def compare(name, workers, options):
    """Samples of each contestant, and why others have none."""
    if options.pinned or name.endswith("pinned"):
        pin()
    probe = watch()
    samples = {contestant: [] for contestant in options.contestants}
    failed = {}
    rng = random.Random(f"{name} {workers}")
    for _ in range(options.repeat):
        order = [contestant for contestant in samples if contestant not in failed]
        rng.shuffle(order)
        for contestant in order:
            try:
                samples[contestant].append(measure(contestant, name, workers, options, probe))
            except ImportError:
                failed[contestant] = "not installed"
            except Exception as error:
                failed[contestant] = f"fails: {type(error).__name__}"
    for contestant in failed:
        del samples[contestant]
    return {"samples": samples, "failed": failed}


def summary(name, workers, samples, failed):
    base = samples["standard"]
    ratios = to_standard(samples)
    result = {
        "workload": name,
        "workers": workers,
        "samples_ns_per_task": samples,
        "failed": failed,
        "ratios": {contestant: spread(found) for contestant, found in ratios.items()},
    }
    cells = {contestant: shown(found) for contestant, found in ratios.items()} | failed
    cells["standard"] = shown([took / 1000 for took in base], ".1f") + " us"
    cost = "drop-in", "drop-in recording off"
    if all(contestant in samples for contestant in cost):
        on, off = (samples[contestant] for contestant in cost)
        recording = [(with_it - without) / 1000 for with_it, without in zip(on, off, strict=True)]
        result["recording_us_per_task"] = spread(recording)
        cells["recording alone"] = shown(recording) + " us"
    return result, cells


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeat", type=int, default=15)
    parser.add_argument("--tasks", type=int, default=10_000, help="of each run; ping-pong makes a tenth of it")
    parser.add_argument("--workers", type=integers, default=[1, 4, 32])
    parser.add_argument("--workload", type=names(WORKLOADS), default=list(WORKLOADS))
    parser.add_argument("--contestants", type=names(CONTESTANTS), default=list(CONTESTANTS))
    parser.add_argument("--pinned", action="store_true", help="every workload on one CPU")
    parser.add_argument("--cpu", action="store_true", help="CPU time of the process instead of time passed")
    parser.add_argument("--drained", action="store_true", help="include fetching the last records in the time")
    parser.add_argument("--json", metavar="FILE", help="write every sample there")
    parser.add_argument("--cell", nargs=2, metavar=("WORKLOAD", "WORKERS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if "standard" not in options.contestants:
        options.contestants.insert(0, "standard")
    if options.repeat > MOST_REPETITIONS:
        parser.error(f"more than {MOST_REPETITIONS} repetitions measure something else: see the source")
    if options.cell:
        name, workers = options.cell
        print(json.dumps(compare(name, int(workers), options)))
        return
    if not hasattr(os, "sched_setaffinity"):
        options.workload = [name for name in options.workload if not name.endswith("pinned")]
    started = starting()
    headline(f"{options.repeat} repetitions of {options.tasks} tasks, {'CPU time' if options.cpu else 'time passed'}")
    results = []
    for workers in options.workers:
        columns = {}
        for name in options.workload:
            found = in_child(__file__, *sys.argv[1:], "--cell", name, workers)
            result, columns[name] = summary(name, workers, found["samples"], found["failed"])
            results.append(result)
        print(f"\n{workers} workers: us a task of the standard executor, then ratios to it, median (min..max)")
        rows = [*options.contestants, "recording alone"]
        table = [[row, *(cells.get(row, "") for cells in columns.values())] for row in rows]
        print_table(["", *columns], [row for row in table if any(row[1:])])
    if options.json:
        save(options.json, "overhead", options, started, results)


if __name__ == "__main__":
    main()

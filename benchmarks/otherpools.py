"""What watching costs of the pools that have no drop-in worth measuring: processes, and multiprocessing's threads.

    python benchmarks/otherpools.py [--workers N] [--repeat N] [--tasks N] [--cpu] [--json FILE]

Tasks that do nothing, submitted one by one and waited for together, on a pool whose workers have started. Each family
has an interpreter of its own. There, each repetition runs the standard pool, the watched one and the standard one
again, in an order drawn anew; each figure is the ratio to the standard pool of the same repetition, as median
(min..max). Below 1 is faster than without poolscope. `--cpu` compares CPU time, of this process and of the workers from
their start to their end, instead of time passed: other programs disturb that less.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import random
import resource
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.pool import Pool, ThreadPool

from common import headline, in_child, nothing, print_table, save, shown, spread, starting, to_standard
from contestants import watch

import poolscope


def of_futures(pool, tasks):
    for future in [pool.submit(nothing) for _ in range(tasks)]:
        future.result()


def of_multiprocessing(pool, tasks):
    for result in [pool.apply_async(nothing) for _ in range(tasks)]:
        result.get()


FAMILIES = {
    "concurrent.futures.ProcessPoolExecutor": (ProcessPoolExecutor, of_futures),
    "multiprocessing.Pool": (Pool, of_multiprocessing),
    "multiprocessing.pool.ThreadPool": (ThreadPool, of_multiprocessing),
}
CONTESTANTS = {
    "standard": contextlib.nullcontext,
    "standard again": contextlib.nullcontext,
    "watched": lambda: poolscope.install(loops=False),
}


def measure(contestant, family, options, probe):
    """Nanoseconds a task."""
    make, run = FAMILIES[family]
    probe.flush()  # what others have left is not for this one to fetch
    gc.collect()
    used = cpu_ns()
    with CONTESTANTS[contestant](), make(options.workers) as pool:
        run(pool, 10 * options.workers)
        began = time.perf_counter_ns()
        run(pool, options.tasks)
        took = time.perf_counter_ns() - began
        if hasattr(pool, "join"):
            pool.close()
            pool.join()
    return ((cpu_ns() - used) if options.cpu else took) / options.tasks


def cpu_ns():
    """What this process has used, and its children that have ended."""
    used = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(int((usage.ru_utime + usage.ru_stime) * 1e9) for usage in used)


def compare(family, options):
    """Samples of each contestant."""
    probe = watch()
    samples = {contestant: [] for contestant in CONTESTANTS}
    rng = random.Random(family)
    for _ in range(options.repeat):
        for contestant in rng.sample(list(samples), len(samples)):
            samples[contestant].append(measure(contestant, family, options, probe))
    return samples


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeat", type=int, default=15)
    parser.add_argument("--tasks", type=int, default=5_000, help="of each run")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--cpu", action="store_true", help="CPU time instead of time passed")
    parser.add_argument("--json", metavar="FILE", help="write every sample there")
    parser.add_argument("--cell", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.cell:
        print(json.dumps(compare(options.cell, options)))
        return
    started = starting()
    headline(f"{options.repeat} repetitions of {options.tasks} tasks, {options.workers} workers")
    results, rows = [], []
    for family in FAMILIES:
        samples = in_child(__file__, *sys.argv[1:], "--cell", family)
        base = samples["standard"]
        ratios = to_standard(samples)
        results.append(
            {
                "family": family,
                "samples_ns_per_task": samples,
                "ratios": {contestant: spread(found) for contestant, found in ratios.items()},
            }
        )
        rows.append([family, shown([took / 1000 for took in base], ".1f") + " us", *map(shown, ratios.values())])
    print_table(["", *CONTESTANTS], rows)
    if options.json:
        save(options.json, "otherpools", options, started, results)


if __name__ == "__main__":
    main()

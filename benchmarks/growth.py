"""Whether watching gets dearer with what has been seen: functions, pools, finished tasks. Flat is what one wants.

    python benchmarks/growth.py [--sizes 1,100,10000] [--repeat N] [--tasks N] [--json FILE]

    functions       so many different functions have been submitted, and are, in turn
    open pools      beside the one measured, so many others are open, without a task
    dropped pools   so many pools have been made, used by no task, and dropped
    finished tasks  so many thousands of tasks have finished in the pool that is measured

Each case runs in an interpreter of its own, a batch at a time, the standard executor beside the drop-in in an order
drawn anew: microseconds a task of both, the ratio of the two, and the milliseconds that the background thread takes
for a reading that finds nothing new, ten times a second (the tasks do not wait for it). Median (min..max).
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import time
from concurrent.futures import ThreadPoolExecutor, wait

from common import headline, in_child, integers, nothing, print_table, save, shown, spread, start_workers, starting
from contestants import watch

import poolscope

CHUNK = 10_000


def functions(count):
    """Different functions with code of their own, as a program has them."""
    lines = "\n".join(f"def task_{number}(): pass" for number in range(count))
    made = {}
    exec(lines, made)
    return [made[f"task_{number}"] for number in range(count)]


def batch(pool, chosen, tasks):
    """Microseconds a task."""
    gc.collect()
    submitted = [chosen[number % len(chosen)] for number in range(tasks)]
    began = time.perf_counter_ns()
    wait([pool.submit(fn) for fn in submitted])
    return (time.perf_counter_ns() - began) / 1000 / tasks


def empty_reading(probe):
    """Milliseconds to find out that nothing has happened."""
    probe.flush()
    began = time.perf_counter_ns()
    probe.flush()
    return (time.perf_counter_ns() - began) / 1e6


def measure(dimension, size, options):
    """Samples with so many of them in place."""
    probe = watch()
    chosen, others = [nothing], []
    with poolscope.ThreadPoolExecutor(options.workers) as ours, ThreadPoolExecutor(options.workers) as standard:
        if dimension == "functions":
            chosen = functions(size)
        elif dimension == "open pools":
            others += [poolscope.ThreadPoolExecutor(1, f"other-{number}") for number in range(size)]
        elif dimension == "dropped pools":
            for number in range(size):
                poolscope.ThreadPoolExecutor(1, f"dropped-{number}").shutdown()
        else:
            for done in range(0, size * 1000, CHUNK):
                wait([ours.submit(nothing) for _ in range(min(CHUNK, size * 1000 - done))])
        for pool in (ours, standard):
            start_workers(pool, options.workers)
            wait([pool.submit(fn) for fn in chosen])
        probe.flush()
        samples = {"standard_us": [], "drop_in_us": [], "empty_reading_ms": []}
        order = [("standard_us", standard), ("drop_in_us", ours)]
        rng = random.Random(size)
        for _ in range(options.repeat):
            rng.shuffle(order)
            for name, pool in order:
                samples[name].append(batch(pool, chosen, options.tasks))
                if pool is ours:
                    samples["empty_reading_ms"].append(empty_reading(probe))
    print(json.dumps(samples))


DIMENSIONS = {
    "functions": "functions",
    "open pools": "open pools",
    "dropped pools": "dropped pools",
    "finished tasks": "thousand finished tasks",
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sizes", type=integers, default=[1, 100, 10_000])
    parser.add_argument("--repeat", type=int, default=15)
    parser.add_argument("--tasks", type=int, default=20_000)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--json", metavar="FILE", help="write every sample there")
    parser.add_argument("--measure", nargs=2, metavar=("DIMENSION", "SIZE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(options.measure[0], int(options.measure[1]), options)
        return
    started = starting()
    headline(f"{options.repeat} repetitions of {options.tasks} tasks, {options.workers} workers")
    words = ["--repeat", options.repeat, "--tasks", options.tasks, "--workers", options.workers, "--measure"]
    results, rows = [], []
    for dimension, title in DIMENSIONS.items():
        for size in options.sizes:
            samples = in_child(__file__, *words, dimension, size)
            standard, ours = samples["standard_us"], samples["drop_in_us"]
            ratios = [took / base for took, base in zip(ours, standard, strict=True)]
            results.append({"dimension": dimension, "size": size, "samples": samples, "ratio": spread(ratios)})
            rows.append([f"{size:,} {title}", shown(standard), shown(ours), shown(ratios)])
            rows[-1].append(shown(samples["empty_reading_ms"]))
    print()
    print_table(["", "standard, us", "drop-in, us", "ratio", "an empty reading, ms"], rows)
    if options.json:
        save(options.json, "growth", options, started, results)


if __name__ == "__main__":
    main()

"""What a queued task weighs: bytes for each of many tasks behind a worker that is busy.

    python benchmarks/memory.py [--tasks 1000000] [--contestants standard,drop-in,...] [--json FILE]

Each executor fills its queue in an interpreter of its own, twice: once for the growth of the resident memory, once
under tracemalloc, which sees what Python allocates and nothing else. Only the queue keeps the futures. Both are
read after what was recorded has been fetched; where a judge takes it, what the judge keeps is included.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import threading
import tracemalloc

import psutil
from common import headline, in_child, names, nothing, print_table, save, starting
from contestants import CONTESTANTS, watch

DEFAULT = ["standard", "drop-in", "drop-in judged", "patched"]
HOWS = {"resident": "resident bytes a task", "traced": "traced bytes a task"}


def resident():
    return psutil.Process().memory_info().rss


def traced():
    return tracemalloc.get_traced_memory()[0]


def fill(contestant, tasks, how):
    """Bytes a task."""
    read = resident if how == "resident" else traced
    probe = watch()
    with CONTESTANTS[contestant](1) as pool:
        busy, never = threading.Event(), threading.Event()
        pool.submit(lambda: (busy.set(), never.wait()))
        pool.submit(nothing)
        busy.wait()
        probe.flush()
        gc.collect()
        if how == "traced":
            tracemalloc.start()
        before = read()
        for _ in range(tasks):
            pool.submit(nothing)
        probe.flush()
        gc.collect()
        print(json.dumps((read() - before) / tasks))
        sys.stdout.flush()
        os._exit(0)  # not all these tasks have to be done


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tasks", type=int, default=1_000_000)
    parser.add_argument("--contestants", type=names(CONTESTANTS), default=DEFAULT)
    parser.add_argument("--json", metavar="FILE", help="write the figures there")
    parser.add_argument("--fill", nargs=2, metavar=("CONTESTANT", "HOW"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.fill:
        fill(options.fill[0], options.tasks, options.fill[1])
    if "standard" not in options.contestants:
        options.contestants.insert(0, "standard")
    started = starting()
    headline(f"{options.tasks} queued tasks, one worker, each in an interpreter of its own")
    results = {
        contestant: {how: in_child(__file__, "--tasks", options.tasks, "--fill", contestant, how) for how in HOWS}
        for contestant in options.contestants
    }
    base = results["standard"]
    rows = []
    for contestant, bytes_per_task in results.items():
        rows.append([contestant])
        for how in HOWS:
            rows[-1] += [f"{bytes_per_task[how]:.0f}", f"{bytes_per_task[how] / base[how]:.2f}"]
    print()
    print_table(["", *(heading for title in HOWS.values() for heading in (title, "ratio"))], rows)
    if options.json:
        save(options.json, "memory", options, started, results)


if __name__ == "__main__":
    main()

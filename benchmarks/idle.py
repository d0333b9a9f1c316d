"""What watching costs while nothing is submitted: the share of one core that poolscope's thread takes.

    python benchmarks/idle.py [--pools 0,1,10,100] [--workers 8] [--seconds 10] [--json FILE]

Each case runs alone in an interpreter of its own, at the default sample interval: pools whose workers are idle, and
pools whose workers are all in a task that takes longer (full pools, whose stacks are read). `recorded` hands what is
read to a sink that drops it, `judged` to the judge in the process. The share is the thread's own CPU clock over the
time that passed, after a second to settle. Needs the thread clocks of Linux.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
import time

from common import headline, in_child, integers, print_table, save, start_workers, starting
from contestants import watch

import poolscope
from poolscope.config import Settings
from poolscope.profiler import Observer

SETTLE_SECONDS = 1.0


def own_threads():
    """Native ids of the threads that Python's `threading` does not know: poolscope starts its own below it."""
    known = {thread.native_id for thread in threading.enumerate()}
    return [task for task in map(int, os.listdir("/proc/self/task")) if task not in known]


def cpu_ns(threads):
    # The system's number for the CPU clock of a thread; see clock_getcpuclockid(3).
    return sum(time.clock_gettime_ns((~native_id << 3) | 6) for native_id in threads)


def share(state, sink, pools, options):
    """CPU seconds of poolscope's thread for each second."""
    probe = watch()
    if sink == "judged":
        Observer(probe, Settings())
    never = threading.Event()
    open_pools = [poolscope.ThreadPoolExecutor(options.workers, f"pool-{number}") for number in range(pools)]
    for pool in open_pools:
        start_workers(pool, options.workers)
        if state == "busy":
            for _ in range(options.workers):
                pool.submit(never.wait)
    time.sleep(min(SETTLE_SECONDS, options.seconds))
    threads = own_threads()
    if not threads:
        sys.exit("poolscope's thread is not to be found")
    used, began = cpu_ns(threads), time.perf_counter_ns()
    time.sleep(options.seconds)
    print(json.dumps((cpu_ns(threads) - used) / (time.perf_counter_ns() - began)))
    sys.stdout.flush()
    os._exit(0)  # the busy workers never end


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pools", type=integers, default=[0, 1, 10, 100])
    parser.add_argument("--workers", type=int, default=8, help="of each pool")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--json", metavar="FILE", help="write the figures there")
    parser.add_argument("--share", nargs=3, metavar=("STATE", "SINK", "POOLS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.share:
        state, sink, pools = options.share
        share(state, sink, int(pools), options)
    started = starting()
    headline(f"{options.workers} workers a pool, {options.seconds:g} s each; percent of one core")
    words = ["--workers", options.workers, "--seconds", options.seconds, "--share"]
    cases = [(state, sink) for state in ("idle", "busy") for sink in ("recorded", "judged")]
    results = [
        {
            "pools": pools,
            "share": {f"{state}, {sink}": in_child(__file__, *words, state, sink, pools) for state, sink in cases},
        }
        for pools in options.pools
    ]
    print()
    rows = [[str(row["pools"]), *(f"{100 * found:.2f} %" for found in row["share"].values())] for row in results]
    print_table(["pools", *(f"{state}, {sink}" for state, sink in cases)], rows)
    if options.json:
        save(options.json, "idle", options, started, results)


if __name__ == "__main__":
    main()

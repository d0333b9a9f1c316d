"""What watching costs of semaphores and locks: one that nothing waits for, one that tasks queue for, and making one.

    python benchmarks/limits.py [--repeat N] [--rounds N] [--json FILE]

A round is an acquire and its release (`async with`, `with`), in one task or thread; or the same where eight tasks or
two threads take turns, so that each acquire has to wait; or a semaphore that is made and dropped. Each family has an
interpreter of its own. There, each repetition runs it without us, installed, and without us again, in an order drawn
anew, on a limit that is made for it. What has one thread is measured in CPU time of that, as other programs disturb it
less. Figures are nanoseconds without us, what we add, and the ratio, as median
(min..max); "again" is the noise.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import random
import sys
import threading
import time

from common import headline, in_child, print_table, save, shown, spread, starting
from contestants import watch

import poolscope

TASKS = 8


def asyncio_free(make):
    def run(rounds):
        async def main():
            limit = make()
            began = time.thread_time_ns()
            for _ in range(rounds):
                async with limit:
                    pass
            return (time.thread_time_ns() - began) / rounds

        return asyncio.run(main())

    return run


def asyncio_contended(make):
    def run(rounds):
        async def take(limit, times):
            for _ in range(times):
                async with limit:
                    await asyncio.sleep(0)

        async def main():
            limit = make()
            await asyncio.gather(*(take(limit, 10) for _ in range(TASKS)))
            began = time.thread_time_ns()
            await asyncio.gather(*(take(limit, rounds // TASKS) for _ in range(TASKS)))
            return (time.thread_time_ns() - began) / rounds

        return asyncio.run(main())

    return run


def threading_free(make):
    def run(rounds):
        limit = make()
        began = time.thread_time_ns()
        for _ in range(rounds):
            with limit:
                pass
        return (time.thread_time_ns() - began) / rounds

    return run


def threading_contended(make):
    def run(rounds):
        limit = make()
        ready = threading.Barrier(3)

        def take():
            ready.wait()
            for _ in range(rounds // 2):
                with limit:
                    time.sleep(0)
            ready.wait()

        threads = [threading.Thread(target=take) for _ in range(2)]
        for thread in threads:
            thread.start()
        ready.wait()
        began = time.perf_counter_ns()
        ready.wait()
        took = time.perf_counter_ns() - began
        for thread in threads:
            thread.join()
        return took / rounds

    return run


def made(make):
    def run(rounds):
        began = time.thread_time_ns()
        for _ in range(rounds):
            make()
        return (time.thread_time_ns() - began) / rounds

    return run


FAMILIES = {
    "asyncio.Lock, free": (asyncio_free(asyncio.Lock), 1.0),
    "asyncio.Semaphore(2), free": (asyncio_free(lambda: asyncio.Semaphore(2)), 1.0),
    "asyncio.Lock, contended": (asyncio_contended(asyncio.Lock), 0.2),
    "asyncio.Semaphore(2), contended": (asyncio_contended(lambda: asyncio.Semaphore(2)), 0.2),
    "asyncio.Semaphore(2), made": (made(lambda: asyncio.Semaphore(2)), 0.5),
    "threading.Semaphore(2), free": (threading_free(lambda: threading.Semaphore(2)), 1.0),
    "threading.Semaphore(1), contended": (threading_contended(lambda: threading.Semaphore(1)), 0.05),
    "threading.Semaphore(2), made": (made(lambda: threading.Semaphore(2)), 0.2),
}
CONTESTANTS = {
    "standard": contextlib.nullcontext,
    "again": contextlib.nullcontext,
    "watched": lambda: poolscope.install(loops=False),
}


def compare(family, options):
    """Samples of each contestant."""
    probe = watch()
    run, part = FAMILIES[family]
    rounds = int(options.rounds * part)
    samples = {contestant: [] for contestant in CONTESTANTS}
    rng = random.Random(family)
    for _ in range(options.repeat):
        for contestant in rng.sample(list(samples), len(samples)):
            probe.flush()  # what others have left is not for this one to fetch
            gc.collect()
            with CONTESTANTS[contestant]():
                samples[contestant].append(run(rounds))
    return samples


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeat", type=int, default=15)
    parser.add_argument("--rounds", type=int, default=100_000, help="of each run, fewer where they wait")
    parser.add_argument("--json", metavar="FILE", help="write every sample there")
    parser.add_argument("--cell", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.cell:
        print(json.dumps(compare(options.cell, options)))
        return
    started = starting()
    headline(f"{options.repeat} repetitions of up to {options.rounds} rounds")
    results, rows = [], []
    for family in FAMILIES:
        samples = in_child(__file__, *sys.argv[1:], "--cell", family)
        base = samples["standard"]
        ratios = {
            contestant: [took / standard for took, standard in zip(found, base, strict=True)]
            for contestant, found in samples.items()
            if contestant != "standard"
        }
        added = [took - standard for took, standard in zip(samples["watched"], base, strict=True)]
        results.append(
            {
                "family": family,
                "samples_ns_per_round": samples,
                "ratios": {contestant: spread(found) for contestant, found in ratios.items()},
            }
        )
        rows.append([family, shown(base, ".0f"), *map(shown, ratios.values()), shown(added, ".0f")])
    print_table(["", "standard ns", "again", "watched", "added ns"], rows)
    if options.json:
        save(options.json, "limits", options, started, results)


if __name__ == "__main__":
    main()

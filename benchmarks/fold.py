"""What the judge's records cost: microseconds for each finished task that it takes in, and bytes for each queued one.

    python benchmarks/fold.py [--tasks 200000] [--repeat 5] [--json FILE]

Frames as a probe sends them, made up beforehand, ten batches a second in parts that fit into a frame, are read and
folded into the histories of their pools; no thread, no pool and no diagnosis is involved. Microseconds of CPU time.

    storm            4 workers, 100,000 tasks a second that do nothing, the queue never empty
    mostly idle      4 workers, 100,000 tasks a second in turn, each worker idle between two of them
    functions        the storm, of so many functions
    pools            so many pools, each with its part of the tasks
    finished before  the storm, after so many tasks have finished in the same pool
    memory           1,000,000 queued tasks, and milliseconds for a batch beside them in which nothing happens

Median (min..max).
"""

from __future__ import annotations

import argparse
import gc
import time
import tracemalloc

from common import headline, print_table, save, shown, starting

from poolscope.aggregation.pool_history import PoolHistory
from poolscope.config import Settings
from poolscope.messages import PoolOpened, parse
from poolscope.probe.transport.channel import Decoder, encode
from poolscope.probe.transport.thinning import split_batch

WORKERS = 4
TICK_NS = 100_000_000
#: Tasks that finish in a batch.
CHUNK = 10_000
#: The fewest tasks in a batch, however many pools share them.
POOL_TASKS = 100
QUEUED = 1_000_000


def new_history(pool=0):
    settings = Settings()
    opened = PoolOpened(pool, f"pool-{pool}", "thread", "executor", "app.py:1", WORKERS, 0)
    return PoolHistory(
        opened,
        pid=1,
        keep_tasks=settings.keep_tasks,
        wait_bounds=[round(bound * 1e9) for bound in settings.metrics.wait_buckets],
        run_bounds=[round(bound * 1e9) for bound in settings.metrics.run_buckets],
    )


def batch(pool, at, finished, arrivals):
    return ("pool_batch", pool, at, WORKERS, WORKERS, 0, 0, finished, [], [], [], arrivals)


def storm(tick, tasks=CHUNK, functions=1, pool=0):
    """The batch of one tick: what finishes in it was submitted at least half a tick before it started."""
    begin, each = tick * TICK_NS, TICK_NS * WORKERS // tasks
    finished = []
    for worker in range(WORKERS):
        for number in range(tasks // WORKERS):
            start = begin + number * each + worker * each // WORKERS
            function = (number * WORKERS + worker) % functions
            end = start + each * 9 // 10 - number * 7919 % (each // 2)
            submitted = begin - TICK_NS // 2 + (start - begin) * 4 // 5
            finished += (worker + 1, function * 2, submitted, start, end)
    arrived = sorted(zip(finished[2::5], (key >> 1 for key in finished[1::5]), strict=True))
    arrivals = [item for at, function in arrived for item in (function, at)]
    return batch(pool, begin + TICK_NS, finished, arrivals)


def mostly_idle(tick):
    """As `storm`, but each task starts a microsecond after it was submitted."""
    message = storm(tick)
    finished, arrivals = message[7], message[11]
    finished[2::5] = [started - 1000 for started in finished[3::5]]
    arrivals[1::2] = sorted(finished[2::5])
    return message


def take(history, message):
    """As the judge takes a batch, and settles two ticks later."""
    batch = parse(message)
    history.fold(batch)
    history.settle(batch.at_ns - 2 * TICK_NS)


def fed(histories, messages):
    """Microseconds a finished task."""
    tasks = sum(len(message[7]) // 5 for message in messages)
    frames = [encode(part) for message in messages for part in split_batch(message)]
    decoder = Decoder()
    gc.collect()
    began = time.process_time_ns()
    for frame in frames:
        [message] = decoder.feed(frame)
        take(histories[message[1]], message)
    return (time.process_time_ns() - began) / 1000 / tasks


def many_functions(functions, ticks):
    return fed([new_history()], [storm(tick, functions=functions) for tick in range(1, ticks + 1)])


def many_pools(pools, ticks):
    """The same number of tasks at once, of so many pools in turn."""
    each = max(POOL_TASKS, CHUNK // pools)
    at_once = CHUNK // each
    messages = [
        storm(tick, each, pool=(tick * at_once + turn) % pools)
        for tick in range(1, ticks + 1)
        for turn in range(at_once)
    ]
    return fed([new_history(pool) for pool in range(pools)], messages)


def after(finished, ticks):
    history = new_history()
    before = finished // CHUNK
    for tick in range(1, before + 1):
        take(history, storm(tick))
    return fed([history], [storm(tick) for tick in range(before + 1, before + ticks + 1)])


def memory():
    """Bytes a queued task, and the milliseconds of a batch in which nothing happens."""
    history = new_history()
    gc.collect()
    tracemalloc.start()
    for tick in range(QUEUED // CHUNK):
        times = range(tick * TICK_NS, (tick + 1) * TICK_NS, TICK_NS // CHUNK)
        take(history, batch(0, (tick + 1) * TICK_NS, [], [item for at in times for item in (0, at)]))
    for later in range(1, 5):
        take(history, batch(0, (tick + 1 + later) * TICK_NS, [], []))
    gc.collect()
    used = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    began = time.process_time_ns()
    take(history, batch(0, (tick + 6) * TICK_NS, [], []))
    return used / QUEUED, (time.process_time_ns() - began) / 1e6


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tasks", type=int, default=200_000)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--only", help="the cases whose names contain this")
    parser.add_argument("--json", metavar="FILE", help="write every sample there")
    options = parser.parse_args()
    ticks = -(-options.tasks // CHUNK)
    cases = {
        "storm": lambda: fed([new_history()], [storm(tick) for tick in range(1, ticks + 1)]),
        "mostly idle": lambda: fed([new_history()], [mostly_idle(tick) for tick in range(1, ticks + 1)]),
        **{f"{n:,} functions": lambda n=n: many_functions(n, ticks) for n in (1, 100, 10_000)},
        **{f"{n:,} pools": lambda n=n: many_pools(n, ticks) for n in (1, 100, 10_000)},
        **{f"{n:,} finished before": lambda n=n: after(n, ticks) for n in (10**4, 10**5, 10**6)},
    }
    started = starting()
    headline(f"{options.repeat} repetitions of {ticks * CHUNK} tasks")
    results, rows = {}, []
    for name, case in cases.items():
        if options.only is None or options.only in name:
            results[name] = [case() for _ in range(options.repeat)]
            rows.append([name, shown(results[name])])
    print()
    print_table(["", "us a task"], rows)
    if options.only is None or options.only in "memory":
        used, empty = memory()
        results["memory"] = {"bytes": used, "empty_batch_ms": empty}
        print(f"\n{QUEUED:,} queued: {used:.0f} bytes each, {empty:.2f} ms for an empty batch")
    if options.json:
        save(options.json, "fold", options, started, results)


if __name__ == "__main__":
    main()

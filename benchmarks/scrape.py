"""What a scrape costs, beside prometheus_client's own metric objects rendered to as many lines, and what tasks notice.

    python benchmarks/scrape.py [--pools 1,10,100,1000] [--functions 10000] [--held 1000] [--repeat N] [--seconds S]
        [--json FILE]

Each case is a process of its own, judged in the same process and scraped there, as `poolscope.serve()` does it:

    pools                    so many drop-in pools that have worked
    functions                one pool with so many functions, that have worked; and one where all of them work again
                             between two scrapes
    pools held up            so many pools whose tasks do not come back: each has a finding that lasts

    flush, judge, families   what collecting consists of: fetching what was recorded since the last time, reading the
                             judge, building the families
    scrape                   all of it, and prometheus_client's rendering of it; also as OpenMetrics
    prometheus_client        Gauge, Counter and Histogram objects with the same names, labels and values, rendered
    ratio                    scrape to prometheus_client, in the same repetition
    round trip               a task that does nothing, submitted and waited for, again and again: alone, while one
                             scrape follows the other, while prometheus_client renders all the time, and while a thread
                             computes, which shows what is the interpreter lock's

All contestants run one after another in an order drawn anew for each repetition. Median (min..max).
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import random
import statistics
import threading
import time
from collections import deque

from common import headline, in_child, integers, print_table, save, shown, spread, starting
from growth import functions
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics

import poolscope
from poolscope.config import Settings
from poolscope.metrics.families import SnapshotCollector
from poolscope.model import Thresholds
from poolscope.probe import runtime
from poolscope.profiler import Observer

TASKS_PER_POOL = 20
PARTS = ("flush", "judge", "families")
RENDERINGS = ("scrape", "scrape, OpenMetrics", "prometheus_client", "prometheus_client, OpenMetrics")


def by_hand(collector):
    """A registry of prometheus_client's own metric objects with the names, labels and values of ours."""
    disable_created_metrics()
    registry = CollectorRegistry()
    for family in collector.collect():
        labels = {name: None for sample in family.samples for name in sample.labels if name != "le"}
        if not family.samples:  # only its two comment lines
            Gauge(family.name, family.documentation, ["none"], registry=registry)
            continue
        if family.type == "histogram":
            bounds = sorted({float(sample.labels["le"]) for sample in family.samples if "le" in sample.labels})
            made = Histogram(family.name, family.documentation, labels, buckets=bounds, registry=registry)
            for sample in family.samples:
                if sample.name.endswith("_sum"):
                    made.labels(**sample.labels).observe(sample.value)
            continue
        kind = Counter if family.type == "counter" else Gauge
        made = kind(family.name, family.documentation, labels, registry=registry)
        for sample in family.samples:
            (made.labels(**sample.labels) if sample.labels else made).inc(sample.value)
    return registry


def timed(call):
    """Milliseconds."""
    began = time.perf_counter_ns()
    call()
    return (time.perf_counter_ns() - began) / 1e6


def collected(observer, collector):
    """Milliseconds of each part of collecting."""
    found = {}
    found["flush"] = timed(lambda: observer._fetch(process=False))
    now = time.perf_counter_ns()
    with observer._lock:
        found["judge"] = timed(lambda: observer._engine.snapshot(now))
    found["families"] = timed(lambda: deque((deque(it.samples, 0) for it in collector.collect()), 0)) - found["judge"]
    return found


def compute():
    sum(range(100_000))


def round_trips(pool, beside, seconds):
    """Microseconds a round trip, while a thread calls `beside` again and again."""
    stop = threading.Event()
    ready = threading.Event()

    def go_on():
        while not stop.is_set():
            beside()
            ready.set()

    neighbour = threading.Thread(target=go_on)
    if beside is not None:
        neighbour.start()
        ready.wait()
    began, count = time.perf_counter(), 0
    while (passed := time.perf_counter() - began) < seconds:
        pool.submit(int).result()
        count += 1
    stop.set()
    if beside is not None:
        neighbour.join()
    return passed / count * 1e6


def hold_up(pools, observer):
    """Has a task in each pool that waits, one that waits for a worker, and the findings that come of it."""
    gate = threading.Event()
    for pool in pools:
        for _ in range(2):
            pool.submit(gate.wait)
    while sum(finding.active for finding in observer.snapshot().findings) < len(pools):
        time.sleep(0.5)
    return gate


def measure(pools, different, kind, options):
    logging.disable(logging.CRITICAL)  # a line for each pool that is held up
    observer = Observer(runtime.current(), Settings(detection=Thresholds(stall_seconds=1.0)))
    chosen = functions(different)
    workers = 1 if kind == "held" else 2
    made = [poolscope.ThreadPoolExecutor(workers, name=f"pool-{number}") for number in range(pools)]

    def work():
        for pool in made:
            for task in (chosen * TASKS_PER_POOL)[: max(TASKS_PER_POOL, different)]:
                pool.submit(task)
        for pool in made:
            pool.submit(int).result()
        observer._fetch()
        time.sleep(3 * observer.settings.sample_interval)  # until our thread has done with it

    work()
    gate = hold_up(made, observer) if kind == "held" else threading.Event()
    beside = poolscope.ThreadPoolExecutor(1, name="beside") if kind == "held" else made[0]
    again = work if kind == "working" else gc.collect
    collector = SnapshotCollector(observer.snapshot, observer.settings)
    judged = SnapshotCollector(lambda: observer._engine.snapshot(time.perf_counter_ns()), observer.settings)
    ours = CollectorRegistry()
    ours.register(collector)
    theirs = by_hand(collector)
    calls = {
        "scrape": lambda: generate_latest(ours),
        "scrape, OpenMetrics": lambda: generate_openmetrics(ours),
        "prometheus_client": lambda: generate_latest(theirs),
        "prometheus_client, OpenMetrics": lambda: generate_openmetrics(theirs),
    }
    text = calls["scrape"]()
    samples = {name: [] for name in (*PARTS, *RENDERINGS)}
    trips = {"alone": [], "scrape": [], "prometheus_client": [], "compute": []}
    rng = random.Random(pools)
    for _ in range(options.repeat):
        again()
        gc.collect()
        for part, took in collected(observer, judged).items():
            samples[part].append(took)
        for name in rng.sample(RENDERINGS, len(RENDERINGS)):
            again()
            gc.collect()
            samples[name].append(timed(calls[name]))
    for _ in range(options.repeat):
        for name in rng.sample(list(trips), len(trips)):
            trips[name].append(round_trips(beside, compute if name == "compute" else calls.get(name), options.seconds))
    result = {"lines": len(text.splitlines()), "bytes": len(text), "milliseconds": samples, "round_trip_us": trips}
    result["their_lines"] = len(calls["prometheus_client"]().splitlines())
    gate.set()
    print(json.dumps(result))


def ratios(samples, ours, theirs):
    return [took / base for took, base in zip(samples[ours], samples[theirs], strict=True)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pools", type=integers, default=[1, 10, 100, 1000])
    parser.add_argument("--functions", type=int, default=10_000)
    parser.add_argument("--held", type=int, default=1000, metavar="POOLS", help="that are held up")
    parser.add_argument("--repeat", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.2, help="of round trips, beside each neighbour")
    parser.add_argument("--json", metavar="FILE", help="write every sample there")
    parser.add_argument("--measure", nargs=3, metavar=("POOLS", "FUNCTIONS", "KIND"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        pools, different, kind = options.measure
        measure(int(pools), int(different), kind, options)
        return
    started = starting()
    headline(f"{options.repeat} repetitions")
    cases = [(f"{count:,} pool{'s' if count > 1 else ''}", count, 1, "worked") for count in options.pools]
    cases.append((f"{options.functions:,} functions", 1, options.functions, "worked"))
    cases.append((f"{options.functions:,} functions at work", 1, options.functions, "working"))
    cases.append((f"{options.held:,} pools held up", options.held, 1, "held"))
    results, costs, noticed = [], [], []
    for name, pools, different, kind in cases:
        sizes = ["--repeat", options.repeat, "--seconds", options.seconds]
        found = in_child(__file__, *sizes, "--measure", pools, different, kind)
        took, trips = found["milliseconds"], found["round_trip_us"]
        ratio = ratios(took, "scrape", "prometheus_client")
        modern = ratios(took, "scrape, OpenMetrics", "prometheus_client, OpenMetrics")
        results.append({"case": name, **found, "ratio": spread(ratio), "ratio_openmetrics": spread(modern)})
        collecting = [sum(parts) for parts in zip(*(took[part] for part in PARTS), strict=True)]
        costs.append([name, f"{found['lines']:,}", f"{found['bytes'] / 1000:,.0f} kB"])
        costs[-1] += [f"{statistics.median(took[part]):.2f}" for part in PARTS]
        costs[-1] += [shown(collecting), shown(took["scrape"], ".1f"), shown(took["prometheus_client"], ".1f")]
        costs[-1] += [shown(ratio), shown(modern)]
        noticed.append([name, *(shown(trips[kind], ".0f") for kind in trips)])
    print()
    columns = ["", "lines", "size", *PARTS, "collecting, ms", "scrape, ms", "prometheus_client, ms"]
    print_table([*columns, "ratio", "ratio, OpenMetrics"], costs)
    print()
    print_table(["round trip, us", "alone", "beside scrapes", "beside prometheus_client", "beside computing"], noticed)
    if options.json:
        save(options.json, "scrape", options, started, results)


if __name__ == "__main__":
    main()

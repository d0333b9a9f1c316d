"""Made-up fleets: what pools of other runtimes would have shown to Prometheus, scrape by scrape.

A pool is played as a queue in small steps, so that its gauges and counters agree as those of a real one do.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC
from typing import NamedTuple

from poolscope.config.mappings import Mapping as PoolMapping
from poolscope.config.settings import Settings
from poolscope.fleet import known
from poolscope.fleet.judging import Instance, Range
from poolscope.fleet.layout import Clock
from poolscope.fleet.samples import Assembly, Series
from poolscope.fleet.verdicts import Verdict

#: 2026-08-01 14:00 UTC.
BEGIN = 1_785_592_800.0
INTERVAL = 15.0
MAPPINGS = known.shipped()
BY_NAME = {mapping.name: mapping for mapping in MAPPINGS}


class Scrape(NamedTuple):
    """A pool at one scrape: gauges now, counters so far; waited and busy in seconds."""

    at: float
    limit: float
    active: float
    queued: float
    done: float
    waited: float
    busy: float


def played(
    arriving: Callable[[float], float],
    *,
    workers: int = 8,
    run: float | Callable[[float], float] = 0.5,
    seconds: float = 3600.0,
    interval: float = INTERVAL,
) -> list[Scrape]:
    """Scrapes of a pool that tasks come to at a rate (per second) that depends on the time since the begin (s)."""
    queued = done = waited = busy = 0.0
    scrapes = [Scrape(BEGIN, workers, 0, 0, 0, 0, 0)]
    for second in range(1, round(seconds) + 1):
        now = float(second)
        takes = run(now) if callable(run) else run
        # As a fluid: what does not get a worker waits.
        queued = max(0.0, queued + arriving(now) - workers / takes)
        active = workers if queued else min(workers, arriving(now) * takes)
        done, waited, busy = done + active / takes, waited + queued, busy + active
        if now % interval == 0:
            scrapes.append(Scrape(BEGIN + now, workers, round(active), int(queued), int(done), waited, busy))
    return scrapes


def rising(before: float, after: float, at: float, until: float = math.inf) -> Callable[[float], float]:
    """A rate that goes from one to another and back."""
    return lambda now: after if at <= now < until else before


def series(name: str, at: Sequence[float], values: Iterable[float], /, **labels: str) -> Series:
    whole = {"__name__": name, "job": "orders", "instance": "a:1"} | labels
    return Series(whole, array("d", at), array("d", values))


#: Metric, and what of a scrape it shows.
THREAD_POOL: Mapping[str, Callable[[Scrape], float]] = {
    "executor_pool_max_threads": lambda it: it.limit,
    "executor_pool_core_threads": lambda it: it.limit,
    "executor_pool_size_threads": lambda it: it.limit,
    "executor_active_threads": lambda it: it.active,
    "executor_queued_tasks": lambda it: it.queued,
    "executor_queue_remaining_tasks": lambda it: 2147483647 - it.queued,
    "executor_completed_tasks_total": lambda it: it.done,
}
HIKARI: Mapping[str, Callable[[Scrape], float]] = {
    "hikaricp_connections_max": lambda it: it.limit,
    "hikaricp_connections": lambda it: it.limit,
    "hikaricp_connections_active": lambda it: it.active,
    "hikaricp_connections_pending": lambda it: it.queued,
    "hikaricp_connections_acquire_seconds_sum": lambda it: it.waited,
    "hikaricp_connections_usage_seconds_count": lambda it: it.done,
    "hikaricp_connections_usage_seconds_sum": lambda it: it.busy,
}


def shown(
    scrapes: Sequence[Scrape], metrics: Mapping[str, Callable[[Scrape], float]], /, **labels: str
) -> list[Series]:
    """The series that a pool has of these scrapes."""
    at = [each.at for each in scrapes]
    return [series(name, at, map(of, scrapes), **labels) for name, of in metrics.items()]


def process(scrapes: Sequence[Scrape], cores: float, cpus: float = 4.0, **labels: str) -> list[Series]:
    """A JVM that uses so many cores."""
    at = [each.at for each in scrapes]
    used = [cores * (time - BEGIN) * 1e9 for time in at]
    return [
        series("process_cpu_time_ns_total", at, used, **labels),
        series("system_cpu_count", at, [cpus] * len(at), **labels),
    ]


def judged(
    found: Iterable[Series],
    settings: Settings = Settings(),  # noqa: B008  # frozen
    *,
    seconds: float = 3600.0,
    own: Sequence[PoolMapping] = (),
    points: int = 0,
) -> dict[str, Verdict]:
    """The verdict on each pool of one instance, by its name."""
    mappings = known.together(own, MAPPINGS)
    listed = list(found)
    assembly = Assembly(known.present(mappings, {each.labels["__name__"] for each in listed}))
    for each in listed:
        assembly.add(each)
    instance = Instance(assembly.pools(), {mapping.name: mapping for mapping in mappings})
    when = Range(BEGIN, BEGIN + seconds, Clock(BEGIN, zone=UTC), points=points)
    return {verdict.key.name: verdict for verdict in instance.judge(when, settings, {})}

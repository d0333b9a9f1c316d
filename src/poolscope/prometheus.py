"""Metric families from snapshots, built at the scrape and only then.

Nothing here runs while no one scrapes, nothing is registered in a registry of somebody else's, and no metric
object is ever touched by a task.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate
from math import fsum
from threading import Lock
from typing import NamedTuple, TypeVar

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from poolscope import __version__
from poolscope.config import DEFAULT_LISTEN, Settings
from poolscope.endpoint import Server
from poolscope.model import FindingCount, LoopSnapshot, PoolSnapshot, Snapshot

__all__ = ["Server", "SnapshotCollector", "serve_snapshots"]

#: The label `task` of all functions beyond the busiest ones.
OTHER = "other"

#: Values of the identifying labels: (pool,) or (pool, pid), likewise for loops and findings.
Key = tuple[str, ...]
Pools = Sequence[PoolSnapshot]
Loops = Sequence[LoopSnapshot]
#: Told of a part of poolscope that has failed, and how.
Failed = Callable[[str, Exception], object]
_Row = TypeVar("_Row", PoolSnapshot, LoopSnapshot, FindingCount)


def _advised(pools: Pools) -> float | None:
    # A process without advice keeps its size, so that the sum compares with the sum of max_workers.
    if all(pool.suggested_max_workers is None for pool in pools):
        return None
    return sum(pool.suggested_max_workers or pool.max_workers for pool in pools)


class _PoolValue(NamedTuple):
    """A metric with one value per pool. `read` merges the rows of one key; None: no series."""

    name: str
    help: str
    read: Callable[[Pools], float | None]


_POOL_GAUGES: tuple[_PoolValue, ...] = (
    _PoolValue(
        "poolscope_pool_max_workers",
        "Most tasks that can run at once.",
        lambda pools: sum(pool.max_workers for pool in pools),
    ),
    _PoolValue(
        "poolscope_pool_workers",
        "Workers that exist now.",
        lambda pools: sum(pool.workers for pool in pools),
    ),
    _PoolValue(
        "poolscope_pool_active_workers",
        "Workers that run a task now.",
        lambda pools: sum(pool.active for pool in pools),
    ),
    _PoolValue(
        "poolscope_pool_queue_depth",
        "Tasks submitted, not started and not cancelled.",
        lambda pools: sum(pool.queue_depth for pool in pools),
    ),
    _PoolValue(
        "poolscope_pool_oldest_queued_seconds",
        "Age of the oldest queued task in seconds, 0 if none is queued.",
        lambda pools: max(pool.oldest_queued_seconds for pool in pools),
    ),
    _PoolValue(
        "poolscope_pool_longest_running_seconds",
        "Seconds that the longest running task has run so far, 0 if none runs.",
        lambda pools: max(pool.longest_running_seconds for pool in pools),
    ),
    _PoolValue(
        "poolscope_pool_suggested_max_workers",
        "Size that would have kept the pool out of sustained saturation, while there is such advice.",
        _advised,
    ),
)

# `fsum` is exact whatever the order: a sum that comes out one rounding error lower than at the last scrape
# would be a counter that went back to zero.
_POOL_COUNTERS: tuple[_PoolValue, ...] = (
    _PoolValue(
        "poolscope_pool_tasks_submitted",
        "Tasks submitted.",
        lambda pools: sum(pool.submitted for pool in pools),
    ),
    _PoolValue(
        "poolscope_pool_tasks_rejected",
        "Submissions that the pool refused.",
        lambda pools: sum(pool.rejected for pool in pools),
    ),
    _PoolValue(
        "poolscope_pool_busy_seconds",
        "Seconds spent in tasks, summed over the workers: the time integral of active workers.",
        lambda pools: fsum(pool.busy_seconds for pool in pools),
    ),
    _PoolValue(
        "poolscope_pool_queued_seconds",
        "Seconds spent waiting, summed over the tasks: the time integral of queue depth.",
        lambda pools: fsum(pool.queued_seconds for pool in pools),
    ),
    _PoolValue(
        "poolscope_pool_saturated_seconds",
        "Seconds that the pool had no idle worker while tasks waited.",
        lambda pools: fsum(pool.saturated_seconds for pool in pools),
    ),
    _PoolValue(
        "poolscope_pool_cpu_seconds",
        "CPU seconds of the pool's workers.",
        lambda pools: fsum(pool.cpu_seconds for pool in pools),
    ),
)

_FINDING_LABELS = ("kind", "name", "pattern", "cause", "severity")


class SnapshotCollector(Collector):
    """Shows what `snapshot` returns. May be asked by several threads at once; so may `snapshot` then.

    The rows of several processes add up, ages take the maximum; with `per_process` each has a label pid.
    """

    def __init__(
        self,
        snapshot: Callable[[], Snapshot],
        settings: Settings,
        failed: Failed | None = None,
    ) -> None:
        """`failed` hears of what fails in `collect`, which then does not raise it, but shows nothing.

        For a registry of the program's, whose other metrics must not go down with ours.
        """
        self._snapshot = snapshot
        self._failed = failed
        self._metrics = settings.metrics
        self._per_process = settings.per_process
        self._wait_bounds = [*map(floatToGoString, settings.metrics.wait_buckets), "+Inf"]
        self._run_bounds = [*map(floatToGoString, settings.metrics.run_buckets), "+Inf"]
        self._tasks = _TaskLabels(settings.metrics.max_functions)

    def describe(self) -> Iterable[Metric]:
        """The families without samples. A registry that asks for these does not collect when it registers."""
        empty = Snapshot(python="", pools=(), loops=(), findings=(), overhead_cpu_seconds=0.0, errors={})
        for family in self._families(empty):
            family.samples = []
            yield family

    def collect(self) -> Iterable[Metric]:
        """The families of one snapshot. Raises what `snapshot` raises, unless somebody else hears of it."""
        try:
            snapshot = self._snapshot()
            self._tasks.keep(self._merged(snapshot.pools))
            return self._families(snapshot)
        except Exception as error:
            if self._failed is None:
                raise
            self._failed("collector", error)
            return []

    def _families(self, snapshot: Snapshot) -> list[Metric]:
        return [
            *self._about(snapshot),
            *self._pool_values(snapshot.pools),
            *self._pool_histograms(snapshot.pools),
            *(self._functions(snapshot.pools) if self._metrics.functions else ()),
            *self._findings(snapshot.findings),
            *self._loops(snapshot.loops),
        ]

    def _about(self, snapshot: Snapshot) -> Iterable[Metric]:
        build = GaugeMetricFamily(
            "poolscope_build_info",
            "Version of poolscope, and of the Python it watches. Always 1.",
            labels=("version", "python"),
        )
        build.add_metric((__version__, _label(snapshot.python)), 1)
        overhead = CounterMetricFamily(
            "poolscope_overhead_cpu_seconds",
            "CPU seconds that poolscope itself used in the watched processes.",
        )
        overhead.add_metric((), snapshot.overhead_cpu_seconds)
        errors = CounterMetricFamily("poolscope_errors", "Failures of poolscope itself, by part.", labels=("part",))
        for part, count in snapshot.errors.items():
            errors.add_metric((_label(part),), count)
        return build, overhead, errors

    def _pool_values(self, pools: Pools) -> Iterable[Metric]:
        labels = self._labels("pool")
        every = self._merged(pools)
        living = self._merged([pool for pool in pools if pool.alive])
        info = GaugeMetricFamily(
            "poolscope_pool_info", "What a pool is. Always 1.", labels=(*labels, "kind", "executor")
        )
        for key, rows in living.items():
            for kind, executor in sorted({(_label(row.kind), _label(row.executor)) for row in rows}):
                info.add_metric((*key, kind, executor), 1)
        yield info
        for gauge in _POOL_GAUGES:
            gauges = GaugeMetricFamily(gauge.name, gauge.help, labels=labels)
            for key, rows in living.items():
                if (value := gauge.read(rows)) is not None:
                    gauges.add_metric(key, value)
            yield gauges
        for counter in _POOL_COUNTERS:
            counters = CounterMetricFamily(counter.name, counter.help, labels=labels)
            for key, rows in every.items():
                if (value := counter.read(rows)) is not None:
                    counters.add_metric(key, value)
            yield counters
        finished = CounterMetricFamily(
            "poolscope_pool_tasks_finished",
            "Tasks that ended, by outcome: succeeded, failed, or cancelled before they started.",
            labels=(*labels, "outcome"),
        )
        for key, rows in every.items():
            finished.add_metric((*key, "succeeded"), sum(row.succeeded for row in rows))
            finished.add_metric((*key, "failed"), sum(row.failed for row in rows))
            finished.add_metric((*key, "cancelled"), sum(row.cancelled for row in rows))
        yield finished

    def _pool_histograms(self, pools: Pools) -> Iterable[Metric]:
        labels = self._labels("pool")
        wait = HistogramMetricFamily(
            "poolscope_task_wait_seconds", "Seconds from submission to start of a task.", labels=labels
        )
        run = HistogramMetricFamily("poolscope_task_run_seconds", "Seconds from start to end of a task.", labels=labels)
        for key, rows in self._merged(pools).items():
            waits = _cumulative(self._wait_bounds, [row.wait_buckets for row in rows])
            wait.add_metric(key, waits, fsum(row.wait_sum_seconds for row in rows))
            runs = _cumulative(self._run_bounds, [row.run_buckets for row in rows])
            run.add_metric(key, runs, fsum(row.run_sum_seconds for row in rows))
        return wait, run

    def _functions(self, pools: Pools) -> Iterable[Metric]:
        labels = (*self._labels("pool"), "task")
        started = CounterMetricFamily(
            "poolscope_function_started", "Tasks started, by submitted function.", labels=labels
        )
        busy = CounterMetricFamily(
            "poolscope_function_busy_seconds",
            "Seconds that workers spent in tasks, by submitted function.",
            labels=labels,
        )
        for key, rows in self._merged(pools).items():
            for task, total in self._tasks.bounded(key, _function_totals(rows)).items():
                started.add_metric((*key, task), total.started)
                busy.add_metric((*key, task), total.busy_seconds)
        return started, busy

    def _findings(self, findings: Sequence[FindingCount]) -> Iterable[Metric]:
        labels = (*_FINDING_LABELS, "pid") if self._per_process else _FINDING_LABELS
        lasting = GaugeMetricFamily("poolscope_finding", "1 while a finding of this sort lasts, then 0.", labels=labels)
        total = CounterMetricFamily("poolscope_findings", "Findings that began.", labels=labels)
        groups: dict[Key, list[FindingCount]] = {}
        for finding in findings:
            key = tuple(_label(getattr(finding, name)) for name in _FINDING_LABELS)
            groups.setdefault((*key, str(finding.pid)) if self._per_process else key, []).append(finding)
        for key, rows in groups.items():
            lasting.add_metric(key, any(row.active for row in rows))
            total.add_metric(key, sum(row.total for row in rows))
        return lasting, total

    def _loops(self, loops: Loops) -> Iterable[Metric]:
        labels = self._labels("loop")
        tasks = GaugeMetricFamily("poolscope_loop_tasks", "Tasks of the event loop that are not done.", labels=labels)
        for key, rows in self._merged([loop for loop in loops if loop.alive]).items():
            tasks.add_metric(key, sum(row.tasks for row in rows))
        blocked = CounterMetricFamily(
            "poolscope_loop_blocked_seconds", "Seconds that callbacks blocked the event loop.", labels=labels
        )
        lag = HistogramMetricFamily(
            "poolscope_loop_lag_seconds", "Seconds that the event loop ran a callback late.", labels=labels
        )
        for key, rows in self._merged(loops).items():
            blocked.add_metric(key, fsum(row.blocked_seconds for row in rows))
            lags = _cumulative(self._wait_bounds, [row.lag_buckets for row in rows])
            lag.add_metric(key, lags, fsum(row.lag_sum_seconds for row in rows))
        return tasks, blocked, lag

    def _labels(self, name: str) -> tuple[str, ...]:
        return (name, "pid") if self._per_process else (name,)

    def _merged(self, rows: Iterable[_Row]) -> dict[Key, list[_Row]]:
        """The rows of each series."""
        merged: dict[Key, list[_Row]] = {}
        for row in rows:
            name = _label(row.name)
            merged.setdefault((name, str(row.pid)) if self._per_process else (name,), []).append(row)
        return merged


class _Total(NamedTuple):
    started: int = 0
    busy_seconds: float = 0.0

    def minus(self, other: _Total) -> _Total:
        return _Total(self.started - other.started, self.busy_seconds - other.busy_seconds)

    def at_least(self, other: _Total) -> _Total:
        return _Total(max(self.started, other.started), max(self.busy_seconds, other.busy_seconds))


class _TaskLabels:
    """Bounds the label `task` of each pool to its busiest functions, and keeps every counter from going down.

    Which functions are the busiest changes from scrape to scrape. Of each function we therefore remember how
    much went out under its own name and how much as `other`: what it adds goes to where it is shown now, and
    what was counted stays where it was. Safe to use from several threads: one lock around all of it.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = Lock()
        self._named: dict[Key, dict[str, _Total]] = {}
        self._folded: dict[Key, dict[str, _Total]] = {}

    def keep(self, keys: Iterable[Key]) -> None:
        """Forgets the pools that are in none of `keys`: their series are gone."""
        with self._lock:
            for key in self._named.keys() - set(keys):
                del self._named[key], self._folded[key]

    def bounded(self, key: Key, totals: Mapping[str, _Total]) -> dict[str, _Total]:
        """Totals by label value: at most `limit` functions, and `other` once there were more."""
        candidates = [name for name in totals if name != OTHER]
        candidates.sort(key=lambda name: (-totals[name].busy_seconds, -totals[name].started, name))
        busiest = set(candidates[: self._limit])
        with self._lock:
            named = self._named.setdefault(key, {})
            folded = self._folded.setdefault(key, {})
            for name, total in totals.items():
                # `at_least`: a slow scrape may come here with an older snapshot than the one before it.
                if name in busiest:
                    rest = total.minus(folded.get(name, _Total()))
                    named[name] = rest.at_least(named.get(name, _Total()))
                else:
                    rest = total.minus(named.get(name, _Total()))
                    folded[name] = rest.at_least(folded.get(name, _Total()))
            shown = {name: named[name] for name in candidates[: self._limit]}
            if folded:
                shown[OTHER] = _Total(
                    sum(total.started for total in folded.values()),
                    fsum(total.busy_seconds for total in folded.values()),
                )
            return shown


def serve_snapshots(snapshot: Callable[[], Snapshot], settings: Settings, failed: Failed | None = None) -> Server:
    """An endpoint at `settings.listen`, or at 127.0.0.1:9464 if that is null.

    `snapshot` is called at each scrape by the endpoint's threads, by several at once if several clients ask; `failed`
    hears of what fails then. Raises ListenError.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(SnapshotCollector(snapshot, settings))
    return Server(registry, settings.listen or DEFAULT_LISTEN, settings.endpoint, failed=failed)


def _function_totals(pools: Pools) -> dict[str, _Total]:
    parts: dict[str, list[tuple[int, float]]] = {}
    for pool in pools:
        for name, started, busy_seconds in pool.functions:
            parts.setdefault(_label(name), []).append((started, busy_seconds))
    # Exact whatever the order, as above.
    return {
        label: _Total(sum(started for started, _ in rows), fsum(busy for _, busy in rows))
        for label, rows in parts.items()
    }


def _cumulative(bounds: Sequence[str], rows: Sequence[Sequence[int]]) -> list[tuple[str, float]]:
    """Buckets as Prometheus wants them, (le, count up to it), of counts per bucket of several rows."""
    counts = accumulate(map(sum, zip(*rows, strict=True)))
    return list(zip(bounds, counts, strict=True))


def _label(text: str) -> str:
    """A label value that can be encoded: names made of undecodable bytes hold lone surrogates."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")

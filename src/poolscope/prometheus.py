"""Metric families from snapshots, built at the scrape and only then.

Nothing here runs while no one scrapes, nothing is registered in a registry of somebody else's, and no metric
object is ever touched by a task.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from hashlib import blake2b
from itertools import accumulate
from math import fsum
from typing import NamedTuple, TypeVar, overload

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample
from prometheus_client.utils import floatToGoString

from poolscope import __version__
from poolscope.config import DEFAULT_LISTEN, Settings
from poolscope.counters import Floors, Key, TaskLabels, Total
from poolscope.endpoint import Server
from poolscope.model import FindingCount, LoopSnapshot, PoolSnapshot, Snapshot

__all__ = ["Server", "SnapshotCollector", "serve_snapshots"]

#: Characters of a label value; a longer name is cut, and keeps apart from others by a digest of all of it.
MAX_LABEL = 200

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


class _Samples(Sequence[Sample]):
    """The samples of a family, each made when it is written, and gone after it.

    A thousand pools have sixty thousand of them. All at once they set the garbage collector going some sixty times in
    one scrape, and while it goes no task does; one at a time, a handful of times.
    """

    def __init__(self, make: Callable[[], Iterator[Sample]]) -> None:
        self._make = make

    def __iter__(self) -> Iterator[Sample]:
        return self._make()

    def __len__(self) -> int:
        return sum(1 for _ in self)

    @overload
    def __getitem__(self, at: int) -> Sample: ...
    @overload
    def __getitem__(self, at: slice) -> list[Sample]: ...
    def __getitem__(self, at: int | slice) -> Sample | list[Sample]:
        return list(self)[at]


def _lazy(family: Metric, make: Callable[[], Iterator[Sample]]) -> Metric:
    family.samples = _Samples(make)  # type: ignore[assignment]  # a list to prometheus_client, which only iterates
    return family


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
        self._tasks = TaskLabels(settings.metrics.max_functions)
        self._pool_floors, self._loop_floors, self._finding_floors, self._own_floors = (Floors() for _ in range(4))

    def describe(self) -> Iterable[Metric]:
        """The families without samples. A registry that asks for these does not collect when it registers."""
        empty = Snapshot(python="", pools=(), loops=(), findings=(), overhead_cpu_seconds=0.0, errors={})
        for family in self._families(empty, {}, {}):
            family.samples = []
            yield family

    def collect(self) -> Iterator[Metric]:
        """The families of one snapshot, one after the other, so that only one is in memory while they are written.

        Raises what `snapshot` raises, unless somebody else hears of it: then there is no more to come.
        """
        try:
            snapshot = self._snapshot()
            pools, loops = self._merged(snapshot.pools), self._merged(snapshot.loops)
            self._tasks.keep(pools)
            self._pool_floors.keep(pools)
            self._loop_floors.keep(loops)
            for family in self._families(snapshot, pools, loops):
                if self._failed is not None:
                    # In a registry of the program's: what fails, fails here.
                    family.samples = list(family.samples)
                yield family
        except Exception as error:
            if self._failed is None:
                raise
            self._failed("collector", error)

    def _families(self, snapshot: Snapshot, pools: Mapping[Key, Pools], loops: Mapping[Key, Loops]) -> Iterator[Metric]:
        yield from self._about(snapshot)
        yield from self._pool_gauges(self._merged([pool for pool in snapshot.pools if pool.alive]))
        yield from self._pool_counters(pools)
        # Not those of the settings alone: the program may have given the judge others meanwhile.
        wait_bounds = _shown_bounds(snapshot.wait_bounds or self._metrics.wait_buckets)
        run_bounds = _shown_bounds(snapshot.run_bounds or self._metrics.run_buckets)
        yield from self._pool_histograms(pools, wait_bounds, run_bounds)
        if self._metrics.functions:
            yield from self._functions(pools)
        yield from self._findings(snapshot.findings)
        yield from self._loops(loops, self._merged([loop for loop in snapshot.loops if loop.alive]), wait_bounds)

    def _about(self, snapshot: Snapshot) -> Iterable[Metric]:
        hold = self._own_floors.hold
        build = InfoMetricFamily("poolscope_build", "Version of poolscope, and of the Python it watches. Always 1.")
        build.add_metric((), {"version": __version__, "python": _label(snapshot.python)})
        overhead = CounterMetricFamily(
            "poolscope_overhead_cpu_seconds",
            "CPU seconds that poolscope itself used in the watched processes.",
        )
        overhead.add_metric((), hold((), "overhead", snapshot.overhead_cpu_seconds))
        errors = CounterMetricFamily("poolscope_errors", "Failures of poolscope itself, by part.", labels=("part",))
        for part, count in snapshot.errors.items():
            key = (_label(part),)
            errors.add_metric(key, hold(key, "errors", count))
        return build, overhead, errors

    def _pool_gauges(self, living: Mapping[Key, Pools]) -> Iterator[Metric]:
        names = self._labels("pool")

        def infos() -> Iterator[Sample]:
            for key, rows in living.items():
                for kind, executor in sorted({(_label(row.kind), _label(row.executor)) for row in rows}):
                    labels = dict(zip(names, key, strict=True)) | {"kind": kind, "executor": executor}
                    yield Sample("poolscope_pool_info", labels, 1)

        def values(gauge: _PoolValue) -> Iterator[Sample]:
            for key, rows in living.items():
                if (value := gauge.read(rows)) is not None:
                    yield Sample(gauge.name, dict(zip(names, key, strict=True)), value)

        yield _lazy(InfoMetricFamily("poolscope_pool", "What a pool is. Always 1."), infos)
        for gauge in _POOL_GAUGES:
            yield _lazy(GaugeMetricFamily(gauge.name, gauge.help), partial(values, gauge))

    def _pool_counters(self, pools: Mapping[Key, Pools]) -> Iterator[Metric]:
        names, hold = self._labels("pool"), self._pool_floors.hold

        def values(counter: _PoolValue) -> Iterator[Sample]:
            sample = f"{counter.name}_total"
            for key, rows in pools.items():
                value = hold(key, counter.name, counter.read(rows) or 0)
                yield Sample(sample, dict(zip(names, key, strict=True)), value)

        def outcomes() -> Iterator[Sample]:
            for key, rows in pools.items():
                for outcome in ("succeeded", "failed", "cancelled"):
                    value = hold(key, outcome, sum(getattr(row, outcome) for row in rows))
                    labels = dict(zip(names, key, strict=True)) | {"outcome": outcome}
                    yield Sample("poolscope_pool_tasks_finished_total", labels, value)

        for counter in _POOL_COUNTERS:
            yield _lazy(CounterMetricFamily(counter.name, counter.help), partial(values, counter))
        finished = CounterMetricFamily(
            "poolscope_pool_tasks_finished",
            "Tasks that ended, by outcome: succeeded, failed, or cancelled before they started.",
        )
        yield _lazy(finished, outcomes)

    def _pool_histograms(
        self, pools: Mapping[Key, Pools], wait_bounds: Sequence[str], run_bounds: Sequence[str]
    ) -> Iterator[Metric]:
        names = self._labels("pool")

        def waits() -> Iterator[Sample]:
            for key, rows in pools.items():
                total = fsum(row.wait_sum_seconds for row in rows)
                counts = [row.wait_buckets for row in rows]
                labels = dict(zip(names, key, strict=True))
                yield from _histogram("poolscope_task_wait_seconds", labels, wait_bounds, counts, total)

        def runs() -> Iterator[Sample]:
            for key, rows in pools.items():
                total = fsum(row.run_sum_seconds for row in rows)
                counts = [row.run_buckets for row in rows]
                labels = dict(zip(names, key, strict=True))
                yield from _histogram("poolscope_task_run_seconds", labels, run_bounds, counts, total)

        wait = HistogramMetricFamily("poolscope_task_wait_seconds", "Seconds from submission to start of a task.")
        yield _lazy(wait, waits)
        yield _lazy(HistogramMetricFamily("poolscope_task_run_seconds", "Seconds from start to end of a task."), runs)

    def _functions(self, pools: Mapping[Key, Pools]) -> Iterable[Metric]:
        names = (*self._labels("pool"), "task")
        started = CounterMetricFamily("poolscope_function_started", "Tasks started, by submitted function.")
        busy = CounterMetricFamily(
            "poolscope_function_busy_seconds", "Seconds that workers spent in tasks, by submitted function."
        )
        for key, rows in pools.items():
            shown: dict[str, Total] = {}
            for name, total in self._tasks.bounded(key, _function_totals(rows)).items():
                task = _label(name)  # of the few that are shown; two that look alike as labels are one
                before = shown.get(task)
                shown[task] = total if before is None else Total(before[0] + total[0], before[1] + total[1])
            for task, total in shown.items():
                labels = dict(zip(names, (*key, task), strict=True))
                started.samples.append(Sample(f"{started.name}_total", labels, total.started))
                busy.samples.append(Sample(f"{busy.name}_total", labels.copy(), total.busy_seconds))
        return started, busy

    def _findings(self, findings: Sequence[FindingCount]) -> Iterable[Metric]:
        names = (*_FINDING_LABELS, "pid") if self._per_process else _FINDING_LABELS
        lasting = GaugeMetricFamily("poolscope_finding", "1 while a finding of this sort lasts, then 0.", labels=names)
        total = CounterMetricFamily("poolscope_findings", "Findings that began.", labels=names)
        groups: dict[Key, list[FindingCount]] = {}
        for finding in findings:
            key = tuple(_label(getattr(finding, name)) for name in _FINDING_LABELS)
            groups.setdefault((*key, str(finding.pid)) if self._per_process else key, []).append(finding)
        if groups:  # none also when only described
            self._finding_floors.keep(groups)
        for key, rows in groups.items():
            lasting.add_metric(key, any(row.active for row in rows))
            total.add_metric(key, self._finding_floors.hold(key, "total", sum(row.total for row in rows)))
        return lasting, total

    def _loops(
        self, loops: Mapping[Key, Loops], living: Mapping[Key, Loops], lag_bounds: Sequence[str]
    ) -> Iterable[Metric]:
        names = self._labels("loop")
        tasks = GaugeMetricFamily("poolscope_loop_tasks", "Tasks of the event loop that are not done.", labels=names)
        for key, rows in living.items():
            tasks.add_metric(key, sum(row.tasks for row in rows))
        blocked = CounterMetricFamily(
            "poolscope_loop_blocked_seconds", "Seconds that callbacks blocked the event loop.", labels=names
        )
        lag = HistogramMetricFamily("poolscope_loop_lag_seconds", "Seconds that the event loop ran a callback late.")
        for key, rows in loops.items():
            held = self._loop_floors.hold(key, "blocked", fsum(row.blocked_seconds for row in rows))
            blocked.add_metric(key, held)
            lags = [row.lag_buckets for row in rows], fsum(row.lag_sum_seconds for row in rows)
            labels = dict(zip(names, key, strict=True))
            lag.samples += _histogram("poolscope_loop_lag_seconds", labels, lag_bounds, *lags)
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


def serve_snapshots(
    snapshot: Callable[[], Snapshot],
    settings: Settings,
    failed: Failed | None = None,
    *,
    detailed: Callable[[], Snapshot] | None = None,
) -> Server:
    """An endpoint at `settings.listen`, or at 127.0.0.1:9464 if that is null.

    `snapshot` is called at each scrape, `detailed` (a snapshot with `details`; by default the same) where somebody asks
    for /findings; both on the endpoint's threads, one at a time. `failed` hears of what fails then. Raises ListenError.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(SnapshotCollector(snapshot, settings))
    source = detailed or snapshot
    listen = settings.listen or DEFAULT_LISTEN
    return Server(registry, listen, settings.endpoint, failed=failed, findings=lambda: source().details)


def _function_totals(pools: Pools) -> dict[str, Total]:
    if len(pools) == 1:
        return {name: Total(started, busy) for name, started, busy in pools[0].functions}
    parts: dict[str, list[tuple[int, float]]] = {}
    for pool in pools:
        for name, started, busy in pool.functions:
            parts.setdefault(name, []).append((started, busy))
    # Exact whatever the order, as above.
    return {
        name: Total(sum(started for started, _ in rows), fsum(busy for _, busy in rows)) for name, rows in parts.items()
    }


def _histogram(
    name: str, labels: Mapping[str, str], bounds: Sequence[str], rows: Sequence[Sequence[int]], total_seconds: float
) -> Iterator[Sample]:
    """The samples of one histogram, of counts per bucket of several rows; cumulative, as Prometheus wants them.

    Not `add_metric`, which takes half of the time of a scrape to put the labels together.
    """
    bucket, count = f"{name}_bucket", 0
    for bound, count in zip(bounds, accumulate(map(sum, zip(*rows, strict=True))), strict=True):
        yield Sample(bucket, {**labels, "le": bound}, count)
    yield Sample(f"{name}_count", dict(labels), count)
    yield Sample(f"{name}_sum", dict(labels), total_seconds)


def _shown_bounds(bounds: Sequence[float]) -> list[str]:
    return [*map(floatToGoString, bounds), "+Inf"]


def _label(text: str) -> str:
    """A label value: one that can be encoded (names made of undecodable bytes hold lone surrogates), and not too long.

    A pool's name is repeated on each of its sixty lines.
    """
    if text.isascii() and len(text) <= MAX_LABEL:
        return text
    safe = text.encode("utf-8", "backslashreplace").decode("utf-8")
    if len(safe) <= MAX_LABEL:
        return safe
    return f"{safe[: MAX_LABEL - 13]}~{blake2b(safe.encode(), digest_size=6).hexdigest()}"

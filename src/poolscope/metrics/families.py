"""Metric families from snapshots, built at the scrape and only then.

Nothing here runs while no one scrapes, nothing is registered in another registry, and no metric
object is ever touched by a task.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from hashlib import blake2b
from itertools import accumulate, repeat
from operator import add, attrgetter, sub
from types import MappingProxyType
from typing import NamedTuple, TypeVar, overload

from msgspec.structs import replace
from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample
from prometheus_client.utils import floatToGoString

from poolscope import __version__
from poolscope.aggregation.top_functions import OTHER
from poolscope.config import DEFAULT_LISTEN, Settings
from poolscope.endpoint import Page, Server
from poolscope.metrics.merge import buckets, pool_sum, up
from poolscope.metrics.monotonic import Floors, Key, TaskLabels
from poolscope.snapshot import FindingCount, LoopSnapshot, PoolSnapshot, Snapshot

__all__ = ["Server", "SnapshotCollector", "serve_snapshots"]

#: Characters of a label value; a longer name is cut, and keeps apart from others by a digest of all of it.
MAX_LABEL = 200

#: Called with a part of poolscope that has failed, and how.
Failed = Callable[[str, Exception], object]
_Row = TypeVar("_Row", PoolSnapshot, LoopSnapshot)

# The families are made once, and copied for each scrape: to check their names takes longer than to fill them.
_BUILD = Metric("poolscope_build", "Version of poolscope, and of the Python it watches. Always 1.", "info")
_OVERHEAD = Metric(
    "poolscope_overhead_cpu_seconds", "CPU seconds that poolscope itself used in the watched processes.", "counter"
)
_ERRORS = Metric("poolscope_errors", "Failures of poolscope itself, by part.", "counter")
_POOL = Metric("poolscope_pool", "What a pool is. Always 1.", "info")
#: Field of a pool's row -> the family that shows it.
_POOL_GAUGES = {
    "max_workers": Metric("poolscope_pool_max_workers", "Most tasks that can run at once.", "gauge"),
    "workers": Metric("poolscope_pool_workers", "Workers that exist now.", "gauge"),
    "active": Metric("poolscope_pool_active_workers", "Workers that run a task now.", "gauge"),
    "queue_depth": Metric("poolscope_pool_queue_depth", "Tasks submitted, not started and not cancelled.", "gauge"),
    "oldest_queued_seconds": Metric(
        "poolscope_pool_oldest_queued_seconds",
        "Age of the oldest queued task in seconds, 0 if none is queued.",
        "gauge",
    ),
    "longest_running_seconds": Metric(
        "poolscope_pool_longest_running_seconds",
        "Seconds that the longest running task has run so far, 0 if none runs.",
        "gauge",
    ),
    "suggested_max_workers": Metric(
        "poolscope_pool_suggested_max_workers",
        "Size that would have kept the pool out of sustained saturation, while there is such advice.",
        "gauge",
    ),
}
_POOL_COUNTERS = {
    "submitted": Metric("poolscope_pool_tasks_submitted", "Tasks submitted.", "counter"),
    "rejected": Metric("poolscope_pool_tasks_rejected", "Submissions that the pool refused.", "counter"),
    "busy_seconds": Metric(
        "poolscope_pool_busy_seconds",
        "Seconds spent in tasks, summed over the workers: the time integral of active workers.",
        "counter",
    ),
    "queued_seconds": Metric(
        "poolscope_pool_queued_seconds",
        "Seconds spent waiting, summed over the tasks: the time integral of queue depth.",
        "counter",
    ),
    "saturated_seconds": Metric(
        "poolscope_pool_saturated_seconds", "Seconds that the pool had no idle worker while tasks waited.", "counter"
    ),
    "occupied_seconds": Metric(
        "poolscope_pool_occupied_seconds",
        "Seconds that the pool had any task, queued or running: busy seconds by these are how many ran at once.",
        "counter",
    ),
    "cpu_seconds": Metric("poolscope_pool_cpu_seconds", "CPU seconds of the pool's workers.", "counter"),
}
_OUTCOMES = ("succeeded", "failed", "cancelled")
_FINISHED = Metric(
    "poolscope_pool_tasks_finished",
    "Tasks that ended, by outcome: succeeded, failed, or cancelled before they started.",
    "counter",
)
_WAIT = Metric("poolscope_task_wait_seconds", "Seconds from submission to start of a task.", "histogram")
_RUN = Metric("poolscope_task_run_seconds", "Seconds from start to end of a task.", "histogram")
_STARTED = Metric("poolscope_function_started", "Tasks started, by submitted function.", "counter")
_BUSY = Metric(
    "poolscope_function_busy_seconds", "Seconds that workers spent in tasks, by submitted function.", "counter"
)
_FINDING = Metric("poolscope_finding", "1 while a finding of this sort lasts, then 0.", "gauge")
_FINDINGS = Metric("poolscope_findings", "Findings that began.", "counter")
_FINDING_LABELS = ("kind", "name", "pattern", "cause", "severity")
_LOOP_TASKS = Metric("poolscope_loop_tasks", "Tasks of the event loop that are not done.", "gauge")
_BLOCKED = Metric("poolscope_loop_blocked_seconds", "Seconds that callbacks blocked the event loop.", "counter")
_AT_WORK = Metric("poolscope_loop_busy_seconds", "Seconds that the event loop was in callbacks.", "counter")
_LAG = Metric("poolscope_loop_lag_seconds", "Seconds that the event loop ran a callback late.", "histogram")

#: What must not go down, of a pool. Sums of seconds also change by a rounding when rows become one.
_COUNTED = (*_POOL_COUNTERS, *_OUTCOMES, "wait_sum_seconds", "run_sum_seconds")
_counted = attrgetter(*_COUNTED)


class _Pool(NamedTuple):
    """The rows of one pool, and what they come to. All its samples share the labels, which are never changed."""

    key: Key
    labels: dict[str, str]
    rows: Sequence[PoolSnapshot]
    sum: PoolSnapshot


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


def _shown(family: Metric, samples: Sequence[Sample]) -> Metric:
    copy = Metric.__new__(Metric)
    copy.__dict__.update(family.__dict__)
    copy.samples = samples  # type: ignore[assignment]  # a list to prometheus_client, which only iterates
    return copy


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
        """With `failed`, `collect` does not raise: it calls `failed` with the error, and shows nothing.

        For a registry of the program, whose other metrics must not fail with ours.
        """
        self._snapshot = snapshot
        self._failed = failed
        self._metrics = settings.metrics
        self._per_process = settings.per_process
        self._tasks = TaskLabels(settings.metrics.max_functions)
        self._pool_floors, self._loop_floors, self._finding_floors, self._own_floors = (Floors() for _ in range(4))

    def describe(self) -> Iterable[Metric]:
        """Return the families without samples. A registry that asks for these does not collect when it registers."""
        empty = Snapshot(python="", pools=(), loops=(), findings=(), overhead_cpu_seconds=0.0, errors={})
        return [_shown(family, []) for family in self._families(empty, [], {})]

    def collect(self) -> Iterator[Metric]:
        """Return the families of one snapshot, one after the other, so that only one is in memory while they are
        written.

        Raises what `snapshot` raises. With `failed`, it calls that and ends.
        """
        try:
            snapshot = self._snapshot()
            pools, loops = self._merged(snapshot.pools), self._merged(snapshot.loops)
            self._tasks.keep(pools)
            self._pool_floors.keep(pools)
            self._loop_floors.keep(loops)
            for family in self._families(snapshot, self._pools(pools), loops):
                if self._failed is not None:
                    # In a registry of the program: what fails, fails here.
                    family.samples = list(family.samples)
                yield family
        except Exception as error:
            if self._failed is None:
                raise
            self._failed("collector", error)

    def _families(
        self, snapshot: Snapshot, pools: Sequence[_Pool], loops: Mapping[Key, Sequence[LoopSnapshot]]
    ) -> Iterator[Metric]:
        yield from self._about(snapshot)
        yield from self._pool_gauges([pool for pool in pools if pool.sum.alive])
        yield from self._pool_counters(pools)
        # Not only those of the settings: the program may have given the engine others since.
        wait_bounds = _shown_bounds(snapshot.wait_bounds or self._metrics.wait_buckets)
        run_bounds = _shown_bounds(snapshot.run_bounds or self._metrics.run_buckets)
        yield _shown(_WAIT, _Samples(partial(_histograms, _WAIT.name, pools, wait_bounds, "wait")))
        yield _shown(_RUN, _Samples(partial(_histograms, _RUN.name, pools, run_bounds, "run")))
        if self._metrics.functions:
            yield from self._functions(pools)
        yield from self._findings(snapshot.findings)
        yield from self._loops(loops, wait_bounds)

    def _about(self, snapshot: Snapshot) -> Iterator[Metric]:
        hold = self._own_floors.hold
        versions = {"version": __version__, "python": _label(snapshot.python)}
        yield _shown(_BUILD, [Sample("poolscope_build_info", versions, 1)])
        (overhead,) = hold(("overhead",), (snapshot.overhead_cpu_seconds,))
        yield _shown(_OVERHEAD, [Sample("poolscope_overhead_cpu_seconds_total", {}, overhead)])
        errors = []
        for part, count in snapshot.errors.items():
            name = _label(part)
            (total,) = hold(("errors", name), (count,))
            errors.append(Sample("poolscope_errors_total", {"part": name}, total))
        yield _shown(_ERRORS, errors)

    def _pool_gauges(self, living: Sequence[_Pool]) -> Iterator[Metric]:
        def infos() -> Iterator[Sample]:
            for pool in living:
                alive = {(_label(row.kind), _label(row.executor)) for row in pool.rows if row.alive}
                for kind, executor in sorted(alive):
                    yield Sample("poolscope_pool_info", {**pool.labels, "kind": kind, "executor": executor}, 1)

        yield _shown(_POOL, _Samples(infos))
        for field, family in _POOL_GAUGES.items():
            yield _shown(family, _Samples(partial(_values, family.name, living, field)))

    def _pool_counters(self, pools: Sequence[_Pool]) -> Iterator[Metric]:
        def outcomes() -> Iterator[Sample]:
            for pool in pools:
                for outcome in _OUTCOMES:
                    labels = {**pool.labels, "outcome": outcome}
                    yield Sample("poolscope_pool_tasks_finished_total", labels, getattr(pool.sum, outcome))

        for field, family in _POOL_COUNTERS.items():
            yield _shown(family, _Samples(partial(_values, f"{family.name}_total", pools, field)))
        yield _shown(_FINISHED, _Samples(outcomes))

    def _functions(self, pools: Sequence[_Pool]) -> Iterator[Metric]:
        shown = [(pool.labels, self._tasks_of(pool)) for pool in pools]

        def started() -> Iterator[Sample]:
            for labels, tasks in shown:
                for task, (count, _) in tasks:
                    yield Sample("poolscope_function_started_total", {**labels, "task": task}, count)

        def busy() -> Iterator[Sample]:
            for labels, tasks in shown:
                for task, (_, busy_ns) in tasks:
                    yield Sample("poolscope_function_busy_seconds_total", {**labels, "task": task}, busy_ns / 1e9)

        yield _shown(_STARTED, _Samples(started))
        yield _shown(_BUSY, _Samples(busy))

    def _tasks_of(self, pool: _Pool) -> Iterable[tuple[str, tuple[int, int]]]:
        shown: dict[str, tuple[int, int]] = {}
        for name, (started, busy_ns) in self._tasks.bounded(pool.key, pool.rows):
            task = _label(name)  # of the few that are shown; two that look alike as labels are one
            before = shown.get(task, (0, 0))
            shown[task] = (before[0] + started, before[1] + busy_ns)
        return shown.items()

    def _findings(self, findings: Sequence[FindingCount]) -> Iterator[Metric]:
        names = (*_FINDING_LABELS, "pid") if self._per_process else _FINDING_LABELS
        groups: dict[Key, list[FindingCount]] = {}
        for finding in findings:
            key = tuple(_label(getattr(finding, name)) for name in _FINDING_LABELS)
            groups.setdefault((*key, str(finding.pid)) if self._per_process else key, []).append(finding)
        if groups:  # none also when only described
            self._finding_floors.keep(groups)
        lasting, began = [], []
        for key, rows in groups.items():
            labels = dict(zip(names, key, strict=True))
            sums = (sum(row.total for row in rows),)
            (total,) = self._finding_floors.hold(key, sums, (row.since_ns for row in rows))
            lasting.append(Sample("poolscope_finding", labels, any(row.active for row in rows)))
            began.append(Sample("poolscope_findings_total", labels, total))
        yield _shown(_FINDING, lasting)
        yield _shown(_FINDINGS, began)

    def _loops(self, loops: Mapping[Key, Sequence[LoopSnapshot]], lag_bounds: Sequence[str]) -> Iterator[Metric]:
        names = self._labels("loop")
        tasks: list[Sample] = []
        blocked: list[Sample] = []
        busy: list[Sample] = []
        lags: list[Sample] = []
        for key, rows in loops.items():
            labels = dict(zip(names, key, strict=True))
            if any(row.alive for row in rows):
                tasks.append(Sample("poolscope_loop_tasks", labels, sum(row.tasks for row in rows if row.alive)))
            fields = ("blocked_seconds", "lag_sum_seconds", "busy_seconds")
            sums = tuple(up([getattr(row, field) for row in rows]) for field in fields)
            held, lag, at_work = self._loop_floors.hold(key, sums, (row.since_ns for row in rows))
            blocked.append(Sample("poolscope_loop_blocked_seconds_total", labels, held))
            busy.append(Sample("poolscope_loop_busy_seconds_total", labels, at_work))
            counts = buckets([row.lag_buckets for row in rows])
            lags += _histogram(_LAG.name, labels, lag_bounds, counts, lag)
        yield _shown(_LOOP_TASKS, tasks)
        yield _shown(_BLOCKED, blocked)
        yield _shown(_AT_WORK, busy)
        yield _shown(_LAG, lags)

    def _labels(self, name: str) -> tuple[str, ...]:
        return (name, "pid") if self._per_process else (name,)

    def _merged(self, rows: Iterable[_Row]) -> dict[Key, list[_Row]]:
        """Return the rows of each series."""
        merged: dict[Key, list[_Row]] = {}
        for row in rows:
            name = _label(row.name)
            merged.setdefault((name, str(row.pid)) if self._per_process else (name,), []).append(row)
        return merged

    def _pools(self, merged: Mapping[Key, Sequence[PoolSnapshot]]) -> list[_Pool]:
        names = self._labels("pool")
        pools = []
        ahead = [0.0] * len(_COUNTED)  # by how much more is shown than there is
        # `other` last, less what the names are ahead by: a process may count a name as `other` that others still have.
        for key, rows in sorted(merged.items(), key=lambda item: item[0] == (OTHER,)):
            total = rows[0] if len(rows) == 1 else pool_sum(rows)
            counts = _counted(total)
            if key == (OTHER,):
                counts = tuple(map(max, map(sub, counts, ahead), repeat(0)))
            held = self._pool_floors.hold(key, counts, (row.since_ns for row in rows))
            ahead = list(map(add, ahead, map(sub, held, counts)))
            if held != _counted(total):
                total = replace(total, **dict(zip(_COUNTED, held, strict=True)))
            pools.append(_Pool(key, dict(zip(names, key, strict=True)), rows, total))
        return pools


def serve_snapshots(
    snapshot: Callable[[], Snapshot],
    settings: Settings,
    failed: Failed | None = None,
    *,
    detailed: Callable[[], Snapshot] | None = None,
    pages: Mapping[str, Page] = MappingProxyType({}),
) -> Server:
    """Return an endpoint at `settings.listen`, or at 127.0.0.1:9464 if that is null.

    `snapshot` is called at each scrape, `detailed` (a snapshot with `details`; by default the same) for a request for
    /findings; both on the endpoint's threads, one at a time. `failed` is called with what fails then. Raises
    ListenError.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(SnapshotCollector(snapshot, settings))
    source = detailed or snapshot
    listen = settings.listen or DEFAULT_LISTEN
    return Server(registry, listen, settings.endpoint, failed=failed, findings=lambda: source().details, pages=pages)


def _values(name: str, pools: Sequence[_Pool], field: str) -> Iterator[Sample]:
    """One value of each pool that has it."""
    for pool in pools:
        value = getattr(pool.sum, field)
        if value is not None:
            yield Sample(name, pool.labels, value)


def _histograms(name: str, pools: Sequence[_Pool], bounds: Sequence[str], kind: str) -> Iterator[Sample]:
    for pool in pools:
        counts, total = getattr(pool.sum, f"{kind}_buckets"), getattr(pool.sum, f"{kind}_sum_seconds")
        yield from _histogram(name, pool.labels, bounds, counts, total)


def _histogram(
    name: str, labels: dict[str, str], bounds: Sequence[str], counts: Sequence[int], total_seconds: float
) -> Iterator[Sample]:
    """Return the samples of one histogram, of counts per bucket; cumulative, as Prometheus wants them.

    Not `add_metric`, which takes half of the time of a scrape to put the labels together.
    """
    bucket, count = f"{name}_bucket", 0
    for bound, count in zip(bounds, accumulate(counts), strict=True):
        yield Sample(bucket, {**labels, "le": bound}, count)
    yield Sample(f"{name}_count", labels, count)
    yield Sample(f"{name}_sum", labels, total_seconds)


@lru_cache(maxsize=4)
def _shown_bounds(bounds: tuple[float, ...]) -> tuple[str, ...]:
    return (*map(floatToGoString, bounds), "+Inf")


def _label(text: str) -> str:
    """Return a label value: one that can be encoded (names made of undecodable bytes hold lone surrogates), and not too
    long.

    A pool's name is repeated on each of its sixty lines.
    """
    if text.isascii() and len(text) <= MAX_LABEL:
        return text
    safe = text.encode("utf-8", "backslashreplace").decode("utf-8")
    if len(safe) <= MAX_LABEL:
        return safe
    return f"{safe[: MAX_LABEL - 13]}~{blake2b(safe.encode(), digest_size=6).hexdigest()}"

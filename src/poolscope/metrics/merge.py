"""The snapshots of several processes as one. Pure.

Living processes give all that they have, those that do not answer what they have counted, and the dead one row per
name: their counters, summed. Summing rounds up: Prometheus would take a sum that is one rounding error lower than at
the last scrape for a counter that went back to zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from msgspec.structs import replace

from poolscope.aggregation.top_functions import OTHER
from poolscope.snapshot import FindingCount, LoopSnapshot, PoolSnapshot, Snapshot

#: The process that the rows of the dead are shown for.
DEAD_PID = 0

#: Names of pools and of loops of the dead that are kept apart, functions of one of their pools and of all of them
#: (then so many of each), and parts that failed; what is beyond becomes one.
NAMES_KEPT = 1_000
LOOPS_KEPT = 100
FUNCTIONS_KEPT = 1_000
ALL_FUNCTIONS_KEPT = 50_000
FEW_FUNCTIONS = 50
PARTS_KEPT = 50

_Row = TypeVar("_Row", PoolSnapshot, LoopSnapshot, FindingCount)

_NO_GAUGES = {
    "alive": False,
    "max_workers": 0,
    "workers": 0,
    "active": 0,
    "queue_depth": 0,
    "oldest_queued_seconds": 0.0,
    "longest_running_seconds": 0.0,
    "suggested_max_workers": None,
}
_LEVELS = ("max_workers", "workers", "active", "queue_depth")
_AGES = ("oldest_queued_seconds", "longest_running_seconds")
_COUNTS = ("submitted", "rejected", "succeeded", "failed", "cancelled")
_SECONDS = (
    "busy_seconds",
    "queued_seconds",
    "saturated_seconds",
    "occupied_seconds",
    "cpu_seconds",
    "wait_sum_seconds",
    "run_sum_seconds",
)


def merged(living: Sequence[Snapshot], others: Iterable[Snapshot]) -> Snapshot:
    """All rows of the `living` (at least one: the process that merges), and of the `others` what they counted."""
    everyone = [*living, *map(counted, others)]
    errors: dict[str, int] = {}
    for snapshot in everyone:
        _add_counts(errors, snapshot.errors)
    return replace(
        living[0],
        pools=tuple(row for snapshot in everyone for row in snapshot.pools),
        loops=tuple(row for snapshot in everyone for row in snapshot.loops),
        findings=tuple(row for snapshot in everyone for row in snapshot.findings),
        overhead_cpu_seconds=math.fsum(snapshot.overhead_cpu_seconds for snapshot in everyone),
        errors=errors,
        details=_all_details(living),
        subjects=tuple(subject for snapshot in living for subject in snapshot.subjects),
    )


def _all_details(living: Sequence[Snapshot]) -> Any:
    told = [snapshot.details for snapshot in living if snapshot.details is not None]
    return tuple(finding for findings in told for finding in findings) if told else None


def counted(snapshot: Snapshot) -> Snapshot:
    """Return the same without what is only true of a living process: its gauges, and lasting findings."""
    return replace(
        snapshot,
        pools=tuple(replace(row, **_NO_GAUGES) for row in snapshot.pools),
        loops=tuple(replace(row, alive=False, tasks=0) for row in snapshot.loops),
        findings=tuple(replace(row, active=False) for row in snapshot.findings),
        details=None,
        subjects=(),
    )


def retired(totals: Snapshot | None, last: Snapshot, living: Callable[[], Iterable[Snapshot]] = tuple) -> Snapshot:
    """Return the totals of the dead with those of one more, whose last snapshot was `last`. `living` gives the
    snapshots of the living: their names are kept, since a counter of a name that goes on must not go down."""
    last = counted(last)
    before = totals or replace(last, pools=(), loops=(), findings=(), overhead_cpu_seconds=0.0, errors={})
    errors = dict(before.errors)
    _add_counts(errors, last.errors)
    pools = _summed(before.pools, last.pools, _pool_key, _pools_sum)
    loops = _summed(before.loops, last.loops, _loop_key, _loops_sum)
    findings = _summed(before.findings, last.findings, _finding_key, _findings_sum)
    if len(pools) > NAMES_KEPT or len(loops) > LOOPS_KEPT:
        pools, loops, findings = _bounded(pools, loops, findings, list(living()))
    return replace(
        before,
        pools=_with_fewer_functions(pools),
        loops=loops,
        findings=findings,
        overhead_cpu_seconds=up((before.overhead_cpu_seconds, last.overhead_cpu_seconds)),
        errors=errors,
    )


def _summed(
    before: Iterable[_Row],
    added: Iterable[_Row],
    key_of: Callable[[_Row], tuple[str, ...]],
    add: Callable[[_Row, _Row], _Row],
) -> tuple[_Row, ...]:
    rows = {key_of(row): row for row in before}
    for row in added:
        key = key_of(row)
        rows[key] = add(rows[key], row) if key in rows else replace(row, pid=DEAD_PID)
    return tuple(rows.values())


def pool_sum(rows: Sequence[PoolSnapshot]) -> PoolSnapshot:
    """Return the sum of several rows of one pool, without their functions. Gauges are of the living rows."""
    living = [row for row in rows if row.alive]
    sums: dict[str, Any] = {name: sum(getattr(row, name) for row in living) for name in _LEVELS}
    sums |= {name: max((getattr(row, name) for row in living), default=0.0) for name in _AGES}
    sums |= {name: sum(getattr(row, name) for row in rows) for name in _COUNTS}
    sums |= {name: up([getattr(row, name) for row in rows]) for name in _SECONDS}
    return replace(
        rows[0],
        alive=bool(living),
        since_ns=min(row.since_ns for row in rows),
        wait_buckets=buckets([row.wait_buckets for row in rows]),
        run_buckets=buckets([row.run_buckets for row in rows]),
        suggested_max_workers=_advised(living),
        **sums,
    )


def _advised(living: Sequence[PoolSnapshot]) -> int | None:
    # A process without advice keeps its size, so that the sum compares with the sum of max_workers.
    if all(pool.suggested_max_workers is None for pool in living):
        return None
    return sum(pool.suggested_max_workers or pool.max_workers for pool in living)


def _pools_sum(one: PoolSnapshot, other: PoolSnapshot) -> PoolSnapshot:
    functions = _functions(_all_functions(one), _all_functions(other), FUNCTIONS_KEPT)
    return replace(pool_sum((one, other)), functions=functions, former_functions=())


def _loops_sum(one: LoopSnapshot, other: LoopSnapshot) -> LoopSnapshot:
    return replace(
        one,
        since_ns=min(one.since_ns, other.since_ns),
        lag_buckets=buckets((one.lag_buckets, other.lag_buckets)),
        lag_sum_seconds=up((one.lag_sum_seconds, other.lag_sum_seconds)),
        blocked_seconds=up((one.blocked_seconds, other.blocked_seconds)),
        busy_seconds=up((one.busy_seconds, other.busy_seconds)),
    )


def buckets(rows: Sequence[Sequence[int]]) -> Sequence[int]:
    """Return the sums of several histograms of the same bounds."""
    return rows[0] if len(rows) == 1 else tuple(map(sum, zip(*rows, strict=True)))


def _all_functions(pool: PoolSnapshot) -> Iterable[tuple[str, int, float]]:
    return (*pool.functions, *pool.former_functions)


def _functions(
    one: Iterable[tuple[str, int, float]], other: Iterable[tuple[str, int, float]], most: int
) -> tuple[tuple[str, int, float], ...]:
    sums: dict[str, tuple[int, float]] = {}
    for name, started, busy_seconds in (*one, *other):
        if name not in sums and len(sums) >= most:
            name = OTHER
        before = sums.get(name, (0, 0.0))
        sums[name] = (before[0] + started, up((before[1], busy_seconds)))
    return tuple((name, *values) for name, values in sums.items())


def _pool_key(row: PoolSnapshot) -> tuple[str, ...]:
    return (row.name,)


def _loop_key(row: LoopSnapshot) -> tuple[str, ...]:
    return (row.name, row.kind)


def _finding_key(row: FindingCount) -> tuple[str, ...]:
    return (row.kind, row.name, row.pattern, row.cause, row.severity)


def _findings_sum(one: FindingCount, other: FindingCount) -> FindingCount:
    return replace(one, total=one.total + other.total, since_ns=min(one.since_ns, other.since_ns))


def _bounded(
    pools: tuple[PoolSnapshot, ...],
    loops: tuple[LoopSnapshot, ...],
    findings: tuple[FindingCount, ...],
    living: Sequence[Snapshot],
) -> tuple[tuple[PoolSnapshot, ...], tuple[LoopSnapshot, ...], tuple[FindingCount, ...]]:
    """Bound the number of names, except for those of the living: a program may name each pool and thread anew."""
    tasks = {row.name: row.succeeded + row.failed for row in pools}
    folded_pools = _lightest(tasks, NAMES_KEPT, {row.name for told in living for row in told.pools})
    lags: dict[str, int] = {}
    for row in loops:
        lags[row.name] = lags.get(row.name, 0) + sum(row.lag_buckets)
    folded_loops = _lightest(lags, LOOPS_KEPT, {row.name for told in living for row in told.loops})
    folded = {("pool", name) for name in folded_pools} | {("loop", name) for name in folded_loops}
    return (
        _renamed(pools, lambda row: row.name in folded_pools, _pool_key, _pools_sum),
        _renamed(loops, lambda row: row.name in folded_loops, _loop_key, _loops_sum),
        _renamed(findings, lambda row: (row.kind, row.name) in folded, _finding_key, _findings_sum),
    )


def _lightest(weights: dict[str, int], most: int, kept: set[str]) -> set[str]:
    """Return the names to give up: those that did least, until a little less than `most` are left."""
    if len(weights) <= most:
        return set()
    names = sorted((name for name in weights if name != OTHER and name not in kept), key=lambda name: weights[name])
    return set(names[: max(0, len(weights) - (most - most // 10))])


def _renamed(
    rows: tuple[_Row, ...],
    folded: Callable[[_Row], bool],
    key_of: Callable[[_Row], tuple[str, ...]],
    add: Callable[[_Row, _Row], _Row],
) -> tuple[_Row, ...]:
    kept = [row for row in rows if not folded(row)]
    return _summed(kept, (replace(row, name=OTHER) for row in rows if folded(row)), key_of, add)


def _with_fewer_functions(pools: tuple[PoolSnapshot, ...]) -> tuple[PoolSnapshot, ...]:
    """Return fewer functions of each pool, where all together are too many for one file."""
    if sum(len(row.functions) for row in pools) <= ALL_FUNCTIONS_KEPT:
        return pools
    return tuple(replace(row, functions=_functions(row.functions, (), FEW_FUNCTIONS)) for row in pools)


def _add_counts(into: dict[str, int], more: dict[str, int]) -> None:
    for part, count in more.items():
        if part not in into and len(into) >= PARTS_KEPT:
            part = OTHER
        into[part] = into.get(part, 0) + count


def up(values: Sequence[float]) -> float:
    """Return the smallest float that is not less than the exact sum."""
    if len(values) == 1:
        return values[0]
    total = math.fsum(values)
    # What the sum has lost is exact too.
    if math.isfinite(total) and math.fsum((*values, -total)) > 0:
        return math.nextafter(total, math.inf)
    return total

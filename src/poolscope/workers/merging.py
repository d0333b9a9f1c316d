"""What several processes have to say, as one snapshot. Pure.

The living give all that they have, those that do not answer what they counted, and the dead one row per name: their
counters, summed. Summing rounds up: a sum one rounding error lower than at the last scrape would be a counter that
went back to zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from typing import Any, TypeVar

from msgspec.structs import replace

from poolscope.model import FindingCount, LoopSnapshot, PoolSnapshot, Snapshot

#: The process that the rows of the dead are shown for.
DEAD_PID = 0

#: Names of the dead that are kept apart, and functions of one of their pools; what is beyond becomes one.
NAMES_KEPT = 1_000
FUNCTIONS_KEPT = 1_000
OTHER = "other"

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
_COUNTS = ("submitted", "rejected", "succeeded", "failed", "cancelled")
_SECONDS = (
    "busy_seconds",
    "queued_seconds",
    "saturated_seconds",
    "cpu_seconds",
    "wait_sum_seconds",
    "run_sum_seconds",
)


def merged(living: Sequence[Snapshot], others: Iterable[Snapshot]) -> Snapshot:
    """All rows of the `living` (at least one: whoever merges), and of the `others` what they counted."""
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
    )


def _all_details(living: Sequence[Snapshot]) -> Any:
    told = [snapshot.details for snapshot in living if snapshot.details is not None]
    return tuple(finding for findings in told for finding in findings) if told else None


def counted(snapshot: Snapshot) -> Snapshot:
    """The same without what is only true of a process that lives: its gauges, and what lasts."""
    return replace(
        snapshot,
        pools=tuple(replace(row, **_NO_GAUGES) for row in snapshot.pools),
        loops=tuple(replace(row, alive=False, tasks=0) for row in snapshot.loops),
        findings=tuple(replace(row, active=False) for row in snapshot.findings),
        details=None,
    )


def retired(totals: Snapshot | None, last: Snapshot) -> Snapshot:
    """The totals of the dead with those of one more, whose last words were `last`."""
    last = counted(last)
    before = totals or replace(last, pools=(), loops=(), findings=(), overhead_cpu_seconds=0.0, errors={})
    errors = dict(before.errors)
    _add_counts(errors, last.errors)
    pools = _summed(before.pools, last.pools, lambda row: (row.name,), _pools_sum)
    return replace(
        before,
        pools=_bounded(pools),
        loops=_summed(before.loops, last.loops, lambda row: (row.name, row.kind), _loops_sum),
        findings=_summed(
            before.findings,
            last.findings,
            lambda row: (row.kind, row.name, row.pattern, row.cause, row.severity),
            lambda one, other: replace(one, total=one.total + other.total),
        ),
        overhead_cpu_seconds=_up(before.overhead_cpu_seconds, last.overhead_cpu_seconds),
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


def _pools_sum(one: PoolSnapshot, other: PoolSnapshot) -> PoolSnapshot:
    sums: dict[str, Any] = {name: getattr(one, name) + getattr(other, name) for name in _COUNTS}
    sums |= {name: _up(getattr(one, name), getattr(other, name)) for name in _SECONDS}
    return replace(
        one,
        wait_buckets=_buckets(one.wait_buckets, other.wait_buckets),
        run_buckets=_buckets(one.run_buckets, other.run_buckets),
        functions=_functions(_all_functions(one), _all_functions(other)),
        former_functions=(),
        **sums,
    )


def _loops_sum(one: LoopSnapshot, other: LoopSnapshot) -> LoopSnapshot:
    return replace(
        one,
        lag_buckets=_buckets(one.lag_buckets, other.lag_buckets),
        lag_sum_seconds=_up(one.lag_sum_seconds, other.lag_sum_seconds),
        blocked_seconds=_up(one.blocked_seconds, other.blocked_seconds),
    )


def _buckets(one: Sequence[int], other: Sequence[int]) -> tuple[int, ...]:
    return tuple(a + b for a, b in zip(one, other, strict=True))


def _all_functions(pool: PoolSnapshot) -> Iterable[tuple[str, int, float]]:
    return (*pool.functions, *pool.former_functions)


def _functions(
    one: Iterable[tuple[str, int, float]], other: Iterable[tuple[str, int, float]]
) -> tuple[tuple[str, int, float], ...]:
    sums: dict[str, tuple[int, float]] = {}
    for name, started, busy_seconds in (*one, *other):
        if name not in sums and len(sums) >= FUNCTIONS_KEPT:
            name = OTHER
        before = sums.get(name, (0, 0.0))
        sums[name] = (before[0] + started, _up(before[1], busy_seconds))
    return tuple((name, *values) for name, values in sums.items())


def _bounded(rows: tuple[PoolSnapshot, ...]) -> tuple[PoolSnapshot, ...]:
    """At most so many names: a program may give each of its pools one of its own."""
    if len(rows) <= NAMES_KEPT:
        return rows
    lightest = sorted((row for row in rows if row.name != OTHER), key=lambda row: row.succeeded + row.failed)
    folded = {row.name: replace(row, name=OTHER) for row in lightest[: NAMES_KEPT // 2]}
    kept = [row for row in rows if row.name not in folded]
    return _summed(kept, folded.values(), lambda row: (row.name,), _pools_sum)


def _add_counts(into: dict[str, int], more: dict[str, int]) -> None:
    for part, count in more.items():
        into[part] = into.get(part, 0) + count


def _up(one: float, other: float) -> float:
    """The smallest float that is not less than the exact sum."""
    total = one + other
    if math.isfinite(total) and Fraction(total) < Fraction(one) + Fraction(other):
        return math.nextafter(total, math.inf)
    return total

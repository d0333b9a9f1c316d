"""Frozen values of one moment: what a scrape, a live view and the other processes of a service are given."""

from __future__ import annotations

import msgspec

from poolscope.model import Finding, Severity


class PoolSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """All pools of one name in one process, at one moment, for a scrape.

    Gauges are of the pools that live, ages are maxima, counters include pools that ended. `*_buckets` are counts
    per bucket (not cumulative), one more than there are bounds. `functions` is (name, started, busy seconds) of the
    busiest and, as `other`, of the rest; `former_functions` is what was counted under the names of those that were
    among the busiest before. Both together are all that was done. `since_ns`: what was counted under this name before
    then may count as `other` by now; 0: all of it is here.
    """

    name: str
    kind: str
    executor: str
    pid: int
    alive: bool
    max_workers: int
    workers: int
    active: int
    queue_depth: int
    oldest_queued_seconds: float
    longest_running_seconds: float
    submitted: int
    rejected: int
    succeeded: int
    failed: int
    cancelled: int
    busy_seconds: float
    queued_seconds: float
    saturated_seconds: float
    cpu_seconds: float
    wait_buckets: tuple[int, ...]
    wait_sum_seconds: float
    run_buckets: tuple[int, ...]
    run_sum_seconds: float
    functions: tuple[tuple[str, int, float], ...]
    suggested_max_workers: int | None
    former_functions: tuple[tuple[str, int, float], ...] = ()
    since_ns: int = 0
    occupied_seconds: float = 0.0


class LoopSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """All event loops of one name in one process, at one moment. Lag uses the bounds of `wait_buckets`; `since_ns` is
    as of a pool."""

    name: str
    kind: str
    pid: int
    alive: bool
    lag_buckets: tuple[int, ...]
    lag_sum_seconds: float
    blocked_seconds: float
    tasks: int
    since_ns: int = 0
    busy_seconds: float = 0.0


class FindingCount(msgspec.Struct, frozen=True, kw_only=True):
    """How many findings of one sort there were, and whether one lasts. `kind` is "pool", "loop" or "program";
    `since_ns` is as of a pool."""

    kind: str
    name: str
    pid: int
    pattern: str
    cause: str
    severity: Severity
    active: bool
    total: int
    since_ns: int = 0


class Subject(msgspec.Struct, frozen=True):
    """What a finding is about: kind (pool, loop, program) and name; and how long ago the origin of its times was."""

    kind: str
    name: str
    age_seconds: float


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that the endpoint shows. `errors` counts our own failures by part.

    `*_bounds` are those of the buckets in seconds; None: as the settings say. `details` are the findings so far in
    full, stacks included; None: they were not asked for. A scrape does not. `subjects` says of each what it is about.
    """

    python: str
    pools: tuple[PoolSnapshot, ...]
    loops: tuple[LoopSnapshot, ...]
    findings: tuple[FindingCount, ...]
    overhead_cpu_seconds: float
    errors: dict[str, int]
    wait_bounds: tuple[float, ...] | None = None
    run_bounds: tuple[float, ...] | None = None
    details: tuple[Finding, ...] | None = None
    subjects: tuple[Subject, ...] = ()

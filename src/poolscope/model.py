"""Frozen values that findings and reports are made of (`poolscope.report/1`).

Times are seconds as floats; `*_seconds` offsets count from the start of the program. Nothing here computes.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

Severity = Literal["info", "warning", "critical"]

#: Most severe last, so that `SEVERITIES.index` orders them.
SEVERITIES: tuple[Severity, ...] = ("info", "warning", "critical")

#: In order of precedence, pools first: a tie between two findings goes to the earlier one.
PATTERNS: tuple[str, ...] = (
    "deadlock",
    "stalled",
    "stuck_workers",
    "serial",
    "async_then_serial",
    "burst",
    "loop_blocked",
)

SCHEMA = "poolscope.report/1"


def storable(value: Any) -> Any:
    """A plain value with what no encoder takes (lone surrogates, of paths that are not UTF-8) as backslash escapes."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, dict):
        return {storable(key): storable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [storable(item) for item in value]
    return value


class Frame(msgspec.Struct, frozen=True):
    """One line of code in evidence; `share` is the part (0 to 1) of the samples that were at it."""

    file: str
    line: int
    function: str
    source: str | None = None
    share: float | None = None


class Advice(msgspec.Struct, frozen=True):
    """What to do: an action of the contract, one sentence, and a number or a pool where there is one."""

    action: str
    text: str
    suggested_max_workers: int | None = None
    pool: str | None = None


class Finding(msgspec.Struct, frozen=True):
    """What happened, why, since when, how we know, and what to do."""

    pattern: str
    cause: str
    severity: Severity
    since_seconds: float
    until_seconds: float | None
    detected_after_seconds: float
    summary: str
    evidence: dict[str, float]
    frames: tuple[Frame, ...]
    advice: Advice


class Distribution(msgspec.Struct, frozen=True):
    """Seconds; percentiles are within 2 % of the exact ones; null where nothing was measured."""

    mean: float | None = None
    p50: float | None = None
    p95: float | None = None
    p99: float | None = None
    max: float | None = None


class TaskCounts(msgspec.Struct, frozen=True):
    """Tasks by what became of them."""

    submitted: int = 0
    started: int = 0
    succeeded: int = 0
    failed: int = 0
    cancelled: int = 0
    rejected: int = 0


class FunctionReport(msgspec.Struct, frozen=True):
    """Totals of one submitted function."""

    name: str
    started: int
    busy_seconds: float
    wait_seconds: Distribution
    run_seconds: Distribution


class SizingPoint(msgspec.Struct, frozen=True):
    """What a replay of the recorded tasks gives for one pool size."""

    workers: int
    wait_p50_seconds: float
    wait_p95_seconds: float
    makespan_seconds: float


class PoolReport(msgspec.Struct, frozen=True):
    """One pool: what it is, what it did, what is wrong with it."""

    name: str
    kind: str
    executor: str
    created_at: str
    pid: int
    max_workers: int
    peak_workers: int
    peak_active: int
    peak_queue_depth: int
    first_submit_seconds: float | None
    busy_seconds: float
    queued_seconds: float
    saturated_seconds: float
    cpu_seconds: float
    tasks: TaskCounts
    wait_seconds: Distribution
    run_seconds: Distribution
    functions: tuple[FunctionReport, ...]
    sizing: tuple[SizingPoint, ...] | None
    findings: tuple[Finding, ...]


class LoopReport(msgspec.Struct, frozen=True):
    """One event loop; loops of one name in one process are one row."""

    name: str
    kind: str
    pid: int
    blocked_seconds: float
    longest_block_seconds: float
    lag_seconds: Distribution
    peak_tasks: int
    findings: tuple[Finding, ...]


class ProcessReport(msgspec.Struct, frozen=True):
    """One process of the run."""

    pid: int
    parent: int | None
    command: tuple[str, ...]
    started_seconds: float
    ended_seconds: float | None
    exit_code: int | None
    cpu_seconds: float


class Overhead(msgspec.Struct, frozen=True):
    """What poolscope itself cost: CPU seconds, and their share of the run's wall-clock seconds."""

    cpu_seconds: float
    share: float


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The whole report, in the order of the contract."""

    schema: str = SCHEMA
    poolscope_version: str
    python: str
    command: tuple[str, ...]
    started_at: str
    duration_seconds: float
    exit_code: int | None
    verdict: str
    processes: tuple[ProcessReport, ...]
    pools: tuple[PoolReport, ...]
    event_loops: tuple[LoopReport, ...]
    findings: tuple[Finding, ...]
    notices: tuple[str, ...]
    overhead: Overhead

    def to_json(self) -> bytes:
        """The report as section 5 of the contract has it, indented."""
        try:
            plain = msgspec.json.encode(self)
        except UnicodeEncodeError:
            plain = msgspec.json.encode(storable(msgspec.to_builtins(self)))
        return msgspec.json.format(plain, indent=2) + b"\n"


class TimelinePoint(msgspec.Struct, frozen=True, array_like=True):
    """A pool over `[at - width, at]`: mean active workers, mean queue depth, longest wait, starts, finishes."""

    at_seconds: float
    width_seconds: float
    active: float
    queued: float
    wait_seconds: float
    started: int
    finished: int


class PoolTrace(msgspec.Struct, frozen=True):
    """What the report of a pool was made from.

    `tasks` holds little-endian int64 quadruples (function index, submitted, started, finished), nanoseconds from
    the start of the program, in order of submission; -1 for what had not happened when the record ended, or never did:
    a task cancelled before it started has started = finished = -1.
    """

    functions: tuple[str, ...]
    tasks: bytes
    timeline: tuple[TimelinePoint, ...]


class Session(msgspec.Struct, frozen=True):
    """A recorded run: the report, and beside each pool of it (same order) what it was made from."""

    report: Report
    traces: tuple[PoolTrace, ...]


class Thresholds(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """When a signal becomes a finding (seconds, and a ratio); the `detection` section of the settings."""

    sustain_seconds: float = 1.0
    min_amplification: float = 2.0
    stall_seconds: float = 10.0
    stuck_task_seconds: float = 30.0
    loop_blocked_seconds: float = 0.1


class PoolSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """All pools of one name in one process, at one moment, for a scrape.

    Gauges are of the pools that live, ages are maxima, counters include pools that ended. `*_buckets` are counts
    per bucket (not cumulative), one more than there are bounds. `functions` is (name, started, busy seconds) of the
    busiest and, as `other`, of the rest; `former_functions` is what was counted under the names of those that were
    among the busiest before. Both together are all that was done.
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


class LoopSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """All event loops of one name in one process, at one moment. Lag uses the bounds of `wait_buckets`."""

    name: str
    kind: str
    pid: int
    alive: bool
    lag_buckets: tuple[int, ...]
    lag_sum_seconds: float
    blocked_seconds: float
    tasks: int


class FindingCount(msgspec.Struct, frozen=True, kw_only=True):
    """How many findings of one sort there were, and whether one lasts. `kind` is "pool" or "loop"."""

    kind: str
    name: str
    pid: int
    pattern: str
    cause: str
    severity: Severity
    active: bool
    total: int


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that the endpoint shows. `errors` counts our own failures by part.

    `*_bounds` are those of the buckets in seconds; None: as the settings say. `details` are the findings so far in
    full, stacks included; None: nobody asked for them. A scrape does not.
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

"""What goes out: findings, what a scrape shows, and the report with what it was made from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from poolscope import __version__
from poolscope.analysis.rows import LoopRow, PoolRow
from poolscope.judge.records import Records
from poolscope.model import PATTERNS, SEVERITIES, Finding, Overhead, Report, Session, Snapshot

#: Fewer finished tasks than this, and no loop that ran `LOOP_NEEDED_NS`, is too little to judge by.
TASKS_NEEDED = 10
LOOP_NEEDED_NS = 1_000_000_000

T = TypeVar("T")
Row = TypeVar("Row", PoolRow, LoopRow)


def findings(records: Records, now_ns: int) -> tuple[Finding, ...]:
    """All findings so far, the most severe first."""
    each = _of_pools(records, PoolRow.findings) + _of_loops(records, lambda row: row.case.findings(now_ns))
    found = [finding for of_row in each for finding in of_row]
    return tuple(sorted(found, key=lambda finding: _order(finding, (now_ns - records.origin_ns) / 1e9)))


def _order(finding: Finding, end_seconds: float) -> tuple[int, int, float]:
    """Most severe first, then the order of the patterns, then the longest."""
    until = end_seconds if finding.until_seconds is None else finding.until_seconds
    return (
        -SEVERITIES.index(finding.severity),
        PATTERNS.index(finding.pattern),
        finding.since_seconds - until,
    )


def snapshot(records: Records, now_ns: int, *, details: bool) -> Snapshot:
    """What a scrape shows; with `details` also all findings in full."""
    counts = _of_pools(records, PoolRow.finding_counts)
    counts += _of_loops(records, LoopRow.finding_counts)
    metrics = records.settings.metrics
    return Snapshot(
        python=_python(records),
        pools=tuple(_of_pools(records, lambda row: row.snapshot(now_ns))),
        loops=tuple(_of_loops(records, LoopRow.snapshot)),
        findings=tuple(count for row_counts in counts for count in row_counts),
        overhead_cpu_seconds=_overhead_seconds(records),
        errors=dict(records.troubles.errors),
        wait_bounds=metrics.wait_buckets,
        run_bounds=metrics.run_buckets,
        details=findings(records, now_ns) if details else None,
    )


def session(
    records: Records,
    now_ns: int,
    *,
    command: Sequence[str],
    started_at: str,
    exit_code: int | None,
    own_cpu_seconds: float,
) -> Session:
    """The report as of now, and what it was made from. `own_cpu_seconds` were spent outside the watched processes."""
    pools = _of_pools(records, lambda row: row.report(now_ns, records.origin_ns))
    loops = _of_loops(records, lambda row: row.report(now_ns))
    pools.sort(key=lambda pool: (pool[0].pid, pool[0].first_submit_seconds or 0.0))
    found = findings(records, now_ns)
    duration = (now_ns - records.origin_ns) / 1e9
    cost = own_cpu_seconds + _overhead_seconds(records)
    report = Report(
        poolscope_version=__version__,
        python=_python(records),
        command=tuple(command),
        started_at=started_at,
        duration_seconds=duration,
        exit_code=exit_code,
        verdict=_verdict(records, found, now_ns),
        processes=tuple(process.report(records.origin_ns) for process in records.processes.values()),
        pools=tuple(row for row, _ in pools),
        event_loops=tuple(loops),
        findings=found,
        notices=tuple(records.troubles.notices),
        overhead=Overhead(cost, cost / duration if duration > 0 else 0.0),
    )
    return Session(report, tuple(trace for _, trace in pools))


def _verdict(records: Records, found: Sequence[Finding], now_ns: int) -> str:
    if found and found[0].severity != "info":
        return found[0].pattern
    finished = sum(row.finished for row in records.pool_rows.values())
    looped = any(row.case.history.ran_ns(now_ns) >= LOOP_NEEDED_NS for row in records.loop_rows.values())
    return "concurrent" if looped or finished >= TASKS_NEEDED else "insufficient_data"


def _python(records: Records) -> str:
    return next((process.hello.python for process in records.processes.values()), "unknown")


def _overhead_seconds(records: Records) -> float:
    return sum(process.overhead_ns for process in records.processes.values()) / 1e9


def _of_pools(records: Records, read: Callable[[PoolRow], T]) -> list[T]:
    return _of_each(records, records.pool_rows.values(), read, lambda row: row.name)


def _of_loops(records: Records, read: Callable[[LoopRow], T]) -> list[T]:
    return _of_each(records, records.loop_rows.values(), read, lambda row: row.case.history.name)


def _of_each(records: Records, rows: Iterable[Row], read: Callable[[Row], T], name_of: Callable[[Row], str]) -> list[T]:
    """What `read` says of each row. One that it fails at is left out, and told of."""
    found = []
    for row in rows:
        try:
            found.append(read(row))
        except Exception as error:
            records.troubles.misjudged(name_of(row), error)
    return found

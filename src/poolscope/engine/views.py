"""What goes out: findings, what a scrape shows, and the report with what it was made from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from poolscope import __version__
from poolscope.aggregation.function_sums import FUNCTIONS_KEPT
from poolscope.aggregation.top_functions import OTHER
from poolscope.engine import own_starts
from poolscope.engine.finding_list import FINDINGS_KEPT
from poolscope.engine.ingest import Ingest
from poolscope.engine.loop_row import LoopRow
from poolscope.engine.pool_row import PoolRow
from poolscope.engine.rows import ENDED_PID
from poolscope.model import (
    LOOP_NEEDED_SECONDS,
    TASKS_NEEDED,
    Finding,
    LoopReport,
    Overhead,
    PoolReport,
    PoolTrace,
    Report,
    Session,
)
from poolscope.ranking import rank
from poolscope.rules.in_turn import PATTERN, Row
from poolscope.rules.wording import are, counted
from poolscope.snapshot import Snapshot, Subject

#: The most findings in one list; all others are still with their pools and loops.
FINDINGS_TOLD = 500

#: Findings that only inform may be the verdict if they cover so much of the time.
COVERED = 0.5
#: The subject of what is about neither a pool nor a loop.
OF_PROGRAM = Row(kind="program")

T = TypeVar("T")
RowOf = TypeVar("RowOf", PoolRow, LoopRow)


def findings(ingest: Ingest, now_ns: int) -> tuple[Finding, ...]:
    """Return the findings so far, the most severe first, at most `FINDINGS_TOLD`."""
    return tuple(finding for _, finding in _told(ingest, now_ns))


def _told(ingest: Ingest, now_ns: int) -> list[tuple[Subject, Finding]]:
    """Return the same, each with its subject."""
    age = (now_ns - ingest.origin_ns) / 1e9
    pools = _of_pools(ingest, lambda row: (Subject("pool", row.name, age), row.findings()))
    loops = _of_loops(ingest, lambda row: (Subject("loop", row.name, age), row.findings(now_ns)))
    program = Subject("program", "", age)
    programs = [(program, tuple(turns.findings(OF_PROGRAM))) for turns in ingest.programs.values()]
    told = [(subject, finding) for subject, findings in (*pools, *loops, *programs) for finding in findings]
    told.sort(key=lambda each: rank(each[1], age))
    return told[:FINDINGS_TOLD]


def snapshot(ingest: Ingest, now_ns: int, *, details: bool) -> Snapshot:
    """Return what a scrape shows; with `details` also all findings in full."""
    counts = _of_pools(ingest, PoolRow.finding_counts)
    counts += _of_loops(ingest, LoopRow.finding_counts)
    counts += [turns.counts(OF_PROGRAM, pid, now_ns) for pid, turns in ingest.programs.items()]
    metrics = ingest.settings.metrics
    told = _told(ingest, now_ns) if details else None
    return Snapshot(
        python=ingest.python,
        pools=tuple(_of_pools(ingest, lambda row: row.snapshot(now_ns))),
        loops=tuple(_of_loops(ingest, LoopRow.snapshot)),
        findings=tuple(count for row_counts in counts for count in row_counts),
        overhead_cpu_seconds=_overhead_seconds(ingest),
        errors=dict(ingest.health.errors),
        wait_bounds=metrics.wait_buckets,
        run_bounds=metrics.run_buckets,
        details=None if told is None else tuple(finding for _, finding in told),
        subjects=tuple(subject for subject, _ in told or ()),
    )


def session(
    ingest: Ingest,
    now_ns: int,
    *,
    command: Sequence[str],
    started_at: str,
    exit_code: int | None,
    own_cpu_seconds: float,
) -> Session:
    """Return the report as of now and its sources. `own_cpu_seconds` were spent outside the watched processes."""
    pools = _of_pools(ingest, lambda row: row.report(now_ns, ingest.origin_ns))
    loops = _of_loops(ingest, lambda row: row.report(now_ns))
    pools.sort(key=lambda pool: (pool[0].pid, pool[0].first_submit_seconds or 0.0))
    found = findings(ingest, now_ns)
    duration = (now_ns - ingest.origin_ns) / 1e9
    starts = ingest.own_starts.reports()
    cost = own_cpu_seconds + _overhead_seconds(ingest)
    report = Report(
        poolscope_version=__version__,
        python=ingest.python,
        command=tuple(command),
        started_at=started_at,
        duration_seconds=duration,
        exit_code=exit_code,
        verdict=_verdict(ingest, found, now_ns),
        processes=tuple(
            sorted(
                (*ingest.ended.reports(), *(it.report(ingest.origin_ns) for it in ingest.processes.values())),
                key=lambda process: process.started_seconds,
            )
        ),
        pools=tuple(row for row, _ in pools),
        event_loops=tuple(loops),
        findings=found,
        notices=(
            *own_starts.texts(starts, nothing_else=not pools and not loops),
            *ingest.health.texts(),
            *_of_less(ingest, pools, loops, found),
        ),
        overhead=Overhead(cost, cost / duration if duration > 0 else 0.0),
        own_starts=starts,
    )
    blocks = _of_loops(ingest, lambda row: row.trace(ingest.origin_ns))
    return Session(report, tuple(trace for _, trace in pools), tuple(blocks))


def _of_less(
    ingest: Ingest,
    pools: Sequence[tuple[PoolReport, PoolTrace]],
    loops: Sequence[LoopReport],
    found: Sequence[Finding],
) -> Iterator[str]:
    """Return notices of what is only reported in sums, because there was so much of it."""
    if processes := ingest.ended.folded:
        yield (
            f"{processes:,} processes that have ended are reported together, as process {ENDED_PID}: "
            "their CPU time is one sum, and their pools and event loops are one row a name"
        )
    for rows, what in ((ingest.pool_rows, "pools"), (ingest.loop_rows, "event loops")):
        if rows.names_folded:
            names = rows.names_folded
            yield f"{counted(names, 'name')} of {what} that have ended {are(names)} one row, '{OTHER}', in true totals"
    if functions := sum(row.functions_folded for row in ingest.pool_rows):
        folded = f"{counted(functions, 'function')} {are(functions)} '{OTHER}' of their pools"
        yield f"{folded}, where those were more than {FUNCTIONS_KEPT:,}"
    left_out = sum(row.findings_left_out for row in ingest.pool_rows)
    left_out += sum(row.case.left_out for row in ingest.loop_rows)
    if left_out:
        counts = f"{counted(left_out, 'finding')} {are(left_out)} only counted"
        yield f"{counts}: the most severe and latest {FINDINGS_KEPT} of a row are kept"
    told = sum(len(pool.findings) for pool, _ in pools) + sum(len(loop.findings) for loop in loops)
    if told > len(found):
        beyond = told - len(found)
        stand = "stands" if beyond == 1 else "stand"
        yield f"{counted(beyond, 'finding')} {stand} with pools and event loops only, not in the list of all"


def _verdict(ingest: Ingest, found: Sequence[Finding], now_ns: int) -> str:
    if found and found[0].severity != "info":
        return found[0].pattern
    if _in_turn(ingest):
        return PATTERN
    finished = sum(row.finished for row in ingest.pool_rows)
    looped = any(row.case.history.ran_ns(now_ns) >= LOOP_NEEDED_SECONDS * 1e9 for row in ingest.loop_rows)
    return "concurrent" if looped or finished >= TASKS_NEEDED else "insufficient_data"


def _in_turn(ingest: Ingest) -> bool:
    """Whether waiting in turn covers half of the time in which anything was under way."""
    covered = sum(turns.covered_ns(OF_PROGRAM) for turns in ingest.programs.values())
    rows: list[PoolRow | LoopRow] = [*ingest.pool_rows, *ingest.loop_rows]
    covered += sum(row.turns.covered_ns(row.in_turn) for row in rows if row.turns is not None)
    under_way = sum(process.turns.under_way_ns for process in ingest.processes.values()) + ingest.ended.under_way_ns
    return covered > 0 and covered >= COVERED * under_way


def _overhead_seconds(ingest: Ingest) -> float:
    living = sum(process.overhead_ns for process in ingest.processes.values())
    return (ingest.ended.overhead_ns + living) / 1e9


def _of_pools(ingest: Ingest, read: Callable[[PoolRow], T]) -> list[T]:
    return _of_each(ingest, ingest.pool_rows, read, lambda row: row.name)


def _of_loops(ingest: Ingest, read: Callable[[LoopRow], T]) -> list[T]:
    return _of_each(ingest, ingest.loop_rows, read, lambda row: row.name)


def _of_each(
    ingest: Ingest, rows: Iterable[RowOf], read: Callable[[RowOf], T], name_of: Callable[[RowOf], str]
) -> list[T]:
    """Return what `read` returns for each row. A row that it fails at is left out, and reported."""
    found = []
    for row in rows:
        try:
            found.append(read(row))
        except Exception as error:
            ingest.health.misjudged(name_of(row), error)
    return found

"""`poolscope whatif`: a recorded run, replayed with other sizes of its pools."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from statistics import median_low

from poolscope.analysis.sizing import LARGEST, Task, curve, sizes_around
from poolscope.errors import PoolscopeError
from poolscope.model import PoolReport, PoolTrace, Session, SizingPoint


def sizes(text: str) -> tuple[int, ...]:
    """The sizes in "4,8,16-64", in order. Raises PoolscopeError for anything else."""
    found: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not (_is_size(first) and (not dash or _is_size(last))):
            raise PoolscopeError(
                f"--workers {text}: expected sizes from 1 to {LARGEST} such as 4,8,16-64, found {part.strip()!r}"
            )
        found.update(range(int(first), int(last or first) + 1))
    if not found:
        raise PoolscopeError(f"--workers {text}: the range ends before it begins; the smaller size goes first")
    return tuple(sorted(found))


def tasks(trace: PoolTrace) -> list[Task]:
    """The recorded tasks, for a replay. One that never ended gets the median run of its function."""
    numbers = array("q", trace.tasks)
    records = [tuple(numbers[at : at + 4]) for at in range(0, len(numbers), 4)]
    runs: dict[int, list[int]] = {}
    for function, _, started, finished in records:
        if finished >= 0:
            runs.setdefault(function, []).append(finished - started)
    usual = {function: median_low(known) for function, known in runs.items()}
    return [
        Task(submitted, finished - started if finished >= 0 else usual.get(function, 0))
        for function, submitted, started, finished in records
    ]


def lines(session: Session, pool: str | None, workers: Sequence[int] | None) -> Iterator[str]:
    """The sizing curves as text. Raises PoolscopeError if there is no such pool, or nothing to replay."""
    pools = [
        (row, trace)
        for row, trace in zip(session.report.pools, session.traces, strict=True)
        if pool is None or row.name == pool
    ]
    if not pools:
        names = ", ".join(sorted({row.name for row in session.report.pools})) or "none"
        wanted = "no pool" if pool is None else f"no pool {pool!r}"
        raise PoolscopeError(f"{wanted} in this session; its pools: {names}")
    for row, trace in pools:
        yield from _pool_lines(row, trace, workers)


def _pool_lines(row: PoolReport, trace: PoolTrace, workers: Sequence[int] | None) -> Iterator[str]:
    recorded = tasks(trace)
    title = f"pool {row.name} (pid {row.pid}), {row.max_workers} workers, {len(recorded)} tasks replayed"
    yield "".join(char if char.isprintable() else "?" for char in title)
    if not recorded:
        yield "  nothing was recorded that could be replayed"
        yield ""
        return
    suggested = [found.advice.suggested_max_workers for found in row.findings]
    chosen = workers or sizes_around(row.max_workers, next((size for size in suggested if size), None))
    yield f"  {'workers':>7}  {'wait p50':>10}  {'wait p95':>10}  {'makespan':>10}"
    for point in curve(recorded, chosen):
        yield _point(point, row.max_workers)
    yield "  Run times are taken as recorded, whatever the number of workers."
    yield ""


def _point(point: SizingPoint, present: int) -> str:
    mark = "  as it is" if point.workers == present else ""
    waits = f"{point.wait_p50_seconds:>8.3f} s  {point.wait_p95_seconds:>8.3f} s"
    return f"  {point.workers:>7}  {waits}  {point.makespan_seconds:>8.3f} s{mark}"


def _is_size(text: str) -> bool:
    return text.isascii() and text.isdigit() and 1 <= int(text[:6]) <= LARGEST and len(text) <= 6

"""`poolscope whatif`: a recorded run, replayed with other sizes of its pools."""

from __future__ import annotations

import argparse
import sys
from array import array
from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import attrgetter, gt
from statistics import median_low

from poolscope import session
from poolscope.addresses import addresses, means
from poolscope.aggregation.replay import Task, run_times
from poolscope.commands.console import UNREADABLE, tell
from poolscope.errors import PoolscopeError
from poolscope.model import PoolReport, PoolTrace, Session, SizingPoint
from poolscope.plain import one_line
from poolscope.rules.table import NOT_SIZE
from poolscope.rules.wording import noun
from poolscope.rules.wording import workers as workers_of
from poolscope.signals.closed_loop import ClosedLoop, Visit, closed_loop
from poolscope.signals.pool_signals import workers_for_cpu
from poolscope.signals.sizing import LARGEST, curve, sizes_around


def do(options: argparse.Namespace) -> int:
    """Print what other sizes would have done to the pools of a session."""
    workers = sizes(options.workers) if options.workers is not None else None
    recorded = session.load(options.session)
    try:
        tell(lines(recorded, options.pool, workers))
    except UNREADABLE as error:
        raise session.unusable(options.session, error) from error
    return 0


def sizes(text: str) -> tuple[int, ...]:
    """Return the sizes in "4,8,16-64", in order. Raises PoolscopeError for anything else."""
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


def tasks(trace: PoolTrace, end_ns: int) -> list[Task]:
    """Return the tasks of a record that ended at `end_ns`, for a replay, in order of submission.

    One that never ran gets the median run of its function, or of the pool; one that still ran at least the time it had.
    The record is a file's: whatever its numbers are, it takes no more time than another one of so many tasks.
    """
    functions, submitted, started, finished = _columns(trace)
    usual: dict[int, int] = {}
    if any(end < 0 for end in finished):
        usual = _usual_runs(functions, started, finished)
    runs = run_times(functions, started, finished, end_ns, usual.__getitem__)
    recorded = list(map(Task, submitted, (max(run, 0) for run in runs)))
    if any(map(gt, submitted, submitted[1:])):
        recorded.sort(key=attrgetter("submitted_ns"))
    return recorded


def loop(row: PoolReport, trace: PoolTrace, end_ns: int) -> ClosedLoop | None:
    """Return what submitted to a pool and waited for results, as its last such finding says; None if that cannot be
    replayed, or there is none."""
    found = next((each for each in reversed(row.findings) if "closed_population" in each.evidence), None)
    if found is None:
        return None
    begin = int(found.since_seconds * 1e9)
    until = end_ns if found.until_seconds is None else int(found.until_seconds * 1e9)
    known = [
        task
        for task in zip(*_columns(trace), strict=True)
        if task[1] <= until and not 0 <= task[3] <= begin and (task[2] >= 0 or task[3] < 0)
    ]
    if not known:
        return None
    functions, submitted, started, finished = zip(*known, strict=True)
    usual = _usual_runs(functions, started, finished)
    runs = run_times(functions, started, finished, end_ns, usual.__getitem__)
    ends = (end if end >= 0 else sys.maxsize for end in finished)
    return closed_loop(map(Visit, functions, submitted, ends, (max(run, 0) for run in runs)))


def _columns(trace: PoolTrace) -> tuple[Sequence[int], ...]:
    """Return function, submitted, started and finished of the tasks, each as one sequence."""
    numbers = array("q", trace.tasks)
    if sys.byteorder == "big":
        numbers.byteswap()
    return tuple(numbers[field::4] for field in range(4))


def _usual_runs(functions: Sequence[int], started: Sequence[int], finished: Sequence[int]) -> dict[int, int]:
    """Return the median run of each function with an unfinished task; that of all tasks if none of its own ended."""
    same: dict[int, list[int]] = {function: [] for function, end in zip(functions, finished, strict=True) if end < 0}
    every: list[int] = []
    for function, begin, end in zip(functions, started, finished, strict=True):
        if end >= 0:
            every.append(end - begin)
            if function in same:
                same[function].append(end - begin)
    any_other = median_low(every or [0])
    return {function: median_low(its) if its else any_other for function, its in same.items()}


def lines(session: Session, pool: str | None, workers: Sequence[int] | None) -> Iterator[str]:
    """Return the sizing curves as text. Raises PoolscopeError if there is no such pool, or nothing to replay."""
    named = addresses(session.report.pools)
    pools = [
        (name, row, trace)
        for name, row, trace in zip(named, session.report.pools, session.traces, strict=True)
        if pool is None or means(pool, row)
    ]
    if not pools:
        names = ", ".join(sorted({*named})) or "none"
        wanted = "no pool" if pool is None else f"no pool {pool!r}"
        raise PoolscopeError(f"{wanted} in this session; its pools: {names}")
    for name, row, trace in pools:
        yield from _pool_lines(name, row, trace, int(session.report.duration_seconds * 1e9), workers)


def _pool_lines(
    name: str, row: PoolReport, trace: PoolTrace, end_ns: int, workers: Sequence[int] | None
) -> Iterator[str]:
    recorded, closed = tasks(trace, end_ns), loop(row, trace, end_ns)
    places = f"{noun(row.kind)}s"
    title = f"pool {name} (pid {row.pid}), {workers_of(row.max_workers, row.kind)}, {len(recorded)} tasks replayed"
    yield one_line(title)
    if not recorded:
        yield "  nothing was recorded that could be replayed"
        yield ""
        return
    suggested = [found.advice.suggested_max_workers for found in row.findings]
    chosen = workers or sizes_around(row.max_workers, next((size for size in suggested if size), None))
    wide = max(7, len(places))
    yield f"  {places:>{wide}}  {'wait p50':>10}  {'wait p95':>10}  {'makespan':>10}"
    enough = _cpu_enough(row)
    points = curve(recorded, chosen) if closed is None else map(closed.point, chosen)
    shown = [(point.workers, _numbers(point, row.max_workers, enough)) for point in points]
    # Sizes that follow each other and differ in nothing are one row.
    for (_, numbers), run in groupby(enumerate(shown), lambda place: (place[1][0] - place[0], place[1][1])):
        sizes = [size for _, (size, _) in run]
        yield f"  {f'{sizes[0]}-{sizes[-1]}' if len(sizes) > 1 else sizes[0]:>{wide}}  {numbers}"
    yield f"  Run times are taken as recorded, whatever the number of {places}."
    if closed is not None:
        together = f"{closed.population} tasks at a time"
        yield f"  What submits waits for results before it submits more: replayed with {together}."
    yield from _warnings(row, enough, closed)
    yield ""


def _cpu_enough(row: PoolReport) -> int | None:
    """How many workers use up the CPU that the pool can have, as far as a finding has measured it."""
    for found in reversed(row.findings):
        limit, share = found.evidence.get("cpu_limit_cores"), found.evidence.get("worker_cpu_share")
        if limit and share:
            return workers_for_cpu(limit, share)
    return None


def _warnings(row: PoolReport, enough: int | None, closed: ClosedLoop | None) -> Iterator[str]:
    """Where this pool's curve is not to be believed."""
    if enough is not None and enough < LARGEST:
        yield f"  About {enough} busy workers use up the CPU they can have: beyond that, tasks would run longer."
    for found in row.findings:
        if "closed_population" in found.evidence and closed is None:
            yield (
                f"  What submits waits for results before it submits more, {found.evidence['closed_population']:.0f} "
                "tasks at a time: on another size the tasks would come at other times, so this is no forecast."
            )
            return
        if found.advice.action in ("raise_max_workers", "bound_submission") and found.advice.pool is not None:
            yield f"  {one_line(found.advice.text)}"
            return
    causes = {found.cause for found in row.findings if found.severity != "info"} & NOT_SIZE
    if causes:
        yield f"  The report says {' and '.join(sorted(causes))}: more {noun(row.kind)}s would wait for that too."


def _numbers(point: SizingPoint, present: int, enough: int | None) -> str:
    mark = "  as it is" if point.workers == present else ""
    if enough is not None and point.workers > enough:
        mark += "  beyond the CPU"
    waits = f"{point.wait_p50_seconds:>8.3f} s  {point.wait_p95_seconds:>8.3f} s"
    return f"{waits}  {point.makespan_seconds:>8.3f} s{mark}"


def _is_size(text: str) -> bool:
    return text.isascii() and text.isdigit() and 1 <= int(text[:6]) <= LARGEST and len(text) <= 6

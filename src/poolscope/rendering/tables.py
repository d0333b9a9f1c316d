"""The tables of a report: pools, event loops, the functions of a pool, and its sizing curve."""

from __future__ import annotations

import math
from collections.abc import Container, Sequence
from typing import NamedTuple, TypeVar

from poolscope.model import FunctionReport, LoopReport, PoolReport, SizingPoint
from poolscope.rendering.text import Line, Medium, Style, cells, more
from poolscope.rules.wording import counted, noun

Item = TypeVar("Item")

MOST_ROWS = 12
MOST_FUNCTIONS = 5
MOST_SIZES = 10

_GAP = 2
_LEAST_NAME = 14


class Head(NamedTuple):
    """A column after the first; where there is no room for all, the highest `drop` leaves first, 0 never."""

    title: str
    drop: int = 0


class Row(NamedTuple):
    """A name, a clean text for each column, the style of the name, and a note behind the last column."""

    name: str
    values: tuple[str, ...]
    style: Style = ""
    note: str = ""


def table(medium: Medium, title: str, heads: Sequence[Head], rows: Sequence[Row], *, indent: int) -> list[Line]:
    """Names to the left, numbers to the right, in at most the width of the medium."""
    widths = [max(cells(head.title), *(cells(row.values[index]) for row in rows)) for index, head in enumerate(heads)]
    kept = list(range(len(heads)))
    wanted = max(cells(title), *(cells(row.name) for row in rows))
    noted = max(cells(row.note) + _GAP if row.note else 0 for row in rows)

    def room() -> int:
        return medium.width - indent - noted - sum(widths[index] + _GAP for index in kept)

    while room() < min(wanted, _LEAST_NAME):
        droppable = [index for index in kept if heads[index].drop]
        if not droppable:
            break
        kept.remove(max(droppable, key=lambda index: (heads[index].drop, index)))
    name_width = max(4, min(wanted, room()))

    def line(row: Row, numbers: Style) -> Line:
        name = medium.cut(row.name, name_width)
        first = " " * indent + name + " " * (name_width - cells(name))
        rest = "".join(" " * (_GAP + widths[i] - cells(row.values[i])) + row.values[i] for i in kept)
        note = " " * _GAP + row.note if row.note else ""
        return ((first, row.style), (rest, numbers), (note, row.style))

    head = Row(title, tuple(head.title for head in heads), "dim")
    return [line(head, "dim"), *(line(row, "") for row in rows)]


def pools(
    medium: Medium, reports: Sequence[PoolReport], styles: Sequence[Style], *, several_processes: bool
) -> list[Line]:
    """All pools, the first MOST_ROWS of them in full. `styles` shows which of them are in trouble."""
    if not reports:
        return []
    kinds = sorted({pool.kind for pool in reports})
    title = f"{medium.clean(kinds[0], 15)} pool" if len(kinds) == 1 else "pool"
    heads = [
        Head("kind", 9),
        Head("pid", 2),
        Head("peak"),
        Head("tasks", 1),
        Head("wait p50", 3),
        Head("p95", 5),
        Head("run p50", 4),
        Head("p95", 8),
        Head("saturated"),
    ]
    skipped = {0} if len(kinds) == 1 else set()
    if not several_processes:
        skipped.add(1)
    rows = []
    for pool, style in zip(reports[:MOST_ROWS], styles, strict=False):
        values = (
            medium.clean(pool.kind, 16),
            tell_pid(pool.pid),
            f"{pool.peak_active:,}/{pool.max_workers:,}",
            f"{pool.tasks.submitted:,}",
            medium.seconds(pool.wait_seconds.p50),
            medium.seconds(pool.wait_seconds.p95),
            medium.seconds(pool.run_seconds.p50),
            medium.seconds(pool.run_seconds.p95),
            medium.seconds(pool.saturated_seconds),
        )
        rows.append(Row(medium.name(pool.name), _without(values, skipped), style))
    lines = table(medium, title, _without(heads, skipped), rows, indent=2)
    lines += more(len(reports) - MOST_ROWS, "pool", indent=2)
    for pool in reports[:MOST_ROWS]:
        lines += _losses(medium, pool)
    return lines


def tell_pid(pid: int) -> str:
    """Return a process, or those that have ended and are reported together."""
    return str(pid) if pid else "ended"


def _losses(medium: Medium, pool: PoolReport) -> list[Line]:
    counts = pool.tasks
    facts = [
        f"{number:,} {name}"
        for number, name in (
            (counts.failed, "failed"),
            (counts.cancelled, "cancelled"),
            (counts.rejected, "rejected"),
        )
        if number
    ]
    if not facts:
        return []
    told = ", ".join(facts)
    return _dim(medium, f"{medium.name(pool.name, max(16, medium.width - cells(told) - 4))}: {told}")


def _dim(medium: Medium, text: str) -> list[Line]:
    return [((f"  {line}", "dim"),) for line in medium.wrap(text, medium.width - 2)]


def loops(
    medium: Medium, reports: Sequence[LoopReport], styles: Sequence[Style], *, several_processes: bool
) -> list[Line]:
    """All event loops, the first MOST_ROWS of them in full."""
    if not reports:
        return []
    heads = [
        Head("kind", 5),
        Head("pid", 1),
        Head("peak tasks", 6),
        Head("lag p50", 2),
        Head("p99", 3),
        Head("blocked"),
        Head("longest"),
    ]
    skipped = set() if several_processes else {1}
    rows = []
    for loop, style in zip(reports[:MOST_ROWS], styles, strict=False):
        values = (
            medium.clean(loop.kind, 16),
            tell_pid(loop.pid),
            f"{loop.peak_tasks:,}",
            medium.seconds(loop.lag_seconds.p50),
            medium.seconds(loop.lag_seconds.p99),
            medium.seconds(loop.blocked_seconds),
            medium.seconds(loop.longest_block_seconds),
        )
        rows.append(Row(medium.name(loop.name), _without(values, skipped), style))
    lines = table(medium, "event loop", _without(heads, skipped), rows, indent=2)
    return lines + more(len(reports) - MOST_ROWS, "event loop", indent=2)


def functions(medium: Medium, pool: PoolReport, pid: int | None) -> list[Line]:
    """Return the busiest functions of a pool: what holds its workers. `pid` is shown in the title, if given."""
    reports: list[FunctionReport] = sorted(pool.functions, key=lambda each: -each.busy_seconds)
    if not reports:
        return []
    heads = [
        Head("started", 1),
        Head("busy"),
        Head("of pool", 3),
        Head("wait p50", 2),
        Head("run p50", 1),
        Head("p95", 4),
    ]
    rows = [
        Row(
            medium.name(each.name),
            (
                f"{each.started:,}",
                medium.seconds(each.busy_seconds),
                medium.percent(each.busy_seconds / pool.busy_seconds if pool.busy_seconds > 0 else None),
                medium.seconds(each.wait_seconds.p50),
                medium.seconds(each.run_seconds.p50),
                medium.seconds(each.run_seconds.p95),
            ),
        )
        for each in reports[:MOST_FUNCTIONS]
    ]
    title = f"functions of {_name(medium, pool, pid)}"
    lines = table(medium, title, heads, rows, indent=2)
    return lines + more(len(reports) - MOST_FUNCTIONS, "function", indent=2)


def _name(medium: Medium, pool: PoolReport, pid: int | None) -> str:
    return medium.name(pool.name, 20) + ("" if pid is None else f", pid {tell_pid(pid)}")


def sizing(medium: Medium, pool: PoolReport, suggested: int | None, pid: int | None) -> list[Line]:
    """Return what other sizes of the pool would have given; the present size and the suggested one are marked. `pid` is
    shown in the title, if given."""
    if not pool.sizing:
        return []
    names = {pool.max_workers: "now"}
    if suggested is not None:
        names[suggested] = f"{names[suggested]}, suggested" if suggested in names else "suggested"
    rows = [
        Row(
            counted(point.workers, noun(pool.kind)),
            (
                medium.seconds(point.wait_p50_seconds),
                medium.seconds(point.wait_p95_seconds),
                medium.seconds(point.makespan_seconds),
            ),
            "good" if point.workers == suggested else "",
            f"{medium.glyphs.here} {names[point.workers]}" if point.workers in names else "",
        )
        for point in _some(pool.sizing, pool.max_workers, suggested)
    ]
    title = f"sizes of {_name(medium, pool, pid)}"
    heads = (Head("wait p50", 1), Head("p95"), Head("makespan", 2))
    return [
        *table(medium, title, heads, rows, indent=2),
        *_dim(medium, "replay of the recorded tasks; assumes run times unchanged"),
    ]


def _some(points: Sequence[SizingPoint], now: int, suggested: int | None) -> list[SizingPoint]:
    """At most MOST_SIZES points: the marked ones, two beyond the suggestion, of the others an even choice."""
    points = sorted(points, key=lambda each: each.workers)
    kept = {index for index, point in enumerate(points) if point.workers in (now, suggested)}
    beyond = [index for index, point in enumerate(points) if point.workers > (suggested or math.inf)]
    kept.update(beyond[:1], beyond[-1:])
    others = [index for index in range(len(points)) if index not in kept and index not in beyond]
    room = max(2, MOST_SIZES - len(kept))
    if len(others) > room:
        others = [others[round(step * (len(others) - 1) / (room - 1))] for step in range(room)]
    return [points[index] for index in sorted(kept.union(others))]


def _without(items: Sequence[Item], skipped: Container[int]) -> tuple[Item, ...]:
    return tuple(item for index, item in enumerate(items) if index not in skipped)

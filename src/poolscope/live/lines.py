"""A board laid out for a terminal of any width: what is wrong first, then the rows, as far as there is room. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, tzinfo
from typing import Generic, NamedTuple, TypeVar

from poolscope.live.board import Board, LoopLine, PoolLine, Told
from poolscope.rendering.text import NOTHING, Line, Medium, Span, Style, cells
from poolscope.rendering.timeline import bars

#: A narrower terminal has two lines for a row.
NARROW = 30
_TITLES = {"pool": "POOLS", "limit": "LIMITS", "queue": "WORK QUEUES"}
#: Columns that a name is left before numbers give way, and that the longest title takes.
_LEAST_NAME, _TITLE = 20, 12
#: What a narrow terminal shows gives way no sooner than this.
_FOREMOST = 1
#: Columns of a bar and of a trend.
_BAR, _TREND = 10, 20
_STYLES: dict[str, Style] = {
    "warning": "warning", "critical": "critical", "full": "warning", "good": "good", "busy": "chart", "unknown": "bold",
}  # fmt: skip


_Row = TypeVar("_Row", PoolLine, LoopLine)


class _Column(NamedTuple, Generic[_Row]):
    """A column: its heading, its width, how soon it gives way (the highest first), and what a row has in it."""

    heading: str
    width: int
    gives_way: int
    cell: Callable[[_Row], Span]
    left: bool = False


def layout(board: Board, medium: Medium, *, trouble: str = "", zone: tzinfo | None = None) -> list[Line]:
    """Return the view as lines of at most `medium.width` columns; `trouble` is why it is not of now."""
    lines = [*_head(board, medium, zone)]
    if trouble:
        lines += [((text, "critical"),) for text in medium.wrap(trouble, medium.width)]
    widest = max((*(cells(row.name) for row in board.pools), *(cells(row.name) for row in board.loops)), default=0)
    for group, title in _TITLES.items():
        rows = [line for line in board.pools if line.group == group]
        if rows:
            lines += [NOTHING, *_pools(medium, title, rows, widest)]
    if board.loops:
        lines += [NOTHING, *_loops(medium, board.loops, widest)]
    if not board.pools and not board.loops:
        lines += [NOTHING, *(((text, "dim"),) for text in medium.wrap("No pool has done anything yet.", medium.width))]
    told = [each for each in board.findings if each.severity != "info" or each.until is None]
    if told:
        lines += [NOTHING, (("FINDINGS"[: medium.width], "bold"),)]
    for each in told:
        lines += _finding(medium, each, zone)
    for note in board.notes:
        lines.append(((medium.cut(note, medium.width), "dim"),))
    return lines


def _head(board: Board, medium: Medium, zone: tzinfo | None) -> Iterator[Line]:
    style = _STYLES.get(board.look, "")
    yield ((medium.cut(board.word.upper(), medium.width), style),)
    yield from (((text, ""),) for text in medium.wrap(board.headline, medium.width))
    facts = [*([board.command] if board.command else []), f"Python {board.python}", _clock(board.at, zone)]
    yield ((medium.cut(medium.glyphs.dot.join(facts), medium.width), "dim"),)


def _pools(medium: Medium, title: str, rows: Sequence[PoolLine], widest: int) -> Iterator[Line]:
    waiting = "waiting" if rows[0].group == "limit" else "queued"
    columns: list[_Column[PoolLine]] = [
        _Column("", _BAR + 1, 3, lambda row: (_bar(medium, row.busy, _BAR), _state(row.state))),
        _Column("busy", 9, 0, lambda row: (f"{row.active:,}/{row.size:,}", "")),
        _Column(waiting, 9, 1, lambda row: (f"{row.queued:,}", _state(row.state) if row.queued else "dim")),
        _Column("trend", _TREND + 2, 5, lambda row: ("  " + _trend(medium, row.trend), _state(row.state)), left=True),
        _Column("wait p95", 10, 2, lambda row: (row.wait_p95, "")),
        _Column("done", 10, 4, lambda row: (row.rate, "")),
    ]
    for line, row in _table(medium, title, rows, columns, widest):
        yield line
        if row is not None and row.batch:
            yield from _batch(medium, row)


def _loops(medium: Medium, rows: Sequence[LoopLine], widest: int) -> Iterator[Line]:
    columns: list[_Column[LoopLine]] = [
        _Column("", _BAR + 1, 3, lambda row: (_bar(medium, row.blocked, _BAR), _state(row.state))),
        _Column("blocked", 9, 0, lambda row: (medium.percent(row.blocked), "")),
        _Column("tasks", 9, 1, lambda row: (f"{row.tasks:,}", "")),
        _Column(
            "trend", _TREND + 2, 5, lambda row: ("  " + _trend(medium, row.trend, 1.0), _state(row.state)), left=True
        ),
        _Column("lag p95", 10, 2, lambda row: (row.lag_p95, "")),
        _Column("in all", 10, 4, lambda row: (row.blocked_seconds, "")),
    ]
    for line, _ in _table(medium, "EVENT LOOPS", rows, columns, widest):
        yield line


def _table(
    medium: Medium, title: str, rows: Sequence[_Row], columns: Sequence[_Column[_Row]], widest: int
) -> Iterator[tuple[Line, _Row | None]]:
    """Yield the heading, then the lines of each row, and the row with its last one."""
    beside = medium.width >= NARROW
    columns = _fitting(columns, medium.width - min(widest, _LEAST_NAME)) if beside else _foremost(columns)
    room = min(max(widest, _TITLE), medium.width - sum(column.width for column in columns)) if beside else medium.width
    heading: Line = ((_padded(medium, title, room), "bold"),)
    yield (*heading, *((_placed(column, column.heading), "dim") for column in columns)) if beside else heading, None
    for row in rows:
        spans = [column.cell(row) for column in columns]
        if beside:
            numbers: list[Span] = []
            for column, (text, style) in zip(columns, spans, strict=True):
                numbers.append((_placed(column, text), style))
            yield ((_padded(medium, row.name, room), _state(row.state)), *numbers), row
        else:
            yield ((medium.cut(row.name, room), _state(row.state)),), None
            yield ((medium.cut(" ".join(text.strip() for text, _ in spans), room), ""),), row


def _fitting(columns: Sequence[_Column[_Row]], room: int) -> list[_Column[_Row]]:
    """Return those that there is room for; at least one."""
    left = list(columns)
    while len(left) > 1 and sum(column.width for column in left) > room:
        left.remove(max(left, key=lambda column: column.gives_way))
    return left


def _foremost(columns: Sequence[_Column[_Row]]) -> list[_Column[_Row]]:
    return [column for column in columns if column.gives_way <= _FOREMOST]


def _padded(medium: Medium, text: str, columns: int) -> str:
    text = medium.cut(text, columns)
    return text + " " * (columns - cells(text))


def _placed(column: _Column[_Row], text: str) -> str:
    # Columns keep one blank before them, whatever a number needs.
    if cells(text) >= column.width:
        text = text[: column.width - 1]
    blanks = " " * (column.width - cells(text))
    return text + blanks if column.left and text.strip() != column.heading else blanks + text


def _batch(medium: Medium, row: PoolLine) -> Iterator[Line]:
    bar = _bar(medium, row.batch_done, _BAR)
    if medium.width >= NARROW + _BAR:
        yield (("  ", ""), (bar, "good"), (f" {medium.cut(row.batch, medium.width - _BAR - 3)}", ""))
        return
    yield from (((text, ""),) for text in medium.wrap(row.batch, medium.width))


def _finding(medium: Medium, told: Told, zone: tzinfo | None) -> Iterator[Line]:
    style: Style = "dim" if told.until is not None or told.severity == "info" else _state(told.severity)
    when = f"from {_clock(told.since, zone)}, {told.lasted}"
    head = f"{told.severity.upper()} {told.pattern}, {told.cause}, {told.subject}, {when}"
    yield from (((text, style),) for text in medium.wrap(head, medium.width))
    indent = "  " if medium.width >= NARROW else ""
    room = medium.width - len(indent)
    for place in told.places[:2]:
        yield from (((indent + text, "code"),) for text in medium.wrap(f"{place.where} in {place.function}", room))
        if place.source:
            yield ((indent * 2, ""), (medium.cut(place.source, medium.width - 2 * len(indent)), "dim"))
    if told.until is None and told.advice:
        yield from (((indent + text, ""),) for text in medium.wrap(told.advice, room))


def _bar(medium: Medium, share: float, width: int) -> str:
    filled = round(max(0.0, min(1.0, share)) * width)
    if share > 0 and not filled:
        filled = 1
    return medium.glyphs.blocks[-1] * filled + medium.glyphs.rule * (width - filled)


def _trend(medium: Medium, values: Sequence[float], top: float | None = None) -> str:
    latest = values[-_TREND:]
    return bars(medium, latest, max(latest, default=0.0) if top is None else top).rjust(_TREND)


def _state(state: str) -> Style:
    return _STYLES.get(state, "dim")


def _clock(at: float, zone: tzinfo | None) -> str:
    try:
        return f"{datetime.fromtimestamp(at, zone):%H:%M:%S}"
    except (OverflowError, ValueError, OSError):
        return "?"

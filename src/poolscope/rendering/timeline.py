"""A pool over time in a few lines of text: active workers, queue depth, wait, and the knee."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from poolscope.model import Finding, PoolReport, TimelinePoint
from poolscope.rendering.text import Line, Medium, Span, Style, cells

#: A chart shows the whole time of a pool, unless its findings take less than this share of it.
ZOOM_BELOW = 0.2

_MOST_COLUMNS = 100
_LEAST_SECONDS, _MOST_SECONDS = 1e-6, 1e9
_LABEL = 10
_STEPS = (1, 2, 5)
#: Steps of an axis from a minute on, and the columns that its longest label takes with a blank.
_LONG_STEPS = (10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14_400, 21_600, 43_200, 86_400)
_LONG_LABEL = 12


class Column(NamedTuple):
    """One column of a chart: means of active workers and queue depth, and the longest wait in seconds."""

    active: float
    queued: float
    wait_seconds: float


def columns(points: Sequence[TimelinePoint], start: float, end: float, count: int) -> tuple[Column, ...]:
    """Return the timeline resampled to `count` columns of equal width between `start` and `end` (seconds).

    Means are weighted by time; a time without a point counts as idle. Points with impossible numbers are left
    out. Empty if there is no time or no column.
    """
    span = end - start
    if count < 1 or not math.isfinite(span) or span <= 0:
        return ()
    step = span / count
    if step == 0:  # less than a float can tell
        return ()
    active = [0.0] * count
    queued = [0.0] * count
    wait = [0.0] * count
    for point in points:
        if not all(map(math.isfinite, point_numbers(point))):
            continue
        until = min(point.at_seconds, end)
        since = max(point.at_seconds - max(0.0, point.width_seconds), start)
        if until < start or since > end:
            continue
        first = _column(since, start, step, count)
        last = max(first, _column(until, start, step, count))
        for index in range(first, last + 1):
            left = start + index * step
            covered = min(until, left + step) - max(since, left)
            if covered <= 0 and first != last:
                continue  # only touches this column
            share = max(0.0, covered) / step
            active[index] += point.active * share
            queued[index] += point.queued * share
            wait[index] = max(wait[index], point.wait_seconds)
    return tuple(map(Column, active, queued, wait))


def point_numbers(point: TimelinePoint) -> tuple[float, ...]:
    """Return the measured numbers of a point."""
    return point.at_seconds, point.width_seconds, point.active, point.queued, point.wait_seconds


def span(points: Sequence[TimelinePoint], findings: Sequence[Finding]) -> tuple[float, float]:
    """From when to when a chart is drawn: all there is, or around the findings where they are short in it."""
    usable = [point for point in points if all(map(math.isfinite, point_numbers(point)))]
    if not usable:
        return 0.0, 0.0
    start = min(max(0.0, point.at_seconds - point.width_seconds) for point in usable)
    end = max(point.at_seconds for point in usable)
    if not findings:
        return start, end
    since = min(finding.since_seconds for finding in findings)
    until = max(end if finding.until_seconds is None else finding.until_seconds for finding in findings)
    length = until - since
    if not start <= since < end or not 0 < length < ZOOM_BELOW * (end - start):
        return start, end
    return max(start, since - length), min(end, until + length)


def chart(
    medium: Medium,
    pool: PoolReport,
    points: Sequence[TimelinePoint],
    findings: Sequence[Finding],
    *,
    indent: int,
) -> list[Line]:
    """Three rows, a ruler that marks the knees, and the seconds. Empty without a timeline."""
    start, end = span(points, findings)
    top_wait = max((point.wait_seconds for point in points if math.isfinite(point.wait_seconds)), default=0.0)
    notes = (
        f" peak {pool.peak_active:,} of {pool.max_workers:,}",
        f" peak {pool.peak_queue_depth:,}",
        f" longest {medium.seconds(top_wait)}",
    )
    count = min(_MOST_COLUMNS, medium.width - indent - _LABEL - max(map(cells, notes)))
    drawable = count >= 10 and _LEAST_SECONDS <= end - start <= _MOST_SECONDS
    cut = columns(points, start, end, count) if drawable else ()
    if not cut:
        return []
    step = (end - start) / count
    knees = sorted({_column(each.since_seconds, start, step, count): each for each in findings}.items())
    tops = (
        float(pool.max_workers) or max(column.active for column in cut),
        max(column.queued for column in cut),
        max(column.wait_seconds for column in cut),
    )
    lines: list[Line] = []
    for row, name in enumerate(("active", "queued", "wait")):
        levels = bars(medium, [column[row] for column in cut], tops[row])
        label: Span = (" " * indent + f"{name:<{_LABEL}}", "dim")
        lines.append((label, *_coloured(levels, knees), (notes[row], "dim")))
    left = " " * (indent + _LABEL)
    marks = _ticks(medium, start, end, count)
    lines.append(((left, ""), *_ruler(medium, count, [column for column, _ in marks], knees)))
    lines.append(((left + _axis(marks, count), "dim"),))
    return lines


def bars(medium: Medium, values: Sequence[float], top: float) -> str:
    """One character per value: blank for nothing, the full block from 15/16 of `top`."""
    blocks = medium.glyphs.blocks
    shown = []
    for value in values:
        if value <= 0 or top <= 0:
            shown.append(" ")
        else:
            share = value / top
            level = math.floor((share if share < 1 else 1.0) * len(blocks) + 0.5)  # not a number: full
            shown.append(blocks[max(1, level) - 1])
    return "".join(shown)


def _column(at: float, start: float, step: float, count: int) -> int:
    if not math.isfinite(at):
        return 0
    return math.floor(max(0.0, min(count - 1.0, (at - start) / step)))


def _coloured(levels: str, knees: Sequence[tuple[int, Finding]]) -> list[Span]:
    """Plain before the first knee, in the colour of the finding from each knee on."""
    spans: list[Span] = []
    style: Style = "chart"
    begin = 0
    for column, finding in knees:
        spans.append((levels[begin:column], style))
        begin, style = column, severity_style(finding)
    spans.append((levels[begin:], style))
    return [span for span in spans if span[0]]


def severity_style(finding: Finding) -> Style:
    """Return the style that shows how severe a finding is."""
    return "dim" if finding.severity == "info" else finding.severity


def _ruler(medium: Medium, count: int, ticks: Sequence[int], knees: Sequence[tuple[int, Finding]]) -> list[Span]:
    """Return the line under the columns; each knee is marked in it, and named beside the mark if there is room."""
    rule = [medium.glyphs.rule] * count
    for column in ticks:
        rule[column] = medium.glyphs.tick
    marks: dict[int, tuple[str, Finding]] = {}
    taken = {column for column, _ in knees}
    for column, finding in knees:
        name = f"knee {medium.moment(finding.since_seconds)}"
        right = range(column + 1, column + 3 + len(name))
        left = range(column - len(name) - 2, column)
        if right[-1] < count and not taken.intersection(right):
            begin, text = column, f"{medium.glyphs.knee} {name} "
            taken.update(right)
        elif left[0] >= 0 and not taken.intersection(left):
            begin, text = left[0], f" {name} {medium.glyphs.knee}"
            taken.update(left)
        else:
            begin, text = column, medium.glyphs.knee
        marks[begin] = (text, finding)
    spans: list[Span] = []
    at = 0
    for begin, (text, finding) in sorted(marks.items()):
        spans.append(("".join(rule[at:begin]), "dim"))
        spans.append((text, severity_style(finding)))
        at = begin + len(text)
    spans.append(("".join(rule[at:]), "dim"))
    return spans


def _ticks(medium: Medium, start: float, end: float, count: int) -> list[tuple[int, str]]:
    """Columns and labels of round times, at least 10 columns apart."""
    column_seconds = (end - start) / count
    power = 10.0 ** math.floor(math.log10(column_seconds * 10))
    step = next((f * power for f in _STEPS if f * power >= column_seconds * 10), 10 * power)
    in_minutes = end > 60 and step >= 1
    if in_minutes:
        least = column_seconds * _LONG_LABEL
        days = 86_400.0 * 10 ** max(0, math.ceil(math.log10(least / 86_400)))
        step = next((float(each) for each in _LONG_STEPS if each >= least), days)
    digits = max(0, -math.floor(math.log10(step)))
    marks = []
    for number in range(math.ceil(start / step), math.floor(end / step) + 1):
        column = round((number * step - start) / (end - start) * count)
        if column < count:
            at = number * step
            label = medium.seconds(at) if in_minutes and at >= 60 else f"{at:,.{digits}f} s"
            marks.append((column, label))
    return marks


def _axis(marks: Sequence[tuple[int, str]], count: int) -> str:
    line = ""
    for column, label in marks:
        if column >= len(line) + (1 if line else 0) and column + len(label) <= count + 12:
            line = line.ljust(column) + label
    return line

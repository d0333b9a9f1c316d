"""What a live view shows, in words and numbers: the page, the terminal's view and the status line only place them.

Whatever comes from the program is one clean line already (`Medium.clean`); it is text, never markup. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import msgspec

from poolscope.discretion import without_lines
from poolscope.live.history import Batch, History, LoopSeries, PoolSeries
from poolscope.model import IN_TURN, SEVERITIES, TASKS_NEEDED, Finding
from poolscope.ranking import importance
from poolscope.rendering.text import Medium
from poolscope.rules.wording import counted
from poolscope.signals.limits import KINDS as LIMITS
from poolscope.snapshot import Subject

#: What one view shows of each; the rest is counted.
MOST_POOLS, MOST_LOOPS, MOST_FINDINGS, MOST_BANDS = 50, 20, 20, 50
_MOST_FRAMES = 5
#: Points of a trend, the latest.
TREND_POINTS = 60
#: Columns that a name may take, and a sentence.
_NAME, _SENTENCE = 80, 500
#: A pool that ended is shown for so long (s) if nothing was wrong with it.
_ENDED_SECONDS = 30.0


class Place(msgspec.Struct, frozen=True):
    """A line of code: `shop/jobs.py:31`, the function, its source, and what part of the samples were there."""

    where: str
    function: str
    source: str
    share: str


class Told(msgspec.Struct, frozen=True):
    """A finding. Times are as of the Unix epoch (s); `until` is None while it lasts."""

    severity: str
    pattern: str
    cause: str
    subject: str
    summary: str
    since: float
    until: float | None
    #: `for 12.0 s`, or `lasted 12.0 s`.
    lasted: str
    places: tuple[Place, ...]
    advice: str
    evidence: tuple[tuple[str, str], ...]


class PoolLine(msgspec.Struct, frozen=True):
    """A pool, limit or work queue now. `state` is a severity, or else full, busy, idle or ended."""

    key: str
    group: str
    name: str
    kind: str
    state: str
    size: int
    active: int
    queued: int
    #: Part of its workers that were busy on average since the last look.
    busy: float
    wait_p95: str
    rate: str
    #: Mean queue depth from look to look.
    trend: tuple[float, ...]
    #: `450 of 1,000 done, 52 a second, 11 s left`, and the part that is done; empty and 0 without a batch.
    batch: str
    batch_done: float
    facts: tuple[tuple[str, str], ...]
    #: (at, active, queued, oldest) since what was asked for: see `history.Point`.
    points: tuple[tuple[float, float, float, float], ...]
    #: (severity, since, until) of its findings; None while one lasts.
    bands: tuple[tuple[str, float, float | None], ...]


class LoopLine(msgspec.Struct, frozen=True):
    """An event loop now; `blocked` is the part of the time since the last look in which callbacks held it."""

    key: str
    name: str
    kind: str
    state: str
    blocked: float
    blocked_seconds: str
    lag_p95: str
    tasks: int
    trend: tuple[float, ...]


class Board(msgspec.Struct, frozen=True):
    """All that is shown. `look` is good, unknown or a severity; times are as of the Unix epoch (s)."""

    at: float
    #: From when on there are points.
    since: float
    command: str
    python: str
    word: str
    look: str
    headline: str
    pools: tuple[PoolLine, ...]
    loops: tuple[LoopLine, ...]
    findings: tuple[Told, ...]
    #: What is left out, and why.
    notes: tuple[str, ...]


def board(history: History, medium: Medium, *, command: str = "", frames: bool = True, since: float = 0.0) -> Board:
    """Return what is shown of a history: points after `since`; without `frames` no lines of code and no command."""
    known = list(_known(history, frames=frames))
    pools, pools_left = _pool_lines(history, medium, known, since)
    loops = list(_loop_lines(history, medium, known))
    told = [_told(medium, history.at, *each) for each in known[:MOST_FINDINGS]]
    word, look, headline = _headline(history, medium, known)
    left_out = (
        (pools_left, "more pool"),
        (len(loops) - MOST_LOOPS, "more event loop"),
        (len(known) - MOST_FINDINGS, "more finding"),
    )
    return Board(
        at=history.at,
        since=history.since,
        command=medium.clean(command, _SENTENCE) if frames else "",
        python=medium.clean(history.snapshot.python, 40) if history.snapshot is not None else "",
        word=word,
        look=look,
        headline=headline,
        pools=tuple(pools),
        loops=tuple(loops[:MOST_LOOPS]),
        findings=tuple(told),
        notes=tuple(f"and {counted(number, what)}" for number, what in left_out if number > 0),
    )


def status(shown: Board, medium: Medium) -> str:
    """Return the board in one line: what is wrong now and where, then the busiest pools."""
    parts = []
    for told in [each for each in shown.findings if each.until is None and each.severity != "info"][:1]:
        where = f" at {told.places[0].where}" if told.places else ""
        parts.append(f"{told.severity.upper()} {told.pattern} ({told.cause}) of {told.subject}{where}, {told.lasted}")
    living = [line for line in shown.pools if line.state != "ended"]
    for line in sorted(living, key=lambda line: (-line.queued, -line.busy))[:3]:
        waiting = f", {line.queued:,} queued" if line.queued else ""
        wait = f", wait p95 {line.wait_p95}" if line.wait_p95 != medium.glyphs.none else ""
        batch = f", {line.batch}" if line.batch else ""
        parts.append(f"{line.name} {line.active:,}/{line.size:,}{waiting}{wait}{batch}")
    blocked = [loop for loop in shown.loops if loop.blocked >= 0.1][:1]
    parts += [f"loop {loop.name} blocked {medium.percent(loop.blocked)} of the time" for loop in blocked]
    return "; ".join(parts) if parts else shown.headline


# --- findings

_Known = tuple[Subject | None, Finding, float]


def _known(history: History, *, frames: bool) -> Iterator[_Known]:
    """All findings with what they are about and when their time began: first what lasts, then the latest."""
    snapshot = history.snapshot
    if snapshot is None or snapshot.details is None:
        return
    subjects: Sequence[Subject | None] = snapshot.subjects
    if len(subjects) != len(snapshot.details):  # of a process with another version
        subjects = [None] * len(snapshot.details)
    known = [
        (subject, finding if frames else without_lines(finding), history.at - (subject.age_seconds if subject else 0.0))
        for subject, finding in zip(subjects, snapshot.details, strict=True)
    ]

    def order(each: _Known) -> tuple[object, ...]:
        _, finding, began = each
        if finding.until_seconds is None:
            return (False, importance(finding), began + finding.since_seconds)
        return (True, finding.severity == "info", -began - finding.until_seconds)

    known.sort(key=order)
    yield from known


def _told(medium: Medium, now: float, subject: Subject | None, finding: Finding, began: float) -> Told:
    since = began + finding.since_seconds
    until = None if finding.until_seconds is None else began + finding.until_seconds
    length = medium.seconds(max(0.0, (now if until is None else until) - since))
    places = tuple(
        Place(
            f"{medium.path(frame.file, 120)}{f':{frame.line}' if frame.line > 0 else ''}",
            medium.clean(frame.function, 120),
            medium.clean((frame.source or "").strip(), 200),
            "" if frame.share is None else medium.percent(frame.share),
        )
        for frame in finding.frames[:_MOST_FRAMES]
    )
    evidence = tuple(
        (
            medium.clean(name.removesuffix("_seconds").replace("_", " "), 60),
            medium.seconds(value) if name.endswith("_seconds") else medium.number(value),
        )
        for name, value in finding.evidence.items()
    )
    about = "the program" if subject is None or subject.kind == "program" else f"{subject.kind} {subject.name}"
    return Told(
        severity=finding.severity,
        pattern=medium.clean(finding.pattern, 60),
        cause=medium.clean(finding.cause, 60),
        subject=medium.clean(about, _NAME),
        summary=medium.clean(finding.summary, _SENTENCE),
        since=since,
        until=until,
        lasted=f"for {length}" if until is None else f"lasted {length}",
        places=places,
        advice=medium.clean(finding.advice.text, 800),
        evidence=evidence,
    )


def _headline(history: History, medium: Medium, known: Sequence[_Known]) -> tuple[str, str, str]:
    """Return the verdict as of now: its word, how it looks, and the sentence."""
    raised = [finding for _, finding, _ in known if finding.severity != "info" or finding.pattern == IN_TURN]
    if raised and raised[0].until_seconds is None:
        worst = raised[0]
        return worst.pattern.replace("_", " "), worst.severity, medium.clean(worst.summary, _SENTENCE)
    finished = sum(series.row.succeeded + series.row.failed for series in history.pools.values())
    if finished < TASKS_NEEDED and not history.loops:
        return "insufficient data", "unknown", "Too few tasks have finished yet to say anything."
    if raised:
        past = medium.clean(raised[0].summary, _SENTENCE)
        return "concurrent now", "good", f"Nothing is wrong now. Before: {past}"
    pools, loops = len(history.pools), len(history.loops)
    seen = f"{counted(finished, 'task')} done in {counted(pools, 'pool')}, {counted(loops, 'event loop')}"
    return "concurrent", "good", f"{seen}: nothing is wrong."


# --- rows


def _pool_lines(history: History, medium: Medium, known: Sequence[_Known], since: float) -> tuple[list[PoolLine], int]:
    """Return the pools that are shown, and how many are not."""
    bounds = (history.snapshot and history.snapshot.wait_bounds) or ()
    about: dict[str, list[tuple[Finding, float]]] = {}
    for subject, finding, began in known:
        if subject is not None and subject.kind == "pool":
            about.setdefault(subject.name, []).append((finding, began))
    shown = []
    for series in history.pools.values():
        row, found = series.row, about.get(series.row.name, [])
        worst = max((SEVERITIES.index(each.severity) for each, _ in found if each.until_seconds is None), default=-1)
        if row.alive or any(each.severity != "info" for each, _ in found) or _ended_lately(series, history.at):
            weight = (-max(worst, 0), not row.alive, -row.queue_depth - row.active, -series.points[-1].active)
            shown.append((weight, series, found, worst))
    left_out = len(shown) - MOST_POOLS
    if left_out > 0:  # else they keep their places
        shown.sort(key=lambda each: each[0])
    return [
        _pool_line(medium, series, bounds, found, worst, since) for _, series, found, worst in shown[:MOST_POOLS]
    ], left_out


def _ended_lately(series: PoolSeries, now: float) -> bool:
    return any(point.at > now - _ENDED_SECONDS and point.active > 0 for point in reversed(series.points))


def _pool_line(
    medium: Medium,
    series: PoolSeries,
    bounds: Sequence[float],
    found: Sequence[tuple[Finding, float]],
    worst: int,
    since: float,
) -> PoolLine:
    row, last = series.row, series.points[-1]
    wait = _duration(medium, series.wait_p95(bounds), bounds)
    rate = series.per_second
    batch = series.batch
    bands = [
        (finding.severity, began + finding.since_seconds, _shifted(finding.until_seconds, began))
        for finding, began in found[:MOST_BANDS]
    ]
    return PoolLine(
        key=f"{row.kind}:{row.name}",
        group=group_of(row.kind),
        name=medium.name(row.name, _NAME),
        kind=medium.clean(row.kind, 40),
        state=_state(series, worst),
        size=row.max_workers,
        active=row.active,
        queued=row.queue_depth,
        busy=min(1.0, last.active / row.max_workers) if row.max_workers else 0.0,
        wait_p95=wait,
        rate=medium.glyphs.none if rate is None else f"{medium.number(rate)}/s",
        trend=tuple(round(point.queued, 2) for point in list(series.points)[-TREND_POINTS:]),
        batch="" if batch is None else _batch_told(medium, batch),
        batch_done=0.0 if batch is None else batch.done / max(1, batch.total),
        facts=tuple(_facts(medium, series, wait, rate)),
        points=tuple(
            (round(point.at, 3), round(point.active, 3), round(point.queued, 3), round(point.oldest_seconds, 3))
            for point in series.points
            if point.at > since + 0.001
        ),
        bands=tuple(bands),
    )


def group_of(kind: str) -> str:
    """Return what a row of that kind stands among: pool, limit or queue."""
    return "limit" if kind in LIMITS else "queue" if kind == "queue" else "pool"


def _state(series: PoolSeries, worst: int) -> str:
    row = series.row
    if worst >= 0:
        return SEVERITIES[worst]
    if not row.alive:
        return "ended"
    if row.queue_depth and row.active >= row.max_workers:
        return "full"
    return "busy" if row.active or series.points[-1].active > 0 else "idle"


def _facts(medium: Medium, series: PoolSeries, wait: str, rate: float | None) -> Iterator[tuple[str, str]]:
    row = series.row
    group = group_of(row.kind)
    yield ("held" if group == "limit" else "running"), f"{row.active:,} of {row.max_workers:,}"
    yield ("waiting" if group == "limit" else "queued"), f"{row.queue_depth:,}"
    yield "oldest queued", medium.seconds(row.oldest_queued_seconds) if row.queue_depth else medium.glyphs.none
    yield "wait p95, lately", wait
    yield "finished a second", medium.glyphs.none if rate is None else medium.number(rate)
    yield "finished", f"{row.succeeded + row.failed:,}"
    if row.occupied_seconds > 0:
        yield "ran at once, on average", medium.number(row.busy_seconds / row.occupied_seconds)
    if row.failed:
        yield "failed", f"{row.failed:,}"
    if row.cancelled or row.rejected:
        yield "cancelled, rejected", f"{row.cancelled:,}, {row.rejected:,}"
    yield "longest running", medium.seconds(row.longest_running_seconds) if row.active else medium.glyphs.none
    yield "saturated so far", medium.seconds(row.saturated_seconds)
    if row.suggested_max_workers is not None:
        yield "workers that would do", f"{row.suggested_max_workers:,}"


def _batch_told(medium: Medium, batch: Batch) -> str:
    rate, left = medium.number(batch.per_second), medium.seconds(batch.left_seconds)
    return f"{batch.done:,} of {batch.total:,} done, {rate} a second, {left} left"


def _loop_lines(history: History, medium: Medium, known: Sequence[_Known]) -> Iterator[LoopLine]:
    bounds = (history.snapshot and history.snapshot.wait_bounds) or ()
    worst: dict[str, int] = {}
    for subject, finding, _ in known:
        if subject is not None and subject.kind == "loop" and finding.until_seconds is None:
            worst[subject.name] = max(worst.get(subject.name, -1), SEVERITIES.index(finding.severity))
    for (name, kind), series in history.loops.items():
        yield LoopLine(
            key=f"{kind}:{name}",
            name=medium.name(name, _NAME),
            kind=medium.clean(kind, 40),
            state=_loop_state(series, worst.get(name, -1)),
            blocked=series.points[-1][1],
            blocked_seconds=medium.seconds(series.row.blocked_seconds),
            lag_p95=_duration(medium, series.lag_p95(bounds), bounds),
            tasks=series.row.tasks,
            trend=tuple(round(share, 3) for _, share in list(series.points)[-TREND_POINTS:]),
        )


def _loop_state(series: LoopSeries, worst: int) -> str:
    if worst >= 0:
        return SEVERITIES[worst]
    return "busy" if series.row.alive else "ended"


def _duration(medium: Medium, value: float | None, bounds: Sequence[float]) -> str:
    if value is not None and math.isinf(value):
        return f"> {medium.seconds(bounds[-1])}"
    return medium.seconds(value)


def _shifted(offset: float | None, began: float) -> float | None:
    return None if offset is None else began + offset

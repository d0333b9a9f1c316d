"""The report of a fleet as one page that needs nothing else, with the parts of a run's page.

Whatever comes from metrics leaves as text by `_text`, or as data that the script shows as numbers.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from typing import Any

from poolscope.fleet.drawn import Point
from poolscope.fleet.grouping import Group
from poolscope.fleet.layout import Clock, headline, small_print
from poolscope.fleet.report import Coverage, Outcome
from poolscope.fleet.verdicts import Verdict
from poolscope.rendering.html import document, evidence_told, listed, named, table, words
from poolscope.rendering.text import Medium
from poolscope.rules.wording import counted

#: Points of a picture, and rows of the same as a table.
MOST_POINTS = 400
_MOST_ROWS = 60
#: What is shown of very many: groups, pictures of a group, and instances in its table. JSON has all.
_MOST_GROUPS = 50
_MOST_PICTURES = 5
_MOST_INSTANCES = 200
_TERMS = {
    "knee": "when it began, as far as samples tell: after the first of the two times and by the second",
    "tier": "what the metrics of a kind of pool can carry: A and B all verdicts, C and D a note at most but for loops",
    "queued": "waiting for a worker or a connection, at a scrape",
}


def encode(outcome: Outcome, clock: Clock) -> bytes:
    """Return the page."""
    medium = Medium(width=160, encoding=None, cwd="")
    report = outcome.report
    worse = [group for group in outcome.groups if group.first.severity != "info"][:_MOST_GROUPS]
    drawn = [each for group in worse for each in group.members[:_MOST_PICTURES] if each.drawn]
    title = f"poolscope fleet: {report.verdict.replace('_', ' ')}"
    body = _body(medium, outcome, worse, {id(each): at for at, each in enumerate(drawn)}, clock)
    return document(medium, title, report.poolscope_version, body, _data(outcome, drawn))


def _body(
    medium: Medium, outcome: Outcome, worse: Sequence[Group], places: dict[int, int], clock: Clock
) -> Iterator[str]:
    report = outcome.report
    _, (told, _) = headline(outcome)
    look = outcome.groups[0].first.severity if worse else "good" if report.verdict == "concurrent" else "unknown"
    yield f'<header><p><span class="badge {look}">{_text(medium, report.verdict.replace("_", " "))}</span></p>'
    yield f"<h1>{_text(medium, told.strip())}</h1>"
    yield f'<p class="facts"><code>{_text(medium, report.source)}</code> {_text(medium, small_print(report))}</p>'
    yield "</header>\n<main>"
    if worse:
        yield "<h2>What was found</h2>"
    for group in worse:
        yield from _group(medium, group, places, clock)
    notes = [group for group in outcome.groups if group.first.severity == "info"]
    hidden = len(outcome.groups) - len(notes) - len(worse)
    if hidden:
        yield f"<p>and {counted(hidden, 'more finding')}</p>"
    told_notes = (f"{group.headline(clock)}: {group.first.summary}" for group in notes[:_MOST_GROUPS])
    yield from listed("Notes", (_text(medium, each, 1000) for each in told_notes))
    if len(notes) > _MOST_GROUPS:
        yield f"<p>and {counted(len(notes) - _MOST_GROUPS, 'more note')}</p>"
    if report.coverage:
        yield "<h2>What was judged</h2>"
        header = ("kind of pool", "tier", "pools", "fine", "with a finding", "too little to judge by")
        yield from table(header, (_covered(medium, row) for row in report.coverage))
    untold = (f"{row.title}: {row.note}" for row in report.coverage if row.note is not None)
    yield from listed("What these metrics do not tell", (_text(medium, each, 1000) for each in untold))
    yield from listed("Notices", (_text(medium, notice) for notice in report.notices))
    yield from words([group.first.as_finding() for group in worse], _TERMS if report.coverage else {})
    yield f"</main><footer>poolscope {_text(medium, report.poolscope_version)}</footer>"


def _group(medium: Medium, group: Group, places: dict[int, int], clock: Clock) -> Iterator[str]:
    first, finding = group.first, group.first.as_finding()
    yield f'<article class="{first.severity}">'
    yield named(medium, finding, linked=True)
    yield f'<p class="summary">{_text(medium, group.headline(clock), 1000)}</p>'
    yield f"<p>{_text(medium, first.summary, 2000)}</p>"
    yield f'<p class="facts">{_text(medium, first.title)}, tier {_text(medium, first.tier)}</p>'
    if first.advice.text:
        yield f'<p class="advice">{_text(medium, first.advice.text, 2000)}</p>'
    yield from evidence_told(medium, finding)
    yield f"<details><summary>{counted(len(group.members), 'instance')}</summary>"
    header = ("instance", "began after", "by", "until", "queue, mean", "wait", "run", "process cores")
    yield from table(header, (_member(medium, each, clock) for each in group.members[:_MOST_INSTANCES]))
    if len(group.members) > _MOST_INSTANCES:
        yield f"<p>and {counted(len(group.members) - _MOST_INSTANCES, 'more instance')}</p>"
    yield "</details>"
    for each in group.members:
        if id(each) in places:
            yield from _picture(medium, each, places[id(each)], clock)
    yield "</article>"


def _member(medium: Medium, verdict: Verdict, clock: Clock) -> Sequence[str]:
    knee, evidence = verdict.knee, verdict.evidence
    after = "" if knee is None or knee.after is None else clock(knee.after)
    by = "" if knee is None else clock(knee.by)
    until = "lasts" if verdict.lasting else clock(verdict.last if verdict.until is None else verdict.until)
    waits = (evidence.get(name) for name in ("wait_seconds", "run_seconds"))
    return [
        _text(medium, medium.name(verdict.key.target.instance)),
        after or "before",
        by,
        until,
        _number(medium, evidence.get("queue_mean")),
        *("" if value is None else medium.seconds(value) for value in waits),
        _number(medium, evidence.get("process_cores_used")),
    ]


def _picture(medium: Medium, verdict: Verdict, place: int, clock: Clock) -> Iterator[str]:
    instance = _text(medium, medium.name(verdict.key.target.instance))
    name = f"{_text(medium, medium.name(verdict.key.name))} of {instance}"
    loop = _is_loop(verdict)
    shown, what = (
        (("How late it was",), "How late it was at most") if loop else (("Active", "Queued"), "Active and queued")
    )
    yield f"<h3>{name}</h3>"
    yield (
        f'<figure class="timeline" data-pool="{place}" tabindex="0" hidden><figcaption>{what}, scrape by scrape; the'
        " band is the finding, and its dark part the time in which it began. Where a line is broken, nothing was"
        " scraped. Drag to zoom, or use the keys + - and the arrows."
        ' <button class="whole" type="button">All of it</button></figcaption>'
        + "".join(f'<div class="chart" role="img" aria-label="{each}: {name}, over time"></div>' for each in shown)
        + "</figure>"
    )
    yield "<details><summary>The same as a table</summary>"
    header = ("time", "late at most") if loop else ("time", "active", "queued", "limit")
    yield from table(header, _rows(medium, verdict.drawn, clock, loop=loop))
    yield "</details>"


def _rows(medium: Medium, drawn: Sequence[Point], clock: Clock, *, loop: bool) -> Iterator[Sequence[str]]:
    step = math.ceil(len(drawn) / _MOST_ROWS)
    for place, point in enumerate(drawn):
        if not _is_gap(point) and place % step:
            continue
        at = _text(medium, clock(point.at))
        if _is_gap(point):
            yield [at, "not scraped"] if loop else [at, "not scraped", "", ""]
        elif loop:
            yield [at, medium.seconds(point.late)]
        else:
            yield [at, *(_number(medium, value) for value in (point.active, point.queued, point.limit))]


def _is_gap(point: Point) -> bool:
    return all(value != value for value in point[1:])


def _is_loop(verdict: Verdict) -> bool:
    return any(point.late == point.late for point in verdict.drawn)


def _covered(medium: Medium, row: Coverage) -> Sequence[str]:
    judged = (
        ("", "", "no verdict") if row.tier == "none" else (f"{n:,}" for n in (row.healthy, row.sick, row.insufficient))
    )
    return [_text(medium, row.title), _text(medium, row.tier), f"{row.pools:,}", *judged]


def _number(medium: Medium, value: float | None) -> str:
    return "" if value is None or value != value else medium.number(value)


def _text(medium: Medium, text: str, most: int = 500) -> str:
    """Return a text that comes from metrics as HTML shows it as it is."""
    return escape(medium.clean(text, most))


# --- data of the pictures


def _data(outcome: Outcome, drawn: Iterable[Verdict]) -> str:
    begin, end = outcome.begin, outcome.end
    content = {"started": begin, "duration": end - begin, "pools": [_drawn(each, begin) for each in drawn]}
    # `<` would begin an end tag or a comment; there is no text in it, but nothing shall depend on that.
    return json.dumps(content, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _drawn(verdict: Verdict, begin: float) -> dict[str, Any]:
    points, knee = verdict.drawn, verdict.knee
    since = verdict.last if knee is None else knee.by
    finding: dict[str, Any] = {"severity": verdict.severity, "since": since - begin, "until": None}
    if knee is not None and knee.after is not None:
        finding["after"] = knee.after - begin
    if not verdict.lasting:
        finding["until"] = (verdict.last if verdict.until is None else verdict.until) - begin
    at, active, queued, limit, late = (list(map(_finite, column)) for column in zip(*points, strict=True))
    times = [time - begin for time in at if time is not None]
    if _is_loop(verdict):
        return {"findings": [finding], "timeline": [times, None, None, late], "late": "late at most"}
    return {"findings": [finding], "timeline": [times, active, queued, None], "workers": limit}


def _finite(value: float) -> float | None:
    return round(value, 4) if math.isfinite(value) else None

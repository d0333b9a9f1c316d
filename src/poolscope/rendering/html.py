"""A recorded run as one page that needs nothing else: words and tables, and pictures that its script draws.

Whatever comes from the program leaves as text by `_text`, or as data that the script shows as text. A content security
policy allows the page's own script and style by their hashes, and nothing that is loaded.
"""

from __future__ import annotations

import base64
import hashlib
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from html import escape
from importlib import resources
from itertools import chain

from poolscope.model import IN_TURN, Finding, LoopReport, LoopTrace, PoolReport, PoolTrace, Report, Session
from poolscope.ranking import importance
from poolscope.rendering import glossary, page_data
from poolscope.rendering.text import Medium, began_of, finite
from poolscope.rules.wording import counted, noun

#: Rows of the table of a pool's timeline, and of a loop's blocks.
_MOST_ROWS, _MOST_BLOCKS = 60, 20
_MOST_FRAMES = 5
_STYLES = ("uPlot.min.css", "page.css")
_SCRIPTS = ("uPlot.iife.min.js", "page.js")


def encode(session: Session, cwd: str | None = None) -> bytes:
    """Return the page; paths below `cwd` (None: the working directory) are shown relative to it."""
    medium = Medium(width=160, encoding=None, cwd=os.getcwd() if cwd is None else cwd)
    title = f"poolscope: {session.report.verdict.replace('_', ' ')}"
    return document(
        medium, title, session.report.poolscope_version, _body(medium, session), page_data.encode(session, medium)
    )


def document(medium: Medium, title: str, version: str, body: Iterable[str], data: str, *, connect: str = "") -> bytes:
    """Return a page with our style and script: `body` is markup, `data` JSON without `<`, and `connect` the address
    that the script may ask (none)."""
    styles, scripts = ([_asset(name) for name in names] for names in (_STYLES, _SCRIPTS))
    policy = "; ".join(
        (
            "default-src 'none'",
            f"style-src {' '.join(map(_hash, styles))}",
            f"script-src {' '.join(map(_hash, scripts))}",
            *((f"connect-src {connect}",) if connect else ()),
            "base-uri 'none'",
            "form-action 'none'",
        )
    )
    parts = chain(
        (
            '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f'<meta name="generator" content="poolscope {_text(medium, version)}">',
            f"<title>{_text(medium, title)}</title>",
            *(f"<style>{style}</style>" for style in styles),
        ),
        body,
        (f'<script type="application/json" id="data">{data}</script>',),
        (f"<script>{script}</script>" for script in scripts),
    )
    return ("\n".join(parts) + "\n").encode("utf-8", "backslashreplace")


# --- words and tables


def _body(medium: Medium, session: Session) -> Iterator[str]:
    report = session.report
    ranked = sorted(report.findings, key=importance)
    worse = [finding for finding in ranked if finding.severity != "info"]
    began = began_of(report)
    yield "<header>"
    yield from headline(medium, report, worse, began)
    yield "</header>\n<main>"
    if worse:
        yield "<h2>What was found</h2>"
    for finding in worse:
        yield from finding_told(medium, report, finding, began, headline=finding is worse[0], linked=True)
    for index, (pool, trace) in enumerate(zip(report.pools[: page_data.MOST_POOLS], session.traces, strict=False)):
        yield from _pool(medium, index, pool, trace)
    if len(report.pools) > page_data.MOST_POOLS:
        yield f"<p>and {counted(len(report.pools) - page_data.MOST_POOLS, 'more pool')}</p>"
    if report.event_loops:
        yield "<h2>Event loops</h2>"
        header = ("event loop", "kind", "pid", "blocked", "longest block", "lag p95", "peak tasks")
        yield from table(header, (_loop(medium, loop) for loop in report.event_loops))
        for index, (loop, blocks) in enumerate(zip(report.event_loops, session.loops, strict=False)):
            yield from _blocks(medium, index, loop, blocks)
    notes = [finding for finding in ranked if finding.severity == "info"]
    yield from listed("Notes", (_text(medium, finding.summary) for finding in notes))
    yield from listed("Not seen, or switched off", (_text(medium, notice) for notice in report.notices))
    yield from words(worse, glossary.TERMS if report.pools else {})
    yield "</main>"
    overhead = f"overhead {medium.seconds(report.overhead.cpu_seconds)} CPU ({medium.percent(report.overhead.share)})"
    yield f"<footer>poolscope {_text(medium, report.poolscope_version)}, {overhead}</footer>"


def words(findings: Sequence[Finding], terms: Mapping[str, str]) -> Iterator[str]:
    """Return what the words of these findings mean, and more terms, as markup."""
    patterns, causes = {finding.pattern for finding in findings}, {finding.cause for finding in findings}
    told = {word: text for word, text in glossary.PATTERNS.items() if word in patterns}
    told |= {word: text for word, text in glossary.CAUSES.items() if word in causes}
    told |= terms
    if told:
        yield '<h2>What the words mean</h2><dl class="words">'
        yield from (f'<div id="{_anchor(word)}"><dt>{word}</dt><dd>{text}</dd></div>' for word, text in told.items())
        yield "</dl>"


def _anchor(word: str) -> str:
    return "word-" + word.replace("_", "-").replace(", ", "-")


def headline(medium: Medium, report: Report, worse: Sequence[Finding], began: datetime | None) -> Iterator[str]:
    """Return the verdict, the sentence and what ran, as markup."""
    known = {finding.pattern: finding.severity for finding in reversed(worse)}
    look = "good" if report.verdict == "concurrent" else known.get(report.verdict, "unknown")
    verdict = _text(medium, report.verdict.replace("_", " "))
    yield f'<p><span class="badge {look}">{verdict}</span></p>'
    tasks_seen = counted(sum(pool.tasks.submitted for pool in report.pools), "task")
    seen = f"{tasks_seen} in {counted(len(report.pools), 'pool')}, {counted(len(report.event_loops), 'event loop')}"
    shown = [*worse, *(finding for finding in report.findings if finding.pattern == IN_TURN == report.verdict)]
    yield f"<h1>{_text(medium, shown[0].summary if shown else seen)}</h1>"
    at = f", from {_day(began)} {_time(began, 0.0)}" if began is not None else ""
    command = f"<code>{_text(medium, ' '.join(report.command))}</code>"
    ran = f"ran {medium.seconds(report.duration_seconds)}{at} on Python {_text(medium, report.python)}"
    yield f'<p class="facts">{command} {ran}</p>'
    if report.exit_code:
        ending = "was ended by signal" if report.exit_code < 0 else "ended with exit status"
        yield f'<p class="critical">The program {ending} {abs(report.exit_code)}.</p>'


def finding_told(
    medium: Medium,
    report: Report,
    finding: Finding,
    began: datetime | None,
    *,
    headline: bool,
    linked: bool = False,
) -> Iterator[str]:
    """Return a finding as markup, without its sentence if that is the `headline`; `linked` to what `words` says."""
    until = report.duration_seconds if finding.until_seconds is None else finding.until_seconds
    yield f'<article class="{finding.severity}">'
    yield named(medium, finding, linked=linked)
    if not headline:
        yield f"<p>{_text(medium, finding.summary)}</p>"
    times = "" if began is None else f" ({_time(began, finding.since_seconds)} to {_time(began, until)})"
    yield f'<p class="facts">from {medium.moment(finding.since_seconds)} to {medium.moment(until)}{times}</p>'
    for frame in finding.frames[:_MOST_FRAMES]:
        line = f":{frame.line}" if frame.line > 0 else ""
        share = f", {medium.percent(frame.share)} of samples" if frame.share is not None else ""
        place = f"<code>{_text(medium, medium.path(frame.file, 120))}{line}</code>"
        yield f"<div>{place} in <code>{_text(medium, frame.function)}</code>{share}</div>"
        source = (frame.source or "").strip()
        if source:
            yield f"<pre>{_text(medium, source)}</pre>"
    if finding.advice.text:
        yield f'<p class="advice">{_text(medium, finding.advice.text, 800)}</p>'
    yield from evidence_told(medium, finding)
    yield "</article>"


def named(medium: Medium, finding: Finding, *, linked: bool) -> str:
    """Return the heading of a finding as markup; `linked` to what `words` says."""
    pattern, cause = _text(medium, finding.pattern), _text(medium, finding.cause)
    if linked and finding.pattern in glossary.PATTERNS:
        pattern = f'<a href="#{_anchor(finding.pattern)}">{pattern}</a>'
    if linked and finding.cause in glossary.CAUSES:
        cause = f'<a href="#{_anchor(finding.cause)}">{cause}</a>'
    return f"<h3>{pattern}, cause {cause}</h3>"


def evidence_told(medium: Medium, finding: Finding) -> Iterator[str]:
    """Return the numbers of a finding as markup."""
    if not finding.evidence:
        return
    yield "<details><summary>Evidence</summary><dl>"
    for name, value in finding.evidence.items():
        told = medium.seconds(value) if name.endswith("_seconds") else medium.number(value)
        label = name.removesuffix("_seconds").replace("_", " ")
        yield f"<div><dt>{_text(medium, label, 60)}</dt><dd>{told}</dd></div>"
    yield "</dl></details>"


def _pool(medium: Medium, index: int, pool: PoolReport, trace: PoolTrace) -> Iterator[str]:
    name = _text(medium, medium.name(pool.name))
    yield f"<section><h2>Pool {name}</h2>"
    made = f", made at <code>{_text(medium, pool.created_at)}</code>" if pool.created_at else ""
    kind = f"{_text(medium, pool.kind)}, {counted(pool.max_workers, noun(pool.kind))}"
    yield f'<p class="facts">{kind}, process {pool.pid}{made}</p>'
    facts = {
        "tasks": f"{pool.tasks.submitted:,}",
        "peak running": f"{pool.peak_active:,}",
        "peak queue": f"{pool.peak_queue_depth:,}",
        "saturated": medium.seconds(pool.saturated_seconds),
        "wait p50": medium.seconds(pool.wait_seconds.p50),
        "wait p95": medium.seconds(pool.wait_seconds.p95),
        "run p50": medium.seconds(pool.run_seconds.p50),
        "run p95": medium.seconds(pool.run_seconds.p95),
    }
    yield "<dl>" + "".join(f"<div><dt>{key}</dt><dd>{value}</dd></div>" for key, value in facts.items()) + "</dl>"
    if trace.timeline:
        yield (
            f'<figure class="timeline" data-pool="{index}" tabindex="0" hidden><figcaption>Running and queued tasks,'
            " and the longest wait; bands are findings, their first line is where it began. Drag to zoom, or use the"
            ' keys + - and the arrows. <button class="whole" type="button">Whole run</button></figcaption>'
            f'<div class="chart" role="img" aria-label="Running and queued tasks of {name} over time"></div>'
            f'<div class="chart" role="img" aria-label="Longest wait of {name} over time"></div></figure>'
        )
        yield "<details><summary>The same as a table</summary>"
        header = ("from the start", "running", "queued", "longest wait", "started", "finished")
        yield from table(header, _timeline_rows(medium, trace))
        yield "</details>"
    if trace.tasks:
        yield (
            f'<figure class="tasks" data-pool="{index}" tabindex="0" hidden><figcaption>{_lanes_are(pool, trace)}'
            ' <span class="legend"></span></figcaption>'
            f'<div><canvas class="lanes" role="img" aria-label="Tasks of {name} in lanes over time"></canvas></div>'
            '<div class="tip" aria-live="off"></div></figure>'
        )
    if pool.functions:
        rows = (
            (
                _text(medium, function.name),
                f"{function.started:,}",
                medium.seconds(function.busy_seconds),
                medium.seconds(function.wait_seconds.p50),
                medium.seconds(function.wait_seconds.p95),
                medium.seconds(function.run_seconds.p50),
                medium.seconds(function.run_seconds.p95),
            )
            for function in pool.functions
        )
        yield "<h3>Functions</h3>"
        yield from table(("function", "started", "busy", "wait p50", "wait p95", "run p50", "run p95"), rows)
    if pool.sizing:
        yield from _sizing(medium, index, pool)
    yield "</section>"


def _lanes_are(pool: PoolReport, trace: PoolTrace) -> str:
    lanes = f"A lane for each {noun(pool.kind)}" if trace.workers else "Tasks that ran beside each other"
    return f"{lanes}, and the queue above. Tasks have the colour of their function."


def _sizing(medium: Medium, index: int, pool: PoolReport) -> Iterator[str]:
    assert pool.sizing is not None
    present = next((place for place, point in enumerate(pool.sizing) if point.workers == pool.max_workers), 0)
    places = f"{noun(pool.kind)}s"
    label = f"{places.capitalize()} of {_text(medium, medium.name(pool.name))}"
    yield "<h3>Other sizes</h3>"
    yield (
        f'<div class="sizing" data-pool="{index}" hidden><input type="range" min="0" max="{len(pool.sizing) - 1}"'
        f' value="{present}" step="1" aria-label="{label}"><output></output></div>'
    )
    yield "<details><summary>The same as a table</summary>"
    rows = (
        (
            f"{point.workers:,}{' (as it is)' if point.workers == pool.max_workers else ''}",
            medium.seconds(point.wait_p50_seconds),
            medium.seconds(point.wait_p95_seconds),
            medium.seconds(point.makespan_seconds),
        )
        for point in pool.sizing
    )
    yield from table((places, "wait p50", "wait p95", "all done in"), rows)
    yield f'<p class="facts">Run times are taken as recorded, whatever the number of {places}.</p></details>'


def _timeline_rows(medium: Medium, trace: PoolTrace) -> Iterator[Sequence[str]]:
    for point in trace.timeline[:: math.ceil(len(trace.timeline) / _MOST_ROWS)]:
        numbers = (medium.number(point.active), medium.number(point.queued), medium.seconds(point.wait_seconds))
        yield medium.moment(point.at_seconds), *numbers, f"{point.started:,}", f"{point.finished:,}"


def _loop(medium: Medium, loop: LoopReport) -> Sequence[str]:
    times = (loop.blocked_seconds, loop.longest_block_seconds, loop.lag_seconds.p95)
    name = _text(medium, medium.name(loop.name))
    return [name, _text(medium, loop.kind), str(loop.pid), *map(medium.seconds, times), f"{loop.peak_tasks:,}"]


def _blocks(medium: Medium, index: int, loop: LoopReport, trace: LoopTrace) -> Iterator[str]:
    if not trace.blocks:
        return
    name = _text(medium, medium.name(loop.name))
    yield f"<h3>Blocks of {name}</h3>"
    yield (
        f'<figure class="blocks" data-loop="{index}" tabindex="0" hidden><figcaption>While a bar lasts, one callback'
        ' keeps the loop from all others. Bars have the colour of their line. <span class="legend"></span></figcaption>'
        f'<div><canvas class="lanes" role="img" aria-label="Blocks of {name} over time"></canvas></div>'
        '<div class="tip" aria-live="off"></div></figure>'
    )
    longest = sorted(trace.blocks, key=lambda block: -finite(block.seconds))[:_MOST_BLOCKS]
    words = "The same as a table" if len(longest) == len(trace.blocks) else f"The longest {len(longest)} as a table"
    yield f"<details><summary>{words}</summary>"
    places = dict(enumerate(page_data.places(medium, trace)))
    rows = (
        (
            medium.moment(block.at_seconds),
            medium.seconds(block.seconds),
            _text(medium, places.get(block.place, "not known")),
        )
        for block in longest
    )
    yield from table(("from the start", "held the loop for", "line"), rows)
    yield "</details>"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Return a table as markup; its cells are markup."""
    yield (
        '<div class="scroll"><table><thead><tr>'
        + "".join(f"<th>{name}</th>" for name in header)
        + "</tr></thead><tbody>"
    )
    for row in rows:
        yield "<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>"
    yield "</tbody></table></div>"


def listed(title: str, items: Iterable[str]) -> Iterator[str]:
    """Return a list with its title as markup, if there is an item; items are markup."""
    told = [f"<li>{item}</li>" for item in items]
    if told:
        yield f"<h2>{title}</h2><ul>{''.join(told)}</ul>"


def _text(medium: Medium, text: str, most: int = 500) -> str:
    """Return a text of the program's that HTML shows as it is."""
    return escape(medium.clean(text, most))


def _day(began: datetime) -> str:
    return began.strftime("%Y-%m-%d")


def _time(began: datetime, seconds: float) -> str:
    try:
        return (began + timedelta(seconds=seconds)).strftime("%H:%M:%S")
    except (OverflowError, ValueError):
        return "?"


def _asset(name: str) -> str:
    return resources.files("poolscope.rendering").joinpath("assets", name).read_text("utf-8")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

"""A report within something else: as text where it is printed, and as markup in a notebook.

The markup has pictures but no script, so that it looks the same in a notebook that is not trusted, and where it is
published.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from html import escape

from poolscope.model import Finding, PoolReport, PoolTrace, Report, Session
from poolscope.ranking import importance
from poolscope.rendering.html import finding_told, headline
from poolscope.rendering.terminal import DEFAULT_WIDTH, render
from poolscope.rendering.text import Medium, began_of
from poolscope.rendering.timeline import Column, columns, span
from poolscope.rules.wording import counted

_MOST_POOLS, _MOST_FINDINGS = 10, 5
_POINTS, _WIDTH, _HEIGHT = 200, 600, 90
#: Colours that can be seen on light and dark, as the ground is the notebook's.
_ACTIVE, _QUEUED = "#2f8fd0", "#d97a1e"
_SEVERITY = {"critical": "#d64550", "warning": "#c98a10", "info": "#6a8fb5"}
_STYLE = (
    ".poolscope h3{margin:.4em 0}.poolscope h4{margin:.8em 0 .2em}.poolscope .badge{border:1px solid currentColor;"
    "border-radius:1em;padding:.1em .7em;font-size:.85em;text-transform:uppercase}.poolscope .good{color:#2a8a4a}"
    ".poolscope .warning .badge,.poolscope .badge.warning{color:#b07908}.poolscope .badge.critical{color:#d64550}"
    ".poolscope article{border-left:4px solid #c98a10;padding:.2em 1em;margin:.6em 0}"
    ".poolscope article.critical{border-color:#d64550}.poolscope .facts{opacity:.75;margin:.2em 0}"
    ".poolscope .advice{font-weight:600}.poolscope pre{white-space:pre-wrap;margin:.3em 0 .6em 1.5em}"
    ".poolscope dl div{display:inline-block;margin-right:1.5em}.poolscope dt,.poolscope dd{display:inline;margin:0}"
    ".poolscope dt::after{content:': '}.poolscope svg{max-width:100%;height:auto}"
)


def text_of(seen: Report | Session) -> str:
    """Return the report as on a terminal of the usual width, without colours."""
    file = io.StringIO()
    render(_session(seen), file, width=DEFAULT_WIDTH, color=False)
    return file.getvalue().rstrip("\n")


def html_of(seen: Report | Session) -> str:
    """Return what was found, and each pool over time where that is known, as markup for a place in a page of others."""
    session = _session(seen)
    medium = Medium(width=160, encoding=None, cwd=_folder())
    return f'<div class="poolscope"><style>{_STYLE}</style>{"".join(_parts(medium, session))}</div>'


def _parts(medium: Medium, session: Session) -> Iterator[str]:
    report, began = session.report, began_of(session.report)
    worse = sorted((finding for finding in report.findings if finding.severity != "info"), key=importance)
    for part in headline(medium, report, worse, began):
        yield part.replace("<h1>", "<h3>").replace("</h1>", "</h3>")
    for finding in worse[:_MOST_FINDINGS]:
        yield from finding_told(medium, report, finding, began, headline=finding is worse[0])
    if len(worse) > _MOST_FINDINGS:
        yield f"<p>and {counted(len(worse) - _MOST_FINDINGS, 'more finding')}</p>"
    for pool, trace in list(zip(report.pools, session.traces, strict=True))[:_MOST_POOLS]:
        yield from _pool(medium, pool, trace)
    if len(report.pools) > _MOST_POOLS:
        yield f"<p>and {counted(len(report.pools) - _MOST_POOLS, 'more pool')}</p>"


def _pool(medium: Medium, pool: PoolReport, trace: PoolTrace) -> Iterator[str]:
    name = escape(medium.name(pool.name))
    facts = {
        "tasks": f"{pool.tasks.submitted:,}",
        "peak running": f"{pool.peak_active:,} of {pool.max_workers:,}",
        "peak queue": f"{pool.peak_queue_depth:,}",
        "wait p95": medium.seconds(pool.wait_seconds.p95),
        "run p95": medium.seconds(pool.run_seconds.p95),
    }
    yield f"<h4>Pool {name}</h4>"
    yield "<dl>" + "".join(f"<div><dt>{key}</dt><dd>{value}</dd></div>" for key, value in facts.items()) + "</dl>"
    start, end = span(trace.timeline, ())
    cut = columns(trace.timeline, start, end, _POINTS)
    if cut:
        yield _picture(medium, name, cut, start, end, pool.findings)


def _picture(
    medium: Medium, name: str, cut: Sequence[Column], start: float, end: float, findings: Sequence[Finding]
) -> str:
    top = max(1.0, *(max(column.active, column.queued) for column in cut))

    def place(at: float) -> float:
        return round(_WIDTH * (min(max(at, start), end) - start) / (end - start), 1)

    bands = []
    for finding in findings:
        left, right = (
            place(finding.since_seconds),
            place(end if finding.until_seconds is None else finding.until_seconds),
        )
        look = f'fill="{_SEVERITY[finding.severity]}"'
        bands.append(
            f'<rect x="{left}" y="0" width="{max(1.0, right - left)}" height="{_HEIGHT}" {look} fill-opacity="0.18"/>'
        )
        bands.append(f'<rect x="{left}" y="0" width="2" height="{_HEIGHT}" {look}/>')
    areas = (
        _area([column.queued for column in cut], top, _QUEUED),
        _area([column.active for column in cut], top, _ACTIVE),
    )
    below = f'y="{_HEIGHT + 14}" font-size="11" fill="currentColor"'
    words = (
        f'<text x="0" {below}>{medium.moment(start)}</text>'
        f'<text x="{_WIDTH}" {below} text-anchor="end">{medium.moment(end)}</text>'
        f'<text x="{_WIDTH // 2}" {below} text-anchor="middle"><tspan fill="{_ACTIVE}">running</tspan>, '
        f'<tspan fill="{_QUEUED}">queued</tspan>, at most {medium.number(top)}</text>'
    )
    label = f"Running and queued tasks of {name} over time"
    size = f'viewBox="0 0 {_WIDTH} {_HEIGHT + 18}" width="{_WIDTH}" height="{_HEIGHT + 18}"'
    return f'<svg {size} role="img" aria-label="{label}"><title>{label}</title>{"".join((*bands, *areas))}{words}</svg>'


def _area(values: Sequence[float], top: float, colour: str) -> str:
    points = [
        f"{round(_WIDTH * (place + 0.5) / len(values), 1)},{round(_HEIGHT * (1 - value / top), 1)}"
        for place, value in enumerate(values)
    ]
    outline = f"0,{_HEIGHT} {' '.join(points)} {_WIDTH},{_HEIGHT}"
    return f'<polygon points="{outline}" fill="{colour}" fill-opacity="0.3" stroke="{colour}" stroke-width="1.5"/>'


def _session(seen: Report | Session) -> Session:
    if isinstance(seen, Session):
        return seen
    return Session(seen, tuple(PoolTrace((), b"", ()) for _ in seen.pools))


def _folder() -> str:
    try:
        return os.getcwd()
    except OSError:  # removed under our feet
        return ""

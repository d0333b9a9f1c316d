"""The report of a fleet for people: lines of a terminal, and Markdown.

Names of jobs, instances and pools come from whoever writes the metrics: `Medium.clean` is their only way out.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, tzinfo

from poolscope.fleet.grouping import Group
from poolscope.fleet.report import Coverage, FleetReport, Outcome
from poolscope.rendering.markdown import as_text, table
from poolscope.rendering.text import NOTHING, Line, Medium, Style, more
from poolscope.rules.wording import counted, seconds

#: Groups, notes among them, and instances that are shown; JSON has all.
MOST_GROUPS = 20
MOST_NOTES = 10
MOST_INSTANCES = 5
_STYLES: dict[str, Style] = {"critical": "critical", "warning": "warning", "info": "dim"}
#: Numbers that say most, in this order.
_TELLING = (
    "workers",
    "active_mean",
    "queue_mean",
    "queue_peak",
    "wait_seconds",
    "run_seconds",
    "run_alone_seconds",
    "amplification",
    "effective_parallelism",
    "arriving_per_second",
    "process_cores_used",
    "longest_seconds",
    "scrapes",
)


class Clock:
    """Shows moments (s since the epoch) as times of day, with the date where that is not the one of `day`."""

    def __init__(self, day: float, zone: tzinfo | None = None) -> None:
        self._zone = zone
        self._day = datetime.fromtimestamp(day, zone).date()

    def __call__(self, at: float) -> str:
        """Return the moment as text."""
        moment = datetime.fromtimestamp(at, self._zone)
        return f"{moment:%H:%M:%S}" if moment.date() == self._day else f"{moment:%Y-%m-%d %H:%M:%S}"


def lines(outcome: Outcome, medium: Medium, clock: Clock) -> Iterator[Line]:
    """Return the report for a terminal."""
    report = outcome.report
    yield headline(outcome)
    worse = [group for group in outcome.groups if group.first.severity != "info"]
    notes = [group for group in outcome.groups if group.first.severity == "info"]
    for group in worse[:MOST_GROUPS]:
        yield NOTHING
        yield from _group(group, medium, clock)
    yield from more(len(worse) - MOST_GROUPS, "finding")
    if notes:
        yield NOTHING
        for group in notes[:MOST_NOTES]:
            yield from _wrapped(f"note: {group.headline(clock)}: {group.first.summary}", medium, 0, "dim")
        yield from more(len(notes) - MOST_NOTES, "note")
    yield NOTHING
    for row in report.coverage:
        yield from _wrapped(_covered(row), medium, 0, "dim")
    for notice in report.notices:
        yield from _wrapped(f"notice: {notice}", medium, 0, "dim")
    yield from _wrapped(small_print(report), medium, 0, "dim")


def headline(outcome: Outcome) -> Line:
    """Return the verdict and its sentence."""
    report = outcome.report
    first = outcome.groups[0].first if outcome.groups else None
    word = report.verdict
    style: Style = "good"
    if first is not None and first.severity != "info":
        word, style = first.severity.upper(), _STYLES[first.severity]
    elif report.verdict == "insufficient_data":
        style = "bold"
    pools = sum(row.pools for row in report.coverage)
    sick = sum(row.sick for row in report.coverage)
    text = (
        f"{counted(sick, 'pool')} of {pools:,} turned serial, stand still or are blocked"
        if sick
        else (
            f"{counted(pools, 'pool')} found, and none of those that could be judged has a finding"
            if report.verdict == "concurrent"
            else "nothing could be judged"
        )
    )
    return ((word, style), (f"  {text}", ""))


def _group(group: Group, medium: Medium, clock: Clock) -> Iterator[Line]:
    first = group.first
    yield from _wrapped(group.headline(clock), medium, 0, _STYLES[first.severity])
    yield from _wrapped(first.summary, medium, 2)
    numbers = [
        f"{_label(name)} {_number(name, first.evidence[name], medium)}" for name in _TELLING if name in first.evidence
    ]
    yield from _labelled("evidence", medium.glyphs.dot.join(numbers), medium)
    yield from _labelled("advice", first.advice.text, medium)
    names = [medium.name(each.key.target.instance) for each in group.members]
    shown = ", ".join(names[:MOST_INSTANCES])
    rest = f" and {len(names) - MOST_INSTANCES:,} more" if len(names) > MOST_INSTANCES else ""
    yield from _labelled("where", f"{shown}{rest} ({first.title}, tier {first.tier})", medium)


def _label(name: str) -> str:
    return name.removesuffix("_seconds").replace("_per_second", " a second").replace("_", " ")


def _number(name: str, value: float, medium: Medium) -> str:
    return medium.seconds(value) if name.endswith("_seconds") else medium.number(value)


def _covered(row: Coverage) -> str:
    if row.tier == "none":
        return f"{row.title}: {counted(row.pools, 'series')}, no verdict: {row.note}"
    note = f"; {row.note}" if row.note is not None and row.tier in ("C", "D") else ""
    return (
        f"{row.title} (tier {row.tier}): {counted(row.pools, 'pool')}, {row.healthy:,} fine, {row.sick:,} with a "
        f"finding, {row.insufficient:,} with too little to judge by{note}"
    )


def small_print(report: FleetReport) -> str:
    """Say what was looked at, and what that cost."""
    cost = report.cost
    every = (
        f"; scraped about every {seconds(report.interval_seconds)}, and what is shorter is not seen"
        if (report.interval_seconds is not None)
        else ""
    )
    return (
        f"{report.begin} to {report.end}{every}; {counted(cost.requests, 'request')}, {cost.samples:,} samples, "
        f"{cost.bytes / 1e6:.1f} MB in {seconds(cost.seconds)}"
    )


def _labelled(label: str, text: str, medium: Medium) -> Iterator[Line]:
    if not text:
        return
    column = 12
    for at, line in enumerate(medium.wrap(medium.clean(text, 2000), medium.width - column)):
        yield ((f"  {label:<{column - 2}}" if not at else " " * column, "dim"), (line, ""))


def _wrapped(text: str, medium: Medium, indent: int, style: Style = "") -> Iterator[Line]:
    for line in medium.wrap(medium.clean(text, 2000), medium.width - indent):
        yield ((" " * indent + line, style),)


_SIGNS = {"critical": "\N{LARGE RED CIRCLE}", "warning": "\N{LARGE YELLOW CIRCLE}", "info": "\N{LARGE BLUE CIRCLE}"}


def markdown(outcome: Outcome, clock: Clock) -> str:
    """Return the report for a pull request or an incident's page."""
    medium = Medium(width=120, encoding=None, cwd="")
    report = outcome.report
    worst = outcome.groups[0].first.severity if outcome.groups else "info"
    sign = _SIGNS[worst] if worst != "info" else "\N{LARGE GREEN CIRCLE}"
    if report.verdict == "insufficient_data":
        sign = "\N{MEDIUM WHITE CIRCLE}"
    told = [f"### {sign} poolscope fleet: {as_text(medium, report.verdict.replace('_', ' '))}"]
    for group in outcome.groups[:MOST_GROUPS]:
        first = group.first
        told += ["", f"- {_SIGNS[first.severity]} **{as_text(medium, group.headline(clock))}**"]
        told += [f"  {as_text(medium, first.summary, 1000)}"]
        if first.severity != "info":
            told += [f"  {as_text(medium, first.advice.text, 1000)}"]
    if len(outcome.groups) > MOST_GROUPS:
        told += ["", f"and {counted(len(outcome.groups) - MOST_GROUPS, 'more finding')}"]
    rows = [
        [
            as_text(medium, row.title),
            row.tier,
            *(f"{n:,}" for n in (row.pools, row.healthy, row.sick, row.insufficient)),
        ]
        for row in report.coverage
    ]
    told += table(("kind of pool", "tier", "pools", "fine", "with a finding", "too little"), rows)
    told += [f"- {as_text(medium, notice)}" for notice in report.notices]
    told += ["", f"<sub>{as_text(medium, small_print(report))}</sub>"]
    return "\n".join(told) + "\n"

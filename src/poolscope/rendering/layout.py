"""The lines of a report, laid out once: the verdict first, then how we know, the line, and what to do."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from msgspec.structs import replace

from poolscope.addresses import addresses
from poolscope.model import (
    IN_TURN,
    Finding,
    PoolReport,
    Report,
    Session,
    kind_of_notice,
)
from poolscope.rendering import tables, timeline
from poolscope.rendering.cases import Case, informing, ranked, shared_names
from poolscope.rendering.explanation import INDENT, MOST_NUMBERS, explanation, numbers_of
from poolscope.rendering.text import (
    NOTHING,
    Line,
    Medium,
    Style,
    finite,
    hanging,
    more,
)
from poolscope.rendering.verdict import headline, verdict_of

_MOST_FINDINGS = 5
_MOST_LINES = 5  # of findings that only inform
_MOST_NOTICES = 10
_MOST_LOOKED_AT = 1_000  # of notices: no run of ours has as many


def layout(session: Session, medium: Medium, *, verbose: bool = False) -> list[Line]:
    """Return the report as lines for `medium`; `verbose` has every number of the evidence and every notice."""
    report = session.report
    cases = ranked(session)
    notes = informing(session)
    if not cases and report.verdict == IN_TURN:
        # The verdict is a finding that informs.
        cases = sorted((note for note in notes if note.finding.pattern == IN_TURN), key=_shortest)[:1]
        notes = [note for note in notes if note not in cases]
    sections = [list(headline(medium, report, cases, notes))]
    charted: set[int] = set()
    for index, case in enumerate(cases[:_MOST_FINDINGS]):
        section = [] if index == 0 else list(verdict_of(medium, case.finding))  # the first one is the headline
        section += explanation(medium, case, verbose=verbose)
        if case.pool is not None and id(case.pool) not in charted:
            charted.add(id(case.pool))
            section += _chart(medium, case, cases)
        sections.append(section)
    sections.append(list(_brief(medium, cases[_MOST_FINDINGS:])))
    sections += _tables(medium, report, cases)
    sections.append(list(_brief(medium, notes)))
    more_numbers = not verbose and any(len(numbers_of(case)) > MOST_NUMBERS for case in cases[:_MOST_FINDINGS])
    sections.append(list(_small_print(medium, report, more_numbers=more_numbers, verbose=verbose)))
    lines: list[Line] = []
    for section in filter(None, sections):
        lines += [NOTHING, *section] if lines else section
    return lines


def _shortest(case: Case) -> float:
    finding = case.finding
    return finding.since_seconds - (finding.until_seconds or math.inf)


def _chart(medium: Medium, case: Case, cases: Sequence[Case]) -> list[Line]:
    pool, trace = case.pool, case.trace
    if pool is None or trace is None:
        return []
    findings = [each.finding for each in cases if each.pool is pool and each.finding.severity != "info"]
    lines = timeline.chart(medium, pool, trace.timeline, findings, indent=INDENT)
    return [NOTHING, *lines] if lines else []


def _brief(medium: Medium, cases: Sequence[Case]) -> Iterator[Line]:
    """Return findings in a sentence each, those that differ in numbers only in one."""
    texts = [f"{case.finding.severity} {case.finding.summary} ({_kind(case.finding)})" for case in cases]
    alike = _alike(texts)
    shown = 0
    for place, number in alike[:_MOST_LINES]:
        finding = cases[place].finding
        shown += number
        text = medium.clean(f"{finding.summary} ({_kind(finding)})") + _like_it(number)
        yield from hanging(medium, (finding.severity, "dim"), text, "dim")
    yield from more(len(cases) - shown, "finding")


def _kind(finding: Finding) -> str:
    # No reader asks why a pool was full for a moment.
    told = finding.cause == "unknown" or finding.pattern == "burst"
    return finding.pattern if told else f"{finding.pattern}, {finding.cause}"


def _alike(texts: Sequence[str]) -> list[tuple[int, int]]:
    """Return the place of the first text of each kind, in order, and how many of the kind there are. Those beyond
    `_MOST_LOOKED_AT` are not looked at."""
    found: dict[str, list[int]] = {}
    for place, text in enumerate(texts[:_MOST_LOOKED_AT]):
        found.setdefault(kind_of_notice(text), []).append(place)
    return [(places[0], len(places)) for places in found.values()]


def _like_it(number: int) -> str:
    return f" (and {number - 1:,} more like it)" if number > 1 else ""


def _tables(medium: Medium, report: Report, cases: Sequence[Case]) -> list[list[Line]]:
    styles: dict[int, Style] = {}
    troubled: list[PoolReport] = []
    seen: set[int] = set()
    suggested: dict[int, int] = {}
    for case in cases:
        subject = case.pool or case.loop
        styles.setdefault(id(subject), timeline.severity_style(case.finding))
        if case.pool is None:
            continue
        if id(case.pool) not in seen:
            seen.add(id(case.pool))
            troubled.append(case.pool)
        number = case.finding.advice.suggested_max_workers
        if number is not None:
            suggested.setdefault(id(case.pool), number)
    processes = {pool.pid for pool in report.pools} | {loop.pid for loop in report.event_loops}
    calm = [pool for pool in report.pools if id(pool) not in styles]
    pools = [*troubled, *sorted(calm, key=lambda pool: -finite(pool.busy_seconds))]
    loops = sorted(report.event_loops, key=lambda loop: (id(loop) not in styles, -finite(loop.blocked_seconds)))
    several = len(processes) > 1
    sections = [
        tables.pools(medium, pools, [styles.get(id(pool), "") for pool in pools], several_processes=several),
        tables.loops(medium, loops, [styles.get(id(loop), "") for loop in loops], several_processes=several),
    ]
    shared = shared_names(report.pools)
    named = {id(pool): name for pool, name in zip(report.pools, addresses(report.pools), strict=True)}
    for pool in troubled[:_MOST_FINDINGS]:
        pid = pool.pid if pool.name in shared else None
        addressed = replace(pool, name=named[id(pool)])
        sections.append(tables.functions(medium, addressed, pid))
        sections.append(tables.sizing(medium, addressed, suggested.get(id(pool)), pid))
    return sections


def _small_print(medium: Medium, report: Report, *, more_numbers: bool, verbose: bool) -> Iterator[Line]:
    notices = report.notices
    alike = [(place, 1) for place in range(len(notices))] if verbose else _alike(notices)[:_MOST_NOTICES]
    for place, number in alike:
        text = medium.clean(notices[place]) + _like_it(number)
        yield from hanging(medium, ("notice", "dim"), text, "dim")
    yield from more(len(notices) - sum(number for _, number in alike), "notice")
    cost = report.overhead
    facts: list[Line] = [
        ((f"ran {medium.seconds(report.duration_seconds)}", "dim"),),
        ((f"overhead {medium.seconds(cost.cpu_seconds)} CPU ({medium.percent(cost.share)})", "dim"),),
    ]
    processes = sum(process.count for process in report.processes)
    if processes > 1:
        facts.insert(1, ((f"{processes:,} processes", "dim"),))
    if medium.started is not None:
        facts.insert(1, ((f"started {medium.started:%Y-%m-%d %H:%M:%S %Z}".rstrip(), "dim"),))
    if more_numbers:
        facts.append((("more numbers: --verbose", "dim"),))
    yield from medium.flow(facts, medium.width)

"""The lines of a report, laid out once: the verdict first, then how we know, the line, and what to do."""

from __future__ import annotations

import math
import re
import shlex
import signal
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from poolscope.model import (
    PATTERNS,
    SEVERITIES,
    Finding,
    LoopReport,
    PoolReport,
    PoolTrace,
    Report,
    Session,
)
from poolscope.rendering import tables, timeline
from poolscope.rendering.text import (
    NOTHING,
    Line,
    Medium,
    Span,
    Style,
    cells,
    count,
    line_cells,
    more,
)

#: A loop that is so late most of the time (s) is told of, though nothing of it is a finding.
_LATE_SECONDS = 0.1
_MOST_FINDINGS = 5
_MOST_LINES = 5  # of findings that only inform, and of frames
_MOST_NOTICES = 10
_INDENT = 2
_LABEL = 10

#: Evidence on a pool that its chart and its row of the table show as well.
_IN_THE_TABLE = frozenset({"max_workers", "tasks_started", "tasks_finished", "wait_max_seconds"})


class _Case(NamedTuple):
    """A finding and what it is about; neither pool nor loop if the report does not say.

    `pid` is that of the process where others have a pool or loop of that name, else None.
    """

    finding: Finding
    pool: PoolReport | None = None
    loop: LoopReport | None = None
    trace: PoolTrace | None = None
    pid: int | None = None


def layout(session: Session, medium: Medium) -> list[Line]:
    """The report as lines for `medium`."""
    report = session.report
    cases = _ranked(session)
    sections = [list(_headline(medium, report, cases))]
    charted: set[int] = set()
    for index, case in enumerate(cases[:_MOST_FINDINGS]):
        section = [] if index == 0 else list(_verdict(medium, case.finding))  # the first one is the headline
        section += _explanation(medium, case)
        if case.pool is not None and id(case.pool) not in charted:
            charted.add(id(case.pool))
            section += _chart(medium, case, cases)
        sections.append(section)
    sections.append(list(_brief(medium, cases[_MOST_FINDINGS:])))
    sections += _tables(medium, report, cases)
    sections.append(list(_brief(medium, _informing(session))))
    sections.append(list(_small_print(medium, report)))
    lines: list[Line] = []
    for section in filter(None, sections):
        lines += [NOTHING, *section] if lines else section
    return lines


def _cases(session: Session) -> Iterator[_Case]:
    report = session.report
    seen: list[Finding] = []
    for index, pool in enumerate(report.pools):
        trace = session.traces[index] if index < len(session.traces) else None
        pid = _pid_among(pool, report.pools)
        for finding in pool.findings:
            seen.append(finding)
            yield _Case(finding, pool=pool, trace=trace, pid=pid)
    for loop in report.event_loops:
        pid = _pid_among(loop, report.event_loops)
        for finding in loop.findings:
            seen.append(finding)
            yield _Case(finding, loop=loop, pid=pid)
    for finding in report.findings:
        if finding not in seen:
            yield _Case(finding)


def _pid_among(row: PoolReport | LoopReport, rows: Sequence[PoolReport] | Sequence[LoopReport]) -> int | None:
    """The process of a pool or loop, if it takes that to tell it from others."""
    return row.pid if any(other.name == row.name and other.pid != row.pid for other in rows) else None


def _ranked(session: Session) -> list[_Case]:
    """What is above info, the worst first: by severity, then pattern, then length."""
    end = session.report.duration_seconds

    def rank(case: _Case) -> tuple[int, int, float]:
        finding = case.finding
        pattern = PATTERNS.index(finding.pattern) if finding.pattern in PATTERNS else len(PATTERNS)
        until = end if finding.until_seconds is None else finding.until_seconds
        return -SEVERITIES.index(finding.severity), pattern, finding.since_seconds - until

    return sorted((case for case in _cases(session) if case.finding.severity != "info"), key=rank)


def _informing(session: Session) -> list[_Case]:
    return [case for case in _cases(session) if case.finding.severity == "info"]


def _headline(medium: Medium, report: Report, cases: Sequence[_Case]) -> Iterator[Line]:
    if cases:
        yield from _verdict(medium, cases[0].finding)
    else:
        word: Span = (medium.clean(report.verdict, 40).upper().replace("_", " "), "bold")
        if report.verdict == "concurrent":
            word = (word[0], "good")
        yield from _hanging(medium, word, _scope(medium, report))
    ending = _ending(report)
    if ending:
        died = report.exit_code is not None and report.exit_code < 0
        yield (("The program " + ending + ".", "critical" if died else "bold"),)
    if len(cases) > 1:
        yield ((f"{count(len(cases), 'finding')}, the worst first.", "dim"),)


def _verdict(medium: Medium, finding: Finding) -> Iterator[Line]:
    word = (finding.severity.upper(), timeline.severity_style(finding))
    return _hanging(medium, word, medium.clean(finding.summary or finding.pattern))


def _scope(medium: Medium, report: Report) -> str:
    """What a verdict without a finding is about."""
    tasks = sum(pool.tasks.submitted for pool in report.pools)
    finished = sum(pool.tasks.succeeded + pool.tasks.failed for pool in report.pools)
    parts = []
    if report.pools:
        few = report.verdict == "insufficient_data" and finished < tasks
        of_them = f", {finished} of them finished," if few else ""
        parts.append(f"{count(tasks, 'task')}{of_them} in {count(len(report.pools), 'pool')}")
    if report.event_loops:
        parts.append(count(len(report.event_loops), "event loop"))
    seen = " and ".join(parts) or "no pool and no event loop"
    seen += f" in {medium.seconds(report.duration_seconds)}"
    if report.verdict == "concurrent":
        return f"Nothing turned serial: {seen}.{_late(medium, report)}"
    if report.verdict == "insufficient_data":
        return f"Too little to judge: {seen}; it takes 10 finished tasks, or an event loop that runs for 1 s."
    return f"{seen}."


def _late(medium: Medium, report: Report) -> str:
    """What is said of a loop that is too busy, though no callback of it takes long enough for a finding."""
    lags = {loop.name: loop.lag_seconds.p50 or 0.0 for loop in report.event_loops}
    worst = max(lags, key=lambda name: lags[name], default=None)
    if worst is None or lags[worst] < _LATE_SECONDS:
        return ""
    return (
        f" But event loop {medium.clean(worst)!r} ran half of what was due {medium.seconds(lags[worst])} late or "
        "later, though no callback held it for long: many short ones do that together, or a machine without a CPU."
    )


def _ending(report: Report) -> str | None:
    code = report.exit_code
    if not code:
        return None
    if code > 0:
        return f"ended with exit status {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"


def _explanation(medium: Medium, case: _Case) -> Iterator[Line]:
    """Of one finding: what, since when, the numbers, the line, the advice."""
    finding = case.finding
    style = timeline.severity_style(finding)
    what: list[Line] = [((medium.clean(finding.pattern, 40), style),)]
    what.append((("cause ", "dim"), (medium.clean(finding.cause, 40), "bold")))
    subject = _subject(medium, case)
    if subject:
        what.append(((subject, ""),))
    if case.pid is not None:
        what.append((("pid ", "dim"), (str(case.pid), "")))
    if case.pool is not None and case.pool.created_at:
        what.append((("made at ", "dim"), (medium.path(case.pool.created_at, 32), "")))
    what.append((("from ", "dim"), (medium.moment(finding.since_seconds), "bold"), *_until(medium, finding)))
    yield from medium.flow(what, medium.width)
    room = medium.width - _INDENT - _LABEL
    known = _IN_THE_TABLE if case.pool is not None else frozenset[str]()
    facts = [_fact(medium, name, value, room) for name, value in finding.evidence.items() if name not in known]
    yield from _labelled("evidence", medium.flow(facts, room))
    yield from _labelled("line", list(_frames(medium, finding, room)))
    yield from _labelled("advice", list(_advice(medium, case, room)))


def _subject(medium: Medium, case: _Case) -> str:
    if case.pool is not None:
        return f"pool {medium.name(case.pool.name, 32)}"
    if case.loop is not None:
        return f"event loop {medium.name(case.loop.name, 28)}"
    return ""


def _until(medium: Medium, finding: Finding) -> tuple[Span, ...]:
    if finding.until_seconds is None:
        return ((" to the end", "dim"),)
    return ((" to ", "dim"), (medium.moment(finding.until_seconds), "bold"))


def _fact(medium: Medium, name: str, value: float, room: int) -> Line:
    """One number of the evidence with its unit, which is in its name."""
    words = name
    if name.endswith("_seconds"):
        words, shown = name.removesuffix("_seconds"), medium.seconds(value)
    elif name.endswith("_per_second"):
        words, shown = name.removesuffix("_per_second"), f"{medium.number(value)}/s"
    elif re.search(r"(^|_)(share|coupling|utilisation|utilization)$", name):
        shown = medium.percent(value)
    elif re.search(r"(^|_)(amplification|factor|growth)$", name):
        shown = medium.number(value) + medium.glyphs.times
    else:
        shown = medium.number(value)
    return ((medium.clean(words.replace("_", " "), room - cells(shown) - 1) + " ", ""), (shown, "bold"))


def _frames(medium: Medium, finding: Finding, room: int) -> Iterator[Line]:
    before: float | None = None
    for frame in finding.frames[:_MOST_LINES]:
        share = ""
        if frame.share is not None and frame.share != before:  # a library line mostly has its caller's share
            share = f", {medium.percent(frame.share)} of samples"
        before = frame.share
        line = f":{frame.line}" if frame.line > 0 else ""
        if cells(share) + len(line) + 24 > room:
            share = ""  # the line matters more
        left = room - cells(share) - len(line)
        function = f" in {medium.clean(frame.function, min(32, left - 16))}" if frame.function else ""
        if not frame.file:
            function = function.strip()  # a builtin has no file
        file = medium.path(frame.file, left - cells(function))
        yield ((file + line, "bold"), (function, ""), (share, "dim"))
        source = medium.clean((frame.source or "").strip(), room - 4)
        if source:
            yield (("    " + source, "code"),)
    yield from more(len(finding.frames) - _MOST_LINES, "line")


def _advice(medium: Medium, case: _Case, room: int) -> Iterator[Line]:
    advice = case.finding.advice
    text = medium.clean(advice.text, 800)
    if text:
        yield from (((line, "bold"),) for line in medium.wrap(text, room))
    if advice.pool and advice.pool not in advice.text:
        yield ((f"see pool {medium.clean(advice.pool, room - 9)}", "bold"),)
    suggested = advice.suggested_max_workers
    if suggested is None:
        return
    name = case.pool.name if case.pool is not None else ""
    setting = shlex.quote(f"{name}.max_workers={suggested}")
    trial: Line = (("try it: ", "dim"), (f"poolscope run --set {setting}", "code"))
    if name and medium.clean(name) == name and line_cells(trial) <= room:
        yield trial
    elif str(suggested) not in re.findall(r"\d+", advice.text):
        yield ((f"suggested max_workers: {suggested}", "bold"),)


def _chart(medium: Medium, case: _Case, cases: Sequence[_Case]) -> list[Line]:
    pool, trace = case.pool, case.trace
    if pool is None or trace is None:
        return []
    findings = [each.finding for each in cases if each.pool is pool]
    lines = timeline.chart(medium, pool, trace.timeline, findings, indent=_INDENT)
    return [NOTHING, *lines] if lines else []


def _brief(medium: Medium, cases: Sequence[_Case]) -> Iterator[Line]:
    """Findings in a sentence each."""
    for case in cases[:_MOST_LINES]:
        finding = case.finding
        facts = "" if finding.cause == "unknown" else f", {finding.cause}"
        text = medium.clean(f"{finding.summary} ({finding.pattern}{facts})")
        yield from _hanging(medium, (finding.severity, "dim"), text, "dim")
    yield from more(len(cases) - _MOST_LINES, "finding")


def _tables(medium: Medium, report: Report, cases: Sequence[_Case]) -> list[list[Line]]:
    styles: dict[int, Style] = {}
    troubled: list[PoolReport] = []
    suggested: dict[int, int] = {}
    for case in cases:
        subject = case.pool or case.loop
        styles.setdefault(id(subject), timeline.severity_style(case.finding))
        if case.pool is None:
            continue
        if not any(case.pool is pool for pool in troubled):
            troubled.append(case.pool)
        number = case.finding.advice.suggested_max_workers
        if number is not None:
            suggested.setdefault(id(case.pool), number)
    processes = {pool.pid for pool in report.pools} | {loop.pid for loop in report.event_loops}
    calm = [pool for pool in report.pools if id(pool) not in styles]
    pools = [*troubled, *sorted(calm, key=lambda pool: -_finite(pool.busy_seconds))]
    loops = sorted(report.event_loops, key=lambda loop: (id(loop) not in styles, -_finite(loop.blocked_seconds)))
    several = len(processes) > 1
    sections = [
        tables.pools(medium, pools, [styles.get(id(pool), "") for pool in pools], several_processes=several),
        tables.loops(medium, loops, [styles.get(id(loop), "") for loop in loops], several_processes=several),
    ]
    for pool in troubled[:_MOST_FINDINGS]:
        pid = _pid_among(pool, report.pools)
        sections.append(tables.functions(medium, pool, pid))
        sections.append(tables.sizing(medium, pool, suggested.get(id(pool)), pid))
    return sections


def _small_print(medium: Medium, report: Report) -> Iterator[Line]:
    for notice in report.notices[:_MOST_NOTICES]:
        yield from _hanging(medium, ("notice", "dim"), medium.clean(notice), "dim")
    yield from more(len(report.notices) - _MOST_NOTICES, "notice")
    cost = report.overhead
    facts: list[Line] = [
        ((f"ran {medium.seconds(report.duration_seconds)}", "dim"),),
        ((f"overhead {medium.seconds(cost.cpu_seconds)} CPU ({medium.percent(cost.share)})", "dim"),),
    ]
    if len(report.processes) > 1:
        facts.insert(1, ((f"{len(report.processes):,} processes", "dim"),))
    yield from medium.flow(facts, medium.width)


def _labelled(label: str, lines: Sequence[Line]) -> Iterator[Line]:
    for index, line in enumerate(lines):
        name = label if index == 0 else ""
        yield ((" " * _INDENT + f"{name:<{_LABEL}}", "dim"), *line)


def _hanging(medium: Medium, word: Span, text: str, style: Style = "bold") -> Iterator[Line]:
    """A word and a wrapped text to the right of it."""
    margin = line_cells((word,)) + 2
    for index, line in enumerate(medium.wrap(text, medium.width - margin)):
        yield (word, ("  ", ""), (line, style)) if index == 0 else ((" " * margin + line, style),)


def _finite(value: float) -> float:
    return value if math.isfinite(value) else 0.0

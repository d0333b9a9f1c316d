"""The lines of a report, laid out once: the verdict first, then how we know, the line, and what to do."""

from __future__ import annotations

import math
import re
import shlex
import signal
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from msgspec.structs import replace

from poolscope.addresses import addresses
from poolscope.model import (
    IN_TURN,
    LOOP_NEEDED_SECONDS,
    TASKS_NEEDED,
    Finding,
    LoopReport,
    PoolReport,
    PoolTrace,
    Report,
    Session,
    kind_of_notice,
)
from poolscope.ranking import rank
from poolscope.rendering import tables, timeline
from poolscope.rendering.text import (
    NOTHING,
    Line,
    Medium,
    Span,
    Style,
    cells,
    line_cells,
    more,
)
from poolscope.rules.wording import children, counted
from poolscope.signals.loop_evidence import MEASURED

#: A loop that is so late most of the time (s) is told of, though nothing of it is a finding.
_LATE_SECONDS = 0.1
_MOST_FINDINGS = 5
_MOST_NUMBERS = 4  # of the evidence, those that say most come first
_MOST_LINES = 5  # of findings that only inform, and of frames
_MOST_NOTICES = 10
_MOST_LOOKED_AT = 1_000  # of notices: no run of ours has as many
#: So much below the most, the average is worth telling.
_NOTICEABLE = 0.1
_INDENT = 2
_LABEL = 10

#: Evidence on a pool that its chart and its row of the table show as well.
_IN_THE_TABLE = frozenset({"max_workers", "tasks_started", "tasks_finished", "wait_max_seconds"})
#: Numbers that say little by themselves, though a session of before may have them first.
_FRAMEWORK = frozenset({"window_seconds", "loop_seconds", "coupling"})


class _Case(NamedTuple):
    """A finding and what it is about; neither pool nor loop if the report does not say.

    `pid` is that of the process where others have a pool or loop of that name, else None. `address` names the pool in a
    command.
    """

    finding: Finding
    pool: PoolReport | None = None
    loop: LoopReport | None = None
    trace: PoolTrace | None = None
    pid: int | None = None
    address: str = ""


def layout(session: Session, medium: Medium, *, verbose: bool = False) -> list[Line]:
    """Return the report as lines for `medium`; `verbose` has every number of the evidence and every notice."""
    report = session.report
    cases = _ranked(session)
    notes = _informing(session)
    if not cases and report.verdict == IN_TURN:
        # The verdict is a finding that informs.
        cases = sorted((note for note in notes if note.finding.pattern == IN_TURN), key=_shortest)[:1]
        notes = [note for note in notes if note not in cases]
    sections = [list(_headline(medium, report, cases, notes))]
    charted: set[int] = set()
    for index, case in enumerate(cases[:_MOST_FINDINGS]):
        section = [] if index == 0 else list(_verdict(medium, case.finding))  # the first one is the headline
        section += _explanation(medium, case, verbose=verbose)
        if case.pool is not None and id(case.pool) not in charted:
            charted.add(id(case.pool))
            section += _chart(medium, case, cases)
        sections.append(section)
    sections.append(list(_brief(medium, cases[_MOST_FINDINGS:])))
    sections += _tables(medium, report, cases)
    sections.append(list(_brief(medium, notes)))
    more_numbers = not verbose and any(len(_numbers(case)) > _MOST_NUMBERS for case in cases[:_MOST_FINDINGS])
    sections.append(list(_small_print(medium, report, more_numbers=more_numbers, verbose=verbose)))
    lines: list[Line] = []
    for section in filter(None, sections):
        lines += [NOTHING, *section] if lines else section
    return lines


def _shortest(case: _Case) -> float:
    finding = case.finding
    return finding.since_seconds - (finding.until_seconds or math.inf)


def _cases(session: Session) -> Iterator[_Case]:
    report = session.report
    seen: set[tuple[object, ...]] = set()
    shared, named = _shared_names(report.pools), addresses(report.pools)
    for index, pool in enumerate(report.pools):
        trace = session.traces[index] if index < len(session.traces) else None
        for finding in pool.findings:
            seen.add(_identity(finding))
            pid = pool.pid if pool.name in shared else None
            yield _Case(finding, pool=pool, trace=trace, pid=pid, address=named[index])
    shared = _shared_names(report.event_loops)
    for loop in report.event_loops:
        for finding in loop.findings:
            seen.add(_identity(finding))
            yield _Case(finding, loop=loop, pid=loop.pid if loop.name in shared else None)
    for finding in report.findings:
        if _identity(finding) not in seen:
            yield _Case(finding)


def _identity(finding: Finding) -> tuple[object, ...]:
    return finding.pattern, finding.cause, finding.severity, finding.since_seconds, finding.summary


def _shared_names(rows: Sequence[PoolReport] | Sequence[LoopReport]) -> set[str]:
    """Return the names that pools or loops of several processes have: it takes the process to tell those apart."""
    processes: dict[str, set[int]] = {}
    for row in rows:
        processes.setdefault(row.name, set()).add(row.pid)
    return {name for name, pids in processes.items() if len(pids) > 1}


def _ranked(session: Session) -> list[_Case]:
    """Return what is above info, the worst first: by severity, then pattern, then length."""
    end = session.report.duration_seconds
    worse = (case for case in _cases(session) if case.finding.severity != "info")
    return sorted(worse, key=lambda case: rank(case.finding, end))


def _informing(session: Session) -> list[_Case]:
    return [case for case in _cases(session) if case.finding.severity == "info"]


def _headline(medium: Medium, report: Report, cases: Sequence[_Case], notes: Sequence[_Case]) -> Iterator[Line]:
    if cases:
        yield from _verdict(medium, cases[0].finding)
    else:
        word: Span = (medium.clean(report.verdict, 40).upper().replace("_", " "), "bold")
        if report.verdict == "concurrent":
            word = (word[0], "good")
        yield from _hanging(medium, word, _scope(medium, report) + _below(report, notes))
    ending = _ending(report)
    if ending:
        died = report.exit_code is not None and report.exit_code < 0
        yield (("The program " + ending + ".", "critical" if died else "bold"),)
    if len(cases) > 1:
        yield ((f"{counted(len(cases), 'finding')}, the worst first.", "dim"),)


def _verdict(medium: Medium, finding: Finding) -> Iterator[Line]:
    word = (finding.severity.upper(), timeline.severity_style(finding))
    if finding.pattern == IN_TURN:
        word = (IN_TURN.upper().replace("_", " "), "bold")
    return _hanging(medium, word, medium.clean(finding.summary or finding.pattern))


def _scope(medium: Medium, report: Report) -> str:
    """Return what a verdict without a finding is about, and how much of it went on at once."""
    tasks = sum(pool.tasks.submitted for pool in report.pools)
    finished = sum(pool.tasks.succeeded + pool.tasks.failed for pool in report.pools)
    parts = []
    if report.pools:
        left = tasks - finished - sum(pool.tasks.cancelled for pool in report.pools)
        of_them = f", {left:,} of them not finished," if left > 0 else ""
        if report.verdict == "insufficient_data" and finished < tasks:
            of_them = f", {finished:,} of them finished,"
        parts.append(f"{counted(tasks, 'task')}{of_them} in {counted(len(report.pools), 'pool')}{_at_once(report)}")
    if report.event_loops:
        parts.append(counted(len(report.event_loops), "event loop"))
    if not parts and report.verdict == "insufficient_data" and (there := _nothing_watched(medium, report)):
        return there
    if report.verdict == "insufficient_data" and (there := _of_no_pool(report)):
        parts.append(there)
    seen = " and ".join(parts) or "no pool and no event loop"
    seen += f" in {medium.seconds(report.duration_seconds)}"
    if report.verdict == "concurrent":
        return f"{seen[0].upper()}{seen[1:]}.{_late(medium, report)}"
    if report.verdict == "insufficient_data":
        needed = f"it takes {TASKS_NEEDED} finished tasks, or an event loop that runs for {LOOP_NEEDED_SECONDS:g} s"
        return f"Too little to judge: {seen}; {needed}."
    return f"{seen[0].upper()}{seen[1:]}."


def _nothing_watched(medium: Medium, report: Report) -> str:
    """Return what there was in place of pools and event loops, if that is known."""
    ran = medium.seconds(report.duration_seconds)
    starts, there = report.own_starts, _of_no_pool(report)
    if there:
        turns = ", one after the other" if len(starts) == 1 and starts[0].in_turn and starts[0].count > 1 else ""
        return f"No pool and no event loop in {ran}, but {there}{turns}. What these do is not watched."
    if len(report.processes) == 1 and report.processes[0].alone:
        return (
            f"One thread in {ran}, and no pool, event loop or child process that is known: nothing here could run two "
            "things at once."
        )
    return ""


def _of_no_pool(report: Report) -> str:
    """Return how many threads and processes were started by hand; empty if there were none."""
    totals = {"thread": 0, "process": 0}
    for start in report.own_starts:
        totals[start.what] = totals.get(start.what, 0) + start.count
    there = " and ".join(children(count, what) for what, count in totals.items() if count)
    return f"{there} of no pool" if there else ""


def _at_once(report: Report) -> str:
    """Return the most tasks that ran at once in one pool, with a comma before it; empty if none ran."""
    peak = max((pool.peak_active for pool in report.pools), default=0)
    if peak < 1:
        return ""
    where = "" if len(report.pools) == 1 else " in one of them"
    if peak == 1:
        return ", never two at once,"
    return f", at most {peak:,} at once{where}{_on_average(report)},"


def _on_average(report: Report) -> str:
    """Return how many tasks of the busiest pool ran at once, if that is less than the most."""
    busiest = max(report.pools, key=lambda pool: _finite(pool.busy_seconds))
    mean = busiest.concurrency.mean
    if mean is None or busiest.concurrency.peak - mean < _NOTICEABLE:
        return ""
    return f" and {mean:.1f} on average" if len(report.pools) == 1 else f", {mean:.1f} on average in the busiest"


def _below(report: Report, notes: Sequence[_Case]) -> str:
    """Return what else a reader should look at, with a blank before it."""
    said = []
    if notes:
        said.append(f"{counted(len(notes), 'note')} below")
    if report.notices and not report.pools and not report.event_loops:
        said.append("what could not be seen stands in the notices below")
    text = "; ".join(said)
    return f" {text[0].upper()}{text[1:]}." if text else ""


def _late(medium: Medium, report: Report) -> str:
    """Return what is said of a loop that is too busy, though no callback of it takes long enough for a finding."""
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


def _explanation(medium: Medium, case: _Case, *, verbose: bool) -> Iterator[Line]:
    """Of one finding: what, since when, the numbers, the line, the advice."""
    finding = case.finding
    style = timeline.severity_style(finding)
    what: list[Line] = [((medium.clean(finding.pattern, 40), style),)]
    what.append((("cause ", "dim"), (medium.clean(finding.cause, 40), "bold")))
    subject = _subject(medium, case)
    if subject:
        what.append(((subject, ""),))
    if case.pid is not None:
        what.append((("pid ", "dim"), (tables.tell_pid(case.pid), "")))
    if case.pool is not None and case.pool.created_at:
        room = max(32, medium.width // 2)  # the narrowest takes an item of so many
        what.append((("made at ", "dim"), (medium.path(case.pool.created_at, room), "")))
    what.append(_from_to(medium, finding))
    yield from medium.flow(what, medium.width)
    room = medium.width - _INDENT - _LABEL
    numbers = _numbers(case)
    facts = [
        _fact(medium, name, value, finding, room) for name, value in (numbers if verbose else numbers[:_MOST_NUMBERS])
    ]
    yield from _labelled("evidence", medium.flow(facts, room))
    yield from _labelled("line", list(_frames(medium, finding, room)))
    yield from _labelled("advice", list(_advice(medium, case, room)))


def _numbers(case: _Case) -> list[tuple[str, float]]:
    """Return the evidence but for what is shown elsewhere, what says most first."""
    known = _IN_THE_TABLE if case.pool is not None else MEASURED
    numbers = [item for item in case.finding.evidence.items() if item[0] not in known]
    return sorted(numbers, key=lambda item: item[0] in _FRAMEWORK)


def _subject(medium: Medium, case: _Case) -> str:
    if case.pool is not None:
        own, all_of_them = case.finding.evidence.get("max_workers"), case.pool.max_workers
        # The row is the sum over pools of one name that lived at once, the finding is of one of them.
        part = own is not None and 0 < own < all_of_them
        of_them = f" ({medium.number(own)} of {counted(all_of_them, 'worker')})" if own is not None and part else ""
        return f"pool {medium.name(case.address, min(32, medium.width - 5 - cells(of_them)))}{of_them}"
    if case.loop is not None:
        # One thread may have run loops of several kinds.
        kind = "" if case.loop.kind == "asyncio" else f" ({medium.clean(case.loop.kind, 10)})"
        return f"event loop {medium.name(case.loop.name, 28 - cells(kind))}{kind}"
    return ""


def _from_to(medium: Medium, finding: Finding) -> Line:
    """Return when it began and ended, with the times of day where there is room for them."""
    began, ended = finding.since_seconds, finding.until_seconds
    for times in (True, False):
        end: Line = ((" to the end", "dim"),)
        if ended is not None:
            end = ((" to ", "dim"), *_when(medium, ended, times))
        line: Line = (("from ", "dim"), *_when(medium, began, times), *end)
        if line_cells(line) <= medium.width:
            break
    return line


def _when(medium: Medium, value: float, times: bool) -> Line:
    moment: Span = (medium.moment(value), "bold")
    day = medium.time_of_day(value) if times else ""
    return (moment, (f" ({day})", "")) if day else (moment,)


def _fact(medium: Medium, name: str, value: float, finding: Finding, room: int) -> Line:
    """One number of the evidence with its unit, which is in its name."""
    words = name
    if name == "cpu_limit_cores":
        # Below what the process may use it is the lock of the interpreter that the workers share.
        gil = value == 1 and finding.evidence.get("process_cores_allowed", 0.0) > 1
        words, shown = "cpu limit", "the GIL's one core" if gil else _cores(medium, value)
    elif name.endswith("_seconds"):
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


def _cores(medium: Medium, value: float) -> str:
    return f"{medium.number(value)} core{'' if value == 1 else 's'}"


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
    in_code = advice.action == "raise_limit" or (case.pool is not None and case.pool.kind == "queue")
    if suggested is None or in_code:
        return  # the sentence has the number, and only the code can have another one
    setting = shlex.quote(f"{case.address}.max_workers={suggested}")
    trial: Line = (("try it: ", "dim"), (f"poolscope run --set {setting}", "code"))
    if case.address and medium.clean(case.address) == case.address and line_cells(trial) <= room:
        yield trial
    elif str(suggested) not in re.findall(r"\d+", advice.text):
        yield ((f"suggested max_workers: {suggested}", "bold"),)


def _chart(medium: Medium, case: _Case, cases: Sequence[_Case]) -> list[Line]:
    pool, trace = case.pool, case.trace
    if pool is None or trace is None:
        return []
    findings = [each.finding for each in cases if each.pool is pool and each.finding.severity != "info"]
    lines = timeline.chart(medium, pool, trace.timeline, findings, indent=_INDENT)
    return [NOTHING, *lines] if lines else []


def _brief(medium: Medium, cases: Sequence[_Case]) -> Iterator[Line]:
    """Return findings in a sentence each, those that differ in numbers only in one."""
    texts = [f"{case.finding.severity} {case.finding.summary} ({_kind(case.finding)})" for case in cases]
    alike = _alike(texts)
    shown = 0
    for place, number in alike[:_MOST_LINES]:
        finding = cases[place].finding
        shown += number
        text = medium.clean(f"{finding.summary} ({_kind(finding)})") + _like_it(number)
        yield from _hanging(medium, (finding.severity, "dim"), text, "dim")
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


def _tables(medium: Medium, report: Report, cases: Sequence[_Case]) -> list[list[Line]]:
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
    pools = [*troubled, *sorted(calm, key=lambda pool: -_finite(pool.busy_seconds))]
    loops = sorted(report.event_loops, key=lambda loop: (id(loop) not in styles, -_finite(loop.blocked_seconds)))
    several = len(processes) > 1
    sections = [
        tables.pools(medium, pools, [styles.get(id(pool), "") for pool in pools], several_processes=several),
        tables.loops(medium, loops, [styles.get(id(loop), "") for loop in loops], several_processes=several),
    ]
    shared = _shared_names(report.pools)
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
        yield from _hanging(medium, ("notice", "dim"), text, "dim")
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


def _labelled(label: str, lines: Sequence[Line]) -> Iterator[Line]:
    for index, line in enumerate(lines):
        name = label if index == 0 else ""
        yield ((" " * _INDENT + f"{name:<{_LABEL}}", "dim"), *line)


def _hanging(medium: Medium, word: Span, text: str, style: Style = "bold") -> Iterator[Line]:
    """Return a word and a wrapped text to the right of it."""
    margin = line_cells((word,)) + 2
    for index, line in enumerate(medium.wrap(text, medium.width - margin)):
        yield (word, ("  ", ""), (line, style)) if index == 0 else ((" " * margin + line, style),)


def _finite(value: float) -> float:
    return value if math.isfinite(value) else 0.0

"""One finding: what, since when, its numbers, the line, and what to do."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence

from poolscope.model import Finding
from poolscope.rendering import tables, timeline
from poolscope.rendering.cases import Case
from poolscope.rendering.text import Line, Medium, Span, cells, line_cells, more
from poolscope.rules.wording import counted
from poolscope.signals.loop_evidence import MEASURED

#: Kinds whose size is a matter of the program's code, and of no setting.
_SIZED_IN_CODE = frozenset({"queue", "asgiref"})
#: Of the evidence, those that say most come first.
MOST_NUMBERS = 4
_MOST_FRAMES = 5
#: Columns before a label, and those of a label.
INDENT = 2
_LABEL = 10
#: Evidence on a pool that its chart and its row of the table show as well.
_IN_THE_TABLE = frozenset({"max_workers", "tasks_started", "tasks_finished", "wait_max_seconds"})
#: Numbers that say little by themselves, though a session of before may have them first.
_FRAMEWORK = frozenset({"window_seconds", "loop_seconds", "coupling"})


def explanation(medium: Medium, case: Case, *, verbose: bool) -> Iterator[Line]:
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
    room = medium.width - INDENT - _LABEL
    numbers = numbers_of(case)
    facts = [
        _fact(medium, name, value, finding, room) for name, value in (numbers if verbose else numbers[:MOST_NUMBERS])
    ]
    yield from _labelled("evidence", medium.flow(facts, room))
    yield from _labelled("line", list(_frames(medium, finding, room)))
    yield from _labelled("advice", list(_advice(medium, case, room)))


def numbers_of(case: Case) -> list[tuple[str, float]]:
    """Return the evidence but for what is shown elsewhere, what says most first."""
    known = _IN_THE_TABLE if case.pool is not None else MEASURED
    numbers = [item for item in case.finding.evidence.items() if item[0] not in known]
    return sorted(numbers, key=lambda item: item[0] in _FRAMEWORK)


def _subject(medium: Medium, case: Case) -> str:
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
    for frame in finding.frames[:_MOST_FRAMES]:
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
    yield from more(len(finding.frames) - _MOST_FRAMES, "line")


def _advice(medium: Medium, case: Case, room: int) -> Iterator[Line]:
    advice = case.finding.advice
    text = medium.clean(advice.text, 800)
    if text:
        yield from (((line, "bold"),) for line in medium.wrap(text, room))
    if advice.pool and advice.pool not in advice.text:
        yield ((f"see pool {medium.clean(advice.pool, room - 9)}", "bold"),)
    suggested = advice.suggested_max_workers
    in_code = advice.action == "raise_limit" or (case.pool is not None and case.pool.kind in _SIZED_IN_CODE)
    if suggested is None or in_code:
        return  # the sentence has the number, and only the code can have another one
    setting = shlex.quote(f"{case.address}.max_workers={suggested}")
    trial: Line = (("try it: ", "dim"), (f"poolscope run --set {setting}", "code"))
    if case.address and medium.clean(case.address) == case.address and line_cells(trial) <= room:
        yield trial
    elif str(suggested) not in re.findall(r"\d+", advice.text):
        yield ((f"suggested max_workers: {suggested}", "bold"),)


def _labelled(label: str, lines: Sequence[Line]) -> Iterator[Line]:
    for index, line in enumerate(lines):
        name = label if index == 0 else ""
        yield ((" " * INDENT + f"{name:<{_LABEL}}", "dim"), *line)

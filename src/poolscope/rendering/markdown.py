"""A report for a pull request or a job's summary: Markdown as GitHub shows it, and its annotations.

What comes from the program (names, lines of source) may hold anything: `as_text` and `as_code` are its only ways out.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence

from poolscope.model import IN_TURN, Finding, Frame, LoopReport, PoolReport, Report, Session
from poolscope.ranking import importance
from poolscope.rendering.text import Medium
from poolscope.rules.wording import counted

#: GitHub takes summaries up to 1 MiB, all steps of a job together.
MOST_BYTES = 200_000
#: GitHub shows ten annotations of each kind for a step.
MOST_ANNOTATIONS = 10
_MOST_FINDINGS = 20
_MOST_ROWS = 50

_SIGNS = {"critical": "\N{LARGE RED CIRCLE}", "warning": "\N{LARGE YELLOW CIRCLE}", "info": "\N{LARGE BLUE CIRCLE}"}
_COMMANDS = {"critical": "error", "warning": "warning", "info": "notice"}
#: What begins something in Markdown or HTML within a line.
_SPECIAL = str.maketrans({char: f"\\{char}" for char in "\\`*_[]|~$"} | {"<": "&lt;", ">": "&gt;", "&": "&amp;"})
#: What begins a heading or a list at the start of a line: put a backslash before the one, and behind the other.
_HEADING = re.compile(r"\A(?=[#+=-])")
_NUMBER = re.compile(r"\A[0-9]+(?=[.)])")


def render(session: Session, cwd: str) -> str:
    """Return the report; paths below `cwd` are shown relative to it."""
    medium = Medium(width=120, encoding=None, cwd=cwd)
    report = session.report
    lines = [*_headline(medium, report), *_findings(medium, report), *_pools(medium, report), *_loops(medium, report)]
    lines += _small_print(medium, report)
    text = "\n".join(lines) + "\n"
    if len(text.encode()) > MOST_BYTES:
        return "\n".join([*_headline(medium, report), "", "The report is too long for a summary.", ""])
    return text


def annotate(session: Session, cwd: str) -> str:
    """Return workflow commands, a line each, that mark the lines of findings above info in a pull request."""
    medium = Medium(width=120, encoding=None, cwd=cwd)
    worse = [finding for finding in _ranked(session.report.findings) if finding.severity != "info"]
    lines = []
    for finding in worse[:MOST_ANNOTATIONS]:
        frame = next((frame for frame in finding.frames if _is_below(frame, cwd)), None)
        properties = {"title": f"poolscope: {finding.pattern} ({finding.cause})"}
        if frame is not None:
            properties |= {"file": os.path.relpath(frame.file, cwd), "line": str(frame.line)}
        told = ",".join(f"{name}={_command_property(medium.clean(value))}" for name, value in properties.items())
        text = medium.clean(f"{finding.summary} {finding.advice.text}", 1000)
        lines.append(f"::{_COMMANDS[finding.severity]} {told}::{_command_text(text)}")
    return "".join(f"{line}\n" for line in lines)


def _headline(medium: Medium, report: Report) -> Iterator[str]:
    worst = next((finding for finding in _ranked(report.findings) if finding.severity != "info"), None)
    if worst is None and report.verdict == IN_TURN:
        worst = next((finding for finding in _ranked(report.findings) if finding.pattern == IN_TURN), None)
    sign = _SIGNS[worst.severity] if worst is not None else "\N{LARGE GREEN CIRCLE}"
    if report.verdict not in ("concurrent", *(finding.pattern for finding in report.findings)):
        sign = "\N{MEDIUM WHITE CIRCLE}"
    verdict = medium.clean(report.verdict, 40).replace("_", " ")
    yield f"### {sign} poolscope: {as_text(medium, verdict)}"
    yield ""
    if worst is not None:
        yield f"**{as_text(medium, worst.summary)}**"
    else:
        tasks = sum(pool.tasks.submitted for pool in report.pools)
        seen = [
            counted(tasks, "task"),
            counted(len(report.pools), "pool"),
            counted(len(report.event_loops), "event loop"),
        ]
        yield f"{', '.join(seen)} in {medium.seconds(report.duration_seconds)}."
    if report.exit_code:
        yield ""
        ending = "a signal ended it: " if report.exit_code < 0 else "exit status "
        yield f"The program failed: {ending}{abs(report.exit_code)}."


def _findings(medium: Medium, report: Report) -> Iterator[str]:
    ranked = _ranked(report.findings)
    for finding in ranked[:_MOST_FINDINGS]:
        yield ""
        if finding.severity == "info":
            yield f"- {_SIGNS['info']} {as_text(medium, finding.summary)}"
            continue
        pattern, cause = as_text(medium, finding.pattern), as_text(medium, finding.cause)
        yield f"#### {_SIGNS[finding.severity]} {pattern}, cause {cause}"
        yield ""
        if finding is not ranked[0]:  # whose summary is the headline
            yield as_text(medium, finding.summary)
            yield ""
        for frame in finding.frames[:5]:
            place = f"{medium.path(frame.file, 80)}:{frame.line}" if frame.line > 0 else medium.path(frame.file, 80)
            source = (frame.source or "").strip()
            line = f": {as_code(medium, source)}" if source else ""
            yield f"- {as_code(medium, place)} in {as_code(medium, frame.function)}{line}"
        if finding.advice.text:
            yield ""
            yield f"> {as_text(medium, finding.advice.text, 800)}"
    if len(ranked) > _MOST_FINDINGS:
        yield ""
        yield f"and {counted(len(ranked) - _MOST_FINDINGS, 'more finding')}"


def _pools(medium: Medium, report: Report) -> Iterator[str]:
    rows = [_pool(medium, pool) for pool in report.pools[:_MOST_ROWS]]
    header = ("pool", "kind", "workers", "peak active", "peak queue", "tasks", "wait p50", "wait p95", "run p50")
    yield from table(header, rows, len(report.pools) - len(rows), "pool")


def _pool(medium: Medium, pool: PoolReport) -> Sequence[str]:
    numbers = (pool.max_workers, pool.peak_active, pool.peak_queue_depth, pool.tasks.submitted)
    times = (pool.wait_seconds.p50, pool.wait_seconds.p95, pool.run_seconds.p50)
    name = as_code(medium, medium.name(pool.name))
    return [name, as_text(medium, pool.kind), *(f"{number:,}" for number in numbers), *map(medium.seconds, times)]


def _loops(medium: Medium, report: Report) -> Iterator[str]:
    rows = [_loop(medium, loop) for loop in report.event_loops[:_MOST_ROWS]]
    header = ("event loop", "kind", "blocked", "longest block", "lag p95", "peak tasks")
    yield from table(header, rows, len(report.event_loops) - len(rows), "event loop")


def _loop(medium: Medium, loop: LoopReport) -> Sequence[str]:
    times = (loop.blocked_seconds, loop.longest_block_seconds, loop.lag_seconds.p95)
    name = as_code(medium, medium.name(loop.name))
    return [name, as_text(medium, loop.kind), *map(medium.seconds, times), f"{loop.peak_tasks:,}"]


def table(header: Sequence[str], rows: Sequence[Sequence[str]], left_out: int = 0, noun: str = "") -> Iterator[str]:
    """Lines of a table, whose cells are Markdown; the first two columns are words, the others numbers."""
    if not rows:
        return
    yield ""
    yield f"| {' | '.join(header)} |"
    yield "|" + "---|" * 2 + "---:|" * (len(header) - 2)
    for row in rows:
        yield f"| {' | '.join(row)} |"
    if left_out:
        yield ""
        yield f"and {counted(left_out, f'more {noun}')}"


def _small_print(medium: Medium, report: Report) -> Iterator[str]:
    if report.notices:
        yield ""
        yield f"<details><summary>{counted(len(report.notices), 'notice')}</summary>"
        yield ""
        for notice in report.notices[:_MOST_ROWS]:
            yield f"- {as_text(medium, notice)}"
        yield ""
        yield "</details>"
    yield ""
    cost = f"overhead {medium.percent(report.overhead.share)} of one core"
    yield f"<sub>ran {medium.seconds(report.duration_seconds)} on Python {as_text(medium, report.python)}, {cost}</sub>"


def _ranked(findings: Sequence[Finding]) -> list[Finding]:
    return sorted(findings, key=importance)


def _is_below(frame: Frame, cwd: str) -> bool:
    path = os.path.normpath(frame.file)
    return frame.line > 0 and path.startswith(cwd.rstrip(os.sep) + os.sep) and "-packages" + os.sep not in path


def as_text(medium: Medium, text: str, most: int = 500) -> str:
    """Return a text of the program's that Markdown shows as it is."""
    shown = medium.clean(text, most).strip().translate(_SPECIAL)
    shown = _NUMBER.sub(r"\g<0>\\", _HEADING.sub(r"\\", shown))
    return shown.replace("@", "@\u200b")  # nor does it call a person


def as_code(medium: Medium, text: str) -> str:
    """Return it as code. In a table `|` ends a cell even there."""
    shown = medium.clean(text, 200).strip() or "-"
    fence = "`"
    while fence in shown:
        fence += "`"
    pad = " " if shown[0] == "`" or shown[-1] == "`" else ""
    return f"{fence}{pad}{shown}{pad}{fence}".replace("|", "\\|")


def _command_text(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _command_property(text: str) -> str:
    return _command_text(text).replace(":", "%3A").replace(",", "%2C")

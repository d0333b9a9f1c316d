"""The head of a report: the verdict in a sentence, and how the program ended."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence

from poolscope.model import IN_TURN, LOOP_NEEDED_SECONDS, TASKS_NEEDED, Finding, Report
from poolscope.rendering import timeline
from poolscope.rendering.cases import Case
from poolscope.rendering.text import Line, Medium, Span, finite, hanging
from poolscope.rules.wording import children, counted

#: A loop that is so late most of the time (s) is told of, though nothing of it is a finding.
_LATE_SECONDS = 0.1
#: So much below the most, the average is worth telling.
_NOTICEABLE = 0.1


def headline(medium: Medium, report: Report, cases: Sequence[Case], notes: Sequence[Case]) -> Iterator[Line]:
    """Yield the verdict with its reason, how the program ended, and the number of findings."""
    if cases:
        yield from verdict_of(medium, cases[0].finding)
    else:
        word: Span = (medium.clean(report.verdict, 40).upper().replace("_", " "), "bold")
        if report.verdict == "concurrent":
            word = (word[0], "good")
        yield from hanging(medium, word, _scope(medium, report) + _below(report, notes))
    ending = _ending(report)
    if ending:
        died = report.exit_code is not None and report.exit_code < 0
        yield (("The program " + ending + ".", "critical" if died else "bold"),)
    if len(cases) > 1:
        yield ((f"{counted(len(cases), 'finding')}, the worst first.", "dim"),)


def verdict_of(medium: Medium, finding: Finding) -> Iterator[Line]:
    """Yield the severity of a finding and its summary."""
    word = (finding.severity.upper(), timeline.severity_style(finding))
    if finding.pattern == IN_TURN:
        word = (IN_TURN.upper().replace("_", " "), "bold")
    return hanging(medium, word, medium.clean(finding.summary or finding.pattern))


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
    busiest = max(report.pools, key=lambda pool: finite(pool.busy_seconds))
    mean = busiest.concurrency.mean
    if mean is None or busiest.concurrency.peak - mean < _NOTICEABLE:
        return ""
    return f" and {mean:.1f} on average" if len(report.pools) == 1 else f", {mean:.1f} on average in the busiest"


def _below(report: Report, notes: Sequence[Case]) -> str:
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

"""Two recorded runs beside each other: what changed, and whether that is more than chance.

Two runs of one program never take the same time. The run time of tasks has changed where it did so all along: each run
is cut into ten parts of so many tasks, seven or more of the ten percentiles have moved by a tenth, and all of these in
the same direction (a sign test: by chance seven agree in 2 of 100 comparisons). Waits depend on each other, and differ
widely between runs of a pool that is nearly full: they must have halved or doubled as well. What is one number for a
run has no such test: less than a quarter of a makespan, or half of a saturated or blocked time, is called noise.
"""

from __future__ import annotations

import math
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Literal, NamedTuple, TypeAlias, TypeVar

from poolscope.model import Finding, LoopReport, PoolReport, PoolTrace, Session
from poolscope.ranking import importance
from poolscope.rendering.markdown import as_code, as_text, table
from poolscope.rendering.tasks import tasks
from poolscope.rendering.text import Medium

PARTS = 10
#: So many of the parts must have moved, all in the same direction.
AGREEING = 7
#: Fewer tasks than this in a part tell nothing.
TASKS_IN_A_PART = 3
#: The least share of the larger one by which numbers must differ.
LEAST_OF_RUNS = 0.10
LEAST_OF_WAITS = 0.50
LEAST_OF_SPANS = 0.25
LEAST_OF_TROUBLE = 0.50
#: Part of a makespan by which the saturated time in it must differ.
_LEAST_OF_A_RUN = 0.05
#: The least difference of a time (s), and of that of a part (ns; as a part of how much the whole has moved).
LEAST_SECONDS = 0.01
LEAST_OF_A_PART_NS = 1_000_000
LEAST_OF_A_PART = 0.01

Meaning = Literal["better", "worse", "noise", "same", "unknown"]
Times: TypeAlias = "array[int]"
_Row = TypeVar("_Row")


class Change(NamedTuple):
    """One number before and after, None where it was not measured, and what its change means."""

    what: str
    before: float | None
    after: float | None
    meaning: Meaning
    #: Whether it is a time (s), or a plain number.
    seconds: bool = True


class Subject(NamedTuple):
    """The program, a pool or an event loop: what changed of it. Without changes: it was in one of the runs only."""

    name: str
    changes: tuple[Change, ...]
    only: Literal["", "before", "after"] = ""


class Comparison(NamedTuple):
    """What two runs differ in."""

    verdicts: tuple[str, str]
    new: tuple[Finding, ...]
    gone: tuple[Finding, ...]
    subjects: tuple[Subject, ...]

    def regressions(self) -> list[str]:
        """Return what became worse: findings above info that are new, and numbers."""
        worse = [finding.summary for finding in self.new if finding.severity != "info"]
        for subject in self.subjects:
            worse += [f"{subject.name}: {change.what}" for change in subject.changes if change.meaning == "worse"]
        return worse


class _Pools(NamedTuple):
    """All rows of one name and kind in a run, and their tasks: when submitted, started and finished (ns)."""

    rows: list[PoolReport]
    submitted: Times
    started: Times
    finished: Times


def compare(before: Session, after: Session) -> Comparison:
    """Return what changed from one run to the other. Pools and loops are the same by name and kind."""
    durations = [session.report.duration_seconds for session in (before, after)]
    subjects = [Subject("program", (_one("duration", *durations),))]
    subjects += _subjects("pool", _pools(before), _pools(after), _pool_changes)
    subjects += _subjects("event loop", _loops(before), _loops(after), _loop_changes)
    found = [_findings(before), _findings(after)]
    new = [finding for key, finding in found[1].items() if key not in found[0]]
    gone = [finding for key, finding in found[0].items() if key not in found[1]]
    return Comparison(
        (before.report.verdict, after.report.verdict),
        tuple(sorted(new, key=importance)),
        tuple(sorted(gone, key=importance)),
        tuple(subjects),
    )


def lines(comparison: Comparison, medium: Medium) -> Iterator[str]:
    """Return the comparison for a terminal."""
    yield f"verdict: {medium.clean(comparison.verdicts[0], 40)} -> {medium.clean(comparison.verdicts[1], 40)}"
    for word, findings in (("gone", comparison.gone), ("new", comparison.new)):
        for finding in findings:
            yield f"{word}: {finding.severity}: {medium.clean(finding.summary)}"
    for subject in comparison.subjects:
        name = medium.clean(subject.name, 60)
        yield ""
        yield f"{name}: only {subject.only}" if subject.only else name
        for change in subject.changes:
            shown = [_shown(medium, change, number) for number in (change.before, change.after)]
            yield f"  {change.what:<14}{shown[0]:>12}  ->{shown[1]:>12}  {_told(change)}".rstrip()


def markdown(comparison: Comparison, medium: Medium) -> str:
    """Return the comparison for a pull request."""
    worse = comparison.regressions()
    sign = "\N{LARGE RED CIRCLE}" if worse else "\N{LARGE GREEN CIRCLE}"
    before, after = (as_text(medium, verdict.replace("_", " ")) for verdict in comparison.verdicts)
    told = [f"### {sign} poolscope: {before} before, {after} after", ""]
    for word, findings in (("gone", comparison.gone), ("new", comparison.new)):
        told += [f"- {word}, {finding.severity}: {as_text(medium, finding.summary)}" for finding in findings]
    rows = []
    for subject in comparison.subjects:
        name = as_code(medium, subject.name)
        if subject.only:
            rows.append([name, f"only {subject.only}", "", "", ""])
        for change in subject.changes:
            shown = [_shown(medium, change, number) for number in (change.before, change.after)]
            rows.append([name, change.what, *shown, _told(change)])
    told += table(("", "", "before", "after", ""), rows)
    return "\n".join(told) + "\n"


def _subjects(
    kind: str,
    before: dict[tuple[str, str], _Row],
    after: dict[tuple[str, str], _Row],
    changes: Callable[[_Row, _Row], tuple[Change, ...]],
) -> Iterator[Subject]:
    for key in before | after:
        name = f"{kind} {key[0]}"
        if key in before and key in after:
            yield Subject(name, changes(before[key], after[key]))
        else:
            yield Subject(name, (), "before" if key in before else "after")


def _pools(session: Session) -> dict[tuple[str, str], _Pools]:
    rows: dict[tuple[str, str], list[tuple[PoolReport, PoolTrace]]] = defaultdict(list)
    for pool, trace in zip(session.report.pools, session.traces, strict=True):
        rows[pool.name, pool.kind].append((pool, trace))
    pools = {}
    for key, its in rows.items():
        ended = (task for _, trace in its for task in tasks(trace) if min(task[1:]) >= 0)
        ordered = sorted(task[1:] for task in ended)
        submitted, started, finished = (array("q", (task[field] for task in ordered)) for field in range(3))
        pools[key] = _Pools([pool for pool, _ in its], submitted, started, finished)
    return pools


def _loops(session: Session) -> dict[tuple[str, str], LoopReport]:
    # Of several of one name the one that was blocked for longest.
    ordered = sorted(session.report.event_loops, key=lambda loop: loop.blocked_seconds)
    return {(loop.name, loop.kind): loop for loop in ordered}


def _findings(session: Session) -> dict[tuple[str, ...], Finding]:
    """Each finding by what it is about, its pattern, cause and severity."""
    report = session.report
    found: dict[tuple[str, ...], Finding] = {}
    seen: list[Finding] = []
    rows: list[PoolReport | LoopReport] = [*report.pools, *report.event_loops]
    for row in rows:
        for finding in row.findings:
            seen.append(finding)
            found.setdefault((row.name, row.kind, finding.pattern, finding.cause, finding.severity), finding)
    for finding in report.findings:
        if finding not in seen:
            found.setdefault(("", "", finding.pattern, finding.cause, finding.severity), finding)
    return found


def _pool_changes(before: _Pools, after: _Pools) -> tuple[Change, ...]:
    pair = (before, after)
    waits = [array("q", map(int.__sub__, pools.started, pools.submitted)) for pools in pair]
    runs = [array("q", map(int.__sub__, pools.finished, pools.started)) for pools in pair]
    load = _one("tasks", *(sum(row.tasks.submitted for row in pools.rows) for pools in pair), seconds=False, better=1)
    spans = [_makespan(pools) for pools in pair]
    least = _LEAST_OF_A_RUN * max(span or 0.0 for span in spans)
    totals: tuple[Change, ...] = (
        _one("makespan", *spans),
        _one("saturated", *map(_saturated, pair), share=LEAST_OF_TROUBLE, least=least),
        _one("concurrency", *map(_concurrency, pair), seconds=False, better=1),
    )
    if load.meaning in ("better", "worse"):
        # So many more or fewer of them are another load.
        totals = tuple(change._replace(meaning="unknown") for change in totals)
    return (
        load._replace(meaning="same"),
        _one("workers", *(max(row.max_workers for row in pools.rows) for pools in pair), seconds=False, better=None),
        *totals,
        _percentile("wait p50", waits[0], waits[1], 0.5, LEAST_OF_WAITS),
        _percentile("wait p95", waits[0], waits[1], 0.95, LEAST_OF_WAITS),
        _percentile("run p50", runs[0], runs[1], 0.5, LEAST_OF_RUNS),
    )


def _loop_changes(before: LoopReport, after: LoopReport) -> tuple[Change, ...]:
    return (
        _one("blocked", before.blocked_seconds, after.blocked_seconds, share=LEAST_OF_TROUBLE),
        _one("longest block", before.longest_block_seconds, after.longest_block_seconds, share=LEAST_OF_TROUBLE),
        _one("lag p95", before.lag_seconds.p95, after.lag_seconds.p95, share=LEAST_OF_TROUBLE),
    )


def _saturated(pools: _Pools) -> float:
    return sum(row.saturated_seconds for row in pools.rows)


def _makespan(pools: _Pools) -> float | None:
    return (max(pools.finished) - min(pools.submitted)) / 1e9 if pools.finished else None


def _concurrency(pools: _Pools) -> float | None:
    """Return the mean number of tasks that ran at once while there was one to run."""
    busy = occupied = end = 0
    for submitted, started, finished in zip(pools.submitted, pools.started, pools.finished, strict=True):
        busy += finished - started
        occupied += max(0, finished - max(submitted, end))
        end = max(end, finished)
    return busy / occupied if occupied else None


def _one(
    what: str,
    before: float | None,
    after: float | None,
    *,
    seconds: bool = True,
    better: Literal[-1, 1] | None = -1,
    share: float = LEAST_OF_SPANS,
    least: float = LEAST_SECONDS,
) -> Change:
    """Return a change of a number that each run has once.

    `better` is the direction that is, None for neither; less than this `share` is noise, and of seconds less than
    `least`.
    """
    meaning = _meaning(before, after, share, better, least if seconds else 0.0)
    return Change(what, before, after, meaning, seconds)


def _percentile(what: str, before: Times, after: Times, percentile: float, share: float) -> Change:
    """Return a change of what each task has (ns)."""
    first, second = (_at(times, percentile) / 1e9 if times else None for times in (before, after))
    meaning = _meaning(first, second, share, -1, LEAST_SECONDS)
    if meaning in ("better", "worse") and not _agree(before, after, percentile, grown=meaning == "worse"):
        meaning = "noise"
    return Change(what, first, second, meaning)


def _meaning(
    before: float | None, after: float | None, share: float, better: Literal[-1, 1] | None, least: float
) -> Meaning:
    if before is None or after is None or not (math.isfinite(before) and math.isfinite(after)):
        return "unknown"
    difference = after - before
    if difference == 0 or better is None:
        return "same"
    if abs(difference) < max(least, share * max(abs(before), abs(after))):
        return "noise"
    return "better" if difference * better > 0 else "worse"


def _agree(before: Times, after: Times, share: float, *, grown: bool) -> bool:
    """Whether the parts of the runs moved as the whole did."""
    if min(len(before), len(after)) < PARTS * TASKS_IN_A_PART:
        return False
    moved = []
    least_ns = max(LEAST_OF_A_PART_NS, LEAST_OF_A_PART * abs(_at(after, share) - _at(before, share)))
    for first, second in zip(_parts(before, share), _parts(after, share), strict=True):
        if abs(second - first) >= max(least_ns, LEAST_OF_RUNS * max(first, second)):
            moved.append(second > first)
    return len(moved) >= AGREEING and all(more == grown for more in moved)


def _parts(times: Times, share: float) -> list[int]:
    bounds = [len(times) * part // PARTS for part in range(PARTS + 1)]
    return [_at(times[start:end], share) for start, end in pairwise(bounds)]


def _at(times: Sequence[int], share: float) -> int:
    ordered = sorted(times)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _shown(medium: Medium, change: Change, number: float | None) -> str:
    if number is None:
        return medium.glyphs.none
    return medium.seconds(number) if change.seconds else medium.number(number)


def _told(change: Change) -> str:
    """Return what the change means, in words."""
    if change.meaning == "noise":
        return "no more than noise"
    if change.meaning == "unknown" and change.before is not None and change.after is not None:
        return "another load"
    return change.meaning if change.meaning in ("better", "worse") else ""

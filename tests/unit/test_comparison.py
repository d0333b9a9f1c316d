"""Two runs beside each other."""

from __future__ import annotations

import random

import pytest
import report_support
from msgspec.structs import replace
from report_support import CWD, Task, hard_limit_tasks, pool, session, simulate, trace

from poolscope.model import Session
from poolscope.rendering import comparison
from poolscope.rendering.comparison import Change, compare
from poolscope.rendering.text import Medium

MEDIUM = Medium(width=100, encoding=None, cwd=CWD)


def run(workers: int = 4, *, seed: int = 0, factor: float = 1.0, name: str = "fetch") -> Session:
    """A pool under a load that comes and goes at random."""
    chance = random.Random(seed)
    at, arrivals = 0.0, []
    for _ in range(400):
        at += chance.expovariate(20)
        arrivals.append(at)
    ran = simulate(arrivals, [factor * chance.uniform(0.05, 0.15) for _ in arrivals], workers)
    return session([pool(ran, workers, name=name, function="f")], traces=[trace(ran, "f")])


def changes(before: Session, after: Session) -> dict[str, Change]:
    (subject,) = [subject for subject in compare(before, after).subjects if subject.name.startswith("pool")]
    return {change.what: change for change in subject.changes}


def test_a_run_and_itself_differ_in_nothing() -> None:
    same = compare(run(), run())
    assert {change.meaning for subject in same.subjects for change in subject.changes} == {"same"}
    assert not same.regressions()


@pytest.mark.parametrize("seed", range(1, 21))
def test_two_runs_of_one_program_are_noise(seed: int) -> None:
    assert not compare(run(seed=seed), run(seed=seed + 100)).regressions()


def test_what_runs_a_third_longer_is_worse_and_the_other_way_better() -> None:
    worse = changes(run(seed=1, workers=16), run(seed=2, workers=16, factor=1.33))
    assert worse["run p50"].meaning == "worse"
    better = changes(run(seed=1, workers=16, factor=1.33), run(seed=2, workers=16))
    assert better["run p50"].meaning == "better"


def test_a_size_that_suffices_is_better_in_all_that_counts() -> None:
    tasks = [hard_limit_tasks(workers) for workers in (4, 9)]
    before, after = (
        session([pool(ran, workers, name="fetch", function="f")], traces=[trace(ran, "f")])
        for ran, workers in zip(tasks, (4, 9), strict=True)
    )
    changed = changes(before, after)
    for what in ("makespan", "saturated", "concurrency", "wait p50", "wait p95"):
        assert changed[what].meaning == "better", what
    assert compare(after, before).regressions() == [
        "pool fetch: makespan",
        "pool fetch: saturated",
        "pool fetch: concurrency",
        "pool fetch: wait p50",
        "pool fetch: wait p95",
    ]


def test_what_is_small_beside_the_change_does_not_gainsay_it() -> None:
    """A pool that fills late: before that its waits are those of chance, with any size."""
    waits = [0.0001] * 90 + [0.05 * number for number in range(210)], [0.002] * 300
    pair = []
    for each in waits:
        starts = [(number / 10, number / 10 + wait) for number, wait in enumerate(each)]
        ran = [Task(came, started, started + 0.2) for came, started in starts]
        pair.append(session([pool(ran, 4, name="p", function="f")], traces=[trace(ran, "f")]))
    assert changes(*pair)["wait p95"].meaning == "better"
    assert changes(*reversed(pair))["wait p95"].meaning == "worse"


def test_few_tasks_tell_nothing_of_their_times() -> None:
    before, after = (simulate([number / 10 for number in range(20)], [run] * 20, 4) for run in (0.1, 0.9))
    pair = [session([pool(ran, 4, name="p", function="f")], traces=[trace(ran, "f")]) for ran in (before, after)]
    assert changes(*pair)["run p50"].meaning == "noise"


def test_findings_are_new_gone_or_in_both() -> None:
    serial, calm = report_support.hard_limit(), report_support.healthy_pools()
    gone = compare(serial, calm)
    assert [finding.pattern for finding in gone.gone] == ["async_then_serial", "burst"]
    assert not gone.new
    new = compare(calm, serial)
    assert (
        new.regressions()[0] == "Pool fetch turned serial at 4.0 s: its 4 workers are all busy, and tasks wait 2.95 s "
        "for 0.2 s of work."
    )
    assert not compare(serial, serial).new


def test_pools_of_one_run_only_are_said() -> None:
    subjects = compare(run(name="old"), run(name="new")).subjects
    assert [(subject.name, subject.only) for subject in subjects[1:]] == [("pool old", "before"), ("pool new", "after")]


def test_it_is_told_as_text_and_as_markdown() -> None:
    before, after = report_support.hard_limit(), report_support.healthy_pools()
    compared = compare(before, replace(after, report=replace(after.report, event_loops=())))
    text = list(comparison.lines(compared, MEDIUM))
    assert text[0] == "verdict: async_then_serial -> concurrent"
    assert text[1].startswith("gone: warning: Pool fetch turned serial")
    table = comparison.markdown(compared, MEDIUM)
    assert table.startswith("### \N{LARGE GREEN CIRCLE} poolscope: async then serial before, concurrent after\n")
    assert "| `pool fetch` | run p50 | 200 ms | 200 ms |" in table


@pytest.mark.parametrize("made", [report_support.hostile, report_support.empty])
def test_any_session_can_be_compared(made) -> None:
    calm = report_support.healthy_pools()
    for pair in ((made(), calm), (calm, made()), (made(), made())):
        compared = compare(*pair)
        assert all(line.isprintable() for line in comparison.lines(compared, MEDIUM))
        comparison.markdown(compared, MEDIUM)


def test_pools_of_one_name_in_several_processes_are_one() -> None:
    one = run(seed=3)
    report, traces = one.report, one.traces
    other = replace(report.pools[0], pid=4343)
    several = replace(one, report=replace(report, pools=(*report.pools, other)), traces=(*traces, *traces))
    (change,) = [change for change in changes(one, several).values() if change.what == "tasks"]
    assert (change.before, change.after) == (400, 800)

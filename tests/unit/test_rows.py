"""What has ended becomes part of other rows: nothing that was counted is lost, counted twice, or goes down."""

from __future__ import annotations

import linecache
import os
import random
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from metrics_support import BOUNDS, finding, loop, pool, snapshot
from pool_support import ORIGIN, SECOND

from poolscope.aggregation.function_sums import FunctionSums
from poolscope.aggregation.loop_history import BLOCKING_LINES, LoopHistory
from poolscope.aggregation.top_functions import OTHER, TopFunctions
from poolscope.config import MetricsSettings, Settings
from poolscope.engine import Engine, ingest, sources
from poolscope.engine.finding_list import most_important
from poolscope.engine.loop_case import LoopCase
from poolscope.engine.self_health import SelfHealth
from poolscope.engine.sources import Sources
from poolscope.messages import PROTOCOL, LoopBlock, LoopOpened
from poolscope.metrics.families import SnapshotCollector
from poolscope.metrics.merge import merged
from poolscope.metrics.monotonic import Floors
from poolscope.model import Advice, Finding, Severity
from poolscope.snapshot import PoolSnapshot, Snapshot

SETTINGS = Settings(metrics=MetricsSettings(wait_buckets=tuple(BOUNDS), run_buckets=tuple(BOUNDS)))


class Shown:
    """A collector and what it shows of a counter, by name."""

    def __init__(self, settings: Settings = SETTINGS) -> None:
        self.now: Snapshot = snapshot()
        self._collector = SnapshotCollector(lambda: self.now, settings)

    def __call__(self, *rows: Any, counter: str = "poolscope_pool_tasks_submitted_total") -> dict[str, float]:
        self.now = snapshot(*rows)
        return {
            next(iter(sample.labels.values())): sample.value
            for family in self._collector.collect()
            for sample in family.samples
            if sample.name == counter
        }


def test_a_name_that_was_given_up_and_comes_back_begins_anew() -> None:
    shown = Shown()
    assert shown(pool("a", submitted=1000), pool("b", submitted=5)) == {"a": 1000, "b": 5}
    # Between two scrapes it became a part of `other`, and a pool of that name was made again.
    rows = [pool("other", submitted=1000, alive=False), pool("a", submitted=3, since_ns=9), pool("b", submitted=5)]
    assert shown(*rows) == {"a": 3, "b": 5, "other": 1000}
    assert shown(pool("other", submitted=1000), pool("a", submitted=4, since_ns=9)) == {"a": 4, "other": 1000}
    # Another process has it too, since later: that is no new begin.
    both = [pool("other", submitted=1000), pool("a", submitted=4, since_ns=9), pool("a", submitted=1, since_ns=20)]
    assert shown(*both) == {"a": 5, "other": 1000}


def test_the_same_of_loops_and_of_findings() -> None:
    shown = Shown()
    blocked, began = "poolscope_loop_blocked_seconds_total", "poolscope_findings_total"
    assert shown(loop("a", blocked_seconds=9.0), counter=blocked) == {"a": 9}
    assert shown(loop("a", blocked_seconds=1.0, since_ns=5), counter=blocked) == {"a": 1}
    shown.now = snapshot()
    assert shown(finding("a", total=9), counter=began) == {"pool": 9}
    assert shown(finding("a", total=1, since_ns=5), counter=began) == {"pool": 1}


def test_functions_of_a_name_that_comes_back_begin_anew() -> None:
    shown = Shown()
    started = "poolscope_function_started_total"
    assert shown(pool("a", functions=(("f", 50, 1.0),)), counter=started) == {"a": 50}
    assert shown(pool("a", functions=(("f", 2, 1.0),), since_ns=5), counter=started) == {"a": 2}


def test_a_name_that_one_process_gives_up_and_another_one_has_is_counted_once() -> None:
    """Workers of one service fold for themselves."""
    shown = Shown()
    one, two = pool("a", pid=1, submitted=1000), pool("a", pid=2, submitted=10)
    assert shown(*merged([snapshot(one), snapshot(two)], []).pools) == {"a": 1010}
    folded = pool("other", pid=1, submitted=1000, alive=False)
    assert shown(folded, two) == {"a": 1010, "other": 0}
    assert shown(folded, pool("a", pid=2, submitted=30)) == {"a": 1010, "other": 20}
    assert shown(folded, pool("a", pid=2, submitted=30), pool("b", submitted=7)) == {"a": 1010, "b": 7, "other": 20}
    # Once it is gone everywhere, all of it is `other`.
    assert shown(pool("other", submitted=1030, alive=False), pool("b", submitted=7)) == {"b": 7, "other": 1030}


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 9)), max_size=60), st.integers(1, 3))
def test_floors_hold_what_did_not_begin_anew(steps: list[tuple[int, int]], values: int) -> None:
    floors, highest = Floors(), 0
    for less, since in steps:
        held = floors.hold(("a",), (10 - less,) * values, [0, since])
        highest = max(highest, 10 - less)
        assert held == (highest,) * values


# -- functions ---------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 50), st.booleans()), max_size=120), st.integers(1, 5))
def test_functions_are_bounded_without_losing_a_count(work: list[tuple[int, int, bool]], limit: int) -> None:
    busiest, done, before = TopFunctions(limit), 0, {}
    for number, busy, bounded in work:
        busiest.add([(f"f{number}", 1, busy)])
        done += busy
        busiest.count()
        if bounded:
            busiest.bound(10)
            assert len(busiest) <= 10 + 1
            busiest.count()
        shown = dict(busiest.shown())
        assert sum(ns for _, ns in shown.values()) + sum(ns for _, (_, ns) in busiest.former()) == done
        assert shown.get(OTHER, (0, 0)) >= before.get(OTHER, (0, 0))
        before = shown
    assert sum(ns for _, _, ns in busiest.done()) == done
    assert sum(started for _, started, _ in busiest.done()) == len(work)


def test_sums_of_functions_are_bounded_and_the_busiest_stay() -> None:
    sums = FunctionSums(most=10)
    for number in range(100):
        each = sums.of(f"f{number}")
        each.started += 1
        each.busy_ns += number
        each.run.put(number)
        sums.bound()
    reports = list(sums.reports())
    assert len(reports) <= 11
    assert sum(report.started for report in reports) == 100
    assert sums.folded == 100 - (len(reports) - 1)
    assert {"f99", "f98", "f97", OTHER} <= {report.name for report in reports}


# -- findings ----------------------------------------------------------------------------------------------


def made(severity: Severity, since: float) -> Finding:
    return Finding("serial", "unknown", severity, since, since + 1, 0.0, "", {}, (), Advice("none", ""))


def test_the_most_severe_findings_are_kept_and_of_those_the_last() -> None:
    many = [made("critical", 0.0), made("warning", 1.0), *(made("info", 2.0 + at) for at in range(60))]
    kept = most_important([*many, made("warning", 99.0)], 5)
    assert [(finding.severity, finding.since_seconds) for finding in kept] == [
        ("critical", 0.0),
        ("warning", 1.0),
        ("info", 60.0),
        ("info", 61.0),
        ("warning", 99.0),
    ]
    assert most_important(many[:3], 5) == many[:3]


# -- loops -------------------------------------------------------------------------------------------------


def ns(seconds: float) -> int:
    return ORIGIN + round(seconds * SECOND)


def loop_case(name: str, blocks: Iterable[tuple[str, float, float]]) -> LoopCase:
    """A loop that ran for 10 s: (line, begin, length) of its blocks."""
    case = LoopCase(LoopHistory(name, "asyncio", 7, [SECOND]), origin_ns=ORIGIN, source_of=lambda file, line: None)
    case.history.opened(LoopOpened(1, name, "asyncio", ns(0)))
    for number, (file, begin, length) in enumerate(blocks):
        lines = [(file, 3, "main")]
        case.history.block(LoopBlock(1, number, ns(begin), ns(begin + length), "blocking_call", lines, 0.25))
        case.judge(ns(begin + length))
    case.history.closed(1, ns(10))
    return case


def test_loops_that_become_one_keep_the_totals_of_each_line_and_what_warned() -> None:
    first = loop_case("a", [("/x.py", 1.0, 0.5), ("/y.py", 2.0, 3.0)])
    second = loop_case("b", [("/x.py", 3.0, 0.75)])
    rest = [loop_case(f"c{number}", [("/z.py", 5.0, 0.1)]) for number in range(300)]
    ended = [event for case in (first, second, *rest) for event in case.fold(ns(10))]
    assert {finding.frames[0].file for finding, began in ended if not began} == {"/x.py", "/y.py"}
    for case in (second, *rest):
        first.absorb(case)
    assert first.judge(ns(99)) == []
    assert first.fold(ns(99)) == []
    history = first.history
    assert history.blocked_ns == round((0.5 + 3.0 + 0.75 + 30.0) * SECOND)
    assert (history.runs, history.ran_ns(ns(99))) == (302, 3020 * SECOND)
    found = {finding.frames[0].file: finding for finding in first.findings(ns(99))}
    assert {file: (it.evidence["blocks"], it.evidence["blocked_seconds"]) for file, it in found.items()} == {
        "/x.py": (2, 1.25),
        "/y.py": (1, 3.0),
        "/z.py": (300, pytest.approx(30.0)),
    }
    assert {file: it.severity for file, it in found.items()} == {
        "/x.py": "warning",
        "/y.py": "warning",
        "/z.py": "info",
    }
    assert found["/x.py"].evidence["loop_cpu_share"] == pytest.approx(0.25)


def test_lines_of_loops_that_became_one_are_bounded() -> None:
    every = loop_case("a", [])
    every.fold(ns(10))
    for number in range(3 * BLOCKING_LINES):
        other = loop_case("b", [(f"/file-{number}.py", 1.0, 0.1 if number else 3.0)])
        other.fold(ns(10))
        every.absorb(other)
    assert len(every.history.lines) <= BLOCKING_LINES + 1
    assert sum(line.total_ns for line in every.history.lines.values()) == every.history.blocked_ns
    assert {finding.severity: finding.frames[:1] for finding in every.findings(ns(20))}["warning"][
        0
    ].file == "/file-0.py"


# -- the judge ---------------------------------------------------------------------------------------------


class Run:
    def __init__(self, settings: Settings | None = None) -> None:
        self.judge = Engine(settings or Settings(), started_ns=ORIGIN)

    def process(self, source: int, pid: int, function: str = "app.work") -> None:
        self.judge.feed(source, ("hello", PROTOCOL, pid, 1, ["app.py"], "3.13.0", ORIGIN, True))
        self.judge.feed(source, ("function", 1, function, "/app.py", 1))

    def pool(self, source: int, number: int, name: str, tasks: int = 1, kind: str = "thread") -> None:
        self.judge.feed(source, ("pool_opened", number, name, kind, "x.Pool", "app.py:1", 4, ns(0)))
        finished = [item for at in range(tasks) for item in (1, 2, ns(at), ns(at), ns(at + 0.5))]
        arrivals = [item for at in range(tasks) for item in (1, ns(at))]
        self.judge.feed(source, ("pool_batch", number, ns(tasks), 1, 4, 0, 0, finished, [], [], [], arrivals))

    def report(self) -> Any:
        return self.judge.session(ns(100), command=[], started_at="now", exit_code=None).report

    def rows(self) -> dict[tuple[int, str, str], int]:
        return {(row.pid, row.name, row.kind): row.tasks.submitted for row in self.report().pools}

    def snapshots(self) -> dict[tuple[int, str], PoolSnapshot]:
        return {(row.pid, row.name): row for row in self.judge.snapshot(ns(100)).pools}


def test_pools_of_one_name_and_of_different_kinds_are_different_rows() -> None:
    run = Run()
    run.process(0, 7)
    run.pool(0, 1, "work", 2, kind="thread")
    run.pool(0, 2, "work", 3, kind="process")
    assert run.rows() == {(7, "work", "thread"): 2, (7, "work", "process"): 3}


def test_a_number_that_a_process_has_after_another_names_its_own_functions() -> None:
    """A process that becomes another program by exec, or one that gets the number of one that ended."""
    run = Run()
    run.process(0, 7, "old.function")
    run.pool(0, 1, "work", 2)
    run.judge.lost(0, ns(5))
    run.process(1, 7, "new.function")
    run.pool(1, 1, "work", 3)
    (row,) = run.report().pools
    assert {each.name: each.started for each in row.functions} == {"old.function": 2, "new.function": 3}
    (shown,) = run.judge.snapshot(ns(9)).pools
    assert {name: started for name, started, _ in shown.functions} == {"old.function": 2, "new.function": 3}
    run.judge.lost(1, ns(9))
    (row,) = run.report().pools
    assert {each.name: each.started for each in row.functions} == {"old.function": 2, "new.function": 3}


def test_a_name_that_something_alive_goes_by_is_not_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest, "ENDED_ROWS_KEPT", 10)
    run = Run()
    run.process(0, 7)
    run.process(1, 8)
    run.pool(1, 1, "shared", 1)
    run.pool(0, 1, "shared", 1)
    run.judge.feed(0, ("pool_closed", 1, ns(1)))
    for number in range(2, 60):
        run.pool(0, number, f"own-{number}", 2)
        run.judge.feed(0, ("pool_closed", number, ns(2)))
        shown = run.snapshots()
        assert sum(row.submitted for (_, name), row in shown.items() if name == "shared") == 2
        assert sum(row.submitted for row in shown.values()) == 2 + 2 * (number - 1)
        assert len(shown) <= 10 + 3
    assert shown[7, "other"].submitted > 80
    # When its process has ended too, it is one name among others.
    run.judge.lost(1, ns(50))
    assert sum(run.rows().values()) == 2 + 2 * 58


def test_a_name_that_comes_back_is_kept_before_those_that_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest, "ENDED_ROWS_KEPT", 10)
    run = Run()
    run.process(0, 7)
    for number in range(1, 300, 2):
        run.pool(0, number, "comes back", 1)
        run.judge.feed(0, ("pool_closed", number, ns(1)))
        run.pool(0, number + 1, f"heavy-{number}", 50)
        run.judge.feed(0, ("pool_closed", number + 1, ns(51)))
        shown = run.snapshots()
        assert shown[7, "comes back"].submitted == (number + 1) // 2
        assert sum(row.submitted for row in shown.values()) == 51 * ((number + 1) // 2)


def test_rows_that_take_too_much_are_made_lighter(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run()
    run.process(0, 7)
    for number in range(1, 31):
        run.pool(0, number, f"pool-{number}", 100)
        run.judge.feed(0, ("pool_closed", number, ns(100)))
        if number == 15:
            monkeypatch.setattr(ingest, "ENDED_BYTES_KEPT", 125_000)
    assert len(run.judge._ingest.pool_rows) == 30
    assert sum(row.bytes_kept for row in run.judge._ingest.pool_rows) <= 125_000 + 20_000
    session = run.judge.session(ns(100), command=[], started_at="now", exit_code=None)
    assert all(row.tasks.succeeded == 100 for row in session.report.pools)
    assert all(sum(each.started for each in row.functions) == 100 for row in session.report.pools)
    assert {len(trace.tasks) for trace in session.traces} == {0, 100 * 32}


def test_what_judging_needs_is_gone_with_a_process_and_its_report_stays() -> None:
    run = Run()
    run.process(0, 7)
    run.pool(0, 1, "work", 5)
    # One runs, and two are queued, when it is killed.
    running, arrivals = [1, 1, ns(6), ns(6)], [1, ns(6), 1, ns(7), 1, ns(7)]
    run.judge.feed(0, ("pool_batch", 1, ns(8), 1, 4, 0, 0, [], running, [], [], arrivals))
    (row,) = run.judge._ingest.pool_rows
    case = row.cases[0]
    before = case.history.tasks.for_replay(case.history.last_batch_ns)
    run.judge.lost(0, ns(8))
    assert case.history.tasks.for_replay(case.history.last_batch_ns) == before
    assert not run.judge._ingest.processes
    assert case.history.functions == {}
    (report,) = run.report().pools
    assert (report.tasks.submitted, report.functions[0].name) == (8, "app.work")
    assert report.run_seconds.p50 == pytest.approx(0.5, rel=0.02)
    session = run.judge.session(ns(100), command=[], started_at="now", exit_code=None)
    assert session.traces[0].functions == ("app.work",)
    assert len(session.traces[0].tasks) == 8 * 32
    # Of what waits no worker is known.
    assert struct.unpack("<8q", session.traces[0].workers)[-3:] == (1, 0, 0)


# -- notices -----------------------------------------------------------------------------------------------


def test_notices_of_one_kind_hide_no_other() -> None:
    health = SelfHealth()
    for number in range(1000):
        health.notice(f"process {number} was not watched: started with -I")
    for number in range(30):
        health.notice(f"{'abcdefghijklmnopqrstuvwxyzABCD'[number]} is not seen")
        health.notice(f"{'abcdefghijklmnopqrstuvwxyzABCD'[number]} is not seen")
    texts = list(health.texts())
    assert len(texts) == 100
    assert sum("is not seen" in text for text in texts) == 30
    assert texts[0] == "process 0 was not watched: started with -I"
    assert texts[-1] == "notices like these, or of further kinds, that came 931 times are left out"


def test_notices_and_parts_are_bounded_whatever_comes() -> None:
    health = SelfHealth()
    for number in range(2000):
        health.fault(f"part-{chr(0x4E00 + number)}", "x" * 1_000_000)
        health.notice(chr(0x4E00 + number))
    assert len(list(health.texts())) == 100
    assert max(map(len, health.texts())) <= 2_000
    assert len(health.errors) == 51
    assert sum(health.errors.values()) == 2000


# -- source lines ------------------------------------------------------------------------------------------


def test_source_lines_are_read_from_files_only(tmp_path: Path) -> None:
    (tmp_path / "it.py").write_text("first\n    second  \n")
    os.mkfifo(tmp_path / "pipe")
    found = Sources()
    assert found.line(str(tmp_path / "it.py"), 2) == "second"
    assert found.line(str(tmp_path / "it.py"), 9) is None
    assert found.line(str(tmp_path / "nowhere.py"), 1) is None
    # To open one of these would wait for ever, or read what is the program's.
    for special in (str(tmp_path / "pipe"), "/dev/zero", "/dev/stdin", str(tmp_path), "a\0b", ""):
        assert found.line(special, 1) is None
    assert not [name for name in linecache.cache if str(tmp_path) in str(name)]


def test_lines_that_the_program_gave_linecache_itself_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(linecache.cache, "<cell 7>", (6, None, ["x = 1\n"], "<cell 7>"))
    assert Sources().line("<cell 7>", 1) == "x = 1"
    assert "<cell 7>" in linecache.cache


def test_source_lines_are_remembered_in_a_bounded_number(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    read: list[tuple[str, int]] = []
    monkeypatch.setattr(sources, "_read", lambda file, number: read.append((file, number)))
    monkeypatch.setattr(sources, "_LINES_KEPT", 10)
    found = Sources()
    for _ in range(3):
        found.line("a", 1)
    assert read == [("a", 1)]
    for number in range(100):
        found.line("b", number)
    assert len(found._lines) == 10


@pytest.mark.slow
def test_a_random_order_of_folding_keeps_every_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest, "ENDED_ROWS_KEPT", 8)
    choose = random.Random(12)
    run, living, told = Run(), dict[int, bool](), 0
    shown = Shown(Settings())
    before: dict[str, float] = {}
    for number in range(1, 401):
        source = choose.choice([*living, number]) if living else number
        if source not in living:
            run.process(source, 100 + source % 13)
            living[source] = True
        name = choose.choice(["a", "b", f"own-{number}"])
        tasks = choose.randint(1, 4)
        run.pool(source, number, name, tasks)
        told += tasks
        if choose.random() < 0.5:
            run.judge.feed(source, ("pool_closed", number, ns(number)))
        if choose.random() < 0.4:
            gone = choose.choice(list(living))
            del living[gone]
            run.judge.lost(gone, ns(number))
        values = shown(*run.judge.snapshot(ns(number)).pools)
        assert sum(values.values()) == told
        assert [name for name in before if values.get(name, before[name]) < before[name]] == []
        before = values

"""Messages of several processes in, one session and one snapshot out."""

from __future__ import annotations

import sys
from typing import Any

import msgspec
import pytest
from pool_support import ORIGIN, SECOND, batches, simulate

from poolscope.config import MetricsSettings, PoolSettings, Settings
from poolscope.engine import Engine
from poolscope.engine.ingest import criteria_for
from poolscope.engine.pool_case import PoolCase
from poolscope.errors import PoolscopeError
from poolscope.messages import PROTOCOL, UNDERSTOOD
from poolscope.model import Thresholds
from poolscope.snapshot import PoolSnapshot

FLOOD = [(0.5 + number * 0.01, 0.1, 1) for number in range(200)]


def ns(seconds: float) -> int:
    return ORIGIN + round(seconds * SECOND)


def hello(pid: int, protocol: int = PROTOCOL) -> tuple[Any, ...]:
    return ("hello", protocol, pid, 1, ["python", "app.py"], "3.13.0", ORIGIN, True)


def opened(pool: int = 1, name: str = "crawler", workers: int = 4, at: float = 0.0) -> tuple[Any, ...]:
    return ("pool_opened", pool, name, "thread", "x.ThreadPoolExecutor", "app.py:1", workers, ns(at))


class Run:
    """A judge and what was said to it."""

    def __init__(self, settings: Settings | None = None) -> None:
        self.lines: list[str] = []
        self.judge = Engine(settings or Settings(), started_ns=ORIGIN, log=self.lines.append)
        self.end = ORIGIN

    def process(self, source: int, pid: int) -> None:
        self.judge.feed(source, hello(pid))
        self.judge.feed(source, ("function", 1, "app.fetch", "/app/app.py", 10))

    def pool(self, source: int, load: list[tuple[float, float, int]], workers: int = 4, **about: Any) -> None:
        number = about.get("pool", 1)
        without = about.pop("without", None)
        self.judge.feed(source, opened(workers=workers, **about))
        told = list(batches(simulate(load, workers), workers))
        for place, batch in enumerate(told):
            if without is not None and place >= without % len(told):
                batch = msgspec.structs.replace(batch, max_workers=0)
            fields = [getattr(batch, name) for name in batch.__struct_fields__]
            self.judge.feed(source, ("pool_batch", number, *fields[1:]))
            self.judge.feed(source, ("process_tick", batch.at_ns, 0, 1000, 2.0))
            self.judge.tick(batch.at_ns)
            self.end = max(self.end, batch.at_ns)
        self.judge.deliver()

    def report(self, exit_code: int | None = 0) -> Any:
        self.judge.finish(self.end)
        return self.judge.session(self.end, command=["app.py"], started_at="now", exit_code=exit_code).report


@pytest.mark.parametrize("batch", [0, 5, 30, 60, -1])
def test_a_pool_that_lets_nothing_run_is_judged_by_its_last_size(batch: int) -> None:
    """A limiter may have no tokens for a while. From that batch of the flood on, and a second longer."""
    run = Run()
    run.process(0, 7)
    run.pool(0, FLOOD, without=batch)
    run.end += SECOND
    run.judge.feed(0, ("pool_batch", 1, run.end, 0, 0, 0, 0, [], [], [], [], []))
    run.judge.tick(run.end)
    (gauges,) = run.judge.snapshot(run.end).pools
    assert gauges.max_workers == 0
    report = run.report()
    assert not report.notices
    (pool,) = report.pools
    assert (pool.max_workers, pool.tasks.succeeded) == (4, 200)
    assert pool.findings[0].evidence["max_workers"] == 4
    assert {4, 8} <= {point.workers for point in pool.sizing}


def test_a_saturated_pool_gives_the_verdict_and_one_line_when_it_begins_and_ends() -> None:
    run = Run()
    run.process(0, 7)
    run.pool(0, FLOOD)
    report = run.report()
    run.judge.deliver()
    assert report.verdict == "async_then_serial"
    assert [line.split(":")[0] for line in run.lines] == ["warning", "over"]
    assert all("\n" not in line for line in run.lines)
    (pool,) = report.pools
    assert (pool.name, pool.pid, pool.tasks.succeeded) == ("crawler", 7, 200)
    assert pool.functions[0].name == "app.fetch"
    assert pool.findings == report.findings
    assert report.overhead.cpu_seconds == pytest.approx(1e-6)


def test_a_deadlock_is_told_with_the_second_sample_of_it() -> None:
    """Both workers are in their tasks from 1 s on, and wait for what the pool has queued."""
    run = Run()
    run.process(0, 7)
    run.judge.feed(0, opened(workers=2))
    arrivals = [1, ns(1.0)] * 4
    running = [1, 1, ns(1.0), ns(1.0), 2, 1, ns(1.0), ns(1.0)]
    told = []
    for at in (1.1, 1.2, 1.3, 1.4, 1.5):
        run.judge.feed(0, ("pool_batch", 1, ns(at), 2, 2, 0, 0, [], running, [], [], arrivals))
        run.judge.feed(0, ("waits", ns(at), [[1, worker, ns(1.0), ns(1.0), False, [[1, 0]]] for worker in (1, 2)]))
        run.judge.tick(ns(at))
        told.append([finding.pattern for finding in run.judge.findings(ns(at))])
        arrivals = []
    assert told[0] == []
    assert told[-1] == ["deadlock"]
    run.end = ns(1.5)
    (finding,) = run.report().findings
    assert finding.detected_after_seconds < 1


def full_pools(count: int) -> Run:
    """Pools of one worker, which is in a task that does not come back while another one waits, after one that did."""
    run = Run()
    run.process(0, 7)
    for pool in range(1, count + 1):
        run.judge.feed(0, opened(pool=pool, name=f"pool-{pool}", workers=1))
        ended, running = [1, 2, ns(0.1), ns(0.1), ns(0.2)], [1, 1, ns(0.3), ns(0.3)]
        arrivals = [1, ns(0.1), 1, ns(0.3), 1, ns(0.4)]
        run.judge.feed(0, ("pool_batch", pool, ns(2.0), 1, 1, 0, 0, ended, running, [], [], arrivals))
    return run


def calls_of_a_tick(run: Run, at: float) -> int:
    """Python functions that it calls, generators each time that they go on."""
    calls = 0

    def count(frame: object, event: str, argument: object) -> None:
        nonlocal calls
        calls += event == "call"

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        run.judge.tick(ns(at))
    finally:
        sys.setprofile(before)
    return calls


def test_a_pool_costs_no_more_for_all_that_are_full_beside_it() -> None:
    few, many = full_pools(10), full_pools(80)
    least = calls_of_a_tick(few, 2.0)
    assert calls_of_a_tick(many, 2.0) < 8.1 * least


def test_pools_are_full_as_long_as_their_stretch_lasts() -> None:
    run = full_pools(4)
    (process,) = run.judge._ingest.processes.values()
    run.judge.tick(ns(2.0))
    assert process.full == {1, 2, 3, 4}
    ended = [1, 2, ns(0.3), ns(0.3), ns(2.1), 1, 2, ns(0.4), ns(2.1), ns(2.15)]
    run.judge.feed(0, ("pool_batch", 1, ns(2.2), 1, 1, 0, 0, ended, [], [], [], []))
    run.judge.feed(0, ("pool_closed", 2, ns(2.2)))
    # A number that no task has: nothing can be made of that pool any more.
    run.judge.feed(0, ("pool_batch", 3, ns(2.2), 1, 1, 0, 0, [1, 2, ns(2.0), 1 << 70, 1 << 70], [], [], [], []))
    assert process.full == {1, 4}
    run.judge.tick(ns(2.5))
    assert process.full == {4}
    run.judge.feed(0, ("bye", ns(2.6)))
    run.judge.lost(0, ns(2.6))
    assert process.full == set()


def test_a_counter_that_ran_ahead_does_not_go_back() -> None:
    """In the parent: a task that had ended by the last scrape, which its process has told only now."""
    run = Run()
    run.process(0, 7)
    run.judge.feed(0, opened())
    run.judge.feed(
        0, ("pool_batch", 1, ns(1.0), 1, 4, 0, 0, [], [1, 1, ns(0.9), ns(0.9)], [], [], [1, ns(0.9), 1, ns(0.9)])
    )
    (early,) = run.judge.snapshot(ns(3.0)).pools
    ended = [1, 2, ns(0.9), ns(0.9), ns(1.1), 2, 2, ns(0.9), ns(1.2), ns(1.3)]
    run.judge.feed(0, ("pool_batch", 1, ns(3.1), 2, 4, 0, 0, ended, [], [], [], []))
    (late,) = run.judge.snapshot(ns(3.2)).pools
    assert early.busy_seconds == late.busy_seconds == pytest.approx(2.1)
    assert early.queued_seconds == late.queued_seconds == pytest.approx(2.1)
    run.judge.feed(0, ("bye", ns(3.3)))
    assert run.report().pools[0].busy_seconds == pytest.approx(0.3)


def batch(at: float, finished: list[int], running: list[int] | None = None) -> tuple[Any, ...]:
    arrivals = [
        item for key, submitted in zip(finished[1::5], finished[2::5], strict=True) for item in (key >> 1, submitted)
    ]
    return ("pool_batch", 1, ns(at), 4, 4, 0, 0, finished, running or [], [], [], arrivals)


def test_a_scrape_of_many_functions_looks_at_those_that_have_worked(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    name_of = PoolCase.name_of

    def counting(case: PoolCase, function: int) -> str:
        asked.append(function)
        return name_of(case, function)

    monkeypatch.setattr(PoolCase, "name_of", counting)
    run = Run()
    run.process(0, 7)
    for number in range(10_000):
        run.judge.feed(0, ("function", number, f"app.f{number}", "/app/app.py", number))
    run.judge.feed(0, opened())
    every = [item for number in range(10_000) for item in (1, 2 * number, ns(0), ns(0), ns(0) + number)]
    run.judge.feed(0, batch(1.0, every))
    (first,) = run.judge.snapshot(ns(1)).pools
    assert len(first.functions) == 51
    assert ("app.f9999", 1, 9999 / 1e9) in first.functions
    assert sum(started for _, started, _ in first.functions) == 10_000

    asked.clear()
    run.judge.feed(0, batch(2.0, [1, 2 * 7, ns(1), ns(1), ns(2)], [2, 5, ns(1), ns(1)]))
    (second,) = run.judge.snapshot(ns(3)).pools
    assert set(asked) == {7, 5}
    functions = {name: (started, busy) for name, started, busy in second.functions}
    assert (functions["app.f7"], functions["app.f5"]) == ((1, 1.0), (1, 2.0))
    every = [*second.functions, *second.former_functions]
    assert sum(started for _, started, _ in every) == second.succeeded + second.active
    assert sum(round(busy * 1e9) for _, _, busy in every) == round(second.busy_seconds * 1e9)


def test_what_a_pool_at_rest_showed_is_shown_again_only_as_long_as_it_is_true(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run()
    again = 0
    shown: tuple[PoolSnapshot, ...] = ()

    def check(at: int) -> PoolSnapshot:
        nonlocal again, shown
        before, shown = shown, run.judge.snapshot(at).pools
        again += bool(before) and shown[0] is before[0]
        with monkeypatch.context() as patch:
            patch.setattr(PoolCase, "resting", False)
            before, shown = shown, run.judge.snapshot(at).pools
        assert shown == before
        return shown[0]

    run.process(0, 7)
    run.judge.feed(0, opened(workers=2))
    check(ORIGIN)
    for batch in batches(simulate([(0.05, 0.03, 1), (0.3, 0.5, 1), (0.3, 0.2, 1), (0.3, 0.2, 1)], 2), 2):
        fields = [getattr(batch, name) for name in batch.__struct_fields__]
        run.judge.feed(0, ("pool_batch", 1, *fields[1:]))
        check(batch.at_ns)
        run.judge.tick(batch.at_ns)
        check(batch.at_ns)
    # What comes late is waited for.
    assert again == 0
    for later in range(1, 8):
        run.end = batch.at_ns + later * SECOND
        run.judge.tick(run.end)
        check(run.end)
    assert again == 4
    run.judge.configure(Settings(metrics=MetricsSettings(wait_buckets=(1.0,))))
    assert len(check(run.end).wait_buckets) == 2
    run.judge.feed(0, opened(pool=2, workers=8))
    assert check(run.end).max_workers == 10
    run.judge.feed(0, ("pool_closed", 2, run.end))
    assert check(run.end).max_workers == 2


def test_functions_are_counted_as_time_goes_on_once_there_was_a_scrape() -> None:
    run = Run(Settings(metrics=MetricsSettings(max_functions=1)))
    run.process(0, 7)
    run.judge.feed(0, ("function", 2, "app.save", "/app/app.py", 20))
    run.judge.feed(0, opened())
    run.judge.feed(0, batch(1.0, [1, 2, ns(0), ns(0), ns(0.25)]))
    run.judge.tick(ns(1))
    run.judge.feed(0, batch(1.1, [1, 4, ns(0), ns(0.5), ns(1)]))
    run.judge.tick(ns(1.1))
    (row,) = run.judge.snapshot(ns(2)).pools
    assert row.functions == (("app.save", 1, 0.5), ("other", 1, 0.25))
    run.judge.feed(0, batch(2.1, [1, 2, ns(2), ns(2), ns(2.125), 1, 2, ns(2), ns(2.125), ns(2.5)]))
    run.judge.tick(ns(2.1))
    run.judge.feed(0, batch(3.1, [1, 2, ns(3), ns(3), ns(3.5), 1, 4, ns(3), ns(3.5), ns(4.5)]))
    (row,) = run.judge.snapshot(ns(5)).pools
    # It is overtaken before the second scrape, and overtakes again: what was counted meanwhile stays where it was.
    assert (row.functions, row.former_functions) == (
        (("app.save", 2, 1.5), ("other", 2, 0.75)),
        (("app.fetch", 2, 0.5),),
    )


def test_functions_of_pools_that_ended_count_on_under_their_names() -> None:
    run = Run(Settings(metrics=MetricsSettings(max_functions=1)))
    run.process(0, 7)
    run.judge.feed(0, ("function", 2, "app.save", "/app/app.py", 20))
    run.judge.feed(0, opened())
    run.judge.feed(0, batch(1.0, [1, 2, ns(0), ns(0), ns(0.5), 1, 4, ns(0), ns(0.5), ns(0.75)]))
    assert run.judge.snapshot(ns(1)).pools[0].functions == (("app.fetch", 1, 0.5), ("other", 1, 0.25))
    run.judge.feed(0, batch(2.0, [1, 4, ns(1), ns(1), ns(1.125)]))
    run.judge.feed(0, ("pool_closed", 1, ns(2)))
    (row,) = run.judge.snapshot(ns(2)).pools
    assert (row.functions, row.former_functions) == ((("app.fetch", 1, 0.5), ("other", 2, 0.375)), ())
    run.judge.configure(Settings(metrics=MetricsSettings(max_functions=2)))
    (row,) = run.judge.snapshot(ns(2)).pools
    assert row.functions == (("app.fetch", 1, 0.5), ("app.save", 0, 0.0), ("other", 2, 0.375))


def test_too_little_is_not_judged_and_enough_is_concurrent() -> None:
    few, enough = Run(), Run()
    for run, tasks in ((few, 9), (enough, 10)):
        run.process(0, 7)
        run.pool(0, [(number * 0.1, 0.01, 1) for number in range(tasks)])
    assert few.report().verdict == "insufficient_data"
    assert enough.report().verdict == "concurrent"


def test_a_loop_that_ran_a_second_is_enough() -> None:
    run = Run()
    run.process(0, 7)
    run.judge.feed(0, ("loop_opened", 1, "MainThread", "asyncio", ns(0)))
    run.judge.feed(0, ("loop_tick", 1, ns(1), [1000, 2000], 3))
    run.judge.feed(0, ("loop_closed", 1, ns(2)))
    run.end = ns(2)
    report = run.report()
    assert report.verdict == "concurrent"
    assert report.event_loops[0].peak_tasks == 3


def test_the_most_severe_finding_is_the_verdict_then_the_order_of_the_patterns() -> None:
    run = Run()
    run.process(0, 7)
    run.judge.feed(0, ("loop_opened", 1, "MainThread", "asyncio", ns(0)))
    run.judge.feed(0, ("loop_block", 1, 1, ns(0), ns(2), "blocking_call", [("/app/app.py", 3, "main")], 0.0))
    run.pool(0, FLOOD)
    report = run.report()
    assert [finding.pattern for finding in report.findings] == ["async_then_serial", "loop_blocked"]
    assert report.verdict == "async_then_serial"


def test_pools_of_one_name_in_one_process_are_one_row() -> None:
    run = Run()
    run.process(0, 7)
    run.pool(0, [(0.0, 0.1, 1)] * 6, workers=2, pool=1)
    run.judge.feed(0, ("pool_closed", 1, run.end))
    run.pool(0, [(0.0, 0.1, 1)] * 4, workers=2, pool=2)
    (pool,) = run.report().pools
    assert (pool.tasks.submitted, pool.tasks.succeeded) == (10, 10)
    assert pool.busy_seconds == pytest.approx(1.0)
    (row,) = run.judge.snapshot(run.end).pools
    assert (row.alive, row.active, row.submitted) == (False, 0, 10)


def test_counters_of_a_dead_process_stay_and_its_gauges_go() -> None:
    run = Run()
    run.process(0, 7)
    run.pool(0, [(0.0, 0.1, 1)] * 6)
    run.judge.lost(0, run.end)
    run.judge.exited(7, -9)
    (row,) = run.judge.snapshot(run.end).pools
    assert (row.alive, row.max_workers, row.submitted) == (False, 0, 6)
    (process,) = run.report().processes
    assert (process.exit_code, process.ended_seconds) == (-9, pytest.approx((run.end - ORIGIN) / SECOND))


def test_two_processes_have_two_rows_with_their_own_functions() -> None:
    run = Run()
    run.process(0, 7)
    run.judge.feed(1, hello(8))
    run.judge.feed(1, ("function", 1, "other.work", "/app/other.py", 3))
    run.pool(0, [(0.0, 0.1, 1)] * 3)
    run.pool(1, [(0.0, 0.1, 1)] * 5)
    report = run.report()
    assert [(pool.pid, pool.functions[0].name) for pool in report.pools] == [(7, "app.fetch"), (8, "other.work")]


def test_a_process_that_was_killed_still_has_its_tasks_and_its_finding() -> None:
    run = Run()
    run.process(0, 7)
    run.judge.feed(0, opened(workers=1))
    load = simulate([(0.0, 0.1, 1)] * 60, 1)
    for batch in batches(load, 1):
        if batch.at_ns > ns(3):
            break
        run.judge.feed(0, ("pool_batch", *[getattr(batch, name) for name in batch.__struct_fields__]))
        run.judge.tick(batch.at_ns)
        run.end = batch.at_ns
    run.judge.lost(0, run.end)
    report = run.report(exit_code=-9)
    assert report.verdict == "serial"
    assert report.pools[0].tasks.started == 30
    assert report.pools[0].tasks.submitted == 60


def test_settings_of_a_pool_change_how_it_is_judged() -> None:
    run = Run(Settings(pools=(PoolSettings(match="craw*", ordered=True),)))
    run.process(0, 7)
    run.pool(0, FLOOD, workers=1)
    assert run.report().verdict == "concurrent"
    assert run.lines == []


@pytest.mark.parametrize(
    "settings",
    [
        Settings(detection=Thresholds(sustain_seconds=60.0)),
        Settings(detection=Thresholds(min_amplification=1000.0)),
        Settings(pools=(PoolSettings(match="c*", sustain_seconds=60.0),)),
        Settings(pools=(PoolSettings(match="c*", min_amplification=1000.0), PoolSettings(match="*", ordered=True))),
    ],
)
def test_thresholds_of_the_settings_and_of_a_rule_reach_the_judgement(settings: Settings) -> None:
    run = Run(settings)
    run.process(0, 7)
    run.pool(0, FLOOD)
    assert run.report().verdict == "concurrent"


def test_a_rule_overrides_all_that_a_pool_is_judged_by() -> None:
    other = dict.fromkeys(("sustain_seconds", "min_amplification", "stall_seconds", "stuck_task_seconds"), 7.0)
    rules = criteria_for(Settings(pools=(PoolSettings(match="c*", long_running=True, **other),)), "crawler", "thread")
    assert rules.long_running
    assert {key: getattr(rules.thresholds, key) for key in other} == other


def test_without_kept_tasks_there_is_no_number() -> None:
    kept, none = Run(), Run(Settings(keep_tasks=0))
    for run in (kept, none):
        run.process(0, 7)
        run.pool(0, FLOOD)
    assert kept.report().findings[0].advice.suggested_max_workers is not None
    advice = none.report().findings[0].advice
    assert (advice.action, advice.suggested_max_workers) == ("raise_max_workers", None)
    assert "keep_tasks: 0" in advice.text
    assert none.judge.snapshot(none.end).pools[0].suggested_max_workers is None
    assert none.report().pools[0].sizing is None


def test_subscribers_hear_of_findings_and_one_that_raises_is_removed_and_counted() -> None:
    run = Run()
    heard: list[tuple[str, bool]] = []
    run.judge.subscribe(lambda finding, began: heard.append((finding.pattern, began)))
    silent = run.judge.subscribe(lambda finding, began: heard.append(("never", began)))
    run.judge.subscribe(lambda finding, began: 1 / 0)
    silent()
    run.process(0, 7)
    run.pool(0, FLOOD)
    report = run.report()
    run.judge.deliver()
    assert heard == [("async_then_serial", True), ("async_then_serial", False)]
    assert run.judge.snapshot(run.end).errors == {"on_finding": 1}
    assert report.verdict == "async_then_serial"
    assert any("ZeroDivisionError" in notice for notice in run.report().notices)


def test_a_finding_is_counted_and_active_only_while_it_lasts() -> None:
    run = Run()
    run.process(0, 7)
    run.judge.feed(0, opened(workers=4))
    seen = []
    for batch in batches(simulate(FLOOD, 4), 4):
        run.judge.feed(0, ("pool_batch", *[getattr(batch, name) for name in batch.__struct_fields__]))
        run.judge.tick(batch.at_ns)
        seen += [(count.active, count.total) for count in run.judge.snapshot(batch.at_ns).findings]
        run.end = batch.at_ns
    run.report()
    seen += [(count.active, count.total) for count in run.judge.snapshot(run.end).findings]
    assert seen[0] == (True, 1)
    assert seen[-1] == (False, 1)
    assert set(seen) == {(True, 1), (False, 1)}


@pytest.mark.parametrize(
    "message",
    [
        ("pool_batch", 1),
        ("nonsense",),
        (),
        ("pool_opened", "one", "x", "thread", "x", "x", 1, 1),
        ("bye", 1),
        (["bye"], 1),
        (["bye", 1],),
        (7, 1),
        (None,),
        ("bye", 1.5),
        ("bye",),
        hello(7, protocol=99),
    ],
)
def test_what_is_no_message_is_refused(message: tuple[Any, ...]) -> None:
    with pytest.raises(PoolscopeError):
        Run().judge.feed(0, message)


@pytest.mark.parametrize(
    ("message", "why"),
    [
        (opened(9, 7), "Expected `str`, got `int` - at `$[2]`"),
        (("pool_opened", 9, ["x"], "thread", "x", "x", 1, 1), "Expected `str`, got `array` - at `$[2]`"),
        (("loop_opened", 9, None, "asyncio", 1), "Expected `str`, got `null` - at `$[2]`"),
        (("function", 9, 7, "x", 1), "Expected `str`, got `int` - at `$[2]`"),
        (("from_a_later_probe", 1, 2), "Invalid value 'from_a_later_probe' - at `$[0]`"),
        ((), "Expected `array` of at least length 1, got 0"),
        ((7,), "Expected `str`"),
        (hello(7), "said hello twice"),
        (("pool_batch", 1, ns(1), 1, 4, 0, 0, [1, 2, 3], [], [], [], []), "half a record: finished"),
        (("pool_batch", 1, ns(1), 1, 4, 0, 0, [], [1], [], [], []), "half a record: running"),
        (("pool_batch", 1, ns(1), 1, 4, 0, 0, [], [], [1], [], []), "half a record: cancelled"),
        (("pool_batch", 1, ns(1), 1, 4, 0, 0, [], [], [], [1], []), "half a record: broken"),
        (("pool_batch", 1, ns(1), 1, 4, 0, 0, [], [], [], [], [1]), "half a record: arrivals"),
        (("waits", ns(1), [[1, 2]]), "Expected `array` of at least length 6, got 2"),
        (("stacks", 1, ns(1), [[[["x"]], 0, []]]), "Expected `array` of length 3, got 1"),
    ],
    ids=str,
)
def test_a_message_that_does_not_fit_is_left_out_alone_and_said_once(message: tuple[Any, ...], why: str) -> None:
    run = Run()
    run.process(0, 7)
    run.pool(0, [(0.0, 0.1, 1)] * 3)
    for _ in range(3):
        run.judge.feed(0, message)
    run.judge.feed(0, batch(run.end / SECOND, [1, 2, run.end, run.end, run.end + SECOND]))
    run.judge.deliver()
    (line,) = run.lines
    report = run.report()
    (notice,) = report.notices
    assert why in notice
    assert why in line
    assert notice.startswith("something that a process told is left out: process 7")
    assert run.judge.snapshot(run.end).errors == {"messages": 3}
    (pool,) = report.pools
    assert (pool.name, pool.tasks.succeeded) == ("crawler", 4)


def test_notices_are_kept_once_and_bounded() -> None:
    run = Run()
    run.process(0, 7)
    for number in range(300):
        run.judge.feed(0, ("notice", f"notice {number % 150}"))
    assert len(run.report().notices) == 100


def test_a_line_says_which_process_it_is_about_where_several_have_such_a_pool_or_loop() -> None:
    run = Run()
    for source, pid in enumerate((7, 8)):
        run.process(source, pid)
        run.judge.feed(source, ("loop_opened", 1, "MainThread", "asyncio", ORIGIN))
        run.judge.feed(source, opened(workers=4))
        run.judge.feed(source, opened(2, f"own-{pid}", workers=4))
    for number in (1, 2):
        for batch in batches(simulate(FLOOD, 4), 4):
            fields = [getattr(batch, name) for name in batch.__struct_fields__]
            run.judge.feed(1, ("pool_batch", number, *fields[1:]))
            run.judge.tick(batch.at_ns)
    run.judge.feed(0, ("loop_block", 1, 1, ns(1), ns(3), "blocking_call", [("/app/app.py", 3, "main")], 0.0))
    run.judge.tick(ns(3))
    run.judge.deliver()
    assert {line.split(": ")[1] for line in run.lines} == {
        "pool 'crawler' of process 8",
        "pool 'own-8'",
        "loop 'MainThread' of process 7",
    }


def test_what_has_happened_to_the_program_is_said_at_once_and_noted_once() -> None:
    run = Run()
    run.process(0, 7)
    run.process(1, 8)
    run.judge.feed(0, ("notice", "something was not seen"))
    run.judge.feed(0, ("incident", "a worker was killed"))
    run.judge.feed(1, ("incident", "a worker was killed"))
    run.judge.deliver()
    assert run.lines == ["warning: a worker was killed"]
    assert run.report().notices == ("something was not seen", "a worker was killed")
    run.judge.deliver()
    assert len(run.lines) == 1


def test_a_report_of_a_path_that_is_not_utf8_is_still_json() -> None:
    run = Run()
    run.judge.feed(0, ("hello", PROTOCOL, 7, 1, ["python", "caf\udce9.py"], "3.13.0", ORIGIN, True))
    assert b'"caf\\\\udce9.py"' in run.report().to_json()


@pytest.mark.parametrize("protocol", UNDERSTOOD)
def test_a_probe_that_establishes_causes_itself_is_understood(protocol: int) -> None:
    run = Run()
    run.judge.feed(0, hello(7, protocol=protocol))
    run.judge.feed(0, ("loop_opened", 1, "MainThread", "asyncio", ns(0)))
    run.judge.feed(0, ("loop_block", 1, 1, ns(0), ns(2), "cpu_bound", [("/app/app.py", 3, "main")], 0.9))
    run.end = ns(3)
    (finding,) = run.report().findings
    assert (finding.cause, finding.frames[0].line) == ("cpu_bound", 3)

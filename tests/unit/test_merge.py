"""What several processes have to say, as one snapshot."""

from __future__ import annotations

import random
from fractions import Fraction
from math import fsum, nextafter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from metrics_support import BOUNDS, Scrape, finding, loop, pool, snapshot
from msgspec.structs import replace
from prometheus_client import CollectorRegistry, generate_latest

from poolscope.config import MetricsSettings, Settings
from poolscope.metrics import merge
from poolscope.metrics.families import SnapshotCollector
from poolscope.metrics.merge import DEAD_PID, merged, retired
from poolscope.snapshot import Snapshot

SETTINGS = Settings(metrics=MetricsSettings(wait_buckets=tuple(BOUNDS), run_buckets=tuple(BOUNDS)))


def scrape(shown: Snapshot, settings: Settings = SETTINGS) -> Scrape:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(SnapshotCollector(lambda: shown, settings))
    return Scrape(generate_latest(registry).decode())


def busy(pid: int, **values: object) -> Snapshot:
    """A process with a full pool."""
    row = pool(
        "web",
        pid=pid,
        workers=4,
        active=4,
        queue_depth=3,
        oldest_queued_seconds=float(pid),
        submitted=10,
        succeeded=3,
        busy_seconds=1.5,
        saturated_seconds=0.5,
        wait_buckets=(1, 1, 1),
        wait_sum_seconds=2.0,
        functions=(("work", 7, 1.5),),
    )
    return snapshot(
        replace(row, **values), loop("main", pid=pid, tasks=2, lag_buckets=(1, 0, 0)), finding("web", pid=pid)
    )


def test_gauges_and_counters_of_the_living_add_up_and_ages_take_the_maximum() -> None:
    shown = scrape(merged([busy(1), busy(2), busy(3)], []))
    assert shown.value("poolscope_pool_max_workers", pool="web") == 12
    assert shown.value("poolscope_pool_queue_depth", pool="web") == 9
    assert shown.value("poolscope_pool_oldest_queued_seconds", pool="web") == 3
    assert shown.value("poolscope_pool_tasks_submitted_total", pool="web") == 30
    # Within a process it is the union over the pools of one name; the processes' times add up.
    assert shown.value("poolscope_pool_saturated_seconds_total", pool="web") == 1.5
    assert shown.value("poolscope_loop_tasks", loop="main") == 6
    assert shown.value("poolscope_overhead_cpu_seconds_total") == 0.75


def test_of_who_does_not_answer_the_counters_stay_and_the_gauges_go() -> None:
    shown = scrape(merged([busy(1)], [busy(2)]))
    assert shown.value("poolscope_pool_max_workers", pool="web") == 4
    assert shown.value("poolscope_pool_oldest_queued_seconds", pool="web") == 1
    assert shown.value("poolscope_pool_tasks_submitted_total", pool="web") == 20
    assert shown.value("poolscope_task_wait_seconds_count", pool="web") == 6
    assert shown.value("poolscope_function_started_total", pool="web", task="work") == 14
    assert shown.value("poolscope_loop_tasks", loop="main") == 2


def test_the_dead_are_one_row_and_count_on() -> None:
    totals = None
    for pid in range(1, 6):
        totals = retired(totals, busy(pid))
    assert totals is not None
    assert [(row.name, row.pid, row.submitted, row.alive) for row in totals.pools] == [("web", DEAD_PID, 50, False)]
    assert [(row.total, row.active, row.pid) for row in totals.findings] == [(5, False, DEAD_PID)]
    shown = scrape(merged([busy(6)], [totals]))
    assert shown.value("poolscope_pool_tasks_submitted_total", pool="web") == 60
    assert shown.value("poolscope_pool_max_workers", pool="web") == 4
    kinds = {
        "kind": "pool",
        "name": "web",
        "pattern": "async_then_serial",
        "cause": "blocking_io",
        "severity": "warning",
    }
    assert shown.value("poolscope_findings_total", **kinds) == 6
    assert shown.value("poolscope_finding", **kinds) == 1


def test_nobody_left_of_a_name_has_no_gauges() -> None:
    dead = retired(None, busy(1))
    shown = scrape(merged([snapshot()], [dead]))
    assert shown.value("poolscope_pool_max_workers", pool="web") is None
    assert shown.value("poolscope_pool_tasks_submitted_total", pool="web") == 10
    assert shown.value("poolscope_loop_tasks", loop="main") is None


def test_with_per_process_the_dead_are_process_0() -> None:
    settings = replace(SETTINGS, per_process=True)
    shown = scrape(merged([busy(5)], [retired(retired(None, busy(1)), busy(2))]), settings)
    assert shown.series("poolscope_pool_tasks_submitted_total") == {("5", "web"): 10, ("0", "web"): 20}


def test_errors_of_all_processes_are_counted_and_findings_in_full_are_told() -> None:
    one, other = snapshot(errors={"reader": 1}), snapshot(errors={"reader": 2, "workers": 1})
    assert merged([one, other], [retired(None, other)]).errors == {"reader": 5, "workers": 2}
    assert merged([one, other], []).details is None
    assert merged([replace(one, details=()), other], []).details == ()


@given(st.lists(st.floats(min_value=0, max_value=1e9), min_size=2, max_size=20), st.integers(0, 1000))
def test_no_sum_is_less_after_a_death(seconds: list[float], seed: int) -> None:
    """Rounding must not take back what a scrape has shown: that would be a counter that started again."""
    living = [busy(pid, busy_seconds=value) for pid, value in enumerate(seconds, 1)]
    random.Random(seed).shuffle(living)
    totals: Snapshot | None = None
    before = fsum(row.pools[0].busy_seconds for row in living)
    while living:
        totals = retired(totals, living.pop())
        shown = fsum(row.busy_seconds for part in (*living, totals) for row in part.pools)
        assert shown >= before
        before = shown
    exact = sum(map(Fraction, seconds))
    most = nextafter(fsum(seconds), 2e12)
    for _ in seconds:
        most = nextafter(most, 2e12)
    assert exact <= Fraction(before) <= Fraction(most)


def test_what_was_counted_by_names_of_former_functions_outlives_its_process() -> None:
    one = pool("db", pid=1, functions=(("a", 5, 1.0), ("other", 2, 0.5)), former_functions=(("b", 3, 2.0),))
    two = pool("db", pid=2, functions=(("b", 1, 1.0),))
    totals = retired(retired(None, snapshot(one)), snapshot(two))
    (row,) = totals.pools
    assert sorted((*row.functions, *row.former_functions)) == [("a", 5, 1.0), ("b", 4, 3.0), ("other", 2, 0.5)]


def test_names_and_functions_of_the_dead_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merge, "NAMES_KEPT", 10)
    monkeypatch.setattr(merge, "FUNCTIONS_KEPT", 10)
    totals = None
    for number in range(100):
        row = pool(f"pool-{number}", pid=number, submitted=1, succeeded=1, functions=((f"f{number}", 1, 1.0),))
        totals = retired(totals, snapshot(row))
    assert totals is not None
    assert len(totals.pools) <= 11
    assert sum(row.submitted for row in totals.pools) == 100
    assert max(len(row.functions) for row in totals.pools) <= 11
    assert sum(started for row in totals.pools for _, started, _ in row.functions) == 100

from __future__ import annotations

import gc
import re
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from metrics_support import BOUNDS, CONTRACT, Scrape, finding, loop, pool, snapshot
from msgspec.structs import replace
from prometheus_client import REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.registry import Collector

import poolscope
from poolscope.config import Settings, from_mapping
from poolscope.metrics.families import SnapshotCollector
from poolscope.snapshot import Snapshot

#: A snapshot with a value for every metric.
FULL = snapshot(
    pool(
        "db",
        pid=7,
        max_workers=8,
        workers=6,
        active=5,
        queue_depth=4,
        oldest_queued_seconds=1.5,
        longest_running_seconds=2.5,
        submitted=100,
        rejected=3,
        succeeded=60,
        failed=5,
        cancelled=2,
        busy_seconds=12.5,
        queued_seconds=30.25,
        saturated_seconds=6.0,
        occupied_seconds=10.0,
        cpu_seconds=0.75,
        wait_buckets=(10, 20, 3),
        wait_sum_seconds=17.5,
        run_buckets=(1, 0, 2),
        run_sum_seconds=9.0,
        functions=(("app.load", 70, 12.0), ("app.save", 1, 0.5)),
        suggested_max_workers=12,
    ),
    loop("main", pid=7, lag_buckets=(5, 1, 1), lag_sum_seconds=2.75, blocked_seconds=2.5, busy_seconds=4.0, tasks=9),
    finding("db", pid=7, total=2),
    errors={"stacks": 4},
)


def collector(source: Snapshot | Callable[[], Snapshot], **values: Any) -> SnapshotCollector:
    metrics = {"wait_buckets": BOUNDS, "run_buckets": BOUNDS} | values.pop("metrics", {})
    chosen = from_mapping({"metrics": metrics, **values})
    return SnapshotCollector(source if callable(source) else lambda: source, chosen)


def scrape(source: Snapshot | SnapshotCollector, **values: Any) -> Scrape:
    """One scrape, in both formats, which have to agree."""
    registry = CollectorRegistry()
    registry.register(source if isinstance(source, SnapshotCollector) else collector(source, **values))
    read = Scrape(generate_latest(registry).decode())
    # The library left this one without types.
    modern = Scrape(generate_openmetrics(registry).decode(), openmetrics=True)  # type: ignore[no-untyped-call]
    assert modern.samples == read.samples
    return read


# --- the contract


def test_every_metric_of_the_contract_and_no_other() -> None:
    registry = CollectorRegistry()
    registry.register(collector(FULL))
    # The text format has no info.
    read = Scrape(generate_openmetrics(registry).decode(), openmetrics=True)  # type: ignore[no-untyped-call]
    suffixes = {"counter": "_total", "info": "_info"}
    shown = {}
    for family in read.families.values():
        name = family.name + suffixes.get(family.type, "")
        labels = {label for sample in family.samples for label in sample.labels}
        shown[name] = (family.type, labels - {"le"})
    assert shown == CONTRACT


def test_help_says_the_unit() -> None:
    for family in scrape(FULL).families.values():
        assert re.fullmatch(r"[A-Z0-9].*\.", family.documentation)
        if "seconds" in family.name:
            assert "seconds" in family.documentation.lower()


def test_no_creation_times_are_shown() -> None:
    assert "_created" not in scrape(FULL).text


def test_values() -> None:
    read = scrape(FULL)
    assert read.value("poolscope_build_info", version=poolscope.__version__, python="3.13.0") == 1
    executor = "concurrent.futures.thread.ThreadPoolExecutor"
    assert read.value("poolscope_pool_info", pool="db", kind="thread", executor=executor) == 1
    values = {
        "pool_max_workers": 8,
        "pool_workers": 6,
        "pool_active_workers": 5,
        "pool_queue_depth": 4,
        "pool_oldest_queued_seconds": 1.5,
        "pool_longest_running_seconds": 2.5,
        "pool_suggested_max_workers": 12,
        "pool_tasks_submitted_total": 100,
        "pool_tasks_rejected_total": 3,
        "pool_busy_seconds_total": 12.5,
        "pool_queued_seconds_total": 30.25,
        "pool_saturated_seconds_total": 6.0,
        "pool_occupied_seconds_total": 10.0,
        "pool_cpu_seconds_total": 0.75,
        "task_wait_seconds_sum": 17.5,
        "task_wait_seconds_count": 33,
        "task_run_seconds_sum": 9.0,
        "task_run_seconds_count": 3,
    }
    assert {name: read.value(f"poolscope_{name}", pool="db") for name in values} == values
    assert read.series("poolscope_pool_tasks_finished_total") == {
        ("succeeded", "db"): 60,
        ("failed", "db"): 5,
        ("cancelled", "db"): 2,
    }
    assert read.series("poolscope_function_started_total") == {("db", "app.load"): 70, ("db", "app.save"): 1}
    busy = {("db", "app.load"): 12, ("db", "app.save"): 0.5}
    assert read.series("poolscope_function_busy_seconds_total") == busy
    sort = {
        "kind": "pool",
        "name": "db",
        "pattern": "async_then_serial",
        "cause": "blocking_io",
        "severity": "warning",
    }
    assert read.value("poolscope_finding", **sort) == 1
    assert read.value("poolscope_findings_total", **sort) == 2
    assert read.value("poolscope_loop_tasks", loop="main") == 9
    assert read.value("poolscope_loop_blocked_seconds_total", loop="main") == 2.5
    assert read.value("poolscope_loop_busy_seconds_total", loop="main") == 4.0
    assert read.value("poolscope_loop_lag_seconds_sum", loop="main") == 2.75
    assert read.value("poolscope_overhead_cpu_seconds_total") == 0.25
    assert read.value("poolscope_errors_total", part="stacks") == 4


def test_buckets_are_cumulative_and_end_with_infinity() -> None:
    read = scrape(FULL)
    wait = {("0.1", "db"): 10, ("1.0", "db"): 30, ("+Inf", "db"): 33}
    assert read.series("poolscope_task_wait_seconds_bucket") == wait
    run = {("0.1", "db"): 1, ("1.0", "db"): 1, ("+Inf", "db"): 3}
    assert read.series("poolscope_task_run_seconds_bucket") == run
    lag = {("0.1", "main"): 5, ("1.0", "main"): 6, ("+Inf", "main"): 7}
    assert read.series("poolscope_loop_lag_seconds_bucket") == lag


def test_bounds_come_from_the_settings() -> None:
    row = pool(wait_buckets=(1, 2), run_buckets=(1, 1, 1, 1))
    read = scrape(snapshot(row), metrics={"wait_buckets": [0.00001], "run_buckets": [0.5, 2, 300]})
    wait = {("1e-05", "pool"): 1, ("+Inf", "pool"): 3}
    assert read.series("poolscope_task_wait_seconds_bucket") == wait
    assert [le for le, _ in read.series("poolscope_task_run_seconds_bucket")] == [
        "0.5",
        "2.0",
        "300.0",
        "+Inf",
    ]


def test_counts_for_other_bounds_than_ours_are_an_error() -> None:
    with pytest.raises(ValueError, match="zip"):
        scrape(snapshot(pool(wait_buckets=(1, 2))))


def test_counts_that_fail_do_not_reach_a_registry_of_the_program() -> None:
    told: list[str] = []
    row = pool(wait_buckets=(1, 2))
    failing = SnapshotCollector(lambda: snapshot(row), Settings(), lambda part, _: told.append(part))
    read = scrape(failing)
    assert told == ["collector"] * 2  # once in each format
    assert read.value("poolscope_pool_workers", pool="pool") == 0


def test_samples_made_when_they_are_written_are_a_sequence_all_the_same() -> None:
    families = {family.name: family for family in collector(FULL).collect()}
    samples = families["poolscope_pool_tasks_finished"].samples
    assert len(samples) == 3
    assert samples[0] in list(samples)
    assert samples[1:] == list(samples)[1:]


def test_nothing_watched_yet() -> None:
    read = scrape(snapshot())
    assert {name for name, _ in read.samples} == {
        "poolscope_build_info",
        "poolscope_overhead_cpu_seconds_total",
    }


def test_registering_does_not_collect() -> None:
    def refuse() -> Snapshot:
        raise AssertionError("asked for a snapshot before the scrape")

    registry = CollectorRegistry()
    registry.register(collector(refuse))
    with pytest.raises(AssertionError, match="before the scrape"):
        generate_latest(registry)


def test_described_names_can_be_asked_for_alone() -> None:
    registry = CollectorRegistry()
    registry.register(collector(FULL))
    alone = registry.restricted_registry(["poolscope_pool_queue_depth"])
    assert Scrape(generate_latest(alone).decode()).series("poolscope_pool_queue_depth") == {("db",): 4}
    assert list(collector(FULL).describe()) != []
    assert all(family.samples == [] for family in collector(FULL).describe())


def test_two_collectors_of_one_registry_are_refused_by_name() -> None:
    registry = CollectorRegistry()
    registry.register(collector(FULL))
    with pytest.raises(ValueError, match="poolscope_build_info"):
        registry.register(collector(FULL))


def test_the_global_registry_is_left_alone() -> None:
    collector(FULL)
    assert not any(name.startswith("poolscope") for name in REGISTRY._names_to_collectors)


# --- several processes, pools that ended


def test_rows_of_several_processes_add_up_and_ages_take_the_maximum() -> None:
    first = pool(
        "db",
        pid=1,
        max_workers=4,
        workers=3,
        active=2,
        queue_depth=5,
        oldest_queued_seconds=0.5,
        longest_running_seconds=9.0,
        submitted=10,
        succeeded=4,
        busy_seconds=1.5,
        wait_buckets=(1, 2, 3),
        wait_sum_seconds=4.0,
        functions=(("load", 4, 1.0),),
    )
    second = pool(
        "db",
        pid=2,
        max_workers=2,
        workers=1,
        active=1,
        queue_depth=1,
        oldest_queued_seconds=3.5,
        longest_running_seconds=1.0,
        submitted=7,
        succeeded=5,
        busy_seconds=2.0,
        wait_buckets=(1, 1, 0),
        wait_sum_seconds=0.5,
        functions=(("load", 3, 0.5), ("save", 2, 1.25)),
    )
    loops = (
        loop("main", pid=1, tasks=3, lag_buckets=(1, 0, 0)),
        loop("main", pid=2, tasks=4, lag_buckets=(0, 2, 0)),
    )
    read = scrape(snapshot(first, second, *loops))
    values = {
        "pool_max_workers": 6,
        "pool_workers": 4,
        "pool_active_workers": 3,
        "pool_queue_depth": 6,
        "pool_oldest_queued_seconds": 3.5,
        "pool_longest_running_seconds": 9.0,
        "pool_tasks_submitted_total": 17,
        "pool_busy_seconds_total": 3.5,
        "task_wait_seconds_count": 8,
        "task_wait_seconds_sum": 4.5,
    }
    assert {name: read.value(f"poolscope_{name}", pool="db") for name in values} == values
    assert read.value("poolscope_pool_tasks_finished_total", pool="db", outcome="succeeded") == 9
    assert read.series("poolscope_function_started_total") == {("db", "load"): 7, ("db", "save"): 2}
    assert read.value("poolscope_loop_tasks", loop="main") == 7
    assert read.value("poolscope_loop_lag_seconds_count", loop="main") == 3
    assert len(read.series("poolscope_pool_info")) == 1


def test_processes_apart() -> None:
    rows = (
        pool("db", pid=1, queue_depth=5, functions=(("load", 1, 1.0),)),
        pool("db", pid=2, queue_depth=1, functions=(("load", 2, 1.0),)),
        loop("main", pid=1, tasks=3),
        finding("db", pid=1, active=False),
        finding("db", pid=2),
    )
    read = scrape(snapshot(*rows), per_process=True)
    assert read.series("poolscope_pool_queue_depth") == {("1", "db"): 5, ("2", "db"): 1}
    started = {("1", "db", "load"): 1, ("2", "db", "load"): 2}
    assert read.series("poolscope_function_started_total") == started
    assert read.series("poolscope_loop_tasks") == {("main", "1"): 3}
    assert sorted(read.series("poolscope_finding").values()) == [0, 1]
    for family in read.families.values():
        about = family.name in ("poolscope_build_info", "poolscope_overhead_cpu_seconds", "poolscope_errors")
        assert all(("pid" in sample.labels) is not about for sample in family.samples), family.name


def test_a_finding_lasts_while_it_does_in_any_process() -> None:
    rows = finding(pid=1, active=False, total=3), finding(pid=2, active=True, total=1)
    read = scrape(snapshot(*rows, finding(pid=1, pattern="burst", active=False, severity="info")))
    assert sorted(read.series("poolscope_finding").items()) == [
        (("blocking_io", "pool", "pool", "async_then_serial", "warning"), 1),
        (("blocking_io", "pool", "pool", "burst", "info"), 0),
    ]
    assert sorted(read.series("poolscope_findings_total").values()) == [1, 4]


def test_gauges_of_a_pool_that_ended_are_gone_and_its_counters_stay() -> None:
    ended = pool("db", alive=False, submitted=9, queue_depth=3, functions=(("load", 9, 1.0),), suggested_max_workers=9)
    read = scrape(snapshot(ended, loop("main", alive=False, tasks=2, blocked_seconds=1.0), finding("db", active=False)))
    gauges = {name for name, family in read.families.items() if family.type == "gauge" and family.samples}
    assert gauges == {"poolscope_build_info", "poolscope_finding"}
    assert read.value("poolscope_pool_tasks_submitted_total", pool="db") == 9
    assert read.value("poolscope_loop_blocked_seconds_total", loop="main") == 1
    assert list(read.series("poolscope_finding").values()) == [0]


def test_one_that_ended_counts_on_beside_one_that_lives() -> None:
    rows = pool(pid=1, alive=False, submitted=9, max_workers=4), pool(pid=2, submitted=1, max_workers=2)
    read = scrape(snapshot(*rows))
    assert read.value("poolscope_pool_tasks_submitted_total", pool="pool") == 10
    assert read.value("poolscope_pool_max_workers", pool="pool") == 2


def test_advice_is_shown_only_while_there_is_some() -> None:
    assert scrape(snapshot(pool())).series("poolscope_pool_suggested_max_workers") == {}
    # One process is advised 12, the other keeps its 4: comparable with the 8 of both.
    both = snapshot(pool(pid=1, suggested_max_workers=12), pool(pid=2))
    assert scrape(both).value("poolscope_pool_suggested_max_workers", pool="pool") == 16


def test_a_sum_does_not_depend_on_the_order_of_its_rows() -> None:
    rows = [pool(pid=pid, busy_seconds=value) for pid, value in enumerate((1e16, 1.0, 1.0, 1e-9, 3.3))]
    forth = scrape(snapshot(*rows)).value("poolscope_pool_busy_seconds_total", pool="pool")
    back = scrape(snapshot(*reversed(rows))).value("poolscope_pool_busy_seconds_total", pool="pool")
    assert forth == back


# --- functions


def functions(source: SnapshotCollector) -> dict[str, float]:
    return {task: value for (_, task), value in scrape(source).series("poolscope_function_started_total").items()}


class Changing:
    """A source whose pool has run other functions at each scrape."""

    def __init__(self, limit: int) -> None:
        self.functions: dict[str, tuple[int, float]] = {}
        self.collector = collector(self, metrics={"max_functions": limit})

    def __call__(self) -> Snapshot:
        rows = tuple((name, started, busy) for name, (started, busy) in self.functions.items())
        return snapshot(pool(functions=rows))


def test_the_busiest_functions_have_their_names() -> None:
    source = Changing(2)
    source.functions = {"a": (100, 1.0), "b": (2, 9.0), "c": (3, 4.0), "d": (4, 0.5)}
    assert functions(source.collector) == {"b": 2, "c": 3, "other": 104}


def test_no_other_without_a_rest() -> None:
    source = Changing(2)
    source.functions = {"a": (1, 1.0), "b": (2, 2.0)}
    assert functions(source.collector) == {"a": 1, "b": 2}


def test_a_function_that_is_called_other_is_part_of_it() -> None:
    source = Changing(2)
    source.functions = {"other": (5, 99.0), "a": (1, 1.0)}
    assert functions(source.collector) == {"a": 1, "other": 5}


def test_functions_that_change_places_take_nothing_back() -> None:
    source = Changing(1)
    source.functions = {"a": (10, 10.0), "b": (5, 5.0)}
    assert functions(source.collector) == {"a": 10, "other": 5}
    source.functions = {"a": (11, 11.0), "b": (25, 25.0)}  # b's 5 stay where they were counted
    assert functions(source.collector) == {"b": 20, "other": 6}
    source.functions = {"a": (40, 40.0), "b": (26, 26.0)}
    assert functions(source.collector) == {"a": 39, "other": 7}


def test_processes_that_show_different_functions_share_one_choice() -> None:
    first = pool(pid=1, functions=(("a", 9, 9.0), ("b", 8, 8.0), ("other", 2, 0.5)), former_functions=(("c", 3, 2.0),))
    second = pool(pid=2, functions=(("a", 1, 0.25), ("c", 7, 7.0)))
    now = [snapshot(first, second)]
    shown = collector(lambda: now[0], metrics={"max_functions": 2})
    # c has 9 s of two processes; b goes into the rest, to the others that its process does not show.
    assert functions(shown) == {"a": 10, "c": 10, "other": 10}
    second = pool(pid=2, functions=(("a", 1, 0.25),), former_functions=(("c", 7, 7.0),))
    now[0] = snapshot(first, second)
    assert functions(shown) == {"a": 10, "b": 0, "other": 10}
    now[0] = snapshot(replace(first, functions=(("a", 9, 9.0), ("b", 9, 8.5), ("other", 3, 1.0))), second)
    assert functions(shown) == {"a": 10, "b": 1, "other": 11}


def test_functions_can_be_switched_off() -> None:
    read = scrape(FULL, metrics={"functions": False})
    assert not any("function" in name for name in read.families)
    assert "function" not in " ".join(
        family.name for family in collector(FULL, metrics={"functions": False}).describe()
    )


STEPS = st.lists(
    st.dictionaries(st.sampled_from("abcde"), st.tuples(st.integers(0, 9), st.floats(0, 9)), max_size=5),
    max_size=8,
)


@pytest.mark.slow
@given(STEPS, st.integers(1, 4))
@settings(deadline=None, derandomize=True, max_examples=100)
def test_function_counters_never_go_down(steps: list[dict[str, tuple[int, float]]], limit: int) -> None:
    source = Changing(limit)
    before: dict[Any, float] = {}
    for step in steps:
        for name, (started, busy) in step.items():
            then = source.functions.get(name, (0, 0.0))
            source.functions[name] = (then[0] + started, then[1] + busy)
        read = scrape(source.collector)
        now = {key: value for key, value in read.samples.items() if key[0].startswith("poolscope_function")}
        for key, value in now.items():
            assert value >= before.get(key, 0.0)
        before |= now
        assert len(now) <= 2 * (limit + 1)


def test_an_older_snapshot_that_comes_late_takes_nothing_back() -> None:
    source = Changing(1)
    source.functions = {"a": (10, 10.0), "b": (5, 5.0)}
    functions(source.collector)
    source.functions = {"a": (8, 8.0), "b": (3, 3.0)}
    assert functions(source.collector) == {"a": 10, "other": 5}


# --- counters that must not go down


def test_a_task_that_is_heard_to_have_ended_takes_nothing_back() -> None:
    """Counted up to now, and then it turns out that it ended a tenth of a second ago."""
    first = pool(busy_seconds=5.0, queued_seconds=7.0, cpu_seconds=1.0, saturated_seconds=2.0, submitted=3)
    second = pool(busy_seconds=4.9, queued_seconds=6.9, cpu_seconds=0.9, saturated_seconds=1.9, submitted=3)
    now = [snapshot(first, loop(blocked_seconds=3.0))]
    shown = collector(lambda: now[0])
    scrape(shown)
    now[0] = snapshot(second, loop(blocked_seconds=2.9))
    read = scrape(shown)
    assert scrape(shown).samples == read.samples
    names = {"busy": 5.0, "queued": 7.0, "cpu": 1.0, "saturated": 2.0}
    assert {name: read.value(f"poolscope_pool_{name}_seconds_total", pool="pool") for name in names} == names
    assert read.value("poolscope_loop_blocked_seconds_total", loop="loop") == 3.0
    now[0] = snapshot(pool(busy_seconds=5.5), loop(blocked_seconds=3.5))
    assert scrape(shown).value("poolscope_pool_busy_seconds_total", pool="pool") == 5.5


def test_what_poolscope_counts_about_itself_does_not_go_down_either() -> None:
    """As when the judge has failed, and one that knows nothing takes its place."""
    now = [snapshot(finding(total=5), errors={"judge": 2})]
    shown = collector(lambda: now[0])
    scrape(shown)
    now[0] = msgspec.structs.replace(snapshot(finding(total=1), errors={"judge": 1}), overhead_cpu_seconds=0.0)
    read = scrape(shown)
    assert read.value("poolscope_overhead_cpu_seconds_total") == 0.25
    assert read.value("poolscope_errors_total", part="judge") == 2
    assert list(read.series("poolscope_findings_total").values()) == [5]


def test_what_is_gone_is_forgotten() -> None:
    now = [snapshot(pool(busy_seconds=5.0), loop(blocked_seconds=5.0))]
    shown = collector(lambda: now[0])
    scrape(shown)
    now[0] = snapshot()
    scrape(shown)
    now[0] = snapshot(pool(busy_seconds=1.0), loop(blocked_seconds=1.0))
    read = scrape(shown)
    assert read.value("poolscope_pool_busy_seconds_total", pool="pool") == 1.0
    assert read.value("poolscope_loop_blocked_seconds_total", loop="loop") == 1.0


def test_registering_once_more_forgets_nothing() -> None:
    now = [snapshot(pool(busy_seconds=5.0))]
    shown = collector(lambda: now[0])
    scrape(shown)
    CollectorRegistry().register(shown)
    now[0] = snapshot(pool(busy_seconds=4.0))
    assert scrape(shown).value("poolscope_pool_busy_seconds_total", pool="pool") == 5.0


COUNTED = ("submitted", "succeeded", "busy_seconds", "queued_seconds", "cpu_seconds")


@pytest.mark.slow
@given(st.lists(st.lists(st.integers(0, 5), min_size=5, max_size=5), min_size=1, max_size=6))
@settings(deadline=None, derandomize=True, max_examples=50)
def test_no_counter_ever_goes_down(steps: list[list[int]]) -> None:
    now = [snapshot()]
    shown = collector(lambda: now[0])
    before: dict[Any, float] = {}
    for step in steps:  # up and down as they like
        now[0] = snapshot(pool(**dict(zip(COUNTED, step, strict=True))))
        read = scrape(shown)
        after = {key: value for key, value in read.samples.items() if key[0].endswith("_total")}
        assert all(value >= before.get(key, 0) for key, value in after.items())
        before = after


# --- bounds


def test_ten_thousand_functions_are_fifty_and_the_rest() -> None:
    many = tuple((f"app.function_{number}", number, number / 2) for number in range(10_000))
    read = scrape(snapshot(pool(functions=many)))
    series = read.series("poolscope_function_started_total")
    assert len(series) == 51
    assert sum(series.values()) == sum(range(10_000))
    assert ("pool", "app.function_9999") in series
    assert len(read.text) < 20_000


def test_a_thousand_pools_are_so_many_lines() -> None:
    count = len(Settings().metrics.wait_buckets) + 1
    rows = [pool(f"pool-{n}", wait_buckets=(1,) * count, run_buckets=(1,) * count) for n in range(1000)]
    registry = CollectorRegistry()
    registry.register(SnapshotCollector(lambda: snapshot(*rows), Settings()))
    text = generate_latest(registry)
    lines = [line for line in text.splitlines() if not line.startswith(b"#")]
    # 7 gauges and pool_info without advice, 7 counters, 3 outcomes, two histograms; and the build and the overhead.
    assert len(lines) == 1000 * (7 + 7 + 3 + 2 * (count + 2)) + 2
    assert len(text) < 4_500_000


class AllAtOnce(Collector):
    """Every sample of every family made before the first is written."""

    def __init__(self, source: SnapshotCollector) -> None:
        self._source = source

    def collect(self) -> list[Metric]:
        families = list(self._source.collect())
        for family in families:
            family.samples = list(family.samples)
        return families


@pytest.mark.slow
def test_a_scrape_sets_the_garbage_collector_going_a_few_times_only() -> None:
    count = len(Settings().metrics.wait_buckets) + 1
    source = snapshot(*(pool(f"p-{n}", wait_buckets=(1,) * count, run_buckets=(1,) * count) for n in range(1000)))

    def collections(shown: Collector) -> int:
        registry = CollectorRegistry(auto_describe=False)
        registry.register(shown)
        generate_latest(registry)  # whatever is made once
        gc.collect()
        before = sum(generation["collections"] for generation in gc.get_stats())
        generate_latest(registry)
        return sum(generation["collections"] for generation in gc.get_stats()) - before

    one_at_a_time = collections(SnapshotCollector(lambda: source, Settings()))
    all_at_once = collections(AllAtOnce(SnapshotCollector(lambda: source, Settings())))
    assert one_at_a_time * 4 < all_at_once


def test_a_long_name_is_cut_and_stays_apart_from_others() -> None:
    names = ["x" * 10_000 + end for end in "ab"] + ["ß" * 10_000, "\udcff" * 10_000]
    rows = [pool(name, functions=((name, 1, 1.0),), executor=name) for name in names]
    read = scrape(snapshot(*rows, loop(names[0]), finding(names[0])))
    shown = [name for (name,) in read.series("poolscope_pool_workers")]
    assert len(set(shown)) == 4
    assert {len(name) for name in shown} == {200}
    assert shown[0].startswith("x" * 187 + "~")
    (found,) = read.series("poolscope_loop_tasks")
    assert found == (shown[0],)  # the same name is the same everywhere
    assert max(map(len, read.text.splitlines())) < 700


# --- hostile names

HOSTILE = [
    "",
    "line\nbreak",
    'quote"',
    "back\\slash",
    "\\n is no line break",
    "trailing\\",
    'x"} 1\npoolscope_pool_workers{pool="forged"} 99',
    "größe ☃ 🐍",
    "nul\0 tab\t return\r line\u2028 next\x85",
    "other",
    "le",
    "x" * 200,
]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_come_back_as_they_were(name: str) -> None:
    rows = (
        pool(name, queue_depth=3, kind=name, executor=name, functions=((name, 2, 1.0),)),
        loop(name, tasks=4),
        finding(name),
    )
    read = scrape(snapshot(*rows, errors={name: 1}))
    assert read.value("poolscope_pool_queue_depth", pool=name) == 3
    assert read.value("poolscope_pool_info", pool=name, kind=name, executor=name) == 1
    assert read.value("poolscope_function_started_total", pool=name, task=name) == 2
    assert read.value("poolscope_loop_tasks", loop=name) == 4
    assert read.value("poolscope_errors_total", part=name) == 1
    assert len(read.series("poolscope_pool_workers")) == 1


@given(st.lists(st.text(), min_size=1, max_size=4))
@settings(deadline=None, derandomize=True, max_examples=100)
def test_any_names_make_one_series_each(names: list[str]) -> None:
    rows = [pool(name, pid=pid, functions=((name, 1, 1.0),)) for pid, name in enumerate(names)]
    assert len(scrape(snapshot(*rows)).series("poolscope_pool_workers")) == len(set(names))


def test_names_that_cannot_be_encoded() -> None:
    # Both come out as the same text: that must be one series, not two of one name.
    rows = pool("a\udcff", pid=1, queue_depth=1), pool("a\\udcff", pid=2, queue_depth=2)
    assert scrape(snapshot(*rows)).series("poolscope_pool_queue_depth") == {("a\\udcff",): 3}


def test_default_settings_fit() -> None:
    # As many counts as the default bounds, and one more.
    count = len(Settings().metrics.wait_buckets) + 1
    row = pool(wait_buckets=(1,) * count, run_buckets=(1,) * count)
    registry = CollectorRegistry()
    registry.register(SnapshotCollector(lambda: snapshot(row), Settings()))
    read = Scrape(generate_latest(registry).decode())
    assert read.value("poolscope_task_wait_seconds_bucket", pool="pool", le="+Inf") == count

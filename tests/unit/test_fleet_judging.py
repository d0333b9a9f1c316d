"""Pools of other runtimes, judged from made-up samples: sick ones, and their healthy twins."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import msgspec
import pytest
from fleet_support import (
    BEGIN,
    BY_NAME,
    HIKARI,
    INTERVAL,
    THREAD_POOL,
    Scrape,
    judged,
    played,
    process,
    rising,
    series,
    shown,
)

from poolscope.config import from_mapping
from poolscope.fleet.readings import Counter, Reading, Stretch, stretches
from poolscope.fleet.samples import Assembly, Samples, Series
from poolscope.fleet.verdicts import Knee, Verdict

#: Eight workers of half a second bear 16 a second.
FILLS = played(rising(3.5, 17, at=1205, until=2400))
BUSY = played(rising(3.5, 14, at=1205, until=2400))


def thread_pool(scrapes: Sequence[Scrape], cores: float | None = 0.1, **changed: Callable[[Scrape], float]) -> Verdict:
    """The verdict on a Java pool of these scrapes; `changed` are metrics without what all have before their names."""
    metrics = {**THREAD_POOL, **{f"executor_{name}": of for name, of in changed.items()}}
    around = process(scrapes, cores) if cores is not None else []
    return judged(shown(scrapes, metrics, name="db") + around)["db"]


def of(verdict: Verdict) -> tuple[str, str, str, str]:
    return verdict.state, verdict.pattern, verdict.cause, verdict.severity


def test_a_pool_that_fills_is_told_with_the_interval_of_its_knee() -> None:
    verdict = thread_pool(FILLS)
    assert of(verdict) == ("finding", "async_then_serial", "blocking_io", "warning")
    assert verdict.knee == Knee(BEGIN + 1200, BEGIN + 1215)
    assert not verdict.lasting
    assert verdict.until is not None
    assert verdict.summary.startswith(
        "Pool 'db' turned serial at 14:20:00 to 14:20:15: all 8 workers are waiting, tasks come faster than they finish"
    )
    # 17 a second of half a second each, at 80 %
    assert verdict.advice.suggested_max_workers in (11, 12, 13)
    assert "corePoolSize of 'db'" in verdict.advice.text
    assert "an estimate" in verdict.advice.text


def test_one_that_bears_its_load_is_fine() -> None:
    assert of(thread_pool(BUSY))[0] == "healthy"


def test_what_the_process_uses_tells_waiting_from_computing() -> None:
    assert of(thread_pool(FILLS, cores=3.9)) == ("finding", "async_then_serial", "cpu_bound", "info")
    between = thread_pool(FILLS, cores=2.0)
    assert of(between) == ("finding", "async_then_serial", "unknown", "warning")
    assert "jcmd PID Thread.print" in between.advice.text
    assert of(thread_pool(FILLS, cores=None))[2] == "unknown"


def test_a_single_worker_is_serial() -> None:
    one = played(rising(1, 3, at=1205), workers=1)
    verdict = thread_pool(one)
    assert of(verdict) == ("finding", "serial", "single_worker", "warning")
    assert verdict.lasting
    ordered = from_mapping({"pools": [{"match": "db", "ordered": True}]})
    assert judged(shown(one, THREAD_POOL, name="db"), ordered)["db"].severity == "info"


def test_a_pool_in_which_nothing_finishes_has_stopped() -> None:
    stopped = played(lambda _: 3.5, run=lambda now: 0.5 if now < 1200 else 1e9)
    verdict = thread_pool(stopped)
    assert of(verdict) == ("finding", "stalled", "unknown", "critical")
    assert verdict.advice.action == "none"


def test_one_with_long_runs_now_and_then_has_not() -> None:
    """Every ten minutes all eight are held for two: it has been so before."""
    held = played(lambda _: 3.5, run=lambda now: 1e9 if now % 600 >= 480 else 0.1, seconds=2390)
    assert thread_pool(held).pattern != "stalled"


def test_one_that_was_full_all_along_did_not_turn() -> None:
    verdict = thread_pool(played(lambda _: 17.0))
    assert of(verdict)[:2] == ("finding", "async_then_serial")
    assert verdict.knee is not None
    assert "has been serial" in verdict.summary
    assert "turned" not in verdict.summary
    assert verdict.advice.suggested_max_workers is None


def test_runs_that_became_slower_are_no_matter_of_size() -> None:
    slower = played(lambda _: 3.5, run=lambda now: 0.5 if now < 1200 else 3.0)
    verdict = thread_pool(slower)
    assert of(verdict) == ("finding", "async_then_serial", "unknown", "warning")
    assert verdict.advice.suggested_max_workers is None


@pytest.mark.parametrize("scrapes", [1, 2, 3])
def test_a_few_scrapes_are_a_burst(scrapes: int) -> None:
    short = [it._replace(active=8, queued=30) if 80 <= at < 80 + scrapes else it for at, it in enumerate(BUSY)]
    verdict = thread_pool(short)
    assert of(verdict) == ("finding", "burst", "unknown", "info")
    assert "15.0 s apart" in verdict.summary


def test_a_warm_up_is_a_note() -> None:
    whole = played(lambda now: 30.0 if 600 < now < 720 else 3.5)
    warm = [each for each in whole if each.at >= BEGIN + 600]
    verdict = thread_pool(warm)
    assert of(verdict) == ("finding", "async_then_serial", "blocking_io", "info")
    assert "its metrics had just begun" in verdict.summary
    at = [each.at for each in warm]

    def started(when: float) -> Verdict:
        found = [*shown(warm, THREAD_POOL, name="db"), series("process_start_time_seconds", at, [when] * len(at))]
        return judged(found)["db"]

    assert "its process had just begun" in started(BEGIN + 590).summary
    assert started(BEGIN - 5000).severity == "warning"
    assert thread_pool(whole).severity == "warning"


# --- what the metrics of a runtime are known for


def test_a_largest_size_that_is_never_reached_is_no_limit() -> None:
    """Boot's executor: core 8, largest size and queue without bound. Tasks wait from the eighth on."""
    boot = {"pool_max_threads": lambda _: 2147483647.0}
    assert thread_pool(FILLS, **boot).pattern == "async_then_serial"
    assert thread_pool(BUSY, **boot).state == "healthy"


def test_a_pool_that_still_grows_is_not_full() -> None:
    grows = {"pool_max_threads": lambda _: 64.0, "pool_core_threads": lambda _: 16.0}
    assert thread_pool(FILLS, **grows).state == "healthy"


def test_a_scheduler_s_queue_is_no_backlog() -> None:
    """Tasks that are not due are in it, and it has room without bound all the same."""
    due = {"queued_tasks": lambda _: 500.0, "queue_remaining_tasks": lambda _: 2147483647.0}
    assert thread_pool(BUSY, **due).state == "healthy"
    full = thread_pool(FILLS, **due)
    assert of(full) == ("finding", "full", "unknown", "info")
    assert "not due" in full.summary


def test_a_cached_pool_is_never_full() -> None:
    cached = {
        "pool_max_threads": lambda _: 2147483647.0,
        "pool_core_threads": lambda _: 0.0,
        "queued_tasks": lambda _: 0.0,
        "queue_remaining_tasks": lambda _: 0.0,
    }
    assert thread_pool(FILLS, **cached).state == "healthy"


def test_a_full_queue_says_what_does_not_show() -> None:
    verdict = thread_pool(FILLS, queue_remaining_tasks=lambda each: 0.0 if each.queued else 100.0)
    assert "more is rejected, or runs in its caller" in verdict.summary


def test_a_fork_join_pool_makes_up_for_joins_that_wait() -> None:
    metrics: dict[str, Callable[[Scrape], float]] = {
        "executor_parallelism_threads": lambda it: it.limit,
        "executor_active": lambda it: it.active,
        "executor_queued": lambda it: min(it.queued, 5.0),
        "executor_seconds_count": lambda it: it.done,
    }
    assert judged(shown(FILLS, metrics, name="fj"))["fj"].state == "healthy"
    metrics["executor_queued"] = lambda it: it.queued
    assert judged(shown(FILLS, metrics, name="fj"))["fj"].pattern == "async_then_serial"


def test_below_zero_is_not_there() -> None:
    """With virtual threads all three of Tomcat's are -1."""
    at = [each.at for each in FILLS]
    names = ("config_max_threads", "current_threads", "busy_threads")
    tomcat = [series(f"tomcat_threads_{name}", at, [-1.0] * len(at), name="http") for name in names]
    assert judged(tomcat)["http"].state == "insufficient"


def test_a_full_pool_without_a_queue_is_full_and_no_more() -> None:
    metrics: dict[str, Callable[[Scrape], float]] = {
        "tomcat_threads_config_max_threads": lambda it: it.limit,
        "tomcat_threads_busy_threads": lambda it: it.active,
    }
    verdict = judged(shown(FILLS, metrics, name="http"))["http"]
    assert of(verdict) == ("finding", "full", "unknown", "info")
    assert "in no metric" in verdict.summary


def test_consumers_that_hold_their_workers_are_no_fault() -> None:
    held = [each._replace(active=8, queued=0) for each in BUSY]
    assert thread_pool(held).state == "healthy"


def test_an_unlimited_pool_of_connections_is_never_full() -> None:
    metrics: dict[str, Callable[[Scrape], float]] = {
        "go_sql_max_open_connections": lambda _: 0.0,
        "go_sql_in_use_connections": lambda it: it.active,
        "go_sql_wait_duration_seconds_total": lambda it: it.waited,
        "go_sql_wait_count_total": lambda it: it.done,
    }
    assert judged(shown(FILLS, metrics, db_name="main"))["main"].state == "healthy"
    metrics["go_sql_max_open_connections"] = lambda it: it.limit
    verdict = judged(shown(FILLS, metrics, db_name="main"))["main"]
    assert of(verdict) == ("finding", "async_then_serial", "limit_reached", "warning")
    assert "SetMaxOpenConns" in verdict.advice.text


def test_milliseconds_and_nanoseconds_become_seconds() -> None:
    metrics: dict[str, Callable[[Scrape], float]] = {
        "hikaricp_max_connections": lambda it: it.limit,
        "hikaricp_active_connections": lambda it: it.active,
        "hikaricp_pending_threads": lambda it: it.queued,
        "hikaricp_connection_acquired_nanos_sum": lambda it: it.waited * 1e9,
        "hikaricp_connection_usage_millis_count": lambda it: it.done,
        "hikaricp_connection_usage_millis_sum": lambda it: it.busy * 1e3,
    }
    own = judged(shown(FILLS, metrics, pool="main"))["main"]
    by_micrometer = judged(shown(FILLS, HIKARI, pool="main"))["main"]
    assert own.evidence == by_micrometer.evidence
    assert own.evidence["run_seconds"] == pytest.approx(0.5, rel=0.01)


def starving(idle: bool = True, queued: float = 40.0) -> Verdict:
    at = [BEGIN + 5.0 * step for step in range(120)]
    threads = [8.0 if step < 60 else 8.0 + 5 * (step - 60) for step in range(120)]
    cores = 0.2 if idle else 3.8
    found = [
        series("dotnet_thread_pool_thread_count", at, threads),
        series("dotnet_thread_pool_queue_length", at, [0.0 if step < 60 else queued for step in range(120)]),
        series("dotnet_thread_pool_work_item_count_total", at, [10.0 * step for step in range(120)]),
        series("dotnet_process_cpu_time_seconds_total", at, [cores * (time - BEGIN) for time in at]),
        series("dotnet_process_cpu_count", at, [4.0] * 120),
    ]
    return judged(found)["ThreadPool"]


def test_a_pool_of_dotnet_that_grows_slowly_starves() -> None:
    verdict = starving()
    assert of(verdict) == ("finding", "async_then_serial", "unknown", "warning")
    assert verdict.advice.suggested_max_workers is None
    assert starving(idle=False).severity == "info"
    assert starving(queued=0.0).state == "healthy"


# --- event loops


def node(late: Callable[[int], float], cores: float = 0.3, collected: float = 0.0) -> Verdict:
    at = [BEGIN + INTERVAL * step for step in range(100)]
    found = [
        series("nodejs_eventloop_lag_max_seconds", at, [late(step) + 0.01 for step in range(100)]),
        series("nodejs_eventloop_lag_mean_seconds", at, [0.0101] * 100),
        series("nodejs_gc_duration_seconds_sum", at, [collected * step for step in range(100)], kind="major"),
        series("process_cpu_seconds_total", at, [cores * INTERVAL * step for step in range(100)]),
    ]
    return judged(found)["event loop"]


def test_a_loop_that_is_late_was_blocked() -> None:
    assert of(node(lambda step: 2.5 if step == 50 else 0.0, cores=0.02)) == (
        "finding", "loop_blocked", "blocking_call", "warning",
    )  # fmt: skip
    assert node(lambda step: 2.5 if step == 50 else 0.0).cause == "unknown"
    assert of(node(lambda step: 0.15 if step in (50, 60) else 0.0))[3] == "info"


def test_what_is_measured_at_rest_and_while_it_starts_is_no_lag() -> None:
    assert node(lambda _: 0.0).state == "healthy"
    assert node(lambda _: 0.09).state == "healthy"
    assert node(lambda step: 3.0 if step == 0 else 0.0).state == "healthy"
    assert node(lambda step: 0.5 if step == 50 else 0.0).state == "healthy"


def test_garbage_collection_is_no_call() -> None:
    verdict = node(lambda step: 1.5 if step % 2 else 0.0, collected=1.4)
    assert of(verdict) == ("finding", "loop_blocked", "gc", "info")


def test_a_loop_that_takes_a_core_has_no_rest() -> None:
    assert of(node(lambda _: 0.05, cores=0.99)) == ("finding", "loop_full", "cpu_bound", "warning")


# --- what holds what up


def test_workers_that_wait_for_connections() -> None:
    web, db = FILLS, [each._replace(limit=4, active=min(4, each.active), queued=min(5, each.queued)) for each in FILLS]
    waited = 0.0
    counted = []
    for each in db:
        waited += each.queued * INTERVAL
        counted.append(each._replace(waited=waited))
    both = shown(web, THREAD_POOL, name="web") + shown(counted, HIKARI, pool="main") + process(web, 0.1)
    found = judged(both)
    assert of(found["web"]) == ("finding", "async_then_serial", "shared_resource", "warning")
    assert found["web"].advice.pool == "main"
    assert of(found["main"])[2] == "limit_reached"
    # With another pool full at the same time it is not known whose they are.
    other = judged([*both, *shown(web, THREAD_POOL, name="batch")])
    assert {name: verdict.cause for name, verdict in other.items()} == {
        "web": "unknown",
        "batch": "unknown",
        "main": "limit_reached",
    }
    assert "callers wait for connections of 'main' and that over the same time 'batch' is full" in (
        other["web"].advice.text
    )


# --- samples as they are


def test_too_little_is_no_health() -> None:
    assert thread_pool(BUSY[:7]).state == "insufficient"
    assert thread_pool([each._replace(done=0) for each in BUSY]).state == "insufficient"
    nan = thread_pool(BUSY, active_threads=lambda _: math.nan)
    assert nan.state != "finding"


def test_gaps_are_no_health() -> None:
    gap = [each for each in BUSY if not 1200 < each.at - BEGIN < 2400]
    verdict = thread_pool(gap)
    assert (verdict.state, verdict.why) == ("insufficient", "not scraped for 20 min of 1 h")


def test_a_pool_that_was_not_scraped_while_it_filled() -> None:
    gap = [each for each in FILLS if not 1190 < each.at - BEGIN < 1500]
    verdict = thread_pool(gap)
    assert verdict.pattern == "async_then_serial"
    assert verdict.knee == Knee(BEGIN + 1185, BEGIN + 1500)
    assert "It was not scraped from 14:19:45 to 14:25:00" in verdict.summary


def test_a_gap_in_the_midst_of_it_does_not_make_it_begin_later() -> None:
    def with_gap(done: float = 0.0) -> Verdict:
        left = [it for it in FILLS if not 1500 < it.at - BEGIN < 1800]
        return thread_pool([it._replace(done=it.done - done if it.at > BEGIN + 1600 else it.done) for it in left])

    verdict = with_gap()
    assert of(verdict) == ("finding", "async_then_serial", "blocking_io", "warning")
    assert verdict.knee == Knee(BEGIN + 1200, BEGIN + 1215)
    assert "It was not scraped from 14:25:00 to 14:30:00, while it was full." in verdict.summary
    # Another process after it began itself.
    assert with_gap(done=9000.0).knee == Knee(BEGIN + 1500, BEGIN + 1800)


def test_counters_that_start_anew_give_no_time_below_zero() -> None:
    anew = [each._replace(done=each.done - 20_000 if each.at > BEGIN + 1800 else each.done) for each in FILLS]
    verdict = thread_pool(anew)
    assert verdict.pattern == "async_then_serial"
    assert verdict.evidence["restarts"] == 1
    assert verdict.evidence["throughput_per_second"] == pytest.approx(16, rel=0.02)


def test_a_counter_grows() -> None:
    counter = Counter(array("d", [5, 7, math.nan, 9, 2, 3]))
    assert list(counter.total) == [0, 2, 2, 4, 6, 7]
    assert counter.restarts == [4]


def test_single_scrapes_without_it_are_bridged_where_they_are_few() -> None:
    def found(text: str, breaks: frozenset[int] = frozenset()) -> list[tuple[int, int]]:
        return [(each.first, each.last) for each in stretches([char == "x" for char in text], breaks)]

    assert found("..xxxx..") == [(2, 5)]
    assert found("xxxxx.xxxxx") == [(0, 10)]
    assert found("xx.xx") == [(0, 1), (3, 4)]
    assert found("xxxxx..xxxxx") == [(0, 4), (7, 11)]
    assert found("xxxxxxxxxx", frozenset({4})) == [(0, 3), (4, 9)]
    assert found("xxxxx.xxxxx", frozenset({6})) == [(0, 4), (6, 10)]
    assert Stretch(2, 5).scrapes == 4


def assembled(*found: Series) -> dict[str, Samples]:
    assembly = Assembly([(BY_NAME["tomcat"], ""), (BY_NAME["puma-metrics"], "")])
    for each in found:
        assembly.add(each)
    return {key.name: samples for key, samples in assembly.pools()}


def test_copies_of_a_series_are_one_and_parts_of_a_pool_add_up() -> None:
    one = series("tomcat_threads_busy_threads", [1, 2, 3], [1, 2, 3], name="a", prometheus_replica="x")
    copy = series("tomcat_threads_busy_threads", [1.5, 2.5], [1, 2], name="a", prometheus_replica="y")
    part = series("tomcat_threads_busy_threads", [2, 3], [10, math.nan], name="a", connector="other")
    samples = assembled(one, copy, part)["a"]
    assert list(samples.at) == [1, 2, 3]
    assert list(samples.roles["active"]) == [1, 12, 3]


def test_what_is_taken_away_or_not_there() -> None:
    limit = series("puma_max_threads", [1, 2], [5, 5], index="0")
    assert "active" not in assembled(limit)["0"].roles
    free = series("puma_pool_capacity", [1, 2], [5, 2], index="0")
    assert list(assembled(limit, free)["0"].roles["active"]) == [0, 3]


def test_a_pool_is_of_the_kind_whose_tasks_it_shows() -> None:
    """A ForkJoinPool has the metric of its threads from thread pools."""
    at = [each.at for each in BUSY]
    forks = {"executor_parallelism_threads": 8.0, "executor_active": 1.0, "executor_queued": 0.0}
    found = [series(name, at, [value] * len(at), name="forks") for name, value in forks.items()]
    found.append(series("executor_pool_size_threads", at, [8.0] * len(at), name="forks"))
    verdicts = judged([*found, *shown(BUSY, THREAD_POOL, name="db")])
    assert {name: verdict.key.mapping for name, verdict in verdicts.items()} == {
        "forks": "micrometer-fork-join",
        "db": "micrometer-thread-pool",
    }


def test_a_pool_on_purpose_is_a_note() -> None:
    intended = from_mapping({"pools": [{"match": "d*", "intended": True}]})
    assert judged(shown(FILLS, THREAD_POOL, name="db"), intended)["db"].severity == "info"


def test_all_of_an_empty_pool_is_nothing() -> None:
    reading = Reading(Samples(array("d"), {}), BY_NAME["tomcat"])
    assert (reading.full(), reading.saturated(), reading.unhindered_run()) == ([], [], None)


def test_words_are_of_the_time_and_not_of_a_program() -> None:
    text = thread_pool(FILLS).summary
    assert datetime.fromtimestamp(BEGIN + 1200, UTC).strftime("%H:%M:%S") in text
    assert msgspec.json.encode(thread_pool(FILLS))

"""Pools that are made and dropped leave nothing behind, and one that is made again goes on where it stopped."""

from __future__ import annotations

import gc
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from prometheus_client import CollectorRegistry, generate_latest

import poolscope
from poolscope import profiler
from poolscope.config import Settings
from poolscope.engine import ingest
from poolscope.metrics.families import SnapshotCollector
from poolscope.probe import runtime
from poolscope.probe.recording import pool_watch
from poolscope.probe.runtime import Probe
from poolscope.probe.settings import ProbeSettings

POOLS = 200


@pytest.fixture
def probe(monkeypatch):
    # Nothing is read in between but by the tests.
    made = Probe(ProbeSettings(sample_interval=3600))
    monkeypatch.setitem(runtime._made, "probe", made)
    monkeypatch.setattr(profiler, "_observer", profiler.Observer(made, Settings(sample_interval=3600.0)))
    yield made
    profiler._observer.close()
    made.stop(10)


@pytest.fixture(params=["drop-in", "patched"])
def executor_class(request, probe):
    if request.param == "drop-in":
        yield poolscope.ThreadPoolExecutor
    else:
        with poolscope.install(loops=False):
            yield ThreadPoolExecutor


def shut_down(pool):
    pool.shutdown()


def drop(pool):
    """The caller holds the last reference."""


def used(pool):
    assert pool.submit(int, "1").result(30) == 1
    assert pool.submit(int, "x").exception(30) is not None


def unused(pool):
    pass


def series(counters_only=False):
    registry = CollectorRegistry()
    registry.register(SnapshotCollector(profiler._observer.snapshot, Settings()))
    lines = generate_latest(registry).decode().splitlines()
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if "{pool=" in line}


def open_files():
    return len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0


def standing():
    """What is held, by place: live objects of ours, threads, open files."""
    gc.collect()
    ours = [
        type(found).__qualname__ for found in gc.get_objects() if str(type(found).__module__).startswith("poolscope.")
    ]
    kinds = (
        "PoolRecorder",
        "PoolWatch",
        "Watch",
        "WorkerLog",
        "_ThreadBinding",
        "WorkerCpu",
        "Future",
        "ThreadPoolExecutor",
    )
    counts = {kind: ours.count(kind) for kind in (*kinds, "PoolCase", "PoolHistory", "PoolRow", "Histogram")}
    counts["threads"] = threading.active_count()
    counts["files"] = open_files()
    return counts


@pytest.mark.parametrize("end", [shut_down, drop])
@pytest.mark.parametrize("use", [used, unused])
def test_pools_leave_nothing_behind(executor_class, probe, use, end):
    def churn(pools, step=10):
        for number in range(pools):
            pool = executor_class(2, "churned")
            use(pool)
            threads = list(pool._threads)
            end(pool)
            del pool
            for thread in threads:
                thread.join(30)
            if number % step == 0:
                profiler._observer.snapshot()
        del threads
        for _ in range(2):
            profiler._observer.snapshot()

    churn(20)
    before, shown = standing(), set(series())
    churn(POOLS)
    # Less is what tests before this one had left to be collected.
    assert {what: count - before[what] for what, count in standing().items() if count > before[what]} == {}
    assert set(series()) == shown
    assert len(probe._pools) == 0
    [row] = profiler.report().pools if use is used else [None]
    if row is not None:
        assert row.tasks.submitted == 2 * (POOLS + 20)
        assert row.tasks.succeeded == row.tasks.failed == POOLS + 20


def test_a_pool_of_the_same_name_goes_on_counting(executor_class, probe):
    seen = []
    for times in range(1, 4):
        pool = executor_class(1, "again")
        used(pool)
        alive = series()
        pool.shutdown()
        del pool
        profiler._observer.snapshot()
        ended = series()
        assert alive['poolscope_pool_tasks_submitted_total{pool="again"}'] == 2 * times
        assert 'poolscope_pool_workers{pool="again"}' in alive
        assert 'poolscope_pool_workers{pool="again"}' not in ended
        for now in (alive, ended):
            if seen:
                assert [name for name, value in seen[-1].items() if "_total" in name and now[name] < value] == []
            seen.append(now)
        [row] = profiler.report().pools
        assert (row.tasks.submitted, row.tasks.succeeded, row.tasks.failed) == (2 * times, times, times)
        assert ended['poolscope_task_run_seconds_count{pool="again"}'] == 2 * times


def test_names_of_pools_that_ended_are_bounded(executor_class, probe, monkeypatch):
    monkeypatch.setattr(ingest, "ENDED_ROWS_KEPT", 10)
    collector = SnapshotCollector(profiler._observer.snapshot, Settings())
    with executor_class(1, "stays") as stays:
        used(stays)
        for number in range(1, 60):
            pool = executor_class(1, f"name-{number}")
            used(pool)
            pool.shutdown()
            shown = {}
            for family in collector.collect():
                for sample in family.samples:
                    shown.setdefault(sample.name, {})[tuple(sample.labels.values())] = sample.value
            submitted = shown["poolscope_pool_tasks_submitted_total"]
            assert sum(submitted.values()) == 2 * number + 2
            assert sum(shown["poolscope_function_started_total"].values()) == 2 * number + 2
            assert len(submitted) <= 10 + 1 + 2  # the limit, the one that lives, and those that it is told of at once
            assert len(collector._tasks._pools) == len(submitted)
        assert submitted["stays",] == 2
        assert submitted["other",] > 2 * 40
    report = profiler.report()
    assert sum(row.tasks.submitted for row in report.pools) == sum(row.tasks.succeeded * 2 for row in report.pools)
    assert sum(row.tasks.submitted for row in report.pools) == 2 * 60


def test_executors_are_forgotten(executor_class, probe):
    bindings = len(pool_watch._bindings.all)  # of this thread, which may have run tasks by hand in other tests
    pools = [executor_class(1) for _ in range(20)]
    for pool in pools:
        used(pool)
        pool.shutdown()
    del pools, pool
    gc.collect()
    assert len(pool_watch._bindings.all) == bindings

"""The judge inside the process, with real threads and a real clock; gates, no measured times."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor as StandardExecutor
from pathlib import Path
from typing import Any

import pytest
from endpoint_support import until
from prometheus_client import CollectorRegistry

import poolscope
from poolscope import profiler
from poolscope.errors import ConfigError, ListenError
from poolscope.model import PoolReport, Report
from poolscope.probe import runtime
from poolscope.probe.runtime import Probe
from poolscope.probe.settings import ProbeSettings


@pytest.fixture(autouse=True)
def probe(monkeypatch: pytest.MonkeyPatch) -> Iterator[Probe]:
    """As in a process that has just started: what is read before anybody asks goes to the judge of our thread.

    With the probe of an earlier test, which has looked for its judge, it would go to nobody.
    """
    made = Probe()
    monkeypatch.setitem(runtime._made, "probe", made)
    monkeypatch.setattr(profiler, "_observer", None)
    yield made
    made.stop(60)
    if profiler._observer is not None:
        profiler._observer.close()


def pool_of(report: Report, name: str) -> PoolReport:
    return next(pool for pool in report.pools if pool.name == name)


def test_a_drop_in_pool_is_in_the_report_exactly() -> None:
    gate = threading.Event()
    poolscope.report()
    with poolscope.ThreadPoolExecutor(2, name="exact") as pool:
        held = [pool.submit(gate.wait) for _ in range(5)]
        assert held[4].cancel()
        failing = pool.submit(int, "x")
        while pool_of(poolscope.report(), "exact").tasks.started < 2:
            pass
        before = pool_of(poolscope.report(), "exact").tasks
        assert (before.submitted, before.started, before.cancelled) == (6, 2, 1)
        gate.set()
    assert failing.exception() is not None
    after = pool_of(poolscope.report(), "exact").tasks
    assert (after.submitted, after.succeeded, after.failed, after.cancelled) == (6, 4, 1, 1)


def test_a_result_that_is_there_is_counted() -> None:
    poolscope.report()
    with poolscope.ThreadPoolExecutor(1, name="counted") as pool:
        for number in range(1, 50):
            pool.submit(int).result()
            assert pool_of(poolscope.report(), "counted").tasks.succeeded == number


def test_profile_watches_the_pools_of_others_and_leaves_them_as_they_were() -> None:
    before = dict(StandardExecutor.__dict__)
    with poolscope.profile() as profile, StandardExecutor(2, thread_name_prefix="theirs") as pool:
        assert sum(pool.map(int, range(100))) == 4950
    assert dict(StandardExecutor.__dict__) == before
    assert pool_of(profile.report, "theirs").tasks.succeeded == 100
    assert profile.report.verdict == "concurrent"


def test_profile_of_a_setting_that_is_none() -> None:
    with pytest.raises(ConfigError, match="sample_intervall"):
        poolscope.profile(sample_intervall=1)


def test_settings_of_a_profile_hold_for_its_block_only() -> None:
    before = runtime.current().settings
    with poolscope.profile(sample_interval=0.05, pools=[{"match": "resized", "max_workers": 3}]) as profile:
        assert runtime.current().settings.sample_interval == 0.05
        with StandardExecutor(1, thread_name_prefix="resized") as pool:
            pool.submit(int).result()
    assert runtime.current().settings is before
    assert pool_of(profile.report, "resized").max_workers == 3


def test_profile_before_its_block() -> None:
    with pytest.raises(RuntimeError, match="enter its block"):
        _ = poolscope.profile().report


def test_serve_answers_while_every_pool_is_full() -> None:
    gate, running = threading.Event(), threading.Barrier(3)

    def hold() -> None:
        running.wait()
        gate.wait()

    with poolscope.serve("127.0.0.1:0") as server, poolscope.ThreadPoolExecutor(2, name="full") as pool:
        tasks = [pool.submit(hold) for _ in range(2)] + [pool.submit(int) for _ in range(3)]
        running.wait()
        with urllib.request.urlopen(f"{server.url}/metrics", timeout=30) as answer:
            text = answer.read().decode()
        gate.set()
        assert all(task.result() in (None, 0) for task in tasks)
    assert 'poolscope_pool_active_workers{pool="full"} 2.0' in text
    assert 'poolscope_pool_queue_depth{pool="full"} 3.0' in text


def test_serve_refuses_an_address_in_use_and_one_that_is_none() -> None:
    with poolscope.serve("127.0.0.1:0") as server, pytest.raises(ListenError, match=str(server.port)):
        poolscope.serve(f"127.0.0.1:{server.port}")
    with pytest.raises(ConfigError):
        poolscope.serve("no address")


def test_a_callback_may_ask_for_a_report() -> None:
    """It runs on our thread, outside of our locks, while another thread scrapes."""
    told = threading.Event()
    verdicts: list[str] = []

    def heard(finding: poolscope.Finding, began: bool) -> None:
        verdicts.append(poolscope.report().verdict)
        told.set()

    unsubscribe = poolscope.on_finding(heard)
    collector = poolscope.collector()
    gate = threading.Event()
    with poolscope.ThreadPoolExecutor(1, name="callback") as pool:
        tasks = [pool.submit(threading.Event().wait, 0.01) for _ in range(400)]
        while not told.is_set() and not tasks[-1].done():
            assert list(collector.collect())
        assert told.wait(60)
        for task in tasks:
            task.cancel()
        gate.set()
    unsubscribe()
    assert verdicts[0] == "serial"


def test_importing_does_nothing_and_starts_nothing() -> None:
    code = """
        import sys, threading
        before = set(sys.modules)
        import poolscope
        new = {name for name in set(sys.modules) - before if not name.startswith("_")}
        print(sorted(new), threading.active_count())
    """
    done = subprocess.run(
        [sys.executable, "-S", "-c", f"import sys; sys.path[:] = {sys.path!r}\n" + textwrap.dedent(code)],
        capture_output=True,
        text=True,
        check=True,
    )
    # The one with which who judges a process registers, and the package that it is in.
    assert done.stdout.strip() == "['poolscope', 'poolscope.probe', 'poolscope.probe.api'] 1"


def test_settings_given_late_count_for_what_was_there_before(tmp_path: Path) -> None:
    """The judge is made with the first pool; `serve(config=...)` may come long after."""
    path = tmp_path / "pools.yaml"
    path.write_text("metrics: {wait_buckets: [0.5, 100], run_buckets: [7]}\nsample_interval: 0.05\nkeep_tasks: 3\n")
    with poolscope.ThreadPoolExecutor(1, name="early") as pool:
        pool.submit(int).result()
        until(lambda: any(row.name == "early" for row in poolscope.report().pools))
        registry = CollectorRegistry()
        registry.register(poolscope.collector())  # with the bounds from before
        before = {sample.labels["le"] for sample in samples(registry, "poolscope_task_wait_seconds_bucket")}
        assert len(before) == 20
        with poolscope.serve("127.0.0.1:0", config=path):
            pass
        for name, bounds in (("wait", ["0.5", "100.0", "+Inf"]), ("run", ["7.0", "+Inf"])):
            found = [
                it for it in samples(registry, f"poolscope_task_{name}_seconds_bucket") if it.labels["pool"] == "early"
            ]
            assert [(it.labels["le"], it.value) for it in found] == [(bound, 1) for bound in bounds]


def samples(registry: CollectorRegistry, name: str) -> list[Any]:
    return [sample for family in registry.collect() for sample in family.samples if sample.name == name]


@pytest.mark.parametrize("read_before", [False, True])
def test_times_count_from_the_start_of_the_process(read_before: bool) -> None:
    with poolscope.ThreadPoolExecutor(1, name="older") as pool:
        pool.submit(int).result()
        if read_before:
            until(lambda: profiler._observer is not None)
        report = poolscope.report()
    first = pool_of(report, "older").first_submit_seconds
    assert first is not None
    assert 0 < first < report.duration_seconds
    assert report.processes[0].started_seconds == 0


def test_what_is_older_than_a_profile_was_there_from_its_start(probe: Probe) -> None:
    # What is read before the profile begins is not for it; so nothing is.
    probe.settings = ProbeSettings(sample_interval=3600)
    with poolscope.ThreadPoolExecutor(1, name="before") as pool:
        pool.submit(int).result()
        with poolscope.profile(sample_interval=3600) as profile:
            pool.submit(int).result()
    assert pool_of(profile.report, "before").first_submit_seconds == 0.0


def test_what_dataclasses_look_for_is_whole_before_our_thread_imports() -> None:
    """They take `typing` from `sys.modules` without waiting for an import in another thread."""
    code = """
        import sys
        import poolscope
        with poolscope.ThreadPoolExecutor(1) as pool:
            assert "typing" not in sys.modules
            pool.submit(int)
            print(sys.modules["typing"].__spec__._initializing, hasattr(sys.modules["typing"], "get_origin"))
    """
    done = subprocess.run(
        [sys.executable, "-S", "-c", f"import sys; sys.path[:] = {sys.path!r}\n" + textwrap.dedent(code)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "False True"

"""Failure of ours stays ours: one part of poolscope breaks at a time, and the program's tasks do not notice."""

from __future__ import annotations

import errno
import logging
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor as StandardExecutor
from time import perf_counter_ns
from typing import Any, NamedTuple

import pytest
from probe_support import as_ours, mistake
from prometheus_client import CollectorRegistry, generate_latest

import poolscope
from poolscope import engine, profiler
from poolscope.aggregation.pool_history import PoolHistory
from poolscope.config import Settings
from poolscope.engine.pool_case import PoolCase
from poolscope.engine.pool_row import PoolRow
from poolscope.executors.threads import ThreadPoolExecutor
from poolscope.metrics.families import SnapshotCollector, serve_snapshots
from poolscope.probe import runtime
from poolscope.probe.interpreter import native_thread
from poolscope.probe.interpreter.cpu import CpuClocks
from poolscope.probe.runtime import Probe

TASKS = 50
Patch = pytest.MonkeyPatch


fail = mistake(OSError(errno.EIO, "a fault of ours"))
lack_memory = mistake(MemoryError())


class Clock:
    """The real clock, until it is broken."""

    def __init__(self) -> None:
        self.read: Callable[[], int] = perf_counter_ns

    @as_ours
    def __call__(self) -> int:
        return self.read()


class Setup:
    """A probe, the judge of its process, and a pool; the test is the probe's background thread."""

    def __init__(self, patch: Patch, kind: str) -> None:
        self.clock = Clock()
        self.cpu = CpuClocks()
        self.probe = Probe(clock=self.clock, cpu=self.cpu)
        patch.setitem(runtime._made, "probe", self.probe)
        patch.setattr(self.probe._ticker, "wake", lambda: None)
        self.installation = poolscope.install(loops=False) if kind == "patched" else None
        self.observer = profiler.Observer(self.probe, Settings())
        self.pool = (StandardExecutor if kind == "patched" else ThreadPoolExecutor)(2, thread_name_prefix="mine")

    def work(self) -> None:
        """Tasks succeed, fail and are cancelled as without us."""
        assert list(self.pool.map(pow, range(TASKS), [2] * TASKS)) == [number**2 for number in range(TASKS)]
        failure = self.pool.submit(int, "x").exception(60)
        assert type(failure) is ValueError
        assert failure.__context__ is None

    def look(self) -> None:
        """What the background thread would do when all is due."""
        for job in list(self.probe._ticker._jobs):
            job.due_ns = 0
        try:
            self.probe.tick()
        except Exception as error:  # a clock that raises ends our thread
            self.probe._reader.job_failed("thread", error)

    def close(self) -> None:
        self.pool.shutdown()
        self.probe.flush()  # the pool's end
        self.observer.close()
        if self.installation is not None:
            self.installation.uninstall()


@pytest.fixture(params=["drop-in", "patched"])
def setup(request: pytest.FixtureRequest, monkeypatch: Patch) -> Iterator[Setup]:
    made = Setup(monkeypatch, request.param)
    yield made
    made.close()


class Fault(NamedTuple):
    """One boundary: how it breaks, the part that is named, what is said to be missing."""

    inject: Callable[[Setup, Patch], object]
    part: str
    missing: str


def recorder_of(setup: Setup) -> Any:
    return next(iter(setup.probe._pools._watches.values())).recorder


def break_list(setup: Setup, patch: Patch, name: str) -> None:
    class Full(list):  # type: ignore[type-arg]
        extend = lack_memory

    watch = setup.pool._poolscope
    full = Full([0, 0])
    if name == "arrivals":
        patch.setattr(watch, "arrivals", full)
    else:
        for log in watch.recorder.workers:
            patch.setattr(log, "finished", full)


FAULTS = {
    "clock": Fault(lambda s, p: setattr(s.clock, "read", fail), "pools", "tasks of a pool may be missing"),
    "identify": Fault(
        lambda s, p: p.setattr(s.pool._poolscope, "identify", fail), "pools", "tasks of a pool may be missing"
    ),
    "arrivals": Fault(lambda s, p: break_list(s, p, "arrivals"), "pools", "tasks of a pool may be missing"),
    "worker's log": Fault(lambda s, p: break_list(s, p, "finished"), "pools", "tasks of a pool may be missing"),
    "pool's size": Fault(
        lambda s, p: p.setattr(recorder_of(s), "size", fail), "pools", "tasks of a pool may be missing"
    ),
    "reader": Fault(lambda s, p: p.setattr(s.probe._pools, "read", fail), "reader", "pools are recorded no more"),
    "CPU clocks": Fault(lambda s, p: p.setattr(s.cpu, "own", fail), "cpu", "CPU times are not known"),
    "fold": Fault(lambda s, p: p.setattr(PoolHistory, "fold", lack_memory), "judge", "findings may be missing"),
    "settle": Fault(lambda s, p: p.setattr(PoolHistory, "settle", fail), "judge", "findings may be missing"),
    "detector": Fault(lambda s, p: p.setattr(PoolCase, "judge", fail), "judge", "findings may be missing"),
    "engine's tick": Fault(lambda s, p: p.setattr(engine.Engine, "tick", fail), "judge", "findings may be missing"),
    "engine's feed": Fault(lambda s, p: p.setattr(engine.Engine, "feed", fail), "judge", "findings may be missing"),
    "report of a row": Fault(lambda s, p: p.setattr(PoolRow, "report", fail), "judge", "findings may be missing"),
    "report": Fault(lambda s, p: p.setattr(s.observer._engine, "session", fail), "judge", "findings may be missing"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_part_that_breaks(setup: Setup, monkeypatch: Patch, caplog: pytest.LogCaptureFixture, name: str) -> None:
    fault = FAULTS[name]
    setup.work()
    setup.look()
    setup.observer.report()
    with monkeypatch.context() as patch:
        fault.inject(setup, patch)
        for _ in range(3):
            setup.work()
            setup.look()
            setup.observer.report()
    setup.clock.read = perf_counter_ns
    setup.work()
    report = setup.observer.report()
    snapshot = setup.observer.snapshot()
    assert snapshot.errors[fault.part] >= 1
    assert any(notice.startswith(fault.missing) for notice in report.notices), report.notices
    told = [record.getMessage() for record in caplog.records if record.name == "poolscope"]
    assert sum(f"in part {fault.part}" in line for line in told) == 1, told
    if name in ("CPU clocks", "detector"):  # the rest goes on
        [pool] = report.pools
        assert pool.tasks.submitted == 5 * (TASKS + 1)
    # What nobody fetches any more is not kept.
    watch = setup.pool._poolscope
    assert watch is None or len(watch.arrivals) <= 2 * (TASKS + 1)
    assert setup.probe._outlet.waiting < 100


def test_the_lines_of_workers_cannot_be_read(setup: Setup, monkeypatch: Patch) -> None:
    gate = threading.Event()
    held = [setup.pool.submit(gate.wait) for _ in range(4)]
    while sum(log.running is not None for log in recorder_of(setup).workers) < 2:
        pass
    assert setup.probe._reader.samplers.stacks is not None
    monkeypatch.setattr(setup.probe._reader.samplers.stacks, "_current_frames", fail)
    for _ in range(3):
        setup.look()
    gate.set()
    assert all(future.result(60) for future in held)
    [pool] = setup.observer.report().pools
    assert (pool.tasks.succeeded, pool.max_workers) == (4, 2)
    assert setup.observer.snapshot().errors == {"stacks": 1}


def test_no_thread_can_be_started(monkeypatch: Patch, caplog: pytest.LogCaptureFixture) -> None:
    probe = Probe()
    monkeypatch.setitem(runtime._made, "probe", probe)

    @as_ours
    def start(*args: Any) -> int:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(native_thread, "start_new_thread", start)
    observer = profiler.Observer(probe, Settings())
    for _ in range(2):
        with ThreadPoolExecutor(2, name="blind") as pool:
            assert list(pool.map(abs, range(-5, 0))) == [5, 4, 3, 2, 1]
    report = observer.report()
    observer.close()
    assert sum(pool.tasks.succeeded for pool in report.pools) == 10
    assert observer.snapshot().errors == {"thread": 2}
    assert len([record for record in caplog.records if record.name == "poolscope"]) == 1
    assert any("can't start new thread" in notice for notice in report.notices)


def test_a_log_handler_that_raises(setup: Setup) -> None:
    class Handler(logging.Handler):
        def handle(self, record: logging.LogRecord) -> bool:
            raise RuntimeError("a handler of the program's")

    setup.work()
    handler = Handler()
    logging.getLogger("poolscope").addHandler(handler)
    try:
        setup.probe.fail("pools", ValueError())
        setup.probe.fail("pools", ValueError())
        setup.observer._engine.failed("judge", "x")
        setup.observer._engine.deliver()
    finally:
        logging.getLogger("poolscope").removeHandler(handler)
    setup.look()
    assert setup.observer.snapshot().errors == {"log": 2, "pools": 2, "judge": 1}
    assert setup.observer.report().pools[0].tasks.submitted == TASKS + 1


def test_a_scrape_that_fails_is_counted_and_leaves_the_programs_own_metrics(setup: Setup) -> None:
    source: Callable[[], Any] = fail
    setup.work()
    registry = CollectorRegistry()
    registry.register(SnapshotCollector(lambda: source(), Settings(), setup.observer.failed))
    assert generate_latest(registry) == b""
    settings = Settings().with_listen("127.0.0.1:0")
    with (
        serve_snapshots(lambda: source(), settings, setup.observer.failed) as server,
        pytest.raises(urllib.error.HTTPError) as refused,
    ):
        urllib.request.urlopen(f"{server.url}/metrics", timeout=60)
    refused.value.close()
    setup.look()
    source = setup.observer.snapshot
    assert b'poolscope_errors_total{part="collector"} 2.0' in generate_latest(registry)
    assert any(notice.startswith("a scrape had no metrics") for notice in setup.observer.report().notices)

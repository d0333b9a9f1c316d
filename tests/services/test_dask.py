"""dask's threads and distributed's: standard pools, whose tasks go by the functions of the graph."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from cli_support import script, watched
from distributed import _concurrent_futures_thread as copied
from probe_support import FakeProbe, Ledger

from poolscope.probe.adapters import distributed as adapter

THREADED = """
    import time
    import dask

    def fetch(number):
        time.sleep(0.05)
        return number * number

    def add(numbers):
        return sum(numbers)

    print(dask.delayed(fetch)(3).compute(scheduler="threads", num_workers=4))
    print(dask.delayed(add)([dask.delayed(fetch)(number) for number in range(24)]).compute(
        scheduler="threads", num_workers=4))
    print(dask.delayed(fetch)(3).compute(scheduler="synchronous"))
"""


def test_the_threaded_scheduler(tmp_path: Path) -> None:
    outcome, report = watched(script(tmp_path, THREADED), cwd=tmp_path)
    assert outcome == (0, "9\n4324\n9\n", "")
    # distributed makes a pool for itself as it is imported.
    (pool,) = [pool for pool in report["pools"] if pool["name"] != "Dask-Offload"]
    assert pool["name"] == "dask.threaded:get.pool"
    assert (pool["kind"], pool["max_workers"], pool["peak_active"]) == ("thread", 4, 4)
    assert pool["created_at"] == f"{tmp_path.name}/program.py:12"
    assert {function["name"]: function["started"] for function in pool["functions"]} == {
        "__main__.fetch": 25,
        "__main__.add": 1,
    }
    assert not [notice for notice in report["notices"] if "dask" in notice]


#: A cluster in one process: the worker's executor has two threads.
CLUSTER = """
    import time
    from distributed import Client, LocalCluster

    def fetch(number):
        time.sleep(0.05)
        return number

    if __name__ == "__main__":
        with LocalCluster(n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None) as cluster:
            with Client(cluster) as client:
                print([client.submit(fetch, -number).result() for number in range(1, 4)])
                print(sum(client.gather(client.map(fetch, range(24)))))
"""


def test_the_threads_of_a_distributed_worker(tmp_path: Path) -> None:
    program = script(tmp_path, CLUSTER)
    outcome, report = watched(program, cwd=tmp_path)
    assert (outcome.status, outcome.out) == (0, "[-1, -2, -3]\n276\n"), outcome.err
    [pool] = [pool for pool in report["pools"] if "fetch" in str(pool["functions"])]
    assert pool["executor"] == "distributed.threadpoolexecutor.ThreadPoolExecutor"
    assert (pool["kind"], pool["max_workers"], pool["peak_active"]) == ("thread", 2, 2)
    assert {"name": "__main__.fetch", "started": 27}.items() <= pool["functions"][0].items()
    assert pool["tasks"]["failed"] == 0
    assert not [notice for notice in report["notices"] if "distributed " in notice]


def test_an_unknown_version_is_left_alone(monkeypatch):
    probe = FakeProbe()
    monkeypatch.setattr(copied.ThreadPoolExecutor, "submit", lambda self: None)
    before = dict(copied.ThreadPoolExecutor.__dict__)
    adapter.patch(probe)
    assert dict(copied.ThreadPoolExecutor.__dict__) == before
    assert "the threads of its workers are not watched" in str(probe.messages)
    adapter.unpatch()


def test_calls_that_are_cancelled_or_refused():
    probe, gate, inside = FakeProbe(), threading.Event(), threading.Event()
    adapter.patch(probe)
    try:
        pool = copied.ThreadPoolExecutor(1, "Workers")
        running = pool.submit(lambda: (inside.set(), gate.wait(30)))
        assert inside.wait(30)
        queued = [pool.submit(abs, -3) for _ in range(2)]
        assert queued[0].cancel()
        book = Ledger(probe.recorders[0], probe)
        book.only(submitted=3, running=1, queued=1, cancelled=1)
        gate.set()
        assert running.result(30)
        pool.shutdown()
        with pytest.raises(RuntimeError):
            pool.submit(abs, -3)
        book.only(submitted=3, succeeded=2, cancelled=1, rejected=1)
        assert probe.recorders[0].name == "Workers"
    finally:
        adapter.unpatch()
    assert not probe.faults

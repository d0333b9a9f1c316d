"""Pools whose workers are interpreters: recorded as pools of threads are, of a kind of their own."""

from __future__ import annotations

import concurrent.futures
import json
import threading
import time

import pytest
from cli_support import same_as_without, script
from probe_support import FakeProbe, Ledger

import poolscope
from poolscope.probe import runtime
from poolscope.probe.executors import threadpool
from poolscope.probe.startup import install

InterpreterPoolExecutor = getattr(concurrent.futures, "InterpreterPoolExecutor", None)
LIMIT = 30  # seconds for what is sure to come

pytestmark = pytest.mark.skipif(InterpreterPoolExecutor is None, reason="this Python has no pools of interpreters")


@pytest.fixture(params=["patched", "attached"])
def watched(request, monkeypatch):
    """(probe, make): a pool made by `make` is recorded."""
    probe = FakeProbe()
    monkeypatch.setattr(runtime, "current", lambda: probe)
    monkeypatch.setattr(install, "current", lambda: probe)
    if request.param == "patched":
        with poolscope.install(loops=False):
            yield probe, InterpreterPoolExecutor
    else:
        yield probe, lambda *args, **kwargs: poolscope.attach(InterpreterPoolExecutor(*args, **kwargs))
        threadpool._instances.forget()
        threadpool.unpatch()
    assert not probe.faults


def test_waits_runs_and_failures_are_recorded(watched):
    probe, make = watched
    with make(1, "cells") as pool:
        assert list(pool.map(abs, [-1, -2, -3])) == [1, 2, 3]
        with pytest.raises(ZeroDivisionError):
            pool.submit(divmod, 1, 0).result(LIMIT)
        with pytest.raises(TypeError, match="scripts"):
            pool.submit("1 + 1")
    [recorder] = probe.recorders
    assert (recorder.name, recorder.kind) == ("cells", "interpreter")
    Ledger(recorder, probe).only(submitted=4, succeeded=3, failed=1)


def test_active_workers_are_those_in_a_task(watched):
    probe, make = watched
    with make(2) as pool:
        running = [pool.submit(time.sleep, 0.5) for _ in range(2)]
        queued = pool.submit(abs, -1)
        ledger = Ledger(probe.recorders[-1], probe)
        patience = time.monotonic() + LIMIT
        while ledger.read().counts()["running"] < 2:
            assert time.monotonic() < patience
        assert ledger.counts()["queued"] == 1
        assert [future.result(LIMIT) for future in (*running, queued)] == [None, None, 1]


def test_a_pool_that_cannot_be_initialized_is_broken_as_without_us(watched):
    probe, make = watched
    pool = make(1, initializer=divmod, initargs=(1, 0))
    future = pool.submit(abs, -1)
    assert isinstance(future.exception(LIMIT), concurrent.futures.interpreter.BrokenInterpreterPool)
    pool.shutdown()
    Ledger(probe.recorders[-1], probe).only(submitted=1, broken=1)


def test_under_run_the_interpreters_are_no_processes_of_their_own(tmp_path):
    """Each imports what starts the watch of a process."""
    text = """
        import time
        from concurrent.futures import InterpreterPoolExecutor

        with InterpreterPoolExecutor(2, "cells") as pool:
            print(sum(pool.map(abs, range(-20, 0))))
        """
    outcome = same_as_without(script(tmp_path, text), cwd=tmp_path)
    assert outcome == (0, "210\n", "")
    report = json.loads((tmp_path / "report.json").read_text())
    assert len(report["processes"]) == 1
    assert [(pool["name"], pool["kind"], pool["tasks"]["succeeded"]) for pool in report["pools"]] == [
        ("cells", "interpreter", 20)
    ]


def test_that_no_lines_are_read_is_said_once():
    with poolscope.profile() as profile:
        for _ in range(2):
            with InterpreterPoolExecutor(1) as pool:
                opened = threading.Event()
                future = pool.submit(time.sleep, 0.01)
                future.add_done_callback(lambda _, opened=opened: opened.set())
                assert opened.wait(LIMIT)
    report = profile.report
    assert "interpreter" in {row.kind for row in report.pools}
    assert [notice for notice in report.notices if "interpreters" in notice] == [
        "of tasks in other interpreters no lines are read: their frames are not seen from here"
    ]

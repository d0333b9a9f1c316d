"""Pools that wait for pools: deadlocks, proven while they last, and what only looks like one."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from cli_support import PATIENCE, poolscope, script, started, watched

#: `hold` waits for a task that it gives to another pool or its own, once all are in their tasks.
HEAD = """
    import sys, threading, time
    from concurrent.futures import ThreadPoolExecutor, as_completed, wait

    def inner():
        time.sleep(0.01)

    def hold(met, pool, timeout=None):
        met.wait()
        future = pool.submit(inner)
        return wait([future], timeout)
"""

OWN_POOL = """
    pool, met = ThreadPoolExecutor(3, "nested"), threading.Barrier(3)
    for _ in range(3):
        pool.submit(hold, met, pool)
    threading.Event().wait()
"""

TWO_POOLS = """
    front, back, met = ThreadPoolExecutor(2, "front"), ThreadPoolExecutor(2, "back"), threading.Barrier(4)
    for _ in range(2):
        front.submit(hold, met, back)
        back.submit(hold, met, front)
    threading.Event().wait()
"""

THROUGH_A_LOOP = (
    """
    import asyncio

    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()

    async def submitted(pool):
        return await loop.run_in_executor(pool, inner)

    def hold(met, pool, timeout=None):
        met.wait()
        future = asyncio.run_coroutine_threadsafe(submitted(pool), loop)
        return wait([future], timeout)
"""
    + OWN_POOL
)

WITH_TIMEOUT = """
    pool, met = ThreadPoolExecutor(2, "nested"), threading.Barrier(2)
    tasks = [pool.submit(hold, met, pool, 3.0) for _ in range(2)]
    wait(tasks)
    print("came back")
    # Long enough for the end to be told.
    time.sleep(4)
"""

SLOW_BELOW = """
    front, back = ThreadPoolExecutor(4, "front"), ThreadPoolExecutor(2, "back")

    def query():
        time.sleep(0.1)

    def page():
        return back.submit(query).result()

    for task in as_completed([front.submit(page) for _ in range(100)]):
        task.result()
"""


def findings(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """By the name of the pool, those that are worth a warning."""
    return {
        pool["name"]: finding
        for pool in report["pools"]
        for finding in pool["findings"]
        if finding["severity"] != "info"
    }


@pytest.mark.parametrize(
    ("program", "after"),
    [
        (OWN_POOL, {"nested": "nested"}),
        (TWO_POOLS, {"front": "back", "back": "front"}),
        (THROUGH_A_LOOP, {"nested": "nested"}),
    ],
    ids=["in one pool", "across two", "through an event loop"],
)
def test_a_deadlock_is_told_while_it_lasts(tmp_path: Path, program: str, after: dict[str, str]) -> None:
    script(tmp_path, HEAD + program)
    words = (sys.executable, "-m", "poolscope", "run", "--json", "it.json", "program.py")
    with started(*words, cwd=tmp_path) as process:
        assert process.stderr is not None
        told = process.stderr.readline()  # once, however many pools are part of it
        # The program would hang for good.
        process.send_signal(signal.SIGTERM)
        process.wait(PATIENCE)
    assert "critical: pool" in told
    assert "deadlock (nested_wait)" in told
    report = json.loads((tmp_path / "it.json").read_text())
    assert report["verdict"] == "deadlock"
    found = findings(report)
    assert {name: finding["advice"]["pool"] for name, finding in found.items()} == after
    for finding in found.values():
        assert (finding["pattern"], finding["cause"], finding["severity"]) == ("deadlock", "nested_wait", "critical")
        assert finding["advice"]["action"] == "avoid_nested_wait"
        assert finding["advice"]["suggested_max_workers"] is None
        assert (Path(finding["frames"][0]["file"]).name, finding["frames"][0]["function"]) == ("program.py", "hold")
        assert finding["frames"][0]["source"] == "return wait([future], timeout)"
        assert finding["evidence"]["deadlocked_pools"] == len(after)


def test_one_that_a_timeout_ends_is_closed(tmp_path: Path) -> None:
    script(tmp_path, HEAD + WITH_TIMEOUT)
    path = tmp_path / "it.json"
    outcome = poolscope("run", "--json", path, "program.py", cwd=tmp_path)
    assert (outcome.status, outcome.out) == (0, "came back\n")
    began, over = outcome.err.find("critical: pool 'nested'"), outcome.err.find("over: pool 'nested'")
    assert 0 <= began < over
    report = json.loads(path.read_text())
    (finding,) = findings(report).values()
    assert finding["pattern"] == "deadlock"
    assert finding["since_seconds"] < finding["until_seconds"] < report["duration_seconds"] - 2


def test_a_slow_pool_downstream_is_no_deadlock(tmp_path: Path) -> None:
    script(tmp_path, HEAD + SLOW_BELOW)
    outcome, report = watched("program.py", cwd=tmp_path)
    assert outcome.status == 0
    assert "deadlock" not in {finding["pattern"] for finding in report["findings"]}
    front = findings(report)["front"]
    assert front["cause"] == "downstream_pool"
    assert (front["advice"]["action"], front["advice"]["pool"]) == ("see_pool", "back")
    assert front["advice"]["suggested_max_workers"] is None


IN_PROCESS = """
    import os, threading, time
    import poolscope

    def inner():
        pass

    def hold():
        met.wait()
        return pool.submit(inner).result()

    pool, met = poolscope.ThreadPoolExecutor(2, "nested"), threading.Barrier(2)
    for _ in range(2):
        pool.submit(hold)
    while not (found := [each for each in poolscope.findings() if each.severity == "critical"]):
        time.sleep(0.01)
    print(found[0].pattern, found[0].cause, found[0].advice.pool, found[0].until_seconds, flush=True)
    # Nobody else can end it.
    os._exit(0)
"""


def test_a_program_can_ask_for_it(tmp_path: Path) -> None:
    script(tmp_path, IN_PROCESS)
    with started(sys.executable, "program.py", cwd=tmp_path) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "deadlock nested_wait nested None\n"

"""`poolscope run` of servers with several workers: one report for all of them, whatever becomes of each."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from cli_support import await_true
from multiprocess_support import Service, runs, service

GUNICORN = (
    "gunicorn",
    "--bind=127.0.0.1:PORT",
    "--workers=2",
    "--log-level=warning",
    "--no-control-socket",
    "app:wsgi",
)
UVICORN = ("uvicorn", "--port=PORT", "--workers=2", "--log-level=warning", "app:asgi")


def tasks(report: dict[str, Any]) -> dict[int, int]:
    """How many tasks the pool of each process has done."""
    assert {pool["name"] for pool in report["pools"]} <= {"web"}
    assert all(pool["tasks"]["submitted"] == pool["tasks"]["succeeded"] for pool in report["pools"])
    return {pool["pid"]: pool["tasks"]["succeeded"] for pool in report["pools"]}


def child(pid: int) -> int:
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


def check(server: Service, path: Path, workers: set[int]) -> str:
    """Ends the server, whose processes are all in the report, with each task of those that were not killed."""
    parent = child(server.process.pid)
    written = server.end()
    report = json.loads(path.read_text())
    by_pid = {process["pid"]: process for process in report["processes"]}
    assert workers <= by_pid.keys()
    assert {by_pid[pid]["parent"] for pid in workers} == {parent}
    assert all(process["ended_seconds"] is not None for process in report["processes"])
    assert by_pid[parent]["exit_code"] == report["exit_code"] == 0
    done = tasks(report)
    assert workers <= done.keys()
    assert sum(done.values()) == server.requests
    assert report["notices"] == []
    return written


@pytest.mark.parametrize("words", [GUNICORN, UVICORN], ids=["gunicorn", "uvicorn"])
def test_a_worker_is_killed(tmp_path: Path, words: tuple[str, ...]) -> None:
    path = tmp_path / "report.json"
    with service(tmp_path, *words, report=path) as server:
        first = server.drive(2)
        # What a process did is told every tenth of a second: the last of it may be lost, not what was before.
        server.await_counted()
        server.kill(min(first))
        second = server.drive(2)
        assert min(first) not in second
        written = check(server, path, first | second)
    assert "multi-threaded" not in written
    assert "poolscope" not in written


def test_workers_are_replaced_by_requests_and_by_a_reload(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    with service(tmp_path, *GUNICORN, "--max-requests=5", report=path) as server:
        arbiter = child(server.process.pid)
        seen: set[int] = set()
        while len(seen) < 6:
            seen |= server.drive(2)
        # Our part in the arbiter is no thread.
        assert len(os.listdir(f"/proc/{arbiter}/task")) == 1
        before = {pid for pid in seen if runs(pid)}
        os.kill(arbiter, signal.SIGHUP)
        await_true(lambda: not any(map(runs, before)), "the workers were not replaced")
        seen |= server.drive(2)
        written = check(server, path, seen)
    assert "multi-threaded" not in written
    assert "poolscope" not in written


def test_an_application_that_is_imported_before_the_fork(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    with service(tmp_path, *GUNICORN, "--preload", report=path) as server:
        arbiter = child(server.process.pid)
        seen = server.drive(2)
        assert len(os.listdir(f"/proc/{arbiter}/task")) == 1
        written = check(server, path, seen)
    assert "multi-threaded" not in written

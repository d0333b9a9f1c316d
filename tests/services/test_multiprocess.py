"""Servers with several workers and one endpoint for all of them, without `poolscope run`."""

from __future__ import annotations

import os
import re
import signal
import stat
from pathlib import Path

import pytest
from multiprocess_support import Service, runs, service

GUNICORN = ("gunicorn", "--bind=127.0.0.1:PORT", "--workers=3", "--log-level=warning", "--no-control-socket")
UVICORN = ("uvicorn", "--port=PORT", "--workers=3", "--log-level=warning", "app:asgi")


def kill_each_sort(server: Service) -> None:
    """`kill -9` of who holds the port, and of one who does not."""
    everyone = server.drive(3)
    server.await_shown(3)
    held = server.holder()
    assert held in everyone

    server.kill(held)
    # Its totals stay, its gauges go, and another one tells of it.
    shown = server.await_shown(2)
    assert server.holder() != held
    assert shown.value("poolscope_pool_tasks_finished_total", pool="web", outcome="succeeded") == server.requests

    everyone = server.drive(3)  # the server has started another worker
    server.await_shown(3)
    other = next(pid for pid in everyone if pid != server.holder())
    before = server.holder()
    server.kill(other)
    server.await_shown(2)
    assert server.holder() == before


def test_gunicorn(tmp_path: Path) -> None:
    with service(tmp_path, *GUNICORN, "app:wsgi") as server:
        kill_each_sort(server)
        (folder,) = server.home.iterdir()
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir() if path.is_file()} == {0o600}
        server.drive(3)
        server.await_shown(3)
        written = server.end()
        assert server.left_behind() == []
    assert "multi-threaded" not in written
    assert "poolscope" not in written


def test_gunicorn_with_threads(tmp_path: Path) -> None:
    with service(tmp_path, *GUNICORN, "--worker-class=gthread", "--threads=2", "app:wsgi") as server:
        server.drive(3)
        server.await_shown(3)
        server.end()
        assert server.left_behind() == []


def test_gunicorn_that_imports_the_application_before_it_forks(tmp_path: Path) -> None:
    """It has called `serve()` then: no thread of ours in it, no port, and no part in the rest."""
    with service(tmp_path, *GUNICORN, "--preload", "app:wsgi", serve=True) as server:
        everyone = server.drive(3)
        server.await_shown(3)
        parent = server.process.pid
        assert len(os.listdir(f"/proc/{parent}/task")) == 1
        assert server.holder() in everyone
        server.kill(server.holder())
        server.await_shown(2)
        server.drive(3)
        server.await_shown(3)
        assert len(os.listdir(f"/proc/{parent}/task")) == 1
        written = server.end()
        assert server.left_behind() == []
    assert "multi-threaded" not in written
    assert "poolscope" not in written


def test_gunicorn_that_replaces_its_workers(tmp_path: Path) -> None:
    with service(tmp_path, *GUNICORN, "--max-requests=20", "app:wsgi") as server:
        seen: set[int] = set()
        while len(seen) < 12:
            seen |= server.drive(3)
            server.scrape()
        server.await_counted()
        (folder,) = server.home.iterdir()
        assert len(list(folder.iterdir())) < 12  # not a file for each
        server.end()
        assert server.left_behind() == []


@pytest.mark.parametrize("serve", [False, True])
def test_uvicorn(tmp_path: Path, serve: bool) -> None:
    with service(tmp_path, *UVICORN, serve=serve) as server:
        kill_each_sort(server)
        written = server.end()
        # It listens until its workers have ended, as if others were to follow: so their counts stay for those.
        left = {re.sub(r"[0-9]+\.[0-9]+", "X", os.path.basename(path)) for path in server.left_behind()[1:]}
        assert left <= {"X.told", "dead", "lock"}
        assert sum(path.stat().st_size for path in server.home.rglob("*") if path.is_file()) < (3 + 1) * 2048
    assert "poolscope" not in written


@pytest.mark.parametrize("serve", [False, True])
def test_uvicorn_without_other_workers_leaves_nothing(tmp_path: Path, serve: bool) -> None:
    with service(tmp_path, "uvicorn", "--port=PORT", "--log-level=warning", "app:asgi", serve=serve) as server:
        server.drive(1)
        server.await_shown(1)
        written = server.end()
        assert server.process.returncode == -signal.SIGTERM
        assert server.left_behind() == []
    assert "poolscope" not in written


def test_what_killed_servers_left_is_removed_by_the_next(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    with service(tmp_path / "one", *GUNICORN, "app:wsgi") as server:
        everyone = server.drive(3)
        server.await_shown(3)
        server.process.kill()
        for pid in everyone:
            server.kill(pid)
        assert server.left_behind() != []
        with service(tmp_path / "two", *GUNICORN, "app:wsgi", TMPDIR=str(server.short)) as other:
            other.drive(3)
            other.await_shown(3)
            assert len(list(server.home.iterdir())) == 1
            other.end()
        assert server.left_behind() == []
    assert not any(runs(pid) for pid in everyone)

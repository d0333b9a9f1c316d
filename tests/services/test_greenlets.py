"""gevent and eventlet, which put greenlets in the place of threads: before us, after us, and never."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cli_support import python, same_as_without, script, watched
from multiprocess_support import service

FIRST = {
    "gevent": "from gevent import monkey; monkey.patch_all()",
    "eventlet": "import warnings; warnings.simplefilter('ignore'); import eventlet; eventlet.monkey_patch()",
}

POOL = """
import time
from concurrent.futures import ThreadPoolExecutor

def work(number):
    time.sleep(0.01)
    return number

def run(name):
    with ThreadPoolExecutor(4, thread_name_prefix=name) as pool:
        print(sum(pool.map(work, range(40))))
"""


def counts(report: dict[str, Any]) -> dict[str, tuple[int, int]]:
    return {pool["name"]: (pool["tasks"]["succeeded"], pool["peak_active"]) for pool in report["pools"]}


@pytest.mark.parametrize("library", FIRST)
def test_patched_first(tmp_path: Path, library: str) -> None:
    # For so long that it is looked at what the full pool's workers wait for.
    script(tmp_path, FIRST[library] + POOL.replace("0.01", "0.1") + "\nrun('first')\n")
    assert same_as_without("program.py", cwd=tmp_path).out == "780\n"
    report = json.loads((tmp_path / "report.json").read_text())
    assert counts(report) == {"first": (40, 4)}
    assert report["notices"] == []


def test_patched_late(tmp_path: Path) -> None:
    script(tmp_path, POOL + "\nrun('early')\n" + FIRST["gevent"] + "\nrun('late')\n")
    assert same_as_without("program.py", cwd=tmp_path).out == "780\n780\n"
    found = counts(json.loads((tmp_path / "report.json").read_text()))
    assert {name: done for name, (done, _) in found.items()} == {"early": 40, "late": 40}


@pytest.mark.parametrize("library", FIRST)
def test_our_thread_is_one_of_the_system(tmp_path: Path, library: str) -> None:
    """It must go on while a task lets no other greenlet run."""
    script(tmp_path, FIRST[library] + POOL + "\nrun('first')\nimport os; print(len(os.listdir('/proc/self/task')))\n")
    assert python("program.py", cwd=tmp_path).out == "780\n1\n"
    assert watched("program.py", cwd=tmp_path)[0].out == "780\n2\n"


def test_the_executor_of_gevent_is_not_seen_and_that_is_said(tmp_path: Path) -> None:
    text = """
        from gevent.threadpool import ThreadPoolExecutor
        with ThreadPoolExecutor(3) as pool:
            print(sum(pool.map(int, range(10))))
        """
    script(tmp_path, text)
    outcome, report = watched("program.py", cwd=tmp_path)
    assert outcome == (0, "45\n", "")
    assert report["pools"] == []
    (notice,) = report["notices"]
    assert "gevent.threadpool.ThreadPoolExecutor" in notice
    script(tmp_path, "import poolscope; poolscope.install()\n" + text.replace("\n        ", "\n"))
    assert python("program.py", cwd=tmp_path) == (0, "45\n", notice + "\n")


@pytest.mark.parametrize("library", FIRST)
@pytest.mark.parametrize("first", [True, False], ids=["before", "after"])
def test_the_drop_in_executor_and_its_endpoint(tmp_path: Path, library: str, first: bool) -> None:
    text = """
        {0}
        import time, urllib.request
        import poolscope
        {1}
        with poolscope.serve("127.0.0.1:0") as server, poolscope.ThreadPoolExecutor(2, name="own") as pool:
            print(sum(pool.map(int, range(40))))
            # Without a turn for the greenlets: the answer comes from a thread of its own.
            text = urllib.request.urlopen(server.url + "/metrics", timeout=30).read().decode()
            print([line for line in text.splitlines() if "submitted_total{{" in line])
        print(poolscope.report().pools[0].tasks.succeeded)
        """
    patch = FIRST[library]
    script(tmp_path, text.format(patch if first else "", "" if first else patch))
    shown = "['poolscope_pool_tasks_submitted_total{pool=\"own\"} 40.0']"
    # Of a lock of the interpreter's own eventlet complains on 3.15, with and without us.
    said = python("-c", patch, cwd=tmp_path).err
    assert python("program.py", cwd=tmp_path) == (0, f"780\n{shown}\n40\n", said)


def test_gunicorn_with_gevent_has_one_endpoint(tmp_path: Path) -> None:
    words = ("gunicorn", "--bind=127.0.0.1:PORT", "--workers=2", "--worker-class=gevent", "--log-level=warning")
    with service(tmp_path, *words, "--no-control-socket", "app:wsgi") as server:
        server.drive(2)
        server.await_shown(2)
        server.kill(server.holder())
        server.await_shown(1)
        written = server.end()
        assert server.left_behind() == []
    assert "poolscope" not in written
    assert "Exception" not in written


def test_gunicorn_with_gevent_under_run(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    words = ("gunicorn", "--bind=127.0.0.1:PORT", "--workers=2", "--worker-class=gevent", "--log-level=warning")
    with service(tmp_path, *words, "--no-control-socket", "app:wsgi", report=path) as server:
        pids = server.drive(2)
        server.await_counted()
        server.end()
        report = json.loads(path.read_text())
        assert {pool["pid"] for pool in report["pools"]} == pids
        assert sum(pool["tasks"]["succeeded"] for pool in report["pools"]) == server.requests

"""A parent that is stopped or slow: the program never waits for it, its memory stays bounded, and no task is lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from cli_support import await_true, environment, line, script, started

#: Submits so many tasks once it may, says when all are done, and how much more memory it has then, in KiB; ends when it
#: may.
PROGRAM = """
    import os, resource, sys, time
    if sys.argv[1] == "drop-in":
        from poolscope import ThreadPoolExecutor
    else:
        from concurrent.futures import ThreadPoolExecutor

    def nothing():
        pass

    def run(pool, count):
        while count > 0:
            futures = [pool.submit(nothing) for _ in range(min(count, 1000))]
            for future in futures:
                future.result()
            count -= len(futures)

    def wait(name):
        while not os.path.exists(name):
            time.sleep(0.01)

    with ThreadPoolExecutor(2, thread_name_prefix="flood") as pool:
        run(pool, 1000)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        # On its way to the parent before that is stopped.
        assert sys.modules["poolscope.probe.runtime"].current().flush()
        print("ready", flush=True)
        wait("go")
        run(pool, int(sys.argv[2]))
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, flush=True)
        wait("end")
        run(pool, 1000)
    """

KINDS = ("drop-in", "standard")


@contextmanager
def flooding(folder: Path, kind: str, tasks: int) -> Iterator[subprocess.Popen[str]]:
    """The program, ready, under a parent that is stopped."""
    script(folder, PROGRAM)
    words = ("-m", "poolscope", "run", "--quiet", "--json", "report.json", "program.py", kind, str(tasks))
    with started(sys.executable, *words, cwd=folder, env=environment()) as process:
        assert line(process) == "ready"
        stop(process)
        (folder / "go").touch()
        yield process


def stop(process: subprocess.Popen[str]) -> None:
    os.kill(process.pid, signal.SIGSTOP)
    await_true(lambda: state(process.pid) == "T", "it was not stopped")


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def program_of(process: subprocess.Popen[str]) -> int:
    [child] = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return int(child)


def end(folder: Path, process: subprocess.Popen[str]) -> dict[str, Any]:
    os.kill(process.pid, signal.SIGCONT)
    (folder / "end").touch()
    assert process.wait(60) == 0
    report: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return report


def counts(report: dict[str, Any]) -> dict[str, int]:
    [pool] = report["pools"]
    tasks: dict[str, int] = pool["tasks"]
    assert sum(function["started"] for function in pool["functions"]) == tasks["started"]
    return tasks


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_stopped_parent_has_missed_it_is_told_task_by_task(tmp_path: Path, kind: str) -> None:
    with flooding(tmp_path, kind, 20_000) as process:
        line(process)
        report = end(tmp_path, process)
    tasks = counts(report)
    assert tasks["submitted"] == tasks["started"] == tasks["succeeded"] == 22_000
    assert report["notices"] == []


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_too_much_for_that_is_counted(tmp_path: Path, kind: str) -> None:
    with flooding(tmp_path, kind, 200_000) as process:
        grown = int(line(process))
        report = end(tmp_path, process)
    tasks = counts(report)
    assert tasks["submitted"] == tasks["started"] == tasks["succeeded"] == 202_000
    [notice] = report["notices"]
    number = int(notice.split()[0].replace(",", ""))
    assert 0 < number < 100_000
    assert "came faster than they could be taken in one by one (pools 'flood')" in notice
    assert grown < 50_000


def test_a_program_ends_under_a_stopped_parent_and_that_is_said(tmp_path: Path) -> None:
    with flooding(tmp_path, "drop-in", 400_000) as process:
        line(process)
        (tmp_path / "end").touch()
        program = program_of(process)
        await_true(lambda: state(program) == "Z", "it did not end")
        report = end(tmp_path, process)
    assert 0 < counts(report)["submitted"] < 402_000
    [notice] = report["notices"]
    assert "ended without a word (by os._exit(), or what it had to say could not be sent in time)" in notice


def test_a_parent_that_is_stopped_for_a_while_at_the_end_is_waited_for(tmp_path: Path) -> None:
    with flooding(tmp_path, "drop-in", 100_000) as process:
        line(process)
        program = program_of(process)
        (tmp_path / "end").touch()
        # In the last wait its main thread is in a call of the system, and no task is left to run.
        await_true(lambda: ended(program), "it does not wait")
        assert state(program) != "Z"
        report = end(tmp_path, process)
    assert counts(report)["submitted"] == 102_000
    assert report["notices"] == []


def ended(pid: int) -> bool:
    """Whether all threads but the main one have ended."""
    return len(os.listdir(f"/proc/{pid}/task")) == 1


def test_a_parent_that_goes_away_leaves_the_program_alone(tmp_path: Path) -> None:
    with flooding(tmp_path, "drop-in", 100_000) as process:
        line(process)
        program = program_of(process)
        process.kill()
        process.wait()
        (tmp_path / "end").touch()
        await_true(lambda: not Path(f"/proc/{program}").exists() or state(program) == "Z", "it did not end")

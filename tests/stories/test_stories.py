"""The five stories of `poolscope demo`, each a real program under `poolscope run`: verdict, cause, line, knee, size.

The runs spend their time asleep, so all of them run at once.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from heapq import heapify, heapreplace
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
Outcome = tuple[subprocess.CompletedProcess[str], dict[str, Any]]


def run(folder: Path, program: str, *options: str) -> Outcome:
    report = folder / f"{program}{len(options)}.json"
    command = [
        sys.executable,
        "-m",
        "poolscope",
        "run",
        "--json",
        str(report),
        *options,
        str(EXAMPLES / program),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False, cwd=folder)
    return done, json.loads(report.read_text())


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[Outcome]]]:
    folder = tmp_path_factory.mktemp("stories")
    with ThreadPoolExecutor(5) as pool:
        yield {
            "overlap": pool.submit(run, folder, "overlap.py"),
            "blocking-call": pool.submit(run, folder, "blocking_call.py"),
            "hard-limit": pool.submit(run, folder, "hard_limit.py"),
            "in-turn": pool.submit(run, folder, "in_turn.py"),
            "gate": pool.submit(run, folder, "gate.py"),
        }


def line_of(program: str, text: str) -> int:
    lines = (EXAMPLES / program).read_text().splitlines()
    return 1 + next(number for number, line in enumerate(lines) if text in line)


def true_knee() -> float:
    """From the program's own schedule, first come, first served on its workers: when the first task had to wait
    that begins the long saturation; in seconds from its first submission."""
    printed = subprocess.run(
        [sys.executable, str(EXAMPLES / "hard_limit.py"), "--schedule"],
        capture_output=True,
        text=True,
        check=True,
    )
    due = [float(line) for line in printed.stdout.split()]
    free = [0.0] * 4
    heapify(free)
    for at in due:
        start = max(at, free[0])
        heapreplace(free, start + 0.2)
        if start > at:
            return at - due[0]
    raise AssertionError("the schedule never fills the pool")


def test_overlap_is_concurrent(runs: dict[str, Future[Outcome]]) -> None:
    done, report = runs["overlap"].result()
    assert (done.returncode, done.stdout) == (0, "fetched first second third\n")
    assert report["verdict"] == "concurrent"
    assert report["findings"] == []
    assert report["duration_seconds"] >= 2.9, "three seconds of waiting are three seconds"
    (loop,) = report["event_loops"]
    assert (loop["kind"], loop["blocked_seconds"]) == ("asyncio", 0.0)
    assert loop["peak_tasks"] >= 3


def test_a_blocking_call_is_found_at_its_line(runs: dict[str, Future[Outcome]]) -> None:
    done, report = runs["blocking-call"].result()
    assert (done.returncode, done.stdout) == (0, "fetched first second third\n")
    assert report["verdict"] == "loop_blocked"
    finding = report["findings"][0]
    assert (finding["pattern"], finding["cause"], finding["severity"]) == (
        "loop_blocked",
        "blocking_call",
        "warning",
    )
    frame = finding["frames"][0]
    assert Path(frame["file"]).name == "blocking_call.py"
    assert frame["line"] == line_of("blocking_call.py", "time.sleep(seconds)")
    assert (frame["function"], frame["source"]) == ("fetch", "time.sleep(seconds)")
    assert finding["advice"]["action"] == "await_instead"
    (loop,) = report["event_loops"]
    assert loop["blocked_seconds"] == pytest.approx(6, abs=0.5)
    assert loop["longest_block_seconds"] == pytest.approx(3, abs=0.5)
    assert "warning: loop" in done.stderr, "it is told while the program runs"


def test_a_hard_limit_turns_a_program_serial_and_the_suggested_size_ends_it(
    runs: dict[str, Future[Outcome]], tmp_path: Path
) -> None:
    done, report = runs["hard-limit"].result()
    assert (done.returncode, done.stdout) == (0, "fetched 174 pages\n")
    assert report["verdict"] == "async_then_serial"
    (pool,) = report["pools"]
    assert (pool["name"], pool["max_workers"]) == ("crawler", 4)
    assert pool["tasks"] == {
        "submitted": 174, "started": 174, "succeeded": 174, "failed": 0, "cancelled": 0, "rejected": 0
    }  # fmt: skip
    (finding,) = (finding for finding in report["findings"] if finding["severity"] != "info")
    assert (finding["pattern"], finding["cause"]) == ("async_then_serial", "blocking_io")
    assert finding["since_seconds"] == pytest.approx(pool["first_submit_seconds"] + true_knee(), abs=0.5)
    assert finding["detected_after_seconds"] <= 2.0
    frame = finding["frames"][0]
    assert (Path(frame["file"]).name, frame["line"]) == (
        "hard_limit.py",
        line_of("hard_limit.py", "time.sleep(TASK_SECONDS)"),
    )
    assert frame["share"] > 0.9
    suggested = finding["advice"]["suggested_max_workers"]
    assert finding["advice"]["action"] == "raise_max_workers"
    assert suggested in [point["workers"] for point in pool["sizing"]]

    again, better = run(tmp_path, "hard_limit.py", "--set", f"crawler.max_workers={suggested}")
    assert again.stdout == done.stdout
    assert better["verdict"] == "concurrent"
    assert better["pools"][0]["max_workers"] == suggested


def test_what_is_awaited_in_turn_is_the_verdict(runs: dict[str, Future[Outcome]]) -> None:
    done, report = runs["in-turn"].result()
    assert (done.returncode, done.stdout) == (0, "fetched 16 pages\n")
    assert report["verdict"] == "not_concurrent"
    (finding,) = report["findings"]
    assert (finding["cause"], finding["severity"]) == ("awaited_in_turn", "info")
    assert finding["frames"][0]["line"] == line_of("in_turn.py", "await fetch(number)")
    assert finding["advice"]["action"] == "overlap"
    assert finding["evidence"]["turns"] == pytest.approx(16, abs=1)
    assert (loop := report["event_loops"][0])["findings"] == [finding]
    assert loop["blocked_seconds"] == 0
    assert "NOT CONCURRENT" in done.stderr


def test_a_gate_is_a_semaphore_and_then_a_lock(runs: dict[str, Future[Outcome]]) -> None:
    done, report = runs["gate"].result()
    assert (done.returncode, done.stdout) == (0, "stored 150 answers\n")
    pools = {pool["kind"]: pool for pool in report["pools"]}
    for kind, cause, text in (
        ("semaphore", "limit_reached", "async with gate"),
        ("lock", "held_across_wait", "async with lock"),
    ):
        (finding,) = (finding for finding in pools[kind]["findings"] if finding["severity"] != "info")
        assert finding["cause"] == cause
        assert line_of("gate.py", text) in [frame["line"] for frame in finding["frames"]]
    assert pools["semaphore"]["concurrency"] == {"mean": pytest.approx(3, abs=0.3), "peak": 3}

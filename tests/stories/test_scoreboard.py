"""The scoreboard of the diagnosis: a few labelled programs and traces end to end, and the truth it compares with."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.diagnosis import programs, scores, truth  # noqa: E402 - beside the tests, not installed
from benchmarks.diagnosis.recording import Expected  # noqa: E402

SECOND = 1_000_000_000
Log = list[tuple[int, int | None, int | None, int | None]]


def first_come_first_served(workers: int, load: list[tuple[float, float]]) -> Log:
    free = [0] * workers
    tasks: Log = []
    for submitted, run in load:
        at = int(submitted * SECOND)
        start = max(at, min(free))
        free[free.index(min(free))] = start + int(run * SECOND)
        tasks.append((at, start, start + int(run * SECOND), None))
    return tasks


def test_the_truth_of_a_log_that_turns_serial() -> None:
    # One task a second for ten seconds, then twenty at once: two workers need 10 s for them.
    load = [(float(at), 0.5) for at in range(10)] * 3 + [(10.0, 1.0)] * 20
    tasks = first_come_first_served(2, sorted(load))
    [*_, long] = truth.stretches(2, tasks)
    assert (long.begin, long.end) == (10 * SECOND, 19 * SECOND)
    [trouble], _ = truth.troubles(2, tasks)
    assert (trouble.knee, trouble.patterns) == (10 * SECOND, ("async_then_serial",))
    assert 11 * SECOND <= trouble.due <= 13 * SECOND
    assert truth.needed_workers(tasks) == 20


def test_a_cancelled_task_fills_nothing() -> None:
    tasks: Log = [(0, 0, 9 * SECOND, None), (1, None, None, 2)]
    assert truth.stretches(1, tasks) == [(1, 2)]
    assert truth.troubles(1, tasks) == ([], False)


def test_at_least_sixty_workloads_of_distinct_names() -> None:
    # With two seeds and more of each.
    assert len(programs.FAMILIES) >= 30
    positive = [family for family in programs.FAMILIES.values() if any(each.pattern for each in family.expected)]
    assert 10 <= len(positive) <= len(programs.FAMILIES) - 10


@pytest.mark.skipif(sys.platform != "linux", reason="the logs and the reports share the monotonic clock of Linux")
def test_a_board_of_a_few(tmp_path: Path) -> None:
    record, page = tmp_path / "record.json", tmp_path / "page.md"
    page.write_text("before\n<!-- board -->\nof yesterday\n<!-- end of the board -->\nafter\n")
    names = ["healthy_fixed", "batch", "one_worker", "loop_sleeps"]
    command = [
        sys.executable,
        "-m",
        "benchmarks.diagnosis",
        "--seeds",
        "1",
        "--jobs",
        "4",
        "--families",
        ",".join(names),
    ]
    command += ["--json", str(record), "--docs", str(page), "--simulated", "14"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False, cwd=ROOT, env=os.environ)
    assert (done.returncode, done.stderr) == (0, "")
    results: dict[str, Any] = json.loads(record.read_text())["results"]
    assert results["programs"]["board"]["subjects"] == 4
    assert results["programs"]["board"]["recall"] == {"of": 3, "share": 1.0}
    assert results["programs"]["board"]["false alarms"] == 0
    assert results["simulated"]["board"]["subjects"] == 14
    text = page.read_text()
    assert text.startswith("before\n<!-- board -->\n")
    assert text.endswith("<!-- end of the board -->\nafter\n")
    assert "yesterday" not in text
    assert "recall" in text


def test_a_finding_beside_the_right_one_is_told() -> None:
    subject = scores.Subject("family", 1, "pool", seconds=10.0)
    right = {"pattern": "stalled", "cause": "stuck_tasks", "severity": "critical", "since_seconds": 2.0}
    right |= {"until_seconds": 9.0, "detected_after_seconds": 1.0, "marked": "hang"}
    right |= {"advice": {"action": "add_timeout", "suggested_max_workers": None}}
    subject.findings = [right, right | {"pattern": "serial", "until_seconds": 9.5}]
    assert subject.misses() == [
        f"false alarm: {name} (stuck_tasks, critical) at 2.0 s" for name in ("stalled", "serial")
    ]
    expected = Expected("pool", "stalled", "stuck_tasks", line="hang", action="add_timeout")
    subject.label(expected, ("stalled",), False, (2.0,), 2.5)
    assert subject.misses() == ["beside it: serial (stuck_tasks, critical) at 2.0 s"]
    assert (subject.found, subject.knee_error, subject.delay) == (True, 0.0, 0.5)

"""Each benchmark runs, at sizes that measure nothing: the table that it prints and the record that it writes.

No figure is compared with another one here, but bytes, which no other program disturbs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
POOLSCOPE = ["standard", "standard again", "drop-in", "drop-in judged", "drop-in recording off", "patched"]
PEERS = ["executor-exporter", "opentelemetry threading", "prometheus_client by hand"]
WORKLOADS = ["batch", "map", "callbacks", "producers", "ping-pong"]


def run(folder: Path, name: str, *options: str, **environment: str) -> tuple[list[list[str]], dict[str, Any]]:
    """The cells of the tables that are printed, and the record."""
    record = folder / "record.json"
    command = [sys.executable, str(BENCHMARKS / f"{name}.py"), *options, "--json", str(record)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=100, check=False, env=os.environ | environment
    )
    assert (done.returncode, done.stderr) == (0, "")
    lines = [line for line in done.stdout.splitlines() if line.startswith("|") and "---" not in line]
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    content = json.loads(record.read_text())
    assert content["benchmark"] == name
    assert content["machine"]["cpus"] >= 1
    assert content["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    return table, content


@pytest.mark.parametrize("options", [[], ["--cpu", "--drained", "--pinned"]])
def test_the_ratios_of_each_contestant_and_workload(tmp_path: Path, options: list[str]) -> None:
    sizes = ["--repeat", "2", "--tasks", "40", "--workers", "1,4", "--workload", ",".join(WORKLOADS)]
    table, record = run(tmp_path, "overhead", *sizes, *options)
    rows = [*POOLSCOPE, *PEERS, "recording alone"]
    assert [row[0] for row in table] == ["", *rows] * 2
    assert table[0][1:] == WORKLOADS
    assert all(all(row[1:]) for row in table)
    assert [(row["workload"], row["workers"]) for row in record["results"]] == [
        (name, workers) for workers in (1, 4) for name in WORKLOADS
    ]
    for result in record["results"]:
        assert set(result["samples_ns_per_task"]) | set(result["failed"]) == {*POOLSCOPE, *PEERS}
        assert set(POOLSCOPE) <= set(result["samples_ns_per_task"])
        assert all(len(samples) == 2 for samples in result["samples_ns_per_task"].values())
        spreads = [*result["ratios"].values(), result["recording_us_per_task"]]
        assert all(set(spread) == {"min", "median", "max"} for spread in spreads)
    assert set(record["options"]) >= {"repeat", "tasks", "cpu", "drained"}


@pytest.mark.parametrize("options", [[], ["--cpu"]])
def test_the_ratios_of_each_family_without_a_drop_in(tmp_path: Path, options: list[str]) -> None:
    table, record = run(tmp_path, "otherpools", "--repeat", "2", "--tasks", "40", *options)
    families = ["concurrent.futures.ProcessPoolExecutor", "multiprocessing.Pool", "multiprocessing.pool.ThreadPool"]
    assert [row[0] for row in table] == ["", *families]
    assert table[0][1:] == ["standard", "standard again", "watched"]
    assert [result["family"] for result in record["results"]] == families
    for result in record["results"]:
        assert set(result["ratios"]) == {"standard again", "watched"}
        assert all(len(samples) == 2 for samples in result["samples_ns_per_task"].values())


def test_a_peer_that_is_missing_or_fails_says_so(tmp_path: Path) -> None:
    site = tmp_path / "site"
    package = site / "executor_exporter"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(
        "from concurrent import futures\n"
        "class ThreadPoolExecutor(futures.ThreadPoolExecutor):\n"
        "    def map(self, *_): raise TypeError\n"
    )
    (site / "opentelemetry.py").write_text("raise ImportError\n")
    sizes = ["--repeat", "2", "--tasks", "40", "--workers", "1", "--workload", "batch,map"]
    chosen = ["--contestants", "executor-exporter,opentelemetry threading"]
    table, record = run(tmp_path, "overhead", *sizes, *chosen, PYTHONPATH=str(site))
    rows = {row[0]: row[1:] for row in table}
    assert ".." in rows["executor-exporter"][0]
    assert rows["executor-exporter"][1] == "fails: TypeError"
    assert rows["opentelemetry threading"] == ["not installed"] * 2
    assert [result["failed"] for result in record["results"]] == [
        {"opentelemetry threading": "not installed"},
        {"executor-exporter": "fails: TypeError", "opentelemetry threading": "not installed"},
    ]


def test_the_bytes_of_a_queued_task(tmp_path: Path) -> None:
    table, record = run(tmp_path, "memory", "--tasks", "3000")
    assert table[0][1:] == ["resident bytes a task", "ratio", "traced bytes a task", "ratio"]
    assert [row[0] for row in table[1:]] == ["standard", "drop-in", "drop-in judged", "patched"]
    assert record["results"]["standard"]["traced"] > record["results"]["drop-in"]["traced"] > 0


@pytest.mark.skipif(sys.platform != "linux", reason="reads the clock of a thread, as Linux numbers them")
def test_the_share_of_a_core_while_nothing_is_submitted(tmp_path: Path) -> None:
    table, record = run(tmp_path, "idle", "--pools", "0,2", "--workers", "2", "--seconds", "0.15")
    columns = ["idle, recorded", "idle, judged", "busy, recorded", "busy, judged"]
    assert table[0] == ["pools", *columns]
    assert [row[0] for row in table[1:]] == ["0", "2"]
    for row in record["results"]:
        assert list(row["share"]) == columns
        assert all(share >= 0 for share in row["share"].values())


def test_the_cost_of_a_replay(tmp_path: Path) -> None:
    table, record = run(tmp_path, "whatif", "--tasks", "2000", "--repeat", "1")
    assert table[0] == ["load", "sizes", "read", "replay", "suggest"]
    assert {row[1] for row in table[1:]} == {"32"}
    assert record["results"].pop("command_seconds") > 0
    assert [row[0] for row in table[1:]] == list(record["results"])


def test_the_suggested_size_against_reality(tmp_path: Path) -> None:
    table, record = run(tmp_path, "sizing", "--workloads", "closed: growing")
    assert len(table[0]) == len(table[1]) == 9
    assert table[1][2] == "none"
    assert list(record["results"]) == ["closed: growing"]


def test_what_folding_costs(tmp_path: Path) -> None:
    table, record = run(tmp_path, "fold", "--tasks", "20000", "--repeat", "2", "--only", "storm")
    assert [row[0] for row in table] == ["", "storm"]
    assert len(record["results"]["storm"]) == 2


def test_what_grows(tmp_path: Path) -> None:
    table, record = run(tmp_path, "growth", "--sizes", "1,2", "--repeat", "2", "--tasks", "40", "--workers", "1")
    dimensions = ["functions", "open pools", "dropped pools", "finished tasks"]
    cases = [(dimension, size) for dimension in dimensions for size in (1, 2)]
    assert [(row["dimension"], row["size"]) for row in record["results"]] == cases
    assert len(table) == 1 + len(cases)
    assert all(len(row) == 5 and all(row) for row in table[1:])
    for row in record["results"]:
        assert set(row["samples"]) == {"standard_us", "drop_in_us", "empty_reading_ms"}
        assert all(len(samples) == 2 for samples in row["samples"].values())


def test_a_scrape_beside_the_library_s_own_metrics(tmp_path: Path) -> None:
    sizes = ["--pools", "1,3", "--functions", "60", "--held", "2", "--repeat", "2", "--seconds", "0.02"]
    table, record = run(tmp_path, "scrape", *sizes)
    names = ["1 pool", "3 pools", "60 functions", "60 functions at work", "2 pools held up"]
    assert [row[0] for row in table] == ["", *names, "round trip, us", *names]
    assert [row["case"] for row in record["results"]] == names
    for row in record["results"]:
        # As many lines as there are of ours: the comparison is of equals.
        assert row["their_lines"] == row["lines"]
        assert all(len(samples) == 2 for samples in row["milliseconds"].values())
        assert row["bytes"] > 1000


def test_no_task_of_a_flood_is_lost(tmp_path: Path) -> None:
    table, record = run(tmp_path, "flood", "--seconds", "1", "--stop", "0.5")
    assert table[0] == ["", "tasks", "lost", "by number", "program, MiB", "parent, MiB", "CPU", "end"]
    assert [row[0] for row in table[1:]] == ["drop-in", "patched", "in process"]
    assert {row[2] for row in table[1:]} == {"0"}
    for samples in record["results"].values():
        [sample] = samples
        assert sample["lost"] == sample["status"] == 0
        assert sample["tasks"] >= 2000
        assert len(sample["memory_mib"]["program"]) == 9


def test_the_ratios_beside_the_stored_ones(tmp_path: Path) -> None:
    """A report, whatever is measured: the status is 0, and all is shown."""
    baseline = tmp_path / "baseline.json"
    words = [sys.executable, BENCHMARKS / "compare.py", "--repeat", "2", "--tasks", "40", "--baseline", baseline]

    def table(*options: str) -> list[list[str]]:
        command = [*map(str, words), *options]
        done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        lines = [line for line in done.stdout.splitlines() if line.startswith("|") and "---" not in line]
        return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]

    head, *rows = table("--write")
    assert head == ["workload", "executor", "now", "stored", "now / stored"]
    assert {tuple(row[3:]) for row in rows} == {("none", "")}
    [(version, stored)] = json.loads(baseline.read_text()).items()
    assert version == "{}.{}".format(*sys.version_info)
    assert [(row[0], row[1]) for row in rows] == [(workload, name) for workload in stored for name in stored[workload]]
    stored["batch"]["patched"] = 1000.0
    baseline.write_text(json.dumps({version: stored}))
    assert {row[3] for row in table() if row[:2] == ["batch", "patched"]} == {"1000.00"}

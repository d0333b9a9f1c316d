"""Processes, pools, loops, functions, notices and findings that come and go for ever: a bounded number of rows, and
counters that are true at every scrape. The same as `benchmarks/churn.py`, with bounds that few of them reach."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from poolscope.aggregation import function_sums
from poolscope.engine import ingest, process, self_health, views
from poolscope.metrics import merge

BENCHMARKS = str(Path(__file__).resolve().parents[2] / "benchmarks")
CHILDREN = 250


@pytest.fixture
def churn(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(BENCHMARKS)
    for module in ("common", "churn"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setattr(process, "ENDED_KEPT", 20)
    monkeypatch.setattr(ingest, "ENDED_ROWS_KEPT", 40)
    monkeypatch.setattr(ingest, "ENDED_LOOPS_KEPT", 20)
    monkeypatch.setattr(views, "FINDINGS_TOLD", 50)
    monkeypatch.setattr(self_health, "_NOTICES_KEPT", 20)
    monkeypatch.setattr(self_health, "_PARTS_KEPT", 5)
    monkeypatch.setattr(function_sums.FunctionSums.__init__, "__defaults__", (20,))
    monkeypatch.setattr(merge, "NAMES_KEPT", 40)
    monkeypatch.setattr(merge, "LOOPS_KEPT", 20)
    monkeypatch.setattr(merge, "FUNCTIONS_KEPT", 20)
    monkeypatch.setattr(merge, "PARTS_KEPT", 5)
    made = importlib.import_module("churn")
    yield made
    for module in ("common", "churn"):
        sys.modules.pop(module, None)


def run(churn: ModuleType, home: str, children: int = CHILDREN, scrape_every: int = 7) -> list[dict[str, Any]]:
    rows = list(churn.run(home, children, 0.864, {children // 2, children}, scrape_every))
    assert [row["wrong"] for row in rows] == [[], []]
    return rows


@pytest.mark.slow
@pytest.mark.parametrize(
    ("home", "scrape_every"), [("parent", 2), ("parent", 40), ("process", 3), ("workers", 3), ("workers", 40)]
)
def test_counters_are_true_and_what_is_kept_is_bounded(churn: ModuleType, home: str, scrape_every: int) -> None:
    half, whole = run(churn, home, scrape_every=scrape_every)
    assert whole["rows"] <= 40 + 20 + 2 * 20 + 10
    assert whole["rows"] <= half["rows"] + 12
    assert whole["objects"] <= half["objects"] * 1.1
    assert whole["lines"] <= half["lines"] * 1.1
    assert whole["report kB"] <= half["report kB"] * 1.25
    if home != "workers":
        assert whole["findings"] == 50
        assert whole["notices"] <= 20 + 6
    if home == "parent":
        assert whole["processes"] <= 20 + 2


def test_what_is_folded_is_said_and_adds_up(churn: ModuleType) -> None:
    made = churn.Parent(seconds=0.864, one_process=False)
    for _ in range(CHILDREN):
        made.step()
    report = made.report()
    together = [row for row in report.processes if row.pid == 0]
    assert [row.count for row in together] == [CHILDREN + 1 - (len(report.processes) - 1)]
    assert sum(row.cpu_seconds for row in report.processes) == pytest.approx(CHILDREN * 0.001)
    said = "\n".join(report.notices)
    assert f"{together[0].count} processes that have ended are reported together, as process 0" in said
    assert "names of pools that have ended are one row, 'other', in true totals" in said
    assert "names of event loops that have ended are one row, 'other', in true totals" in said
    assert "findings stand with pools and event loops only" in said
    assert report.processes[0].pid == 300, "the first one is the program"
    shared = [pool for pool in report.pools if pool.name == "web"]
    assert len({pool.pid for pool in shared}) == len(shared)
    (old,) = [pool for pool in shared if pool.pid == 0]
    (other,) = [pool for pool in report.pools if pool.name == "other"]
    assert (
        old.tasks.submitted + sum(pool.tasks.submitted for pool in shared if pool.pid)
        == (made.churn.truth.submitted["web"])
    )
    assert other.tasks.submitted > 0
    assert len(old.functions) <= 21
    assert sum(function.started for function in old.functions) == old.tasks.started
    made.judge.finish(made.churn.now)
    assert made.report().verdict == report.verdict == "async_then_serial"


def test_the_last_report_folds_nothing_that_lived_to_the_end(churn: ModuleType) -> None:
    made = churn.Parent(seconds=0.864, one_process=False)
    for number in range(60):
        made.churn.begin(churn.FIRST + number, 300 + number)
        made.churn.child(churn.FIRST + number, 300 + number)
        made.churn.go_on()
    made.judge.finish(made.churn.now + 9 * churn.SECOND)
    report = made.report()
    assert len(report.processes) == 61
    assert len([pool for pool in report.pools if pool.name == "web"]) == 60
    assert not [notice for notice in report.notices if "processes that have ended" in notice]

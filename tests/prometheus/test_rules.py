"""The recording and alerting rules, judged by the real promtool; and that nothing of them is left untested."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from metrics_support import CONTRACT
from prometheus_support import needed
from rules_support import causes_of_rules

from poolscope.model import PATTERNS
from poolscope.rules import called_not_passed
from poolscope.rules.loop_causes import LOOP_CAUSES
from poolscope.rules.table import CAUSES

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "config" / "prometheus"
TESTS = Path(__file__).parent / "rules"
RUNBOOK = (ROOT / "docs" / "runbook.md").read_text()


def rules(name: str) -> list[dict[str, Any]]:
    """The rules of a shipped file."""
    return [rule for group in yaml.safe_load((SHIPPED / name).read_text())["groups"] for rule in group["rules"]]


def cases(name: str, kind: str) -> list[dict[str, Any]]:
    """What a file of tests asks for."""
    return [case for test in yaml.safe_load((TESTS / name).read_text())["tests"] for case in test.get(kind, ())]


ALERTS = rules("alerts.yml")


@pytest.mark.parametrize("name", ["alerts_test.yml", "recording_test.yml"])
def test_promtool_agrees(name: str) -> None:
    command = [needed("promtool"), "test", "rules", str(TESTS / name)]
    tested = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert tested.returncode == 0, tested.stdout + tested.stderr


@pytest.mark.parametrize("alert", [alert["alert"] for alert in ALERTS])
def test_each_alert_is_seen_to_fire_and_to_be_silent(alert: str) -> None:
    asked = [case for case in cases("alerts_test.yml", "alert_rule_test") if case["alertname"] == alert]
    assert any(case["exp_alerts"] for case in asked)
    assert any(not case["exp_alerts"] for case in asked)


def test_each_recorded_series_is_asked_for() -> None:
    asked = " ".join(case["expr"] for case in cases("recording_test.yml", "promql_expr_test"))
    recorded = {rule["record"] for rule in rules("recording.yml")}
    assert recorded == set(re.findall(r"[a-z_0-9]+:[a-z_0-9]+:[a-z_0-9]+", asked))


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: str(rule["alert"]))
def test_each_alert_says_who_why_where_and_what_to_read(rule: dict[str, Any]) -> None:
    assert rule["for"]
    assert rule["labels"]["severity"] in ("warning", "critical")
    summary = rule["annotations"]["summary"]
    assert "$labels.instance" in summary
    assert re.search(r"\$labels\.(name|pool|loop|part|job) ", summary)
    assert "cause" in summary
    assert re.fullmatch(r"[^.]*\.", summary.replace("$labels.", "").replace("{{ .", "{{ ")), "one sentence"
    path, _, section = rule["annotations"]["runbook_url"].partition("#")
    assert path == "docs/runbook.md"
    assert f"\n## {section}\n" in RUNBOOK


def test_each_finding_above_a_note_has_an_alert() -> None:
    alerted = {found for rule in ALERTS for found in re.findall(r'pattern="(\w+)"', rule["expr"])}
    assert alerted == set(PATTERNS) - {"batch", "burst", "not_concurrent"}


@pytest.mark.parametrize("pattern", PATTERNS)
def test_each_pattern_has_a_section(pattern: str) -> None:
    for part in ("**Means.**", "**Confirm.**", "**Do.**"):
        assert part in section("##", pattern)


def section(level: str, name: str) -> str:
    """What stands in the runbook under this name."""
    _, found, rest = RUNBOOK.partition(f"\n{level} {name}\n")
    assert found, f"docs/runbook.md has no section {level} {name}"
    return re.split(r"\n##+ ", rest)[0]


def test_each_cause_has_a_section_that_says_what_to_do() -> None:
    found = causes_of_rules()
    assert {cause.name for cause in (*CAUSES, *LOOP_CAUSES)} | {called_not_passed.CAUSE} <= found
    for cause in found:
        assert len(section("###", cause).split()) > 10, cause


def test_each_link_of_the_runbook_leads_to_a_section() -> None:
    sections = set(re.findall(r"^##+ (\S+)$", RUNBOOK, re.MULTILINE)) | {"causes"}
    links = set(re.findall(r"\]\(#([^)]+)\)", RUNBOOK))
    assert links <= sections


@pytest.mark.parametrize("path", ["config/prometheus/alerts.yml", "config/prometheus/recording.yml", "docs/runbook.md"])
def test_each_metric_asked_for_is_one_that_poolscope_has(path: str) -> None:
    known = {
        name + suffix
        for name, (kind, _) in CONTRACT.items()
        for suffix in (("_bucket", "_count", "_sum") if kind == "histogram" else ("",))
    }
    # With a selector or in a function: prose and recorded series have none.
    asked = set(re.findall(r"(?<![:\w])(poolscope_\w+)(?=[{\[])|\((poolscope_\w+)\)", (ROOT / path).read_text()))
    assert {name for pair in asked for name in pair if name} <= known
    assert asked


def test_the_benchmark_of_the_rules(tmp_path: Path) -> None:
    """At sizes that measure nothing: that all groups are evaluated on what it backfills, and give something."""
    record = tmp_path / "record.json"
    command = [sys.executable, str(ROOT / "benchmarks" / "rules.py"), "--instances", "1,2", "--pools", "2"]
    command += ["--evaluations", "1", "--every", "1", "--ahead", "100", "--json", str(record)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "| all groups" in done.stdout
    one, two = json.loads(record.read_text())["results"]
    assert len(one["seconds"]) == 7
    assert (two["instances"], two["series"]) == (2, 2 * one["series"])
    # 11 recorded series a pool, 2 of the finding, 2 of the loop. Alerts come with a later evaluation.
    assert one["recorded"] >= 2 * 11 + 2 + 2

"""The rules on pools of any runtime: made of the mappings, and judged by the real promtool."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_support import needed

from poolscope.commands.export import ExportError, export
from poolscope.config import mappings
from poolscope.errors import ConfigError
from poolscope.fleet import known, recording

ROOT = Path(__file__).parents[2]
COMMITTED = ROOT / "config" / "prometheus" / "fleet.yml"
TESTS = Path(__file__).parent / "rules" / "fleet_test.yml"


def all_rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(COMMITTED.read_text())["groups"] for rule in group["rules"]]


def test_what_is_committed_is_what_the_mappings_make(tmp_path: Path) -> None:
    subprocess.run([sys.executable, ROOT / "config" / "build.py", tmp_path / "it.yml"], check=True, timeout=60)
    assert (tmp_path / "it.yml").read_text() == COMMITTED.read_text(), "run python config/build.py"


def test_promtool_agrees() -> None:
    command = [needed("promtool"), "test", "rules", str(TESTS)]
    tested = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_each_recorded_series_and_the_alert_are_asked_for() -> None:
    (asked,) = yaml.safe_load(TESTS.read_text())["tests"]
    queries = " ".join(case["expr"] for case in asked["promql_expr_test"])
    recorded = {rule["record"] for rule in all_rules() if "record" in rule}
    assert recorded == set(re.findall(r"pool:fleet_\w+:\w+", queries))
    (alert,) = (rule for rule in all_rules() if "alert" in rule)
    assert {case["alertname"] for case in asked["alert_rule_test"]} == {alert["alert"]}
    assert [bool(case["exp_alerts"]) for case in asked["alert_rule_test"]] == [False, True]
    path, _, section = alert["annotations"]["runbook_url"].partition("#")
    assert f"\n## {section}\n" in (ROOT / path).read_text()


def test_each_pool_whose_metrics_say_how_full_it_is_has_its_series() -> None:
    named = {rule["labels"]["mapping"] for rule in all_rules() if rule.get("record") == recording.LIMIT}
    for mapping in known.shipped():
        if mapping.tier in ("A", "B", "C") and mapping.kind in ("workers", "connections"):
            # The names of Dropwizard's metrics begin with that of the pool; Vert.x does not show its limit.
            assert (mapping.name in named) == (mapping.name not in ("dropwizard", "vertx")), mapping.name


def test_what_a_user_adds_has_them_too() -> None:
    own = mappings.read(
        {
            "name": "ants",
            "title": "ants pool",
            "runtime": "Go",
            "source": "ours",
            "tier": "B",
            "identity": ["team", "name"],
            "roles": {
                "limit": "ants_capacity",
                "active": {"metric": "ants_running", "also": ["ants_busy"], "where": {"kind": 'a"b'}},
                "queued": {"metric": "ants_waiting_thousands", "scale": 1000},
            },
        }
    )
    group, _ = recording.groups([own])
    exprs = {rule["record"]: rule["expr"] for rule in group["rules"]}
    by = "sum by (namespace, job, instance, pool)"
    assert exprs == {
        recording.ACTIVE: (
            rf'({by} (label_join(ants_running{{kind="a\"b"}} >= 0, "pool", ":", "team", "name"))'
            rf' or {by} (label_join(ants_busy{{kind="a\"b"}} >= 0, "pool", ":", "team", "name")))'
        ),
        recording.LIMIT: f'{by} (label_join(ants_capacity >= 0, "pool", ":", "team", "name"))',
        recording.QUEUED: f'({by} (label_join(ants_waiting_thousands >= 0, "pool", ":", "team", "name")) * 1000)',
    }
    assert group["rules"][0]["labels"] == {"mapping": "ants", "runtime": "Go", "kind": "workers"}


def test_export_makes_rules_of_own_mappings(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(
        "mappings: [{name: ants, title: ants pool, runtime: Go, source: ours, tier: B, pool: ants,"
        " roles: {limit: ants_capacity, active: ants_running, queued: ants_waiting}}]\n"
    )
    assert export("rules", str(tmp_path / "made"), config=str(tmp_path / "own.yaml"))
    made = (tmp_path / "made" / "fleet.yml").read_text()
    assert "ants_running" in made
    assert "executor_active_threads" in made
    checked = subprocess.run([needed("promtool"), "check", "rules", tmp_path / "made" / "fleet.yml"], timeout=60)
    assert checked.returncode == 0
    with pytest.raises(ExportError, match="only rules are made of settings"):
        export("dashboards", str(tmp_path / "made"), config=str(tmp_path / "own.yaml"))
    with pytest.raises(ConfigError, match=r"nowhere\.yaml"):
        export("rules", str(tmp_path / "made"), config=str(tmp_path / "nowhere.yaml"))

"""The dashboards as files: what the code builds, valid by Grafana's own types, laid out, linked and described."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft7Validator

from poolscope.signals import limits

ROOT = Path(__file__).parents[2] / "dashboards"
SHIPPED = ROOT / "grafana"
#: Made by grafana/generate_schema from @grafana/schema.
SCHEMA = Draft7Validator(json.loads((Path(__file__).parent / "grafana" / "dashboard.schema.json").read_text()))
NAMES = ["overview", "pool", "loops", "fleet"]
#: What the data source for Prometheus reads of an annotation. Grafana's types know what all data sources have.
OF_THE_DATA_SOURCE = {"expr", "titleFormat", "textFormat", "tagKeys"}
VARIABLES = {"overview": "pool", "pool": "pool", "loops": "loop", "fleet": "pool"}


def board(name: str, form: str = "dashboards") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((SHIPPED / form / f"poolscope-{name}.json").read_text())
    return found


def errors(dashboard: dict[str, Any]) -> list[str]:
    """What Grafana's types have against it."""
    plain = copy.deepcopy(dashboard)
    for annotation in plain["annotations"]["list"]:
        for key in OF_THE_DATA_SOURCE:
            annotation.pop(key, None)
    return [f"{list(error.absolute_path)}: {error.message[:200]}" for error in SCHEMA.iter_errors(plain)]


def panels(dashboard: dict[str, Any]) -> Iterator[dict[str, Any]]:
    return (panel for panel in dashboard["panels"] if panel["type"] != "row")


def test_what_is_committed_is_what_the_code_builds(tmp_path: Path) -> None:
    subprocess.run([sys.executable, str(ROOT / "build.py"), str(tmp_path)], check=True, timeout=60)
    built = {path.relative_to(tmp_path): path.read_text() for path in tmp_path.rglob("*.json")}
    assert len(built) == 2 * len(NAMES)
    committed = {path.relative_to(SHIPPED): path.read_text() for path in SHIPPED.rglob("*.json")}
    assert built == committed, "run python dashboards/build.py"


@pytest.mark.parametrize("name", NAMES)
def test_grafanas_types_have_nothing_against_either_form(name: str) -> None:
    assert errors(board(name)) == []
    imported = board(name, "import")
    for key in ("__inputs", "__elements", "__requires"):
        del imported[key]
    assert errors(imported) == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["panels", 1, "gridPos", "w"], "4"),
        (["panels", 1, "fieldConfig", "defaults", "unitt"], "s"),
        (["templating", "list", 0, "type"], "queri"),
        (["panels", 1, "fieldConfig", "defaults", "thresholds", "mode"], "relative"),
        (["graphTooltip"], 7),
    ],
)
def test_the_schema_catches_faults(path: list[Any], value: Any) -> None:
    faulty = board("pool")
    place: Any = faulty
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    assert errors(faulty)


@pytest.mark.parametrize("name", NAMES)
def test_each_panel_has_a_title_a_unit_and_a_description(name: str) -> None:
    for panel in panels(board(name)):
        assert panel["title"]
        assert panel["description"].endswith(".")
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert panel["targets"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


@pytest.mark.parametrize("name", NAMES)
def test_no_two_panels_overlap_and_none_leaves_the_grid(name: str) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in board(name)["panels"]:
        at = panel["gridPos"]
        x, y = at.get("x", 0), at.get("y", 0)
        assert x + at["w"] <= 24
        cells = {(column, row) for column in range(x, x + at["w"]) for row in range(y, y + at["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells
    ids = [panel["id"] for panel in board(name)["panels"]]
    assert len(ids) == len(set(ids))
    # No holes: each row of the grid is full, or empty to the right of what ends it.
    height = max(row for _, row in taken) + 1
    assert len(taken) == 24 * height


@pytest.mark.parametrize("name", NAMES)
def test_the_variables(name: str) -> None:
    variables = {item["name"]: item for item in board(name)["templating"]["list"]}
    assert list(variables) == ["datasource", "job", "instance", VARIABLES[name]]
    assert variables["datasource"]["type"] == "datasource"
    for item in list(variables.values())[1:]:
        if (name, item["name"]) == ("pool", "pool"):
            assert (item["includeAll"], item["multi"]) == (False, False)
            continue
        assert (item["includeAll"], item["multi"], item["current"]["value"]) == (True, True, "$__all")
    for panel in panels(board(name)):
        for target in panel["targets"]:
            assert 'job=~"$job", instance=~"$instance"' in target["expr"]
            assert "rate(" not in target["expr"] or "[$__rate_interval]" in target["expr"]


def test_one_value_is_compared_and_several_are_matched() -> None:
    # Of a variable that takes several, Grafana makes a pattern; of one that does not, a string.
    for name in NAMES:
        several = {item["name"] for item in board(name)["templating"]["list"] if item.get("multi")}
        for panel in panels(board(name)):
            for target in panel["targets"]:
                used = re.findall(r'(=~?)"\$(\w+)"', target["expr"])
                assert used
                assert all((how == "=~") == (variable in several) for how, variable in used)


#: Where a colour of its own says what a verdict says: findings, and what no finding is needed for.
JUDGING = {
    "State",
    "Pools in trouble",
    "Limits in trouble",
    "Loops in trouble",
    "Serial",
    "One at a time",
    "Targets down",
    "Oldest queued task",
    "Oldest queued",
    "Suggested size",
    "Worst lag, 99th percentile",
    "Most blocked",
}


@pytest.mark.parametrize("name", NAMES)
def test_a_number_that_is_no_verdict_has_no_colour_but_that_of_the_finding(name: str) -> None:
    for panel in panels(board(name)):
        if panel["type"] != "stat" or panel["title"] in JUDGING:
            continue
        defaults, overrides = panel["fieldConfig"]["defaults"], panel["fieldConfig"]["overrides"]
        assert [step["color"] for step in defaults["thresholds"]["steps"]] == ["text"], panel["title"]
        painted = {item["matcher"]["options"]: item["properties"][0]["value"]["fixedColor"] for item in overrides}
        assert painted in ({}, {"1": "yellow", "2": "red"})
        assert bool(painted) == ('count_values("state"' in panel["targets"][0]["expr"])
        if panel["title"] in ("Utilisation", "Queued", "Tasks queued", "Drain time"):
            assert painted, panel["title"]


@pytest.mark.parametrize("name", NAMES)
def test_where_nothing_is_wrong_nothing_is_red(name: str) -> None:
    for panel in panels(board(name)):
        if panel["type"] == "stat":  # the text for nothing has the colour from the bottom on
            assert panel["fieldConfig"]["defaults"]["thresholds"]["steps"][0]["color"] in ("green", "text")


@pytest.mark.parametrize("name", NAMES)
def test_shares_end_at_100_percent(name: str) -> None:
    for panel in panels(board(name)):
        if panel["type"] == "timeseries" and panel["fieldConfig"]["defaults"]["unit"] == "percentunit":
            assert panel["fieldConfig"]["defaults"]["max"] == 1
            assert all("clamp_max(" in target["expr"] for target in panel["targets"]), panel["title"]


def test_each_name_is_in_one_legend() -> None:
    for panel in panels(board("pool")):
        assert not any("{{pool}}" in target.get("legendFormat", "") for target in panel["targets"]), panel["title"]
    seen = set()
    for panel in panels(board("overview")):
        if panel["type"] == "timeseries" and panel["options"]["legend"]["showLegend"]:
            names = {target["legendFormat"] for target in panel["targets"]}
            assert not names & seen, panel["title"]
            seen |= names
    # A name has its colour everywhere.
    for panel in panels(board("overview")):
        if panel["type"] == "timeseries" and "{{job}} {{pool}}" in {it["legendFormat"] for it in panel["targets"]}:
            assert panel["fieldConfig"]["defaults"]["color"]["mode"] == "palette-classic-by-name"


def test_the_table_of_pools_begins_with_the_state_and_tells_kinds() -> None:
    (table,) = (panel for panel in panels(board("overview")) if panel["type"] == "table")
    order = table["transformations"][1]["options"]["indexByName"]
    assert sorted(order, key=order.__getitem__)[:3] == ["Value #A", "pool", "kind"]
    assert "kind" in table["targets"][-1]["expr"]
    # What counts as a limit is what poolscope itself calls one.
    for title, how in (("Pools in trouble", "!~"), ("Limits in trouble", "=~")):
        (count,) = (panel for panel in panels(board("overview")) if panel["title"] == title)
        assert f'kind{how}"{"|".join(limits.KINDS)}"' in count["targets"][0]["expr"]
    (state,) = (item for item in table["fieldConfig"]["overrides"] if item["matcher"]["options"] == "state")
    assert {"mappings", "custom.cellOptions", "custom.width"} <= {item["id"] for item in state["properties"]}


def test_each_kind_of_panel_can_be_drawn() -> None:
    (drawn,) = re.findall(r"^const KINDS = \{(.*)\};$", (ROOT / "draw" / "draw.jsx").read_text(), re.MULTILINE)
    kinds = {panel["type"] for name in NAMES for panel in panels(board(name))}
    assert kinds == {kind.strip(" '") for kind in re.findall(r"([^:,]+):", drawn)}


def test_they_lead_to_each_other() -> None:
    boards = {name: board(name) for name in NAMES}
    uids = {item["uid"] for item in boards.values()}
    assert len(uids) == len(NAMES)
    for item in boards.values():
        (link,) = item["links"]
        assert link["type"] == "dashboards"
        assert set(link["tags"]) <= set(item["tags"])
        assert link["includeVars"]
        assert link["keepTime"]
    text = json.dumps(boards)
    for target in ("/d/poolscope-pool?", "/d/poolscope-loop?"):
        assert target in text
        assert target[3:-1] in uids


@pytest.mark.parametrize("name", NAMES)
def test_the_form_for_import_asks_for_the_data_source(name: str) -> None:
    imported = board(name, "import")
    (asked,) = imported["__inputs"]
    text = json.dumps(imported)
    assert "${datasource" not in text
    assert "${%s}" % asked["name"] in text  # noqa: UP031 - braces
    assert "datasource" not in {item["name"] for item in imported["templating"]["list"]}
    assert "__inputs" not in board(name)


def test_the_provisioning_files_are_for_these_dashboards() -> None:
    provisioning = SHIPPED / "provisioning"
    providers = yaml.safe_load((provisioning / "dashboards" / "poolscope.yaml").read_text())
    assert providers["apiVersion"] == 1
    (provider,) = providers["providers"]
    assert (provider["type"], provider["options"]["path"]) == ("file", "/var/lib/grafana/dashboards/poolscope")
    sources = yaml.safe_load((provisioning / "datasources" / "prometheus.yaml").read_text())
    assert [source["type"] for source in sources["datasources"]] == ["prometheus"]

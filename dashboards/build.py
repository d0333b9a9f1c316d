"""Writes the dashboards that are committed: python dashboards/build.py [DIR]

`dashboards/` is the form for provisioning, with the variable `$datasource`. `import/` is the form for Grafana's import
page, which asks for the data source (`__inputs`); provisioned it would not find one.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import fleet
import loops
import overview
import pool
from grafana_foundation_sdk.cog.encoder import JSONEncoder

HOME = Path(__file__).parent / "grafana"
BOARDS = {"overview": overview, "pool": pool, "loops": loops, "fleet": fleet}
INPUT = "${DS_PROMETHEUS}"
#: Of the data source for Prometheus, which the builder does not know: how a finding reads as an annotation.
ANNOTATION = {
    "titleFormat": "{{name}}: {{pattern}}",
    "textFormat": "{{cause}} on {{instance}}",
    "tagKeys": "pattern,cause",
}


def provisioned(board_name: str) -> dict[str, Any]:
    """Return a dashboard whose data source is a variable."""
    board: dict[str, Any] = json.loads(json.dumps(BOARDS[board_name].dashboard().build(), cls=JSONEncoder))
    for number, panel in enumerate(board["panels"], 1):
        panel["id"] = number
    for variable in board["templating"]["list"]:
        # The builder writes the defaults of variables of another kind.
        for name in ("auto", "auto_min", "auto_count"):
            variable.pop(name, None)
    for annotation in board["annotations"]["list"]:
        annotation |= fleet.ANNOTATION if board_name == "fleet" else ANNOTATION
    return board


def imported(name: str) -> dict[str, Any]:
    """Return the same, as Grafana's import page wants it: the data source is asked for once."""
    board = provisioned(name)
    board["templating"]["list"] = [item for item in board["templating"]["list"] if item["type"] != "datasource"]
    text = json.dumps(board).replace("${datasource:queryparam}&", "").replace("${datasource}", INPUT)
    asked = {
        "name": "DS_PROMETHEUS",
        "label": "Prometheus",
        "description": "The Prometheus that scrapes poolscope",
        "type": "datasource",
        "pluginId": "prometheus",
        "pluginName": "Prometheus",
    }
    needed = [
        {"type": "grafana", "id": "grafana", "name": "Grafana", "version": "11.6.0"},
        {"type": "datasource", "id": "prometheus", "name": "Prometheus", "version": "1.0.0"},
    ]
    return {"__inputs": [asked], "__elements": {}, "__requires": needed} | json.loads(text)


def files() -> dict[str, str]:
    """Path below HOME -> content."""
    made = {}
    for name in BOARDS:
        for folder, board in (("dashboards", provisioned(name)), ("import", imported(name))):
            made[f"{folder}/poolscope-{name}.json"] = json.dumps(board, indent=2) + "\n"
    return made


def main() -> None:
    """Write all files."""
    home = Path(sys.argv[1]) if len(sys.argv) > 1 else HOME
    for path, content in files().items():
        (home / path).parent.mkdir(parents=True, exist_ok=True)
        (home / path).write_text(content)


if __name__ == "__main__":
    main()

"""Runs every query of every dashboard against a real Prometheus, and prints what came: python dashboards/ask.py URL

The variables are filled as Grafana fills them: with All, or with the first value where only one can be chosen, unless
`--set pool=crawler` says otherwise. Standard library only.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

HOME = Path(__file__).parent / "grafana" / "dashboards"
Series = list[tuple[float, float]]


class Query(NamedTuple):
    """One query of one panel, or of an annotation or a variable. `instant`: asked for now only."""

    board: str
    panel: str
    name: str
    expr: str
    instant: bool
    unit: str


class Answer(NamedTuple):
    """Points (time, value) of each series, by its labels; NaN left out. `error` is Prometheus' own."""

    query: Query
    series: dict[tuple[tuple[str, str], ...], Series]
    error: str | None

    @property
    def values(self) -> list[float]:
        """Every value."""
        return [value for points in self.series.values() for _, value in points]


def queries(board: Mapping[str, Any]) -> Iterator[Query]:
    """Return what a dashboard asks of Prometheus: panels, annotations and variables."""
    title = board["title"]
    for panel in board["panels"]:
        columns: dict[str, str] = {}
        for transformation in panel.get("transformations", ()):
            columns |= transformation["options"].get("renameByName", {})
        units = {
            override["matcher"]["options"]: override["properties"][0]["value"]
            for override in panel.get("fieldConfig", {}).get("overrides", ())
            if override["properties"][0]["id"] == "unit"
        }
        for target in panel.get("targets", ()):
            legend = target.get("legendFormat") or columns.get(f"Value #{target['refId']}", "kind")
            unit = units.get(legend, panel["fieldConfig"]["defaults"]["unit"])
            yield Query(title, panel["title"], legend, target["expr"], bool(target.get("instant")), unit)
    for annotation in board["annotations"]["list"]:
        yield Query(title, "(annotation)", annotation["name"], annotation["expr"], False, "none")
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            metric, label = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"], re.DOTALL).groups()  # type: ignore[union-attr]
            yield Query(title, "(variable)", variable["name"], f"count by ({label}) ({metric})", True, "none")


def filled(expr: str, chosen: Mapping[str, str], rate_interval: str) -> str:
    """Return a query with its variables filled; a variable that is not chosen is All."""
    expr = expr.replace("$__rate_interval", rate_interval)
    return re.sub(r"\$(job|instance|pool|loop)\b", lambda found: chosen.get(found[1], ".*"), expr)


def ask(url: str, query: Query, expr: str, start: float, end: float, step: float) -> Answer:
    """Return what Prometheus answers to a filled query."""
    if query.instant:
        path, asked = "query", {"query": expr, "time": f"{end:.3f}"}
    else:
        path, asked = "query_range", {"query": expr, "start": f"{start:.3f}", "end": f"{end:.3f}", "step": f"{step:g}"}
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{url}/api/v1/{path}?{urllib.parse.urlencode(asked)}", timeout=60) as answer:
            result = json.load(answer)["data"]["result"]
    except urllib.error.HTTPError as error:
        with error:
            return Answer(query, {}, json.load(error)["error"])
    series = {}
    for item in result:
        points = [(at, float(value)) for at, value in item.get("values") or [item["value"]]]
        if kept := [(at, value) for at, value in points if not math.isnan(value)]:
            series[tuple(sorted(item["metric"].items()))] = kept
    return Answer(query, series, None)


def ask_all(
    url: str, start: float, end: float, step: float, rate_interval: str, chosen: Mapping[str, str]
) -> list[Answer]:
    """Return the answers to all queries of all dashboards."""
    boards = [json.loads(path.read_text()) for path in sorted(HOME.glob("*.json"))]
    answers = []
    for board in boards:
        choice = choices(url, board, end, chosen)
        for query in queries(board):
            answers.append(ask(url, query, filled(query.expr, choice, rate_interval), start, end, step))
    return answers


def choices(url: str, board: Mapping[str, Any], end: float, chosen: Mapping[str, str]) -> dict[str, str]:
    """Return what is chosen of the variables of a dashboard: of one that takes only one value the first, if nothing
    else is. `Pool.pool` is for the dashboard *Pool* only."""
    single = {item["name"] for item in board["templating"]["list"] if item["type"] == "query" and not item["multi"]}
    found = {}
    for query in queries(board):
        if query.panel == "(variable)" and query.name in single:
            answer = ask(url, query, filled(query.expr, {}, ""), end, end, 1)
            found[query.name] = min((value for labels in answer.series for _, value in labels), default="")
    for name, value in chosen.items():
        where, _, variable = name.rpartition(".")
        if not where or board["title"].endswith(f"/ {where}"):
            found[variable] = value
    return found


def table(answers: list[Answer]) -> str:
    """In Markdown: a line for each query."""
    lines = ["| dashboard | panel | query | unit | series | values |", "| --- | --- | --- | --- | --- | --- |"]
    for query, series, error in answers:
        values = [value for points in series.values() for _, value in points]
        found = error or (f"{min(values):.4g} to {max(values):.4g}" if values else "none")
        cells = (query.board.removeprefix("poolscope / "), query.panel, query.name, query.unit, str(len(series)), found)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Ask and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("url", help="such as http://127.0.0.1:9090")
    parser.add_argument("--minutes", type=float, default=5, help="how far to look back")
    parser.add_argument("--step", type=float, default=5, help="seconds between two points")
    parser.add_argument("--rate-interval", default="20s", help="for $__rate_interval: four scrapes at least")
    parser.add_argument("--set", action="append", default=[], metavar="VARIABLE=VALUE", help="such as pool=crawler")
    parser.add_argument("--json", type=Path, help="also write boards and answers to a file, for draw/draw")
    options = parser.parse_args()
    end = time.time()
    chosen = dict(choice.split("=", 1) for choice in options.set)
    start = end - 60 * options.minutes
    answers = ask_all(options.url, start, end, options.step, options.rate_interval, chosen)
    if options.json:
        boards = [json.loads(path.read_text()) for path in sorted(HOME.glob("*.json"))]
        plain = [
            {**query._asdict(), "series": [[dict(labels), points] for labels, points in series.items()]}
            for query, series, _ in answers
        ]
        made = {board["title"]: choices(options.url, board, end, chosen) for board in boards}
        asked = {"start": start, "end": end, "boards": boards, "answers": plain, "choices": made}
        options.json.write_text(json.dumps(asked))
    print(table(answers))


if __name__ == "__main__":
    main()

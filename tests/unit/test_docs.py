"""What the README and the docs name is there, and the layers that they show are those that are enforced."""

from __future__ import annotations

import re
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
#: What a path in a page may start from, beside the page's own folder.
STARTS = (ROOT, ROOT / "src" / "poolscope", ROOT / "dashboards" / "grafana")

LINK = re.compile(r"\]\((?!https?:)([^)#\s]+)[^)]*\)")
FILE = re.compile(r"(?<![\w./~:-])(?:\w[\w.-]*/)+[\w-]+\.(?:py|md|json|toml|ya?ml)\b")
FOLDER = re.compile(r"`((?:\w[\w.-]*/)+)`")
MODULE = re.compile(r"python -m ((?:poolscope|benchmarks)[\w.]*)")


def paths_of(page: Path) -> set[str]:
    text = page.read_text()
    return {path for kind in (LINK, FILE, FOLDER) for path in kind.findall(text)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_a_page_names_are_there(page: Path) -> None:
    missing = {path for path in paths_of(page) if not any((start / path).exists() for start in (page.parent, *STARTS))}
    assert missing == set()


def test_modules_that_are_run_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT)
    named = {module for page in PAGES for module in MODULE.findall(page.read_text())}
    assert {"poolscope.config.schema", "poolscope.endpoint.passwords"} <= named
    assert {module for module in named if find_spec(module) is None} == set()


def test_the_layers_shown_are_those_that_are_enforced() -> None:
    _, _, shown = (ROOT / "docs" / "architecture.md").read_text().partition("```layers\n")
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    assert shown.partition("```")[0].splitlines() == contracts[0]["layers"]

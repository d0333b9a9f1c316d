"""What the README and the docs name is there, and the layers that they show are those that are enforced."""

from __future__ import annotations

import re
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from probe_support import FakeProbe

from poolscope.probe.recording import function_table
from poolscope.rules.reason import Scene

ROOT = Path(__file__).parents[2]
DOCS = sorted((ROOT / "docs").rglob("*.md"))
PAGES = [*(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")), *DOCS]
#: What this README may have of words, tables and examples included.
README_WORDS = 900
#: What a path in a page may start from, beside the page's own folder.
STARTS = (ROOT, ROOT / "src" / "poolscope", ROOT / "dashboards" / "grafana")

LINK = re.compile(r"\]\((?!https?:)([^)#\s]+)[^)]*\)")
FILE = re.compile(r"(?<![\w./~:-])(?:\w[\w.-]*/)+[\w-]+\.(?:py|md|json|toml|ya?ml)\b")
FOLDER = re.compile(r"`((?:\w[\w.-]*/)+)`")
MODULE = re.compile(r"python -m ((?:poolscope|benchmarks)[\w.]*)")
#: A link to a heading, of this page or of another one.
ANCHOR = re.compile(r"\]\((?!https?:)([^)#\s]*)#([^)\s]+)\)")
#: A reference to one from a comment or docstring.
FROM_CODE = re.compile(r"(docs/[\w/-]+\.md)(?:#([\w-]+))?")
CODE = re.compile(r"<!-- test: (\S+) -->\n```python\n(.*?)```\n", re.DOTALL)


def paths_of(page: Path) -> set[str]:
    text = page.read_text()
    return {path for kind in (LINK, FILE, FOLDER) for path in kind.findall(text)}


def anchors_of(page: Path) -> set[str]:
    """As code hosts make them of headings: those of a generated page are not there before it is built."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_headings_that_a_page_links_to_are_there(page: Path) -> None:
    linked = {
        ((page.parent / path if path else page).resolve(), name) for path, name in ANCHOR.findall(page.read_text())
    }
    generated = {path for path, _ in linked if "<!-- generated: " in path.read_text()}
    assert {(path, name) for path, name in linked if path not in generated and name not in anchors_of(path)} == set()


def test_pages_and_headings_that_the_code_names_are_there() -> None:
    files = [path for folder in ("src", "benchmarks", "tests") for path in (ROOT / folder).rglob("*.py")]
    named = {found for file in files for found in FROM_CODE.findall(file.read_text())}
    assert ("docs/concepts.md", "causes") in named
    missing = {name for name, _ in named if not (ROOT / name).exists()}
    assert missing == set()
    assert {(name, anchor) for name, anchor in named if anchor and anchor not in anchors_of(ROOT / name)} == set()


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().split()) <= README_WORDS


def test_the_example_of_an_adapter_works(monkeypatch: pytest.MonkeyPatch) -> None:
    [(name, code)] = CODE.findall((ROOT / "docs" / "adding-a-library.md").read_text())
    assert name == "adapter"
    adapter: dict[str, object] = {}
    exec(code, adapter)

    def run_job(job: object, attempt: int) -> None: ...

    library = ModuleType("jobq.worker")
    library.run_job = run_job  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "jobq.worker", library)
    monkeypatch.setattr(function_table, "WRAPPERS", {})
    probe = FakeProbe()
    adapter["meet"](probe, "jobq.worker")  # type: ignore[operator]
    assert function_table.WRAPPERS["jobq.worker.run_job"]((SimpleNamespace(func=len), 1), {}) is len
    assert probe.messages == []


def test_the_example_of_a_rule_works(monkeypatch: pytest.MonkeyPatch) -> None:
    [(name, code)] = CODE.findall((ROOT / "docs" / "adding-a-rule.md").read_text())
    assert name == "rule"
    module = ModuleType("worker_start")
    monkeypatch.setitem(sys.modules, "worker_start", module)
    exec(code, vars(module))
    rule: Any = module.WorkerStart
    assert rule.match(SimpleNamespace(replacing_share=None), None) is None
    assert rule.match(SimpleNamespace(replacing_share=0.4), None) is None
    found = rule.match(SimpleNamespace(replacing_share=0.75, max_workers=4), None)
    scene = Scene(pool="web", since_seconds=1.0)
    assert found.sentence(scene) == (
        "its 4 workers spend 75 % of their time ending and starting anew, while tasks wait"
    )
    assert found.advice(scene).action == "keep_workers"


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

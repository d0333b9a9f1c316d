"""A notebook that nbconvert executes, with its own kernel, and the magic by itself."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest
from cli_support import environment, run

CELLS = [
    "%load_ext poolscope",
    """\
%%poolscope seen
import time
from concurrent.futures import ThreadPoolExecutor
def work(number):
    time.sleep(0.05)
    return number
with ThreadPoolExecutor(1, "narrow") as pool:
    futures = [pool.submit(work, number) for number in range(40)]
    total = sum(future.result() for future in futures)
total""",
    "print(seen.report)",
    "total, [loop.name for loop in seen.report.event_loops], seen.report",
    "%%poolscope\nimport asyncio\nawait asyncio.sleep(0)",
    """\
import asyncio, poolscope
with poolscope.profile() as later:
    await asyncio.sleep(0)
later.session""",
    "%%poolscope 1x\npass",
    "%%poolscope\n1 / 0",
    "%unload_ext poolscope",
]


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> list[list[dict[str, Any]]]:
    """What each cell has shown."""
    folder = tmp_path_factory.mktemp("notebook")
    cell: dict[str, Any] = {"cell_type": "code", "execution_count": None, "metadata": {}, "outputs": []}
    notebook = {
        "cells": [{**cell, "id": f"cell-{number}", "source": source} for number, source in enumerate(CELLS)],
        "metadata": {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    (folder / "it.ipynb").write_text(json.dumps(notebook))
    words = ("-m", "nbconvert", "--to", "notebook", "--execute", "--allow-errors", "--output", "out.ipynb", "it.ipynb")
    env = environment(HOME=str(folder), JUPYTER_CONFIG_DIR=str(folder), IPYTHONDIR=str(folder / "ipython"))
    outcome = run(sys.executable, *words, cwd=folder, env=env)
    assert outcome.status == 0, outcome.err
    return [cell["outputs"] for cell in json.loads((folder / "out.ipynb").read_text())["cells"]]


def texts(outputs: list[dict[str, Any]]) -> str:
    """What was printed, and the plain text of what was shown; errors too."""
    parts: list[str] = []
    for output in outputs:
        parts += output.get("text", ())
        parts += output.get("data", {}).get("text/plain", ())
        parts += output.get("traceback", ())
    return "".join(parts)


def html(output: dict[str, Any]) -> str:
    return "".join(output["data"]["text/html"])


def test_a_cell_shows_what_was_seen_and_then_its_value(executed: list[list[dict[str, Any]]]) -> None:
    shown, value = executed[1]
    page = html(shown)
    assert '<span class="badge warning">serial</span>' in page
    assert "time.sleep(0.05)" in page
    assert "<code>cell 2:5</code>" in page
    assert "ipykernel" not in page
    assert "<svg" in page
    assert "<script" not in page
    assert value["data"]["text/plain"] == ["780"]


def test_a_report_is_printed_as_on_a_terminal(executed: list[list[dict[str, Any]]]) -> None:
    text = texts(executed[2])
    assert text.startswith("WARNING  Pool 'narrow'")
    assert "\x1b" not in text


def test_the_kernel_s_own_loop_is_left_out_and_names_stay(executed: list[list[dict[str, Any]]]) -> None:
    assert texts(executed[3]).startswith("(780,\n []")


def test_what_cannot_be_done_is_said_in_one_line(executed: list[list[dict[str, Any]]]) -> None:
    assert "with poolscope.profile() as seen" in texts(executed[4])
    assert "expected the name of a variable" in texts(executed[6])


def test_a_cell_that_awaits_has_another_way(executed: list[list[dict[str, Any]]]) -> None:
    assert 'class="poolscope"' in html(executed[5][0])


def test_a_cell_that_fails_fails(executed: list[list[dict[str, Any]]]) -> None:
    shown, failed = executed[7]
    assert 'class="poolscope"' in html(shown)
    assert failed["ename"] == "ZeroDivisionError"
    assert executed[8] == []

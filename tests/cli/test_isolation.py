"""Modules that lie where poolscope is started are the program's: none of them is run in poolscope's own process."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from cli_support import Outcome, environment, python, run, script

#: Modules that the command imports, from the standard library and not.
SHADOWS = ["argparse", "datetime", "msgspec", "prometheus_client", "psutil", "resource", "rich", "selectors", "yaml"]
#: It imports none of them, and prints what it finds.
PROGRAM = "import sys\nprint(sys.path)"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in SHADOWS:
        script(tmp_path, f"open('ran-{name}', 'w').close()\nraise ImportError('the wrong {name}')", f"{name}.py")
    script(tmp_path, PROGRAM)
    script(tmp_path, "sample_interval: 0.2", "settings.yaml")
    return tmp_path


def started(way: str, *words: str, cwd: Path, env: dict[str, str]) -> Outcome:
    if way == "-m":
        return run(sys.executable, "-m", "poolscope", *words, cwd=cwd, env=env)
    # As an installed script whose directory holds such modules too.
    path = script(cwd, "from poolscope.commands import main\nmain()", "poolscope-command")
    for name in set(SHADOWS) & set(sys.stdlib_module_names):
        (cwd / f"{name}.py").unlink()  # those that `main` itself is imported with
    return run(sys.executable, path, *words, cwd=cwd, env=env)


@pytest.mark.parametrize("way", ["-m", "script"])
@pytest.mark.parametrize("module", [False, True])
@pytest.mark.parametrize("variables", [{}, {"PYTHONPATH": "."}, {"PYTHONPATH": ""}, {"PYTHONSAFEPATH": "1"}], ids=str)
def test_a_run(folder: Path, way: str, module: bool, variables: dict[str, str]) -> None:
    words = ("-m", "program") if module and "PYTHONSAFEPATH" not in variables else ("program.py",)
    env = environment(**variables)
    alone = python(*words, cwd=folder, env=env)
    options = ("--config", "settings.yaml", "--listen", "0", "--json", "it.json", "--session", "it.session")
    outcome = started(way, "run", *options, *words, cwd=folder, env=env)
    assert (outcome.status, outcome.out) == (alone.status, alone.out), outcome.err
    assert not [name for name in os.listdir(folder) if name.startswith("ran-")]
    assert (folder / "it.json").exists()

"""Real programs under `poolscope run` while something of ours breaks: a full disk, a killed parent."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import sys
from pathlib import Path

import pytest
from cli_support import PATIENCE, await_path, await_true, environment, poolscope, run, script, started

TASKS = """
    import os, sys, time
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(abs, range(-50, 0))) == list(range(50, 0, -1))
        open("working", "w").close()
        while len(sys.argv) > 1 and not os.path.exists(sys.argv[1]):
            pool.submit(time.sleep, 0.01).result()
        assert list(pool.map(abs, range(-50, 0))) == list(range(50, 0, -1))
    os.rename("working", "done")
"""


@pytest.mark.parametrize(("option", "other"), [("--session", "--json"), ("--json", "--session")])
def test_a_full_disk_costs_one_file(tmp_path: Path, option: str, other: str) -> None:
    script(tmp_path, TASKS)
    outcome = poolscope("run", "--quiet", option, "/dev/full", other, "kept", "program.py", cwd=tmp_path)
    assert (tmp_path / "done").exists()
    assert (outcome.status, outcome.out) == (2, "")
    assert outcome.err.count("No space left on device") == 1
    assert (tmp_path / "kept").stat().st_size > 0
    if other == "--json":
        assert any("No space left" in notice for notice in json.loads((tmp_path / "kept").read_text())["notices"])


def test_a_file_size_limit(tmp_path: Path) -> None:
    script(tmp_path, TASKS)
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    limited = (
        f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100, {hard}));"
        "from poolscope.commands import main; main()"
    )
    words = ("run", "--quiet", "--json", "it.json", "--session", "it.session", "program.py")
    outcome = run(sys.executable, "-B", "-c", limited, *words, cwd=tmp_path)
    assert outcome.status == 2
    assert outcome.err.count("File too large") == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["done", "program.py"]


def test_a_killed_parent(tmp_path: Path) -> None:
    script(tmp_path, TASKS)
    words = (sys.executable, "-m", "poolscope", "run", "--quiet", "program.py", "go")
    with started(*words, cwd=tmp_path) as parent:
        await_path(tmp_path / "working")
        os.kill(parent.pid, signal.SIGKILL)
        assert parent.wait(PATIENCE) == -signal.SIGKILL
        (tmp_path / "go").touch()
        await_true((tmp_path / "done").exists, "the program did not go on")
        assert parent.communicate(timeout=PATIENCE) == ("", "")


def test_what_a_killed_parent_left_is_removed_by_the_next_run(tmp_path: Path) -> None:
    script(tmp_path, TASKS)
    script(tmp_path, "pass", "next.py")
    short = Path(f"/tmp/ps-{os.urandom(4).hex()}")
    short.mkdir(0o700)
    variables = environment(TMPDIR=str(short))
    try:
        words = (sys.executable, "-m", "poolscope", "run", "--quiet", "program.py", "go")
        with (
            started(*words, cwd=tmp_path, env=variables) as killed,
            started(*words, cwd=tmp_path, env=variables) as living,
        ):
            await_true(lambda: len(os.listdir(short)) == 2, "two directories")
            await_path(tmp_path / "working")
            os.kill(killed.pid, signal.SIGKILL)
            killed.wait(PATIENCE)
            assert poolscope("run", "--quiet", "next.py", cwd=tmp_path, env=variables) == (0, "", "")
            (folder,) = short.iterdir()
            assert sorted(os.listdir(folder)) == ["live", "lock", "socket"]
            (tmp_path / "go").touch()
            assert living.wait(PATIENCE) in (0, 1)  # both programs rename one file
        assert os.listdir(short) == []
    finally:
        shutil.rmtree(short)


def test_a_program_that_closes_our_channel(tmp_path: Path) -> None:
    script(
        tmp_path,
        "import os\nos.closerange(3, 70000)\n" + "from concurrent.futures import ThreadPoolExecutor\n"
        "with ThreadPoolExecutor(2) as pool: print(list(pool.map(abs, [-1, -2])))",
    )
    outcome = poolscope("run", "--quiet", "--json", "it.json", "program.py", cwd=tmp_path)
    assert outcome == (0, "[1, 2]\n", "")
    assert any("without a word" in notice for notice in json.loads((tmp_path / "it.json").read_text())["notices"])

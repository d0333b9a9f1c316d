"""Whatever names and arguments hold, what poolscope prints is lines of ours, and nothing that a terminal obeys."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

import pytest
from cli_support import poolscope, python, run, script

EVIL = "\x1b[2J\x1b]0;owned\x07\rpoolscope: warning: forged\npoolscope: warning: forged\x9b31m\u202e\u2028"

#: Names of everything that a live line or a report names: a pool, a loop, a function, a file.
PROGRAM = f"""
import asyncio, threading, time
from concurrent.futures import ThreadPoolExecutor

EVIL = {EVIL!r}
names = {{}}
text = "import time\\ndef work(): time.sleep(0.1)\\nasync def main(): time.sleep(1.2)\\n"
exec(compile(text, EVIL + "file.py", "exec"), names)
names["work"].__qualname__ = EVIL + "function"
loop = threading.Thread(target=lambda: asyncio.run(names["main"]()), name=EVIL + "loop")
loop.start()
with ThreadPoolExecutor(2, thread_name_prefix=EVIL + "pool") as pool:
    for _ in range(60):
        pool.submit(names["work"])
        time.sleep(0.03)
loop.join()
"""


def check(text: str) -> None:
    for line in text.split("\n"):
        assert line.isprintable(), line
        assert not re.match(r"poolscope: (\d\d:\d\d:\d\d )?warning: forged", line), line


def test_live_lines_and_the_report(tmp_path: Path) -> None:
    script(tmp_path, PROGRAM)
    outcome = poolscope("run", "--json", "report.json", "program.py", cwd=tmp_path)
    assert (outcome.status, outcome.out) == (0, "")
    check(outcome.err)
    live = [line for line in outcome.err.split("\n") if line.startswith("poolscope: ")]
    assert any(re.match(r"poolscope: \d\d:\d\d:\d\d warning: pool ", line) for line in live), outcome.err
    assert any(re.match(r"poolscope: \d\d:\d\d:\d\d warning: loop ", line) for line in live), outcome.err
    # JSON has the names as they are, by its own escapes.
    report = json.loads((tmp_path / "report.json").read_text())
    assert [pool["name"] for pool in report["pools"]] == [EVIL + "pool"]
    assert report["pools"][0]["functions"][0]["name"].endswith(EVIL + "function")


def test_the_log_of_a_process(tmp_path: Path) -> None:
    text = "import logging, poolscope\nlogging.basicConfig(level='INFO')\npoolscope.install()\n"
    script(tmp_path, text + PROGRAM)
    outcome = python("program.py", cwd=tmp_path)
    check(outcome.err)
    assert outcome.err.count("WARNING:poolscope:warning: ") == 2, outcome.err


@pytest.mark.parametrize(
    "words",
    [
        ("run", EVIL),
        ("run", "-m", EVIL),
        ("run", "--", EVIL),
        ("run", "--json", f"{EVIL}/x", "program.py"),
        ("run", "--session", f"{EVIL}/x", "program.py"),
        ("run", "--config", EVIL, "program.py"),
        ("run", "--listen", EVIL, "program.py"),
        ("run", "--set", EVIL, "program.py"),
        ("run", f"--{EVIL}", "program.py"),
        ("run", "--fail-on", EVIL, "program.py"),
        ("report", EVIL),
        ("whatif", EVIL),
        ("whatif", EVIL, "--workers", EVIL),
        ("check", EVIL),
        ("demo", EVIL),
        ("export", "rules", f"program.py/{EVIL}"),
        ("export", EVIL, "x"),
        (EVIL,),
    ],
    ids=str,
)
def test_error_lines(tmp_path: Path, words: tuple[str, ...]) -> None:
    script(tmp_path, "pass")
    outcome = poolscope(*words, cwd=tmp_path)
    assert (outcome.status, outcome.out) == (2, "")
    assert outcome.err.startswith("poolscope: ")
    assert outcome.err.count("\n") == 1
    check(outcome.err)


def test_what_is_printed_on_standard_output(tmp_path: Path) -> None:
    target = "\x1b[2J\n\u202eé"
    (tmp_path / target).write_text("{}")
    checked = poolscope("check", target, cwd=tmp_path)
    assert (checked.status, checked.out) == (0, "\\x1b[2J\\n\\u202eé: valid\n")
    ascii_only = {**os.environ, "PYTHONIOENCODING": "ascii"}
    written = poolscope("export", "rules", f"{target}.d", cwd=tmp_path, env=ascii_only)
    assert (written.status, written.out) == (0, "rules written to \\x1b[2J\\n\\u202e\\xe9.d\n")


@pytest.mark.parametrize("words", ["report recorded", "whatif recorded", "check settings.yaml", "demo"])
@pytest.mark.parametrize(("redirected", "reason"), [(">/dev/full", "No space left on device"), (">&-", "it is closed")])
def test_a_standard_output_that_takes_nothing(tmp_path: Path, words: str, redirected: str, reason: str) -> None:
    script(tmp_path, "from concurrent.futures import ThreadPoolExecutor as T\nT(1).submit(int).result()")
    assert poolscope("run", "--quiet", "--session", "recorded", "program.py", cwd=tmp_path).status == 0
    (tmp_path / "settings.yaml").write_text("{}")
    outcome = run("sh", "-c", f'"$0" -m poolscope {words} {redirected}', sys.executable, cwd=tmp_path)
    assert outcome.status == 2
    assert outcome.err == f"poolscope: standard output cannot be written: {reason}; send it elsewhere\n"

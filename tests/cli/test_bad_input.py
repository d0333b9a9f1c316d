"""What cannot work is refused in one line, with status 2, before anything has happened."""

from __future__ import annotations

import math
import os
import socket
import struct
import zlib
from functools import cache
from pathlib import Path

import msgspec
import pytest
from cli_support import environment, poolscope, script
from report_support import hard_limit

SETTINGS_TYPO = "sample_intervall: 0.1\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    script(tmp_path, "open('it_ran', 'w').close()")
    script(tmp_path, "", "package/__init__.py")
    script(tmp_path, SETTINGS_TYPO, "typo.yaml")
    script(tmp_path, "listen: 0\nendpoint: {bearer_token_file: nowhere}\n", "secret.yaml")
    script(tmp_path, "#! /nowhere/python\n", "no_interpreter").chmod(0o755)
    script(tmp_path, "echo", "not_executable")
    script(tmp_path, "poolscope session 1\nxxxx", "damaged.session")
    script(tmp_path, "poolscope session 2\n", "later.session")
    (tmp_path / "bomb.session").write_bytes(session(100, 1.0))
    (tmp_path / "nan.session").write_bytes(session(0, math.nan))
    (tmp_path / "folder").mkdir()
    return tmp_path


@cache
def session(megabytes: int, duration: float) -> bytes:
    """A whole file, with so much of tasks in it."""
    content = msgspec.to_builtins(hard_limit(), builtin_types=(bytes,))
    content["traces"][0]["tasks"] = bytes(megabytes << 20)
    content["report"]["duration_seconds"] = duration
    payload = zlib.compress(msgspec.msgpack.encode(content))
    return b"poolscope session 1\n" + struct.pack(">IQ", zlib.crc32(payload), len(payload)) + payload


def refused(folder: Path, *words: str, **variables: str) -> str:
    before = sorted(os.listdir(folder))
    outcome = poolscope(*words, cwd=folder, env=environment(**variables))
    assert (outcome.status, outcome.out) == (2, "")
    assert outcome.err.startswith("poolscope: ")
    assert outcome.err.count("\n") == 1
    assert sorted(os.listdir(folder)) == before, "something was left, or the program was started"
    return outcome.err


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ("run nowhere.py", "there is no script nowhere.py: check"),
        ("run folder", "directory folder has no __main__.py"),
        ("run -m nowhere", "there is no module nowhere for"),
        ("run -m package.nowhere", "there is no module package.nowhere"),
        ("run -m program.sub", "program is not a package"),
        ("run -m package", "package package has no __main__ module"),
        ("run -m ..", "'..' is no name of a module"),
        ("run -- nowhere-command x", "cannot start nowhere-command: No such file"),
        ("run -- ./no_interpreter", "cannot start ./no_interpreter: No such file"),
        ("run -- ./not_executable", "cannot start ./not_executable: Permission denied"),
        ("run", "nothing to run: name a SCRIPT, -m MODULE, -c CODE or -- COMMAND"),
        ("run -c", "nothing to run: write CODE after -c"),
        ("run -m", "nothing to run: name a MODULE"),
        ("run --", "nothing to run: name a COMMAND"),
        ("run --jsom x program.py", "unrecognized arguments: --jsom; did you mean --json?"),
        ("report --jsn x", "did you mean --json?"),
        ("reprot x", "invalid choice: 'reprot'"),
        ("run --json program.py program.py", "--json program.py would overwrite what is to be read: name another"),
        ("run --markdown program.py program.py", "--markdown program.py would overwrite what is to be read"),
        ("run --force --trace program.py program.py", "--trace program.py would overwrite what is to be read"),
        ("run --json typo.yaml program.py", "--json typo.yaml would overwrite a file of another kind"),
        ("run --trace damaged.session program.py", "--trace damaged.session would overwrite a file of another kind"),
        ("run --json - --trace - program.py", "--json and --trace name the same file -: name two"),
        ("report damaged.session --json damaged.session", "--json damaged.session would overwrite what is to be read"),
        ("compare damaged.session", "the following arguments are required: AFTER"),
        ("compare damaged.session nowhere.session", "damaged.session is"),
        ("run --json", "--json: expected one argument"),
        ("run --json nowhere/report.json program.py", "no file can be made in nowhere; name"),
        ("run --json folder program.py", "--json folder: it is a directory"),
        ("run --json  program.py", "--json names no file"),
        ("run --session nowhere/x program.py", "no file can be made in nowhere; name"),
        ("run --session folder program.py", "--session folder: it is a directory"),
        ("run --json /proc/x program.py", "no file can be made in /proc"),
        ("run --session same --json same program.py", "the same file same"),
        ("run --config typo.yaml program.py", "typo.yaml, line 1: sample_intervall: unknown key"),
        ("run --config nowhere.yaml program.py", "nowhere.yaml: this settings file cannot be read"),
        ("run --config secret.yaml program.py", "nowhere cannot be used: there is no such file"),
        ("run --listen nonsense program.py", "--listen: listen: expected HOST:PORT"),
        ("run --listen 0.0.0.0:0 program.py", "insecure"),
        ("run --set x program.py", "--set x: expected POOL.max_workers=N"),
        ("run --set .max_workers=4 program.py", "expected POOL.max_workers=N"),
        ("run --set pool.max_workers=many program.py", "found 'many'"),
        ("run --set pool.max_workers=0 program.py", "expected a whole number from 1"),
        ("run --fail-on bad program.py", "invalid choice: 'bad'"),
        ("report nowhere.session", "nowhere.session"),
        ("report damaged.session", "damaged.session"),
        ("report later.session", "was written by a later poolscope"),
        ("report bomb.session", "bomb.session unpacks to more than"),
        ("whatif bomb.session", "bomb.session unpacks to more than"),
        ("report nan.session", "nan.session is damaged (it lasted nan seconds)"),
        ("whatif nan.session", "nan.session is damaged (it lasted nan seconds)"),
        ("report program.py", "program.py is not a poolscope session"),
        ("report folder", "folder is a directory"),
        ("report", "the following arguments are required: SESSION"),
        ("whatif damaged.session", "damaged.session"),
        ("whatif damaged.session --workers 4,x", "expected sizes from 1 to 1000"),
        ("whatif damaged.session --workers 0", "expected sizes from 1 to 1000"),
        ("whatif damaged.session --workers 9-4", "the range ends before it begins"),
        ("check typo.yaml", "typo.yaml, line 1"),
        ("demo nowhere", "there is no story 'nowhere': choose from overlap, blocking-call, hard-limit"),
        ("demo overlap extra", "unrecognized arguments: extra"),
        ("export rules /proc/x", "cannot write to /proc/x"),
        ("export nonsense target", "invalid choice: 'nonsense'"),
        ("export config program.py", "cannot write to program.py: it is not a directory"),
        ("export config program.py/below", "cannot write to program.py/below"),
        ("nonsense", "invalid choice: 'nonsense'"),
    ],
)
def test_one_line_says_what_is_wrong(folder: Path, words: str, parts: str) -> None:
    assert parts in refused(folder, *words.split(" "))


def test_a_taken_port(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        assert port in refused(folder, "run", "--listen", port, "program.py")
        assert port in refused(folder, "run", "program.py", POOLSCOPE_LISTEN=port)


def test_settings_named_by_the_environment(folder: Path) -> None:
    assert "typo.yaml, line 1" in refused(folder, "run", "program.py", POOLSCOPE_CONFIG="typo.yaml")
    assert "POOLSCOPE_LISTEN" in refused(folder, "run", "program.py", POOLSCOPE_LISTEN="nonsense")


def test_an_existing_report_survives_a_run_that_does_not_start(folder: Path) -> None:
    (folder / "report.json").write_text("precious")
    refused(folder, "run", "--json", "report.json", "nowhere.py")
    assert (folder / "report.json").read_text() == "precious"

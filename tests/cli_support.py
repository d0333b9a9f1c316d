"""Real programs, run as they are and under `poolscope run`."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import psutil

#: Longer than anything here takes on a slow machine; a bound against hanging, never a measure.
PATIENCE = 60


class Outcome(NamedTuple):
    """How a command ended: exit status (negative: signal), standard output, standard error."""

    status: int
    out: str
    err: str


def environment(**changes: str) -> dict[str, str]:
    """The tests' environment without what poolscope would read, and with `changes`."""
    present = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("POOLSCOPE", "PYTHON", "COLUMNS", "NO_COLOR", "PYTEST"))
    }
    return present | changes


def script(folder: Path, text: str, name: str = "program.py") -> Path:
    """A program in `folder`."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(text))
    return path


def run(*words: str | Path, cwd: Path, env: Mapping[str, str] | None = None, stdin: str = "") -> Outcome:
    """Runs a command to its end."""
    ended = subprocess.run(
        [str(word) for word in words],
        cwd=cwd,
        env=env or environment(),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    return Outcome(ended.returncode, ended.stdout, ended.stderr)


def python(*words: str | Path, **how: Any) -> Outcome:
    """`python ...`"""
    return run(sys.executable, *words, **how)


def poolscope(*words: str | Path, **how: Any) -> Outcome:
    """`poolscope ...`"""
    return run(sys.executable, "-m", "poolscope", *words, **how)


def watched(*words: str | Path, cwd: Path, **how: Any) -> tuple[Outcome, dict[str, Any]]:
    """`poolscope run --quiet ...`, and its report."""
    path = cwd / "report.json"
    path.unlink(missing_ok=True)
    outcome = poolscope("run", "--quiet", "--json", path, *words, cwd=cwd, **how)
    assert path.exists(), outcome
    return outcome, json.loads(path.read_text())


def same_as_without(*words: str | Path, cwd: Path, **how: Any) -> Outcome:
    """Runs `python ...` both ways, checks that nobody could tell, and returns the outcome."""
    alone = python(*words, cwd=cwd, **how)
    under, report = watched(*words, cwd=cwd, **how)
    assert under == alone
    assert report["exit_code"] == alone.status
    return alone


@contextmanager
def started(*words: str | Path, cwd: Path, **how: Any) -> Iterator[subprocess.Popen[str]]:
    """A command that runs while the block does."""
    process = subprocess.Popen(
        [str(word) for word in words],
        cwd=cwd,
        env=how.pop("env", None) or environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **how,
    )
    try:
        yield process
    finally:
        # What it has started too, or the pipes would stay open.
        below = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        process.kill()
        for child in below:
            end(child.pid)
        process.communicate()


@contextmanager
def reserved_port() -> Iterator[int]:
    """A port of loopback that nobody else is given while the block runs, not even for a connection of its own. Who sets
    SO_REUSEADDR, as servers do, may listen there all the same."""
    with socket.socket() as kept:
        kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        kept.bind(("127.0.0.1", 0))
        port: int = kept.getsockname()[1]
        yield port


def line(process: subprocess.Popen[str]) -> str:
    """The next line of a program's standard output."""
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], PATIENCE)
    assert ready, "nothing was printed"
    return process.stdout.readline().rstrip("\n")


def await_path(path: Path) -> None:
    """Returns when `path` exists."""
    await_true(path.exists, f"{path.name} did not appear")


def await_true(condition: Any, otherwise: str) -> None:
    """Returns when `condition()` is true."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.01)


def alive(pid: int) -> bool:
    """Whether there is such a process that has not ended."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def end(pid: int) -> None:
    """Kills a process that a test left behind, if it is there."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass

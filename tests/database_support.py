"""Real servers of Debian's, each on a free port and in a folder of its own, for as long as a block lasts."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cli_support import PATIENCE, reserved_port


def _command(name: str, package: str) -> str:
    found = shutil.which(name) or max(map(str, Path("/usr/lib/postgresql").glob(f"*/bin/{name}")), default=None)
    if found is None:
        missing = f"no {name} here: install Debian's {package}"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    return found


def _as_user(name: str) -> list[str]:
    """What a command begins with that must not run as root."""
    return ["setpriv", f"--reuid={name}", f"--regid={name}", "--clear-groups"] if os.geteuid() == 0 else []


@contextmanager
def _running(command: list[str], port: int, folder: Path) -> Iterator[int]:
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), PATIENCE).close()
                break
            except OSError:
                assert process.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < deadline, "it does not listen"
                time.sleep(0.05)
        yield port
    finally:
        process.terminate()
        process.wait(PATIENCE)


@contextmanager
def postgresql() -> Iterator[int]:
    """A PostgreSQL that trusts everyone on loopback; its port."""
    initdb, postgres = _command("initdb", "postgresql"), _command("postgres", "postgresql")
    user = _as_user("postgres")
    with tempfile.TemporaryDirectory(prefix="poolscope-") as name, reserved_port() as port:
        folder = Path(name)
        if user:
            shutil.chown(folder, "postgres", "postgres")
        data = str(folder / "data")
        made = [*user, initdb, "-D", data, "-U", "postgres", "-A", "trust", "--no-sync"]
        subprocess.run(made, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        options = ["-F", "-h", "127.0.0.1", "-p", str(port), "-k", name]
        with _running([*user, postgres, "-D", data, *options], port, folder):
            # It listens a moment before it answers.
            asked = [_command("pg_isready", "postgresql-client"), "-q", "-h", "127.0.0.1", "-p", str(port)]
            deadline = time.monotonic() + PATIENCE
            while subprocess.run(asked, check=False).returncode:
                assert time.monotonic() < deadline, "it does not answer"
                time.sleep(0.05)
            yield port


@contextmanager
def redis_server() -> Iterator[int]:
    """A Redis that keeps nothing; its port."""
    server = _command("redis-server", "redis-server")
    with tempfile.TemporaryDirectory(prefix="poolscope-") as name, reserved_port() as port:
        command = [server, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", name]
        with _running(command, port, Path(name)):
            yield port

"""Real servers with several workers, and what their common endpoint says."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import textwrap
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import Any

from cli_support import PATIENCE, environment, reserved_port
from metrics_support import Scrape

APPLICATION = """
    import os, threading, time
    import poolscope

    if "SERVE" in os.environ:
        poolscope.serve(os.environ["SERVE"])
    pools, making = [], threading.Lock()

    def pool():
        with making:
            if not pools:
                pools.append(poolscope.ThreadPoolExecutor(2, name="web"))
            return pools[0]

    def work():
        time.sleep(0.02)

    def wsgi(environ, start):
        pool().submit(work).result()
        start("200 OK", [("Content-Type", "text/plain")])
        return [str(os.getpid()).encode()]

    async def asgi(scope, receive, send):
        import asyncio

        assert scope["type"] == "http"
        await asyncio.get_running_loop().run_in_executor(pool(), work)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": str(os.getpid()).encode()})
    """

_COUNTERS = re.compile(r"_(total|bucket|count|sum)$")


class Service:
    """A server while it runs: `port` is its own, `metrics` that of the endpoint. All requests are counted."""

    def __init__(self, process: subprocess.Popen[str], port: int, metrics: int, home: Path, short: Path) -> None:
        self.process = process
        self.port = port
        self.metrics = metrics
        self.home = home
        #: The same by a path that leaves room for the name of a socket.
        self.short = short
        self.requests = 0
        self._before: dict[Any, float] = {}

    def request(self) -> int | None:
        """The process that answers one request; None if a worker dies in it."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/", timeout=PATIENCE) as answer:
                pid = int(answer.read())
        except (OSError, ValueError):
            return None
        self.requests += 1
        return pid

    def drive(self, workers: int) -> set[int]:
        """Requests until so many processes have answered some; their numbers."""
        pids: set[int] = set()
        deadline = time.monotonic() + PATIENCE
        with ThreadPoolExecutor(1) as client:
            while len(pids) < workers:
                assert time.monotonic() < deadline, (pids, self.process.poll())
                # Where there is one CPU, the first to accept a connection may be the same one for long.
                with paused(pids):
                    answer = client.submit(self.request)
                    # Not for long: another one may have yet to start, and a server ends workers that say nothing.
                    wait([answer], timeout=1)
                pids = {pid for pid in {*pids, answer.result()} if pid is not None and runs(pid)}
        return pids

    def scrape(self) -> Scrape:
        """What the endpoint says, as soon as there is one; nothing that was counted may be less than before."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics}/metrics", timeout=PATIENCE) as answer:
                    shown = Scrape(answer.read().decode())
                break
            except (OSError, HTTPException):  # or who served them has just ended
                assert time.monotonic() < deadline, "nobody serves metrics"
                time.sleep(0.005)
        for key, value in self._before.items():
            assert shown.samples.get(key, -1.0) >= value, f"{key} fell from {value} to {shown.samples.get(key)}"
        self._before = {key: value for key, value in shown.samples.items() if _COUNTERS.search(key[0])}
        return shown

    def await_counted(self) -> None:
        """Returns when a scrape shows every request as done."""
        deadline = time.monotonic() + PATIENCE
        while True:
            shown = self.scrape()
            done = shown.value("poolscope_pool_tasks_finished_total", pool="web", outcome="succeeded")
            if done == self.requests:
                return
            assert time.monotonic() < deadline, (done, self.requests)
            time.sleep(0.02)

    def await_shown(self, workers: int) -> Scrape:
        """The scrape that shows so many workers, each with its pool of 2, and every request."""
        deadline = time.monotonic() + PATIENCE
        while True:
            shown = self.scrape()
            size = shown.value("poolscope_pool_max_workers", pool="web")
            submitted = shown.value("poolscope_pool_tasks_submitted_total", pool="web")
            if size == 2 * workers and submitted == self.requests:
                return shown
            assert time.monotonic() < deadline, (size, submitted, self.requests, shown.text)
            time.sleep(0.02)

    def holder(self) -> int:
        """The process that has the port of the endpoint."""
        deadline = time.monotonic() + PATIENCE
        while True:
            for path in self.home.glob("*/holder"):
                pid = int(path.read_text().partition(".")[0])
                if runs(pid):
                    return pid
            assert time.monotonic() < deadline, "nobody holds the port"
            time.sleep(0.01)

    def kill(self, pid: int) -> None:
        os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + PATIENCE
        while runs(pid):
            assert time.monotonic() < deadline
            time.sleep(0.001)

    def end(self) -> str:
        """Ends the server in order; what it wrote."""
        self.process.terminate()
        out, _ = self.process.communicate(timeout=PATIENCE)
        assert self.process.returncode in (0, -signal.SIGTERM), out
        return out

    def left_behind(self) -> list[str]:
        return sorted(str(path.relative_to(self.home)) for path in self.home.rglob("*"))


@contextmanager
def paused(pids: Iterable[int]) -> Iterator[None]:
    """Has the processes stand still, those of them that are there."""

    def send(number: int) -> None:
        for pid in pids:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                pass

    send(signal.SIGSTOP)
    try:
        yield
    finally:
        send(signal.SIGCONT)


def runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


def words_of(port: int, words: tuple[str, ...]) -> list[str]:
    return [word.replace("PORT", str(port)) for word in words]


@contextmanager
def service(
    folder: Path, *words: str, serve: bool = False, report: Path | None = None, **variables: str
) -> Iterator[Service]:
    """`python -m WORDS` in `folder`, which holds `app.py`; PORT in a word stands for the port.

    With a `report` under `poolscope run`, which has the endpoint then.
    """
    with reserved_port() as port, reserved_port() as metrics:
        (folder / "app.py").write_text(textwrap.dedent(APPLICATION))
        home = folder / "home"
        home.mkdir(mode=0o700)
        # Of their own, and short enough for sockets.
        short = Path(f"/tmp/ps-{os.urandom(4).hex()}")
        short.symlink_to(home)
        address = f"127.0.0.1:{metrics}"
        told = {"TMPDIR": str(short), "XDG_RUNTIME_DIR": ""}
        command = [sys.executable, "-m", *words_of(port, words)]
        if report is not None:
            command = [sys.executable, "-m", "poolscope", "run", "--quiet", "--listen", address, "--json", str(report)]
            command += ["--", sys.executable, "-m", *words_of(port, words)]
        else:
            told["SERVE" if serve else "POOLSCOPE_LISTEN"] = address
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment(PYTHONWARNINGS="always::DeprecationWarning", **(told | variables)),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        served = Service(process, port, metrics, home, short)
        try:
            deadline = time.monotonic() + PATIENCE
            while served.request() is None:
                assert process.poll() is None, process.communicate()[0]
                assert time.monotonic() < deadline
                time.sleep(0.02)
            yield served
        finally:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            process.communicate()
            short.unlink()

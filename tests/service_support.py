"""Real servers under `poolscope run` and without it, driven by many clients over loopback, and stopped by a signal."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from cli_support import PATIENCE, alive, environment, reserved_port


class Answer(NamedTuple):
    """What a client got: status line, headers without the date, body."""

    status: str
    headers: tuple[tuple[str, str], ...]
    body: bytes


class Ended(NamedTuple):
    """How a server ended: exit status (negative: signal), what it printed, and the report if it was watched."""

    status: int
    out: str
    err: str
    report: dict[str, Any]

    def pool(self, name: str, *, pid: int | None = None) -> dict[str, Any]:
        """The one row of this name, of one process if there are several."""
        rows = [row for row in self.report["pools"] if row["name"] == name and pid in (None, row["pid"])]
        told = [(row["name"], row["pid"]) for row in self.report["pools"]], self.report["notices"]
        assert len(rows) == 1, (told, self.report["processes"], self.err)
        found: dict[str, Any] = rows[0]
        return found

    def warnings(self) -> list[dict[str, Any]]:
        """The findings above info."""
        return [finding for finding in self.report["findings"] if finding["severity"] != "info"]


def tool(name: str) -> str:
    """The path of a command of this environment, such as uvicorn."""
    path = Path(sys.executable).parent / name
    assert path.exists(), f"{name} is not installed: it is in the group `services` of pyproject.toml"
    return str(path)


class Server:
    """A server that runs in `folder`."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, folder: Path, report: Path | None) -> None:
        self.process = process
        self.port = port
        self._folder = folder
        self._report = report

    def _printed(self, name: str) -> str:
        return (self._folder / name).read_text()

    def await_port(self) -> None:
        """Returns when somebody listens on the port."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), PATIENCE).close()
            except OSError:
                ended = self.process.poll()
                assert ended is None, f"ended with {ended}: {self._printed('stderr')}"
                assert time.monotonic() < deadline, "nobody listens"
                time.sleep(0.02)
            else:
                return

    def get(self, path: str) -> Answer:
        """One request."""
        [answer] = self.drive(path, clients=1)
        return answer

    def drive(self, path: str, *, clients: int, requests: int = 1) -> list[Answer]:
        """So many clients at once, each of which makes one request after the other on its own connection.

        Returns their answers, in the order of clients. `{}` in the path becomes the number of the request.
        """
        return asyncio.run(_drive(self.port, path, clients, requests))

    def stop(self, number: int = signal.SIGINT, *, children: bool = True) -> Ended:
        """Sends the signal to the command, which passes it on, and waits for the end.

        `children`: no process of the report may be left.
        """
        self.process.send_signal(number)
        status = self.process.wait(PATIENCE)
        report: dict[str, Any] = {}
        if self._report is not None:
            assert self._report.exists(), self._printed("stderr")
            report = json.loads(self._report.read_text())
            if children:
                assert not [row["pid"] for row in report["processes"] if alive(row["pid"])]
        return Ended(status, self._printed("stdout"), self._printed("stderr"), report)


@contextmanager
def serving(
    *words: str | Path,
    folder: Path,
    watched: bool = True,
    options: tuple[str, ...] = (),
    env: Mapping[str, str] | None = None,
    listens: bool = True,
) -> Iterator[Server]:
    """A server that runs while the block does: in `words`, {port} becomes a free one, on which it is to listen.

    `watched`: under `poolscope run --quiet` with these `options`. Its output goes to files.
    """
    with reserved_port() as port:
        report = folder / "report.json" if watched else None
        command = [str(word).replace("{port}", str(port)) for word in words]
        if report is not None:
            report.unlink(missing_ok=True)
            us = [sys.executable, "-m", "poolscope", "run", "--quiet", "--json", str(report), *options, "--"]
            command = us + command
        with (folder / "stdout").open("wb") as out, (folder / "stderr").open("wb") as err:
            process = subprocess.Popen(
                command,
                cwd=folder,
                env=env or environment(PYTHONPATH=str(folder)),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )
        server = Server(process, port, folder, report)
        try:
            if listens:
                server.await_port()
            yield server
        finally:
            if process.poll() is None:
                # By name of the session: the server's own children too.
                subprocess.run(["kill", "-KILL", "--", f"-{process.pid}"], check=False)
            process.wait(PATIENCE)


async def _drive(port: int, path: str, clients: int, requests: int) -> list[Answer]:
    async def client(number: int) -> list[Answer]:
        answers: list[Answer] = []
        reader = writer = None
        try:
            for request in range(number * requests, (number + 1) * requests):
                if writer is None or reader is None:
                    reader, writer = await asyncio.open_connection("127.0.0.1", port)
                asked = path.replace("{}", str(request))
                writer.write(f"GET {asked} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
                answer, closed = await _answer(reader)
                answers.append(answer)
                if closed:
                    writer.close()
                    writer = None
        finally:
            if writer is not None:
                writer.close()
        return answers

    async with asyncio.timeout(PATIENCE):
        found = await asyncio.gather(*map(client, range(clients)))
    return [answer for answers in found for answer in answers]


async def _answer(reader: asyncio.StreamReader) -> tuple[Answer, bool]:
    """One answer, and whether the server closes the connection after it."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    status, *lines = head.rstrip().split("\r\n")
    pairs = [(name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines)]
    headers = dict(pairs)
    closed = headers.get("connection", "").lower() == "close"
    if headers.get("transfer-encoding") == "chunked":
        body = b""
        while size := int(await reader.readline(), 16):
            body += (await reader.readexactly(size + 2))[:-2]
        await reader.readline()
    elif "content-length" in headers:
        body = await reader.readexactly(int(headers["content-length"]))
    else:
        body, closed = await reader.read(), True
    return Answer(status, tuple(pair for pair in pairs if pair[0] != "date"), body), closed

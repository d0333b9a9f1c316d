"""What docs/metrics.md and docs/endpoint.md say: the tables are true, and the code in them works as it stands."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import yaml
from cli_support import PATIENCE, environment
from metrics_support import CONTRACT, Scrape

from poolscope import config

DOCS = Path(__file__).parents[2] / "docs"
METRICS, ENDPOINT = (DOCS / "metrics.md").read_text(), (DOCS / "endpoint.md").read_text()

BLOCK = re.compile(r"<!-- test: (\S+) -->\n```(\w+)\n(.*?)```\n", re.DOTALL)
CODE = {name: code for name, language, code in BLOCK.findall(METRICS) if language == "python"}
SETTINGS = {name: code for name, language, code in BLOCK.findall(ENDPOINT) if language == "yaml"}

#: Some work, after which the pool `docs` has finished three tasks.
WORK = """
import poolscope, time
with poolscope.ThreadPoolExecutor(2, name="docs") as _pool:
    list(_pool.map(abs, range(3)))
while sum(row.tasks.succeeded for row in poolscope.report().pools if row.name == "docs") < 3:
    time.sleep(0.01)
"""
DONE = 'poolscope_pool_tasks_finished_total{outcome="succeeded",pool="docs"} 3.0'

ASK = """
import urllib.request
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
def ask(url):
    return _opener.open(url, timeout=60).read().decode()
"""


def run(name: str, check: str, port: int = 0, **variables: str) -> str:
    """The standard output of a program of the docs with a check after it. `port` in place of the one it names."""
    code = re.sub(r"\b(9464|8000|9091)\b", str(port), CODE[name])
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", code + WORK + ASK + check],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        env=environment(**variables),
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    return ended.stdout


@pytest.fixture
def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def test_each_program_is_tested() -> None:
    tested = {"serve", "registry", "default-registry", "asgi", "wsgi", "push", "multiprocess"}
    assert set(CODE) == tested
    assert METRICS.count("```python") == len(tested)


def test_the_table_is_the_contract() -> None:
    rows = re.findall(r"^\| `(poolscope_\w+)` \| (\w+) \|([\w, ]*)\|", METRICS, re.MULTILINE)
    assert {
        name: (kind, {it for it in labels.replace(" ", "").split(",") if it}) for name, kind, labels in rows
    } == CONTRACT


def test_serve(port: int) -> None:
    assert DONE in run("serve", "print(ask(server.url + '/metrics'))", port)


def test_registry() -> None:
    assert DONE in run(
        "registry", "from prometheus_client import generate_latest\nprint(generate_latest(registry).decode())"
    )


def test_default_registry(port: int) -> None:
    shown = run("default-registry", f"print(ask('http://127.0.0.1:{port}/metrics'))", port)
    assert DONE in shown
    assert "python_info" in shown  # the program's own are there too


def test_asgi() -> None:
    check = """
import asyncio
sent = []
async def receive():
    return {"type": "http.request"}
async def send(message):
    sent.append(message)
scope = {"type": "http", "query_string": b"", "headers": [(b"accept", b"application/openmetrics-text; version=1.0.0")]}
asyncio.run(metrics(scope, receive, send))
print(sent[0]["status"])
print(sent[1]["body"].decode(), end="")
"""
    status, _, body = run("asgi", check).partition("\n")
    assert status == "200"
    assert Scrape(body, openmetrics=True).value("poolscope_task_run_seconds_count", pool="docs") == 3


def test_wsgi() -> None:
    check = """
from wsgiref.util import setup_testing_defaults
environ = {}
setup_testing_defaults(environ)
print(b"".join(metrics(environ, lambda status, headers: print(status))).decode())
"""
    shown = run("wsgi", check)
    assert shown.startswith("200 OK\n")
    assert DONE in shown


@pytest.fixture
def gateway() -> Iterator[tuple[int, list[tuple[str, str, str]]]]:
    """What a push gateway is to who pushes: a PUT, and 200. Its port, and what it got."""
    got: list[tuple[str, str, str]] = []

    class Gateway(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            got.append((self.command, self.path, self.rfile.read(int(self.headers["Content-Length"])).decode()))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Gateway) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port, got
        server.shutdown()
        thread.join()


def test_push(gateway: tuple[int, list[tuple[str, str, str]]]) -> None:
    port, got = gateway
    run("push", "", port, no_proxy="*")
    ((method, path, body),) = got
    assert (method, path) == ("PUT", "/metrics/job/nightly")
    # A task's result may be there a moment before its end is recorded.
    assert Scrape(body).value("poolscope_pool_tasks_submitted_total", pool="batch") == 100


def test_multiprocess(tmp_path: Path, port: int) -> None:
    check = """
import os
from prometheus_client import generate_latest
requests.inc(5)
print(sorted(name.split("_")[0] for name in os.listdir(os.environ["PROMETHEUS_MULTIPROC_DIR"])))
print(generate_latest(own).decode())
print("and")
print(ask(server.url + "/metrics"))
"""
    shown = run("multiprocess", check, port, PROMETHEUS_MULTIPROC_DIR=str(tmp_path))
    theirs, _, ours = shown.partition("\nand\n")
    assert theirs.startswith("['counter")
    assert "requests_total 5.0" in theirs
    assert "poolscope" not in theirs
    assert DONE in ours


# --- the endpoint


@pytest.mark.parametrize("name", ["bearer", "basic"])
def test_settings_of_the_docs_are_valid(name: str) -> None:
    made = config.parse(SETTINGS[name], name)
    assert made.endpoint.missing_protection() is None


@pytest.mark.parametrize("name", ["scrape-bearer", "scrape-basic"])
def test_scrape_configurations_of_the_docs_are_valid(tmp_path: Path, name: str) -> None:
    promtool = shutil.which("promtool")
    assert promtool is not None, "install Debian's package prometheus"
    path = tmp_path / "prometheus.yml"
    path.write_text(yaml.safe_dump(yaml.safe_load(SETTINGS[name])))
    command = [promtool, "check", "config", "--syntax-only", str(path)]
    checked = subprocess.run(command, capture_output=True, timeout=60, check=False)
    assert checked.returncode == 0, checked.stderr.decode()


def test_every_test_of_the_fault_table_is_there() -> None:
    table = ENDPOINT[ENDPOINT.index("| fault |") :]
    named = re.findall(r"`(test_\w+)`", table[: table.index("\n\n")])
    there = "".join(path.read_text() for path in Path(__file__).parent.glob("test_endpoint*.py"))
    there += (Path(__file__).parents[1] / "unit" / "test_endpoint_access.py").read_text()
    assert len(named) >= 20
    assert [name for name in named if f"def {name}(" not in there] == []


def test_the_bounds_of_the_docs_are_those_of_the_code() -> None:
    from poolscope.endpoint import access, answers, connections

    for text in (
        f"{connections.MAX_REQUESTS} requests at once",
        f"{connections.MAX_SILENT} connections that say nothing",
        f"{connections.REQUEST_SECONDS:.0f} s for a request",
        f"{answers.MAX_REQUEST_BYTES // 1024} KiB of request",
        f"{access.MAX_TRIES} passwords",
    ):
        assert text in ENDPOINT

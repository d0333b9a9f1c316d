"""Real programs that serve: by the command line, by the environment alone, and what they import for it."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from cli_support import PATIENCE, environment, line, poolscope, python, script, started
from endpoint_support import ask, certificate, secret, status, trusting, until

SATURATING = """
    import os, time
    from concurrent.futures import ThreadPoolExecutor
    def fetch():
        time.sleep(0.05)
    with ThreadPoolExecutor(2, thread_name_prefix="crawler") as pool:
        while not os.path.exists("stop"):
            pool.submit(fetch)
            time.sleep(0.01)
        pool.shutdown(cancel_futures=True)
"""


def request(path: str, token: str | None = None) -> bytes:
    credentials = "" if token is None else f"Authorization: Bearer {token}\r\n"
    return f"GET {path} HTTP/1.1\r\nHost: metrics.example\r\n{credentials}\r\n".encode()


def test_run_beyond_loopback_with_tls_a_token_and_findings(tmp_path: Path) -> None:
    crt, key = certificate(tmp_path)
    token = secret(tmp_path, "token", "s3cret")
    endpoint = {"tls": {"certificate": crt, "key": key}, "bearer_token_file": token}
    (tmp_path / "c.yaml").write_text(json.dumps({"listen": "0.0.0.0:0", "endpoint": endpoint}))
    script(tmp_path, SATURATING)
    words = (sys.executable, "-m", "poolscope", "run", "--config", "c.yaml", "program.py")
    with started(*words, cwd=tmp_path) as process:
        assert process.stderr is not None
        found = re.fullmatch(r"poolscope: metrics at https://127\.0\.0\.1:(\d+)/metrics\n", process.stderr.readline())
        assert found is not None
        port, context = int(found[1]), trusting(crt)
        assert status(ask(port, request("/metrics"), context)) == 401

        def warning() -> object:
            body = ask(port, request("/findings", "s3cret"), context).partition(b"\r\n\r\n")[2]
            return next((it for it in json.loads(body) if it["severity"] == "warning"), None)

        try:
            shown = until(warning)
        finally:
            (tmp_path / "stop").touch()
            process.wait(PATIENCE)
        assert (shown["pattern"], shown["cause"]) == ("async_then_serial", "blocking_io")
        assert any(frame["function"] == "fetch" for frame in shown["frames"])


@pytest.fixture
def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


SERVED = """
    import sys, time
    import poolscope
    with poolscope.ThreadPoolExecutor(2, name="crawler") as pool:
        pool.submit(int).result()
        print("works", flush=True)
        sys.stdin.read()
"""


def test_the_environment_alone(tmp_path: Path, port: int) -> None:
    token = secret(tmp_path, "token", "s3cret")
    (tmp_path / "c.yaml").write_text(json.dumps({"listen": "1", "endpoint": {"bearer_token_file": token}}))
    variables = environment(POOLSCOPE_CONFIG="c.yaml", POOLSCOPE_LISTEN=str(port))
    command = [sys.executable, "-c", textwrap.dedent(SERVED)]
    process = subprocess.Popen(
        command, cwd=tmp_path, env=variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        try:
            assert line(process) == "works"

            def scraped() -> bytes:
                try:
                    return ask(port, request("/metrics", "s3cret"))
                except ConnectionError:
                    return b""

            answer = until(lambda: b'submitted_total{pool="crawler"} 1.0' in (found := scraped()) and found)
            assert status(answer) == 200
            assert status(ask(port, request("/metrics"))) == 401
        finally:
            process.kill()


def test_a_program_that_serves_what_the_environment_asks_for(tmp_path: Path, port: int) -> None:
    program = """
        import threading, time, urllib.request, poolscope
        from poolscope.multiprocess import serving
        with poolscope.ThreadPoolExecutor(2, name="crawler") as pool:
            pool.submit(int).result()
            while not serving.is_served(LISTEN):
                time.sleep(0.01)
            with poolscope.serve() as server:
                text = urllib.request.urlopen(server.url + "/metrics").read().decode()
                print('submitted_total{pool="crawler"} 1.0' in text)
    """
    listen = f"127.0.0.1:{port}"
    script(tmp_path, program.replace("LISTEN", repr(listen)))
    assert python("program.py", cwd=tmp_path, env=environment(POOLSCOPE_LISTEN=listen)) == (0, "True\n", "")


@pytest.mark.parametrize("how", ["argument", "environment"])
def test_a_program_that_serves_what_its_parent_serves(tmp_path: Path, port: int, how: str) -> None:
    """The parent answers for it."""
    program = """
        import time, urllib.request, poolscope
        def scrape():
            return urllib.request.urlopen(server.url + "/metrics").read().decode()
        with poolscope.serve("PORT") as server, poolscope.ThreadPoolExecutor(2, name="crawler") as pool:
            pool.submit(int).result()
            while 'submitted_total{pool="crawler"} 1.0' not in scrape():
                time.sleep(0.01)
        print(server.port)
    """
    script(tmp_path, program.replace("PORT", str(port)))
    options = ["--listen", str(port)] if how == "argument" else []
    env = environment() if how == "argument" else environment(POOLSCOPE_LISTEN=str(port))
    outcome = poolscope("run", "--quiet", *options, "program.py", cwd=tmp_path, env=env)
    assert outcome == (0, f"{port}\n", "")


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({"POOLSCOPE_LISTEN": "0.0.0.0:0"}, "0.0.0.0 can be reached from other machines, and TLS is not set"),
        ({"POOLSCOPE_LISTEN": "0", "POOLSCOPE_CONFIG": "c.yaml"}, "endpoint.bearer_token_file: "),
        ({"POOLSCOPE_LISTEN": "nowhere"}, "POOLSCOPE_LISTEN: listen: expected HOST:PORT or PORT"),
    ],
)
def test_an_environment_that_cannot_be_served_is_one_line_and_the_program_goes_on(
    tmp_path: Path, variables: dict[str, str], told: str
) -> None:
    (tmp_path / "c.yaml").write_text("endpoint: {bearer_token_file: nowhere}\n")
    program = """
        import logging, threading, poolscope
        told = threading.Event()
        class Handler(logging.StreamHandler):
            def emit(self, record):
                super().emit(record)
                told.set()
        logging.getLogger("poolscope").addHandler(Handler())
        with poolscope.ThreadPoolExecutor(2, name="crawler") as pool:
            pool.submit(int).result()
            told.wait(50)
            print(poolscope.report().pools[0].tasks.succeeded)
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    ended = subprocess.run(
        command,
        cwd=tmp_path,
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (0, "1\n")
    (said,) = ended.stderr.splitlines()
    assert told in said
    assert said.startswith("warning: ")
    assert not re.search(r"[a-z]Error|\.py", said), "it is no failure of ours"


def test_nothing_is_imported_for_an_endpoint_that_nobody_wants() -> None:
    """`ssl` takes long to import, and must not be there before gevent patches; prometheus_client imports it."""
    program = """
        import sys, poolscope
        with poolscope.install(), poolscope.ThreadPoolExecutor(2, name="crawler") as pool:
            pool.submit(int).result()
            poolscope.report(), poolscope.findings()
        print(sorted({"ssl", "_ssl", "prometheus_client", "http.server", "poolscope.endpoint"} & set(sys.modules)))
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True, env=environment())
    assert (ended.stdout, ended.stderr) == ("[]\n", "")


def test_our_own_part_imports_ssl_only_for_a_certificate() -> None:
    """Seen with a prometheus_client that does not import it."""
    program = """
        import sys, types
        import prometheus_client
        for name in [name for name in sys.modules if name.split(".")[0] in ("ssl", "_ssl")]:
            del sys.modules[name]
        import poolscope
        from poolscope.config import from_mapping
        from poolscope.metrics.families import serve_snapshots
        with serve_snapshots(lambda: None, from_mapping({"listen": "0"})) as server:
            import urllib.request
            before = "ssl" in sys.modules
        print(before)
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True, env=environment())
    assert (ended.stdout, ended.stderr) == ("False\n", "")

"""gunicorn's threaded worker, with idle connections, driven into saturation and back."""

from __future__ import annotations

import re
import signal
import socket
from contextlib import ExitStack
from http.client import HTTPConnection
from pathlib import Path

from cli_support import PATIENCE, script
from load_support import check_knee
from service_support import Answer, Ended, Server, serving, tool

APP = """
import time

def application(environ, start_response):
    number = environ["PATH_INFO"].rpartition("/")[2]
    time.sleep(0.05)
    body = f"page {number}".encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
"""
POOL = "gunicorn.workers.gthread:ThreadWorker.get_thread_pool"


def gently(server: Server) -> list[Answer]:
    """Two clients, while two connections say nothing, and eight have said what they had to, one after the other."""
    with ExitStack() as open_connections:
        for _ in range(8):
            connection = HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
            open_connections.callback(connection.close)
            # One at a time, and more of them than the short turns in which a connection is found closed: so it is known
            # how long they take alone.
            for _ in range(3):
                connection.request("GET", "/pages/0")
                assert connection.getresponse().read() == b"page 0"
        for _ in range(2):
            open_connections.enter_context(socket.create_connection(("127.0.0.1", server.port), PATIENCE))
        return server.drive("/pages/{}", clients=2, requests=20)


def comparable(ended: Ended) -> tuple[int, list[str], list[str]]:
    """Its end, without numbers of processes and times, and lines of several processes in an order of their own."""
    out, err = ([re.sub(r"\d+", "0", line) for line in sorted(text.splitlines())] for text in (ended.out, ended.err))
    return ended.status, sorted(out), sorted(err)


def test_a_server_under_load(tmp_path: Path) -> None:
    script(tmp_path, APP, "app.py")
    command = [tool("gunicorn"), "-k", "gthread", "--threads", "4", "-b", "127.0.0.1:{port}", "--no-control-socket"]
    command += ["app:application"]
    with serving(*command, folder=tmp_path, watched=False) as server:
        plain = gently(server)
        alone = server.stop(signal.SIGTERM)
    with serving(*command, folder=tmp_path) as server:
        before = gently(server)
        crowd = server.drive("/pages/{}", clients=40, requests=4)
        after = gently(server)
        ended = server.stop(signal.SIGTERM)
    assert before == after == plain
    assert [answer.body for answer in crowd] == [b"page %d" % number for number in range(160)]
    assert comparable(ended) == comparable(alone)
    check_knee(ended, POOL, "app.py", "time.sleep(0.05)", gentle_seconds=44 * 0.05)
    pool = ended.pool(POOL)
    assert (pool["max_workers"], pool["peak_active"]) == (4, 4)
    assert pool["created_at"].startswith("workers/gthread.py:")  # no line of the user's had it made
    # A turn at a connection is a task: more of them than requests.
    [function] = pool["functions"]
    assert function["name"] == "app.application"
    assert pool["tasks"]["succeeded"] == pool["tasks"]["submitted"] >= 160 + 2 * 64
    # In the worker, of which the arbiter is the parent.
    assert pool["pid"] in {process["pid"] for process in ended.report["processes"] if process["parent"] != 0}

"""cheroot's threads: in process, gated by events, and those of a server that is driven beyond them."""

from __future__ import annotations

import queue
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from adapter_support import patched
from cheroot import server as cheroot_server
from cheroot.workers import threadpool
from cli_support import script
from probe_support import FakeProbe, Ledger
from service_support import serving

from poolscope.probe.adapters import cheroot as adapter

LIMIT = 30  # seconds for what is sure to come


@pytest.fixture
def probe():
    with patched(adapter) as made:
        yield made


def application(environ, start_response):
    raise NotImplementedError


class Connection(cheroot_server.HTTPConnection):  # type: ignore[misc, unused-ignore]  # typed in some versions
    """A request that lasts until its gate is opened."""

    remote_addr = remote_port = ""

    def __init__(self, server, gate=None):
        self.server = server
        self.entered, self.gate, self.closed = threading.Event(), gate, threading.Event()
        self.RequestHandlerClass = self._request

    def _request(self, server, connection):
        self.entered.set()
        assert self.gate is None or self.gate.wait(LIMIT)
        raise OSError(9, "nothing to read")

    def _conditional_error(self, *_):
        pass

    def close(self):
        self.closed.set()


@pytest.fixture
def pool(probe):
    server = SimpleNamespace(
        stats={"Enabled": False, "Worker Threads": {}}, wsgi_app=application, error_log=lambda *_, **__: None
    )
    made = server.requests = threadpool.ThreadPool(
        server, min=2, max=4, accepted_queue_size=3, accepted_queue_timeout=0
    )
    made.start()
    yield made
    made.stop(LIMIT)


def test_turns_are_tasks_of_the_application_and_queue(probe, pool):
    gate = threading.Event()
    connections = [Connection(pool.server, gate) for _ in range(5)]
    for connection in connections[:2]:
        pool.put(connection)
    assert all(connection.entered.wait(LIMIT) for connection in connections[:2])
    for connection in connections[2:]:
        pool.put(connection)
    with pytest.raises(queue.Full):
        pool.put(Connection(pool.server))
    book = Ledger(probe.recorders[0], probe)
    book.only(submitted=5, running=2, queued=3, rejected=1)
    assert book.max_workers == 2
    gate.set()
    assert all(connection.closed.wait(LIMIT) for connection in connections)
    book.only(submitted=5, succeeded=5, rejected=1)
    assert set(probe.function_names().values()) == {f"{__name__}.application"}
    assert (probe.recorders[0].name, probe.recorders[0].kind) == ("cheroot", "cheroot")


def test_a_connection_of_another_kind_is_told_once(probe, pool):
    class Other(Connection):
        def communicate(self):
            return False

    for _ in range(2):
        other = Other(pool.server)
        pool.put(other)
        assert other.closed.wait(LIMIT)
    Ledger(probe.recorders[0], probe).only()
    told = {message[1] for message in probe.messages if message[0] == "notice"}
    assert len(told) == 1
    assert "the class has a communicate of its own" in str(told)


def test_another_size_can_be_tried(probe):
    probe.add_rule("cheroot", 3)
    made = threadpool.ThreadPool(SimpleNamespace(), min=1, max=2)
    assert (made.min, made.max) == (3, 3)


def test_an_unknown_version_is_left_alone(monkeypatch):
    probe = FakeProbe()
    monkeypatch.setattr(threadpool.ThreadPool, "put", lambda self: None)
    before = dict(threadpool.ThreadPool.__dict__)
    adapter.patch(probe)
    assert dict(threadpool.ThreadPool.__dict__) == before
    assert "its threads are not watched" in str(probe.messages)
    adapter.unpatch()


PROGRAM = """
    import sys, time
    from cheroot.wsgi import Server

    def page(environ, start_response):
        time.sleep(0.1)
        start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "4")])
        return [b"page"]

    server = Server(("127.0.0.1", int(sys.argv[1])), page, numthreads=4)
    try:
        server.start()
    except KeyboardInterrupt:
        server.stop()
"""


def test_a_server_that_is_driven_beyond_its_threads(tmp_path: Path) -> None:
    program = script(tmp_path, PROGRAM)
    with serving(sys.executable, program, "{port}", folder=tmp_path) as server:
        server.drive("/", clients=2, requests=2)
        server.drive("/", clients=20, requests=4)
        ended = server.stop()
    pool = ended.pool("cheroot")
    assert (pool["kind"], pool["max_workers"], pool["peak_active"]) == ("cheroot", 4, 4)
    assert "__main__.page" in [function["name"] for function in pool["functions"]]
    assert pool["tasks"]["succeeded"] >= 84
    assert [finding["pattern"] for finding in pool["findings"] if finding["severity"] != "info"]

"""The endpoint over real sockets: who is answered, who is refused, and who cannot hold it up."""

from __future__ import annotations

import gzip
import logging
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from metrics_support import Scrape, converse, get, pool, snapshot
from prometheus_client import CollectorRegistry

from poolscope.config import from_mapping
from poolscope.endpoint import Server
from poolscope.errors import ListenError
from poolscope.metrics.families import SnapshotCollector, serve_snapshots
from poolscope.snapshot import Snapshot

SETTINGS = from_mapping({"listen": "127.0.0.1:0", "metrics": {"wait_buckets": [0.1, 1], "run_buckets": [0.1, 1]}})
ONE = snapshot(pool("db", queue_depth=4))


@pytest.fixture
def server() -> Iterator[Server]:
    with serve_snapshots(lambda: ONE, SETTINGS) as opened:
        yield opened


# --- answers


def test_metrics_as_text(server: Server) -> None:
    status, headers, body = get(f"{server.url}/metrics")
    assert status == 200
    assert headers["Content-Type"].startswith("text/plain; version=")
    assert headers["Content-Length"] == str(len(body))
    assert Scrape(body.decode()).value("poolscope_pool_queue_depth", pool="db") == 4


def test_openmetrics_if_asked_for(server: Server) -> None:
    status, headers, body = get(f"{server.url}/metrics", Accept="application/openmetrics-text;version=1.0.0")
    assert status == 200
    assert headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
    assert Scrape(body.decode(), openmetrics=True).value("poolscope_pool_queue_depth", pool="db") == 4


@pytest.mark.parametrize("accept", ["", "*/*", "text/html", "application/openmetrics-text;version=x.y", ";;=,", "\xff"])
def test_any_accept_header_is_answered(server: Server, accept: str) -> None:
    status, _, body = get(f"{server.url}/metrics", Accept=accept)
    assert status == 200
    assert b"poolscope_pool_queue_depth" in body


OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
TEXT = "text/plain; version=0.0.4; charset=utf-8"
PROTOBUF = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited"
PROMETHEUS_2 = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
PROMETHEUS_3 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,"
    "text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)


@pytest.mark.parametrize(
    ("accept", "shown"),
    [
        (PROMETHEUS_2, f"{OPENMETRICS}; escaping=underscores"),
        (PROMETHEUS_3, f"{OPENMETRICS}; escaping=allow-utf-8"),
        (f"{PROTOBUF};q=0.7,{PROMETHEUS_3}", f"{OPENMETRICS}; escaping=allow-utf-8"),
        (PROTOBUF, TEXT),
        ("application/openmetrics-text", OPENMETRICS),
        ('Application/OpenMetrics-Text; Version="1.0.0"; escaping=dots', f"{OPENMETRICS}; escaping=dots"),
        ("text/plain;version=1.0.0;escaping=values", "text/plain; version=1.0.0; charset=utf-8; escaping=values"),
        ("text/plain;version=1.0.0;escaping=x y", "text/plain; version=1.0.0; charset=utf-8; escaping=underscores"),
        # Not what we have, or not wanted.
        ("application/openmetrics-text;version=0.0.1", TEXT),
        ("application/openmetrics-text;version=99.0.0,text/plain;version=0.0.4;q=0.1", TEXT),
        ("application/openmetrics-text;q=0,*/*", TEXT),
        ("application/openmetrics-text;q=0.1,text/plain;q=0.9", TEXT),
        ("application/openmetrics-text;q=nan", TEXT),
        ("application/openmetrics-text;q=much", OPENMETRICS),
    ],
)
def test_the_format_is_the_most_wanted_one_that_there_is(server: Server, accept: str, shown: str) -> None:
    status, headers, body = get(f"{server.url}/metrics", Accept=accept)
    assert (status, headers["Content-Type"]) == (200, shown)
    modern = shown.startswith("application/")
    name = "poolscope_pool_queue_depth".replace("_", "__" if "dots" in shown else "_")
    assert Scrape(body.decode(), openmetrics=modern).value(name, pool="db") == 4
    assert body.endswith(b"# EOF\n") is modern
    assert headers["Vary"] == "Accept, Accept-Encoding"


@pytest.mark.parametrize(
    ("encodings", "shown"),
    [
        ("gzip", "gzip"),
        ("br, GZIP;q=0.5", "gzip"),
        ("gzip;q=0", None),
        ("gzip; q=0.0, identity", None),
        ("notgzip, br", None),
        ("", None),
    ],
)
def test_compressed_only_if_that_is_wanted(server: Server, encodings: str, shown: str | None) -> None:
    _, headers, _ = get(f"{server.url}/metrics", **{"Accept-Encoding": encodings})
    assert headers["Content-Encoding"] == shown


def test_compressed_if_asked_for(server: Server) -> None:
    status, headers, body = get(f"{server.url}/metrics", **{"Accept-Encoding": "identity"})
    assert headers["Content-Encoding"] is None
    status, headers, packed = get(f"{server.url}/metrics", **{"Accept-Encoding": "gzip"})
    assert (status, headers["Content-Encoding"]) == (200, "gzip")
    assert gzip.decompress(packed) == body


def test_single_metrics_can_be_asked_for(server: Server) -> None:
    _, _, body = get(f"{server.url}/metrics?name[]=poolscope_pool_queue_depth")
    assert set(Scrape(body.decode()).families) == {"poolscope_pool_queue_depth"}
    names = "name[]=poolscope_task_wait_seconds_count&name[]=poolscope_pool_tasks_submitted_total&name[]=up"
    _, _, body = get(f"{server.url}/metrics?{names}")
    assert {name for name, _ in Scrape(body.decode()).samples} == {
        "poolscope_task_wait_seconds_count",
        "poolscope_pool_tasks_submitted_total",
    }
    status, _, body = get(f"{server.url}/metrics?{'&'.join(['a=1'] * 2000)}")
    assert (status, body) == (400, b"400 Too many parameters\n")


def test_head_has_the_headers_alone(server: Server) -> None:
    status, headers, body = get(f"{server.url}/metrics", method="HEAD")
    assert (status, body) == (200, b"")
    assert int(headers["Content-Length"]) > 1000


def test_health(server: Server) -> None:
    assert get(f"{server.url}/healthz")[::2] == (200, b"ok\n")


def test_the_root_leads_to_the_metrics(server: Server) -> None:
    assert b"poolscope_pool_queue_depth" in get(server.url)[2]


@pytest.mark.parametrize("path", ["/metrics/", "/metric", "/../metrics", "/favicon.ico", "/%00", "http://[::x"])
def test_nothing_else_is_here(server: Server, path: str) -> None:
    answer = converse(server.port, f"GET {path} HTTP/1.0\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.0 404 ")
    assert answer.endswith(b"404 Not here: the metrics are at /metrics, the findings at /findings\n")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_only_get_and_head(server: Server, method: str) -> None:
    request = f"{method} /metrics HTTP/1.0\r\nContent-Length: 5\r\n\r\nhello".encode()
    answer = converse(server.port, request)
    assert answer.startswith(b"HTTP/1.0 405 ")
    assert b"Allow: GET, HEAD" in answer


@pytest.mark.parametrize(
    "request_",
    [b"\r\n", b"nonsense\r\n\r\n", b"GET /metrics HTTP/9.9\r\n\r\n", b"\x16\x03\x01\x02\0\x01\xff\r\n", b""],
)
def test_what_is_no_request_harms_nobody(server: Server, request_: bytes) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as client:
        client.sendall(request_)
        client.shutdown(socket.SHUT_WR)
        while client.recv(65536):
            pass
    assert get(f"{server.url}/healthz")[0] == 200


def test_headers_without_end_are_refused(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as client:
        client.sendall(b"GET /metrics HTTP/1.0\r\n" + b"X: y\r\n" * 101)
        assert client.recv(65536).startswith(b"HTTP/1.0 431 ")


# --- a snapshot that fails


def test_a_failing_snapshot_is_told_and_the_next_one_shown(caplog: pytest.LogCaptureFixture) -> None:
    failing = True

    def source() -> Snapshot:
        if failing:
            raise RuntimeError("no\nluck")
        return ONE

    with serve_snapshots(source, SETTINGS) as server, caplog.at_level(logging.WARNING, "poolscope"):
        for _ in range(2):
            status, _, body = get(f"{server.url}/metrics")
            assert (status, body) == (500, b"500 The metrics cannot be shown: RuntimeError: no luck\n")
        assert get(f"{server.url}/healthz")[0] == 200
        failing = False
        assert get(f"{server.url}/metrics")[0] == 200
    assert len(caplog.records) == 1


# --- several clients, slow ones, and those that go away


def test_scrapes_at_the_same_time_wait_for_one_another() -> None:
    inside: list[int] = []
    most: list[int] = []

    def source() -> Snapshot:
        inside.append(1)
        most.append(len(inside))
        inside.pop()
        return ONE

    answers: list[tuple[int, Any, bytes]] = []
    with serve_snapshots(source, SETTINGS) as server:
        clients = [threading.Thread(target=lambda: answers.append(get(f"{server.url}/metrics"))) for _ in range(8)]
        for client in clients:
            client.start()
        for client in clients:
            client.join()
    assert [status for status, _, _ in answers] == [200] * 8
    assert len({body for _, _, body in answers}) == 1
    assert set(most) == {1}


def test_idle_clients_do_not_keep_others_out(server: Server) -> None:
    idle = [socket.create_connection(("127.0.0.1", server.port), timeout=60) for _ in range(5)]
    idle[0].sendall(b"GET /met")
    try:
        assert get(f"{server.url}/metrics")[0] == 200
    finally:
        for client in idle:
            client.close()


def test_an_idle_client_is_dropped() -> None:
    with Server(CollectorRegistry(), "127.0.0.1:0", request_seconds=0.2, max_requests=1) as server:
        assert converse(server.port, b"GET /healthz HTTP/1.0\r\n") == b""
        answered = first_answer(server)
    assert answered.startswith(b"HTTP/1.0 200 ")


def test_a_byte_now_and_then_does_not_extend_the_time() -> None:
    with Server(CollectorRegistry(), "127.0.0.1:0", request_seconds=0.3) as server:
        client = socket.create_connection(("127.0.0.1", server.port), timeout=0.05)
        sent = 0
        with client:
            # Each byte is sooner than the limit; without a deadline for all of them this would never end.
            while True:
                try:
                    client.sendall(b"G")
                    sent += 1
                    if not client.recv(1):
                        break
                except TimeoutError:
                    continue
                except OSError:
                    break
        assert sent > 1


def test_a_client_that_does_not_read_is_dropped() -> None:
    # More than the socket's buffers hold.
    large = snapshot(*(pool(f"{number}{'x' * 200}") for number in range(300)))
    with (
        Server(registry(lambda: large), "127.0.0.1:0", request_seconds=1.0, max_requests=1) as server,
        socket.socket() as client,
    ):
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(60)
        client.connect(("127.0.0.1", server.port))
        client.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        # Its place is free again although it still holds its end of the connection.
        assert first_answer(server).startswith(b"HTTP/1.0 200 ")


def test_a_client_that_goes_away_is_no_news(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    entered, leave = threading.Event(), threading.Event()

    def source() -> Snapshot:
        entered.set()
        leave.wait(timeout=60)
        return ONE

    with serve_snapshots(source, SETTINGS) as slow, caplog.at_level(logging.INFO, "poolscope"):
        client = socket.create_connection(("127.0.0.1", slow.port), timeout=60)
        client.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        entered.wait(timeout=60)
        # Reset, not closed in order: the answer then meets an error.
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client.close()
        leave.set()
        assert get(f"{slow.url}/metrics")[0] == 200
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []


def test_more_clients_than_places_are_told_to_come_back() -> None:
    entered, leave = threading.Event(), threading.Event()

    def source() -> Snapshot:
        entered.set()
        leave.wait(timeout=60)
        return ONE

    with Server(registry(source), "127.0.0.1:0", max_requests=1) as server:
        first: list[int] = []
        client = threading.Thread(target=lambda: first.append(get(f"{server.url}/metrics")[0]))
        client.start()
        entered.wait(timeout=60)
        assert converse(server.port, b"GET /metrics HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.0 503 ")
        leave.set()
        client.join()
        assert first == [200]
        assert first_answer(server).startswith(b"HTTP/1.0 200 ")


def registry(source: Callable[[], Snapshot]) -> CollectorRegistry:
    made = CollectorRegistry()
    made.register(SnapshotCollector(source, SETTINGS))
    return made


def first_answer(server: Server) -> bytes:
    """What the endpoint says once it has a place again."""
    while True:
        answer = converse(server.port, b"GET /healthz HTTP/1.0\r\n\r\n")
        if answer and b" 503 " not in answer:
            return answer


# --- where it listens


def test_loopback_is_the_default_and_the_port_is_told() -> None:
    with serve_snapshots(lambda: ONE, SETTINGS.with_listen("0")) as server:
        assert server.url == f"http://127.0.0.1:{server.port}"
        assert server.port > 0
        assert get(f"{server.url}/healthz")[0] == 200


def test_localhost_by_name() -> None:
    with serve_snapshots(lambda: ONE, SETTINGS.with_listen("localhost:0")) as server:
        assert get(f"{server.url}/healthz")[0] == 200


def test_ipv6() -> None:
    with serve_snapshots(lambda: ONE, SETTINGS.with_listen("[::1]:0")) as server:
        assert server.url == f"http://[::1]:{server.port}"
        assert get(f"{server.url}/healthz")[0] == 200


@pytest.mark.parametrize("listen", ["0.0.0.0:0", "[::]:0", "8.8.8.8:0", "0:0"])
def test_other_addresses_are_refused(listen: str) -> None:
    with pytest.raises(ListenError, match=r"can be reached from other machines.*endpoint\.insecure") as caught:
        serve_snapshots(lambda: ONE, SETTINGS.with_listen(listen))
    assert len(str(caught.value).splitlines()) == 1


def test_other_addresses_can_be_allowed() -> None:
    settings = from_mapping({"listen": "0.0.0.0:0", "endpoint": {"insecure": True}})
    with Server(CollectorRegistry(), "0.0.0.0:0", settings.endpoint) as server:
        assert server.url == f"http://127.0.0.1:{server.port}"
        assert get(f"{server.url}/healthz")[0] == 200


def test_a_taken_port(server: Server) -> None:
    with pytest.raises(ListenError, match=rf"^cannot listen on {server.port}: the port is taken; choose another"):
        serve_snapshots(lambda: ONE, SETTINGS.with_listen(str(server.port)))


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a" * 70])
def test_a_host_that_is_not_known(host: str) -> None:
    with pytest.raises(ListenError, match=rf"^cannot listen on {host}:0: the host '{host}' is not known ") as caught:
        serve_snapshots(lambda: ONE, SETTINGS.with_listen(f"{host}:0"))
    assert len(str(caught.value).splitlines()) == 1


def test_an_address_of_another_machine() -> None:
    settings = from_mapping({"listen": "192.0.2.1:0", "endpoint": {"insecure": True}})
    with pytest.raises(ListenError, match="this machine does not have that address; use 127"):
        serve_snapshots(lambda: ONE, settings)


# --- an end


def test_closing_frees_the_port_and_can_be_repeated() -> None:
    before = threading.active_count()
    server = serve_snapshots(lambda: ONE, SETTINGS)
    port = server.port
    server.close()
    server.close()
    assert threading.active_count() == before
    with serve_snapshots(lambda: ONE, SETTINGS.with_listen(str(port))) as again:
        assert get(f"{again.url}/healthz")[0] == 200


def test_it_does_not_keep_the_program_alive() -> None:
    program = (
        "from poolscope.metrics.families import serve_snapshots; from poolscope.config import Settings;"
        "print(serve_snapshots(lambda: None, Settings(listen='0')).port)"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert int(ended.stdout) > 0
    assert ended.stderr == ""


FORK = """
import os, urllib.request
from poolscope.config import Settings
from poolscope.metrics.families import serve_snapshots
server = serve_snapshots(lambda: None, Settings(listen="0"))
ask = urllib.request.build_opener(urllib.request.ProxyHandler({})).open
told, tell = os.pipe()
told_child, tell_child = os.pipe()
child = os.fork()
if child == 0:
    server.close()             # must not be the parent's end
    os.write(tell, b"closed")
    os.read(told_child, 1)     # lives on while the parent closes
    os._exit(0)
os.read(told, 6)
assert ask(server.url + "/healthz").read() == b"ok\\n"
listen = str(server.port)
server.close()
with serve_snapshots(lambda: None, Settings(listen=listen)) as again:   # the child does not hold the port
    assert ask(again.url + "/healthz").read() == b"ok\\n"
os.write(tell_child, b"x")
os.waitpid(child, 0)
print("well")
"""


def test_a_forked_child_neither_ends_the_endpoint_nor_holds_its_port() -> None:
    # Newer Pythons warn of any fork beside threads; here it is the point.
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORK]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.stdout, ended.stderr) == ("well\n", "")

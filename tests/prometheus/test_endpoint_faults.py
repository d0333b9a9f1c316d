"""The fault table of docs/endpoint.md: whatever clients do, the next well-behaved one is answered.

Each fault stays under way while the good request is made, and threads and descriptors stay within their bounds.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from endpoint_support import PASSWORD, ask, basic, certificate, cheap_hash, protected, secret, status, trusting, until
from hypothesis import given, settings
from hypothesis import strategies as st
from metrics_support import pool, snapshot

from poolscope.config import EndpointSettings
from poolscope.endpoint import Server
from poolscope.endpoint.access import Access, Verdict
from poolscope.endpoint.connections import MAX_REQUESTS, MAX_SILENT
from poolscope.metrics.families import serve_snapshots
from poolscope.snapshot import Snapshot

ONE = snapshot(pool("db", queue_depth=4))
GOOD = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    return certificate(tmp_path_factory.mktemp("pem"))


#: Requests that are nearly right.
REQUESTS = st.builds(
    lambda method, path, version, headers: b"".join([method, b" ", path, b" ", version, b"\r\n", *headers, b"\r\n"]),
    st.sampled_from([b"GET", b"HEAD", b"POST", b"get", b""]),
    st.sampled_from([b"/metrics", b"/findings", b"/metrics?name[]=%ff&&=", b"*", b"/\0", b"http://[", b""]),
    st.sampled_from([b"HTTP/1.1", b"HTTP/1.0", b"HTTP/0.9", b"HTTP/", b"HTTP/1.1.1", b"HTTP/-1.0", b""]),
    st.lists(
        st.builds(
            lambda name, value: name + b": " + value + b"\r\n",
            st.sampled_from(
                [b"Host", b"Accept", b"Accept-Encoding", b"Authorization", b"Content-Length", b"Expect", b""]
            ),
            st.one_of(
                st.binary(max_size=30),
                st.sampled_from(
                    [
                        b"application/openmetrics-text;version=1.0.0;escaping=x",
                        b"gzip;q=x",
                        b"100-continue",
                        b"Basic",
                        b"-1",
                    ]
                ),
            ),
        ),
        max_size=4,
    ),
)


@pytest.fixture(scope="module")
def anything() -> Iterator[Server]:
    with serve_snapshots(lambda: ONE, protected(), detailed=lambda: ONE) as opened:
        yield opened


@pytest.fixture(params=["plain", "TLS"])
def server(request: pytest.FixtureRequest, pem: tuple[str, str]) -> Iterator[tuple[Server, ssl.SSLContext | None]]:
    if request.param == "plain":
        with serve_snapshots(lambda: ONE, protected()) as opened:
            yield opened, None
    else:
        with serve_snapshots(lambda: ONE, protected(tls={"certificate": pem[0], "key": pem[1]})) as opened:
            yield opened, trusting(pem[0])


def request_threads() -> int:
    return sum(thread.name == "poolscope-request" for thread in threading.enumerate())


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def connect(server: Server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=60)


def is_cut_off(client: socket.socket) -> bool:
    try:
        return client.recv(65536) == b""
    except ConnectionError:
        return True


def test_a_thousand_silent_connections(server: tuple[Server, ssl.SSLContext | None]) -> None:
    opened, context = server
    before = descriptors()
    with contextlib.ExitStack() as stack:
        silent: list[socket.socket] = []
        for number in range(1000):
            silent.append(stack.enter_context(connect(opened)))
            # The system's queue of connections holds no more than so many.
            if number % 100 == 99:
                assert status(ask(opened.port, GOOD, context)) == 200
        assert request_threads() <= 1  # the last good one may be about to end
        assert descriptors() - before <= 1000 + MAX_SILENT + 20
        assert is_cut_off(silent[0])  # the oldest had to go
        silent[-1].sendall(b"\x16" if context else b"G")  # the newest is still welcome
        assert status(ask(opened.port, GOOD, context)) == 200
    until(lambda: request_threads() == 0)
    # As soon as the accepting thread has noticed that they are gone.
    until(lambda: descriptors() <= before)


def test_more_slow_requests_than_places(server: tuple[Server, ssl.SSLContext | None]) -> None:
    """A request (over TLS: a handshake) that is begun and never ended takes a place, until somebody needs it."""
    opened, context = server
    with contextlib.ExitStack() as stack:
        for _ in range(3 * MAX_REQUESTS):
            slow = stack.enter_context(connect(opened))
            slow.sendall(b"\x16\x03\x01" if context else b"GET /metrics HTTP/1.1\r\nHost: ")
        until(lambda: request_threads() >= MAX_REQUESTS)
        for _ in range(3):
            assert status(ask(opened.port, GOOD, context)) == 200
        assert request_threads() <= MAX_REQUESTS


def test_refused_clients_that_stay_give_way(server: tuple[Server, ssl.SSLContext | None]) -> None:
    """Who was told no and keeps the connection open takes a place until somebody needs it."""
    opened, context = server
    with contextlib.ExitStack() as stack:
        for _ in range(3 * MAX_REQUESTS):
            client: socket.socket = stack.enter_context(connect(opened))
            if context is not None:
                client = stack.enter_context(context.wrap_socket(client, server_hostname="localhost"))
            client.sendall(b"POST /metrics HTTP/1.1\r\nContent-Length: 9\r\n\r\n")
            assert client.recv(65536).startswith(b"HTTP/1.0 405 ")
        assert status(ask(opened.port, GOOD, context)) == 200
        assert request_threads() <= MAX_REQUESTS


def test_a_handshake_that_takes_its_time_holds_up_nobody(pem: tuple[str, str]) -> None:
    settings = protected(tls={"certificate": pem[0], "key": pem[1]})
    with serve_snapshots(lambda: ONE, settings) as opened, connect(opened) as plain:
        # A whole first message, and no second one.
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        half = trusting(pem[0]).wrap_bio(incoming, outgoing, server_hostname="localhost")
        with pytest.raises(ssl.SSLWantReadError):
            half.do_handshake()
        plain.sendall(outgoing.read())
        until(lambda: request_threads() == 1)
        assert status(ask(opened.port, GOOD, trusting(pem[0]))) == 200


def test_a_handshake_without_end_is_dropped(pem: tuple[str, str]) -> None:
    from prometheus_client import CollectorRegistry

    endpoint = protected(tls={"certificate": pem[0], "key": pem[1]}).endpoint
    with Server(CollectorRegistry(), "127.0.0.1:0", endpoint, request_seconds=0.2) as opened, connect(opened) as plain:
        plain.sendall(b"\x16\x03\x01")
        assert is_cut_off(plain)


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (b"GET /" + b"x" * 1_000_000 + b" HTTP/1.1\r\n\r\n", 431),
        (b"GET /metrics HTTP/1.1\r\nX: " + b"x" * 1_000_000 + b"\r\n\r\n", 431),
        (b"GET /metrics HTTP/1.1\r\n" + b"X: y\r\n" * 200 + b"\r\n", 431),
        (b"GET /metrics HTTP/1.1\r\n" + (b"X: " + b"y" * 5000 + b"\r\n") * 90 + b"\r\n", 431),
        (b"POST /metrics HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n" + b"x" * 100_000, 405),
        (b"POST /metrics HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 405),
        (b"GET /metrics HTTP/1.1\r\nContent-Length: nonsense\r\nTransfer-Encoding: chunked\r\n\r\nzz", 200),
        (b"GET /metrics HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 200),
        (b"GET /%2e%2e/%00/\xff\xfe HTTP/1.1\r\n\r\n", 404),
        (b"GET //evil.example/metrics HTTP/1.1\r\n\r\n", 404),
        (b"GET http://evil.example/metrics HTTP/1.1\r\n\r\n", 404),
        (b"BREW /metrics HTTP/1.1\r\n\r\n", 501),
        (b"GET /metrics HTTP/3.0\r\n\r\n", 505),
        (b"GET /metrics HTTP/x.y\r\n\r\n", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        (b"one two three four\r\n\r\n", 400),
    ],
)
def test_huge_and_hostile_requests(
    server: tuple[Server, ssl.SSLContext | None], request_: bytes, expected: int
) -> None:
    opened, context = server
    try:
        answer = ask(opened.port, request_, context)
    except OSError:  # still sending when it was cut off
        answer = b""
        assert len(request_) > 300_000
    assert not answer or status(answer) == expected
    assert status(ask(opened.port, GOOD, context)) == 200


@pytest.mark.parametrize(
    "garbage", [b"", b"\0" * 100, b"\r\n\r\n", b"\xff" * 70_000, b"\x16\x03\x01\x00\x05hello", b"\x80\x2e\x01\x00\x02"]
)
def test_what_is_no_request(server: tuple[Server, ssl.SSLContext | None], garbage: bytes) -> None:
    opened, context = server
    with connect(opened) as client:
        with contextlib.suppress(OSError):
            client.sendall(garbage)
            client.shutdown(socket.SHUT_WR)
        while not is_cut_off(client):
            pass
    assert status(ask(opened.port, GOOD, context)) == 200


@given(st.one_of(st.binary(max_size=300), REQUESTS))
@settings(deadline=None, derandomize=True, max_examples=60)
def test_any_bytes(anything: Server, data: bytes) -> None:
    with connect(anything) as client:
        with contextlib.suppress(OSError):
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)
        while not is_cut_off(client):
            pass
    assert status(ask(anything.port, GOOD)) == 200


def large() -> Snapshot:
    """More than the buffers of a connection hold."""
    return snapshot(*(pool(f"{number}{'x' * 200}") for number in range(300)))


def test_a_scrape_that_is_cut_off(pem: tuple[str, str], capfd: pytest.CaptureFixture[str]) -> None:
    for endpoint, context in (({}, None), ({"tls": {"certificate": pem[0], "key": pem[1]}}, trusting(pem[0]))):
        with serve_snapshots(large, protected(**endpoint)) as opened:  # type: ignore[arg-type]
            for _ in range(5):
                with connect(opened) as plain:
                    client = context.wrap_socket(plain, server_hostname="localhost") if context else plain
                    client.sendall(GOOD)
                    client.recv(1000)
                    # Reset, not closed in order.
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                    client.close()
            assert status(ask(opened.port, GOOD, context)) == 200
            until(lambda: request_threads() == 0)
    assert capfd.readouterr() == ("", "")


def test_readers_that_do_not_read_are_told_apart_from_those_who_do() -> None:
    from prometheus_client import CollectorRegistry

    from poolscope.metrics.families import SnapshotCollector

    registry = CollectorRegistry()
    registry.register(SnapshotCollector(large, protected()))
    with (
        Server(registry, "127.0.0.1:0", request_seconds=1.0, max_requests=2) as opened,
        contextlib.ExitStack() as stack,
    ):
        for _ in range(2):
            client = socket.socket()
            stack.enter_context(client)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(("127.0.0.1", opened.port))
            client.sendall(GOOD)
        until(lambda: request_threads() == 2)
        # Told to come back while they have their time, and served after it.
        answers = until(lambda: (found := status(ask(opened.port, GOOD))) == 200 and [found])
        assert answers == [200]


def test_no_thread_for_a_request(server: tuple[Server, ssl.SSLContext | None], monkeypatch: pytest.MonkeyPatch) -> None:
    opened, context = server
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name == "poolscope-request":
            raise RuntimeError("can't start new thread")
        start(thread)

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        for _ in range(2 * MAX_REQUESTS):
            with pytest.raises((OSError, IndexError)):
                status(ask(opened.port, GOOD, context))
    assert status(ask(opened.port, GOOD, context)) == 200


def test_no_file_descriptors_left(server: tuple[Server, ssl.SSLContext | None]) -> None:
    import resource

    opened, context = server
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.ExitStack() as stack:
        silent = stack.enter_context(connect(opened))
        until(lambda: opened._acceptor._silent)
        waiting = socket.socket()
        stack.enter_context(waiting)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 1, hard))
        taken: list[int] = []
        try:
            with contextlib.suppress(OSError):
                while True:
                    taken.append(os.dup(0))
            # The client's end was made before; the server cannot accept it, and gives up the silent one for it.
            waiting.connect(("127.0.0.1", opened.port))
            assert is_cut_off(silent)
        finally:
            for descriptor in taken:
                os.close(descriptor)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert status(ask(opened.port, GOOD, context)) == 200


def test_guessing_passwords_takes_few_places_and_known_users_none(tmp_path: Path) -> None:
    users = secret(tmp_path, "users", f"prometheus:{cheap_hash(PASSWORD)}")
    access = Access(EndpointSettings(basic_auth_file=users), pause_seconds=0.0)
    right = basic("prometheus", PASSWORD)
    assert access.judge([right]) is Verdict.ALLOWED
    verdicts: list[Verdict] = []

    def guess() -> None:
        verdicts.append(access.judge([basic("prometheus", "x")]))

    with access._trying:  # as if a password were being tried
        guesses = [threading.Thread(target=guess) for _ in range(3)]
        for thread in guesses:
            thread.start()
        until(lambda: not access._places._value)  # type: ignore[attr-defined]  # all three wait
        assert access.judge([basic("prometheus", "y")]) is Verdict.BUSY
        assert access.judge([right]) is Verdict.ALLOWED
    for thread in guesses:
        thread.join()
    assert verdicts == [Verdict.REFUSED] * 3

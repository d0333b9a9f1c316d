"""A small HTTP server for metrics: on loopback, on threads of its own, and never for long with one client."""

from __future__ import annotations

import errno
import gzip
import io
import ipaddress
import logging
import os
import selectors
import socket
import socketserver
import threading
import time
import weakref
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder, gzip_accepted

from poolscope.config import EndpointSettings, listen_address
from poolscope.errors import ListenError

#: Seconds that one request may take, reading it, answering it and waiting for a slow reader together.
REQUEST_SECONDS = 10.0

#: Requests served at once; one more is told to come back.
MAX_REQUESTS = 16

_log = logging.getLogger("poolscope")


class Server:
    """The endpoint while it is open: /metrics and /healthz. A context manager that closes it.

    One thread accepts, one more per request answers; all are daemons and none waits for the program's loop
    or pools. `close` may be called from any thread, and again. A forked child has no endpoint: its copy is
    closed.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        listen: str,
        endpoint: EndpointSettings | None = None,
        *,
        request_seconds: float = REQUEST_SECONDS,
        max_requests: int = MAX_REQUESTS,
        failed: Callable[[str, Exception], object] | None = None,
    ) -> None:
        """`failed` hears of scrapes that fail, and if the endpoint has to end: without it, the log does.

        Raises ListenError.
        """
        self._failed = failed or _LogOnce()
        self._http = _open(listen, endpoint or EndpointSettings(), registry, request_seconds, max_requests)
        self._http.failed = self._failed
        self._stop, self._stopped = socket.socketpair()
        self._lock = threading.Lock()
        self._closed = False
        self._thread = threading.Thread(target=self._accept, name="poolscope-endpoint", daemon=True)
        _close_in_children(self)
        try:
            self._thread.start()
        except RuntimeError as error:
            self._closed = True
            self._close_sockets()
            raise ListenError(f"cannot listen on {listen}: {error}") from error

    @property
    def port(self) -> int:
        """The port listened on, also where port 0 was asked for."""
        return int(self._http.server_address[1])

    @property
    def url(self) -> str:
        """What the endpoint is reached by from this machine, such as "http://127.0.0.1:9464"."""
        address = ipaddress.ip_address(str(self._http.server_address[0]))
        if address.is_unspecified:
            address = ipaddress.ip_address("127.0.0.1" if address.version == 4 else "::1")
        host = f"[{address}]" if address.version == 6 else str(address)
        return f"http://{host}:{self.port}"

    def close(self) -> None:
        """Stop listening. Requests being answered are not waited for."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        try:
            self._stop.send(b"x")
        except OSError:
            pass  # the program has closed it
        self._thread.join(timeout=5)
        self._close_sockets()

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _accept(self) -> None:
        try:
            self._accept_all()
        except Exception as error:
            # A program that closes all descriptors closes ours.
            if not self._closed:
                self._failed("endpoint", error)

    def _accept_all(self) -> None:
        # Not serve_forever: it wakes up twice a second to see whether it should stop.
        with selectors.DefaultSelector() as selector:
            selector.register(self._http, selectors.EVENT_READ)
            selector.register(self._stopped, selectors.EVENT_READ)
            while True:
                ready = [key.fileobj for key, _ in selector.select()]
                if self._stopped in ready:
                    return
                self._http.handle_request()

    def _close_sockets(self) -> None:
        self._http.server_close()
        self._stop.close()
        self._stopped.close()

    def _forget(self) -> None:
        # In a child. The sockets are shared with the parent: to use `_stop` here would stop the parent's
        # endpoint, and to keep the listening one would hold the port after the parent is gone.
        self._closed = True
        self._close_sockets()


_servers: weakref.WeakSet[Server] = weakref.WeakSet()
_watching_forks = False


def _close_in_children(server: Server) -> None:
    global _watching_forks
    _servers.add(server)
    if not _watching_forks and hasattr(os, "register_at_fork"):
        _watching_forks = True
        os.register_at_fork(after_in_child=_forget_all)


def _forget_all() -> None:
    for server in list(_servers):
        server._forget()
    _servers.clear()


class _LogOnce:
    """Logs the first failure of each part."""

    def __init__(self) -> None:
        self._told: set[str] = set()

    def __call__(self, part: str, error: Exception) -> None:
        if part not in self._told:
            self._told.add(part)
            _log.error("failure of poolscope in part %s: %s: %s", part, type(error).__name__, error, exc_info=error)


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64
    timeout = 0  # handle_request is called when there is one; if it has gone away, come back

    def __init__(
        self,
        family: socket.AddressFamily,
        address: tuple[Any, ...],
        registry: CollectorRegistry,
        request_seconds: float,
        max_requests: int,
    ) -> None:
        self.address_family = family
        self.registry = registry
        self.request_seconds = request_seconds
        self._free = threading.BoundedSemaphore(max_requests)
        self.failed: Callable[[str, Exception], object] = _LogOnce()
        super().__init__(address, _Handler)
        # A client that goes away between select and accept must not keep the accepting thread in accept.
        self.socket.setblocking(False)

    def server_bind(self) -> None:
        # HTTPServer asks the name service for the host's full name here, which can take long.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def get_request(self) -> tuple[socket.socket, Any]:
        try:
            return super().get_request()
        except BlockingIOError:
            raise
        except OSError:
            # Out of file descriptors, say. The connection stays in the queue: without a pause we would spin.
            time.sleep(0.1)
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._free.acquire(blocking=False):
            request.settimeout(0.1)
            request.sendall(
                b"HTTP/1.0 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Type: text/plain\r\n\r\n"
                b"503 Too many requests at once\n"
            )
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:  # no thread could be started
            self._free.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - the base class's
        # Almost always a client that went away. Never a traceback on the program's standard error.
        _log.debug("a request to the metrics endpoint failed", exc_info=True)


class _Reader(io.RawIOBase):
    """Reads a socket up to a deadline for everything together: a byte now and then does not extend it."""

    def __init__(self, connection: socket.socket, deadline: float, clock: Callable[[], float]) -> None:
        self._connection = connection
        self._deadline = deadline
        self._clock = clock

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        left = self._deadline - self._clock()
        if left <= 0:
            raise TimeoutError("the request took too long")
        self._connection.settimeout(left)
        return self._connection.recv_into(buffer)


class _Handler(BaseHTTPRequestHandler):
    server: _Http
    error_content_type = "text/plain; charset=utf-8"
    error_message_format = "%(code)d %(message)s\n"

    def setup(self) -> None:
        self._deadline = time.monotonic() + self.server.request_seconds
        super().setup()
        self.rfile.close()
        self.rfile = io.BufferedReader(_Reader(self.connection, self._deadline, time.monotonic))

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        if path == "/metrics":
            self._metrics(query)
        elif path == "/healthz":
            self._answer(200, "text/plain; charset=utf-8", b"ok\n")
        elif path == "/":
            self._say(302, "The metrics are at /metrics", ("Location", "/metrics"))
        else:
            self._say(404, "Not here: the metrics are at /metrics")

    do_HEAD = do_GET  # noqa: N815 - http.server looks for these names

    def _refuse(self) -> None:
        # Read what was sent with it: closing a socket with unread data resets it, and the answer is lost.
        length = self.headers.get("Content-Length", "")
        if length.isdecimal() and int(length[:9]) <= 65536:
            self.rfile.read(int(length))
        self._say(405, "Only GET and HEAD are answered", ("Allow", "GET, HEAD"))

    do_POST = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = _refuse  # noqa: N815 - likewise

    def _metrics(self, query: str) -> None:
        # On one line whatever the client folded: the encoder's content type repeats parts of it.
        accept = " ".join(",".join(self.headers.get_all("Accept", [])).split())
        try:
            encode, content_type = choose_encoder(accept)
        except (TypeError, ValueError):  # a version that is none
            encode, content_type = choose_encoder("")
        try:
            names = parse_qs(query, max_num_fields=1000).get("name[]")
        except ValueError:
            self._say(400, "Too many parameters")
            return
        try:
            registry = self.server.registry
            body = encode(registry.restricted_registry(names) if names else registry)
        except Exception as error:
            # Ours or the snapshot's. This scrape fails; the next one may not.
            self.server.failed("collector", error)
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            self._say(500, f"The metrics cannot be shown: {reason}")
            return
        if gzip_accepted(self.headers.get("Accept-Encoding", "")):
            body = gzip.compress(body, compresslevel=1, mtime=0)
            self._answer(200, content_type, body, ("Content-Encoding", "gzip"))
        else:
            self._answer(200, content_type, body)

    def _say(self, status: int, text: str, *headers: tuple[str, str]) -> None:
        body = f"{status} {text}\n".encode("utf-8", "backslashreplace")
        self._answer(status, "text/plain; charset=utf-8", body, *headers)

    def _answer(self, status: int, content_type: str, body: bytes, *headers: tuple[str, str]) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers:
            self.send_header(name, value)
        # What is left of the time bounds all of a send; a client that does not read is dropped at its end.
        self.connection.settimeout(max(0.1, self._deadline - time.monotonic()))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def version_string(self) -> str:
        return "poolscope"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name in the base class
        pass  # a scrape is no news


def _open(
    listen: str,
    endpoint: EndpointSettings,
    registry: CollectorRegistry,
    request_seconds: float,
    max_requests: int,
) -> _Http:
    """A bound and listening server, or ListenError."""
    if asked := endpoint.protections():
        # To serve without what was asked for would be worse than not to serve.
        raise ListenError(
            f"cannot listen on {listen}: {asked[0]} is set, and this version serves neither TLS nor "
            "authentication; remove it and listen on 127.0.0.1"
        )
    address = listen_address(listen)
    if address is None:
        raise ListenError(f"cannot listen on {listen!r}: expected HOST:PORT or PORT, such as 127.0.0.1:9464")
    failure: OSError | None = None
    for family, sockaddr in _addresses(listen, *address):
        if not endpoint.insecure and not ipaddress.ip_address(sockaddr[0]).is_loopback:
            raise ListenError(
                f"cannot listen on {listen}: {sockaddr[0]} can be reached from other machines, without TLS "
                "and authentication; listen on 127.0.0.1, or allow it with endpoint.insecure (--insecure)"
            )
        try:
            return _Http(family, sockaddr, registry, request_seconds, max_requests)
        except OSError as error:
            failure = failure or error
    raise ListenError(f"cannot listen on {listen}: {_reason(failure)}") from failure


def _addresses(listen: str, host: str, port: int) -> list[tuple[socket.AddressFamily, tuple[Any, ...]]]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:  # UnicodeError: a label longer than names allow
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ListenError(
            f"cannot listen on {listen}: the host {host!r} is not known ({reason}); give an address of this "
            "machine, such as 127.0.0.1"
        ) from error
    # IPv4 first: "localhost" often stands for both, and scrape configurations say 127.0.0.1.
    addresses = {(item[0], item[4]) for item in found}
    return sorted(addresses, key=lambda item: (item[0] != socket.AF_INET, item[1]))


def _reason(error: OSError | None) -> str:
    number = error.errno if error else None
    if number == errno.EADDRINUSE:
        return "the port is taken; choose another one, or end the program that has it"
    if number == errno.EACCES:
        return "this user may not open that port; choose one from 1024"
    if number == errno.EADDRNOTAVAIL:
        return "this machine does not have that address; use 127.0.0.1"
    return f"{(error and error.strerror) or error}; choose another address"

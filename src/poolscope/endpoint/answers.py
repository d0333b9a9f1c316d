"""One request and its answer. `http.server` reads the request; what it reads has a limit in bytes and in time."""

from __future__ import annotations

import gzip
import io
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from http.server import BaseHTTPRequestHandler
from types import MappingProxyType
from typing import Any, NamedTuple
from urllib.parse import parse_qs

import msgspec
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from poolscope.discretion import without_lines
from poolscope.endpoint.access import Access, Verdict, is_local
from poolscope.endpoint.connections import Connection, plain_answer
from poolscope.endpoint.tls import Certificate
from poolscope.errors import ListenError
from poolscope.model import Finding, storable
from poolscope.plain import one_line
from poolscope.ranking import importance

#: Bytes that a request may have with all its headers.
MAX_REQUEST_BYTES = 64 * 1024

_PLAIN = "text/plain; charset=utf-8"
#: The formats of the metrics, and what a client may say of their version.
_VERSIONS = {"application/openmetrics-text": (None, "1.0.0"), "text/plain": (None, "0.0.4", "1.0.0")}
_NOT_TLS = plain_answer("400 Bad Request", "400 This port speaks HTTPS: ask with https:// URLs")
#: The first byte of a TLS connection.
_HANDSHAKE = b"\x16"
_CHUNK = 64 * 1024
#: Not for caches, and not for a page that takes it for a script.
_PRIVATE = (("Cache-Control", "no-store"), ("X-Content-Type-Options", "nosniff"))
#: What is read, and for how long, of a request that was refused before it was read to its end.
_LINGER_BYTES, _LINGER_SECONDS = 256 * 1024, 1.0


class Page(NamedTuple):
    """A path that is answered with what `make(frames, query)` returns; `frames`: whether lines of code may be in it."""

    content_type: str
    make: Callable[[bool, str], bytes]
    headers: tuple[tuple[str, str], ...] = ()


class Site(NamedTuple):
    """What is served, and which requests are let in."""

    registry: CollectorRegistry
    #: The findings up to now; None where they are not known.
    findings: Callable[[], Sequence[Finding] | None]
    access: Access
    certificate: Certificate | None
    failed: Callable[[str, Exception], object]
    #: Held while an answer is made: two at once would take the interpreter's lock from the program twice as often,
    #: and be no sooner.
    making: threading.Lock
    #: What else is served, by path.
    pages: Mapping[str, Page] = MappingProxyType({})


def answer(site: Site, connection: Connection) -> None:
    """Answer the one request of a connection. Raises OSError where the client does not play along."""
    if site.certificate is None:
        _Handler(site, connection)
        return
    accepted = connection.socket
    accepted.settimeout(connection.time_left())
    if accepted.recv(1, socket.MSG_PEEK) != _HANDSHAKE:
        connection.heard()
        accepted.sendall(_NOT_TLS)
        _linger(connection)
        return
    secured = site.certificate.context().wrap_socket(accepted, server_side=True, do_handshake_on_connect=False)
    # The plain one has given up its descriptor; a thread that cuts us off has to find the new one.
    connection.socket = secured
    secured.settimeout(connection.time_left())
    secured.do_handshake()
    _Handler(site, connection)


def findings_json(findings: Sequence[Finding], *, frames: bool) -> bytes:
    """Return a JSON list, the most severe first; without `frames`, the texts name no lines of code either."""
    ordered = sorted(findings, key=importance)
    shown = ordered if frames else [without_lines(finding) for finding in ordered]
    try:
        return msgspec.json.encode(shown) + b"\n"
    except UnicodeEncodeError:
        return msgspec.json.encode(storable(msgspec.to_builtins(shown))) + b"\n"


class _TooLarge(OSError):
    """A request with more bytes than any has."""


class _Reader(io.RawIOBase):
    """Reads a connection up to its deadline and up to a size: a byte now and then extends neither."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._left = MAX_REQUEST_BYTES

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if self._left <= 0:
            raise _TooLarge("the request is too large")
        self._connection.socket.settimeout(self._connection.time_left())
        count = self._connection.socket.recv_into(buffer, min(len(buffer), self._left))
        self._left -= count
        return count


class _Writer(io.RawIOBase):
    """Writes to a connection up to its deadline; a client that does not read is dropped then."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        sent = 0
        while sent < len(view):
            # For each piece anew: `sendall` of a TLS socket gives each of its own the whole time.
            self._connection.socket.settimeout(self._connection.time_left())
            sent += self._connection.socket.send(view[sent : sent + _CHUNK])
        return sent


class _Handler(BaseHTTPRequestHandler):
    error_content_type = _PLAIN
    error_message_format = "%(code)d %(message)s\n"
    # Not 0.9, whose answers have no status: no client speaks it, and what is no request would be taken for it.
    default_request_version = "HTTP/1.0"
    # What `parse_request` would set: a request that is refused before has none.
    command = None  # type: ignore[assignment]
    request_version = "HTTP/1.0"
    requestline = ""

    def __init__(self, site: Site, connection: Connection) -> None:
        self._site = site
        self._link = connection
        super().__init__(connection.socket, (connection.peer, 0), None)  # type: ignore[arg-type]

    def setup(self) -> None:
        self.connection = self.request
        self.rfile = io.BufferedReader(_Reader(self._link))
        self.wfile = _Writer(self._link)  # type: ignore[assignment]

    def handle(self) -> None:
        try:
            super().handle()
        except _TooLarge:
            self._refuse(431, "The request is too large")

    def parse_request(self) -> bool:
        if not super().parse_request():
            self._link.heard()
            _linger(self._link)
            return False
        # Complete: from here on nothing has to wait for the client.
        self._link.heard()
        return True

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        if path == "/healthz":
            self._answer(200, _PLAIN, b"ok\n")
        elif self._is_allowed():
            if path == "/metrics":
                self._metrics(query)
            elif path == "/findings":
                self._findings()
            elif path in self._site.pages:
                self._page(path.strip("/") or "page", self._site.pages[path], query)
            elif path == "/":
                self._say(302, "The metrics are at /metrics", ("Location", "/metrics"))
            else:
                self._refuse(404, "Not here: the metrics are at /metrics, the findings at /findings")

    do_HEAD = do_GET  # noqa: N815 - http.server looks for these names

    def _not_allowed(self) -> None:
        self._refuse(405, "Only GET and HEAD are answered", ("Allow", "GET, HEAD"))

    do_POST = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = _not_allowed  # noqa: N815 - likewise

    def _is_allowed(self) -> bool:
        try:
            verdict = self._site.access.judge(self.headers.get_all("Authorization", []))
        except ListenError as error:
            # The reason goes to the program's log, not to the client.
            self._site.failed("access", error)
            self._refuse(503, "No request can be let in: the log of the program says why")
            return False
        if verdict is Verdict.REFUSED:
            challenges = [("WWW-Authenticate", challenge) for challenge in self._site.access.challenges]
            self._refuse(401, "Credentials are needed", *challenges)
        elif verdict is Verdict.BUSY:
            self._refuse(503, "Too many passwords at once", ("Retry-After", "1"))
        return verdict is Verdict.ALLOWED

    def _metrics(self, query: str) -> None:
        encode, content_type = _format_for(",".join(self.headers.get_all("Accept", [])))
        try:
            names = parse_qs(query, max_num_fields=1000).get("name[]")
        except ValueError:
            self._refuse(400, "Too many parameters")
            return
        registry = self._site.registry
        body = self._made("metrics", lambda: encode(registry.restricted_registry(names) if names else registry))
        if body is None:
            return
        more = [("Vary", "Accept, Accept-Encoding")]
        if "gzip" in (coding for coding, _ in _choices(",".join(self.headers.get_all("Accept-Encoding", [])))):
            body = gzip.compress(body, compresslevel=1, mtime=0)
            more.append(("Content-Encoding", "gzip"))
        self._answer(200, content_type, body, *more)

    def _page(self, what: str, page: Page, query: str) -> None:
        body = self._made(what, lambda: page.make(self._sees_lines(), query))
        if body is not None:
            self._answer(200, page.content_type, body, *_PRIVATE, *page.headers)

    def _sees_lines(self) -> bool:
        return self._site.access.required or is_local(self._link.peer, self.headers)

    def _findings(self) -> None:
        def make() -> bytes:
            found = self._site.findings()
            return b"" if found is None else findings_json(found, frames=self._sees_lines())

        body = self._made("findings", make)
        if body == b"":
            self._refuse(404, "The findings are not known here")
        elif body is not None:
            self._answer(200, "application/json", body, *_PRIVATE)

    def _made(self, what: str, make: Callable[[], bytes]) -> bytes | None:
        """Return what `make` gives; None if it fails or has no turn in time, which then was answered."""
        making = self._site.making
        if not making.acquire(timeout=max(0.0, self._link.deadline - time.monotonic() - 0.1)):
            self._refuse(503, "Too many requests at once", ("Retry-After", "1"))
            return None
        try:
            return make()
        except Exception as error:
            # Ours or the snapshot's. This one fails; the next one may not.
            self._site.failed("collector", error)
            reason = one_line(" ".join(f"{type(error).__name__}: {error}".split()))
        finally:
            making.release()
        self._refuse(500, f"The {what} cannot be shown: {reason}")
        return None

    def _refuse(self, status: int, text: str, *headers: tuple[str, str]) -> None:
        self._link.heard()
        self._say(status, text, *headers)
        _linger(self._link)

    def _say(self, status: int, text: str, *headers: tuple[str, str]) -> None:
        self._answer(status, _PLAIN, f"{status} {text}\n".encode("utf-8", "backslashreplace"), *headers)

    def _answer(self, status: int, content_type: str, body: bytes, *headers: tuple[str, str]) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def version_string(self) -> str:
        return "poolscope"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name in the base class
        pass  # a scrape is no news


def _choices(header: str) -> list[tuple[str, dict[str, str]]]:
    """Return what a header of the `Accept` family wants, with its parameters, the most wanted first."""
    found = []
    for choice in header.lower().split(","):
        name, *pairs = (part.strip() for part in choice.split(";"))
        parameters = {key.strip(): value.strip(' "') for key, _, value in (pair.partition("=") for pair in pairs)}
        try:
            quality = float(parameters.get("q", 1))
        except ValueError:
            quality = 1.0
        if quality > 0:
            found.append((quality, name, parameters))
    found.sort(key=lambda choice: -choice[0])
    return [(name, parameters) for _, name, parameters in found]


def _format_for(accept: str) -> tuple[Callable[[Any], bytes], str]:
    """Return the encoder for the first format of an `Accept` header that we have, and its content type.

    prometheus_client asks for the first in the order of the header, wanted or not, and takes every version that comes
    after its own for one that it has.
    """
    for name, parameters in _choices(accept):
        if parameters.get("version") in _VERSIONS.get(name, ()):
            options = [f"{key}={parameters[key]}" for key in ("version", "escaping") if key in parameters]
            return choose_encoder(";".join([name, *options]))
    return choose_encoder("")


def _linger(connection: Connection) -> None:
    """Read what is left of a refused request: a socket closed with unread data is reset, and the answer lost."""
    connection.lingers()
    try:
        socket.socket.shutdown(connection.socket, socket.SHUT_WR)
        until = time.monotonic() + min(_LINGER_SECONDS, connection.time_left())
        left = _LINGER_BYTES
        while left > 0 and (patience := until - time.monotonic()) > 0:
            connection.socket.settimeout(patience)
            if not (data := connection.socket.recv(_CHUNK)):
                return
            left -= len(data)
    except OSError:
        pass  # it has gone, or keeps its end open

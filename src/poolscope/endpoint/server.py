"""The endpoint as a whole: where it may listen, what protects it, and its end."""

from __future__ import annotations

import errno
import ipaddress
import logging
import os
import socket
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from prometheus_client import CollectorRegistry

from poolscope.config import EndpointSettings, listen_address
from poolscope.endpoint.access import Access
from poolscope.endpoint.answers import Page, Site, answer
from poolscope.endpoint.base import Endpoint, url_of
from poolscope.endpoint.connections import MAX_REQUESTS, REQUEST_SECONDS, Acceptor, AnswerThread
from poolscope.endpoint.tls import Certificate
from poolscope.errors import ListenError
from poolscope.model import Finding
from poolscope.plain import one_line

#: Connections that the system accepts before we do.
_BACKLOG = 128

_log = logging.getLogger("poolscope")


class Server(Endpoint):
    """The endpoint while it is open: /metrics, /findings and /healthz. A context manager that closes it.

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
        findings: Callable[[], Sequence[Finding] | None] = lambda: None,
        pages: Mapping[str, Page] = MappingProxyType({}),
    ) -> None:
        """Open it. `findings` gives what /findings shows, `pages` what else there is. `failed` is called for scrapes
        that fail, for files of secrets that went bad, and if the endpoint has to end; without it these are logged.

        Raises ListenError.
        """
        endpoint = endpoint or EndpointSettings()
        self._failed = failed or _LogOnce()
        access = Access(endpoint)
        certificate = Certificate(endpoint.tls) if endpoint.takes_tls() else None
        if certificate is not None:
            certificate.failed = self._failed
        self._scheme = "http" if certificate is None else "https"
        site = Site(registry, findings, access, certificate, self._failed, threading.Lock(), pages)
        self._listening = _open(listen, endpoint)
        self._address = self._listening.getsockname()
        self._acceptor = Acceptor(
            self._listening,
            lambda connection: answer(site, connection),
            speaks_tls=certificate is not None,
            request_seconds=request_seconds,
            max_requests=max_requests,
        )
        self._lock = threading.Lock()
        self._closed = False
        self._thread = AnswerThread(target=self._accept, name="poolscope-endpoint", daemon=True)
        _close_in_children(self)
        try:
            self._thread.start()
        except RuntimeError as error:
            self._closed = True
            self._acceptor.close()
            raise ListenError(f"cannot listen on {listen}: {error}") from error

    @property
    def port(self) -> int:
        """See `Endpoint.port`."""
        return int(self._address[1])

    @property
    def url(self) -> str:
        """See `Endpoint.url`."""
        return url_of(self._scheme, str(self._address[0]), self.port)

    def close(self) -> None:
        """Stop listening. Requests being answered are not waited for."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._acceptor.stop()
        self._thread.join(timeout=5)
        self._acceptor.close()

    def drain(self, patience: float) -> None:
        """See `Endpoint.drain`."""
        self._acceptor.drain(patience)

    def _accept(self) -> None:
        try:
            self._acceptor.run()
        except Exception as error:
            # A program that closes all descriptors closes ours.
            if not self._closed:
                self._failed("endpoint", error)

    def _forget(self) -> None:
        # In a child. The sockets are shared with the parent: to stop the acceptor here would stop the parent's
        # endpoint, and to keep the listening one would hold the port after the parent is gone.
        self._closed = True
        self._acceptor.close_in_child()


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
            _log.error("%s", one_line(f"failure of poolscope in part {part}: {type(error).__name__}: {error}"))
            _log.debug("where that was", exc_info=error)


def _open(listen: str, endpoint: EndpointSettings) -> socket.socket:
    """Return a bound and listening socket, or ListenError."""
    address = listen_address(listen)
    if address is None:
        raise ListenError(f"cannot listen on {listen!r}: expected HOST:PORT or PORT, such as 127.0.0.1:9464")
    failure: OSError | None = None
    for family, sockaddr in _addresses(listen, *address):
        if not ipaddress.ip_address(sockaddr[0].partition("%")[0]).is_loopback and not endpoint.insecure:
            _check_protection(listen, sockaddr[0], endpoint)
        try:
            return _bound(family, sockaddr)
        except OSError as error:
            failure = failure or error
    raise ListenError(f"cannot listen on {listen}: {_reason(failure)}") from failure


def _check_protection(listen: str, address: str, endpoint: EndpointSettings) -> None:
    missing = endpoint.missing_protection()
    if missing is not None:
        raise ListenError(
            f"cannot listen on {listen}: {address} can be reached from other machines, and {missing}; listen on "
            "127.0.0.1, or allow it with endpoint.insecure (--insecure)"
        )


def _bound(family: socket.AddressFamily, address: tuple[Any, ...]) -> socket.socket:
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        if os.name == "posix":  # elsewhere it would share the port with others
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(_BACKLOG)
    except BaseException:
        listening.close()
        raise
    return listening


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

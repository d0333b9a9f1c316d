"""Connections: accepted by one thread, kept there while they say nothing, answered on a few threads more.

Everything is bounded, and the bound never keeps a well-behaved client out: where there is no room, the client that has
kept us waiting for longest goes.
"""

from __future__ import annotations

import errno
import logging
import selectors
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from poolscope.probe.interpreter.native_thread import await_exit, has_exited

#: Seconds that one connection may take, from its first packet to the end of the answer, whatever it does.
REQUEST_SECONDS = 10.0

#: Requests served at once, each on a thread; one more takes the place of one whose request is not complete, or is told
#: to come back.
MAX_REQUESTS = 16

#: Connections that have said nothing yet; they cost a file descriptor, and no thread.
MAX_SILENT = 64

#: Seconds that a thread may take to notice that its connection was given up.
_LEAVE_SECONDS = 0.2

_log = logging.getLogger("poolscope")


def plain_answer(status: str, text: str, *headers: str) -> bytes:
    """Return a whole answer in plain HTTP, where there is no request to be read first."""
    body = f"{text}\n"
    lines = [f"HTTP/1.0 {status}", *headers, "Content-Type: text/plain", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, "", body]).encode("ascii")


_BUSY = plain_answer("503 Service Unavailable", "503 Too many requests at once", "Retry-After: 1")


class AnswerThread(threading.Thread):
    """A thread of the endpoint: its class tells it from those of the program."""


class Connection:
    """One client: its socket, its address, and until when it has time (`time.monotonic`)."""

    __slots__ = ("deadline", "heard", "lingers", "peer", "socket")

    def __init__(self, accepted: socket.socket, peer: str, deadline: float) -> None:
        self.socket = accepted
        self.peer = peer
        self.deadline = deadline
        #: Called when the request is complete: from then on it keeps its place.
        self.heard: Callable[[], None] = lambda: None
        #: Called after the answer, while unread input is drained: it may be cut off again.
        self.lingers: Callable[[], None] = lambda: None

    def time_left(self) -> float:
        """Seconds. Raises TimeoutError when there are none."""
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the request took too long")
        return left


class Acceptor:
    """Accepts on a listening socket until it is stopped, and has each request served on a thread of its own.

    `run` belongs to one thread; `stop` and the threads it starts may run beside it. `_lock` guards `_reading`: the
    connections in there wait for their clients, and the accepting thread may cut them off, so a connection leaves it
    before its socket is closed.
    """

    def __init__(
        self,
        listening: socket.socket,
        serve: Callable[[Connection], object],
        *,
        speaks_tls: bool = False,
        request_seconds: float = REQUEST_SECONDS,
        max_requests: int = MAX_REQUESTS,
    ) -> None:
        self._listening = listening
        # A client that goes away between select and accept must not keep the accepting thread in accept.
        listening.setblocking(False)
        self._serve = serve
        self._speaks_tls = speaks_tls
        self._seconds = request_seconds
        self._stop, self._stopped = socket.socketpair()
        self._stop.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._silent: dict[socket.socket, Connection] = {}  # the oldest first
        self._free = threading.BoundedSemaphore(max_requests)
        self._lock = threading.Lock()
        self._reading: dict[Connection, None] = {}  # the oldest first
        #: Native identifiers of our threads, of those that have ended some too.
        self._threads: set[int] = set()

    def run(self) -> None:
        """Accept until it is stopped. Raises OSError if the program has closed our sockets."""
        # Not serve_forever: it wakes up twice a second to see whether it should stop.
        self._threads.add(threading.get_native_id())
        self._selector.register(self._listening, selectors.EVENT_READ)
        self._selector.register(self._stopped, selectors.EVENT_READ)
        while True:
            ready = [key.fileobj for key, _ in self._selector.select(self._patience())]
            if self._stopped in ready:
                return
            for found in ready:
                if found is self._listening:
                    self._accept()
                elif (connection := self._silent.pop(found, None)) is not None:  # type: ignore[call-overload]
                    self._selector.unregister(connection.socket)
                    self._hand_over(connection)
            self._drop_overdue()

    def stop(self) -> None:
        """Have `run` return."""
        try:
            self._stop.send(b"x")
        except OSError:
            pass  # the program has closed it

    def close(self) -> None:
        """Close the sockets; in a forked child ours alone, which the parent does not notice."""
        self._listening.close()
        self._stop.close()
        self._stopped.close()
        for connection in list(self._silent.values()):
            connection.socket.close()
        self._selector.close()

    def drain(self, patience: float) -> None:
        """After `close`: waits until the system has let go of all our threads, `patience` seconds at most."""
        deadline = time.monotonic() + patience
        for native_id in list(self._threads):
            await_exit(native_id, deadline - time.monotonic())

    def close_in_child(self) -> None:
        """As `close`, for the copies of a forked child, whose other threads are gone with what they held."""
        self.close()
        for connection in list(self._reading):
            # Not through TLS: only our copy of the descriptor.
            socket.socket.close(connection.socket)

    def _patience(self) -> float | None:
        oldest = next(iter(self._silent.values()), None)
        return None if oldest is None else max(0.0, oldest.deadline - time.monotonic())

    def _accept(self) -> None:
        try:
            accepted, address = self._listening.accept()
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                if self._listening.fileno() < 0 or error.errno in (errno.EBADF, errno.EINVAL, errno.ENOTSOCK):
                    raise
                return  # the client has gone
            # Out of file descriptors, say. The connection stays in the queue: without a pause we would spin.
            if self._silent:
                self._drop(next(iter(self._silent.values())))
            else:
                time.sleep(0.1)
            return
        accepted.setblocking(False)
        connection = Connection(accepted, str(address[0]), time.monotonic() + self._seconds)
        while len(self._silent) >= MAX_SILENT:
            self._drop(next(iter(self._silent.values())))
        self._silent[accepted] = connection
        self._selector.register(accepted, selectors.EVENT_READ)

    def _drop_overdue(self) -> None:
        now = time.monotonic()
        for connection in list(self._silent.values()):
            if connection.deadline > now:
                return
            self._drop(connection)

    def _drop(self, connection: Connection) -> None:
        del self._silent[connection.socket]
        self._selector.unregister(connection.socket)
        hang_up(connection.socket)

    def _hand_over(self, connection: Connection) -> None:
        try:
            said = connection.socket.recv(1, socket.MSG_PEEK)
        except OSError:
            said = b""  # reset
        if not said:  # it has gone without a word
            hang_up(connection.socket)
        elif not self._take_place():
            self._refuse(connection)
        else:
            connection.heard = lambda: self._heard(connection)
            connection.lingers = lambda: self._lingers(connection)
            self._lingers(connection)
            thread = AnswerThread(target=self._run_request, args=(connection,), name="poolscope-request", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # the system gives us none
                self._leave(connection)
            else:
                self._threads = {known for known in self._threads if not has_exited(known)}
                self._threads.add(thread.native_id or 0)

    def _take_place(self) -> bool:
        if self._free.acquire(blocking=False):
            return True
        with self._lock:
            slowest = next(iter(self._reading), None)
            if slowest is None:
                return False
            del self._reading[slowest]
            try:
                _shut_down(slowest.socket, socket.SHUT_RDWR)  # wakes its thread
            except OSError:
                pass  # it has gone by itself
        return self._free.acquire(timeout=_LEAVE_SECONDS)

    def _heard(self, connection: Connection) -> None:
        with self._lock:
            self._reading.pop(connection, None)

    def _lingers(self, connection: Connection) -> None:
        with self._lock:
            self._reading[connection] = None

    def _refuse(self, connection: Connection) -> None:
        try:
            connection.socket.recv(65536)  # a socket closed with unread data is reset, and the answer lost
            if not self._speaks_tls:
                connection.socket.send(_BUSY)
        except OSError:
            pass
        hang_up(connection.socket)

    def _run_request(self, connection: Connection) -> None:
        try:
            self._serve(connection)
        except Exception:
            # Almost always a client that went away. Never a traceback on the program's standard error.
            _log.debug("a request to the metrics endpoint failed", exc_info=True)
        finally:
            self._leave(connection)

    def _leave(self, connection: Connection) -> None:
        self._heard(connection)  # before the close: the next owner of the descriptor must not be cut off
        hang_up(connection.socket)
        self._free.release()


def hang_up(connection: Any) -> None:
    """Close a socket; the other side learns of it even if a forked child holds a copy."""
    try:
        _shut_down(connection, socket.SHUT_WR)
    except OSError:
        pass  # it is closed already
    connection.close()


def _shut_down(connection: Any, how: int) -> None:
    """Not by the connection's own method, which for TLS forgets the encryption."""
    if hasattr(socket.socket, "shutdown"):
        socket.socket.shutdown(connection, how)
    else:
        connection.shutdown(how)  # eventlet's sockets pass it on to the one within

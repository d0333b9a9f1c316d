"""The socket at which a peer is asked, and its side of the protocol."""

from __future__ import annotations

import _socket
import os
from collections.abc import Callable

from poolscope.multiprocess import peer_client

#: Questions that wait here while another one is answered.
_BACKLOG = 16


class AnsweringSocket:
    """A UNIX socket at a path. One thread answers; `close` may come from another, and from a forked child.

    It stands on what `socket` itself stands on: gevent and eventlet replace that, and this thread runs none of their
    greenlets. All methods but `close` may raise OSError.
    """

    def __init__(self, path: str) -> None:
        listener = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM, 0)
        os.set_inheritable(listener.fileno(), False)
        early = path + ".new"  # no client may come before we listen
        if os.path.lexists(early):
            os.unlink(early)
        listener.bind(early)
        listener.listen(_BACKLOG)
        os.rename(early, path)
        self._listener: _socket.socket | None = listener
        status = os.fstat(listener.fileno())
        self._identity = (status.st_dev, status.st_ino)

    def accept(self, seconds: float) -> _socket.socket | None:
        """Return the connection of the next client; None if none comes for so long."""
        listener = self._listener
        if listener is None:
            raise OSError("its socket is gone")
        listener.settimeout(seconds)
        try:
            descriptor, _ = listener._accept()  # type: ignore[attr-defined]
        except TimeoutError:
            return None
        return _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM, 0, descriptor)

    def close(self) -> None:
        """Stop answering; do nothing the second time."""
        listener, self._listener = self._listener, None
        if listener is None:
            return
        descriptor = listener.detach()
        try:
            status = os.fstat(descriptor)
            # A program that closes all descriptors may have that number for its own by now.
            if (status.st_dev, status.st_ino) == self._identity:
                os.close(descriptor)
        except OSError:
            pass


def answer(connection: _socket.socket, told: Callable[[bool], bytes]) -> None:
    """Read a question and answer it with `told(details)`: with all findings in full (True) or without."""
    try:
        connection.settimeout(peer_client.ANSWER_SECONDS)
        question = connection.recv(1)
    except OSError:
        return  # it has gone away
    if question not in (peer_client.COUNTS, peer_client.DETAILS):
        return
    said = peer_client.framed(told(question == peer_client.DETAILS))
    try:
        connection.sendall(said)
    except OSError:
        pass  # it was too slow

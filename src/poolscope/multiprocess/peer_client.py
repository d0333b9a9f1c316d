"""The peers' protocol: one byte asks, a length of 4 bytes (big-endian) and a `Told` as msgpack answers."""

from __future__ import annotations

import _socket
import socket
import time
from collections.abc import Mapping

from poolscope.multiprocess.wire import MAX_BYTES, Told, decoded

COUNTS = b"c"
#: The same with all findings in full.
DETAILS = b"d"
#: No question: the peer checks whether it has to end.
WAKE = b"w"

#: Seconds that a scrape waits for the answers of all peers together.
ANSWER_SECONDS = 2.0

_LENGTH_BYTES = 4
_READ_BYTES = 1 << 16


def framed(answer: bytes) -> bytes:
    """Return an answer as it is sent."""
    return len(answer).to_bytes(_LENGTH_BYTES, "big") + answer


def ask(paths: Mapping[str, str], question: bytes, seconds: float) -> tuple[dict[str, Told], list[str]]:
    """Return the answers by peer, and the peers that kept silent; one that ended is in neither. Asks all at once.

    `paths` are their sockets.
    """
    import selectors

    answers: dict[str, Told] = {}
    silent: list[str] = []
    deadline = time.monotonic() + seconds
    with selectors.DefaultSelector() as selector:
        try:
            for name, path in paths.items():
                try:
                    connection = _asked(path, question)
                except BlockingIOError:
                    silent.append(name)  # many others wait for it
                except OSError:
                    pass
                else:
                    selector.register(connection, selectors.EVENT_READ, (name, bytearray()))
            while selector.get_map() and (left := deadline - time.monotonic()) > 0:
                for key, _ in selector.select(left):
                    name, data = key.data
                    assert isinstance(key.fileobj, socket.socket)
                    connection = key.fileobj
                    if not _read(connection, data):
                        continue
                    selector.unregister(connection)
                    connection.close()
                    told = decoded(bytes(data[_LENGTH_BYTES:]), Told)
                    if told is not None:
                        answers[name] = told
        finally:
            for key in list(selector.get_map().values()):
                silent.append(key.data[0])
                assert isinstance(key.fileobj, socket.socket)
                key.fileobj.close()
    return answers, silent


def wake(path: str) -> None:
    """Wake the peer that answers there."""
    caller = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM, 0)
    try:
        caller.setblocking(False)
        caller.connect(path)
        caller.send(WAKE)
    except OSError:
        pass  # it wakes up by itself soon
    finally:
        caller.close()


def _asked(path: str, question: bytes) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.setblocking(False)
    try:
        connection.connect(path)  # a UNIX socket connects at once, or not at all
        connection.send(question)
    except BaseException:
        connection.close()
        raise
    return connection


def _read(connection: socket.socket, data: bytearray) -> bool:
    """Whether this was the last that comes."""
    try:
        part = connection.recv(_READ_BYTES)
    except BlockingIOError:
        return False
    except OSError:
        data.clear()
        return True
    data += part
    size = _LENGTH_BYTES + int.from_bytes(data[:_LENGTH_BYTES], "big") if len(data) >= _LENGTH_BYTES else MAX_BYTES
    if len(data) >= size or not part or len(data) > MAX_BYTES:
        if len(data) != size:
            data.clear()
        return True
    return False

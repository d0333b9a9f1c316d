"""How a watched process talks to the parent that supervises it: frames over a UNIX socket.

A frame is two big-endian 4-byte lengths, a JSON array of the first length and a tail of the second. The
integer lists of a `pool_batch` are its tail (little-endian int64, one list after the other; the JSON holds
how many numbers each has), every other message is JSON alone.

`json`, `socket` and `array` are not imported when a program starts: they cost it several milliseconds, which
a program that never uses a pool should not pay.
"""

from __future__ import annotations

import os

from poolscope.probe.native import allocate_lock

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket
    from collections.abc import Iterator, Sequence
    from typing import Any

#: Where the five integer lists of a `pool_batch` begin in its tuple.
_LISTS = 7
_INT_BYTES = 8
_HEADER_BYTES = 8

#: The most bytes of a frame that are believed; the integers of a busy 0.1 s take less than a thousandth of
#: it.
MAX_JSON_BYTES = 1 << 24
MAX_TAIL_BYTES = 1 << 28

#: One attempt to send may wait this long (seconds) for a parent that is behind; after so many the parent is
#: given up. Several short ones instead of one long: a Ctrl-Z stops both sides while the clock of an attempt
#: runs on.
_SEND_SECONDS = 1.0
_SEND_ATTEMPTS = 4

#: Messages that wait to be sent together are sent once they are this many bytes.
_ENOUGH_BYTES = 1 << 15

#: Our descriptor goes up here, so that the program's own get the numbers that they have without us.
_HIGH_DESCRIPTOR = 1000


class ChannelClosed(Exception):
    """The parent is gone, or the program closed our descriptor."""


class FrameError(ValueError):
    """Bytes that are no frame."""


def encode(message: Sequence[Any]) -> bytes:
    """The frame of one message tuple."""
    tail = b""
    if message[0] == "pool_batch":
        lists = message[_LISTS:]
        tail = b"".join([_packed(numbers) for numbers in lists])
        message = (*message[:_LISTS], *[len(numbers) for numbers in lists])
    text = dumps(message).encode("ascii")
    return len(text).to_bytes(4, "big") + len(tail).to_bytes(4, "big") + text + tail


class Decoder:
    """Frames back to messages, from bytes as they come. Not for several threads."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[list[Any]]:
        """The messages that `data` completes. Raises FrameError if the stream is not ours: it is over."""
        buffer = self._buffer
        buffer += data
        messages: list[list[Any]] = []
        start = 0
        while len(buffer) - start >= _HEADER_BYTES:
            text_bytes = int.from_bytes(buffer[start : start + 4], "big")
            tail_bytes = int.from_bytes(buffer[start + 4 : start + 8], "big")
            if text_bytes > MAX_JSON_BYTES or tail_bytes > MAX_TAIL_BYTES:
                raise FrameError(f"a frame of {text_bytes} + {tail_bytes} bytes")
            middle = start + _HEADER_BYTES + text_bytes
            end = middle + tail_bytes
            if len(buffer) < end:
                break
            text = bytes(buffer[start + _HEADER_BYTES : middle])
            messages.append(_message(text, bytes(buffer[middle:end])))
            start = end
        # Once per feed, not per frame: deleting the head moves all that follows.
        del buffer[:start]
        return messages


class Channel:
    """A connection to the parent.

    Any thread may send: one at a time writes, so that frames never mix. The first failure closes for good and
    raises ChannelClosed; later sends do nothing. Raises OSError if there is no parent to connect to.
    """

    def __init__(self, path: str) -> None:
        import _socket

        self._lock = allocate_lock()
        low = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM, 0)
        try:
            low.settimeout(_SEND_SECONDS)  # a listener with a full backlog
            low.connect(path)
            descriptor = _moved_high(low.fileno())
        finally:
            low.close()
        # The C type without Python's layer above it: importing that costs more than all the rest here, and
        # monkey-patching (gevent) does not reach it.
        self._socket: _socket.socket | None = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM, 0, descriptor)
        self._socket.settimeout(_SEND_SECONDS)
        self._identity = _identity(descriptor)
        self._waiting = bytearray()

    def send(self, message: Sequence[Any]) -> None:
        """Sends the message whole, after those that wait, within seconds, or raises ChannelClosed."""
        self._take(encode(message), 0)

    def put(self, message: Sequence[Any]) -> None:
        """Sends the message with others: with the next `flush` at the latest. Raises as `send` does.

        To send each alone costs a call of the system for it here, and wakes up the parent for it there.
        """
        self._take(encode(message), _ENOUGH_BYTES)

    def flush(self) -> None:
        """Sends what waits. Raises as `send` does."""
        self._take(b"", 0)

    def _take(self, data: bytes, enough: int) -> None:
        # Bounded: a signal handler may have interrupted the send that holds the lock, in this very thread.
        if not self._lock.acquire(timeout=_SEND_SECONDS * _SEND_ATTEMPTS):
            return
        try:
            if self._socket is not None:
                self._waiting += data
                if self._waiting and len(self._waiting) >= enough:
                    waiting, self._waiting = self._waiting, bytearray()
                    self._send(self._socket, waiting)
        except BaseException as error:
            # Whatever it was, half a frame may be out.
            self.close()
            if isinstance(error, OSError):
                raise ChannelClosed(str(error)) from error
            raise
        finally:
            self._lock.release()

    def _send(self, connection: _socket.socket, data: bytearray) -> None:
        from _socket import MSG_NOSIGNAL

        # A program may close descriptors that it does not know (daemons do), and the number may be its own
        # now.
        if _identity(connection.fileno()) != self._identity:
            raise OSError("the program closed our descriptor")
        rest = memoryview(data)
        attempts = 0
        while rest:
            try:
                rest = rest[connection.send(rest, MSG_NOSIGNAL) :]
            except TimeoutError:
                attempts += 1
                if attempts == _SEND_ATTEMPTS:
                    raise

    def close(self) -> None:
        """Closes our descriptor, unless it is not ours any more. In a forked child, the parent's stays."""
        connection, self._socket = self._socket, None
        if connection is None:
            return
        descriptor = connection.detach()
        try:
            if _identity(descriptor) == self._identity:
                os.close(descriptor)
        except OSError:
            pass  # closed by the program already


def dumps(value: Any) -> str:
    """JSON in ASCII for what messages are made of: strings, numbers, None, lists and tuples."""
    return "".join(_pieces(value))


def loads(text: str) -> Any:
    """What the JSON text stands for. Raises ValueError if it is none."""
    try:
        from _json import make_scanner
    except ImportError:  # not CPython
        import json

        return json.loads(text)
    try:
        context: Any = _Plain
        value, end = make_scanner(context)(text, 0)
    except StopIteration:
        raise ValueError("not JSON") from None
    if text[end:].strip():
        raise ValueError("something follows the JSON")
    return value


class _Plain:
    """How the C scanner of `json` is asked for plain Python values."""

    strict = False
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = float
    memo: dict[str, str] = {}


def _pieces(value: Any) -> Iterator[str]:
    # Most frequent first; exact types but for strings, whose subclasses may come from the program.
    if type(value) is int:
        yield int.__repr__(value)
    elif isinstance(value, str):
        yield _quoted(value)
    elif isinstance(value, list | tuple):
        separator = "["
        for item in value:
            yield separator
            yield from _pieces(item)
            separator = ","
        yield "[]" if separator == "[" else "]"
    elif value is None:
        yield "null"
    elif isinstance(value, bool):
        yield "true" if value else "false"
    elif isinstance(value, int):
        yield int.__repr__(value)
    elif isinstance(value, float):
        # JSON has neither infinities nor NaN.
        yield float.__repr__(value) if value - value == 0.0 else "null"
    else:
        raise TypeError(f"a message cannot hold a {type(value).__name__}")


def _quoted(text: str) -> str:
    try:
        from _json import encode_basestring_ascii
    except ImportError:  # not CPython
        from json.encoder import encode_basestring_ascii  # type: ignore[attr-defined,no-redef,unused-ignore]
    try:
        str.encode(text)
    except UnicodeEncodeError:
        # Names of files that are not UTF-8 have lone surrogates, which nothing that writes JSON accepts.
        text = str.encode(text, "utf-8", "backslashreplace").decode("utf-8")
    quoted: str = encode_basestring_ascii(text)
    return quoted


def _packed(numbers: Sequence[int]) -> bytes:
    if not numbers:
        return b""
    import sys
    from array import array

    packed = array("q", numbers)
    if sys.byteorder == "big":
        packed.byteswap()
    return packed.tobytes()


def _message(text: bytes, tail: bytes) -> list[Any]:
    try:
        message = loads(text.decode("ascii"))
    except (ValueError, RecursionError) as error:
        raise FrameError(f"unreadable JSON: {error}") from error
    if not isinstance(message, list) or not message:
        raise FrameError("not an array")
    if message[0] == "pool_batch":
        message[_LISTS:] = _unpacked(message[_LISTS:], tail)
    elif tail:
        raise FrameError("a tail without a batch")
    return message


def _unpacked(lengths: list[Any], tail: bytes) -> list[list[int]]:
    import sys
    from array import array

    if not all(type(length) is int and length >= 0 for length in lengths):
        raise FrameError("impossible lengths")
    if sum(lengths) * _INT_BYTES != len(tail):
        raise FrameError(f"{sum(lengths)} numbers in {len(tail)} bytes")
    numbers = array("q", tail)
    if sys.byteorder == "big":
        numbers.byteswap()
    everything = numbers.tolist()
    lists = []
    start = 0
    for length in lengths:
        lists.append(everything[start : start + length])
        start += length
    return lists


def _moved_high(descriptor: int) -> int:
    from fcntl import F_DUPFD_CLOEXEC, fcntl

    most = os.sysconf("SC_OPEN_MAX")
    high = _HIGH_DESCRIPTOR if most < 0 else min(_HIGH_DESCRIPTOR, most - 24)
    return fcntl(descriptor, F_DUPFD_CLOEXEC, max(high, 3))


def _identity(descriptor: int) -> tuple[int, int]:
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino

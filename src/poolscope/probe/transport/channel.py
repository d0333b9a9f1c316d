"""The connection of a watched process to the parent that supervises it: frames over a UNIX socket.

A frame is two big-endian 4-byte lengths, a JSON array of the first length and a tail of the second. The
integer lists of a `pool_batch` or a `pool_sums` are its tail (little-endian int64, one list after the other; the JSON
holds how many numbers each has), every other message is JSON alone.

`socket` and `array` are not imported when a program starts, and `json` never: they take several milliseconds, which a
program that never uses a pool should not pay. The little JSON that a process writes is made here.
"""

from __future__ import annotations

import os
from itertools import islice

from poolscope.probe.interpreter.standard import standard
from poolscope.probe.interpreter.unpatched import allocate_lock

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket
    from array import array
    from collections import deque
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any

#: Where the integer lists begin in the tuple of those messages that have some.
_LISTS = {"pool_batch": 7, "pool_sums": 10}
_INT_BYTES = 8
_HEADER_BYTES = 8

#: The most bytes of a frame; a larger length is an error. Commands and lines of code may be long; more integers than
#: that go out as several messages.
MAX_JSON_BYTES = 1 << 24
MAX_TAIL_BYTES = 1 << 18

#: How long (seconds) a thread that has to wait for the parent waits without any progress: in several short attempts, as
#: a Ctrl-Z stops both sides while the clock of an attempt runs on.
PATIENCE = 4.0
_ATTEMPT = 0.25
_ATTEMPTS = round(PATIENCE / _ATTEMPT)
_CONNECT_SECONDS = 1.0

#: Messages that wait to be sent together are sent once they are this many bytes; in one call of the system, no more
#: frames than it takes.
_ENOUGH_BYTES = 1 << 15
_FRAMES_AT_ONCE = 256

#: Our descriptors get high numbers, where there are hardly any, so that the program's own get the numbers that they
#: have without us: near the limit, or where the system's table of them, which each fork copies, is still small. Many
#: that close all descriptors that there may be go no further than 1,024 or 2,048.
_HIGH_DESCRIPTORS = 4096
_BELOW = 24

if not TYPE_CHECKING:
    # The C type from where it is built in: `collections` is not there yet when a program starts.
    from _collections import deque


class ChannelClosed(Exception):
    """The parent is gone, or the program closed our descriptor."""


class FrameError(ValueError):
    """Bytes that are no frame."""


def encode(message: Sequence[Any]) -> bytes:
    """Return the frame of one message tuple."""
    tail = b""
    begin = _LISTS.get(message[0])
    if begin is not None:
        lists = message[begin:]
        tail = b"".join([_packed(numbers) for numbers in lists])
        message = (*message[:begin], *[len(numbers) for numbers in lists])
    text = dumps(message).encode("ascii")
    return len(text).to_bytes(4, "big") + len(tail).to_bytes(4, "big") + text + tail


class Decoder:
    """Frames back to messages, from bytes as they come; the lists of a batch as arrays. Not for several threads."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[list[Any]]:
        """Return the messages that `data` completes. Raises FrameError if the stream is not ours: it is over."""
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
    """A connection to the parent, and the frames that it has not taken yet. `put` and `flush` never wait for it.

    Any thread may call any method: one at a time writes, so that frames never mix. The first failure closes for good
    and raises ChannelClosed; later calls do nothing. Raises OSError if there is no parent to connect to: at the path,
    or else through the door.
    """

    def __init__(self, path: str, door: Door | None = None) -> None:
        self._lock = allocate_lock()
        try:
            low = _connected(path)
        except OSError:
            if door is None:
                raise
            low = door.passed()
        self._socket: _socket.socket | None = _moved_high(low)
        self._socket.settimeout(0)
        self._identity = _identity(self._socket.fileno())
        self._frames: deque[bytes] = deque()
        #: Bytes of frames that have yet to be sent.
        self.waiting = 0
        # What of the first frame is out.
        self._sent = 0
        self._unflushed = 0

    @property
    def closed(self) -> bool:
        """Whether nothing is sent any more."""
        return self._socket is None

    def put(self, message: Sequence[Any]) -> None:
        """Send the message with others: with the next `flush` at the latest. Raises ChannelClosed.

        Sending each alone costs a system call here, and wakes up the parent there.
        """
        self._call(self._put, encode(message))

    def send(self, message: Sequence[Any]) -> None:
        """Send the same, and `flush`."""
        self.put(message)
        self.flush()

    def flush(self) -> None:
        """Send as much as the parent has room for. Raises ChannelClosed."""
        self._call(self._push)

    def finish(self) -> bool:
        """Send what waits, as long as the parent takes some of it now and then. Returns whether all is out.

        Raises ChannelClosed.
        """
        self._call(self._await)
        return not self.waiting

    def _call(self, call: Callable[..., None], *arguments: bytes) -> None:
        # Bounded: a signal handler may have interrupted the call that holds the lock, in this very thread.
        if not self._lock.acquire(timeout=PATIENCE):
            return
        try:
            if self._socket is not None:
                call(*arguments)
        except BaseException as error:
            # After any error, half a frame may be out.
            self.close()
            if isinstance(error, OSError):
                raise ChannelClosed(str(error)) from error
            raise
        finally:
            self._lock.release()

    def _put(self, frame: bytes) -> None:
        self._frames.append(frame)
        self.waiting += len(frame)
        self._unflushed += len(frame)
        if self._unflushed >= _ENOUGH_BYTES:
            self._push()

    def _push(self) -> None:
        self._unflushed = 0
        try:
            while self._frames:
                self._send()
        except BlockingIOError:
            pass  # no room: the next time

    def _await(self) -> None:
        assert self._socket is not None
        self._socket.settimeout(_ATTEMPT)
        left = _ATTEMPTS
        while self._frames and left:
            try:
                self._send()
                left = _ATTEMPTS
            except TimeoutError:
                left -= 1
        self._socket.settimeout(0)

    def _send(self) -> None:
        """Send some of what waits by one call of the system."""
        from _socket import MSG_NOSIGNAL

        connection, frames = self._socket, self._frames
        assert connection is not None
        # A program may close descriptors that it does not know (daemons do), and the number may be its own
        # now.
        if _identity(connection.fileno()) != self._identity:
            raise OSError("the program closed our descriptor")
        rest = memoryview(frames[0])[self._sent :]
        out = connection.sendmsg([rest, *islice(frames, 1, _FRAMES_AT_ONCE)], [], MSG_NOSIGNAL)
        self.waiting -= out
        self._sent += out
        while frames and self._sent >= len(frames[0]):
            self._sent -= len(frames.popleft())

    def close(self) -> None:
        """Close our descriptor, unless it is not ours any more. In a forked child, the parent's stays."""
        connection, self._socket = self._socket, None
        self._frames.clear()
        self.waiting = 0
        if connection is not None:
            _let_go(connection, self._identity)


class Door:
    """A connection by which a process gives the parent the other end of a new one.

    Forked children inherit it: a child that has become another user cannot reach the parent's socket by its path. No
    other process can use it, and only the parent gets what goes through. Raises OSError if there is no parent to
    connect to.
    """

    def __init__(self, path: str) -> None:
        self._socket = _moved_high(_connected(path))
        self._identity = _identity(self._socket.fileno())
        # By its number the parent sees which processes have it.
        self._socket.sendall(encode(("door", self._identity[1])))

    def passed(self) -> _socket.socket:
        """Return a connection to the parent. Raises OSError, as where the program has closed our descriptor."""
        import _socket
        import sys

        if _identity(self._socket.fileno()) != self._identity:
            raise OSError("the program closed our descriptor")
        ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM, 0)
        try:
            right = theirs.fileno().to_bytes(4, sys.byteorder)
            self._socket.settimeout(_CONNECT_SECONDS)
            self._socket.sendmsg([b"."], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, right)], _socket.MSG_NOSIGNAL)
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        return ours


def dumps(value: Any) -> str:
    """Return JSON in ASCII for the contents of messages: strings, numbers, None, lists and tuples."""
    return "".join(_pieces(value))


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
    # By the methods of `str` itself: those of a subclass are the program's.
    if str.isascii(text) and str.isprintable(text) and str.find(text, '"') < 0 and str.find(text, "\\") < 0:
        return str.join("", ('"', text, '"'))
    try:
        units = str.encode(text, "utf-16-be")
    except UnicodeEncodeError:
        # Names of files that are not UTF-8 have lone surrogates, which nothing that writes JSON accepts.
        units = str.encode(text, "utf-8", "backslashreplace").decode("utf-8").encode("utf-16-be")
    quoted = ['"']
    for high, low in zip(units[::2], units[1::2], strict=True):
        if high == 0 and 32 <= low < 127 and low not in b'"\\':
            quoted.append(chr(low))
        else:
            quoted.append(f"\\u{high:02x}{low:02x}")
    quoted.append('"')
    return "".join(quoted)


def _packed(numbers: Sequence[int]) -> bytes:
    if not numbers:
        return b""
    import sys

    packed = standard("array").array("q", numbers)
    if sys.byteorder == "big":
        packed.byteswap()
    return bytes(packed.tobytes())


def _message(text: bytes, tail: bytes) -> list[Any]:
    # In the parent only: a program pays for this import by milliseconds.
    import json

    try:
        message = json.loads(text.decode("ascii"))
    except (ValueError, RecursionError) as error:
        raise FrameError(f"unreadable JSON: {error}") from error
    if not isinstance(message, list) or not message:
        raise FrameError("not an array")
    begin = _LISTS.get(message[0]) if isinstance(message[0], str) else None
    if begin is not None:
        message[begin:] = _unpacked(message[begin:], tail)
    elif tail:
        raise FrameError("a tail without a batch")
    return message


def _unpacked(lengths: list[Any], tail: bytes) -> list[array[int]]:
    import sys
    from array import array

    if not all(type(length) is int and length >= 0 for length in lengths):
        raise FrameError("impossible lengths")
    if sum(lengths) * _INT_BYTES != len(tail):
        raise FrameError(f"{sum(lengths)} numbers in {len(tail)} bytes")
    arrays = []
    start = 0
    for length in lengths:
        end = start + length * _INT_BYTES
        numbers = array("q", tail[start:end])
        if sys.byteorder == "big":
            numbers.byteswap()
        arrays.append(numbers)
        start = end
    return arrays


def _connected(path: str) -> _socket.socket:
    import _socket

    # The C type without Python's layer above it: importing that costs more than all the rest here, and
    # monkey-patching (gevent) does not reach it.
    connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM, 0)
    try:
        connection.settimeout(_CONNECT_SECONDS)  # a listener with a full backlog
        connection.connect(path)
    except BaseException:
        connection.close()
        raise
    return connection


def _moved_high(low: _socket.socket) -> _socket.socket:
    """Return the same connection under a number that the program will not need."""
    import _socket

    fcntl = standard("fcntl")
    try:
        most = os.sysconf("SC_OPEN_MAX")
        high = min(most, _HIGH_DESCRIPTORS) if most > 0 else _HIGH_DESCRIPTORS
        descriptor = fcntl.fcntl(low.fileno(), fcntl.F_DUPFD_CLOEXEC, max(high - _BELOW, 3))
    finally:
        low.close()
    return _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM, 0, descriptor)


def _let_go(connection: _socket.socket, identity: tuple[int, int]) -> None:
    descriptor = connection.detach()
    try:
        if _identity(descriptor) == identity:
            os.close(descriptor)
    except OSError:
        pass  # closed by the program already


def _identity(descriptor: int) -> tuple[int, int]:
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino

"""One thread of the parent reads what the watched processes send and feeds it to the engine."""

from __future__ import annotations

import os
import selectors
import socket
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

from poolscope.errors import PoolscopeError
from poolscope.probe.transport.channel import Decoder, FrameError

#: How often the engine gets a tick.
TICK_NS = 100_000_000

#: If this thread did not run for so long (stopped, or starved), the engine has to wait until all is read that was sent
#: meanwhile, or it would take that for late. That is when nothing comes for a moment, or when each process that sends
#: has sent the time; but it does not wait for ever.
STALLED_NS = 1_000_000_000
QUIET_SECONDS = 0.05
CATCH_UP_NS = 5_000_000_000

#: What one read may bring. A connection is read once per round, so that a busy process cannot silence the
#: others.
_READ_BYTES = 1 << 18

#: And so many descriptors, each from a process that comes in by a door.
_DESCRIPTORS = 16
_RECEIVE = getattr(socket, "MSG_CMSG_CLOEXEC", 0)

#: What was sent before the patience ended is read after it too: in so many rounds, if a process goes on sending.
LATE_ROUNDS = 1000


class Hears(Protocol):
    """What the collector needs of an engine."""

    def feed(self, source: int, raw: Sequence[Any]) -> None:
        """One message of one connection; the first is the hello."""

    def lost(self, source: int, now_ns: int) -> None:
        """Note that a connection ended."""

    def notice(self, text: str) -> None:
        """Note that something could not be seen."""

    def failed(self, part: str, text: str) -> None:
        """Note that a part of poolscope has failed."""

    def tick(self, now_ns: int) -> None:
        """Note that time has passed."""

    def deliver(self) -> None:
        """Report what the ticks have found; without the lock."""


class _Connection:
    """One watched process, or one of its lives if it calls exec."""

    def __init__(self, source: int, stream: socket.socket) -> None:
        self.source = source
        self.stream = stream
        self.decoder = Decoder()
        #: The latest time that it has sent, and whether it has sent anything since this thread went on after a stop.
        self.told_ns = 0
        self.spoke = False
        #: Whether it only brings connections of others (see `probe.transport.channel.Door`).
        self.is_door = False
        #: The process as it says itself; 0: it has not yet.
        self.pid = 0

    def feed(self, data: bytes) -> list[list[Any]]:
        """Return what it said."""
        messages = self.decoder.feed(data)
        self.spoke = True
        for message in messages:
            if message[0] == "process_tick" and len(message) > 1 and isinstance(message[1], int):
                self.told_ns = max(self.told_ns, message[1])
            elif message[0] == "hello" and len(message) > 2 and isinstance(message[2], int):
                self.pid = message[2]
        return messages


class Collector:
    """Listens at the UNIX socket `path` and feeds an engine, whose calls (but `deliver`) are made under `lock`.

    `run` belongs to the thread that reads; `finish` may be called from any, before or after `run` has begun.
    """

    def __init__(self, lock: threading.Lock, path: str, clock: Callable[[], int]) -> None:
        self.connections = 0
        #: The inode numbers that show which processes have a door.
        self.doors: set[int] = set()
        self._engine: Hears
        self._lock = lock
        self._clock = clock
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(path)
        self._listener.listen(socket.SOMAXCONN)
        self._listener.setblocking(False)
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._wake_read, selectors.EVENT_READ)
        self._open: set[_Connection] = set()
        self._finish_ns: int | None = None
        self._late_rounds = 0
        self._judge_failed = False
        # Around the end: `finish` must not write to what `close` has closed.
        self._ending = threading.Lock()
        self._closed = False

    def finish(self, patience_ns: int) -> None:
        """Let `run` return when every process has ended, or has sent nothing more after `patience_ns`."""
        self._finish_ns = self._clock() + patience_ns
        with self._ending:
            if not self._closed:
                os.write(self._wake_write, b"x")

    def outliving(self) -> list[int]:
        """Return the processes that still were there when `run` returned."""
        return sorted(connection.pid for connection in self._open if connection.pid)

    def close(self) -> None:
        """Let go of the sockets, once. Not during `run`."""
        with self._ending:
            if self._closed:
                return
            self._closed = True
        self._selector.close()
        self._listener.close()
        for connection in self._open:
            connection.stream.close()
        self._open.clear()
        os.close(self._wake_read)
        os.close(self._wake_write)

    def run(self, engine: Hears) -> None:
        """Read and judge. A process that connected before is not lost: the socket listens from the start."""
        self._engine = engine
        last = self._clock()
        next_tick = last + TICK_NS
        resumed = catch_up_until = 0
        while self._finish_ns is None or not self._all_read(self._finish_ns):
            now = self._clock()
            if now - last >= STALLED_NS:
                resumed, catch_up_until = now, now + CATCH_UP_NS
                for connection in self._open:
                    connection.spoke = False
            last = now
            if now < catch_up_until:
                told = [connection.told_ns for connection in self._open if connection.spoke]
                if not self._round(QUIET_SECONDS) or (told and min(told) >= resumed):
                    catch_up_until = 0
                continue
            if now >= next_tick:
                self._call(partial(self._engine.tick, now))
                self._guarded(self._engine.deliver)
                # No catching up: an engine that is late once must not be called twice as often.
                next_tick = max(next_tick + TICK_NS, self._clock())
            self._round(max(0, next_tick - self._clock()) / 1e9)

    def _all_read(self, finish_ns: int) -> bool:
        """Nothing more will come, or it is too late for it: processes that live on are not waited for."""
        late = self._clock() >= finish_ns
        # A process may have connected, spoken and ended before we accepted it. And on a busy machine it may be late
        # before we have read anything.
        if self._selector.select(0):
            self._late_rounds += late
            return self._late_rounds > LATE_ROUNDS
        return late or not self._open

    def _round(self, timeout_seconds: float) -> bool:
        """Read once from each connection that has something; return whether one had."""
        ready = self._selector.select(timeout_seconds)
        for key, _ in ready:
            if key.fileobj is self._listener:
                self._accept()
            elif isinstance(key.data, _Connection):
                self._read(key.data)
            else:
                os.read(self._wake_read, 64)
        return bool(ready)

    def _accept(self) -> None:
        try:
            stream, _ = self._listener.accept()
        except OSError as error:
            # Out of descriptors, or the other side is gone already.
            self._notice(f"a process could not be watched: {error.strerror}")
            return
        self._add(stream)

    def _add(self, stream: socket.socket) -> None:
        stream.setblocking(False)
        self.connections += 1
        connection = _Connection(self.connections, stream)
        self._open.add(connection)
        self._selector.register(stream, selectors.EVENT_READ, connection)

    def _read(self, connection: _Connection) -> None:
        descriptors: list[int] = []
        try:
            # All connections may bring descriptors: those of a door may come together with its first message.
            data, descriptors, _, _ = socket.recv_fds(connection.stream, _READ_BYTES, _DESCRIPTORS, _RECEIVE)
        except BlockingIOError:
            return
        except OSError:
            data = b""  # reset: the process was killed, which is an end like any other
        if data and not connection.is_door:
            self._take(connection, data)
        for descriptor in descriptors:
            self._bring(connection, descriptor)
        if not data:
            self._drop(connection)

    def _bring(self, connection: _Connection, descriptor: int) -> None:
        """Note that a descriptor came in: of another connection, if it came by a door."""
        try:
            stream = socket.socket(fileno=descriptor)
        except OSError:
            os.close(descriptor)  # of something else
            return
        if connection.is_door and (stream.family, stream.type) == (socket.AF_UNIX, socket.SOCK_STREAM):
            self._add(stream)
        else:
            stream.close()

    def _take(self, connection: _Connection, data: bytes) -> None:
        try:
            messages = connection.feed(data)
            match messages:
                case [["door", int(number)]]:
                    connection.is_door = True
                    self.doors.add(number)
                    return
            with self._lock:
                for message in messages:
                    self._engine.feed(connection.source, message)
        except (FrameError, PoolscopeError) as error:
            self._notice(f"a process is watched no more: {error}")
            self._drop(connection)
        except Exception as error:
            # A fault of ours: the program must go on, and the others still be judged.
            self._call(partial(self._engine.failed, "intake", f"{type(error).__name__}: {error}"))
            self._drop(connection)

    def _drop(self, connection: _Connection) -> None:
        self._selector.unregister(connection.stream)
        connection.stream.close()
        self._open.discard(connection)
        self._call(partial(self._engine.lost, connection.source, self._clock()))

    def _notice(self, text: str) -> None:
        self._call(partial(self._engine.notice, text))

    def _call(self, call: Callable[[], None]) -> None:
        def locked() -> None:
            with self._lock:
                call()

        self._guarded(locked)

    def _guarded(self, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:
            if not self._judge_failed:
                self._judge_failed = True
                self._call(partial(self._engine.failed, "judge", f"{type(error).__name__}: {error}"))

"""The parent's ear: one thread reads what the watched processes send and feeds it to the judge."""

from __future__ import annotations

import os
import selectors
import socket
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

from poolscope.errors import PoolscopeError
from poolscope.probe.channel import Decoder, FrameError

#: How often the judge is told that time has passed.
TICK_NS = 100_000_000

#: What one read may bring. A connection is read once per round, so that a busy process cannot silence the
#: others.
_READ_BYTES = 1 << 18

#: What was sent before the patience ended is read after it too: in so many rounds, should somebody go on to talk.
LATE_ROUNDS = 1000


class Hears(Protocol):
    """What the collector needs of a judge."""

    def feed(self, source: int, raw: Sequence[Any]) -> None:
        """One message of one connection; the first is the hello."""

    def lost(self, source: int, now_ns: int) -> None:
        """A connection ended."""

    def notice(self, text: str) -> None:
        """Something could not be seen."""

    def failed(self, part: str, text: str) -> None:
        """A part of poolscope has failed."""

    def tick(self, now_ns: int) -> None:
        """Time has passed."""

    def deliver(self) -> None:
        """Tell what the ticks have found; without the lock."""


class _Connection:
    """One watched process, or one of its lives if it calls exec."""

    def __init__(self, source: int, stream: socket.socket) -> None:
        self.source = source
        self.stream = stream
        self.decoder = Decoder()


class Collector:
    """Listens at the UNIX socket `path` and feeds a judge, whose calls (but `deliver`) are made under `lock`.

    `run` belongs to the thread that reads; `finish` may be called from any, before or after `run` has begun.
    """

    def __init__(self, lock: threading.Lock, path: str, clock: Callable[[], int]) -> None:
        self.connections = 0
        self._judge: Hears
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

    def run(self, judge: Hears) -> None:
        """Read and judge. Who connected before is not lost: the socket listens since it was made."""
        self._judge = judge
        next_tick = self._clock() + TICK_NS
        while self._finish_ns is None or not self._all_read(self._finish_ns):
            now = self._clock()
            if now >= next_tick:
                self._call(partial(self._judge.tick, now))
                self._guarded(self._judge.deliver)
                # No catching up: a judge that is late once must not be called twice as often.
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

    def _round(self, timeout_seconds: float) -> None:
        for key, _ in self._selector.select(timeout_seconds):
            if key.fileobj is self._listener:
                self._accept()
            elif isinstance(key.data, _Connection):
                self._read(key.data)
            else:
                os.read(self._wake_read, 64)

    def _accept(self) -> None:
        try:
            stream, _ = self._listener.accept()
        except OSError as error:
            # Out of descriptors, or the other side is gone already.
            self._notice(f"a process could not be watched: {error.strerror}")
            return
        stream.setblocking(False)
        self.connections += 1
        connection = _Connection(self.connections, stream)
        self._open.add(connection)
        self._selector.register(stream, selectors.EVENT_READ, connection)

    def _read(self, connection: _Connection) -> None:
        try:
            data = connection.stream.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""  # reset: the process was killed, which is an end like any other
        if not data:
            self._drop(connection)
            return
        try:
            messages = connection.decoder.feed(data)
            with self._lock:
                for message in messages:
                    self._judge.feed(connection.source, message)
        except (FrameError, PoolscopeError) as error:
            self._notice(f"a process is watched no more: {error}")
            self._drop(connection)
        except Exception as error:
            # A fault of ours: the program must go on, and the others still be judged.
            self._call(partial(self._judge.failed, "intake", f"{type(error).__name__}: {error}"))
            self._drop(connection)

    def _drop(self, connection: _Connection) -> None:
        self._selector.unregister(connection.stream)
        connection.stream.close()
        self._open.discard(connection)
        self._call(partial(self._judge.lost, connection.source, self._clock()))

    def _notice(self, text: str) -> None:
        self._call(partial(self._judge.notice, text))

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
                self._call(partial(self._judge.failed, "judge", f"{type(error).__name__}: {error}"))

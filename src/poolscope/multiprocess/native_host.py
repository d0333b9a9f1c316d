"""An endpoint where gevent or eventlet have replaced threads: its greenlets get a thread of their own to run in.

The program's greenlets are busy or blocked, and a greenlet belongs to the thread that started it.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from poolscope.endpoint import Endpoint
from poolscope.probe.interpreter.unpatched import allocate_lock, replaced, start_new_thread

#: Seconds of one turn in which the greenlets run, and that an end waits for.
_TURN_SECONDS = 0.1
_PATIENCE_SECONDS = 2.0


def hosted(start: Callable[[], Endpoint]) -> Endpoint:
    """Return what `start` returns, in a thread of its own if need be. Raises what it raises."""
    return Hosted(start) if replaced() else start()


class Hosted(Endpoint):
    """An endpoint in a native thread. Any thread may call any method."""

    def __init__(self, start: Callable[[], Endpoint]) -> None:
        self._start = start
        self._server: Endpoint | None = None
        self._error: BaseException | None = None
        self._stopping = False
        self._started, self._ended = allocate_lock(), allocate_lock()
        self._started.acquire()
        self._ended.acquire()
        start_new_thread(self._live, ())
        self._started.acquire()
        if self._error is not None:
            raise self._error
        assert self._server is not None
        self._port: int = self._server.port
        self._url: str = self._server.url

    @property
    def port(self) -> int:
        """See `Endpoint.port`."""
        return self._port

    @property
    def url(self) -> str:
        """See `Endpoint.url`."""
        return self._url

    def close(self) -> None:
        """Stop listening; do nothing the second time."""
        if not self._stopping:
            self._stopping = True
            self._ended.acquire(timeout=_PATIENCE_SECONDS)

    def _live(self) -> None:
        try:
            try:
                self._server = self._start()
            except BaseException as error:
                self._error = error
                return
            finally:
                self._started.release()
            while not self._stopping:
                time.sleep(_TURN_SECONDS)  # the replaced one, in which this thread's greenlets run
            self._server.close()
        finally:
            self._ended.release()

"""Where `poolscope top` finds a run: a socket in its private directory, which only this user can enter."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable

#: How long (s) a view may take to read what it is told.
PATIENCE_SECONDS = 2.0
_BACKLOG = 8


class LiveDoor:
    """Tells each process that connects what goes on, and hangs up; one at a time. Its thread is a daemon."""

    def __init__(self, path: str, tell: Callable[[], bytes], failed: Callable[[str, Exception], object]) -> None:
        """Open it at `path`. `failed` is called once, and the door closed, if `tell` fails. Raises OSError, and
        RuntimeError where there is no thread."""
        self._tell = tell
        self._failed = failed
        self._listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._listening.bind(path)
            self._listening.listen(_BACKLOG)
            self._thread = threading.Thread(target=self._run, name="poolscope-live", daemon=True)
            self._thread.start()
        except BaseException:
            self._listening.close()
            raise

    def close(self) -> None:
        """Take no more connections."""
        try:
            self._listening.shutdown(socket.SHUT_RDWR)  # wakes the thread
        except OSError:
            pass  # it has gone
        self._thread.join(PATIENCE_SECONDS)
        self._listening.close()

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return  # closed
            with connection:
                try:
                    told = self._tell()
                except Exception as error:
                    self._failed("live", error)
                    return
                try:
                    connection.settimeout(PATIENCE_SECONDS)
                    connection.sendall(told)
                except OSError:
                    pass  # it does not read

"""The TCP port that the peers share: one of them holds it."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

from poolscope.errors import ListenError
from poolscope.multiprocess.native_host import hosted
from poolscope.multiprocess.spool_dir import SCRAPE_PATIENCE, SpoolDir

if TYPE_CHECKING:
    from poolscope.endpoint import Endpoint
    from poolscope.metrics.families import Failed

#: Looks at a port that no peer has, until it is reported as another program's.
_FOREIGN_LOOKS = 3


class Leader:
    """The port as the peer `name` has it, or not. Not thread-safe but for `held`: one thread at a time."""

    def __init__(
        self, name: str, listen: str, address: tuple[str, int], serve: Callable[[], Endpoint], failed: Failed
    ) -> None:
        """`serve` opens the endpoint at `address`, or raises ListenError."""
        self._name = name
        self._listen = listen
        self._address = address
        self._serve = serve
        self._failed = failed
        self._server: Endpoint | None = None
        self._foreign_looks = 0

    @property
    def held(self) -> bool:
        """Whether this process is the one that answers scrapes now."""
        return self._server is not None

    def take(self, folder: SpoolDir, *, first: bool = False) -> None:
        """Open the endpoint if no process has the port. Under the folder's lock. Raises ListenError if `first`."""
        try:
            self._server = hosted(self._serve)
        except ListenError as error:
            cause = error.__cause__
            taken = isinstance(cause, OSError) and cause.errno == errno.EADDRINUSE
            if taken and (folder.holder() or not first):
                return
            if first:
                raise
            self._failed("endpoint", error)
            return
        folder.hold(self._name)

    def look(self, folder: SpoolDir) -> None:
        """Take a port that has become free, and report one that another program has. May raise OSError."""
        if not _is_free(self._address):
            # Not at the first look: the process that had it may be about to end.
            self._foreign_looks = 0 if folder.holder() else self._foreign_looks + 1
            if self._foreign_looks == _FOREIGN_LOOKS:
                error = ListenError(f"cannot listen on {self._listen}: another program has taken the port")
                self._failed("endpoint", error)
            return
        with folder.lock(SCRAPE_PATIENCE) as locked:
            if locked:
                self.take(folder)
                self._foreign_looks = 0

    def give_up(self, patience: float = 0.0) -> None:
        """Close the endpoint, if it is here, and wait `patience` seconds at most for scrapes that are answered."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
            server.drain(patience)

    def forget(self) -> None:
        """In a forked child, where the endpoint closes its own."""
        self._server = None


def _is_free(address: tuple[str, int]) -> bool:
    """Whether the port is free: by trying, without listening, which disturbs no other program."""
    try:
        found = socket.getaddrinfo(*address, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, _, _, where = min(found, key=lambda item: item[0] != socket.AF_INET)
        with socket.socket(family, kind) as attempt:
            attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            attempt.bind(where)
    except OSError:
        return False
    return True

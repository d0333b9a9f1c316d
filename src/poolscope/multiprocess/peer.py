"""A process that serves an address together with others: how it comes, stays and goes."""

from __future__ import annotations

import atexit
import errno
import os
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from poolscope.config import DEFAULT_LISTEN, Settings
from poolscope.endpoint import Endpoint
from poolscope.endpoint.base import url_of
from poolscope.errors import ListenError
from poolscope.live.feed import Feed, own_command, pages
from poolscope.metrics.families import serve_snapshots
from poolscope.multiprocess import peer_client, processes
from poolscope.multiprocess.leader import Leader
from poolscope.multiprocess.peer_server import AnsweringSocket, answer
from poolscope.multiprocess.runtime_dir import open_folder
from poolscope.multiprocess.spool_dir import SCRAPE_PATIENCE, SpoolDir, SpoolError
from poolscope.multiprocess.totals import Counts
from poolscope.probe.interpreter.native_thread import NativeThread
from poolscope.probe.interpreter.unpatched import allocate_lock, sleep
from poolscope.snapshot import Snapshot

if TYPE_CHECKING:
    from poolscope.metrics.families import Failed

#: Seconds between two looks at the port, and between two notes of what this process has counted.
PERIOD_SECONDS = 1.0

#: Seconds that a peer waits for the directory when it comes, and when it goes.
_ENTRY_PATIENCE = 3.0
_EXIT_PATIENCE = 0.5

#: Attempts to come in while the last of the others goes and takes the directory with it.
_ATTEMPTS = 20

#: Seconds that a fork waits for our threads to end.
_FORK_PATIENCE = 0.5


class Peer(Endpoint):
    """This process among those that serve an address. A context manager that ends its part.

    One native thread answers the others and looks after the port; `_lock` is held for its coming and going. Any thread
    may call any method. In a forked child all of it is forgotten.
    """

    def __init__(
        self,
        snapshot: Callable[[], Snapshot],
        settings: Settings,
        failed: Failed,
        detailed: Callable[[], Snapshot] | None,
        address: tuple[str, int],
        *,
        again: bool = False,
        unasked: bool = False,
    ) -> None:
        """`again`: this process has served the address before, and its counts go on. `unasked`: see
        `serving.open_endpoint`."""
        self.listen = settings.listen or DEFAULT_LISTEN
        self._scheme = "https" if settings.endpoint.takes_tls() else "http"
        self.closed = False
        self.unasked = unasked
        self.address = address
        self._failed = failed
        self._again = again
        self._post = processes.Post()
        self._pid = os.getpid()
        self._name = processes.name(self._pid)
        self._counts = Counts(self._name, snapshot, detailed or snapshot, settings.metrics, failed)
        self._port = Leader(
            self._name,
            self.listen,
            address,
            lambda: serve_snapshots(
                self.merged,
                settings,
                self._scrape_failed,
                detailed=self.all_details,
                pages=pages(Feed(self.all_details, own_command())),
            ),
            failed,
        )
        self._folder: SpoolDir | None = None
        self._socket: AnsweringSocket | None = None
        self._life: NativeThread | None = None
        self._lock = allocate_lock()
        #: Scrapes that are being answered.
        self._scrapes: set[object] = set()

    # -- for the program -----------------------------------------------------------------------------------

    @property
    def port(self) -> int:
        """The port that is served, by this process or another one."""
        return self.address[1]

    @property
    def url(self) -> str:
        """See `Endpoint.url`."""
        return url_of(self._scheme, self.address[0], self.port)

    @property
    def holds_port(self) -> bool:
        """Whether this process is the one that answers scrapes now."""
        return self._port.held

    def close(self) -> None:
        """End the part of this process; do nothing the second time. What it counted is kept by the others."""
        if self.closed or self._pid != os.getpid():
            return
        self.closed = True
        atexit.unregister(self.close)
        # With a limit: a signal handler may have interrupted its holder, in this very thread.
        if not self._lock.acquire(timeout=_ENTRY_PATIENCE):
            return
        try:
            self._stop()
            self._port.give_up()
            deadline = time.monotonic() + peer_client.ANSWER_SECONDS
            while self._scrapes and time.monotonic() < deadline:
                sleep(0.002)  # a scrape that has begun shows what all have counted
            folder, self._folder = self._folder, None
            if folder is not None:
                self._leave(folder)
        finally:
            self._lock.release()

    # -- coming and going ----------------------------------------------------------------------------------

    def join(self) -> None:
        """Take the port, or join the peer that has it. Raises ListenError or SpoolError."""
        with self._lock:
            try:
                self._enter()
            except OSError as error:
                raise SpoolError(f"several processes cannot share {self.listen}: {error}") from error
            self._again = True
            atexit.register(self.close)
            self._start()

    def _enter(self) -> None:
        for attempt in range(_ATTEMPTS):
            folder = open_folder(*self.address)
            try:
                with folder.lock(_ENTRY_PATIENCE) as locked:
                    if not locked:
                        raise SpoolError(
                            f"another process keeps {folder.path} locked; end it, or remove that directory"
                        )
                    folder.enter(self._name, self._counts.family, again=self._again)
                    self._folder = folder
                    try:
                        self._answer_at(folder)
                        self._port.take(folder, first=True)
                    except BaseException:
                        self._port.give_up()
                        self._close_socket()
                        self._folder = None
                        folder.leave(self._name)
                        raise
                    return
            except FileNotFoundError:
                # The last of the others took the directory away between our two looks at it.
                if attempt + 1 == _ATTEMPTS:
                    raise

    def _leave(self, folder: SpoolDir) -> None:
        try:
            self._counts.tell(folder)
            with folder.lock(_EXIT_PATIENCE) as locked:
                # Not got: the files stay, and the next to get it sees that their owner is gone.
                if locked:
                    folder.leave(self._name, replaced=self._post.will_be_filled())
        except FileNotFoundError:
            pass  # the last of the others took it away
        except Exception as error:
            self._failed("workers", error)

    def _answer_at(self, folder: SpoolDir) -> None:
        self._socket = AnsweringSocket(folder.socket_path(self._name))

    def _close_socket(self) -> None:
        answering, self._socket = self._socket, None
        if answering is not None:
            answering.close()

    def _start(self) -> None:
        """Start the thread. Under `_lock`."""
        life = self._life = NativeThread()
        try:
            life.begin(self._live)
        except BaseException as error:
            self._life = None
            self._port.give_up()
            self._close_socket()
            if not isinstance(error, RuntimeError):
                raise
            self._failed("workers", error)

    def _stop(self) -> None:
        """End the thread. Under `_lock`, which the thread does not take."""
        life, self._life = self._life, None
        if life is None:
            return
        life.end(self._interrupt, _FORK_PATIENCE)
        self._close_socket()

    def _interrupt(self) -> None:
        folder = self._folder
        if folder is not None:
            peer_client.wake(folder.socket_path(self._name))

    # -- around a fork -------------------------------------------------------------------------------------

    def pause(self) -> None:
        """Stop before a fork of a process without other threads: no thread of ours stays, and no port is held."""
        if not self._lock.acquire(timeout=_FORK_PATIENCE):
            return
        try:
            if self._life is None:
                return
            self._stop()
            self._port.give_up(_FORK_PATIENCE)
            folder = self._folder
            if folder is not None:
                try:
                    with folder.lock(_EXIT_PATIENCE) as locked:
                        if locked:
                            folder.step_down(self._name)
                except OSError:
                    pass  # it is written when we come back
        finally:
            self._lock.release()

    def wake(self) -> None:
        """Go on after a fork that found this process without other threads. Cheap if it never stopped."""
        if self._life is None and not self.closed and self._pid == os.getpid():
            with self._lock:
                if self._life is None and not self.closed:
                    self._start()

    def forget(self) -> None:
        """In a forked child: close its copies of what is the parent's."""
        self.closed = True
        self._life = None
        self._port.forget()
        self._close_socket()
        self._folder = None

    # -- the thread ----------------------------------------------------------------------------------------

    def _live(self, life: NativeThread) -> None:
        try:
            if self._socket is None:
                self._come_back()
            due = time.monotonic() + PERIOD_SECONDS
            while not life.stopping:
                left = due - time.monotonic()
                if left > 0:
                    self._hear(left, life)
                else:
                    due = time.monotonic() + PERIOD_SECONDS
                    self._try(self._look)
        except Exception as error:
            # A program that closes all descriptors closes ours.
            if sys is not None and not sys.is_finalizing() and not life.stopping:
                self._failed("workers", error)

    def _try(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:  # a full disk, say: the next time may be better
            self._failed("workers", error)

    def _come_back(self) -> None:
        try:
            folder = self._folder
            if folder is None:
                return
            with folder.lock(_ENTRY_PATIENCE) as locked:
                if locked:
                    folder.enter(self._name, self._counts.family, again=True)
                    self._answer_at(folder)
                    self._port.take(folder)
        except FileNotFoundError:
            self._enter()

    def _hear(self, timeout: float, life: NativeThread) -> None:
        """Wait for one question and answer it."""
        answering = self._socket
        if answering is None:
            raise OSError("its socket is gone")
        connection = answering.accept(timeout)
        if connection is None:
            return
        folder = self._folder
        try:
            if folder is not None and not life.stopping:
                self._try(lambda: answer(connection, lambda details: self._counts.tell(folder, details=details)[1]))
        finally:
            connection.close()

    def _look(self) -> None:
        folder = self._folder
        if folder is None:
            return
        try:
            names = folder.answering()
            if self._name not in names:
                raise FileNotFoundError(errno.ENOENT, "the socket of this process was removed")
            if not self._port.held:
                self._port.look(folder)
            else:
                folder.touch()
                if any(not processes.lives(name) for name in {*names, *folder.told()}):
                    with folder.lock(SCRAPE_PATIENCE) as locked:
                        if locked:
                            folder.bury()
            if len(names) > 1 and self._counts.seconds_since_told() >= PERIOD_SECONDS / 2:
                self._counts.tell(folder)
        except FileNotFoundError:
            # The directory was removed: only our counts are left.
            self._close_socket()
            self._enter_anew()

    def _enter_anew(self) -> None:
        if not self._port.held:
            self._enter()
            return
        folder = open_folder(*self.address)
        with folder.lock(_ENTRY_PATIENCE) as locked:
            if not locked:
                raise SpoolError(f"another process keeps {folder.path} locked")
            self._folder = folder
            self._answer_at(folder)
            folder.hold(self._name)

    # -- for a scrape --------------------------------------------------------------------------------------

    def merged(self, *, details: bool = False) -> Snapshot:
        """Return the counts of all peers, for a scrape."""
        scrape = object()
        self._scrapes.add(scrape)
        try:
            folder = self._folder
            if folder is None:
                # Without the others' part, counters would go down.
                raise ListenError(f"{self.listen} is not served by this process any more")
            return self._counts.of_all(folder, details=details)
        finally:
            self._scrapes.discard(scrape)

    def all_details(self) -> Snapshot:
        """Return the same with all findings in full."""
        return self.merged(details=True)

    def _scrape_failed(self, part: str, error: Exception) -> None:
        if not self.closed:
            self._failed(part, error)

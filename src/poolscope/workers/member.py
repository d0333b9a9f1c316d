"""A process that serves an address together with others: it answers for itself, and takes the port if that is free."""

from __future__ import annotations

import atexit
import errno
import os
import socket
import sys
import time
import zlib
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Self

from poolscope.config import DEFAULT_LISTEN, Settings
from poolscope.errors import ListenError
from poolscope.model import Snapshot
from poolscope.probe.native import allocate_lock, get_native_id, sleep, start_new_thread
from poolscope.prometheus import serve_snapshots
from poolscope.workers import asking, processes
from poolscope.workers.folder import VERSION, Folder, FolderError, Told, encoded, open_folder
from poolscope.workers.hosting import Hosted, hosted
from poolscope.workers.merging import merged

if TYPE_CHECKING:
    import _socket

    from poolscope.prometheus import Failed, Server

#: Seconds between two looks at the port, and between two notes of what this process has counted.
PERIOD_SECONDS = 1.0

#: Seconds that a scrape waits for the answers of all members together.
ANSWER_SECONDS = 2.0

#: Seconds that a scrape, and a member that comes or goes, waits for the directory.
SCRAPE_PATIENCE = 0.5
ENTRY_PATIENCE = 3.0
EXIT_PATIENCE = 0.5

#: Looks at a port that none of us has, until it is said to be another program's.
_FOREIGN_LOOKS = 3

#: Attempts to come in while the last of the others goes and takes the directory with it.
_ATTEMPTS = 20

#: Seconds that a fork waits for our threads to end.
_FORK_PATIENCE = 0.5


class Member:
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
    ) -> None:
        """`again`: this image of the program has served the address before, and its counts go on."""
        self.listen = settings.listen or DEFAULT_LISTEN
        self.closed = False
        self.address = address
        self._snapshot = snapshot
        self._detailed = detailed or snapshot
        self._settings = settings
        self._failed = failed
        self._again = again
        metrics = settings.metrics
        # Histograms of other bounds cannot be added up.
        self._bounds = (zlib.crc32(repr(metrics.wait_buckets).encode()), zlib.crc32(repr(metrics.run_buckets).encode()))
        self._family = processes.family()
        self._post = processes.Post()
        self._pid = os.getpid()
        self._name = processes.name(self._pid)
        self._folder: Folder | None = None
        self._listener: _socket.socket | None = None
        self._identity = (0, 0)
        self._server: Server | Hosted | None = None
        self._foreign_looks = 0
        self._lock = allocate_lock()
        self._telling = allocate_lock()
        self._told_at = 0.0
        #: Scrapes that are being answered.
        self._scrapes: set[object] = set()
        self._thread: _Life | None = None

    # -- for the program -----------------------------------------------------------------------------------

    @property
    def port(self) -> int:
        """The port that is served by this process or another one."""
        return self.address[1]

    @property
    def url(self) -> str:
        """What the endpoint is reached by from this machine, such as "http://127.0.0.1:9464"."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.address[0], self.address[0])
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    @property
    def holds_port(self) -> bool:
        """Whether this process is the one that answers scrapes now."""
        return self._server is not None

    def close(self) -> None:
        """Ends the part of this process; does nothing the second time. What it counted is kept by the others."""
        if self.closed or self._pid != os.getpid():
            return
        self.closed = True
        atexit.unregister(self.close)
        # With a limit: a signal handler may have interrupted who has it, in this very thread.
        if not self._lock.acquire(timeout=ENTRY_PATIENCE):
            return
        try:
            self._stop()
            self._close_server()
            deadline = time.monotonic() + ANSWER_SECONDS
            while self._scrapes and time.monotonic() < deadline:
                sleep(0.002)  # a scrape that has begun shows what all have counted
            folder, self._folder = self._folder, None
            if folder is not None:
                self._leave(folder)
        finally:
            self._lock.release()

    def _leave(self, folder: Folder) -> None:
        try:
            self._tell(folder)
            with folder.lock(EXIT_PATIENCE) as locked:
                # Not got: the files stay, and the next who has it sees that they are of nobody.
                if locked:
                    folder.leave(self._name, replaced=self._post.will_be_filled())
        except FileNotFoundError:
            pass  # the last of the others took it away
        except Exception as error:
            self._failed("workers", error)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def wake(self) -> None:
        """Goes on after a fork that found this process without other threads. Cheap if it never stopped."""
        if self._thread is None and not self.closed and self._pid == os.getpid():
            with self._lock:
                if self._thread is None and not self.closed:
                    self._start()

    # -- coming and going ----------------------------------------------------------------------------------

    def join(self) -> None:
        """Takes the port, or a place beside who has it. Raises ListenError or FolderError."""
        with self._lock:
            try:
                self._enter()
            except OSError as error:
                raise FolderError(f"several processes cannot share {self.listen}: {error}") from error
            self._again = True
            atexit.register(self.close)
            self._start()

    def _enter(self) -> None:
        for attempt in range(_ATTEMPTS):
            folder = open_folder(*self.address)
            try:
                with folder.lock(ENTRY_PATIENCE) as locked:
                    if not locked:
                        raise FolderError(
                            f"another process keeps {folder.path} locked; end it, or remove that directory"
                        )
                    folder.enter(self._name, self._family, again=self._again)
                    self._folder = folder
                    try:
                        self._answer_at(folder)
                        self._take_port(folder, first=True)
                    except BaseException:
                        self._close_server()
                        self._close_listener()
                        self._folder = None
                        folder.leave(self._name)
                        raise
                    return
            except FileNotFoundError:
                # The last of the others took the directory away between our two looks at it.
                if attempt + 1 == _ATTEMPTS:
                    raise

    def _answer_at(self, folder: Folder) -> None:
        import _socket

        listener = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM, 0)
        os.set_inheritable(listener.fileno(), False)
        path = folder.socket_path(self._name)
        early = path + ".new"  # nobody shall come before we listen
        if os.path.lexists(early):
            os.unlink(early)
        listener.bind(early)
        listener.listen(16)
        os.rename(early, path)
        self._listener = listener
        status = os.fstat(listener.fileno())
        self._identity = (status.st_dev, status.st_ino)

    def _take_port(self, folder: Folder, *, first: bool = False) -> None:
        """Opens the endpoint if nobody has the port. Under the folder's lock. Raises ListenError if `first`."""
        try:
            self._server = hosted(
                lambda: serve_snapshots(self.merged, self._settings, self._scrape_failed, detailed=self.all_details)
            )
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

    def _start(self) -> None:
        """Starts the thread. Under `_lock`."""
        life = _Life()
        self._thread = life
        try:
            start_new_thread(self._live, (life,))
        except BaseException as error:
            self._thread = None
            self._close_server()
            self._close_listener()
            if not isinstance(error, RuntimeError):
                raise
            self._failed("workers", error)

    def _stop(self) -> int | None:
        """Ends the thread, and says which of the system's it was. Under `_lock`, which the thread does not take."""
        life, self._thread = self._thread, None
        if life is None:
            return None
        life.stopping = True
        folder = self._folder
        if folder is not None:
            _call(folder.socket_path(self._name))
        if life.native_id != get_native_id():
            life.ended.acquire(timeout=_FORK_PATIENCE)
        self._close_listener()
        return life.native_id

    def _close_server(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.close()

    def _close_listener(self) -> None:
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

    # -- around a fork -------------------------------------------------------------------------------------

    def pause(self) -> None:
        """Before a fork of a process without other threads: none of ours either, and no port held."""
        if not self._lock.acquire(timeout=_FORK_PATIENCE):
            return
        try:
            if self._thread is None:
                return
            native_id = self._stop()
            self._close_server()
            folder = self._folder
            if folder is not None:
                try:
                    with folder.lock(EXIT_PATIENCE) as locked:
                        if locked:
                            folder.step_down(self._name)
                except OSError:
                    pass  # it will be told when we come back
            _await_exit(native_id)
        finally:
            self._lock.release()

    def forget(self) -> None:
        """In a forked child: closes its copies of what is the parent's."""
        self.closed = True
        self._thread = None
        self._server = None  # the endpoint closes its own
        self._close_listener()
        self._folder = None

    # -- the thread ----------------------------------------------------------------------------------------

    def _live(self, life: _Life) -> None:
        life.native_id = get_native_id()
        try:
            if self._listener is None:
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
        finally:
            life.ended.release()

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
            with folder.lock(ENTRY_PATIENCE) as locked:
                if locked:
                    folder.enter(self._name, self._family, again=True)
                    self._answer_at(folder)
                    self._take_port(folder)
        except FileNotFoundError:
            self._enter()

    def _hear(self, timeout: float, life: _Life) -> None:
        """Waits for one question and answers it."""
        import _socket

        listener = self._listener
        if listener is None:
            raise OSError("its socket is gone")
        listener.settimeout(timeout)
        try:
            # What `socket.accept` stands on, which gevent replaces.
            descriptor, _ = listener._accept()  # type: ignore[attr-defined]
        except TimeoutError:
            return
        connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM, 0, descriptor)
        try:
            if not life.stopping:
                self._try(lambda: self._answer(connection))
        finally:
            connection.close()

    def _answer(self, connection: _socket.socket) -> None:
        folder = self._folder
        try:
            connection.settimeout(ANSWER_SECONDS)
            question = connection.recv(1)
        except OSError:
            return  # it has gone away
        if folder is None or question not in (asking.COUNTS, asking.DETAILS):
            return
        answer = asking.framed(self._tell(folder, details=question == asking.DETAILS)[1])
        try:
            connection.sendall(answer)
        except OSError:
            pass  # it was too slow

    def _look(self) -> None:
        folder = self._folder
        if folder is None:
            return
        try:
            names = folder.answering()
            if self._name not in names:
                raise FileNotFoundError(errno.ENOENT, "the socket of this process was removed")
            if self._server is None:
                self._look_at_port(folder)
            else:
                folder.touch()
                if any(not processes.lives(name) for name in {*names, *folder.told()}):
                    with folder.lock(SCRAPE_PATIENCE) as locked:
                        if locked:
                            folder.bury()
            if len(names) > 1 and time.monotonic() - self._told_at >= PERIOD_SECONDS / 2:
                self._tell(folder)
        except FileNotFoundError:
            # Somebody has cleaned up: our counts are all there is left.
            self._close_listener()
            self._enter_anew()

    def _look_at_port(self, folder: Folder) -> None:
        if not _is_free(self.address):
            # Not at the first look: who had it may be just about to end.
            self._foreign_looks = 0 if folder.holder() else self._foreign_looks + 1
            if self._foreign_looks == _FOREIGN_LOOKS:
                error = ListenError(f"cannot listen on {self.listen}: another program has taken the port")
                self._failed("endpoint", error)
            return
        with folder.lock(SCRAPE_PATIENCE) as locked:
            if locked:
                self._take_port(folder)
                self._foreign_looks = 0

    def _enter_anew(self) -> None:
        if self._server is None:
            self._enter()
            return
        folder = open_folder(*self.address)
        with folder.lock(ENTRY_PATIENCE) as locked:
            if not locked:
                raise FolderError(f"another process keeps {folder.path} locked")
            self._folder = folder
            self._answer_at(folder)
            folder.hold(self._name)

    # -- what is said --------------------------------------------------------------------------------------

    def _tell(self, folder: Folder, *, details: bool = False) -> tuple[Snapshot, bytes]:
        """What this process has to say, left in the directory before anybody is told."""
        with self._telling:
            snapshot = (self._detailed if details else self._snapshot)()
            answer = encoded(Told(VERSION, self._family, self._bounds, snapshot))
            try:
                if not details:
                    folder.tell(self._name, answer)
                    self._told_at = time.monotonic()
            except FileNotFoundError:
                pass  # the next look at it makes it anew
            except OSError as error:
                self._failed("workers", error)
            return snapshot, answer

    def _scrape_failed(self, part: str, error: Exception) -> None:
        if not self.closed:
            self._failed(part, error)

    def merged(self, *, details: bool = False) -> Snapshot:
        """What all members have to say, for a scrape."""
        scrape = object()
        self._scrapes.add(scrape)
        try:
            folder = self._folder
            if folder is None:
                # Without the others' part, counters would go down.
                raise ListenError(f"{self.listen} is not served by this process any more")
            own, _ = self._tell(folder, details=details)
            return self._with_others(own, folder, asking.DETAILS if details else asking.COUNTS)
        finally:
            self._scrapes.discard(scrape)

    def all_details(self) -> Snapshot:
        """The same with all findings in full."""
        return self.merged(details=True)

    def _with_others(self, own: Snapshot, folder: Folder, question: bytes) -> Snapshot:
        names = [name for name in folder.answering() if name != self._name]
        answers, silent = asking.ask({name: folder.socket_path(name) for name in names}, question, ANSWER_SECONDS)
        # Under the lock, and after the answers: what is among the dead by then includes what they answered.
        with folder.lock(SCRAPE_PATIENCE) as locked:
            if locked:
                self._try(folder.bury)
            dead = folder.dead()
            left = {name: told for name in folder.told() if name != self._name and (told := folder.last(name))}
        living, others = [own], []
        for name, told in answers.items():
            if told.bounds == self._bounds and (name in left or processes.lives(name)):
                living.append(told.snapshot)
        for name, told in left.items():
            if name not in answers and told.bounds == self._bounds:
                others.append(told.snapshot)
        if dead is not None and dead.bounds == self._bounds:
            others.append(dead.snapshot)
        hung = [name.partition(".")[0] for name in silent if processes.lives(name)]
        if hung:
            text = f"no answer from process {', '.join(hung[:5])}: its counters are as of its last answer"
            self._failed("workers", TimeoutError(text))
        return merged(living, others)


class _Life:
    """One life of the thread. `ended` is held until it is over."""

    __slots__ = ("ended", "native_id", "stopping")

    def __init__(self) -> None:
        self.stopping = False
        self.native_id = 0
        self.ended = allocate_lock()
        self.ended.acquire()


def _call(path: str) -> None:
    """Wakes the thread that listens there."""
    import _socket

    caller = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM, 0)
    try:
        caller.setblocking(False)
        caller.connect(path)
        caller.send(asking.WAKE)
    except OSError:
        pass  # it wakes up by itself soon
    finally:
        caller.close()


def _is_free(address: tuple[str, int]) -> bool:
    """Whether the port could be had: by trying, without listening, which disturbs nobody."""
    try:
        found = socket.getaddrinfo(*address, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, _, _, where = min(found, key=lambda item: item[0] != socket.AF_INET)
        with socket.socket(family, kind) as attempt:
            attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            attempt.bind(where)
    except OSError:
        return False
    return True


def _await_exit(native_id: int | None) -> None:
    """Waits until the system has let go of a thread that has run its last line: it still counts in a fork."""
    if native_id is None:
        return
    deadline = time.monotonic() + _FORK_PATIENCE
    while os.path.exists(f"/proc/self/task/{native_id}") and time.monotonic() < deadline:
        sleep(0.0002)

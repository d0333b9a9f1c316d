"""The private directory in which the processes that serve one address find each other.

For a peer "PID.START" there are `PID.START.sock` while it answers and `PID.START.told`, what it last counted, until
that has gone into `dead`, the totals of the dead. Each file is replaced as a whole. A peer changes what belongs to
others only under `lock`; each file of a dead peer goes into the totals once, even where that is interrupted.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager

from poolscope.errors import PoolscopeError
from poolscope.metrics.merge import retired
from poolscope.multiprocess import processes
from poolscope.multiprocess.wire import MAX_BYTES, VERSION, Dead, Told, decoded, encoded
from poolscope.probe.interpreter.unpatched import allocate_lock, sleep
from poolscope.snapshot import Snapshot

_SOCKET, _TOLD = ".sock", ".told"
_DEAD, _LOCK, _HOLDER = "dead", "lock", "holder"

#: Seconds that a scrape, or a look, waits for the directory.
SCRAPE_PATIENCE = 0.5

#: Seconds between two attempts to get the lock.
POLL_SECONDS = 0.005


class SpoolError(PoolscopeError):
    """No directory can be used that is ours alone."""


class SpoolDir:
    """The directory at `path`, which exists and was checked. Thread-safe but for `lock`, which does not nest.

    All methods may raise OSError.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._within = allocate_lock()

    # -- which peers are there -----------------------------------------------------------------------------

    def socket_path(self, name: str) -> str:
        """Where a peer answers."""
        return os.path.join(self.path, name + _SOCKET)

    def answering(self) -> list[str]:
        """Return the peers that answer, or were killed."""
        return self._names(_SOCKET)

    def told(self) -> list[str]:
        """Return the peers that have left what they counted."""
        return self._names(_TOLD)

    def _names(self, suffix: str) -> list[str]:
        return sorted(entry[: -len(suffix)] for entry in os.listdir(self.path) if entry.endswith(suffix))

    # -- what is left here ---------------------------------------------------------------------------------

    def tell(self, name: str, told: bytes) -> None:
        """Leave what a peer counted so far."""
        self._replace(name + _TOLD, told)

    def last(self, name: str) -> Told | None:
        """Return what a peer left; None if that is nothing, or of another version."""
        return decoded(self._read(name + _TOLD), Told)

    def dead(self) -> Dead | None:
        """Return the totals of the dead."""
        return decoded(self._read(_DEAD), Dead)

    def holder(self) -> str:
        """Return the peer that has the port, if it lives."""
        name = (self._read(_HOLDER) or b"").decode("ascii", "replace")
        return name if processes.lives(name) else ""

    def hold(self, name: str) -> None:
        """Note which peer has the port."""
        self._replace(_HOLDER, name.encode("ascii"))

    def touch(self) -> None:
        """Keep what is seldom written from programs that remove old files."""
        for name in (_DEAD, _LOCK, _HOLDER):
            try:
                os.utime(os.path.join(self.path, name))
            except FileNotFoundError:
                pass

    # -- under the lock ------------------------------------------------------------------------------------

    @contextmanager
    def lock(self, patience: float) -> Iterator[bool]:
        """Whether this process has the directory for itself in the block; waits `patience` seconds for that."""
        if not self._within.acquire(timeout=patience):
            yield False
            return
        try:
            descriptor = self._locked(patience)
            try:
                yield descriptor is not None
            finally:
                if descriptor is not None:
                    os.close(descriptor)
        finally:
            self._within.release()

    def _locked(self, patience: float) -> int | None:
        import fcntl

        path = os.path.join(self.path, _LOCK)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        for attempt in range(max(1, int(patience / POLL_SECONDS))):
            if attempt:
                sleep(POLL_SECONDS)
            descriptor = os.open(path, flags, 0o600)
            try:
                # Not `flock`: a child of the program's that inherits the descriptor would inherit the lock.
                fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _same(descriptor, path):  # else its last owner removed it
                    return descriptor
            except OSError as error:
                if error.errno not in (errno.EAGAIN, errno.EACCES, errno.ENOENT):
                    os.close(descriptor)
                    raise
            os.close(descriptor)
        return None

    def enter(self, name: str, family: str, *, again: bool) -> None:
        """Make room for a new peer: add up what dead peers left, or remove it.

        It is kept where others live, or where other children of the newcomer's parent left it. `again`: this
        peer was here before, and its counts go on. Under the lock.
        """
        if not self._others(name) and not again and not (family and self._is_of(family)):
            self._clear()
            return
        self.bury(() if again else (name,))

    def bury(self, gone: tuple[str, ...] = ()) -> None:
        """Add what the dead left to their totals; peers in `gone` count as dead. Under the lock."""
        dead = self.dead()
        included = set(dead.included) if dead is not None else set()
        new = []
        for name in self.told():
            if name in included or name in gone or not processes.lives(name):
                new.append(name)
        # Only a peer with a file can be counted twice: so no more names are kept.
        added = [(name, last) for name in new if name not in included and (last := self.last(name)) is not None]
        if added:
            totals = dead.snapshot if dead is not None else None
            bounds = dead.bounds if dead is not None else added[0][1].bounds
            for _, last in added:
                if last.bounds == bounds:
                    totals = retired(totals, last.snapshot, lambda: self._told_by_others(new))
            if totals is not None:
                family = next((last.family for _, last in added if last.family), dead.family if dead else "")
                self._replace(_DEAD, encoded(Dead(VERSION, family, bounds, tuple(new), totals)))
        for name in new:
            self._remove(name + _TOLD)
        for name in self.answering():
            if name in gone or not processes.lives(name):
                self._remove(name + _SOCKET)

    def _told_by_others(self, dead: Collection[str]) -> list[Snapshot]:
        return [last.snapshot for name in self.told() if name not in dead and (last := self.last(name)) is not None]

    def leave(self, name: str, *, replaced: bool = False) -> None:
        """Note that the peer ends in order. The last one cleans up if none will follow. Call it under the lock."""
        self.step_down(name)
        if not replaced and not self._others(name):
            self._clear()
            self._remove(_LOCK)
            try:
                os.rmdir(self.path)
            except OSError:
                pass  # another process is just coming

    def step_down(self, name: str) -> None:
        """Note that the peer gives the port up, and answers no more."""
        self._remove(name + _SOCKET)
        if self._read(_HOLDER) == name.encode("ascii"):
            self._remove(_HOLDER)

    def _others(self, name: str) -> bool:
        return any(other != name and processes.lives(other) for other in self.answering())

    def _is_of(self, family: str) -> bool:
        dead = self.dead()
        if dead is not None and dead.family == family:
            return True
        return any((last := self.last(name)) is not None and last.family == family for name in self.told())

    def _clear(self) -> None:
        for entry in os.listdir(self.path):
            if entry != _LOCK:
                self._remove(entry)

    # -- files ---------------------------------------------------------------------------------------------

    def _read(self, entry: str) -> bytes | None:
        try:
            with open(os.path.join(self.path, entry), "rb") as file:
                return file.read(MAX_BYTES)
        except FileNotFoundError:
            return None

    def _replace(self, entry: str, data: bytes) -> None:
        path = os.path.join(self.path, entry)
        # One name per process: what an interrupted one left is overwritten by the next of that number.
        temporary = f"{path}.{os.getpid()}.new"
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
            os.replace(temporary, path)
        except BaseException:
            self._remove(os.path.basename(temporary))
            raise

    def _remove(self, entry: str) -> None:
        try:
            os.unlink(os.path.join(self.path, entry))
        except FileNotFoundError:
            pass


def _same(descriptor: int, path: str) -> bool:
    return os.path.samestat(os.fstat(descriptor), os.stat(path))

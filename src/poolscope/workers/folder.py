"""The private directory in which the processes that serve one address find each other.

For a member "PID.START" there are `PID.START.sock` while it answers and `PID.START.told`, what it last counted, until
that has gone into `dead`, the totals of the dead. Each file is replaced as a whole. Whoever changes what belongs to
others does it under `lock`; each file of a dead member goes into the totals once, also where that is interrupted.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import msgspec

from poolscope.errors import PoolscopeError
from poolscope.model import Snapshot, storable
from poolscope.probe.native import allocate_lock, sleep
from poolscope.workers import processes
from poolscope.workers.merging import retired

#: What is written here and told at the sockets; members of another version are not understood.
VERSION = 1

#: The most bytes of a file or an answer that are believed.
MAX_BYTES = 1 << 26

#: The longest path of a UNIX socket, in bytes, that all systems take.
_MAX_SOCKET_PATH = 100
_LONGEST_NAME = len("/4194304.18446744073709551615.sock")

_SOCKET, _TOLD = ".sock", ".told"
_DEAD, _LOCK, _HOLDER = "dead", "lock", "holder"

#: Seconds that a scrape, or a look, waits for the directory.
SCRAPE_PATIENCE = 0.5

_Content = TypeVar("_Content", "Told", "Dead")

#: Seconds between two attempts to get the lock.
_POLL = 0.005


class FolderError(PoolscopeError):
    """There is no directory that is ours alone."""


class Told(msgspec.Struct, frozen=True, array_like=True):
    """What a member says. `bounds` stand for its wait and run buckets, `family` as `processes.family` says."""

    version: int
    family: str
    bounds: tuple[int, int]
    snapshot: Snapshot


class Dead(msgspec.Struct, frozen=True, array_like=True):
    """The totals of the dead. `included` are those whose files may be there still."""

    version: int
    family: str
    bounds: tuple[int, int]
    included: tuple[str, ...]
    snapshot: Snapshot


class Folder:
    """The directory at `path`, which exists and was checked. Thread-safe but for `lock`, which does not nest.

    All methods may raise OSError.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._within = allocate_lock()

    # -- who is there --------------------------------------------------------------------------------------

    def socket_path(self, name: str) -> str:
        """Where a member answers."""
        return os.path.join(self.path, name + _SOCKET)

    def answering(self) -> list[str]:
        """The members that answer, or died without a word."""
        return self._names(_SOCKET)

    def told(self) -> list[str]:
        """The members that have left what they counted."""
        return self._names(_TOLD)

    def _names(self, suffix: str) -> list[str]:
        return sorted(entry[: -len(suffix)] for entry in os.listdir(self.path) if entry.endswith(suffix))

    # -- what is left here ---------------------------------------------------------------------------------

    def tell(self, name: str, told: bytes) -> None:
        """Leaves what a member counted so far."""
        self._replace(name + _TOLD, told)

    def last(self, name: str) -> Told | None:
        """What a member left; None if that is nothing, or of another version."""
        return decoded(self._read(name + _TOLD), Told)

    def dead(self) -> Dead | None:
        """The totals of the dead."""
        return decoded(self._read(_DEAD), Dead)

    def holder(self) -> str:
        """The member that has the port, if it lives."""
        name = (self._read(_HOLDER) or b"").decode("ascii", "replace")
        return name if processes.lives(name) else ""

    def hold(self, name: str) -> None:
        """Notes who has the port."""
        self._replace(_HOLDER, name.encode("ascii"))

    def touch(self) -> None:
        """Keeps what is seldom written from those who clean up what is old."""
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
        for attempt in range(max(1, int(patience / _POLL))):
            if attempt:
                sleep(_POLL)
            descriptor = os.open(path, flags, 0o600)
            try:
                # Not `flock`: a child of the program's that inherits the descriptor would inherit the lock.
                fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _same(descriptor, path):  # else whoever had it removed it
                    return descriptor
            except OSError as error:
                if error.errno not in (errno.EAGAIN, errno.EACCES, errno.ENOENT):
                    os.close(descriptor)
                    raise
            os.close(descriptor)
        return None

    def enter(self, name: str, family: str, *, again: bool) -> None:
        """Makes room for a new member: what is left of those who died is added up, or removed.

        It is kept where others live, or where it was left by other children of the newcomer's parent. `again`: this
        member was here before, and its counts go on. Under the lock.
        """
        if not self._others(name) and not again and not (family and self._is_of(family)):
            self._clear()
            return
        self.bury(() if again else (name,))

    def bury(self, gone: tuple[str, ...] = ()) -> None:
        """Adds what the dead left to their totals; members in `gone` count as dead. Under the lock."""
        dead = self.dead()
        included = set(dead.included) if dead is not None else set()
        new = []
        for name in self.told():
            if name in included or name in gone or not processes.lives(name):
                new.append(name)
        # Only who has a file can be counted twice: so no more names are kept.
        added = [(name, last) for name in new if name not in included and (last := self.last(name)) is not None]
        if added:
            totals = dead.snapshot if dead is not None else None
            bounds = dead.bounds if dead is not None else added[0][1].bounds
            for _, last in added:
                if last.bounds == bounds:
                    totals = retired(totals, last.snapshot)
            if totals is not None:
                family = next((last.family for _, last in added if last.family), dead.family if dead else "")
                self._replace(_DEAD, encoded(Dead(VERSION, family, bounds, tuple(new), totals)))
        for name in new:
            self._remove(name + _TOLD)
        for name in self.answering():
            if name in gone or not processes.lives(name):
                self._remove(name + _SOCKET)

    def leave(self, name: str, *, replaced: bool = False) -> None:
        """The member ends in order. The last one leaves nothing behind, if none will follow. Under the lock."""
        self.step_down(name)
        if not replaced and not self._others(name):
            self._clear()
            self._remove(_LOCK)
            try:
                os.rmdir(self.path)
            except OSError:
                pass  # somebody is just coming

    def step_down(self, name: str) -> None:
        """The member gives the port up, and answers no more."""
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


def open_folder(host: str, port: int, bases: Callable[[], list[str]] | None = None) -> Folder:
    """The directory for an address, made if need be. Raises FolderError.

    It is one per user, address, program and (on Linux) network and process namespace: a port of one container is none
    of another's, though both may share a directory.
    """
    uid = os.geteuid()
    # Only who sees the same processes can tell which of them live.
    ours = f"poolscope-{uid}-{_digest(_namespace('pid'), 6)}-"
    name = ours + _digest((host, port, sys.argv[:1], _namespace("net")), 12)
    refused = []
    for base in (bases or candidates)():
        path = os.path.join(base, name)
        if len(os.fsencode(path)) + _LONGEST_NAME > _MAX_SOCKET_PATH:
            continue
        try:
            _check_base(base)
            try:
                os.mkdir(path, 0o700)
            except FileExistsError:
                pass
            _check(path, uid)
        except OSError as error:
            refused.append(f"{path}: {error.strerror}")
            continue
        _sweep(base, ours, name, uid)
        return Folder(path)
    found = "; ".join(refused) or "every path is too long"
    raise FolderError(f"no directory for the sockets of several processes: {found}; set TMPDIR to a writable one")


def candidates() -> list[str]:
    """Where private directories may be made, the best first; the last is there in a container with a read-only root."""
    told = [os.environ.get("XDG_RUNTIME_DIR"), os.environ.get("TMPDIR"), "/tmp", "/var/tmp", "/dev/shm"]
    return [os.path.abspath(base) for base in told if base]


def _sweep(base: str, ours: str, but: str, uid: int) -> None:
    """Removes the directories of services whose last process was killed."""
    for entry in os.listdir(base):
        if entry.startswith(ours) and entry != but:
            path = os.path.join(base, entry)
            try:
                _check(path, uid)
                with Folder(path).lock(_POLL) as locked:
                    if locked:
                        Folder(path).leave("")
            except OSError:
                pass  # it was none of ours, or has gone


def _digest(value: object, length: int) -> str:
    return hashlib.sha256(repr(value).encode("utf-8", "backslashreplace")).hexdigest()[:length]


def _check_base(base: str) -> None:
    status = os.stat(base)
    if status.st_uid not in (0, os.geteuid()) and not status.st_mode & stat.S_ISVTX:
        raise PermissionError(errno.EPERM, f"{base} belongs to somebody else")
    if status.st_mode & stat.S_IWOTH and not status.st_mode & stat.S_ISVTX:
        raise PermissionError(errno.EPERM, f"anybody may replace what is in {base}")


def _check(path: str, uid: int) -> None:
    """Raises PermissionError for a directory that somebody else has made, or can look into."""
    status = os.lstat(path)
    if not stat.S_ISDIR(status.st_mode):
        raise PermissionError(errno.EPERM, "it is no directory")
    if status.st_uid != uid:
        raise PermissionError(errno.EPERM, f"it belongs to user {status.st_uid}")
    if status.st_mode & 0o077:
        raise PermissionError(errno.EPERM, f"others may look into it (mode {stat.S_IMODE(status.st_mode):o})")
    if not os.access(path, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, "it cannot be written")


def _namespace(kind: str) -> int:
    try:
        return os.stat(f"/proc/self/ns/{kind}").st_ino
    except OSError:
        return 0


def encoded(value: Told | Dead) -> bytes:
    """As msgpack."""
    try:
        return msgspec.msgpack.encode(value)
    except UnicodeEncodeError:  # names with lone surrogates
        return msgspec.msgpack.encode(storable(msgspec.to_builtins(value)))


def decoded(data: bytes | None, kind: type[_Content]) -> _Content | None:
    """What `encoded` made; None for nothing, and for what another version made."""
    if data is None:
        return None
    try:
        value = msgspec.msgpack.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return value if value.version == VERSION else None


def _same(descriptor: int, path: str) -> bool:
    return os.path.samestat(os.fstat(descriptor), os.stat(path))

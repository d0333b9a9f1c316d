"""The private directory of a run, in which its socket is; and what is left of runs that were killed.

A lock on a file in the directory holds it; the system releases the lock with its process, however that ends. So a later
run knows what is not in use: it removes only directories of ours by name, user and mode, whose lock it gets, and in
which there is nothing but what we put there.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat

from poolscope.errors import PoolscopeError

#: The longest path of a UNIX socket, in bytes, that all systems take.
_MAX_SOCKET_PATH = 100

_NAME = re.compile(r"poolscope-[0-9a-f]{12}")
_LOCK, _SOCKET, _LIVE = "lock", "socket", "live"


class Folder:
    """A new directory that only this user can enter, with a path short enough for a socket in it.

    Raises PoolscopeError if none can be made. `close` removes it.
    """

    def __init__(self) -> None:
        self._lock: int | None = None
        self.path = self._made()
        self.socket = os.path.join(self.path, _SOCKET)
        self.live = live_beside(self.socket)

    def _made(self) -> str:
        for base in _bases():
            path = os.path.join(base, f"poolscope-{os.urandom(6).hex()}")
            try:
                if len(path.encode()) + len(f"/{_SOCKET}") > _MAX_SOCKET_PATH:
                    continue
                os.mkdir(path, 0o700)
                self._hold(path)
            except (OSError, UnicodeEncodeError):
                continue
            return path
        raise PoolscopeError("no directory for a socket can be made: set TMPDIR to a short, writable path")

    def _hold(self, path: str) -> None:
        """Take the lock. Raises OSError where another run has just swept the directory away."""
        lock = os.path.join(path, _LOCK)
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.path.samestat(os.fstat(descriptor), os.stat(lock)):
                raise FileNotFoundError(errno.ENOENT, "it was replaced")
        except OSError as error:
            os.close(descriptor)
            if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL):
                raise
            os.unlink(lock)  # a file system without locks: without the file nothing is ever swept
            return
        self._lock = descriptor

    def close(self) -> None:
        """Remove the directory, if it is there, and give up the lock."""
        for remove, path in (
            (os.unlink, self.socket),
            (os.unlink, self.live),
            (os.unlink, os.path.join(self.path, _LOCK)),
            (os.rmdir, self.path),
        ):
            try:
                remove(path)
            except OSError:
                pass  # the program may have cleaned up the temporary directory
        descriptor, self._lock = self._lock, None
        if descriptor is not None:
            os.close(descriptor)


def live_beside(socket: str) -> str:
    """Return where `poolscope top` asks, beside the socket to which the processes send."""
    return os.path.join(os.path.dirname(socket), _LIVE)


def sweep() -> None:
    """Remove the directories of runs of this user that were killed. Never raises."""
    for base in _bases():
        try:
            names = [name for name in os.listdir(base) if _NAME.fullmatch(name)]
        except OSError:
            continue
        for name in names:
            try:
                _remove_if_left(os.path.join(base, name))
            except OSError:
                pass  # another user's, or used, or another run is just sweeping it


def _bases() -> list[str]:
    # The last two are there in a container whose root is read-only.
    told = [os.environ.get("TMPDIR"), "/tmp", "/var/tmp", "/dev/shm", os.environ.get("XDG_RUNTIME_DIR")]
    return list(dict.fromkeys(os.path.abspath(base) for base in told if base))


def _remove_if_left(path: str) -> None:
    """Remove a directory of ours whose owner has ended. Raises OSError where it is none, or is in use."""
    # By descriptor from here on, so that no link can take the place of what was looked at.
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        status = os.fstat(folder)
        if status.st_uid != os.geteuid() or status.st_mode & 0o022:
            return
        flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        lock = os.open(_LOCK, flags, dir_fd=folder)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # refused while its run lives
            if _is_ours_alone(folder, lock):
                for name in (_SOCKET, _LIVE, _LOCK):  # the lock last: without it the directory would never be swept
                    if name in os.listdir(folder):
                        os.unlink(name, dir_fd=folder)
                if os.path.samestat(os.lstat(path), status):
                    os.rmdir(path)
        finally:
            os.close(lock)
    finally:
        os.close(folder)


def _is_ours_alone(folder: int, lock: int) -> bool:
    """Whether there is nothing in the directory but the lock that we have and sockets."""
    names = set(os.listdir(folder))
    if not os.path.samestat(os.fstat(lock), os.stat(_LOCK, dir_fd=folder, follow_symlinks=False)):
        return False
    if not names <= {_LOCK, _SOCKET, _LIVE} or not stat.S_ISREG(os.fstat(lock).st_mode):
        return False
    sockets = [os.stat(name, dir_fd=folder, follow_symlinks=False) for name in names - {_LOCK}]
    return all(stat.S_ISSOCK(each.st_mode) for each in sockets)

"""Where the private directory of an address is: made, checked to be ours alone, and removed when no process is left."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import sys
from collections.abc import Callable

from poolscope.multiprocess.spool_dir import POLL_SECONDS, SpoolDir, SpoolError

#: The longest path of a UNIX socket, in bytes, that all systems take.
_MAX_SOCKET_PATH = 100
_LONGEST_NAME = len("/4194304.18446744073709551615.sock")


def open_folder(host: str, port: int, bases: Callable[[], list[str]] | None = None) -> SpoolDir:
    """Return the directory for an address, made if need be. Raises SpoolError.

    It is one per user, address, program and (on Linux) network and process namespace: a port of one container is none
    of another's, though both may share a directory.
    """
    uid = os.geteuid()
    # Only processes that see each other can tell which of them live.
    ours = f"poolscope-{uid}-{_digest(_namespace('pid'), 6)}-"
    name = ours + _digest((host, port, _program(), _namespace("net")), 12)
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
        return SpoolDir(path)
    found = "; ".join(refused) or "every path is too long"
    raise SpoolError(f"no directory for the sockets of several processes: {found}; set TMPDIR to a writable one")


def candidates() -> list[str]:
    """Where private directories may be made, the best first; the last is there in a container with a read-only root."""
    told = [os.environ.get("XDG_RUNTIME_DIR"), os.environ.get("TMPDIR"), "/tmp", "/var/tmp", "/dev/shm"]
    return [os.path.abspath(base) for base in told if base]


def _program() -> object:
    """Return what the processes of one program have in common: the file of its main module, else how it was called.

    Children of multiprocessing import it by another name, and a fork server does so before it has the arguments.
    """
    for name in ("__mp_main__", "__main__"):
        file = getattr(sys.modules.get(name), "__file__", None)
        if file:
            return os.path.realpath(file)
    return sys.argv[:1]


def _sweep(base: str, ours: str, but: str, uid: int) -> None:
    """Remove the directories of services whose last process was killed."""
    for entry in os.listdir(base):
        if entry.startswith(ours) and entry != but:
            path = os.path.join(base, entry)
            try:
                _check(path, uid)
                with SpoolDir(path).lock(POLL_SECONDS) as locked:
                    if locked:
                        SpoolDir(path).leave("")
            except OSError:
                pass  # it was not ours, or is gone


def _digest(value: object, length: int) -> str:
    return hashlib.sha256(repr(value).encode("utf-8", "backslashreplace")).hexdigest()[:length]


def _check_base(base: str) -> None:
    status = os.stat(base)
    if status.st_uid not in (0, os.geteuid()) and not status.st_mode & stat.S_ISVTX:
        raise PermissionError(errno.EPERM, f"{base} belongs to another user")
    if status.st_mode & stat.S_IWOTH and not status.st_mode & stat.S_ISVTX:
        raise PermissionError(errno.EPERM, f"anybody may replace what is in {base}")


def _check(path: str, uid: int) -> None:
    """Raise PermissionError for a directory that another user has made, or can look into."""
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

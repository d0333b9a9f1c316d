"""Files that a run leaves behind: refused before the program starts, written whole when it has ended."""

from __future__ import annotations

import errno
import os
import stat

from poolscope.errors import PoolscopeError


class OutputError(PoolscopeError):
    """A file that cannot be written."""


def check(path: str, option: str) -> str:
    """The absolute path of a file that `write` can write, checked without touching it; `option` asked for it.

    Raises OutputError.
    """
    if os.path.isdir(path):
        raise OutputError(f"{option} {path}: it is a directory; name a file in it")
    try:
        if _is_special(path):
            # Not by opening it: the reader of a pipe would see its end.
            if not os.access(path, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            return os.path.abspath(path)
        target = os.path.realpath(path)  # links stay
        if os.path.exists(target):
            os.close(os.open(target, os.O_WRONLY | os.O_CLOEXEC))
        # By doing it: permissions do not tell all (root, read-only file systems, /proc).
        temporary, descriptor = _temporary(target)
        os.close(descriptor)
        os.unlink(temporary)
    except FileNotFoundError as error:
        folder = os.path.dirname(path) or "."
        raise OutputError(f"{option} {path}: no file can be made in {folder}; name a directory that exists") from error
    except OSError as error:
        raise OutputError(f"{option} {path} cannot be written: {error.strerror}; name another file") from error
    return target


def write(path: str, data: bytes) -> None:
    """Write `data` to the file, whole or not at all; /dev/stdout or a pipe gets it as it comes.

    Raises OutputError.
    """
    try:
        if _is_special(path):
            with open(path, "wb") as file:
                file.write(data)
        else:
            _replace(path, data)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror}; the report is lost there") from error


def _is_special(path: str) -> bool:
    # /dev/stdout may be a regular file, which somebody else is writing as well.
    if os.path.abspath(path).startswith("/dev/"):
        return True
    try:
        return not stat.S_ISREG(os.stat(path).st_mode)
    except FileNotFoundError:
        return False


def _temporary(path: str) -> tuple[str, int]:
    """A new file beside `path`, and its descriptor."""
    folder, name = os.path.split(path)
    # By chance: in a container each run has the same pid, and one that was killed may have left its file.
    temporary = os.path.join(folder, f".{name[:50]}.{os.urandom(6).hex()}")
    # Not by tempfile: its files are for the owner only, a report is a file like any other.
    return temporary, os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)


def _replace(path: str, data: bytes) -> None:
    temporary, descriptor = _temporary(path)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        if os.path.exists(path):
            os.chmod(temporary, stat.S_IMODE(os.stat(path).st_mode))
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise

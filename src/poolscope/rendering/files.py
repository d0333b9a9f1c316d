"""Files that a run leaves behind: checked before the program starts, written as a whole after it has ended."""

from __future__ import annotations

import errno
import os
import stat

from poolscope.atomic_file import create_beside, replace
from poolscope.errors import PoolscopeError


class OutputError(PoolscopeError):
    """A file that cannot be written."""


def check(path: str, option: str) -> str:
    """Return the absolute path of a file that `write` can write, checked without touching it; `option` asked for it.

    Raises OutputError.
    """
    if not path:
        raise OutputError(f"{option} names no file: name one, or - for standard output")
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
        temporary, descriptor = create_beside(target)
        os.close(descriptor)
        os.unlink(temporary)
    except FileNotFoundError as error:
        folder = os.path.dirname(os.path.realpath(path) if os.path.islink(path) else path) or "."
        raise OutputError(f"{option} {path}: no file can be made in {folder}; name a directory that exists") from error
    except OSError as error:
        raise OutputError(f"{option} {path} cannot be written: {error.strerror}; name another file") from error
    return target


def write(path: str, data: bytes) -> None:
    """Write `data` to the file, as a whole or not at all; /dev/stdout or a pipe gets it as it comes.

    Raises OutputError.
    """
    try:
        if _is_special(path):
            with open(path, "wb") as file:
                file.write(data)
        else:
            replace(path, data)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror}; the report is lost there") from error


def append(path: str, data: bytes) -> None:
    """Write `data` to the end of the file, which is made if need be. Raises OutputError."""
    try:
        with open(path, "ab") as file:
            file.write(data)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror}; the report is lost there") from error


def _is_special(path: str) -> bool:
    # /dev/stdout may be a regular file, which another process is writing as well.
    if os.path.abspath(path).startswith("/dev/"):
        return True
    try:
        return not stat.S_ISREG(os.stat(path).st_mode)
    except FileNotFoundError:
        return False

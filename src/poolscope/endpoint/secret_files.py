"""Files that hold secrets: read once, read again when they change, refused in one line when they are no good."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

from poolscope.config.wording import one_line
from poolscope.errors import ListenError

#: No file of secrets is larger; a mistaken path must not fill the memory.
MAX_BYTES = 256 * 1024

T = TypeVar("T")


class _Seen(NamedTuple):
    """What a file looks like from outside: another one, or another content, differs in some of it."""

    device: int
    inode: int
    mode: int
    size: int
    modified_ns: int
    changed_ns: int


class SecretFile(Generic[T]):
    """The content of one file as `parse` makes it, as of now.

    Thread-safe: one lock around the reading. `current` costs one `stat` while the file stays as it is.
    """

    def __init__(self, key: str, path: str, parse: Callable[[str], T]) -> None:
        """`key` is the setting that names the file. `parse` raises ValueError with what was expected.

        Raises ListenError, in one line, for a file that is missing, empty, not readable, or readable by others.
        """
        self.key = key
        # The program may change its working directory.
        self.path = os.path.abspath(path)
        self._parse = parse
        self._lock = threading.Lock()
        self._seen, self._value = self._read()

    def current(self) -> T:
        """Return what the file says now. Raises ListenError as the constructor does."""
        with self._lock:
            if self._look(lambda: os.stat(self.path)) != self._seen:
                self._seen, self._value = self._read()
            return self._value

    def _read(self) -> tuple[_Seen, T]:
        try:
            with open(self.path, "rb") as file:
                seen = self._look(lambda: os.fstat(file.fileno()))
                data = file.read(MAX_BYTES + 1)
        except (OSError, ValueError) as error:  # ValueError: a null character in the path
            raise self.refused(_reason(error)) from error
        if len(data) > MAX_BYTES:
            raise self.refused(f"it has more than {MAX_BYTES} bytes, which no such file needs")
        try:
            return seen, self._parse(data.decode("utf-8"))
        except UnicodeDecodeError as error:
            raise self.refused("it is no text in UTF-8") from error
        except ValueError as error:
            raise self.refused(str(error)) from error

    def _look(self, status: Callable[[], os.stat_result]) -> _Seen:
        try:
            found = status()
        except (OSError, ValueError) as error:
            raise self.refused(_reason(error)) from error
        if not stat.S_ISREG(found.st_mode):
            raise self.refused("it is no file")
        check_mode(found, self.refused)
        return _Seen(found.st_dev, found.st_ino, found.st_mode, found.st_size, found.st_mtime_ns, found.st_ctime_ns)

    def refused(self, why: str) -> ListenError:
        """Return the error for this file."""
        return refused(self.key, self.path, why)


def check_mode(status: os.stat_result, refused: Callable[[str], ListenError]) -> None:
    """Raise what `refused` makes if every user of the machine may read or write the file."""
    if os.name == "posix" and status.st_mode & (stat.S_IROTH | stat.S_IWOTH):
        raise refused("every user of this machine can read or change it; chmod o-rwx it")


def refused(key: str, path: str, why: str) -> ListenError:
    """Return the one line that says why a file cannot be used."""
    return ListenError(f"{key}: {one_line(path)} cannot be used: {one_line(why)}")


def _reason(error: OSError | ValueError) -> str:
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if isinstance(error, PermissionError):
        return "this user may not read it"
    return (isinstance(error, OSError) and error.strerror) or str(error)

"""Files that are replaced in one step: the new content as a whole, or the old one."""

from __future__ import annotations

import os
import stat


def create_beside(path: str, mode: int = 0o666) -> tuple[str, int]:
    """Make an empty file in the directory of `path`; return its path and a descriptor to write to. Raises OSError.

    `mode` is less what the umask takes away. `tempfile` makes files that only their owner can read, and a report is a
    file like any other.
    """
    folder, name = os.path.split(path)
    # At random: in a container each run has the same pid, and a run that was killed may have left its file.
    temporary = os.path.join(folder, f".{name[:50]}.{os.urandom(6).hex()}")
    return temporary, os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)


def replace(path: str, data: bytes, *, mode: int = 0o666, sync: bool = False) -> None:
    """Write `data` to the file `path`, as a whole or not at all. Raises OSError.

    A new file gets `mode`, less what the umask takes away; one that is replaced keeps its permissions. With `sync` the
    data is on the disk before the file is replaced.
    """
    temporary, descriptor = create_beside(path, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        if os.path.exists(path):
            os.chmod(temporary, stat.S_IMODE(os.stat(path).st_mode))
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise

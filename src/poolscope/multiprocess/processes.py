"""Which process a number stands for: numbers are used again, a number with a start time is not."""

from __future__ import annotations

import errno
import os
import socket


def started(pid: int) -> str | None:
    """When the process was started, in ticks of its system; None if there is none, or it has ended."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The command in parentheses may hold anything.
            fields = file.read().rpartition(b")")[2].split()
    except FileNotFoundError:
        return _started_elsewhere(pid) if not os.path.exists("/proc/self/stat") else None
    except ProcessLookupError:
        return None
    return None if fields[0] in (b"Z", b"X") else fields[19].decode("ascii")


def _started_elsewhere(pid: int) -> str | None:
    import psutil

    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        return str(round(process.create_time() * 100))
    except psutil.Error:
        return None


def name(pid: int) -> str:
    """Return a name of the process that no other one ever gets, such as "1234.5678"; the process must exist."""
    return f"{pid}.{started(pid) or 0}"


def lives(name: str) -> bool:
    """Whether the process of that name has not ended."""
    pid, _, start = name.partition(".")
    return pid.isdecimal() and started(int(pid)) == start


def family() -> str:
    """Return the name of the parent if it runs the same interpreter, as a forking server does; else ""."""
    parent = os.getppid()
    try:
        if os.readlink(f"/proc/{parent}/exe") == os.readlink("/proc/self/exe"):
            return name(parent)
    except OSError:
        pass  # another user's, or another system
    return ""


class Post:
    """The place of this process among the workers of its parent: which sockets both listen at.

    A server that starts its workers by forking keeps its listening sockets as long as it replaces those that end, and
    closes them before it ends them all. Each worker may so know, at its end, whether another one will follow.
    """

    def __init__(self) -> None:
        self._parent = os.getppid()
        self._shared = _listening() & _sockets(self._parent)

    def will_be_filled(self) -> bool:
        """Whether the parent still listens where this process did."""
        return os.getppid() == self._parent and bool(self._shared & _sockets(self._parent))


def _sockets(pid: int | str) -> set[str]:
    """Return the sockets of a process, as its system calls them; none where that cannot be known."""
    found = set()
    try:
        for entry in os.listdir(f"/proc/{pid}/fd"):
            try:
                target = os.readlink(f"/proc/{pid}/fd/{entry}")
            except OSError:
                continue  # closed meanwhile
            if target.startswith("socket:"):
                found.add(target)
    except OSError:
        pass
    return found


def _listening() -> set[str]:
    """Return the sockets at which this process listens, or is about to: some servers bind them before they start a
    worker, which listens once its loop runs."""
    found: set[str] = set()
    try:
        entries = os.listdir("/proc/self/fd")
    except OSError:
        return found
    for entry in entries:
        try:
            target = os.readlink(f"/proc/self/fd/{entry}")
            if not target.startswith("socket:"):
                continue
            with socket.socket(fileno=os.dup(int(entry))) as copy:
                if copy.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) or _is_only_bound(copy):
                    found.add(target)
        except OSError:
            continue  # closed meanwhile
    return found


def _is_only_bound(stream: socket.socket) -> bool:
    address = stream.getsockname()
    bound = address[1] != 0 if isinstance(address, tuple) else bool(address)
    if not bound or stream.type != socket.SOCK_STREAM:
        return False
    try:
        stream.getpeername()
    except OSError as error:
        return error.errno == errno.ENOTCONN
    return False

"""The addresses that this process serves together with others, through forks and to its end."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from poolscope.config import DEFAULT_LISTEN, Settings, listen_address
from poolscope.errors import ListenError
from poolscope.model import Snapshot
from poolscope.probe import ending
from poolscope.probe.native import allocate_lock
from poolscope.prometheus import serve_snapshots
from poolscope.workers.folder import FolderError
from poolscope.workers.hosting import hosted
from poolscope.workers.member import Member

if TYPE_CHECKING:
    from poolscope.endpoint import Endpoint
    from poolscope.prometheus import Failed

#: Addresses that this image of the program has served: its counts go on when it does so again.
_served: set[tuple[str, int]] = set()
_members: list[Member] = []
#: Held by whoever begins to serve: the program, or the probe's thread for its environment.
_serving = allocate_lock()
#: Addresses that the parent served when it forked us.
_inherited: list[str] = []


def serve(
    snapshot: Callable[[], Snapshot],
    settings: Settings,
    failed: Failed,
    detailed: Callable[[], Snapshot] | None = None,
    *,
    unasked: bool = False,
) -> Endpoint:
    """Serves what `snapshot` returns at `settings.listen`, together with the other processes that serve this address.

    An endpoint of this process alone where the port is 0, and where no directory can be shared. `failed` hears of what
    fails later. `unasked`: it is not the program that asks for it, but its environment or who forked it; if the program
    does so as well, its own takes the place of this one. Raises ListenError if the address cannot be used, or belongs
    to a program that is none of ours.
    """

    def alone() -> Endpoint:
        return hosted(lambda: serve_snapshots(snapshot, settings, failed, detailed=detailed))

    listen = settings.listen or DEFAULT_LISTEN
    address = listen_address(listen)
    if address is None or address[1] == 0 or not hasattr(os, "register_at_fork"):
        return alone()
    with _serving:
        present = _member(address)
        if present is not None:
            if unasked:
                return present
            if not present.unasked:
                raise ListenError(f"cannot listen on {listen}: this process serves it already; close that server first")
            present.close()  # and what it has counted goes on, with the settings that the program gives
        try:
            again = address in _served
            member = Member(snapshot, settings, failed, detailed, address, again=again, unasked=unasked)
            member.join()
        except FolderError as error:
            failed("workers", error)
            return alone()
        _served.add(address)
        _members[:] = [*(other for other in _members if not other.closed), member]
        _watch_forks()
        _close_with_multiprocessing()
        ending.register(_close_all)
        return member


def is_served(listen: str) -> bool:
    """Whether this process has a part in serving that address."""
    address = listen_address(listen)
    return address is not None and _member(address) is not None


def _member(address: tuple[str, int]) -> Member | None:
    return next((member for member in _members if member.address == address and not member.closed), None)


def inherited() -> list[str]:
    """The addresses that the parent served when it forked this process; each is told once."""
    addresses = list(_inherited)
    _inherited.clear()
    return addresses


def _threads() -> int | None:
    try:
        return len(os.listdir("/proc/self/task"))
    except OSError:
        return None


def _close_with_multiprocessing() -> None:
    """Its children end by `os._exit`, without `atexit`, but with the end of `threading`."""
    threading = sys.modules.get("threading")
    callbacks = getattr(threading, "_threading_atexits", None)
    if isinstance(callbacks, list) and _close_in_child not in callbacks:
        callbacks.insert(0, _close_in_child)  # they run from the last to the first


def _close_in_child() -> None:
    process = sys.modules.get("multiprocessing.process")
    if process is not None and process.parent_process() is not None:
        _close_all()


def _close_all() -> None:
    for member in list(_members):
        member.close()


_watching = False


def _watch_forks() -> None:
    global _watching
    if not _watching:
        _watching = True
        os.register_at_fork(before=_before_fork, after_in_parent=_after_in_parent, after_in_child=_after_in_child)


def _before_fork() -> None:
    ours = 1 + sum(1 + member.holds_port for member in _members if not member.closed)  # the probe's, and each member's
    threads = _threads()
    if threads is None or threads <= 1 + ours:
        for member in list(_members):
            member.pause()


def _after_in_parent() -> None:
    # From Python 3.12 on the threads are counted for the warning after this. So a process that has none beside ours
    # goes on with the next turn of its loop, or the next event of a pool.
    threads = _threads()
    if threads == 1:
        events = sys.modules.get("asyncio.events")
        loop = None if events is None else events._get_running_loop()
        if loop is not None:
            for member in list(_members):
                loop.call_soon(member.wake)
        return
    for member in list(_members):
        member.wake()


def _after_in_child() -> None:
    global _serving
    for member in _members:
        if not member.closed:
            _inherited.append(member.listen)
        member.forget()
    _members.clear()
    _served.clear()
    _serving = allocate_lock()  # another thread of the parent may have held it

"""The addresses that this process serves together with others, through forks and to its end."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from poolscope.config import DEFAULT_LISTEN, Settings, listen_address
from poolscope.errors import ListenError
from poolscope.live.feed import Feed, own_command, pages
from poolscope.metrics.families import serve_snapshots
from poolscope.multiprocess.native_host import hosted
from poolscope.multiprocess.peer import Peer
from poolscope.multiprocess.spool_dir import SpoolError
from poolscope.probe.forks import go_on, others_run
from poolscope.probe.interpreter.unpatched import allocate_lock
from poolscope.probe.startup import exit_hooks
from poolscope.snapshot import Snapshot

if TYPE_CHECKING:
    from poolscope.endpoint import Endpoint
    from poolscope.metrics.families import Failed

#: Addresses that this process has served: its counts go on when it serves them again.
_served: set[tuple[str, int]] = set()
_peers: list[Peer] = []
#: Held while serving begins: by the program, or the probe's thread for its environment.
_serving = allocate_lock()
#: Addresses that the parent served when it forked us.
_inherited: list[str] = []


def open_endpoint(
    snapshot: Callable[[], Snapshot],
    settings: Settings,
    failed: Failed,
    detailed: Callable[[], Snapshot] | None = None,
    *,
    unasked: bool = False,
) -> Endpoint:
    """Serve what `snapshot` returns at `settings.listen`, together with the other processes that serve this address.

    An endpoint of this process alone where the port is 0, and where no directory can be shared. `failed` is called for
    failures later on. `unasked`: not the program asks for it, but its environment or the process that forked it; an
    endpoint that the program asks for later takes its place. Raises ListenError if the address cannot be used, or
    belongs to another program.
    """

    def alone() -> Endpoint:
        shown = pages(Feed(detailed or snapshot, own_command()))
        return hosted(lambda: serve_snapshots(snapshot, settings, failed, detailed=detailed, pages=shown))

    listen = settings.listen or DEFAULT_LISTEN
    address = listen_address(listen)
    if address is None or address[1] == 0 or not hasattr(os, "register_at_fork"):
        return alone()
    with _serving:
        present = _peer(address)
        if present is not None:
            if unasked:
                return present
            if not present.unasked:
                raise ListenError(f"cannot listen on {listen}: this process serves it already; close that server first")
            present.close()  # and what it has counted goes on, with the settings that the program gives
        try:
            again = address in _served
            peer = Peer(snapshot, settings, failed, detailed, address, again=again, unasked=unasked)
            peer.join()
        except SpoolError as error:
            failed("workers", error)
            return alone()
        _served.add(address)
        _peers[:] = [*(other for other in _peers if not other.closed), peer]
        _watch_forks()
        _close_with_multiprocessing()
        exit_hooks.register(_close_all)
        return peer


def is_served(listen: str) -> bool:
    """Whether this process has a part in serving that address."""
    address = listen_address(listen)
    return address is not None and _peer(address) is not None


def _peer(address: tuple[str, int]) -> Peer | None:
    return next((peer for peer in _peers if peer.address == address and not peer.closed), None)


def inherited() -> list[str]:
    """Return the addresses that the parent served when it forked this process; each of them once."""
    addresses = list(_inherited)
    _inherited.clear()
    return addresses


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
    for peer in list(_peers):
        peer.close()


_watching = False


def _watch_forks() -> None:
    global _watching
    if not _watching:
        _watching = True
        os.register_at_fork(before=_before_fork, after_in_parent=_after_in_parent, after_in_child=_after_in_child)


def _before_fork() -> None:
    if not others_run():
        for peer in list(_peers):
            peer.pause()


def _after_in_parent() -> None:
    go_on([peer.wake for peer in _peers])


def _after_in_child() -> None:
    global _serving
    for peer in _peers:
        if not peer.closed:
            _inherited.append(peer.listen)
        peer.forget()
    _peers.clear()
    _served.clear()
    _serving = allocate_lock()  # another thread of the parent may have held it

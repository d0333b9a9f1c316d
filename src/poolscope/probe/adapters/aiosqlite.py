"""aiosqlite: each connection has one thread, which runs its requests one after the other: a pool of one worker.

What is replaced, and put back by `unpatch`, is `Connection.__init__`; of a connection that is made under it, the
attribute `_tx`, through which its requests go into the queue of its thread (`_Requests`). A request goes in inside of a
`WrappedCall`, which records it in the thread that runs it. It goes by the function of the user's that awaits
it: what runs in the thread is always one of sqlite3's.

A pool is opened with the first request. A connection that is older than the patch is not watched.
"""

from __future__ import annotations

import sys
from weakref import ref

from poolscope.probe.adapters import unfamiliar
from poolscope.probe.executors.patching import Patch, Switch
from poolscope.probe.executors.wrapped import WrappedCall
from poolscope.probe.interpreter import shapes
from poolscope.probe.interpreter.stacks import DEPTH_LIMIT, is_user_file
from poolscope.probe.limits.naming import site_of
from poolscope.probe.recording.pool_watch import ATTRIBUTE, UNOPENED, Instances

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from typing import Any

    from poolscope.probe.interpreter.stacks import Site
    from poolscope.probe.recording.pool_watch import Watch

_MODULE = "aiosqlite.core"


class _Requests:
    """Stands in for the attribute `_tx` of a connection. Its thread has the queue itself."""

    __slots__ = ("_connection", "_queue", "_site", "_state")

    def __init__(self, queue: Any, connection: Any, site: Site, state: _Patch) -> None:
        self._queue = queue
        self._connection = ref(connection)
        self._site = site
        self._state = state

    def __getattr__(self, name: str) -> Any:
        return getattr(self._queue, name)

    def put_nowait(self, request: Any) -> None:
        """Put a request, (future, function), into the queue."""
        connection = self._connection()
        watch = None if connection is None else self._state.watch(connection, self._site)
        if watch is not None:
            try:
                arrived = watch.arrive(request[1], (), _asking(sys._getframe(1), watch))
                if arrived is not None:
                    request = (request[0], WrappedCall(request[1], watch, *arrived))
            except Exception as exc:
                watch.give_up(exc)
        self._queue.put_nowait(request)


def _asking(frame: FrameType | None, watch: Watch) -> int | None:
    """Return the number of the user's function that asks; None if there is none: at the end of a connection."""
    for _ in range(DEPTH_LIMIT):
        if frame is None:
            return None
        if is_user_file(frame.f_code.co_filename):
            number: int = watch.probe.functions.of_code(frame.f_code, frame.f_globals)
            return number
        frame = frame.f_back
    return None


def _sizer(connection: Any) -> Callable[[], tuple[int, int] | None]:
    weak = ref(connection)

    def size() -> tuple[int, int] | None:
        found: Any = weak()
        return None if found is None else (int(found._thread.is_alive()), 1)

    return size


_instances = Instances("aiosqlite", _sizer)


class _Patch(Patch):
    """The patch of the connections."""

    #: Then the names of this module are gone.
    shutting_down = staticmethod(sys.is_finalizing)

    def made(self, connection: Any, frame: FrameType | None) -> None:
        """Take the place of the queue of a connection that was made in this frame."""
        queue = connection._tx
        if type(queue) is _Requests:
            return  # its `__init__` was called twice
        while frame is not None and str(frame.f_globals.get("__name__")).partition(".")[0] == "aiosqlite":
            frame = frame.f_back
        connection._tx = _Requests(queue, connection, site_of(frame), self)

    def watch(self, connection: Any, site: Site) -> Watch | None:
        """Return what records the requests of a connection; opened with its first one."""
        if not self.active or self.shutting_down():
            return None
        watch: Any = getattr(connection, ATTRIBUTE, None)
        return _instances.open(connection, self.find_probe, "", site=site) if watch is UNOPENED else watch


def _put_on(probe: Any) -> _Patch:
    state = _Patch(probe)
    cls: Any = sys.modules[_MODULE].Connection
    state.put(cls, ATTRIBUTE, UNOPENED)
    state.put_noted_constructor(cls, state.made)
    return state


def _familiar(probe: Any) -> bool:
    """Whether we know this version; if not, the probe gets a notice."""
    module: Any = sys.modules[_MODULE]
    try:
        shapes.needs(module, ["Connection"])
        shapes.needs_use(module.Connection, "__init__", ["_tx", "_thread"])
        for name in ("_execute", "_connect", "stop"):
            shapes.needs_use(module.Connection, name, ["_tx", "put_nowait"])
    except shapes.Unfamiliar as reason:
        unfamiliar(probe, "aiosqlite", f"the threads of its connections are not watched: {reason}")
        return False
    return True


_switch = Switch(_instances, _familiar, _put_on)
patch, unpatch = _switch.on, _switch.off

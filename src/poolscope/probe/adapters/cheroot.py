"""cheroot: the threads of a server (CherryPy's, and of those that use cheroot) and their queue of connections.

What is replaced, and put back by `unpatch`: `__init__` of the thread pool, to know where it was made, and `put`,
through which all connections come; `HTTPConnection.communicate`, which a thread calls with each. A task is a turn at a
connection, in which one request is answered; it goes by the application. A connection that is kept open comes again
once there is something to read.

A pool that is older than the patch is watched from its next task on. A class of connections with a `communicate` of
its own, and a pool of another class, are not seen.
"""

from __future__ import annotations

import functools
import sys
from weakref import ref

from poolscope.probe.adapters import unfamiliar
from poolscope.probe.executors.patching import Patch, Switch
from poolscope.probe.executors.wrapped import WrappedTask
from poolscope.probe.interpreter import shapes
from poolscope.probe.interpreter.tracebacks import leave_out
from poolscope.probe.recording.pool_watch import ATTRIBUTE, UNOPENED, Instances, size_from_settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from poolscope.probe.recording.pool_watch import Watch

#: What its pools are called.
PREFIX = "cheroot"
#: Where a connection keeps its turn.
_TURN = "_poolscope_turn"


def _sizer(pool: Any) -> Callable[[], tuple[int, int] | None]:
    weak = ref(pool)

    def size() -> tuple[int, int] | None:
        found: Any = weak()
        if found is None:
            return None
        # It starts its least number, and more only if it is told to. All of them end with the server: that is no size
        # to judge it by.
        threads = list(found._threads)
        return sum(thread.is_alive() for thread in threads), max(found.min, len(threads))

    return size


_instances = Instances("cheroot", _sizer)


class _Patch(Patch):
    """The patch of the threads."""

    #: Then the names of this module are gone.
    shutting_down = staticmethod(sys.is_finalizing)
    #: Ours in the place of `communicate`.
    communicate: Any = None

    def made(self, pool: Any) -> None:
        """Open a pool that was made just now, with the size that the settings want."""
        if self.active and not self.shutting_down():
            wanted = size_from_settings(self.find_probe, "cheroot", PREFIX)
            if wanted is not None:
                pool.min, pool.max = wanted, max(wanted, pool.max)
            self.watch(pool)

    def watch(self, pool: Any) -> Watch | None:
        """Open the pool: when it is made, or with its first task if it is older."""
        if not self.active or self.shutting_down():
            return None
        return _instances.open(pool, self.find_probe, PREFIX)

    def arrived(self, pool: Any, connection: Any) -> WrappedTask | None:
        """Return the turn of a connection that goes into the queue; None if it is not watched. Never raises."""
        watch = getattr(pool, ATTRIBUTE, None) if self.active and not self.shutting_down() else None
        if watch is UNOPENED:
            watch = self.watch(pool)
        # None is what tells a thread to end.
        if watch is None or connection is None:
            return None
        try:
            if getattr(type(connection), "communicate", None) is not self.communicate:
                cls = type(connection)
                watch.probe.notice(
                    f"connections of {cls.__module__}.{cls.__qualname__} are not seen in pool {watch.recorder.name}: "
                    "the class has a communicate of its own"
                )
                return None
            task = watch.arrive(_application(connection))
            if task is None:
                return None
            turn = connection.__dict__[_TURN] = WrappedTask(watch, *task)
            return turn
        except Exception as exc:
            watch.give_up(exc)
            return None


def _application(connection: Any) -> Any:
    """Return what answers its requests: of a server of WSGI, the application."""
    attributes = vars(connection.server)
    return attributes.get("wsgi_app") or attributes.get("gateway") or type(connection.server)


def _put_on(probe: Any) -> _Patch:
    state = _Patch(probe)
    pool: Any = sys.modules["cheroot.workers.threadpool"].ThreadPool
    connection: Any = sys.modules["cheroot.server"].HTTPConnection
    state.communicate = _communicate(connection.communicate)
    state.put(pool, ATTRIBUTE, UNOPENED)
    state.put(pool, "put", _put(state, pool.put))
    state.put_constructor(pool, "server", lambda _: None, state.made)
    state.put(connection, "communicate", state.communicate)
    return state


def _put(state: _Patch, original: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
    @functools.wraps(original)
    def put(self: Any, obj: Any) -> None:
        turn = state.arrived(self, obj)
        try:
            original(self, obj)
        except BaseException as exc:
            if turn is not None and obj.__dict__.pop(_TURN, None) is turn:
                turn.watch.withdrawn(turn.function, turn.submitted)
                turn.watch.rejected()
            # A bare `raise` adds no line for this frame: the traceback is the one of a call without us.
            leave_out(exc)
            raise

    return put


def _communicate(original: Callable[[Any], Any]) -> Callable[[Any], Any]:
    @functools.wraps(original)
    def communicate(self: Any) -> Any:
        turn = self.__dict__.pop(_TURN, None)
        if turn is None:
            return original(self)
        log = turn.begin()
        try:
            result = original(self)
        except BaseException as exc:
            turn.end(log, 1)
            leave_out(exc)
            raise
        turn.end(log, 0)
        return result

    return communicate


def _familiar(probe: Any) -> bool:
    """Whether we know this version; if not, the probe gets a notice."""
    workers: Any = sys.modules.get("cheroot.workers.threadpool")
    server: Any = sys.modules.get("cheroot.server")
    try:
        shapes.needs(workers, ["ThreadPool", "WorkerThread"])
        shapes.needs_use(workers.ThreadPool, "__init__", ["min", "max", "_threads", "_queue"])
        shapes.needs_parameters(workers.ThreadPool, "put", ["self", "obj"])
        shapes.needs_use(workers.ThreadPool, "put", ["_queue", "put"])
        shapes.needs_parameters(server.HTTPConnection, "communicate", ["self"])
        shapes.needs_use(server.HTTPConnection, "__init__", ["server"])
    except (AttributeError, shapes.Unfamiliar) as reason:
        unfamiliar(probe, "cheroot", f"its threads are not watched: {reason}")
        return False
    return True


_switch = Switch(_instances, _familiar, _put_on)
patch, unpatch = _switch.on, _switch.off

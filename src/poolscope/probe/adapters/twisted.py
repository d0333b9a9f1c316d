"""Twisted: a `ThreadPool`, such as the reactor's, which resolves names and runs what `deferToThread` is given.

What is replaced, and put back by `unpatch`, are methods of the pool: `__init__`, to know where it was made;
`callInThreadWithCallback`, through which all calls come; `adjustPoolsize`, which may get another number from the
settings. A call goes into Twisted's own queue inside of a `WrappedCall`, which records it in the thread that runs it.
What the result is handed to runs in that thread as well, after the task.

A pool that is older than the patch is watched from its next call on, and with it what is queued after that.

A reactor that is no guest of asyncio's is told of, as what blocks it is not seen.
"""

from __future__ import annotations

import functools
import sys
from weakref import ref

from poolscope.probe.adapters import unfamiliar
from poolscope.probe.executors.patching import Patch, Switch
from poolscope.probe.executors.wrapped import WrappedCall
from poolscope.probe.interpreter.imports import imported, in_flight
from poolscope.probe.recording.pool_watch import ATTRIBUTE, UNOPENED, Instances, size_from_settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from poolscope.probe.recording.pool_watch import Watch

_MODULE = "twisted.python.threadpool"


def _sizer(pool: Any) -> Callable[[], tuple[int, int] | None]:
    weak = ref(pool)

    def size() -> tuple[int, int] | None:
        found: Any = weak()
        # Before its start, and after its end, there is no thread: that is no size to judge it by.
        return (sum(thread.is_alive() for thread in found.threads), found.max) if found is not None else None

    return size


_instances = Instances("twisted", _sizer)


class _Patch(Patch):
    """The patch of the pool."""

    #: Asked as an attribute: at shutdown the names of this module are gone.
    shutting_down = staticmethod(sys.is_finalizing)

    def watch(self, pool: Any) -> Watch | None:
        """Open the pool: when it is made, or with its first call if it is older."""
        if not self.active or self.shutting_down():
            return None
        return _instances.open(pool, self.find_probe, _prefix(pool))

    def arrived(self, pool: Any, fn: Any, args: tuple[Any, ...]) -> Any:
        """Return what goes into the queue in the place of a function. Never raises."""
        watch = getattr(pool, ATTRIBUTE, None) if self.active and not self.shutting_down() else None
        if watch is UNOPENED:
            watch = self.watch(pool)
        if watch is None or pool.joined:
            return fn
        try:
            arrived = watch.arrive(fn, args)
            return fn if arrived is None else WrappedCall(fn, watch, *arrived)
        except Exception as exc:
            watch.give_up(exc)
            return fn


def _prefix(pool: Any) -> str:
    """Return the name that it was given: the reactor's has one."""
    name = pool.name
    return name if isinstance(name, str) else ""


def _familiar(probe: Any) -> bool:
    missing = _missing(sys.modules[_MODULE])
    if missing:
        unfamiliar(probe, "Twisted", f"its thread pools are not watched: no {missing} in twisted.python.threadpool")
    return not missing


def _put_on(probe: Any) -> _Patch:
    state = _Patch(probe)
    cls = sys.modules[_MODULE].ThreadPool
    state.put(cls, ATTRIBUTE, UNOPENED)
    state.put(cls, "callInThreadWithCallback", _call_in_thread(state, cls.callInThreadWithCallback))
    state.put(cls, "adjustPoolsize", _adjust(state, cls.adjustPoolsize))
    state.put_constructor(cls, "", lambda _: None, state.watch)
    return state


_switch = Switch(_instances, _familiar, _put_on)


def patch(probe: Any) -> None:
    """Watch every thread pool of Twisted's in this process. Does nothing if that is so already.

    An unknown version is left alone, and the probe gets a notice.
    """
    if not any(getattr(each, "func", None) is _tell_of_reactor for each in probe.before_flush):
        probe.before_flush.append(functools.partial(_tell_of_reactor, probe))
    module = imported(_MODULE)
    if module is not None and not in_flight(module):
        _switch.on(probe)


def unpatch() -> None:
    """Put everything back as it was. Does nothing if nothing is patched."""
    _switch.off()


def _tell_of_reactor(probe: Any) -> None:
    reactor: Any = sys.modules.get("twisted.internet.reactor")
    name = f"{type(reactor).__module__}.{type(reactor).__qualname__}"
    has_run = getattr(reactor, "__dict__", {}).get("_startedBefore")
    if has_run and not name.startswith("twisted.internet.asyncioreactor."):
        probe.notice(f"the reactor {name} is an event loop of a kind that is not known: what blocks it is not seen")


def _missing(module: Any) -> str | None:
    """Return what the module lacks of what we need."""
    try:
        cls = module.ThreadPool
        expected = (
            ("__init__", ("max", "name", "threads")),
            ("callInThreadWithCallback", ("joined", "_team", "do")),
            ("adjustPoolsize", ("min", "max")),
            ("start", ("adjustPoolsize",)),
        )
        for name, used in expected:
            if not set(used) <= set(cls.__dict__[name].__code__.co_names):
                return f"ThreadPool.{name} that uses {' and '.join(used)}"
    except (AttributeError, KeyError) as exc:
        return f"ThreadPool as expected ({exc})"
    return None


def _call_in_thread(state: _Patch, original: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(original)
    def call(self: Any, /, *args: Any, **kwargs: Any) -> None:  # as it is called: (onResult, func, *args, **kw)
        if len(args) > 1:
            args = (args[0], state.arrived(self, args[1], args[2:]), *args[2:])
        original(self, *args, **kwargs)

    return call


def _adjust(state: _Patch, original: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(original)
    def adjust(self: Any, minthreads: int | None = None, maxthreads: int | None = None) -> None:
        asked = state.active and not state.shutting_down()
        wanted = size_from_settings(state.find_probe, "twisted", _prefix(self)) if asked else None
        if wanted:
            maxthreads, minthreads = wanted, min(wanted, self.min if minthreads is None else minthreads)
        original(self, minthreads, maxthreads)

    return adjust

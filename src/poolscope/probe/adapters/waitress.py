"""waitress: the threads of a server and their queue of connections (`ThreadedTaskDispatcher`) are a pool.

What is replaced, and put back by `unpatch`, are methods of the dispatcher: `__init__`, to know where it was made;
`add_task`, through which all tasks come; `set_thread_count`, which may get another number from the settings.
A task goes into the dispatcher's own queue inside of one of ours (`_Task`), which records it: when a thread calls its
`service`, or `cancel` at the end of the server. Each request is a task of its own, as a connection with several comes
again; it goes by the name of the application.

A dispatcher that is older than the patch is watched from its next task on, and with it what is queued after that.
"""

from __future__ import annotations

import functools
import sys
from types import FunctionType, MethodType
from weakref import ref

from poolscope.probe.adapters import unfamiliar
from poolscope.probe.executors.patching import Patch, Switch
from poolscope.probe.executors.wrapped import WrappedTask
from poolscope.probe.interpreter.tracebacks import leave_out, unseen
from poolscope.probe.recording.pool_watch import ATTRIBUTE, UNOPENED, Instances, size_from_settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from poolscope.probe.recording.pool_watch import Watch

#: What its threads are called: `waitress-0`.
PREFIX = "waitress"


class _Task(WrappedTask):
    """Stands in for one task in the queue of a dispatcher. A thread of the dispatcher calls `service`, or the one that
    ends it calls `cancel`."""

    __slots__ = ("_task",)

    def __init__(self, task: Any, watch: Watch, function: int, submitted: int) -> None:
        self.watch, self.function, self.submitted = watch, function, submitted  # without another call
        self._task = task

    def __getattr__(self, name: str) -> Any:
        return getattr(self._task, name)

    def __repr__(self) -> str:
        return repr(self._task)

    @unseen
    def service(self) -> None:
        """Run the task, in the thread that calls this."""
        log = self.begin()
        try:
            self._task.service()
        except BaseException as exc:
            self.end(log, 1)
            # A bare `raise` adds no line for this frame: the traceback is the one of a task without us.
            leave_out(exc)
            raise
        self.end(log, 0)

    def cancel(self) -> None:
        """Cancel the task, instead, at the end of the server."""
        self.watch.cancelled(self.function, self.submitted)
        self._task.cancel()


def _sizer(dispatcher: Any) -> Callable[[], tuple[int, int] | None]:
    weak = ref(dispatcher)

    def size() -> tuple[int, int] | None:
        found: Any = weak()
        if found is None:
            return None
        threads = len(found.threads)
        # All of them end with the server: that is no size to judge it by.
        return (threads, threads - found.stop_count) if threads > found.stop_count else None

    return size


_instances = Instances("waitress", _sizer)


class _Patch(Patch):
    """The patch of the dispatcher."""

    #: Asked as an attribute: at shutdown the names of this module are gone.
    shutting_down = staticmethod(sys.is_finalizing)

    def watch(self, dispatcher: Any) -> Watch | None:
        """Open the pool: when it is made, or with its first task if it is older."""
        if not self.active or self.shutting_down():
            return None
        return _instances.open(dispatcher, self.find_probe, PREFIX)

    def arrived(self, dispatcher: Any, task: Any) -> Any:
        """Return the task as it goes into the queue. Never raises."""
        watch = getattr(dispatcher, ATTRIBUTE, None) if self.active and not self.shutting_down() else None
        if watch is UNOPENED:
            watch = self.watch(dispatcher)
        if watch is None:
            return task
        try:
            arrived = watch.arrive(_application(task))
            return task if arrived is None else _Task(task, watch, *arrived)
        except Exception as exc:
            watch.give_up(exc)
            return task


def _application(task: Any) -> Any:
    """Return what a task is to run: of a connection of a server's, the application."""
    channel = sys.modules.get("waitress.channel")
    if type(task) is getattr(channel, "HTTPChannel", None):
        try:
            return _behind_proxy_headers(task.server.application)
        except AttributeError:
            pass  # then by what it is
    service = type(task).__dict__.get("service")
    return MethodType(service, task) if callable(service) else task


def _behind_proxy_headers(application: Any) -> Any:
    """Return the application itself: by default waitress wraps it in a function of its own."""
    if type(application) is FunctionType and application.__module__ == "waitress.proxy_headers":
        names = application.__code__.co_freevars
        if application.__closure__ is not None and "app" in names:
            return application.__closure__[names.index("app")].cell_contents
    return application


def _familiar(probe: Any) -> bool:
    missing = _missing(sys.modules["waitress.task"])
    if missing:
        unfamiliar(probe, "waitress", f"its threads are not watched: no {missing} in waitress.task")
    return not missing


def _put_on(probe: Any) -> _Patch:
    state = _Patch(probe)
    cls = sys.modules["waitress.task"].ThreadedTaskDispatcher
    state.put(cls, ATTRIBUTE, UNOPENED)
    state.put(cls, "add_task", _add_task(state, cls.add_task))
    state.put(cls, "set_thread_count", _set_thread_count(state, cls.set_thread_count))
    state.put_constructor(cls, "", lambda _: None, state.watch)
    return state


_switch = Switch(_instances, _familiar, _put_on)


def patch(probe: Any) -> None:
    """Watch the threads of every waitress server in this process. Does nothing if that is so already.

    An unknown version is left alone, and the probe gets a notice.
    """
    _switch.on(probe)


def unpatch() -> None:
    """Put everything back as it was. Does nothing if nothing is patched."""
    _switch.off()


def _missing(module: Any) -> str | None:
    """Return what the module lacks of what we need."""
    try:
        cls = module.ThreadedTaskDispatcher
        expected: tuple[tuple[str, tuple[str, ...]], ...] = (
            ("add_task", ("queue", "append")),
            ("handler_thread", ("popleft", "service")),
            ("shutdown", ("popleft", "cancel")),
            ("set_thread_count", ("threads", "stop_count")),
        )
        for name, used in expected:
            if not set(used) <= set(cls.__dict__[name].__code__.co_names):
                return f"ThreadedTaskDispatcher.{name} that uses {' and '.join(used)}"
    except (AttributeError, KeyError) as exc:
        return f"ThreadedTaskDispatcher as expected ({exc})"
    return None


def _add_task(state: _Patch, original: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
    @functools.wraps(original)
    def add_task(self: Any, task: Any) -> None:
        original(self, state.arrived(self, task))

    return add_task


def _set_thread_count(state: _Patch, original: Callable[[Any, int], None]) -> Callable[[Any, int], None]:
    @functools.wraps(original)
    def set_thread_count(self: Any, count: int) -> None:
        # None at the end of the server.
        asked = count and state.active and not state.shutting_down()
        wanted = size_from_settings(state.find_probe, "waitress", PREFIX) if asked else None
        original(self, wanted or count)

    return set_thread_count

"""distributed: the executors of its workers, which are threads of a copy of the standard pool (of CPython 3.6).

What is replaced, and put back by `unpatch`, is `ThreadPoolExecutor.submit` of that copy: a pool is opened with its
first call. A call goes into its queue inside of one of ours (`_Call`), which records it in the thread that runs it.
What a call is named after is in `adapters.dask`. A thread that leaves its pool (`secede`) is in its task all the same.
"""

from __future__ import annotations

import functools
import sys
from weakref import ref

from poolscope.probe.adapters import unfamiliar
from poolscope.probe.executors.patching import Patch, Switch
from poolscope.probe.executors.wrapped import WrappedTask
from poolscope.probe.interpreter import shapes
from poolscope.probe.recording.pool_watch import ATTRIBUTE, UNOPENED, Instances, automatic

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from poolscope.probe.recording.pool_watch import Watch

_MODULE = "distributed._concurrent_futures_thread"


class _Call(WrappedTask):
    """Stands in for one function. A thread of the pool calls it once, or its future is cancelled."""

    __slots__ = ("_called", "_fn")

    def __init__(self, fn: Callable[..., Any], watch: Watch, function: int, submitted: int) -> None:
        self.watch, self.function, self.submitted = watch, function, submitted  # without another call
        self._fn = fn
        self._called = False

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """Run the function."""
        self._called = True
        log = self.begin()
        try:
            result = self._fn(*args, **kwargs)
        except BaseException as exc:
            self.end(log, 1)
            # A bare `raise` adds no line for this frame: the traceback is the one of a call without us.
            exc.__traceback__ = exc.__traceback__ and exc.__traceback__.tb_next
            raise
        self.end(log, 0)
        return result

    def done(self, future: Any) -> None:
        """Note that the future is done."""
        if not self._called and future.cancelled():
            self.watch.cancelled(self.function, self.submitted)


def _sizer(executor: Any) -> Callable[[], tuple[int, int] | None]:
    weak = ref(executor)

    def size() -> tuple[int, int] | None:
        found: Any = weak()
        if found is None:
            return None
        # list() of a set is one step; iterating it ourselves could meet a submit that adds a thread.
        return sum(thread.is_alive() for thread in list(found._threads)), found._max_workers

    return size


_instances = Instances("thread", _sizer)


class _Patch(Patch):
    """The patch of the pool."""

    #: Then the names of this module are gone.
    shutting_down = staticmethod(sys.is_finalizing)

    def watch(self, executor: Any) -> Watch | None:
        """Open the pool."""
        prefix = executor.__dict__.get("_thread_name_prefix", "")
        return _instances.open(executor, self.find_probe, "" if automatic(prefix) else prefix)

    def arrived(self, executor: Any, fn: Any, args: tuple[Any, ...]) -> _Call | None:
        """Return what goes into the queue in the place of a function; None if it is not watched. Never raises."""
        watch = getattr(executor, ATTRIBUTE, None) if self.active and not self.shutting_down() else None
        if watch is UNOPENED:
            watch = self.watch(executor)
        if watch is None:
            return None
        try:
            arrived = watch.arrive(fn, args)
            return None if arrived is None else _Call(fn, watch, *arrived)
        except Exception as exc:
            watch.give_up(exc)
            return None


def _put_on(probe: Any) -> _Patch:
    state = _Patch(probe)
    cls: Any = sys.modules[_MODULE].ThreadPoolExecutor
    state.put(cls, ATTRIBUTE, UNOPENED)
    state.put(cls, "submit", _submit(state, cls.submit))
    return state


def _submit(state: _Patch, original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def submit(self: Any, fn: Any, *args: Any, **kwargs: Any) -> Any:
        call = state.arrived(self, fn, args)
        if call is None:
            return original(self, fn, *args, **kwargs)
        try:
            future = original(self, call, *args, **kwargs)
        except BaseException as exc:
            if isinstance(exc, RuntimeError):
                call.watch.rejected()
            call.watch.withdrawn(call.function, call.submitted)
            exc.__traceback__ = exc.__traceback__ and exc.__traceback__.tb_next
            raise
        future.add_done_callback(call.done)
        return future

    return submit


def _familiar(probe: Any) -> bool:
    """Whether we know this version; if not, the probe gets a notice."""
    module: Any = sys.modules[_MODULE]
    try:
        shapes.needs(module, ["ThreadPoolExecutor", "_WorkItem"])
        cls = module.ThreadPoolExecutor
        shapes.needs_use(cls, "__init__", ["_max_workers", "_threads", "_thread_name_prefix"])
        shapes.needs_parameters(cls, "submit", ["self", "fn", "args", "kwargs"])
        shapes.needs_use(module._WorkItem, "run", ["set_running_or_notify_cancel", "fn"])
    except shapes.Unfamiliar as reason:
        unfamiliar(probe, "distributed", f"the threads of its workers are not watched: {reason}")
        return False
    return True


_switch = Switch(_instances, _familiar, _put_on)
patch, unpatch = _switch.on, _switch.off

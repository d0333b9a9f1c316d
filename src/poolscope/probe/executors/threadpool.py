"""The standard thread pool, patched in place, so that every executor of the process is seen.

What is replaced, and put back by `unpatch`: `ThreadPoolExecutor.__init__` and `.submit`, `Future.cancel` and
`.set_exception`; the class also gets an attribute that says "not opened yet" of its instances. Where another
tool has replaced `submit` before us, ours goes around theirs, and the name `_WorkItem` in
`concurrent.futures.thread` is replaced too, as the standard `submit` under it looks that up. The classes
themselves stay: names imported earlier, existing instances, subclasses and asyncio's `isinstance` check all
go on with the same ones. The user's callable is passed on as it is.

How a task is recorded exactly once, and to its end though the patch is taken off meanwhile, see `work_item`.
"""

from __future__ import annotations

import functools
import sys
from _thread import RLock

from poolscope.probe.executors.patching import Patch
from poolscope.probe.executors.work_item import (
    SUBMITTING,
    announcing,
    claim_of,
    settle,
    watched_item,
    withdraw,
)
from poolscope.probe.interpreter import shapes
from poolscope.probe.interpreter.blame import is_ours
from poolscope.probe.interpreter.tracebacks import leave_out
from poolscope.probe.recording import given_up
from poolscope.probe.recording.pool_watch import (
    ADOPTERS,
    ATTRIBUTE,
    UNOPENED,
    UNREAD_LIMIT,
    Instances,
    automatic,
    report,
)
from poolscope.probe.recording.results import watch_takers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from poolscope.probe.recording.pool_watch import Watch


def _kind(executor: Any) -> str:
    """Of threads, or of interpreters that a thread each runs: their executor is a thread pool's subclass."""
    module = sys.modules.get("concurrent.futures.interpreter")
    cls = getattr(module, "InterpreterPoolExecutor", None)
    return "interpreter" if cls is not None and cls in _mro_of_type(type(executor)) else "thread"


_mro_of_type: Callable[[type], tuple[type, ...]] = type.__dict__["__mro__"].__get__
_instances = Instances(_kind)


class _Patch(Patch):
    """The patch of the standard thread pool. `everyone`: not only executors that were attached."""

    everyone = True

    def watch(self, executor: Any, made: bool = False) -> Watch | None:
        """Open the pool of `executor`: when it is made, or with its first task if it is older than this patch."""
        if not (self.active and self.everyone) or getattr(type(executor), "_poolscope_own", False):
            return None  # the drop-in executor records itself
        if type(executor).__module__ == "gevent.threadpool":
            self.probe.warn("gevent.threadpool.ThreadPoolExecutor has a submit of its own: its tasks are not seen")
            return None
        for adopt in ADOPTERS:
            adopted = adopt(executor, made)
            if adopted is UNOPENED:
                return None
            if adopted is not NotImplemented:
                executor.__dict__[ATTRIBUTE] = adopted
                watch: Watch | None = adopted
                return watch
        return self.open(executor)

    def open(self, executor: Any, name: str | None = None) -> Watch | None:
        """Return the watch of `executor`, a new one if it has none."""
        try:
            prefix = executor._thread_name_prefix
            watch = _instances.open(executor, self.find_probe, "" if automatic(prefix) else prefix, name)
            if watch is not None and watch.recorder.kind == "interpreter":
                self.probe.notice(
                    "of tasks in other interpreters no lines are read: their frames are not seen from here"
                )
            return watch
        except Exception as exc:
            report(self.probe, exc)
            return None

    def look_again(self, executor: Any, watch: Any) -> Watch | None:
        """Return what to record a task with, where that is not plain: a pool not opened yet, or not to be watched, or
        one whose records are all fetched, or not at all."""
        if watch is UNOPENED:
            watch = self.watch(executor)
        if watch is None:
            return None
        found: Watch = watch
        if not 0 < len(found.arrivals) < UNREAD_LIMIT and not found.attend():
            executor._poolscope = None
            return None
        return found


# Reentrant: a finalizer that runs while we are inside may uninstall.
_lock = RLock()
_current: _Patch | None = None
_last_probe: Any = None


def patch(probe: Any) -> None:
    """Watch every standard thread pool of this process. Does nothing if that is so already.

    Where the standard library has a shape that we do not know, nothing is patched and the probe gets a notice.
    """
    with _lock:
        state = _current or _put_on(probe)
        if state is not None:
            state.everyone = True


def unpatch() -> None:
    """Put everything back as it was, unless there are attached executors: these stay watched, and no others.

    Does nothing if nothing is patched.
    """
    global _current
    with _lock:
        if _current is None:
            return
        if _instances.owned():
            _current.everyone = False
            _instances.forget(owned=False)
        else:
            _current.take_off()
            _current = None


def attach(executor: Any, probe: Any, name: str | None) -> Watch | None:
    """Record this executor from now on, also after `unpatch`."""
    with _lock:
        state = _current
        if state is None:
            state = _put_on(probe)
            if state is None:
                return None
            state.everyone = False
        watch = state.open(executor, name)
        if watch is not None:
            watch.own = True
        return watch


def _put_on(probe: Any) -> _Patch | None:
    global _current, _last_probe
    # Tools that unload and re-import modules exist: what counts is the module that is in use now.
    module: Any = sys.modules.get("concurrent.futures.thread")
    if module is None:
        module = __import__("concurrent.futures.thread", fromlist=["ThreadPoolExecutor"])
    try:
        shape = shapes.thread_pool(module)
    except shapes.Unfamiliar as reason:
        probe.emit(("notice", shapes.missed("thread pools are not watched", reason)))
        return None
    state = _Patch(probe)
    # An executor that outlives the patch keeps its watch, and is the same pool under the next one.
    if _last_probe is not probe:
        _instances.forget()
    _last_probe = probe
    executor, future = module.ThreadPoolExecutor, module._base.Future
    state.put(future, "cancel", _cancel(future.cancel))
    state.put(future, "set_exception", _set_exception(future.set_exception, module.BrokenThreadPool))
    item = watched_item(module, shape)
    # A class attribute, so that no `__getattr__` of a subclass is asked for that of an instance.
    state.put(executor, ATTRIBUTE, UNOPENED)
    submit = executor.submit
    if getattr(submit, "__globals__", None) is module.__dict__:
        state.put(executor, "submit", _submit(state, submit, module, item, shape))
    else:
        state.put(module, "_WorkItem", announcing(item))
        state.put(executor, "submit", _submit_around(state, submit))
    state.put(executor, "__init__", _init(state, executor.__init__))
    watch_takers(state, module._base)
    _current = state
    return state


def _init(state: _Patch, original: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(original)
    def __init__(self: Any, /, *args: Any, **kwargs: Any) -> None:  # noqa: N807 - shown in tracebacks
        try:
            original(self, *args, **kwargs)
        except BaseException as exc:
            # A bare `raise` adds no line for this frame: the traceback is the one without us. So below.
            leave_out(exc)
            raise
        state.watch(self, made=True)

    return __init__


def _submit(state: _Patch, original: Callable[..., Any], module: Any, item: Any, shape: str) -> Callable[..., Any]:
    """Return our `submit` for the standard one: the same steps, and the arrival among them.

    A call that is refused goes to the original, which says so. Where the original would find no idle worker
    and no room for another one, we do not have it look: that costs more than all that we record.
    """
    adjust = module.ThreadPoolExecutor._adjust_thread_count
    resolved = shape == shapes.CONTEXT

    @functools.wraps(original)
    def submit(self: Any, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        # With a default: another thread may take the patch off at any point, and then let the original do it.
        watch: Any = getattr(self, "_poolscope", None) if state.active else None
        if not watch or not 0 < len(watch.arrivals) < UNREAD_LIMIT:
            watch = state.look_again(self, watch)
        function = 0
        if watch is not None:
            try:
                function = watch.identify(fn, args)
            except Exception as exc:
                watch.give_up(exc)
                self._poolscope = None
                watch = None
        if watch is None:  # not in the handler: an exception of the original's must not come with ours
            try:
                return original(self, fn, *args, **kwargs)
            except BaseException as exc:
                leave_out(exc)
                raise
        future = module._base.Future()
        failure: BaseException | None = None
        with self._shutdown_lock, module._global_shutdown_lock:
            if not (self._broken or self._shutdown or module._shutdown):
                if resolved:
                    work_item = item(future, self._resolve_work_item_task(fn, args, kwargs))
                else:
                    work_item = item(future, fn, args, kwargs)
                try:
                    submitted = watch.clock()
                    future._poolscope_claim = (watch, function, submitted)
                    watch.arrivals.extend((function, submitted))
                except BaseException as exc:
                    withdraw(future)
                    if not is_ours(exc):
                        raise
                    failure = exc
                try:
                    self._work_queue.put(work_item)
                except BaseException:
                    withdraw(future)
                    raise
                if (
                    len(self._threads) < self._max_workers
                    or getattr(self._idle_semaphore, "_value", 1)
                    or type(self)._adjust_thread_count is not adjust
                ):
                    self._adjust_thread_count()
                if failure is None:
                    return future
        if failure is not None:
            # Now that the locks are free: a log handler of the program's may submit, too.
            watch.give_up(failure)
            self._poolscope = None
            # Break a reference cycle with the exception.
            failure = None
            return future
        try:
            return original(self, fn, *args, **kwargs)
        except BaseException as exc:
            if isinstance(exc, RuntimeError):
                watch.rejected()
            leave_out(exc)
            raise

    return submit


def _submit_around(state: _Patch, original: Callable[..., Any]) -> Callable[..., Any]:
    """Return our `submit` around that of another tool: the work item records the arrival."""
    submitting = SUBMITTING

    @functools.wraps(original)
    def submit(self: Any, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        # With a default: another thread may take the patch off at any point, and then let the original do it.
        watch: Any = getattr(self, "_poolscope", None) if state.active else None
        if not watch or not 0 < len(watch.arrivals) < UNREAD_LIMIT:
            watch = state.look_again(self, watch)
        task = None
        if watch is not None:
            try:
                task = (watch, watch.identify(fn, args))
            except Exception as exc:
                watch.give_up(exc)
                self._poolscope = None
        # Put back in the end: a finalizer may submit in between, on this thread, to this or another pool.
        outer = submitting.task, submitting.future
        submitting.task, submitting.future = task, None
        try:
            return original(self, fn, *args, **kwargs)
        except BaseException as exc:
            refused = isinstance(exc, RuntimeError)
            if submitting.future is None:  # no work item was made
                if refused and task is not None:
                    watch.rejected()
            elif not refused:  # else it is in the queue, and no thread could be started for it
                withdraw(submitting.future)
            leave_out(exc)
            raise
        finally:
            submitting.task, submitting.future = outer

    return submit


def _cancel(original: Callable[..., bool]) -> Callable[..., bool]:
    @functools.wraps(original)
    def cancel(self: Any) -> bool:
        claim = claim_of(self)
        if claim is None:
            cancelled = original(self)
            if not cancelled and self._state == "RUNNING":
                given_up.note(self)
            return cancelled
        at = claim[0].now()
        cancelled = original(self)
        if cancelled:
            settle(self, "cancelled", at)
        return cancelled

    return cancel


def _set_exception(original: Callable[..., None], broken: type[BaseException]) -> Callable[..., None]:
    @functools.wraps(original)
    def set_exception(self: Any, exception: Any) -> None:
        # The claim tells a task that never started from one that raised such an exception itself. Pools of interpreters
        # break by a class of their own, below the one of threads.
        if broken in _mro_of_type(type(exception)) and claim_of(self) is not None:
            with self._condition:
                if self._state == "PENDING":
                    # For a moment, so that a `cancel` between the record and the failure comes too late.
                    self._state = "RUNNING"
                    settle(self, "broken")
        try:
            original(self, exception)
        except BaseException as exc:
            leave_out(exc)
            raise

    return set_exception

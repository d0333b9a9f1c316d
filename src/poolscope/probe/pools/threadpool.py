"""The standard thread pool, patched in place, so that every executor of the process is seen.

What is replaced, and put back by `unpatch`: `ThreadPoolExecutor.__init__` and `.submit`, `Future.cancel` and
`.set_exception`; the class also gets an attribute that says "not opened yet" of its instances. Where another
tool has replaced `submit` before us, ours goes around theirs, and the name `_WorkItem` in
`concurrent.futures.thread` is replaced too, as the standard `submit` under it looks that up. The classes
themselves stay: names imported earlier, existing instances, subclasses and asyncio's `isinstance` check all
go on with the same ones. The user's callable is passed on as it is.

How a task is recorded exactly once. Under the locks of `submit`, after the refusals and before the enqueue,
the arrival is recorded and the future given a *claim*. Whoever takes the claim off records what became of the
task: the worker that starts it, the thread that cancels it, or the one that fails it because the pool is
broken. Deleting an attribute is one step with and without the GIL, so that only one of them gets it.

Work items made under the patch know how to record themselves, so tasks that are queued when the patch is
taken off are still recorded to their end.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import sys
import threading
from _thread import RLock, get_ident

from poolscope.probe.pools.patching import Patch
from poolscope.probe.pools.watching import (
    ADOPTERS,
    ATTRIBUTE,
    CLAIM,
    RUN_CODES,
    UNOPENED,
    UNREAD_LIMIT,
    Instances,
    automatic,
    own_log,
    report,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from poolscope.probe.pools.watching import Task, Watch


class _Submitting(threading.local):
    """What this thread is submitting, as (watch of the pool, function), until the work item is made."""

    task: tuple[Watch, int] | None = None


_submitting = _Submitting()
_instances = Instances()


class _Patch(Patch):
    """The patch of the standard thread pool. `everyone`: not only executors that were attached."""

    everyone = True

    def watch(self, executor: Any, made: bool = False) -> Watch | None:
        """Open the pool of `executor`: when it is made, or with its first task if it is older than this
        patch."""
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
        """The watch of `executor`, made unless it has one."""
        try:
            prefix = executor._thread_name_prefix
            return _instances.open(executor, self.find_probe, "" if automatic(prefix) else prefix, name)
        except Exception as exc:
            report(self.probe, exc)
            return None

    def look_again(self, executor: Any, watch: Any) -> Watch | None:
        """What to record a task with, where that is not plain: a pool not opened yet, or not to be watched,
        or one whose records are all fetched, or not at all."""
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

    Where the standard library is not the one we know (3.14 and later), nothing is patched and the probe gets
    a notice.
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
    """Record this executor from now on, whatever `unpatch` says."""
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
        module = importlib.import_module("concurrent.futures.thread")
    if not _familiar(module):
        version = sys.version.split()[0]
        probe.emit(("notice", f"thread pools are not watched: unknown to this version in Python {version}"))
        return None
    state = _Patch(probe)
    # An executor that outlives the patch keeps its watch, and is the same pool under the next one.
    if _last_probe is not probe:
        _instances.forget()
    _last_probe = probe
    executor, future = module.ThreadPoolExecutor, module._base.Future
    state.put(future, "cancel", _cancel(future.cancel))
    state.put(future, "set_exception", _set_exception(future.set_exception, module.BrokenThreadPool))
    item = _watched_item(module._WorkItem)
    # A class attribute, so that no `__getattr__` of a subclass is asked for that of an instance.
    state.put(executor, ATTRIBUTE, UNOPENED)
    submit = executor.submit
    if getattr(submit, "__globals__", None) is module.__dict__:
        state.put(executor, "submit", _submit(state, submit, module, item))
    else:
        state.put(module, "_WorkItem", _announcing(item))
        state.put(executor, "submit", _submit_around(state, submit))
    state.put(executor, "__init__", _init(state, executor.__init__))
    _current = state
    return state


def _familiar(module: Any) -> bool:
    try:
        item = module._WorkItem
        # Not the methods of the executor: other tools may have wrapped those, and we wrap them as they are.
        return list(inspect.signature(item).parameters) == ["future", "fn", "args", "kwargs"] and list(
            inspect.signature(item.run).parameters
        ) == ["self"]
    except (AttributeError, TypeError, ValueError):
        return False


def _init(state: _Patch, original: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(original)
    def __init__(self: Any, /, *args: Any, **kwargs: Any) -> None:  # noqa: N807 - shown in tracebacks
        original(self, *args, **kwargs)
        state.watch(self, made=True)

    return __init__


def _submit(state: _Patch, original: Callable[..., Any], module: Any, item: Any) -> Callable[..., Any]:
    """Ours in place of the standard `submit` as it is: the same steps, and the arrival among them.

    A call that is refused goes to the original, which says so. Where the original would find no idle worker
    and no room for another one, we do not have it look: that costs more than all that we record.
    """
    adjust = module.ThreadPoolExecutor._adjust_thread_count

    @functools.wraps(original)
    def submit(self: Any, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        # With a default: another thread may take the patch off at any point, and then let the original do it.
        watch = getattr(self, "_poolscope", None) if state.active else None
        if not watch or not 0 < len(watch.arrivals) < UNREAD_LIMIT:
            watch = state.look_again(self, watch)
            if watch is None:
                return original(self, fn, *args, **kwargs)
        try:
            function = watch.identify(fn, args)
        except Exception as exc:
            _give_up(self, watch, exc)
            watch = None
        if watch is None:  # not in the handler: an exception of the original's must not come with ours
            return original(self, fn, *args, **kwargs)
        future = module._base.Future()
        work_item = item(future, fn, args, kwargs)
        failure = None
        with self._shutdown_lock, module._global_shutdown_lock:
            if not (self._broken or self._shutdown or module._shutdown):
                try:
                    submitted = watch.clock()
                    future._poolscope_claim = (watch, function, submitted)
                    watch.arrivals.extend((function, submitted))
                except Exception as exc:
                    failure = exc
                    _take_claim(future)
                self._work_queue.put(work_item)
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
            _give_up(self, watch, failure)
            # Break a reference cycle with the exception.
            failure = None
            return future
        try:
            return original(self, fn, *args, **kwargs)
        except RuntimeError:
            watch.rejected()
            raise

    return submit


def _give_up(executor: Any, watch: Watch, exc: Exception) -> None:
    """Recording has failed: the pool is recorded no more."""
    executor._poolscope = None
    watch.give_up(exc)


def _submit_around(state: _Patch, original: Callable[..., Any]) -> Callable[..., Any]:
    """Ours around a `submit` that another tool has replaced: the arrival is recorded by the work item."""
    submitting = _submitting

    @functools.wraps(original)
    def submit(self: Any, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        # With a default: another thread may take the patch off at any point, and then let the original do it.
        watch = getattr(self, "_poolscope", None) if state.active else None
        if not watch or not 0 < len(watch.arrivals) < UNREAD_LIMIT:
            watch = state.look_again(self, watch)
            if watch is None:
                return original(self, fn, *args, **kwargs)
        try:
            task = (watch, watch.identify(fn, args))
        except Exception as exc:
            _give_up(self, watch, exc)
            task = None
        # Put back in the end: a finalizer may submit in between, on this thread, to this or another pool.
        outer = submitting.task
        submitting.task = task
        try:
            return original(self, fn, *args, **kwargs)
        except RuntimeError:
            if task is not None and submitting.task is task:  # no work item was made
                watch.rejected()
            raise
        finally:
            submitting.task = outer

    return submit


def _cancel(original: Callable[..., bool]) -> Callable[..., bool]:
    @functools.wraps(original)
    def cancel(self: Any) -> bool:
        claim = getattr(self, CLAIM, None)
        if claim is None:
            return original(self)
        try:
            at = claim[0].clock()
        except Exception as exc:
            claim[0].give_up(exc)
            _take_claim(self)
            at = 0
        cancelled = original(self)
        if cancelled:
            _record_cancelled(self, at)
        return cancelled

    return cancel


def _set_exception(original: Callable[..., None], broken: type[BaseException]) -> Callable[..., None]:
    @functools.wraps(original)
    def set_exception(self: Any, exception: Any) -> None:
        # The claim tells a task that never started from one that raised such an exception itself.
        if type(exception) is broken and getattr(self, CLAIM, None) is not None:
            with self._condition:
                if self._state == "PENDING":
                    # For a moment, so that a `cancel` between the record and the failure comes too late.
                    self._state = "RUNNING"
                    _record_broken(self)
        original(self, exception)

    return set_exception


def _take_claim(future: Any) -> Task | None:
    """The claim, for the one caller that gets it."""
    claim: Task | None = getattr(future, CLAIM, None)
    if claim is not None:
        try:
            del future._poolscope_claim
        except AttributeError:
            return None  # another thread was faster
    return claim


def _record_cancelled(future: Any, at: int | None = None) -> None:
    claim = _take_claim(future)
    if claim is not None:
        watch, function, submitted = claim
        try:
            watch.recorder.cancelled.extend((function, submitted, at or watch.clock()))
        except Exception as exc:
            watch.give_up(exc)


def _record_broken(future: Any) -> None:
    claim = _take_claim(future)
    if claim is not None:
        watch, function, submitted = claim
        watch.broke(function, submitted)


def _run_unrecorded(item: Any) -> None:
    try:
        result = item.fn(*item.args, **item.kwargs)
    except BaseException as exc:
        item.future.set_exception(exc)
        item = None
    else:
        item.future.set_result(result)


def _watched_item(original: Any) -> Any:
    """A work item that records its task, if its future carries a claim."""

    class _WorkItem(original):  # type: ignore[misc]  # the base is only known at run time
        @functools.wraps(original.run)
        def run(self) -> None:
            try:
                live = self.future.set_running_or_notify_cancel()
            except BaseException:
                # Somebody else has set the future of a queued task, and it will never run.
                _record_broken(self.future)
                raise
            if not live:
                _record_cancelled(self.future)  # unless the patched `cancel` has
                return
            claim = getattr(self.future, CLAIM, None)
            if claim is None:
                _run_unrecorded(self)
                return
            del self.future._poolscope_claim  # no other can take it now that the task runs
            # The traceback of the task's exception keeps this frame: no name in it but `self` may lead to the
            # task.
            watch, function, submitted = claim
            log = None
            try:
                log = watch.logs.get(get_ident()) or own_log(watch)
                clock = watch.clock
                outer = log.running
                started = clock()
                log.running = (function, submitted, started)
            except Exception as exc:
                watch.give_up(exc)
                log = None
            if log is None:  # not in the handler: the task's exception must not come with ours
                _run_unrecorded(self)
                return
            try:
                result = self.fn(*self.args, **self.kwargs)
            except BaseException as exc:
                try:
                    log.finished.extend((log.worker, function * 2 + 1, submitted, started, clock()))
                except Exception as failure:
                    watch.give_up(failure)
                log.running = outer
                self.future.set_exception(exc)
                # Break a reference cycle with the exception.
                self = None  # type: ignore[assignment]  # the name is of no more use, as in the standard one
            else:
                try:
                    log.finished.extend((log.worker, function * 2, submitted, started, clock()))
                except Exception as failure:
                    watch.give_up(failure)
                log.running = outer
                self.future.set_result(result)

    RUN_CODES.add(_WorkItem.__dict__["run"].__code__)
    _WorkItem.__module__ = original.__module__
    _WorkItem.__qualname__ = original.__qualname__
    return _WorkItem


def _announcing(item: Any) -> Any:
    """The same, recording the arrival when it is made by a `submit` that is not ours."""
    submitting = _submitting

    class _WorkItem(item):  # type: ignore[misc]  # likewise
        def __init__(self, future, fn, args, kwargs):  # type: ignore[no-untyped-def]  # shown like the original's
            item.__init__(self, future, fn, args, kwargs)
            task = submitting.task
            if task is not None:
                submitting.task = None
                watch, function = task
                try:
                    submitted = watch.clock()
                    future._poolscope_claim = (watch, function, submitted)
                    watch.arrivals.extend((function, submitted))
                except Exception as exc:
                    watch.give_up(exc)
                    _take_claim(future)

    _WorkItem.__module__ = item.__module__
    _WorkItem.__qualname__ = item.__qualname__
    return _WorkItem

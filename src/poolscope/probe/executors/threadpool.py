"""The standard thread pool, patched in place, so that every executor of the process is seen.

What is replaced, and put back by `unpatch`: `ThreadPoolExecutor.__init__` and `.submit`, `Future.cancel` and
`.set_exception`; the class also gets an attribute that says "not opened yet" of its instances. Where another
tool has replaced `submit` before us, ours goes around theirs, and the name `_WorkItem` in
`concurrent.futures.thread` is replaced too, as the standard `submit` under it looks that up. The classes
themselves stay: names imported earlier, existing instances, subclasses and asyncio's `isinstance` check all
go on with the same ones. The user's callable is passed on as it is.

How a task is recorded exactly once. Under the locks of `submit`, after the refusals and before the enqueue,
the arrival is recorded and the future given a *claim*. The thread that takes the claim off records what became of the
task: the worker that starts it, the thread that cancels it, or the one that fails it because the pool is
broken. Deleting an attribute is one step with and without the GIL, so that only one of them gets it. It is looked
for in the future itself alone, as a class of the program's may answer for anything else.

Work items made under the patch know how to record themselves, so tasks that are queued when the patch is
taken off are still recorded to their end.
"""

from __future__ import annotations

import functools
import operator
import sys
import threading
from _thread import RLock, get_ident

from poolscope.probe.executors.patching import Patch
from poolscope.probe.interpreter import shapes
from poolscope.probe.interpreter.blame import is_ours
from poolscope.probe.recording import given_up
from poolscope.probe.recording.pool_watch import (
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
from poolscope.probe.recording.results import watch_takers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from poolscope.probe.recording.pool_watch import Task, Watch


class _Submitting(threading.local):
    """What this thread is submitting, as (watch of the pool, function), until the work item is made; then its
    future."""

    task: tuple[Watch, int] | None = None
    future: Any = None


def _kind(executor: Any) -> str:
    """Of threads, or of interpreters that a thread each runs: their executor is a thread pool's subclass."""
    module = sys.modules.get("concurrent.futures.interpreter")
    cls = getattr(module, "InterpreterPoolExecutor", None)
    return "interpreter" if cls is not None and cls in _mro_of_type(type(executor)) else "thread"


_mro_of_type: Callable[[type], tuple[type, ...]] = type.__dict__["__mro__"].__get__
_submitting = _Submitting()
_instances = Instances(_kind)


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
        """Return the watch of `executor`, made unless it has one."""
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
    item = _watched_item(module._WorkItem, shape, *_future_steps(module._base))
    # A class attribute, so that no `__getattr__` of a subclass is asked for that of an instance.
    state.put(executor, ATTRIBUTE, UNOPENED)
    submit = executor.submit
    if getattr(submit, "__globals__", None) is module.__dict__:
        state.put(executor, "submit", _submit(state, submit, module, item, shape))
    else:
        state.put(module, "_WorkItem", _announcing(item))
        state.put(executor, "submit", _submit_around(state, submit))
    state.put(executor, "__init__", _init(state, executor.__init__))
    watch_takers(state, module._base)
    _current = state
    return state


def _init(state: _Patch, original: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(original)
    def __init__(self: Any, /, *args: Any, **kwargs: Any) -> None:  # noqa: N807 - shown in tracebacks
        original(self, *args, **kwargs)
        state.watch(self, made=True)

    return __init__


def _submit(state: _Patch, original: Callable[..., Any], module: Any, item: Any, shape: str) -> Callable[..., Any]:
    """Ours in place of the standard `submit` as it is: the same steps, and the arrival among them.

    A call that is refused goes to the original, which says so. Where the original would find no idle worker
    and no room for another one, we do not have it look: that costs more than all that we record.
    """
    adjust = module.ThreadPoolExecutor._adjust_thread_count
    resolved = shape == shapes.CONTEXT

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
            watch.give_up(exc)
            self._poolscope = None
            watch = None
        if watch is None:  # not in the handler: an exception of the original's must not come with ours
            return original(self, fn, *args, **kwargs)
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
                    _withdraw(future)
                    if not is_ours(exc):
                        raise
                    failure = exc
                try:
                    self._work_queue.put(work_item)
                except BaseException:
                    _withdraw(future)
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
        except RuntimeError:
            watch.rejected()
            raise

    return submit


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
            watch.give_up(exc)
            self._poolscope = None
            task = None
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
                _withdraw(submitting.future)
            raise
        finally:
            submitting.task, submitting.future = outer

    return submit


def _cancel(original: Callable[..., bool]) -> Callable[..., bool]:
    @functools.wraps(original)
    def cancel(self: Any) -> bool:
        claim = _claim_of(self)
        if claim is None:
            cancelled = original(self)
            if not cancelled and self._state == "RUNNING":
                given_up.note(self)
            return cancelled
        at = claim[0].now()
        cancelled = original(self)
        if cancelled:
            _settle(self, "cancelled", at)
        return cancelled

    return cancel


def _set_exception(original: Callable[..., None], broken: type[BaseException]) -> Callable[..., None]:
    @functools.wraps(original)
    def set_exception(self: Any, exception: Any) -> None:
        # The claim tells a task that never started from one that raised such an exception itself. Pools of interpreters
        # break by a class of their own, below the one of threads.
        if broken in _mro_of_type(type(exception)) and _claim_of(self) is not None:
            with self._condition:
                if self._state == "PENDING":
                    # For a moment, so that a `cancel` between the record and the failure comes too late.
                    self._state = "RUNNING"
                    _settle(self, "broken")
        original(self, exception)

    return set_exception


def _claim_of(future: Any) -> Task | None:
    """Return the claim that a future carries, asked for past what a class of the program's answers. Its dictionary is
    not asked for: it would have to be made."""
    try:
        claim: Task = _attribute(future, CLAIM)
    except AttributeError:
        return None
    return claim


_attribute = object.__getattribute__


def _settle(future: Any, becomes: str, at: int = 0) -> None:
    """Take the claim off a future, and record what became of its task in that list of the recorder: "cancelled",
    "broken" or "withdrawn". Does nothing if another thread was faster."""
    claim = _claim_of(future)
    if claim is None:
        return
    watch, function, submitted = claim
    records = getattr(watch.recorder, becomes)
    record = (function, submitted) if becomes == "withdrawn" else (function, submitted, at or watch.now())
    try:
        del future._poolscope_claim
        records.extend(record)
    except AttributeError:
        pass  # taken in between
    except Exception as exc:
        watch.give_up(exc)


def _withdraw(future: Any) -> None:
    """Take the record of a submission back that raised. If the queue has got the task all the same, it runs unrecorded,
    unless it has started by now."""
    _settle(future, "withdrawn")


def _future_steps(base: Any) -> tuple[Callable[[Any], bool], Callable[[Any, Any], None]]:
    """Return what makes a standard future a running one (False: it was cancelled), and what gives it its result.

    Where nothing waits for the future, these are the steps of the standard methods without the calls that find that
    out: a fifth of what the standard pool costs. A future of another class, and one whose methods another tool has
    replaced, takes the methods.
    """
    kind = base.Future
    set_running, set_result = kind.set_running_or_notify_cancel, kind.set_result
    pending, running, finished = base.PENDING, base.RUNNING, base.FINISHED

    def start(future: Any) -> bool:
        if type(future) is kind and kind.set_running_or_notify_cancel is set_running:
            with future._condition._lock:
                if future._state == pending:
                    future._state = running
                    return True
        live: bool = future.set_running_or_notify_cancel()
        return live

    def succeed(future: Any, result: Any) -> None:
        if type(future) is kind and kind.set_result is set_result:
            condition = future._condition
            with condition._lock:
                alone = future._state == running and not (future._waiters or condition._waiters)
                if alone:
                    future._result = result
                    future._state = finished
            if alone:
                if future._done_callbacks:
                    future._invoke_callbacks()
                return
        future.set_result(result)

    try:
        shapes.future_steps(base, threading)
    except shapes.Unfamiliar:
        return operator.methodcaller("set_running_or_notify_cancel"), lambda future, result: future.set_result(result)
    return start, succeed


def _watched_item(original: Any, shape: str, start: Callable[[Any], bool], succeed: Callable[[Any, Any], None]) -> Any:
    """Return a work item that records its task, if its future carries a claim."""
    resolved = shape == shapes.CONTEXT

    class _WorkItem(original):  # type: ignore[misc]  # the base is only known at run time
        @functools.wraps(original.run)
        def run(self, ctx=None) -> None:  # type: ignore[no-untyped-def]  # shown like the original's
            # The traceback of the task's exception keeps this frame: no name in it but `self` may lead to the task.
            try:
                live = start(self.future)
            except BaseException:
                # Other code has set the future of a queued task, and it will never run.
                _settle(self.future, "broken")
                raise
            if not live:
                _settle(self.future, "cancelled")  # unless the patched `cancel` has
                return
            watch: Any = None
            log: Any = None
            outer = None
            try:
                watch, function, submitted = _attribute(self.future, CLAIM)
                log = watch.logs.get(get_ident()) or own_log(watch)
                outer = log.running
                started = watch.clock()
                del self.future._poolscope_claim  # no other can take it, now that the task runs
                log.running = (function, submitted, started)
            except BaseException as exc:
                if log is not None:
                    log.running = outer
                if watch is not None:
                    _settle(self.future, "broken")
                    watch.give_up(exc)
                elif type(exc) is not AttributeError:  # else it has no claim
                    raise
                watch = None
            try:
                result = ctx.run(self.task) if resolved else self.fn(*self.args, **self.kwargs)
            except BaseException as exc:
                if watch is not None:
                    watch.end((log, function, submitted, started, outer), 1)
                self.future.set_exception(exc)
                # Break a reference cycle with the exception.
                self = None  # type: ignore[assignment]  # the name is of no more use, as in the standard one
            else:
                if watch is not None:
                    # As `watch.end` does it, which would be a call for each task.
                    ended = 0
                    try:
                        ended = watch.clock()
                        log.finished.extend((log.worker, function * 2, submitted, started, ended))
                        log.running = outer
                    except BaseException as failure:
                        if not ended:
                            log.finished.extend((log.worker, function * 2, submitted, started, started))
                        log.running = outer
                        watch.give_up(failure)
                succeed(self.future, result)

    _WorkItem.__module__ = original.__module__
    _WorkItem.__qualname__ = original.__qualname__
    RUN_CODES.add(_WorkItem.__dict__["run"].__code__)
    return _WorkItem


def _announcing(item: Any) -> Any:
    """Return the same, recording the arrival when it is made by a `submit` that is not ours."""
    submitting = _submitting

    class _WorkItem(item):  # type: ignore[misc]  # likewise
        def __init__(self, future, *task):  # type: ignore[no-untyped-def]  # its parameters depend on the interpreter
            item.__init__(self, future, *task)
            announced = submitting.task
            if announced is not None:
                submitting.task = None
                watch, function = announced
                try:
                    submitted = watch.clock()
                    future._poolscope_claim = (watch, function, submitted)
                    watch.arrivals.extend((function, submitted))
                    submitting.future = future
                except BaseException as exc:
                    _withdraw(future)
                    watch.give_up(exc)

    # It is asked for what it takes, see `shapes`.
    _WorkItem.__init__.__wrapped__ = item.__init__  # type: ignore[attr-defined]
    _WorkItem.__module__ = item.__module__
    _WorkItem.__qualname__ = item.__qualname__
    return _WorkItem

"""The work items of a patched thread pool, and how each task is recorded exactly once.

Under the locks of `submit`, after the refusals and before the enqueue, the arrival is recorded and the future given a
*claim*. The thread that takes the claim off records what became of the task: the worker that starts it, the thread that
cancels it, or the one that fails it because the pool is broken. Deleting an attribute is one step with and without the
GIL, so that only one of them gets it. It is looked for in the future itself alone, as a class of the program's may
answer for anything else.

Work items made under the patch know how to record themselves, so tasks that are queued when the patch is taken off are
still recorded to their end.
"""

from __future__ import annotations

import functools
import operator
import threading
from _thread import get_ident

from poolscope.probe.executors.as_standard import AsStandard
from poolscope.probe.interpreter import shapes
from poolscope.probe.recording.pool_watch import CLAIM, RUN_CODES, own_log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from poolscope.probe.recording.pool_watch import Task, Watch


class _Submitting(threading.local):
    """What this thread is submitting: (watch of the pool, function) until the work item exists, then its future."""

    task: tuple[Watch, int] | None = None
    future: Any = None


SUBMITTING = _Submitting()
_attribute = object.__getattribute__


def claim_of(future: Any) -> Task | None:
    """Return the claim that a future carries, asked for past what a class of the program's answers. Its dictionary is
    not asked for: it would have to be made."""
    try:
        claim: Task = _attribute(future, CLAIM)
    except AttributeError:
        return None
    return claim


def settle(future: Any, becomes: str, at: int = 0) -> None:
    """Take the claim off a future, and record what became of its task in that list of the recorder: "cancelled",
    "broken" or "withdrawn". Does nothing if another thread was faster."""
    claim = claim_of(future)
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


def withdraw(future: Any) -> None:
    """Take back the record of a submission that raised. If the task is in the queue all the same, it runs unrecorded,
    unless it has started already."""
    settle(future, "withdrawn")


def future_steps(base: Any) -> tuple[Callable[[Any], bool], Callable[[Any, Any], None]]:
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


def watched_item(module: Any, shape: str) -> Any:
    """Return a work item for the standard executor of `module` that records its task, if its future carries a claim."""
    original: Any = module._WorkItem
    start, succeed = future_steps(module._base)
    resolved = shape == shapes.CONTEXT
    standard = AsStandard(module, shape)
    retell = standard.retell

    class _WorkItem(original):  # type: ignore[misc]  # the base is only known at run time
        @functools.wraps(original.run)
        def run(self, ctx=None) -> None:  # type: ignore[no-untyped-def]  # shown like the original's
            try:
                live = start(self.future)
            except BaseException:
                # Other code has set the future of a queued task, and it will never run.
                settle(self.future, "broken")
                raise
            if not live:
                settle(self.future, "cancelled")  # unless the patched `cancel` has
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
                    settle(self.future, "broken")
                    watch.give_up(exc)
                elif type(exc) is not AttributeError:  # else it has no claim
                    raise
                watch = None
            try:
                result = ctx.run(self.task) if resolved else self.fn(*self.args, **self.kwargs)
            except BaseException as exc:
                if watch is not None:
                    watch.end((log, function, submitted, started, outer), 1)
                retell(exc)
                self.future.set_exception(exc)
                # Break a reference cycle with the exception, whose frames come to be called by this one.
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
    run = _WorkItem.__dict__["run"]
    standard.place(run)
    RUN_CODES.add(run.__code__)
    return _WorkItem


def announcing(item: Any) -> Any:
    """Return the same, recording the arrival when it is made by a `submit` that is not ours."""
    submitting = SUBMITTING

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
                    withdraw(future)
                    watch.give_up(exc)

    # It is asked for what it takes, see `shapes`.
    _WorkItem.__init__.__wrapped__ = item.__init__  # type: ignore[attr-defined]
    _WorkItem.__module__ = item.__module__
    _WorkItem.__qualname__ = item.__qualname__
    return _WorkItem

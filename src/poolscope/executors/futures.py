"""The future of the drop-in thread pool: it is its own work item, and makes a condition only for a thread that waits.

The standard executor makes three objects for a task, and the dearest is the condition of the future, which most
futures never need: no thread blocks on them before they are done. Here one slotted object is future and work item.

Which threads may change `_state`, and what makes that safe:

- While the future has no condition, the thread that holds `_lock` owns the state. None can be waiting then.
- A condition is made under `_lock`, and stays. From then on the thread that holds the condition owns the state, as in
  the standard future, and its methods do the rest. `wait`, `as_completed`, asyncio and all else that reaches into a
  future find `_condition`, `_waiters`, `_done_callbacks` and `_state` as they are used to.
- So a step takes the one or the other, and then looks again which it should be: `_start`, `_succeed` and
  `add_done_callback` do. If a condition came in between, they leave it to the standard methods.
- `_lock` is one of a few that all futures share. While one is held, no code runs but what stands here and no other
  lock is asked for. They are reentrant, as a finalizer or a signal handler that comes in between may use a future too.
- The outcome is set before the state says FINISHED, and neither changes after that: a thread that reads FINISHED needs
  no lock for the rest. With and without the GIL: these are attributes in slots, read and written as a whole.

A lock is acquired inside `try`, not by `with`, which costs three times as much: so it is released even if another
thread raises an exception in this one, or a signal handler does, right after it was acquired.

A task is recorded once: the thread that takes its future out of PENDING also takes `_watch` off it, and records what
became of the task (`poolscope.probe.recording.recorder`).
"""

from __future__ import annotations

import os
import threading
from _thread import RLock
from concurrent.futures import _base
from concurrent.futures import thread as _thread

from poolscope.probe.executors.as_standard import AsStandard
from poolscope.probe.interpreter import shapes
from poolscope.probe.interpreter.blame import is_ours
from poolscope.probe.interpreter.tracebacks import leave_out
from poolscope.probe.recording import given_up
from poolscope.probe.recording.pool_watch import FUTURES, RUN_CODES
from poolscope.probe.recording.recorder import WorkerLog

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from poolscope.probe.recording.pool_watch import Task, Watch

    StandardFuture = _base.Future[Any]
else:
    StandardFuture = _base.Future


_as_standard = AsStandard(_thread, shapes.known_thread_pool(_thread), direct=True)
_retell = _as_standard.retell

PENDING, RUNNING, FINISHED = _base.PENDING, _base.RUNNING, _base.FINISHED
_CANCELLED = (_base.CANCELLED, _base.CANCELLED_AND_NOTIFIED)
_DONE = (*_CANCELLED, FINISHED)

#: In the place of the keywords: `args` is the task as the executor's own `prepare_context` has resolved it, and only a
#: worker's context can run it (3.14 and later).
RESOLVED: dict[str, Any] = {"": "resolved"}

#: So many that two threads hardly ever meet at one; a lock of its own would cost each future more than all its slots.
_LOCKS = tuple(RLock() for _ in range(64))


def _forked() -> None:
    # A thread that is not in the child may have held some.
    for lock in _LOCKS:
        lock._at_fork_reinit()  # type: ignore[attr-defined]  # missing in typeshed


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


class _Condition(RLock):  # type: ignore[misc]  # final in typeshed only
    """The code of `threading.Condition` over a lock that is the condition itself: a fraction of the cost to make.

    As there, all is guarded by the lock.
    """

    __slots__ = ("future_waiters", "threads")

    #: What `wait` and `as_completed` left at the future; None: nothing yet.
    future_waiters: list[Any] | None
    #: Locks of the threads that wait; None: there was none yet.
    threads: list[Any] | None

    @property
    def _waiters(self) -> list[Any]:
        # The name that the borrowed code knows.
        if self.threads is None:
            self.threads = []
        return self.threads

    wait: Any = threading.Condition.wait
    wait_for: Any = threading.Condition.wait_for
    notify: Any = threading.Condition.notify
    notify_all: Any = threading.Condition.notify_all


class Future(StandardFuture):  # noqa: D101 - the standard docstring, below
    __slots__ = (
        "_callbacks",
        "_exception",
        "_function",
        "_kwargs",
        "_lock",
        "_made",
        "_result",
        "_state",
        "_submitted",
        "_watch",
        "args",
        "fn",
    )

    #: The number of the function and the time of submission, as the recorder knows them; set while `_watch` is.
    _function: int
    _submitted: int

    def __init__(self, fn: Any = None, args: Any = (), kwargs: dict[str, Any] | None = None) -> None:
        # Objects lie 16 bytes apart at least, and those of this size 64 or more.
        self._lock = _LOCKS[id(self) >> 6 & 63]
        self.fn: Any = fn
        self.args: Any = args
        self._kwargs = kwargs or None  # an empty dict for each queued task would be a third of its memory
        self._state = PENDING
        self._result = self._exception = None
        self._made: _Condition | None = None
        self._callbacks: list[Any] | None = None
        #: Where the task is still to be recorded; None: nowhere.
        self._watch: Watch | None = None

    # -- what others reach for -----------------------------------------------------------------------------

    @property
    def _condition(self) -> _Condition:  # type: ignore[override]  # an attribute there, of a type with the same methods
        made = self._made
        if made is None:
            lock = self._lock
            try:
                lock.acquire()
                made = self._made
                if made is None:
                    made = _Condition()
                    made.future_waiters = made.threads = None
                    self._made = made
            finally:
                lock.release()
        return made

    @property
    def _waiters(self) -> list[Any]:  # type: ignore[override]  # an attribute there
        condition = self._condition
        if condition.future_waiters is None:
            condition.future_waiters = []
        return condition.future_waiters

    @property
    def _done_callbacks(self) -> list[Any]:
        if self._callbacks is None:
            with self._lock:
                if self._callbacks is None:
                    self._callbacks = []
        return self._callbacks

    # -- the standard methods, without a lock where the answer is final ------------------------------------

    def cancel(self) -> bool:
        if self._state == FINISHED:
            return False  # `map` cancels each future that it has the result of
        with self._condition:
            if self._state in (RUNNING, FINISHED):
                if self._state == RUNNING:
                    given_up.note(self)
                return False
            if self._state in _CANCELLED:
                return True
            watch = self._watch
            at = 0 if watch is None else watch.now()
            self._state = _base.CANCELLED
            self._watch = None
            if watch is not None:
                # Before it can be seen; and at once, for an exception that comes in between (`blame`).
                watch.recorder.cancelled.extend((self._function, self._submitted, at))
            self._condition.notify_all()
        self._invoke_callbacks()  # type: ignore[attr-defined]  # typeshed leaves it out
        return True

    def cancelled(self) -> bool:
        return self._state in _CANCELLED

    def running(self) -> bool:
        return self._state == RUNNING

    def done(self) -> bool:
        return self._state in _DONE

    def add_done_callback(self, fn: Callable[[_base.Future[Any]], object]) -> None:
        lock = self._lock
        try:
            lock.acquire()
            added = self._made is None and self._state in (PENDING, RUNNING)
            if added:
                if self._callbacks is None:
                    self._callbacks = [fn]
                else:
                    self._callbacks.append(fn)
        finally:
            lock.release()
        if not added:
            super().add_done_callback(fn)

    def result(self, timeout: float | None = None) -> Any:
        if self._state == FINISHED and self._exception is None:
            return self._result
        try:
            return super().result(timeout)
        except BaseException as exc:
            # A bare `raise` adds no line for this frame: the traceback is that of the standard future. So below.
            leave_out(exc)
            raise
        finally:
            # Break a reference cycle with the exception.
            self = None  # type: ignore[assignment]  # the name is of no more use

    def exception(self, timeout: float | None = None) -> BaseException | None:
        if self._state == FINISHED:
            return self._exception
        try:
            return super().exception(timeout)
        except BaseException as exc:
            leave_out(exc)
            raise

    # -- the work item -------------------------------------------------------------------------------------

    @property
    def future(self) -> Future:
        """Itself: code that takes a work item out of the queue asks it for its future."""
        return self

    @property
    def kwargs(self) -> dict[str, Any]:
        """The keywords of the task, which a queue of the program's may read or change."""
        if self._kwargs is None:
            self._kwargs = {}
        return self._kwargs

    @property
    def task(self) -> Any:
        """The same task as the work items of newer interpreters hold it."""
        return self.args if self._kwargs is RESOLVED else (self.fn, self.args, self.kwargs)

    def run(self, log: Any = None, context: Any = None) -> None:
        """Run the task unless it was cancelled. Code that takes it out of the queue calls this, once.

        `log` is the calling worker's in the pool, and `context` its context, where the executor has contexts of its own
        (see `RESOLVED`). A thread that is no worker of ours passes neither, or the context alone, as newer interpreters
        have it.
        """
        if not self._start():
            return
        if type(log) is not WorkerLog:
            log, context = None, log
        watch = self._watch
        if watch is not None:
            outer = None
            try:
                if log is None:
                    log = watch.own_log()
                outer = log.running
                function, submitted, clock = self._function, self._submitted, watch.clock
                started = clock()
                self._watch = None
                log.running = (function, submitted, started)
            except BaseException as exc:
                if log is not None:
                    log.running = outer
                self._record_unstarted()
                watch.give_up(exc)
                watch = None
        try:
            if self._kwargs is None:
                result = self.fn(*self.args)
            elif self._kwargs is RESOLVED:
                result = context.run(self.args)
            else:
                result = self.fn(*self.args, **self._kwargs)
        except BaseException as exc:
            if watch is not None:
                watch.end((log, function, submitted, started, outer), 1)
            _retell(exc, resolved=self._kwargs is RESOLVED)
            self.set_exception(exc)
            self._release()
            # Break a reference cycle with the exception, whose frames come to be called by this one.
            self = None  # type: ignore[assignment]  # as in the standard work item
        else:
            if watch is not None:
                # As `watch.end` does it, which would be a call for each task.
                ended = 0
                try:
                    ended = clock()
                    log.finished.extend((log.worker, function * 2, submitted, started, ended))
                    log.running = outer
                except BaseException as failure:
                    if not ended:
                        log.finished.extend((log.worker, function * 2, submitted, started, started))
                    log.running = outer
                    watch.give_up(failure)
            self._succeed(result)
            self._release()

    def _start(self) -> bool:
        """From PENDING to RUNNING; False if the task was cancelled before."""
        guard = self._made or self._lock
        try:
            guard.acquire()
            live = self._state == PENDING and (self._made is None or self._made is guard)
            if live:
                self._state = RUNNING
        finally:
            guard.release()
        if live:
            return True
        try:
            live = self.set_running_or_notify_cancel()
        except BaseException:
            # Other code has set the future of a queued task, and it will never run.
            self._record_unstarted()
            raise
        if not live:
            self._release()
        return live

    def _succeed(self, result: Any) -> None:
        guard = self._made or self._lock
        try:
            guard.acquire()
            made = self._made
            done = self._state == RUNNING and (made is None or made is guard)
            if done:
                self._result = result
                self._state = FINISHED
                if made is not None:
                    for waiter in made.future_waiters or ():
                        waiter.add_result(self)
                    if made.threads:
                        made.notify_all()
        finally:
            guard.release()
        if not done:
            self.set_result(result)
        elif self._callbacks is not None:
            self._invoke_callbacks()  # type: ignore[attr-defined]  # typeshed leaves it out

    def _release(self) -> None:
        """Let go of what the task was given: the program may keep the future for long."""
        self.fn = self.args = self._kwargs = None

    def cancel_unqueued(self) -> None:
        """Cancel the task of an item that is out of the queue for good."""
        self.cancel()
        self._release()

    # -- tasks that never start ----------------------------------------------------------------------------

    def withdraw(self) -> bool:
        """Take back a task that the executor is not going to run after all. False: too late, it has left PENDING."""
        with self._condition:
            if self._state != PENDING:
                return False
            self._state = _base.CANCELLED
            watch, self._watch = self._watch, None
            if watch is not None:
                watch.withdrawn(self._function, self._submitted)
        self._release()
        return True

    def unrecord(self) -> None:
        """Take the record of a submission back that raised. If the queue has got the task all the same, it runs
        unrecorded, unless it has started by now."""
        with self._condition:
            watch = None
            if self._state == PENDING:
                watch, self._watch = self._watch, None
        if watch is not None:
            watch.withdrawn(self._function, self._submitted)

    def fail_unstarted(self, exc: BaseException) -> None:
        """Fail the task without a start, unless it was cancelled or its future was set by other code."""
        try:
            # Running for a moment, so that a `cancel` between the record and the failure comes too late.
            live = self.set_running_or_notify_cancel()
        except Exception as failure:
            self._record_unstarted()
            if not is_ours(failure):
                raise
            return
        if live:
            self._record_unstarted()
            self.set_exception(exc)
        self._release()

    def _record_unstarted(self) -> None:
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.broke(self._function, self._submitted)


def _unstarted(future: Future) -> Task | None:
    """Return the task of a future that has not started and is recorded."""
    watch = future._watch
    return None if watch is None else (watch, future._function, future._submitted)


_as_standard.place(Future.run)
RUN_CODES.add(Future.run.__code__)
FUTURES[Future] = _unstarted
Future.__doc__ = _base.Future.__doc__
for _method in (Future.cancel, Future.cancelled, Future.running, Future.done, Future.result, Future.exception):
    _method.__doc__ = getattr(_base.Future, _method.__name__).__doc__
Future.add_done_callback.__doc__ = _base.Future.add_done_callback.__doc__

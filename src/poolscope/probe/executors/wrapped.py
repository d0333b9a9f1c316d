"""A task that goes through a library's queue inside of one of ours, which records it."""

from __future__ import annotations

from _thread import get_ident

from poolscope.probe.interpreter.tracebacks import leave_out, unseen
from poolscope.probe.recording.pool_watch import own_log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from poolscope.probe.recording.pool_watch import Watch
    from poolscope.probe.recording.recorder import WorkerLog


class WrappedTask:
    """One submitted task, from its arrival on. One thread calls `begin` and then `end`, or no thread does.

    Neither raises: a failure of ours ends the recording of the pool.
    """

    __slots__ = ("function", "started", "submitted", "watch")

    def __init__(self, watch: Watch, function: int, submitted: int) -> None:
        self.watch = watch
        self.function = function
        self.submitted = submitted

    def begin(self) -> WorkerLog | None:
        """Start the task in the calling thread; return where that is recorded."""
        watch = self.watch
        log = None
        try:
            log = watch.logs.get(get_ident()) or own_log(watch)
            self.started = watch.clock()
            log.running = (self.function, self.submitted, self.started)
            return log
        except BaseException as exc:
            if log is not None:
                log.running = None
            watch.broke(self.function, self.submitted)
            watch.give_up(exc)
            return None

    def end(self, log: WorkerLog | None, failed: int) -> None:
        """Note that the task is over: `log` is what `begin` returned, `failed` 1 if it raised and 0 if not."""
        if log is not None:
            self.watch.end((log, self.function, self.submitted, self.started, None), failed)


class WrappedCall(WrappedTask):
    """Stands in for one function. A thread of the pool calls it once, or none does."""

    __slots__ = ("_fn",)

    def __init__(self, fn: Callable[..., Any], watch: Watch, function: int, submitted: int) -> None:
        self.watch, self.function, self.submitted = watch, function, submitted  # without another call
        self._fn = fn

    def __repr__(self) -> str:
        return repr(self._fn)  # it may be logged

    @unseen
    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """Run the function."""
        log = self.begin()
        try:
            result = self._fn(*args, **kwargs)
        except BaseException as exc:
            self.end(log, 1)
            # A bare `raise` adds no line for this frame: the traceback is the one of a call without us.
            leave_out(exc)
            raise
        self.end(log, 0)
        return result

"""A task that goes through a library's queue inside of one of ours, which records it."""

from __future__ import annotations

from _thread import get_ident

from poolscope.probe.recording.pool_watch import own_log

TYPE_CHECKING = False
if TYPE_CHECKING:
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

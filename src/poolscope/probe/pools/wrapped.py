"""A task that goes through a queue of somebody else's inside of one of ours, which records it."""

from __future__ import annotations

from _thread import get_ident

from poolscope.probe.pools.watching import own_log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from poolscope.probe.pools.recording import WorkerLog
    from poolscope.probe.pools.watching import Watch


class WrappedTask:
    """One submitted task, from its arrival on. One thread calls `begin` and then `end`, or none does.

    Neither raises: a failure of ours ends the recording of the pool.
    """

    __slots__ = ("function", "started", "submitted", "watch")

    def __init__(self, watch: Watch, function: int, submitted: int) -> None:
        self.watch = watch
        self.function = function
        self.submitted = submitted

    def begin(self) -> WorkerLog | None:
        """The calling thread starts the task: returns where that is recorded."""
        watch = self.watch
        try:
            log = watch.logs.get(get_ident()) or own_log(watch)
            self.started = watch.clock()
            log.running = (self.function, self.submitted, self.started)
            return log
        except Exception as exc:
            watch.give_up(exc)
            return None

    def end(self, log: WorkerLog | None, failed: int) -> None:
        """The task is over: `log` is what `begin` returned, `failed` 1 if it raised and 0 if not."""
        if log is None:
            return
        try:
            now = self.watch.clock()
            log.finished.extend((log.worker, self.function * 2 + failed, self.submitted, self.started, now))
            log.running = None
        except Exception as exc:
            self.watch.give_up(exc)

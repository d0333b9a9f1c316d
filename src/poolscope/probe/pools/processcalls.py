"""The calls of one process pool: when each arrived, in which worker it ran, and how it ended.

How a call is recorded exactly once: it is in `Calls.tasks` from its arrival on, and whoever takes it out of there,
which is one step with and without the GIL, records its end. What a worker did is written only by the thread that
manages the pool, or under the lock of `_Guess`.

Processes that were there before we were stamp nothing. Their calls leave the pipe in the order in which they
entered it, so with n processes the n oldest are taken to run (`_Guess`).
"""

from __future__ import annotations

import os
import sys
from _thread import RLock
from functools import partial
from itertools import islice

from poolscope.probe.pools import processchild
from poolscope.probe.pools.seats import Seats, Worker
from poolscope.probe.pools.watching import UNREAD_LIMIT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from poolscope.probe.pools.recording import WorkerLog
    from poolscope.probe.pools.seats import Seat, Task
    from poolscope.probe.pools.watching import Watch


class _Guess:
    """Who runs what where no worker tells: the oldest calls do, as many as there are workers.

    Any thread may call `begin` and `end`.
    """

    def __init__(self, calls: Calls, present: list[int]) -> None:
        self._calls = calls
        # Work ids in order, and those of calls that are not ours, which take up workers all the same.
        self._waiting = dict.fromkeys(present)
        self._busy: dict[int, WorkerLog] = {}
        self._idle: list[WorkerLog] = []
        self._lock = RLock()
        self._go_on()

    def begin(self, work_id: int) -> None:
        """A call has arrived."""
        with self._lock:
            self._waiting[work_id] = None
            self._go_on()

    def end(self, work_id: int, task: Task | None, failed: bool) -> None:
        """A call has come back from a worker."""
        with self._lock:
            self._record(work_id, task, failed)
            self._go_on()

    def drop(self, work_id: int) -> bool:
        """A call ends without a result. Returns whether it was taken to run, and so has failed."""
        with self._lock:
            self._waiting.pop(work_id, None)
            if work_id not in self._busy:
                return False
            # Nothing takes its place: if this worker was killed, so are the others.
            self._record(work_id, self._calls.tasks.pop(work_id, None), True)
            return True

    def _record(self, work_id: int, task: Task | None, failed: bool) -> None:
        log = self._busy.pop(work_id, None)
        now = self._calls.watch.clock()
        if log is None:
            self._waiting.pop(work_id, None)
            log = self._free()
        if task is not None:
            started = now if log.running is None else log.running[2]
            log.finished.extend((log.worker, task[0] * 2 + failed, task[1], started, now))
        log.running = None
        self._idle.append(log)

    def _go_on(self) -> None:
        while self._waiting and len(self._busy) < self._calls.max_workers:
            work_id = next(iter(self._waiting))
            del self._waiting[work_id]
            self._busy[work_id] = log = self._free()
            task = self._calls.tasks.get(work_id)
            if task is not None:
                log.running = (*task, self._calls.watch.clock())

    def _free(self) -> WorkerLog:
        if self._idle:
            return self._idle.pop()
        worker = self._calls.watch.recorder.add(Worker)
        # Whichever it is: what counts is the CPU time of all of them.
        worker.process = next(islice(self._calls.processes.values(), worker.worker - 1, None), None)
        return worker


class Calls:
    """The calls of one executor, from `arrived` to `returned` or `dropped`. Does not hold the executor."""

    def __init__(self, watch: Watch, executor: Any, is_wanted: Callable[[], bool]) -> None:
        """Under the executor's `_shutdown_lock`: nothing is submitted and no process started meanwhile."""
        self.watch = watch
        self._is_wanted = is_wanted
        self.tasks: dict[int, Task] = {}
        self.max_workers: int = executor._max_workers
        self.processes: dict[int, Any] = executor._processes
        self._pending = executor._pending_work_items
        self._seats: Seats | None = None
        self._guess: _Guess | None = None
        module: Any = sys.modules["concurrent.futures.process"]
        self._chunk = module._process_chunk
        self._worker = module._process_worker
        ours = type(executor)._spawn_process is module.ProcessPoolExecutor._spawn_process
        if ours and not self.processes and os.path.isfile(processchild.__file__):
            self._seats = Seats(watch, self.max_workers, self.tasks)
        else:
            present = list(self._pending.items())
            self._guess = _Guess(self, [work_id for work_id, _ in present])
            for work_id, item in present:
                item.future.add_done_callback(partial(self.dropped, work_id))

    @property
    def stamped(self) -> bool:
        """Whether the workers are ours."""
        return self._seats is not None

    def arrived(self, work_id: int) -> None:
        """Called under the lock of `submit`, before the call can be taken by anybody."""
        watch = self.watch
        wanted = (watch.own or self._is_wanted()) and not watch.recorder.given_up
        if wanted and (0 < len(watch.arrivals) < UNREAD_LIMIT or watch.attend()):
            item = self._pending[work_id]
            fn, args = item.fn, item.args
            if type(fn) is partial and fn.func is self._chunk:
                fn, args = fn.args[0], ()  # `map` sends chunks
            task = self.tasks[work_id] = (watch.identify(fn, args), watch.clock())
            watch.arrivals.extend(task)
            item.future.add_done_callback(partial(self.dropped, work_id))
        if self._guess is not None:
            self._guess.begin(work_id)

    def returned(self, item: Any) -> None:
        """Called by the managing thread with what came back, before it sets the future."""
        work_id = getattr(item, "work_id", None)
        if work_id is None:
            return  # a worker says that it ends
        task = self.tasks.get(work_id)
        failed = item.exception is not None
        stamps = item.__dict__.pop("_poolscope", None)
        if stamps is not None and self._seats is not None:
            self._seats.record(task, failed, stamps)
        elif self._guess is not None:
            self._guess.end(work_id, task, failed)
        elif task is not None:
            self.watch.broke(*task)
        self.tasks.pop(work_id, None)

    def dropped(self, work_id: int, future: Any) -> None:
        """Called when the future is done: unless `returned` was, the call has come to another end."""
        try:
            if (self._guess is not None and self._guess.drop(work_id)) or work_id not in self.tasks:
                return
            if future.cancelled():
                self._unstarted(work_id, self.watch.cancelled)
            elif not self._lost(work_id):
                self._unstarted(work_id, self.watch.broke)
        except Exception as exc:
            self.watch.give_up(exc)

    def _unstarted(self, work_id: int, record: Callable[[int, int], None]) -> None:
        task = self.tasks.pop(work_id, None)
        if task is not None:
            record(*task)

    def _lost(self, work_id: int) -> bool:
        """Whether the call had started in a worker, whose results will not come any more: then it has failed,
        and so have those that the worker had before it."""
        for seat in () if self._seats is None else self._seats.all:
            calls = list(seat.calls())
            if not any(call[1] == work_id for call in calls):
                continue
            for number, started_id, started in calls:
                seat.end(self.tasks.pop(started_id, None), True, number, started, self.watch.clock())
                if started_id == work_id:
                    return True
        return False

    def spawn(self, executor: Any) -> None:
        """In place of the standard `_spawn_process`: the same, with our target where there is a seat.

        Under the executor's `_shutdown_lock`.
        """
        seat = self._free_seat()
        if seat is None or self._seats is None:
            type(executor)._spawn_process(executor)
            return
        arguments = (
            executor._call_queue,
            executor._result_queue,
            executor._initializer,
            executor._initargs,
            executor._max_tasks_per_child,
        )
        process = executor._mp_context.Process(**self._seats.occupied(seat, self._worker, arguments))
        process.start()
        executor._processes[process.pid] = process
        seat.seat(process)

    def _free_seat(self) -> Seat | None:
        try:
            # Whoever is not among the processes any more has told of all its calls, and ends.
            present = list(self.processes.values())
            # None is free if somebody has changed the executor's size.
            return None if self._seats is None else self._seats.take(lambda seat: seat.process not in present)
        except Exception as exc:
            self.watch.give_up(exc)
            return None

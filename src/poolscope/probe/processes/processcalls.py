"""The calls of one process pool: when each arrived, in which worker it ran, and how it ended.

How a call is recorded exactly once: it is in `Calls.tasks` from its arrival on, and the thread that takes it out of
there, which is one step with and without the GIL, records its end. What a worker did is written only by the thread that
manages the pool, or under the lock of `_Guess`.

Processes that are older than our patch stamp nothing. Their calls leave the pipe in the order in which they entered it,
so with n processes we assume that the n oldest run (`_Guess`).
"""

from __future__ import annotations

import os
import sys
from _thread import RLock
from functools import partial
from itertools import islice
from weakref import ref

from poolscope.probe.interpreter import shapes
from poolscope.probe.processes import processchild
from poolscope.probe.processes.worker_table import ProcessWorker, Worker, WorkerTable
from poolscope.probe.recording.pool_watch import CALLS, UNREAD_LIMIT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from poolscope.probe.processes.worker_table import Task
    from poolscope.probe.recording.pool_watch import Watch
    from poolscope.probe.recording.recorder import WorkerLog

#: What is not seen if this Python has workers, or chunks of `map`, of an unknown shape.
_STARTS = "when the tasks of process pools start is estimated"
_CHUNKS = "the functions of ProcessPoolExecutor.map are not told"


class _Guess:
    """Assumes which calls run where no worker reports it: the oldest, as many as there are workers.

    Any thread may call `begin` and `end`.
    """

    def __init__(self, calls: Calls, present: list[int]) -> None:
        self._calls = calls
        # Work ids in order, and those of calls that are not ours, which occupy workers too.
        self._waiting = dict.fromkeys(present)
        self._busy: dict[int, WorkerLog] = {}
        self._idle: list[WorkerLog] = []
        self._lock = RLock()
        self._go_on()

    def begin(self, work_id: int) -> None:
        """Note that a call has arrived."""
        with self._lock:
            self._waiting[work_id] = None
            self._go_on()

    def end(self, work_id: int, task: Task | None, failed: bool) -> None:
        """Note that a call has come back from a worker."""
        with self._lock:
            self._record(work_id, task, failed)
            self._go_on()

    def drop(self, work_id: int) -> bool:
        """Note that a call ends without a result. Returns whether it counts as running, and so as failed."""
        with self._lock:
            self._waiting.pop(work_id, None)
            if work_id not in self._busy:
                return False
            # No other call takes its place: if this worker was killed, so were the others.
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

    def __init__(self, watch: Watch, executor: Any, is_wanted: Callable[[], bool], chunk: Any = None) -> None:
        """Under the executor's `_shutdown_lock`: nothing is submitted and no process started meanwhile. `chunk` is what
        its `map` submits, if that is not the standard one's."""
        self.watch = watch
        self._is_wanted = is_wanted
        self.tasks: dict[int, Task] = {}
        self._executor = ref(executor)
        self._most: int = executor._max_workers
        self.processes: dict[int, Any] = executor._processes
        self._pending = executor._pending_work_items
        self._table: WorkerTable | None = None
        self._guess: _Guess | None = None
        module: Any = sys.modules["concurrent.futures.process"]
        self._chunk = chunk
        if chunk is None and shapes.known(shapes.process_chunks, module, watch.probe, _CHUNKS):
            self._chunk = module._process_chunk
        if self._may_be_ours(executor, module):
            self._table = WorkerTable(watch, self._most, self.tasks)
            weak = ref(self)  # the recorder may stay longer than the pool, and must not keep its futures

            def future_of(log: WorkerLog) -> Any:
                calls = weak()
                return None if calls is None else calls.future_of(log)

            watch.recorder.future_of = future_of
        else:
            present = list(self._pending.items())
            self._guess = _Guess(self, [work_id for work_id, _ in present])
            for work_id, item in present:
                item.future.add_done_callback(partial(self.dropped, work_id))

    def _may_be_ours(self, executor: Any, module: Any) -> bool:
        """Whether all processes of this executor can be made ours. If not, the probe gets the reason."""
        if not shapes.known(shapes.process_workers, module, self.watch.probe, _STARTS):
            return False
        own = getattr(type(executor), "_spawn_process", None) is not module.ProcessPoolExecutor._spawn_process
        if own or self.processes or not os.path.isfile(processchild.__file__):
            text = f"pool {self.watch.recorder.name}: when its tasks start is estimated, as its processes are not ours"
            self.watch.probe.emit(("notice", text))
            return False
        return True

    @property
    def max_workers(self) -> int:
        """How many workers there may be: an executor of loky's may get another size."""
        self._most = getattr(self._executor(), "_max_workers", self._most)
        return self._most

    @property
    def stamped(self) -> bool:
        """Whether the workers are ours."""
        return self._table is not None

    def arrived(self, work_id: int) -> None:
        """Note a call, under the lock of `submit`, before any worker can take it."""
        watch = self.watch
        wanted = (watch.own or self._is_wanted()) and not watch.recorder.given_up
        if wanted and (0 < len(watch.arrivals) < UNREAD_LIMIT or watch.attend()):
            item = self._pending[work_id]
            fn, args = item.fn, item.args
            if type(fn) is partial and fn.func is self._chunk:
                if args and type(args[0]) is tuple:
                    watch.recorder.chunk(len(args[0]))
                fn, args = fn.args[0], ()  # `map` sends chunks
            task = self.tasks[work_id] = (watch.identify(fn, args), watch.clock())
            watch.arrivals.extend(task)
            item.future.add_done_callback(partial(self.dropped, work_id))
        if self._guess is not None:
            self._guess.begin(work_id)

    def returned(self, item: Any) -> None:
        """Take what came back, in the managing thread, before it sets the future."""
        work_id = getattr(item, "work_id", None)
        if work_id is None:
            return  # a worker reports its end
        task = self.tasks.get(work_id)
        failed = item.exception is not None
        stamps = item.__dict__.pop("_poolscope", None)
        if stamps is not None and self._table is not None:
            self._table.record(task, failed, stamps)
        elif self._guess is not None:
            self._guess.end(work_id, task, failed)
        elif task is not None:
            raise RuntimeError(f"pool {self.watch.recorder.name}: a worker that is not ours")
        self.tasks.pop(work_id, None)

    def dropped(self, work_id: int, future: Any) -> None:
        """Note that the future is done: unless `returned` was, the call has come to another end.

        The future says which one. After `terminate_workers` or `kill_workers` a call that ran has an exception, as
        has one that waited in the pipe to the workers, which nothing can cancel: both have failed, the second without a
        start. What was still queued was cancelled, and counts as that.
        """
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
        """Whether the call had started in a worker that sends no more results: then it has failed, and so have the
        worker's calls before it."""
        for worker in () if self._table is None else self._table.all:
            calls = list(worker.calls())
            if not any(call[1] == work_id for call in calls):
                continue
            for number, started_id, started in calls:
                worker.end(self.tasks.pop(started_id, None), True, number, started, self.watch.clock())
                if started_id == work_id:
                    return True
        return False

    def process(self, make: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Stand in for `Process` of the executor's context, which is `make`: the process only runs something else.

        Under the executor's `_shutdown_lock`.
        """
        worker = None
        try:
            # A worker that is no longer among the processes has reported all its calls, and ends.
            present = list(self.processes.values())
            assert self._table is not None
            worker = self._table.take(lambda worker: worker.process not in present)
            if worker is None:
                raise RuntimeError(f"pool {self.watch.recorder.name}: more workers than it was made with")
            kwargs |= self._table.arguments_for(worker, kwargs["target"], kwargs["args"])
        except Exception as exc:
            self.watch.give_up(exc)
        process = make(*args, **kwargs)
        if worker is not None:
            worker.assign(process)
            self._note_start(worker)
        return process

    def _note_start(self, worker: ProcessWorker) -> None:
        try:
            self.watch.recorder.started.extend((worker.worker, self.watch.clock()))
        except Exception as exc:
            self.watch.give_up(exc)

    def future_of(self, log: WorkerLog) -> Any:
        """Return the future of the call that a worker is in."""
        for _, work_id, _ in log.calls() if isinstance(log, ProcessWorker) else ():
            item = self._pending.get(work_id)
            return None if item is None else item.future
        return None


CALLS.add(Calls)

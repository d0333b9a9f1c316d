"""The tasks of one `multiprocessing.pool.Pool`: when each arrived, in which worker it ran, and how it ended.

Replaced attributes of the one pool: `_taskqueue`, by which its methods submit (an arrival); `_quick_put`, which sends
tasks to the workers (pickling a task may fail); `_quick_get`, by which results come (an end, before the caller gets
it); `_terminate_pool` (the end of all that is left). The thread functions of the pool get these when it is made.
`Process` makes the workers run `processchild.work` (see `multiprocessing_pool`).

How a task is recorded exactly once: it is in `PoolCalls.tasks` from its arrival on, and the thread that takes it out of
there, which is one step with and without the GIL, records its end.
"""

from __future__ import annotations

from _thread import RLock

from poolscope.probe.processes.processchild import work_id
from poolscope.probe.processes.worker_table import WorkerTable, alive

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from poolscope.probe.processes.worker_table import ProcessWorker, Task
    from poolscope.probe.recording.pool_watch import Watch


class PoolCalls:
    """The tasks of one pool, from `arrived` to `returned`, `unsent` or `terminated`. Does not hold the pool.

    Any thread may call any method; none raises. Ends in a worker are recorded under a lock, as the thread that takes
    results and the one that replaces workers both do.
    """

    def __init__(self, watch: Watch, pool: Any) -> None:
        """Begin for a pool that has no worker yet."""
        self.watch = watch
        self.tasks: dict[int, Task] = {}
        self._table = WorkerTable(watch, pool._processes, self.tasks)
        # By worker and number of the call: calls lost with their process, until the results before them have come.
        self._lost: dict[tuple[int, int], tuple[Task | None, int]] = {}
        self._over = False
        # Reentrant: a finalizer that runs while we are inside may end another pool.
        self._lock = RLock()

    def arrived(self, job: int, index: int, task: Task) -> None:
        """Note that a task is about to go into the pipe to the workers."""
        self.tasks[work_id(job, index)] = task
        if self._over:
            self._cancel()

    def arrived_all(self, job: int, count: int, task: Task) -> None:
        """Note that `count` tasks of one `map` are about to go there; the first one's arrival is already recorded."""
        self.tasks.update(dict.fromkeys((work_id(job, index) for index in range(count)), task))
        self.watch.arrivals.extend(task * (count - 1))
        if self._over:
            self._cancel()

    def unsent(self, job: int, index: int) -> None:
        """Note that a task cannot be sent to a worker, and has failed."""
        task = self.tasks.pop(work_id(job, index), None)
        if task is not None:
            self.watch.broke(*task)

    def returned(self, item: Any) -> Any:
        """Return what came back from a worker, as the standard library expects it."""
        if type(item) is not tuple or len(item) != 4:
            return item
        job, index, result, stamps = item
        try:
            with self._lock:
                key = work_id(job, index)
                # As long as it is in `tasks` it counts as running: record its end before it leaves.
                worker = self._table.record(self.tasks.get(key), not result[0], stamps)
                self.tasks.pop(key, None)
                if self._lost:
                    self._settle(worker)
        except Exception as exc:
            self.watch.give_up(exc)
        return item[:3]

    def process(self, make: Callable[..., Any], context: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Stand in for the pool's `Process`, which is `make`: the process only runs something else."""
        worker = None
        try:
            worker = self._table.take(lambda worker: worker.process is not None and not alive(worker.process))
            if worker is None:
                raise RuntimeError(f"pool {self.watch.recorder.name}: more workers than it was made with")
            self._bury(worker)
            kwargs |= self._table.arguments_for(worker, kwargs["target"], kwargs["args"])
        except Exception as exc:
            self.watch.give_up(exc)
        process = make(context, *args, **kwargs)
        if worker is not None:
            worker.assign(process)
            try:
                self.watch.recorder.started.extend((worker.worker, self.watch.clock()))
            except Exception as exc:
                self.watch.give_up(exc)
        return process

    def _bury(self, worker: ProcessWorker) -> None:
        """Note that the call which an ended process was in has failed, though its caller gets no result."""
        call = worker.interrupted()
        if call is None:
            return
        number, key, started = call
        task = self.tasks.pop(key, None)
        with self._lock:
            self._lost[worker.worker, number] = task, started
            self._settle(worker)
        if task is None:
            return
        code = worker.process.exitcode
        how = f"was killed (signal {-code})" if code < 0 else f"ended (exit status {code})"
        name = self.watch.probe.functions.name(task[0])
        self.watch.probe.incident(
            f"a worker of pool {self.watch.recorder.name} {how} in {name}: multiprocessing.Pool does not tell, and"
            " the thread that waits for the result waits for ever"
        )

    def _settle(self, worker: ProcessWorker) -> None:
        # In the order of the calls: results that the process had sent before may still be under way.
        while lost := self._lost.pop((worker.worker, worker.recorded + 1), None):
            worker.end(lost[0], True, worker.recorded + 1, lost[1], self.watch.clock())

    def terminated(self) -> None:
        """Note the end: tasks that had started and are not back have failed, the rest was cancelled."""
        try:
            with self._lock:
                for worker in self._table.all:
                    for number, key, started in worker.calls():
                        if (worker.worker, number) not in self._lost:
                            self._lost[worker.worker, number] = self.tasks.pop(key, None), started
                        self._settle(worker)
                    worker.assign(None)  # an ended process must not be found held
            # First of all, as another thread may be submitting.
            self._over = True
            self._cancel()
        except Exception as exc:
            self.watch.give_up(exc)

    def _cancel(self) -> None:
        for key in list(self.tasks):
            task = self.tasks.pop(key, None)
            if task is not None:
                self.watch.cancelled(*task)

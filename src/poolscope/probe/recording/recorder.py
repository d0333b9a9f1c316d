"""The hot path: each list has its writer, so that no task ever waits for a reader.

Each worker owns its `WorkerLog` and is the only one to write it. What several threads write (arrivals,
cancellations, refusals) goes into plain lists by `append` or `extend` of a whole record, which are single atomic
operations on a list with and without the GIL. One reader at a time (`PoolRecorder.drain`, under the recorder's
lock) copies the head of each list and deletes just that head: a record appended in between stays for the next time.
Nothing here takes a lock that a task could meet.
"""

from __future__ import annotations

from _thread import allocate_lock
from collections.abc import Callable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeVar

    from poolscope.probe.interpreter.cpu import CpuClocks

    Clock = Callable[[], int]
    Log = TypeVar("Log", bound="WorkerLog")


class WorkerLog:
    """What one worker thread did. Only that thread writes it; any thread may read it.

    `finished` is flat, 5 integers a task: worker, function * 2 + failed, submitted, started, finished (ns).
    `running` is (function, submitted, started) of the task the worker is in, else None. A worker sets `running`
    before it calls the task, appends to `finished` after, and only then clears `running`: a reader that looks at
    `running` first can see a task twice, which the start stamp resolves, but never miss it.
    """

    __slots__ = ("cpu_ns", "finished", "ident", "left", "native_id", "running", "worker")

    def __init__(self, worker: int, ident: int, native_id: int) -> None:
        self.worker = worker
        self.ident = ident
        self.native_id = native_id
        self.finished: list[int] = []
        self.running: tuple[int, int, int] | None = None
        self.left = False
        #: The thread's CPU time at its end, as no clock has it afterwards; -1 before. Set before `left`.
        self.cpu_ns = -1

    def depart(self, cpu_ns: int) -> None:
        """Note that the thread ends, having used so much CPU time (-1: not known)."""
        if cpu_ns != -1:
            self.cpu_ns = cpu_ns
        self.left = True

    def cpu_now(self, clocks: CpuClocks) -> int | None:
        """Return the worker's CPU time so far (ns); None if that is not known any more. For one reader at a time."""
        if self.left and self.cpu_ns != -1:
            return self.cpu_ns
        return clocks.thread(self.native_id)

    def place(self) -> tuple[list[tuple[str, int, str]], int, str] | None:
        """Return lines, spot and gate (see `poolscope.messages.Stack`) where another process tells them, of the task
        that the worker is in; else None."""
        return None

    def delay_now(self, clocks: CpuClocks) -> int | None:
        """How long the worker was ready to run so far, but on no CPU (ns); None if that is not known."""
        return clocks.delay(self.native_id)


def take(records: list[int]) -> list[int]:
    """Remove and return what is in the list now."""
    head = records[:]
    del records[: len(head)]
    return head


def _strike(arrivals: list[int], function: int, submitted: int, at: int) -> tuple[int, ...]:
    """Remove an arrival. If it was read already, return the record of a cancelled task instead."""
    for place in range(len(arrivals) - 2, -1, -2):
        if arrivals[place] == function and arrivals[place + 1] == submitted:
            del arrivals[place : place + 2]
            return ()
    return (function, submitted, at)


class PoolRecorder:
    """What happened in one pool since the last `drain`.

    `arrivals` and `withdrawn` (function, submitted), `cancelled` and `broken` (function, submitted, when) and
    `rejected` (when) are flat lists that any thread may extend by one whole record. `size` gives (workers alive,
    max_workers) now, or None once the executor is gone.
    """

    __slots__ = (
        "_lock",
        "arrivals",
        "broken",
        "cancelled",
        "chunked",
        "closed",
        "cpu",
        "created_at",
        "created_by",
        "ended",
        "executor",
        "future_of",
        "given_up",
        "hands",
        "holders",
        "id",
        "kind",
        "last_size",
        "look",
        "name",
        "rejected",
        "returned",
        "settled",
        "since_ns",
        "size",
        "started",
        "taken",
        "taking",
        "told",
        "waiting",
        "withdrawn",
        "workers",
    )

    def __init__(
        self,
        id: int,  # noqa: A002 - the field's name in every message
        *,
        name: str,
        kind: str,
        executor: str,
        created_at: str,
        created_by: str = "",
        size: Callable[[], tuple[int, int] | None],
    ) -> None:
        self.id = id
        self.name = name
        self.kind = kind
        self.executor = executor
        self.created_at = created_at
        self.created_by = created_by
        self.size = size
        self.last_size = size() or (0, 0)
        self.arrivals: list[int] = []
        self.cancelled: list[int] = []
        self.broken: list[int] = []
        self.rejected: list[int] = []
        self.withdrawn: list[int] = []
        self.workers: list[WorkerLog] = []
        #: Worker processes that were started, as (worker, when), flat.
        self.started: list[int] = []
        #: Returns the future of the task that a worker is in, where no frame of ours leads to it.
        self.future_of: Callable[[WorkerLog], Any] | None = None
        #: Returns how many tasks have a worker, where that exceeds the running ones: the pool learns late of an end.
        self.taken: Callable[[], int] | None = None
        #: Returns the CPU time of its workers (ns), where that is not the sum of their clocks.
        self.cpu: Callable[[CpuClocks], int] | None = None
        #: Says whether its size stays as it is while nothing happens in it; None: it does.
        self.settled: Callable[[], bool] | None = None
        #: Returns the thread that sends its tasks to the workers, and the one that takes their results; None for one
        #: that does not exist.
        self.hands: Callable[[], tuple[Any, Any]] | None = None
        #: A sample of the results that came from worker processes: how many, and how long they were under way (ns).
        #: Written by the thread that takes them.
        self.returned = (0, 0)
        #: How many of its tasks were chunks of `map`, and how many items were in them. Written by what submits.
        self.chunked = (0, 0)
        #: Iterators over its results that have not been taken to their end (see `probe/recording/results.py`).
        self.taking: dict[int, Any] = {}
        #: Where holders are no threads: returns where the holders are and where waiters are, at most so many of each:
        #: two lists as `poolscope.messages.Stack` has them.
        self.look: Callable[[int], tuple[list[Any], list[Any]]] | None = None
        #: Of a queue of the program's: returns where putters wait, and what waits for the end of its tasks, at most so
        #: many: one list of the same kind.
        self.waiting: Callable[[int], list[Any]] | None = None
        #: Of a limit, which of its places are held, as a worker's log and what that runs, and by which task of an event
        #: loop or thread (its identifier), where that is known.
        self.holders: Callable[[], list[tuple[WorkerLog, tuple[int, int, int], Any]]] | None = None
        #: When recording began, if that was before the pool was opened.
        self.since_ns: int | None = None
        #: Its records are torn, and another one goes on in its place.
        self.ended = False
        self.closed = False
        #: Whether its name was reported.
        self.told = False
        #: Recording has failed: the records are worthless.
        self.given_up = False
        self._lock = allocate_lock()

    def chunk(self, items: int, chunks: int = 1) -> None:
        """Note that so many tasks are chunks, with so many items in total."""
        known, inside = self.chunked
        self.chunked = known + chunks, inside + items

    def join(self, ident: int, native_id: int) -> WorkerLog:
        """Return a log for the calling worker. Called once by each worker thread, before its first task."""
        return self.add(lambda worker: WorkerLog(worker, ident, native_id))

    def add(self, make: Callable[[int], Log]) -> Log:
        """Return a log that `make` makes for the worker's number."""
        with self._lock:
            log = make(len(self.workers) + 1)
            # Append only: a worker's number is its place, so it is never given twice.
            self.workers.append(log)
        return log

    def drain(self, clock: Clock, cpu_ns: Callable[[], int] = int) -> tuple[Any, ...]:
        """Return a `pool_batch` message (see `poolscope.messages.PoolBatch`): what is new since the last one."""
        with self._lock:
            at = clock()
            # Against the flow of a task (running, finished, cancelled, arrived): a task that moves on while we
            # read is then seen too early or twice, never lost.
            running: list[int] = []
            for log in self.workers:
                now = log.running
                if now is not None:
                    running += (log.worker, *now)
            finished: list[int] = []
            for log in self.workers:
                if log.finished:
                    finished += take(log.finished)
            cancelled = take(self.cancelled)
            broken = take(self.broken)
            rejected = len(take(self.rejected))
            withdrawn = take(self.withdrawn)
            arrivals = take(self.arrivals)
            for function, submitted in zip(withdrawn[::2], withdrawn[1::2], strict=True):
                cancelled += _strike(arrivals, function, submitted, at)
            workers, max_workers = self.size() or (0, self.last_size[1])
            # Workers go on after their executor is gone, and begin before it has noted that they are there.
            workers = max(workers, len(running) // 4)
            self.last_size = workers, max_workers
        return (
            "pool_batch",
            self.id,
            at,
            workers,
            max_workers,
            # Last, so that what a task used before it ended is in the same message.
            cpu_ns(),
            rejected,
            finished,
            running,
            cancelled,
            broken,
            arrivals,
        )


def _no_size() -> tuple[int, int]:
    return 0, 0


def unread_recorder(owner: object, kind: str) -> PoolRecorder:
    """Return a recorder of what `owner` does, which has no name yet, and which nothing reads."""
    cls = type(owner)
    executor = f"{cls.__module__}.{cls.__qualname__}"
    return PoolRecorder(0, name="", kind=kind, executor=executor, created_at="", size=_no_size)

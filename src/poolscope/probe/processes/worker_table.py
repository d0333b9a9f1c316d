"""The worker processes of a watched pool, and the calls that each of them shows in shared memory.

`processchild` writes there, in the workers.
"""

from __future__ import annotations

from functools import partial
from operator import getitem

from poolscope.probe.processes import processchild
from poolscope.probe.processes.processchild import ENTRY, PER_WORKER, PLACE, SHOWN
from poolscope.probe.processes.worker_place import Place
from poolscope.probe.recording.recorder import WorkerLog

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from multiprocessing.heap import BufferWrapper
    from typing import Any

    from poolscope.probe.interpreter.cpu import CpuClocks
    from poolscope.probe.recording.pool_watch import Watch

    #: Function, and when it was submitted (ns).
    Task = tuple[int, int]
    #: What a result tells: see `processchild.work`.
    Stamps = tuple[int, int, int, int, int]


#: For one in so many results of a worker we time how long it was under way.
RETURNS_TIMED = 8


class _ByPath:
    """Pickled as what `processchild`, run by its path, defines."""

    def __reduce__(self) -> tuple[Any, ...]:
        import runpy  # here: most programs start no new interpreter

        return runpy.run_path, (processchild.__file__,)


class _Target(partial[None]):
    """`processchild.work`: called as it is in a forked worker, pickled for a new interpreter."""

    def __reduce__(self) -> tuple[Any, ...]:
        return getitem, (_ByPath(), "work")


def alive(process: Any) -> bool:
    """Whether a worker process was started and its end not seen yet."""
    # Not `is_alive`, which would fetch the exit status in the place of the thread that waits for it.
    popen = getattr(process, "_popen", None)
    return popen is not None and popen.returncode is None


class Worker(WorkerLog):
    """A worker process, and the ones that took its place after it."""

    __slots__ = ("_ended_ns", "_told_ns", "process", "seen_ns")

    def __init__(self, worker: int) -> None:
        super().__init__(worker, -worker, 0)
        self.process: Any = None
        #: CPU time of the present process by its last result. For the thread that takes the results.
        self.seen_ns = 0
        self._ended_ns = 0
        self._told_ns = 0

    def assign(self, process: Any) -> None:
        """Note that another process, or none, replaces one that has ended."""
        self._ended_ns += self.seen_ns
        self.seen_ns = 0
        self.process = process

    def cpu_now(self, clocks: CpuClocks) -> int | None:  # noqa: D102 - see `WorkerLog`
        process = self.process
        now = clocks.child(process.pid) if process is not None and alive(process) else None
        # Return the greatest value yet: a process may have been replaced while we looked.
        self._told_ns = max(self._told_ns, self._ended_ns + max(now or 0, self.seen_ns))
        return self._told_ns

    def delay_now(self, clocks: CpuClocks) -> int | None:  # noqa: D102 - see `WorkerLog`
        process = self.process
        return clocks.delay(process.pid) if process is not None and alive(process) else None


class ProcessWorker(Worker):
    """A worker that stamps its calls. `recorded`: number of the last one whose end is in `finished`."""

    __slots__ = ("_place", "_shared", "_shown", "_tasks", "recorded")

    def __init__(self, worker: int, shared: BufferWrapper, tasks: dict[int, Task]) -> None:
        self._shared = shared  # the memory may be another's as soon as nothing refers to this
        every = shared.create_memoryview().cast("q")
        self._shown = every[(worker - 1) * PER_WORKER : worker * PER_WORKER]
        at = len(every) // (PER_WORKER + PLACE) * PER_WORKER + (worker - 1) * PLACE
        self._place = every[at : at + PLACE]
        self._tasks = tasks
        self.recorded = 0
        super().__init__(worker)

    def calls(self) -> Iterator[tuple[int, int, int]]:
        """Return number, work id and start of each call that is shown and not recorded, in order."""
        number = self.recorded
        for _ in range(SHOWN):
            number += 1
            call = self._call(number)
            if call is None:
                return
            yield call[:3]

    def under_way(self) -> tuple[int, int] | None:
        """Return worker and start of its latest ended call, if the result is still under way; else None."""
        started, number = None, self.recorded
        for _ in range(SHOWN):
            number += 1
            call = self._call(number)
            if call is None or not call[3]:
                break
            started = call[2]
        return None if started is None else (self.worker, started)

    def last_number(self) -> int:
        """Return the number of the last shown call; 0 if there is none. For a worker that has ended, or not begun."""
        return max(self._shown[::ENTRY])

    def interrupted(self) -> tuple[int, int, int] | None:
        """Return the call that an ended worker was in, as in `calls`; None if there is none, or its result was sent."""
        number = self.last_number()
        call = self._call(number)
        if call is None or call[3]:
            return None
        self._shown[number % SHOWN * ENTRY + 3] = 1
        return call[:3]

    def _call(self, number: int) -> tuple[int, int, int, int] | None:
        shown = self._shown
        at = number % SHOWN * ENTRY
        before, work_id, started, sent = shown[at : at + ENTRY]
        return (number, work_id, started, sent) if 0 < number == before == shown[at] else None

    def end(self, task: Task | None, failed: bool, number: int, started: int, ended: int) -> None:
        """Record the end of a call of this worker. One thread at a time, in the order of the numbers."""
        if task is not None:
            self.finished.extend((self.worker, task[0] * 2 + failed, task[1], started, ended))
        # After the end: a reader that finds the next call running finds this one finished.
        self.recorded = number

    def place(self) -> tuple[list[tuple[str, int, str]], int, str] | None:  # noqa: D102 - see `WorkerLog`
        for number, _, _ in self.calls():
            if self._place[0] != number:
                return None
            return Place(self._place).read(number)
        return None

    @property
    def running(self) -> tuple[int, int, int] | None:
        """The call that the worker is in. A call whose result is under way comes first: a reader must see its end
        before it sees the next one."""
        for _, work_id, started in self.calls():
            task = self._tasks.get(work_id)
            return None if task is None else (*task, started)
        return None

    @running.setter
    def running(self, _: object) -> None:
        pass


class WorkerTable:
    """The workers of one pool, `most` at once. One thread at a time calls `take`."""

    def __init__(self, watch: Watch, most: int, tasks: dict[int, Task]) -> None:
        """`tasks`, by work id, are those whose end has not been recorded."""
        from multiprocessing.heap import BufferWrapper

        self._watch = watch
        self._most = most
        self._tasks = tasks
        self.all: list[ProcessWorker] = []
        size = most * (PER_WORKER + PLACE) * 8
        self._shared = BufferWrapper(size)
        self._shared.create_memoryview()[:] = bytes(size)

    def take(self, is_free: Callable[[ProcessWorker], bool]) -> ProcessWorker | None:
        """Return a worker that can have another process; None if all have a process that has not ended."""
        for worker in self.all:
            if is_free(worker):
                return worker
        if len(self.all) == self._most:
            return None
        worker = self._watch.recorder.add(lambda index: ProcessWorker(index, self._shared, self._tasks))
        self.all.append(worker)
        return worker

    def arguments_for(
        self, worker: ProcessWorker, target: Callable[..., None], args: tuple[Any, ...]
    ) -> dict[str, Any]:
        """Return the arguments for a process that runs the standard worker `target(*args)` as this worker."""
        return {
            "target": _Target(processchild.work),
            "args": (target, args, self._shared, worker.worker, worker.last_number()),
        }

    def record(self, task: Task | None, failed: bool, stamps: Stamps) -> ProcessWorker:
        """Record the end of a call that has come back. Returns the worker that ran it."""
        index, number, started, ended, cpu_ns = stamps
        worker = self.all[index - 1]
        worker.end(task, failed, number, started, ended)
        worker.seen_ns = cpu_ns
        if number % RETURNS_TIMED == 1:
            recorder = self._watch.recorder
            count, under_way = recorder.returned
            recorder.returned = count + 1, under_way + max(0, self._watch.clock() - ended)
        return worker

"""The worker processes of a watched pool, and what each of them shows in shared memory of the calls that it is in.

`processchild` writes there, in the workers.
"""

from __future__ import annotations

from functools import partial
from operator import getitem

from poolscope.probe.pools import processchild
from poolscope.probe.pools.processchild import ENTRY, SEAT, SHOWN
from poolscope.probe.pools.recording import WorkerLog

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from multiprocessing.heap import BufferWrapper
    from typing import Any

    from poolscope.probe.cpu import CpuClocks
    from poolscope.probe.pools.watching import Watch

    #: Function, and when it was submitted (ns).
    Task = tuple[int, int]
    #: What a result tells: see `processchild.work`.
    Stamps = tuple[int, int, int, int, int]


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
        #: CPU time of the present process as its last result told it. For the thread that takes the results.
        self.seen_ns = 0
        self._ended_ns = 0
        self._told_ns = 0

    def seat(self, process: Any) -> None:
        """Another process, or none, takes the place of one that has ended."""
        self._ended_ns += self.seen_ns
        self.seen_ns = 0
        self.process = process

    def cpu_now(self, clocks: CpuClocks) -> int | None:  # noqa: D102 - see `WorkerLog`
        process = self.process
        now = clocks.child(process.pid) if process is not None and alive(process) else None
        # The greatest yet: a process may have been replaced while we looked.
        self._told_ns = max(self._told_ns, self._ended_ns + max(now or 0, self.seen_ns))
        return self._told_ns

    def delay_now(self, clocks: CpuClocks) -> int | None:  # noqa: D102 - see `WorkerLog`
        process = self.process
        return clocks.delay(process.pid) if process is not None and alive(process) else None


class Seat(Worker):
    """A worker that stamps its calls. `recorded`: number of the last one whose end is in `finished`."""

    __slots__ = ("_shared", "_shown", "_tasks", "recorded")

    def __init__(self, worker: int, shared: BufferWrapper, tasks: dict[int, Task]) -> None:
        self._shared = shared  # the memory may be another's as soon as nobody refers to this
        self._shown = shared.create_memoryview().cast("q")[(worker - 1) * SEAT : worker * SEAT]
        self._tasks = tasks
        self.recorded = 0
        super().__init__(worker)

    def calls(self) -> Iterator[tuple[int, int, int]]:
        """Number, work id and start of each call that is shown and not recorded, in order."""
        number = self.recorded
        for _ in range(SHOWN):
            number += 1
            call = self._call(number)
            if call is None:
                return
            yield call[:3]

    def last_number(self) -> int:
        """Of the last call that is shown; 0 if there was none. For when the worker has ended, or has yet to begin."""
        return max(self._shown[::ENTRY])

    def interrupted(self) -> tuple[int, int, int] | None:
        """The call that a worker that has ended was in, as in `calls`; None if it was in none, or if that was told."""
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
        """Records the end of a call of this worker. One thread at a time, in the order of the numbers."""
        if task is not None:
            self.finished.extend((self.worker, task[0] * 2 + failed, task[1], started, ended))
        # After the end: a reader that finds the next call running finds this one finished.
        self.recorded = number

    @property
    def running(self) -> tuple[int, int, int] | None:
        """The call that the worker is in. One whose result is under way comes first: a reader must hear of its
        end before it hears of the next."""
        for _, work_id, started in self.calls():
            task = self._tasks.get(work_id)
            return None if task is None else (*task, started)
        return None

    @running.setter
    def running(self, _: object) -> None:
        pass


class Seats:
    """The workers of one pool, `most` at once. One thread at a time calls `take`."""

    def __init__(self, watch: Watch, most: int, tasks: dict[int, Task]) -> None:
        """`tasks`, by work id, are those whose end has not been recorded."""
        from multiprocessing.heap import BufferWrapper

        self._watch = watch
        self._most = most
        self._tasks = tasks
        self.all: list[Seat] = []
        size = most * SEAT * 8
        self._shared = BufferWrapper(size)
        self._shared.create_memoryview()[:] = bytes(size)

    def take(self, is_free: Callable[[Seat], bool]) -> Seat | None:
        """A seat for another process; None if all are taken by processes that have not ended."""
        for seat in self.all:
            if is_free(seat):
                return seat
        if len(self.all) == self._most:
            return None
        seat = self._watch.recorder.add(lambda worker: Seat(worker, self._shared, self._tasks))
        self.all.append(seat)
        return seat

    def occupied(self, seat: Seat, target: Callable[..., None], args: tuple[Any, ...]) -> dict[str, Any]:
        """What to make a process with that lives as the standard worker `target(*args)`, but on this seat."""
        return {
            "target": _Target(processchild.work),
            "args": (target, args, self._shared, seat.worker, seat.last_number()),
        }

    def record(self, task: Task | None, failed: bool, stamps: Stamps) -> Seat:
        """Records the end of a call that has come back. Returns where it was."""
        worker, number, started, ended, cpu_ns = stamps
        seat = self.all[worker - 1]
        seat.end(task, failed, number, started, ended)
        seat.seen_ns = cpu_ns
        return seat

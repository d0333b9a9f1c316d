"""How much CPU time the workers of a pool used, and how long they waited for a CPU."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from poolscope.probe.interpreter.cpu import CpuClocks
    from poolscope.probe.recording.recorder import WorkerLog

#: How often to read how long workers waited for a CPU, and of how many.
DELAY_INTERVAL_NS = 400_000_000
DELAYS_READ = 6


class WorkerCpu:
    """CPU time of a pool's workers, from the clocks of their threads. One reader at a time.

    A worker that has ended counts with its last reading.
    """

    __slots__ = ("_ended", "_last", "read_ns", "total")

    def __init__(self) -> None:
        self.total = 0
        self.read_ns = 0
        # By the worker's place in the recorder.
        self._last: list[int] = []
        self._ended: list[bool] = []

    def read(
        self,
        workers: list[WorkerLog],
        clocks: CpuClocks,
        now_ns: int,
        whole: Callable[[CpuClocks], int] | None = None,
    ) -> None:
        """Bring `total` (ns) up to date: `whole` returns it, else it is the sum over the workers."""
        self.read_ns = now_ns
        if whole is not None:
            self.total = whole(clocks)
            return
        last, ended = self._last, self._ended
        for index in range(len(workers)):
            if index == len(last):
                last.append(0)
                ended.append(False)
            if ended[index]:
                continue
            left = workers[index].left
            used = workers[index].cpu_now(clocks)
            # A clock that goes back is that of another thread, which got the id of one that has ended.
            if used is None or used < last[index]:
                ended[index] = True
                continue
            self.total += used - last[index]
            last[index] = used
            ended[index] = left


class WorkerDelay:
    """How long the workers of a full pool were ready to run, but had no CPU: because others did, or its quota was up.

    Each reading of a file gives the GIL away, so some workers are read now and then, as a sample of all. One reader
    at a time.
    """

    __slots__ = ("_last", "read_ns", "total")

    def __init__(self) -> None:
        self.total = 0
        self.read_ns: int | None = None
        # By thread, as threads of some pools move between workers; by place in the recorder for another process.
        self._last: dict[int, int] = {}

    def due(self, now_ns: int) -> bool:
        """Whether the last reading is old enough for another one."""
        return self.read_ns is None or now_ns - self.read_ns >= DELAY_INTERVAL_NS

    def read(self, workers: list[WorkerLog], clocks: CpuClocks, now_ns: int) -> bool:
        """Bring `total` (ns) up to date; return whether the system has these clocks."""
        busy = [log for log in list(workers) if log.running is not None]
        # Waits between readings that are too far apart belong to another time.
        last = self._last if self.read_ns is not None and now_ns - self.read_ns <= 4 * DELAY_INTERVAL_NS else {}
        now = {
            log.native_id or -log.worker: delay
            for log in busy[:DELAYS_READ]
            if (delay := log.delay_now(clocks)) is not None
        }
        grown = [max(0, delay - last[key]) for key, delay in now.items() if key in last]
        if grown:
            self.total += sum(grown) * len(busy) // len(grown)
        self._last, self.read_ns = now, now_ns
        return bool(now)

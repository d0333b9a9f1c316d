"""Reading the workers of pools: how much CPU they used, and while the pool is full, had to wait for, and where they
are."""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from typing import Any

    from poolscope.probe.cpu import CpuClocks
    from poolscope.probe.outlet import Message
    from poolscope.probe.pools.recording import WorkerLog
    from poolscope.probe.pools.registry import PoolWatch
    from poolscope.probe.pools.waits import WaitReader

    Line = tuple[str, int, str]

#: Where the functions of tasks are wrapped.
_ADAPTERS = os.sep.join(("", "poolscope", "probe", "adapters", ""))
#: The most workers of a pool whose stacks are read at once.
STACKS_LIMIT = 256
#: Where a worker is when it runs a builtin, which has no line of its own: no line of the program.
_EXECUTORS = tuple(
    name.replace("/", os.sep)
    for name in (
        "concurrent/futures/thread.py",
        "multiprocessing/pool.py",
        "poolscope/executors/futures.py",
        "poolscope/executors/threads.py",
        "poolscope/probe/pools/multiprocessing_pool.py",
        "poolscope/probe/pools/threadpool.py",
        "poolscope/probe/pools/wrapped.py",
    )
)
#: How often it is read how long workers waited for a CPU, and of how many.
DELAY_INTERVAL_NS = 400_000_000
DELAYS_READ = 6
#: Reading stacks may take one part in so many of a core.
STACKS_COST_FACTOR = 100


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

    def read(self, workers: list[WorkerLog], clocks: CpuClocks, now_ns: int) -> None:
        """Brings `total` (ns) up to date."""
        self.read_ns = now_ns
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

    Each reading of a file gives the GIL away, so some of them are read now and then, and stand for all. One reader at
    a time.
    """

    __slots__ = ("_last", "read_ns", "total")

    def __init__(self) -> None:
        self.total = 0
        self.read_ns: int | None = None
        # By thread, as those of some pools go from worker to worker; by place in the recorder for another process.
        self._last: dict[int, int] = {}

    def due(self, now_ns: int) -> bool:
        """Whether the last reading is old enough for another one."""
        return self.read_ns is None or now_ns - self.read_ns >= DELAY_INTERVAL_NS

    def read(self, workers: list[WorkerLog], clocks: CpuClocks, now_ns: int) -> bool:
        """Brings `total` (ns) up to date; returns whether the system tells."""
        busy = [log for log in list(workers) if log.running is not None]
        # What they had to wait for while nobody looked belongs to another time.
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


class StackSampler:
    """Where the workers of pools are: of full ones, and of those with a task that lasts.

    Measures its cost, and rests to keep to its part of a core.

    One reader at a time; the workers it looks at go on meanwhile.
    """

    def __init__(
        self,
        clocks: CpuClocks,
        current_frames: Callable[[], dict[int, FrameType]] = sys._current_frames,
        user_place: Callable[[FrameType], tuple[list[Line], int]] | None = None,
        gate: Callable[[FrameType], str] | None = None,
    ) -> None:
        self._clocks = clocks
        self._current_frames = current_frames
        self._user_place = user_place
        self._gate = gate
        self._waits: WaitReader | None = None
        self._rested_ns = 0
        self._turn = 0

    def sample(self, watches: list[PoolWatch], now_ns: int, everyone: list[PoolWatch] | None = None) -> list[Message]:
        """A `stacks` message for each of the pools `watches` in which user code is at work.

        With `everyone`, all pools: before them, how long their workers have waited for a CPU, what they wait for, and
        the stacks of other pools that take part.
        """
        if now_ns < self._rested_ns or not watches:
            return []
        before = self._clocks.own()
        if self._user_place is None or self._gate is None:
            from poolscope.probe.pools.gates import gate
            from poolscope.probe.stacks import user_place

            self._user_place, self._gate = self._user_place or user_place, self._gate or gate
        self._turn += 1
        messages: list[Message] = []
        if everyone is not None:
            for watch in watches:
                recorder, delay = watch.recorder, watch.delay
                if delay.due(now_ns) and delay.read(recorder.workers, self._clocks, now_ns):
                    messages.append(("pool_ready", recorder.id, now_ns, delay.total))
            waits = self._read_waits(watches, everyone)
            messages.append(("waits", now_ns, waits))
            waiting = {wait[0] for wait in waits}
            watches = watches + [each for each in everyone if each.recorder.id in waiting and each not in watches]
        for watch in watches:
            stacks = self._stacks_of(watch.recorder.workers)
            if stacks:
                messages.append(("stacks", watch.recorder.id, now_ns, stacks))
        self._rested_ns = now_ns + STACKS_COST_FACTOR * (self._clocks.own() - before)
        return messages

    def _read_waits(self, full: list[PoolWatch], everyone: list[PoolWatch]) -> list[list[Any]]:
        if self._waits is None:
            from poolscope.probe.pools.waits import WaitReader

            self._waits = WaitReader(self._current_frames)
        return self._waits.read(full, everyone)

    def _stacks_of(self, workers: list[WorkerLog]) -> list[list[Any]]:
        """[lines, spot, tasks, gate] of the workers that are in a task (see `poolscope.messages.Stack`)."""
        chosen = [(log, task) for log in list(workers) if (task := log.running) is not None]
        if len(chosen) > STACKS_LIMIT:
            # The next ones each time, so that all get their turn.
            start = self._turn * STACKS_LIMIT % len(chosen)
            chosen = (chosen[start:] + chosen[:start])[:STACKS_LIMIT]
        assert self._user_place is not None
        assert self._gate is not None
        found: dict[tuple[tuple[Line, ...], int, str], list[int]] = {}
        frames = self._current_frames()
        frame = None
        try:
            for log, task in chosen:
                frame = frames.get(log.ident)
                if frame is None:
                    continue
                lines, spot = self._user_place(frame)
                gate = self._gate(frame)
                # The thread went on while we read. If it has left the task, these may be the lines of none.
                if lines and log.running is task and not _is_executor(lines[0][0]):
                    function, _, started = task
                    found.setdefault((tuple(lines), spot, gate), []).extend((log.worker, function, started))
        finally:
            # A frame that we held would keep the locals of the user's task alive.
            del frame, frames
        return [[list(lines), spot, tasks, gate] for (lines, spot, gate), tasks in found.items()]


def _is_executor(filename: str) -> bool:
    return filename.endswith(_EXECUTORS) or _ADAPTERS in filename

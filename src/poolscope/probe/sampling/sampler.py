"""Where the workers of pools are, and while a pool is full, what they wait for."""

from __future__ import annotations

import os

from poolscope.probe.interpreter.unpatched import current_frames

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from typing import Any

    from poolscope.probe.interpreter.cpu import CpuClocks
    from poolscope.probe.recording.recorder import WorkerLog
    from poolscope.probe.recording.registry import PoolWatch
    from poolscope.probe.sampling.waits import WaitReader
    from poolscope.probe.transport.dispatcher import Message

    Line = tuple[str, int, str]

#: Where the functions of tasks are wrapped.
_ADAPTERS = os.sep.join(("", "poolscope", "probe", "adapters", ""))
#: The most workers of a pool whose stacks are read at once.
STACKS_LIMIT = 256
#: The place of a worker that runs a builtin, which has no line of its own: no line of the program.
_EXECUTORS = tuple(
    name.replace("/", os.sep)
    for name in (
        "concurrent/futures/thread.py",
        "multiprocessing/pool.py",
        "poolscope/executors/futures.py",
        "poolscope/executors/threads.py",
        "poolscope/probe/processes/multiprocessing_pool.py",
        "poolscope/probe/executors/threadpool.py",
        "poolscope/probe/executors/work_item.py",
        "poolscope/probe/executors/wrapped.py",
    )
)
#: Reading stacks may take one part in so many of a core.
STACKS_COST_FACTOR = 100


class StackSampler:
    """Where the workers of pools are: of full ones, and of those with a task that lasts.

    Measures its cost, and rests to keep to its part of a core.

    One reader at a time; the workers it looks at go on meanwhile.
    """

    def __init__(
        self,
        clocks: CpuClocks,
        current_frames: Callable[[], dict[int, FrameType]] = current_frames,
        user_place: Callable[[FrameType], tuple[list[Line], int]] | None = None,
        gate: Callable[[FrameType], str] | None = None,
    ) -> None:
        self._clocks = clocks
        self._current_frames = current_frames
        self._user_place = user_place
        self._gate = gate
        self._waits: WaitReader | None = None
        self._notices: list[Message] = []
        self._rested_ns = 0
        self._turn = 0

    def sample(self, watches: list[PoolWatch], now_ns: int, everyone: list[PoolWatch] | None = None) -> list[Message]:
        """Return a `stacks` message for each of the pools `watches` in which user code is at work.

        With `everyone`, all pools: before them, how long their workers have waited for a CPU, what they wait for, and
        the stacks of other pools that take part.
        """
        if now_ns < self._rested_ns or not watches:
            return []
        before = self._clocks.own()
        if self._user_place is None or self._gate is None:
            from poolscope.probe.interpreter.stacks import user_place
            from poolscope.probe.sampling.wait_reasons import WaitReasons

            self._user_place, self._gate = self._user_place or user_place, self._gate or WaitReasons(self._notice)
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
            if watch.recorder.kind == "interpreter":
                continue  # its workers only show the call into the other interpreter
            if watch.recorder.look is not None:
                held, queued = watch.recorder.look(STACKS_LIMIT)
                if held or queued:
                    messages.append(("stacks", watch.recorder.id, now_ns, held, queued))
                continue
            stacks = self._stacks_of(watch.recorder.workers)
            queued = [] if watch.recorder.waiting is None else watch.recorder.waiting(STACKS_LIMIT)
            if queued:
                messages.append(("stacks", watch.recorder.id, now_ns, stacks, queued))
            elif stacks:
                messages.append(("stacks", watch.recorder.id, now_ns, stacks))
        notices, self._notices = self._notices, []
        self._rested_ns = now_ns + STACKS_COST_FACTOR * (self._clocks.own() - before)
        return notices + messages

    def _notice(self, text: str) -> None:
        self._notices.append(("notice", text))

    def _read_waits(self, full: list[PoolWatch], everyone: list[PoolWatch]) -> list[list[Any]]:
        if self._waits is None:
            from poolscope.probe.sampling.waits import WaitReader

            self._waits = WaitReader(self._current_frames, self._notice)
        return self._waits.read(full, everyone)

    def _stacks_of(self, workers: list[WorkerLog]) -> list[list[Any]]:
        """[lines, spot, tasks, gate] of the workers that are in a task (see `poolscope.messages.Stack`)."""
        chosen = [(log, task) for log in list(workers) if (task := log.running) is not None]
        if len(chosen) > STACKS_LIMIT:
            # Others each time, so that each worker gets its turn.
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
                if frame is not None:
                    lines, spot = self._user_place(frame)
                    gate = self._gate(frame)
                elif (told := log.place()) is not None:  # of another process, as that says itself
                    lines, spot, gate = told
                else:
                    continue
                # The thread went on while we read. If it has left the task, these may be the lines of none.
                if lines and log.running == task and not _is_executor(lines[0][0]):
                    function, _, started = task
                    found.setdefault((tuple(lines), spot, gate), []).extend((log.worker, function, started))
        finally:
            # A frame that we held would keep the locals of the user's task alive.
            del frame, frames
        return [[list(lines), spot, tasks, gate] for (lines, spot, gate), tasks in found.items()]


def _is_executor(filename: str) -> bool:
    return filename.endswith(_EXECUTORS) or _ADAPTERS in filename

"""Workers of a pool whose threads come, go, and work for other pools too: its places rather than its threads.

A limiter lets so many tasks run at once, in whichever threads the library has. So a worker of such a pool is a place
that one task at a time has. A task that starts takes a place that was free when the task was submitted, the one free
longest; if there is none, and the limit would have let it start at once, a new one; else the place that was given back
first: that is the task it had to wait for. So the places say of each start whether it had to wait for another task to
end, as a thread that goes on to its next task does, and there are never more of them than tasks in the pool at once.

A place is its task's thread's alone while that runs. It passes from thread to thread through `_free`, whose single
operations are atomic with and without the GIL: no task waits for another one here.
"""

from __future__ import annotations

import threading
from _thread import get_ident, get_native_id
from collections import deque
from time import perf_counter_ns, thread_time_ns
from weakref import ref

from poolscope.probe.pools.recording import WorkerLog
from poolscope.probe.pools.watching import RUN_CODES, Watch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from poolscope.probe.cpu import CpuClocks
    from poolscope.probe.pools.recording import PoolRecorder
    from poolscope.probe.runtime import Probe

#: How long a thread's place stays empty after it. A task that was submitted before the end of the last one there would
#: look as if it had waited for that; its thread is there by then.
REST_NS = 100_000_000


class _Thread(threading.local):
    """Of one thread: what lives as long as it does."""

    def __init__(self) -> None:
        self.sign = _Sign()


class _Sign:
    __slots__ = ("__weakref__",)


_thread = _Thread()


class Threads:
    """The threads that were here and have not ended. Any thread may call `meet`, and ask how many there are."""

    __slots__ = ("_signs",)

    def __init__(self) -> None:
        # Single dict operations only.
        self._signs: dict[int, ref[_Sign]] = {}

    def __len__(self) -> int:
        return len(self._signs)

    def meet(self) -> None:
        """The calling thread is here."""
        sign = _thread.sign
        key = id(sign)
        signs = self._signs
        if key not in signs:
            signs[key] = ref(sign, lambda _: signs.pop(key, None))


class Slot(WorkerLog):
    """One place. Its CPU time is that of its tasks, not of their threads.

    `ended_ns` is when its last task ended; `abandoned` the last one whose caller did not wait for its end, as in
    `running`: others may run in its stead.
    """

    __slots__ = ("_told_ns", "_used", "abandoned", "ended_ns")

    def __init__(self, worker: int) -> None:
        super().__init__(worker, 0, 0)
        self.ended_ns = 0
        self.abandoned: tuple[int, int, int] | None = None
        # What ended tasks have used; of the running one, the thread and what that had used before.
        self._used: tuple[int, int | None, int] = (0, None, 0)
        self._told_ns = 0

    def enter(self) -> None:
        """The calling thread has the place now."""
        self.ident = get_ident()
        self.native_id = get_native_id()
        self._used = (self._used[0], self.native_id, thread_time_ns())

    def leave(self, ended_ns: int, cpu_ns: int = -1) -> None:
        """Its thread has it no longer, having used so much CPU time in its life; -1: it is the calling one."""
        used, _, before = self._used
        self._used = (used + (thread_time_ns() if cpu_ns == -1 else cpu_ns) - before, None, 0)
        self.ended_ns = ended_ns

    def cpu_now(self, clocks: CpuClocks) -> int | None:
        """See `WorkerLog.cpu_now`."""
        used, native_id, before = self._used
        if native_id is not None:
            now = clocks.thread(native_id)
            if now is not None:
                used += max(0, now - before)
        # The thread goes on while we read: what was told too early is not taken back.
        self._told_ns = max(self._told_ns, used)
        return self._told_ns


class Berth(Slot):
    """A place that a thread has from its first task on until it ends."""

    __slots__ = ("_free",)

    def __init__(self, worker: int, free: deque[Berth]) -> None:
        super().__init__(worker)
        self._free = free

    def depart(self, cpu_ns: int) -> None:
        """See `WorkerLog.depart`."""
        self.leave(perf_counter_ns(), self._used[2] if cpu_ns == -1 else cpu_ns)
        self._free.append(self)


class PassingWatch(Watch):
    """The watch of a pool whose threads come and go all the time: each takes the place of one that has ended."""

    __slots__ = ("_free", "threads")

    def __init__(self, probe: Probe, recorder: PoolRecorder) -> None:
        super().__init__(probe, recorder)
        self.threads = Threads()
        self._free: deque[Berth] = deque()

    def join(self, ident: int, native_id: int) -> WorkerLog:  # noqa: ARG002 - the place asks for itself
        """See `Watch.join`."""
        free = self._free
        try:
            berth = free.popleft()
        except IndexError:
            berth = None
        if berth is not None and perf_counter_ns() - berth.ended_ns < REST_NS:
            free.appendleft(berth)
            berth = None
        if berth is None:
            berth = self.recorder.add(lambda worker: Berth(worker, free))
        berth.enter()
        self.threads.meet()
        return berth


class Slots:
    """The places of one pool. Any thread may take one and, having taken it, give it back."""

    __slots__ = ("_free", "_limit", "_recorder", "threads")

    def __init__(self, recorder: PoolRecorder, limit: Callable[[], float]) -> None:
        """`limit` says how many tasks may run at once now."""
        self._recorder = recorder
        self._limit = limit
        self.threads = Threads()
        self._free: deque[Slot] = deque()

    def take(self, submitted_ns: int) -> Slot:
        """A place for a task that starts now, in the calling thread."""
        free = self._free
        try:
            slot = free.popleft()
        except IndexError:
            slot = self._recorder.add(Slot)
        else:
            if slot.ended_ns > submitted_ns and len(self._recorder.workers) < self._limit():
                free.appendleft(slot)
                slot = self._recorder.add(Slot)
        slot.enter()
        self.threads.meet()
        return slot

    def give_back(self, slot: Slot, ended_ns: int) -> None:
        """Its task has ended."""
        slot.leave(ended_ns)
        self._free.append(slot)


class SlotTask:
    """The function of one task that takes a place while it runs. Called once, or never.

    Whoever takes its claim records what became of it: the thread that starts it, or who learns that it never will.
    """

    __slots__ = ("_claim", "_fn", "_function", "_slots", "_started", "_submitted", "_watch")

    def __init__(self, fn: Callable[..., Any], watch: Watch, slots: Slots, function: int, submitted: int) -> None:
        self._fn = fn
        self._watch = watch
        self._slots = slots
        self._function = function
        self._submitted = submitted
        # Popping from a list is one step with and without the GIL: only one of two threads gets it.
        self._claim = [True]

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """Run the function."""
        slot = self._begin()
        try:
            result = self._fn(*args, **kwargs)
        except BaseException as exc:
            self._end(slot, 1)
            # A bare `raise` adds no line for this frame: the traceback is the one of a function without us.
            exc.__traceback__ = exc.__traceback__ and exc.__traceback__.tb_next
            raise
        self._end(slot, 0)
        return result

    def _claimed(self) -> bool:
        try:
            return self._claim.pop()
        except IndexError:
            return False

    def _begin(self) -> Slot | None:
        # A thread may be past its own look at the future when that is cancelled, and start what has just been recorded
        # as cancelled: nothing more is recorded of such a task.
        if not self._claimed():
            return None
        watch = self._watch
        try:
            slot = self._slots.take(self._submitted)
            self._started = watch.clock()
            slot.running = (self._function, self._submitted, self._started)
            return slot
        except Exception as exc:
            watch.give_up(exc)
            return None

    def _end(self, slot: Slot | None, failed: int) -> None:
        if slot is None:
            return
        try:
            now = self._watch.clock()
            slot.finished.extend((slot.worker, self._function * 2 + failed, self._submitted, self._started, now))
            slot.running = None
            self._slots.give_back(slot, now)
        except Exception as exc:
            self._watch.give_up(exc)

    def queued(self) -> tuple[int, int] | None:
        """The number of its pool, and when it was submitted, if it waits for a place of its pool's; else None."""
        # Of a pool that stands for several, no place need be one of those that it waits for.
        if type(self._watch) is not Watch or not self._claim:
            return None
        return self._watch.recorder.id, self._submitted

    def cancelled(self) -> None:
        """It was cancelled, or nobody waits for its end if it has started. Never raises."""
        if self._claimed():
            self._watch.cancelled(self._function, self._submitted)
            return
        for log in list(self._watch.recorder.workers):
            task = log.running
            if task is not None and task[:2] == (self._function, self._submitted) and isinstance(log, Slot):
                log.abandoned = task

    def refused(self) -> None:
        """Its submission was refused, unless it has started. Never raises."""
        if self._claimed():
            self._watch.withdrawn(self._function, self._submitted)
            self._watch.rejected()


RUN_CODES.add(SlotTask.__call__.__code__)

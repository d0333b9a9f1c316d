"""Virtual workers, for a pool whose threads come, go, and work for other pools too.

A limiter lets so many tasks run at once, in any threads that the library has. So a worker of such a pool is not a
thread, but a place that one task at a time has. A task that starts takes the worker that has been free longest, if it
was free when the task was submitted; if there is none, and the limit would have let the task start at once, a new
worker; else the worker that was given back first, by the task that this one had to wait for. So the workers show for
each start whether it had to wait for another task to end, as a thread that goes on to its next task does, and there are
never more of them than tasks in the pool at once.

Only the thread of its task uses a worker while the task runs. Workers pass from thread to thread through `_free`, whose
single operations are atomic with and without the GIL: no task waits for another one here.

CPU time is counted by thread, from its first task in a pool to its first one in another: reading its clock before and
after each task would cost more than all else that is recorded. Where threads do other things in between, it is read.
"""

from __future__ import annotations

import threading
from _thread import get_ident, get_native_id
from collections import deque
from functools import partial
from time import perf_counter_ns, thread_time_ns
from weakref import ref

from poolscope.probe.interpreter.tracebacks import leave_out, unseen
from poolscope.probe.recording.pool_watch import RUN_CODES, Watch
from poolscope.probe.recording.recorder import WorkerLog

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from poolscope.probe.api import ProbeApi
    from poolscope.probe.interpreter.cpu import CpuClocks
    from poolscope.probe.recording.recorder import PoolRecorder

#: How long a worker rests after its thread has ended. A task that was submitted before the end of the last one there
#: would look as if it had waited for that; its own thread is there by then.
REST_NS = 100_000_000


class _Thread(threading.local):
    """Lives as long as one thread."""

    def __init__(self) -> None:
        self.sign = _Sign()


class _Sign:
    """A thread. Written by it alone.

    `serves` is the pool whose tasks it runs, as the threads of that pool, and what its clock showed when it began to;
    None: it runs none. Goes with the thread, as a `threading.local` does, so that what it has used is still counted.
    """

    __slots__ = ("__weakref__", "ident", "native_id", "serves")

    def __init__(self) -> None:
        self.ident = get_ident()
        self.native_id = get_native_id()
        self.serves: tuple[Threads, int] | None = None

    def serve(self, threads: Threads | None) -> None:
        """Note that from here on the calling thread, which it is, runs tasks of that pool, or of none."""
        now = thread_time_ns()
        before, self.serves = self.serves, None
        if before is not None:
            before[0].used.append(now - before[1])
        if threads is not None:
            self.serves = threads, now

    def __del__(self) -> None:
        # Of this thread, unless the interpreter is shutting down and another one clears up.
        if self.serves is not None and get_ident() == self.ident:
            self.serve(None)


_thread = _Thread()


class Threads:
    """The threads of a pool that have not ended, and what they have used. Any thread may call `meet` and `len`;
    `cpu_ns` is for one reader at a time."""

    __slots__ = ("_signs", "_told_ns", "_used_ns", "used")

    def __init__(self) -> None:
        # Single dict and list operations only.
        self._signs: dict[int, ref[_Sign]] = {}
        #: CPU time of threads that have gone on to something else, or ended (ns).
        self.used: list[int] = []
        self._used_ns = 0
        self._told_ns = 0

    def __len__(self) -> int:
        return len(self._signs)

    def meet(self, sign: _Sign) -> None:
        """Note that the calling thread, which `sign` is, is here."""
        key = id(sign)
        signs = self._signs
        if key not in signs:
            signs[key] = ref(sign, partial(signs.pop, key))

    def cpu_ns(self, clocks: CpuClocks) -> int:
        """Return the CPU time of the threads while they served this pool. Never less than before."""
        now = 0
        # Read the clocks first: what a thread adds meanwhile is then counted late, and not twice.
        for weak in list(self._signs.values()):
            sign = weak()
            serves = None if sign is None else sign.serves
            if sign is not None and serves is not None and serves[0] is self:
                shown = clocks.thread(sign.native_id)
                # A clock that goes back is that of another thread, which got the id of one that has ended.
                if shown is not None and sign.serves is serves:
                    now += max(0, shown - serves[1])
        head = self.used[:]
        del self.used[: len(head)]
        self._used_ns += sum(head)
        self._told_ns = max(self._told_ns, self._used_ns + now)
        return self._told_ns


class VirtualWorker(WorkerLog):
    """One virtual worker.

    `ended_ns` is when its last task ended; `abandoned` the last task whose caller did not wait for its end, as in
    `running`: others may run in its place.
    """

    __slots__ = ("abandoned", "ended_ns")

    def __init__(self, worker: int) -> None:
        super().__init__(worker, 0, 0)
        self.ended_ns = 0
        self.abandoned: tuple[int, int, int] | None = None

    def cpu_now(self, clocks: CpuClocks) -> int | None:  # noqa: ARG002 - its threads are asked instead
        """See `WorkerLog.cpu_now`."""
        return None


class ThreadBinding(VirtualWorker):
    """A worker that one thread has from its first task to its end. Its CPU time is that of its threads meanwhile."""

    __slots__ = ("_free", "_told_ns", "_used")

    def __init__(self, worker: int, free: deque[ThreadBinding]) -> None:
        super().__init__(worker)
        self._free = free
        # CPU time of its ended threads; number of the present one, and its CPU time before.
        self._used: tuple[int, int | None, int] = (0, None, 0)
        self._told_ns = 0

    def enter(self) -> None:
        """Note that the calling thread has the worker now."""
        self.ident = get_ident()
        self.native_id = get_native_id()
        self._used = (self._used[0], self.native_id, thread_time_ns())

    def depart(self, cpu_ns: int) -> None:
        """See `WorkerLog.depart`."""
        used, _, before = self._used
        self._used = (used + (before if cpu_ns == -1 else cpu_ns) - before, None, 0)
        self.ended_ns = perf_counter_ns()
        self._free.append(self)

    def cpu_now(self, clocks: CpuClocks) -> int | None:
        """See `WorkerLog.cpu_now`."""
        used, native_id, before = self._used
        if native_id is not None:
            now = clocks.thread(native_id)
            if now is not None:
                used += max(0, now - before)
        # The thread goes on while we read: never return less than before.
        self._told_ns = max(self._told_ns, used)
        return self._told_ns


class EphemeralWatch(Watch):
    """The watch of a pool whose threads come and go all the time: each takes the worker of one that has ended."""

    __slots__ = ("_free", "threads")

    def __init__(self, probe: ProbeApi, recorder: PoolRecorder) -> None:
        super().__init__(probe, recorder)
        self.threads = Threads()
        self._free: deque[ThreadBinding] = deque()

    def join(self, ident: int, native_id: int) -> WorkerLog:  # noqa: ARG002 - the worker asks for itself
        """See `Watch.join`."""
        free = self._free
        try:
            binding = free.popleft()
        except IndexError:
            binding = None
        if binding is not None and perf_counter_ns() - binding.ended_ns < REST_NS:
            free.appendleft(binding)
            binding = None
        if binding is None:
            binding = self.recorder.add(lambda worker: ThreadBinding(worker, free))
        binding.enter()
        self.threads.meet(_thread.sign)
        return binding


class VirtualWorkers:
    """The virtual workers of one pool. Any thread may take one, and give it back."""

    __slots__ = ("_free", "_lent", "_limit", "_recorder", "threads")

    def __init__(self, recorder: PoolRecorder, limit: Callable[[], float], *, lent: bool = False) -> None:
        """`limit` returns how many tasks may run at once now; `lent`: threads do other things between their tasks."""
        self._recorder = recorder
        self._limit = limit
        self._lent = lent
        self.threads = Threads()
        self._free: deque[VirtualWorker] = deque()
        recorder.cpu = self.threads.cpu_ns

    def take(self, submitted_ns: int) -> VirtualWorker:
        """Return a worker for a task that starts now, in the calling thread."""
        free = self._free
        try:
            worker = free.popleft()
        except IndexError:
            worker = self._recorder.add(VirtualWorker)
        else:
            if worker.ended_ns > submitted_ns and len(self._recorder.workers) < self._limit():
                free.appendleft(worker)
                worker = self._recorder.add(VirtualWorker)
        sign = _thread.sign
        worker.ident = sign.ident
        worker.native_id = sign.native_id
        serves, threads = sign.serves, self.threads
        if serves is None or serves[0] is not threads:
            threads.meet(sign)
            sign.serve(threads)
        return worker

    def give_back(self, worker: VirtualWorker, ended_ns: int) -> None:
        """Give a worker back, as its task has ended."""
        if self._lent:
            _thread.sign.serve(None)
        worker.ended_ns = ended_ns
        self._free.append(worker)


class VirtualWorkerTask:
    """The function of one task that takes a virtual worker while it runs. Called once, or never.

    The thread that takes its claim records what became of it: the one that starts it, or the caller that gives it up.
    """

    __slots__ = ("_claim", "_fn", "_function", "_started", "_submitted", "_watch", "_workers")

    def __init__(
        self, fn: Callable[..., Any], watch: Watch, workers: VirtualWorkers, function: int, submitted: int
    ) -> None:
        self._fn = fn
        self._watch = watch
        self._workers = workers
        self._function = function
        self._submitted = submitted
        # Deleting an attribute is one step with and without the GIL: only one of two threads succeeds.
        self._claim = True

    @unseen
    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """Run the function."""
        worker = self._begin()
        try:
            result = self._fn(*args, **kwargs)
        except BaseException as exc:
            self._end(worker, 1)
            # A bare `raise` adds no line for this frame: the traceback is the one of a function without us.
            leave_out(exc)
            raise
        self._end(worker, 0)
        return result

    def _claimed(self) -> bool:
        try:
            del self._claim
        except AttributeError:
            return False
        return True

    def _begin(self) -> VirtualWorker | None:
        # A thread may be past its own look at the future when that is cancelled, and start what has just been recorded
        # as cancelled: nothing more is recorded of such a task.
        if not self._claimed():
            return None
        watch = self._watch
        worker = None
        try:
            worker = self._workers.take(self._submitted)
            self._started = watch.clock()
            worker.running = (self._function, self._submitted, self._started)
            return worker
        except BaseException as exc:
            if worker is not None:
                worker.running = None
            watch.broke(self._function, self._submitted)
            watch.give_up(exc)
            return None

    def _end(self, worker: VirtualWorker | None, failed: int) -> None:
        if worker is None:
            return
        now = 0
        try:
            now = self._watch.clock()
            worker.finished.extend((worker.worker, self._function * 2 + failed, self._submitted, self._started, now))
        except BaseException as exc:
            if not now:  # it came before the record
                now = self._started
                worker.finished.extend((worker.worker, self._function * 2 + failed, self._submitted, now, now))
            self._watch.give_up(exc)
        finally:
            worker.running = None
            self._workers.give_back(worker, now)

    def queued(self) -> tuple[int, int] | None:
        """Return the number of its pool, and when it was submitted, if it waits for a worker there; else None."""
        # A pool that stands for several may have no worker that it waits for.
        if type(self._watch) is not Watch or not hasattr(self, "_claim"):
            return None
        return self._watch.recorder.id, self._submitted

    def cancelled(self) -> None:
        """Note that it was cancelled, or that nothing waits for its end if it has started. Never raises."""
        if self._claimed():
            self._watch.cancelled(self._function, self._submitted)
            return
        for log in list(self._watch.recorder.workers):
            task = log.running
            if task is not None and task[:2] == (self._function, self._submitted) and isinstance(log, VirtualWorker):
                log.abandoned = task

    def refused(self) -> None:
        """Note that its submission was refused, unless it has started. Never raises."""
        if self._claimed():
            self._watch.withdrawn(self._function, self._submitted)
            self._watch.rejected()


RUN_CODES.add(VirtualWorkerTask.__call__.__code__)

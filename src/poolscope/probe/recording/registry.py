"""The pools of a process: which exist, what is new in each, and when one is over."""

from __future__ import annotations

from functools import partial
from itertools import count
from weakref import ref

from poolscope.probe.recording.recorder import take, unread_recorder
from poolscope.probe.recording.worker_clocks import WorkerCpu, WorkerDelay

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from poolscope.probe.interpreter.cpu import CpuClocks
    from poolscope.probe.recording.recorder import PoolRecorder
    from poolscope.probe.transport.dispatcher import Message

#: The workers' CPU clocks are read this often at most, per pool.
CPU_INTERVAL_NS = 250_000_000
#: A task that runs this long may be stuck: sample where it is.
HELD_NS = 2_000_000_000
#: How long a collected pool with tasks in its queue may be without workers before it counts as over.
DESERTED_NS = 5_000_000_000

#: Where an executor keeps its watch (see `pool_watch`); None: it has none.
ATTRIBUTE = "_poolscope"

#: Not sent yet; sent to the sinks; ended, though a refused call may still appear.
NEW, OPEN, CLOSED = "new", "open", "closed"


class PoolWatch:
    """One pool as the probe's readers see it.

    One reader at a time. The executor may be collected at any moment, in any thread, which puts its key into `dead`.

    `quiet`: nothing queued, nothing running and no CPU time unread, so that only an arrival or a refusal can
    be news. `full`: tasks wait, and every worker that there may be is in one. `queued`: tasks wait. `filled`: none
    waits, but all of several workers are in one, and others have just ended. `held`: a worker has been in one task for
    long.
    """

    __slots__ = (
        "_chunked",
        "_deserted_ns",
        "_executor",
        "_unfinished",
        "cpu",
        "delay",
        "filled",
        "full",
        "held",
        "key",
        "opened_ns",
        "queued",
        "quiet",
        "recorder",
        "state",
    )

    def __init__(
        self,
        recorder: PoolRecorder,
        executor: object,
        opened_ns: int,
        dead: dict[int, object],
    ) -> None:
        self.key = recorder.id
        self.recorder = recorder
        self.opened_ns = opened_ns
        self.state = NEW
        self.quiet = True
        self.full = False
        self.filled = False
        self.queued = False
        self.held = False
        self.cpu = WorkerCpu()
        self.delay = WorkerDelay()
        # Tasks that arrived, and neither finished nor were cancelled or broken.
        self._unfinished = 0
        self._chunked = (0, 0)
        self._deserted_ns: int | None = None
        # The collector must call no function of ours: an exception that a signal handler raises in it would be lost.
        self._executor = ref(executor, partial(dead.setdefault, self.key))

    @property
    def gone(self) -> bool:
        """Whether the executor was collected."""
        return self._executor() is None

    def has_news(self) -> bool:
        """Whether a quiet pool has something to send."""
        return bool(self.recorder.arrivals or self.recorder.rejected)

    def opened_message(self) -> Message:
        """Return the message that opens the pool for a sink."""
        recorder = self.recorder
        max_workers = recorder.last_size[1]
        return (
            "pool_opened",
            recorder.id,
            recorder.name,
            recorder.kind,
            recorder.executor,
            recorder.created_at,
            max_workers,
            self.opened_ns if recorder.since_ns is None else recorder.since_ns,
            recorder.created_by,
        )

    def batch(self, clock: Callable[[], int], clocks: CpuClocks, *, read_cpu: bool = False) -> Message:
        """Return what is new. Reads the CPU clocks if that is due, or if `read_cpu` says so."""
        recorder = self.recorder
        now = clock()
        fresh = read_cpu or now - self.cpu.read_ns >= CPU_INTERVAL_NS

        def cpu_ns() -> int:
            if fresh:
                self.cpu.read(recorder.workers, clocks, now, recorder.cpu)
            return self.cpu.total

        message = recorder.drain(clock, cpu_ns)
        _, _, _, _, max_workers, _, _, finished, running, cancelled, broken, arrivals = message
        # A task that ended while we read is both running and finished, and then missing here: that makes the
        # pool look one task less queued for one reading.
        self._unfinished += len(arrivals) // 2 - len(finished) // 5 - len(cancelled) // 3 - len(broken) // 3
        busy = len(running) // 4
        taken = busy if recorder.taken is None else max(busy, recorder.taken())
        self.queued = self._unfinished > busy
        self.full = 0 < max_workers <= taken and self.queued
        self.filled = not self.full and 1 < max_workers <= taken and bool(finished)
        self.held = any(now - started >= HELD_NS for started in running[3::4])
        settled = recorder.settled is None or recorder.settled()
        self.quiet = fresh and not busy and self._unfinished <= 0 and settled
        return message

    def chunks(self, clock: Callable[[], int]) -> list[Message]:
        """Return how many chunks the pool has got, if there are new ones."""
        known, self._chunked = self._chunked, self.recorder.chunked
        return [] if known == self._chunked else [("chunks", self.recorder.id, clock(), *self._chunked)]

    def stopped(self) -> bool:
        """Whether the executor was shut down and has no worker left. If so, the next batch is the last."""
        if self.recorder.ended:
            return True
        executor = self._executor()
        if executor is None:
            return False
        own = instance_dict(executor)
        shutdown = own.get("_shutdown") is True or own.get("_shutdown_thread") is True
        # Pools of `multiprocessing` have a state instead.
        if not shutdown and own.get("_state") not in ("CLOSE", "TERMINATE"):
            return False
        size = self.recorder.size()
        return size is None or size[0] == 0

    def awaits_workers(self) -> bool:
        """Whether tasks are left for a worker process that is yet to replace one that has ended."""
        return self.recorder.kind == "process" and self._unfinished > 0

    def let_go(self) -> None:
        """Stop the executor from recording, and drop what was not fetched. A running task may add one more."""
        recorder = self.recorder
        recorder.given_up = True
        own = instance_dict(self._executor())
        if ATTRIBUTE in own:  # others ask the recorder
            own[ATTRIBUTE] = None
        for records in (recorder.arrivals, recorder.cancelled, recorder.broken, recorder.rejected, recorder.withdrawn):
            records.clear()
        for log in recorder.workers:
            log.finished.clear()

    def exhausted(self, now_ns: int) -> bool:
        """Whether the executor is gone, and the batches up to now have the end of each task."""
        if not self.gone:
            return False
        recorder = self.recorder
        if self._unfinished <= 0 or recorder.look is not None or recorder.waiting is not None:
            return True  # of what has no workers of its own, nothing comes to its end after it
        # Workers go on with what is queued. With none left, those tasks never end; but one may be starting.
        if self._deserted_ns is None or not all(log.left for log in recorder.workers):
            self._deserted_ns = now_ns
        return now_ns - self._deserted_ns >= DESERTED_NS


def instance_dict(instance: object) -> dict[str, Any]:
    """Return the attributes of the object itself, without asking the program's class; {} if it has none."""
    try:
        held: dict[str, Any] = object.__getattribute__(instance, "__dict__")
    except AttributeError:
        return {}
    return held


class Pools:
    """All pools of this process, from `open` to their end.

    Any thread may call `open`; `read` is for one thread at a time. `read` gives what it finds to `push`, in order. It
    calls `failed` for a pool that it cannot read, and drops that pool.
    """

    def __init__(
        self,
        clock: Callable[[], int],
        clocks: CpuClocks,
        push: Callable[[Message], object],
        failed: Callable[[BaseException], object],
    ) -> None:
        self._clock = clock
        self._clocks = clocks
        self._push = push
        self._failed = failed
        self._ids = count(1)
        self._watches: dict[int, PoolWatch] = {}
        #: Keys of pools whose executor was collected since `_bury`.
        self._dead: dict[int, object] = {}

    def __len__(self) -> int:
        self._bury()
        return len(self._watches)

    def open(
        self,
        executor: object,
        *,
        name: str,
        kind: str,
        created_at: str,
        created_by: str = "",
        size: Callable[[], tuple[int, int] | None] | None,
        recorder: PoolRecorder | None = None,
    ) -> PoolRecorder:
        """Return a recorder for a new pool, which the next `read` opens for the sinks: that one, if there is one.

        Neither we nor `size` may hold the executor. If it is gone by then without a task, nothing is left.
        """
        if recorder is None:
            recorder = unread_recorder(executor, kind)
        recorder.id, recorder.name = next(self._ids), name
        recorder.created_at, recorder.created_by = created_at, created_by
        recorder.size = size or size_of(executor)
        recorder.last_size = recorder.size() or (0, 0)
        self._bury()
        watch = PoolWatch(recorder, executor, self._clock(), self._dead)
        self._watches[watch.key] = watch
        return recorder

    def _bury(self) -> None:
        """Drop the pools that were collected before they had anything to send."""
        for key in list(self._dead):
            self._dead.pop(key, None)
            watch = self._watches.get(key)
            # A reader that opens the pool at this moment will see that the executor is gone, and close it.
            if watch is not None and watch.state != OPEN and not watch.has_news():
                self._watches.pop(key, None)

    def read(self, *, read_cpu: bool = False, ask_all: bool = True) -> list[PoolWatch]:
        """Push what is new in each pool. Returns those that are full.

        `ask_all`: also ask quiet pools whether they were shut down, which costs more than all else here.
        """
        full: list[PoolWatch] = []
        if self._dead:
            self._bury()
        for watch in self.everyone():
            known = watch.state == OPEN
            if watch.quiet and known and not watch.gone and not ask_all and not watch.has_news():
                continue
            try:
                if self._read(watch, read_cpu) and watch.full:
                    full.append(watch)
                if watch.recorder.given_up:
                    self._let_go(watch)
            except Exception as exc:
                self._failed(exc)
                self._let_go(watch)
        return full

    def let_go(self) -> None:
        """Stop every pool from recording."""
        for watch in self.everyone():
            self._let_go(watch)

    def _let_go(self, watch: PoolWatch) -> None:
        self._watches.pop(watch.key, None)
        self._push(("notice", f"pool {watch.recorder.name!r} is recorded no more: what it did later is missing"))
        try:
            at = self._clock()
        except Exception:
            at = watch.opened_ns  # a pool's end is never before its last batch
        if watch.state == OPEN:
            watch.state = CLOSED
            self._push(("pool_closed", watch.recorder.id, at))
        try:
            watch.let_go()
        except Exception as exc:
            self._failed(exc)

    def _read(self, watch: PoolWatch, read_cpu: bool) -> bool:
        """Push what is new in one pool. Returns whether the pool goes on."""
        if watch.state == CLOSED and not watch.has_news():
            if watch.gone:
                self._watches.pop(watch.key, None)
            return False
        if watch.state != OPEN:
            self._open(watch)
        stopped = watch.stopped()
        if not watch.quiet or watch.has_news():
            if watch.recorder.started:  # before the tasks of these workers
                self._push(("workers_started", watch.recorder.id, self._clock(), take(watch.recorder.started)))
            self._push(watch.batch(self._clock, self._clocks, read_cpu=read_cpu or stopped))
            for message in watch.chunks(self._clock):
                self._push(message)
        if ((stopped and not watch.awaits_workers()) or watch.exhausted(self._clock())) and not watch.has_news():
            self._close(watch)
            return False
        return True

    def _open(self, watch: PoolWatch) -> None:
        if watch.state == CLOSED:
            # Reported as shut down, but the program goes on submitting: the same pool under a new number.
            watch.recorder.id = next(self._ids)
            watch.recorder.closed = False
            watch.opened_ns = self._clock()
        # First: see `_collected`.
        watch.state = OPEN
        watch.quiet = False
        watch.recorder.told = True
        self._push(watch.opened_message())

    def _close(self, watch: PoolWatch) -> None:
        watch.state = CLOSED
        watch.recorder.closed = True
        self._push(("pool_closed", watch.recorder.id, self._clock()))
        if watch.gone or watch.recorder.ended:
            self._watches.pop(watch.key, None)

    def everyone(self) -> list[PoolWatch]:
        """Return all present pools."""
        while True:
            try:
                return list(self._watches.values())
            except RuntimeError:
                continue  # a pool came or went in between: any consistent list will do


def size_of(executor: Any) -> Callable[[], tuple[int, int] | None]:
    """(threads, max_workers) of a standard executor, which is not held; None once it is gone."""
    weak = ref(executor)

    def size() -> tuple[int, int] | None:
        pool: Any = weak()
        return None if pool is None else (len(pool._threads), pool._max_workers)

    return size

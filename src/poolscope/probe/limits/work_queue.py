"""One work queue: its items, its consumers, and what is recorded of both.

An item is a task of a pool: submitted when it is put, started when a consumer takes it, finished when that says
`task_done` or asks for the next one. Consumers are the workers: tasks or threads that come back for more.

What runs in the program's threads only notes, and logs nothing: the lock of the queue may be held, and the log may go
through that queue. Our own thread opens the row, with all that was noted since (`queue_registry.py`).

The queue refers to its record, and the record to the queue, its items and its consumers weakly or not at all.
"""

from __future__ import annotations

import sys
from collections import deque
from functools import partial
from types import FunctionType, MethodType
from weakref import ref

from poolscope.probe.interpreter.stacks import DEPTH_LIMIT, is_user_file
from poolscope.probe.limits.stamps import ByItem
from poolscope.probe.recording.pool_watch import UNREAD_LIMIT, open_watch
from poolscope.probe.recording.virtual_workers import VirtualWorker

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType, FrameType
    from typing import Any, Protocol

    from poolscope.probe.interpreter.stacks import Site
    from poolscope.probe.recording.pool_watch import Watch

    class Registry(Protocol):
        """What a record needs of that of all queues of its family (see `queue_registry.WorkQueues`)."""

        probe: Any
        askers: tuple[CodeType, ...]

        def rest(self, queue: Any, record: WorkQueue) -> None:
            """Leave a queue at rest."""

        def failed(self, queue: Any, record: WorkQueue | None, exc: BaseException) -> None:
            """Give up a queue as a hook of ours has failed."""


#: The kind of its pool.
KIND = "queue"
#: So many taken items show whether any has to wait, and which consumers take them.
LOOKED_AT = 128
#: A queue that has not proven to be one of work by then is none: it is a library's, a stock, or of results.
DECIDED_AT = 8 * LOOKED_AT
#: An item that was in the queue for so long (ns) had to wait.
WAITED_NS = 10_000_000
#: Items that are noted of a queue that has not proven to be one of work, beyond which it is left at rest.
UNPROVEN_LIMIT = 50_000
#: A consumer that has not come back for so long (ns), though items wait, does something else now.
AWAY_NS = 1_000_000_000
#: A consumer that is gone counts until so many items for each were taken: it may be the end of all.
TAKES_EACH = 4

#: What an item may be that calls a function: it, or a tuple that begins with it.
_CALLING = frozenset((tuple, FunctionType, MethodType, partial))

_getframe = sys._getframe


class _Taker(ref):  # type: ignore[type-arg]  # subscripting it costs at run time
    """A task or thread, weakly, and the consumer that it is."""

    __slots__ = ("consumer",)

    consumer: Consumer


class Consumer:
    """One that takes items. `function` is the one that does, 0 if that is a library's; `held` the `id` of the last
    item; `takes` how many it took; `ended_ns` when it was done with the last one."""

    __slots__ = ("ended_ns", "function", "held", "key", "log", "taker", "takes")

    def __init__(self, taker: _Taker, key: int, function: int, log: VirtualWorker) -> None:
        self.taker = taker
        self.key = key
        self.function = function
        self.log = log
        self.held = self.takes = self.ended_ns = 0


class WorkQueue:
    """The record of one queue. `arrives`, `takes`, `asks` and `done` are called by what uses the queue, one at a time
    but for the last, and never raise because of a failure of ours; the others are our own thread's.

    A family of queues defines its consumers in a subclass.
    """

    __slots__ = (
        "__weakref__",
        "arrivals",
        "by_workers",
        "cancelled",
        "clock",
        "complete",
        "consumers",
        "dead",
        "free",
        "function",
        "functions",
        "identify",
        "key",
        "last_size",
        "logs",
        "over",
        "probe",
        "put_back",
        "puts",
        "queues",
        "said_done",
        "since_ns",
        "site",
        "size_mark",
        "stamps",
        "taken",
        "waited",
        "watch",
    )

    def __init__(self, queues: Registry, site: Site, stamps: Any, key: Callable[[], int], *, complete: bool) -> None:
        """`complete`: from its first item on. `key` returns a number for the task or thread at work, unique while it
        lives."""
        probe = queues.probe
        self.queues = queues
        self.site = site
        self.key = key
        self.stamps = stamps
        self.probe = probe
        self.complete = complete
        self.clock: Callable[[], int] = probe.clock
        self.functions: Callable[[CodeType, dict[str, Any]], int] = probe.functions.of_code
        self.identify: Callable[[Any, tuple[Any, ...]], int] = probe.functions.identify
        self.since_ns = self.clock()
        #: As a `PoolRecorder` has them, which gets these very lists.
        self.arrivals: list[int] = []
        self.cancelled: list[int] = []
        self.logs: list[VirtualWorker] = []
        self.free: deque[Any] = deque()
        self.consumers: dict[int, Consumer] = {}
        #: Those whose task or thread is gone, as `_Taker`.
        self.dead: deque[_Taker] = deque()
        #: What the items go by that do not call anything: the function of the first consumer.
        self.function = 0
        self.puts = self.taken = self.waited = self.put_back = self.by_workers = 0
        self.said_done = False
        self.last_size = 1
        self.size_mark = 0
        self.watch: Watch | None = None
        #: Nothing is noted any more.
        self.over = False

    def __reduce__(self) -> Any:
        # A copy of the queue has none.
        return type(None), ()

    # -- what a family says ------------------------------------------------------------------------------------

    def current(self) -> Any:
        """Return the task or thread that is at work; None: not known."""
        raise NotImplementedError

    def outermost(self, _taker: Any) -> FrameType | None:
        """Return the outermost frame of what is at work, where there are others around it."""
        return None

    def new_log(self, worker: int) -> VirtualWorker:
        """Return the log of a worker of this number."""
        raise NotImplementedError

    def begin(self, log: VirtualWorker) -> None:
        """Note that what is at work has this log from now on."""

    def met(self, frame: FrameType) -> None:
        """Note that a new consumer has called the method that this frame is in."""

    def leave(self, log: VirtualWorker) -> None:
        """Note that what had this log is gone."""
        self.free.append(log)

    def has_ended(self, _taker: Any) -> bool:
        """Whether a task or thread that is still there has come to its end."""
        return False

    def is_main(self, taker: Any) -> bool:
        """Whether it is what the program begins with, and not one that was started to take items."""
        raise NotImplementedError

    def is_at_work(self) -> bool:
        """Whether what is at work is in a task of another pool."""
        return False

    def attach(self, queue: Any, recorder: Any) -> None:
        """Tell the recorder of a pool what this family knows of its workers."""
        raise NotImplementedError

    # -- what happens ------------------------------------------------------------------------------------------

    def arrives(self, queue: Any, item: Any, held: int) -> None:
        """Note that an item is about to be put beside `held` others."""
        try:
            self._arrives(item, held)
            if self.over:
                self.queues.rest(queue, self)
        except BaseException as exc:
            self.queues.failed(queue, self, exc)

    def takes(self, queue: Any, item: Any, held: int) -> None:
        """Note that an item is about to be taken out of `held`; called by what `get` calls."""
        try:
            self._takes(item, held)
            if self.over:
                self.queues.rest(queue, self)
        except BaseException as exc:
            self.queues.failed(queue, self, exc)

    def asks(self, queue: Any, caller: FrameType) -> None:
        """Note that a consumer, at `caller`, sees that there is no item."""
        if caller.f_code in self.queues.askers:
            self.done(queue, says_so=False)

    def done(self, queue: Any, *, says_so: bool = True) -> None:
        """Note that what is at work is done with its item, as it `says_so` or asks for another one."""
        try:
            self.said_done = self.said_done or says_so
            consumer = self.consumers.get(self.key())
            if consumer is not None and consumer.log.running is not None:
                self._end(consumer, self.clock())
        except BaseException as exc:
            self.queues.failed(queue, self, exc)

    def _arrives(self, item: Any, held: int) -> None:
        now = self.clock()
        stamps = self.stamps
        if len(stamps) != held:
            self._match(held, now)
        own = self._called(item) if type(item) in _CALLING else 0
        if type(stamps) is ByItem:
            stamps.add_for(item, (own, now))
        else:
            stamps.add((own, now))
        watch = self.watch
        if watch is None:
            self._look_at_put(item)
        elif watch.recorder.given_up or len(self.arrivals) > UNREAD_LIMIT:
            self.over = watch.recorder.given_up = True
            return
        self.arrivals.extend((own or self.function, now))

    def _called(self, item: Any) -> int:
        """Return the number of the function that an item is or begins with; 0: none."""
        if type(item) is tuple:
            item = item[0] if item else None
        return self.identify(item, ()) if type(item) in _CALLING and type(item) is not tuple else 0

    def _look_at_put(self, item: Any) -> None:
        self.puts += 1
        consumer = self.consumers.get(self.key())
        if consumer is not None and consumer.held == id(item):
            self.put_back += 1
        if self.is_at_work():
            self.by_workers += 1
        if self.puts > UNPROVEN_LIMIT:
            self.over = True

    def _takes(self, item: Any, held: int) -> None:
        now = self.clock()
        stamps = self.stamps
        if len(stamps) != held:
            self._match(held, now)
        own, submitted = stamps.next(item)
        key = self.key()
        consumer = self.consumers.get(key)
        if consumer is None or consumer.taker() is None:
            taker = self.current()
            frame = _getframe(3)  # `get`, which has called `_get`, which has called us
            if taker is None or frame.f_code.co_name == "shutdown":
                self.cancelled.extend((own or self.function, submitted, now))
                return
            consumer = self._meet(taker, key, frame)
        log = consumer.log
        if log.running is not None:
            self._end(consumer, now)
        log.running = own or consumer.function, submitted, now
        consumer.held = id(item)
        consumer.takes += 1
        self.taken += 1
        if self.watch is None:
            self.waited += now - submitted >= WAITED_NS
            # Where some have waited, it is our thread's to say what it is.
            if self.taken >= LOOKED_AT and (not self.waited or self.taken >= UNPROVEN_LIMIT):
                self.over = True

    def _meet(self, taker: Any, key: int, frame: FrameType) -> Consumer:
        """Return a new consumer, which is at work."""
        self._bury()
        function = self._function(frame, self.outermost(taker))
        if not self.function:
            self.function = function
        free = self.free
        if free:
            log = free.popleft()
        else:
            log = self.new_log(len(self.logs) + 1)
            self.logs.append(log)
        self.begin(log)
        self.met(frame)
        weak = _Taker(taker, self.dead.append)
        weak.consumer = consumer = Consumer(weak, key, function, log)
        self.consumers[key] = consumer
        return consumer

    def _function(self, caller: FrameType | None, outermost: FrameType | None) -> int:
        """Return the number of the user's function that has called the queue; 0: there is none."""
        for _ in range(DEPTH_LIMIT):
            if caller is None:
                break
            if is_user_file(caller.f_code.co_filename):
                return self.functions(caller.f_code, caller.f_globals)
            if caller is outermost:
                break  # what is outside of it runs the task
            caller = caller.f_back
        return 0

    def _end(self, consumer: Consumer, now: int) -> None:
        """Note that a consumer is done with its item, if it has one."""
        log = consumer.log
        running = log.running
        if running is not None:
            function, submitted, started = running
            log.finished.extend((log.worker, function * 2, submitted, started, now))
            log.running = None
            consumer.ended_ns = now

    def _match(self, held: int, now: int) -> None:
        """Note what has come or gone past us: the queue holds so many items."""
        stamps = self.stamps
        missing = held - len(stamps)
        if missing > 0:
            since_ns = now if self.arrivals or self.watch is not None else self.since_ns
            stamps.fill(missing, (0, since_ns))
            self.arrivals.extend((self.function, since_ns) * missing)
        for _ in range(-missing):
            own, submitted = stamps.spare()
            self.cancelled.extend((own or self.function, submitted, now))

    def _bury(self) -> None:
        """Let go of consumers that are gone."""
        dead = self.dead
        while dead:
            try:
                weak = dead.popleft()
            except IndexError:
                break
            self._release(weak.consumer)

    def _release(self, consumer: Consumer) -> None:
        if self.consumers.get(consumer.key) is consumer:
            del self.consumers[consumer.key]
            self._end(consumer, self.clock())
            self.leave(consumer.log)

    # -- our thread's ------------------------------------------------------------------------------------------

    def size(self) -> tuple[int, int]:
        """Return how many consumers there are, and how many there were before some were gone just now."""
        self._bury()
        now, alive = self.clock(), 0
        for consumer in list(self.consumers.values()):
            taker = consumer.taker()
            if taker is None or self.has_ended(taker):
                self._release(consumer)
            elif consumer.log.running is not None or not self.stamps or now - consumer.ended_ns < AWAY_NS:
                alive += 1
            del taker
        if alive >= self.last_size:
            self.size_mark = self.taken
        elif alive and self.taken - self.size_mark >= TAKES_EACH * self.last_size:
            self.last_size, self.size_mark = alive, self.taken
        self.last_size = max(self.last_size, alive)
        return alive, self.last_size

    def proven(self) -> bool | None:
        """Whether it is known by now to be a work queue; None: it is known to be none."""
        consumers = list(self.consumers.values())
        ours = [consumer for consumer in consumers if consumer.function]
        back = [consumer for consumer in ours if consumer.takes > 1]
        # Of a queue that was at rest there may be others, which are busy.
        known = bool(back) and (self.complete or self.taken >= 2 * len(ours))
        # Those that have an item may yet put it back.
        stock = 2 * self.put_back > self.taken - sum(log.running is not None for log in list(self.logs))
        if self.waited and known and not stock and not (len(ours) == 1 and self._takes_results(ours[0])):
            return True
        return None if self.taken >= DECIDED_AT and self.waited else False

    def _takes_results(self, only: Consumer) -> bool:
        """Whether the only consumer takes what others have finished."""
        if self.said_done:
            return False
        taker = only.taker()
        return taker is not None and (self.is_main(taker) or 2 * self.by_workers > self.puts)

    def open(self, queue: Any, find_probe: Callable[[], Any]) -> None:
        """Open its row, with all that was noted. Never raises because of a failure of ours."""
        self._bury()
        watch = open_watch(
            queue, find_probe, name=None, prefix="", kind=KIND, size_of=lambda _: self.size, site=self.site
        )
        if watch is None:
            self.over = True
            return
        recorder = watch.recorder
        recorder.since_ns = self.since_ns
        arrivals = self.arrivals
        # What comes meanwhile goes by the function already.
        for place in range(0, len(arrivals), 2):
            arrivals[place] = arrivals[place] or self.function
        recorder.arrivals = watch.arrivals = arrivals
        recorder.cancelled = self.cancelled
        recorder.workers = self.logs  # type: ignore[assignment]  # a list of a subclass
        self.attach(queue, recorder)
        self.watch = watch

    def close(self) -> None:
        """Note nothing more: what is in the queue or in hand counts as gone."""
        self.over = True
        for consumer in list(self.consumers.values()):
            self._end(consumer, self.clock())
        watch = self.watch
        if watch is not None:
            self._match(0, self.clock())

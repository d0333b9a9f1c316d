"""A client's pool of connections, as a pool of holds: what has a connection of it, and what waits for one.

Each connection that is out is noted, with the line that took it: if one is never given back, that was long ago. No more
is done until something has to wait. Then the pool is opened as a row, with what is out by then, and every hold of it is
recorded from there on.

The client's pool refers to our record of it, and never the other way round. Threads, tasks and connections are referred
to weakly. A library's adapter says which methods lend a connection and take it back (see `lending`).
"""

from __future__ import annotations

import functools
import os
import sys
from _thread import allocate_lock, get_ident
from collections import deque
from time import thread_time_ns
from weakref import ref

from poolscope.probe.interpreter.blame import is_ours
from poolscope.probe.limits.asyncio_locks import current_task
from poolscope.probe.limits.coroutines import stacks
from poolscope.probe.limits.holders import LEAKED, Places, Sign, this_thread
from poolscope.probe.limits.limit import LIMITS_KEPT, Permit
from poolscope.probe.limits.naming import site_of, users_frame
from poolscope.probe.recording.pool_watch import AWAITED, UNREAD_LIMIT, open_watch, report, task_here

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType, FrameType
    from typing import Any

    from poolscope.probe.executors.patching import Patch
    from poolscope.probe.interpreter.stacks import Line, Site
    from poolscope.probe.recording.pool_watch import Watch
    from poolscope.probe.recording.recorder import WorkerLog

KIND = "connections"
#: Where a client's pool keeps our record of it.
ATTRIBUTE = "_poolscope_connections"

_getframe = sys._getframe


class Loan:
    """A connection that is asked for, or out.

    `submitted` is when it was asked for (ns), 0 where that is not recorded; `permit` its place in the record, and only
    there while it is out: what deletes it ends the hold.
    """

    __slots__ = ("asks", "at", "code", "cpu_ns", "function", "item", "names", "permit", "pool", "submitted", "task")

    permit: Permit
    #: The thread or task that asks, weakly; None: not known.
    asks: Callable[[], Any] | None
    #: The pool's task that the thread was in, and its worker.
    task: tuple[WorkerLog, Any] | None
    #: The connection, weakly, where it can be referred to so.
    item: Callable[[], Any] | None
    #: The user's function that asks, by its code and the names of its module, and the instruction.
    code: CodeType
    names: dict[str, Any]
    at: int

    def __init__(self, pool: Connections, frame: FrameType) -> None:
        self.pool = pool
        self.code, self.names, self.at = frame.f_code, frame.f_globals, frame.f_lasti
        self.function = self.submitted = 0
        self.cpu_ns = -1
        self.asks = self.task = self.item = None

    def line(self) -> Line:
        """Return the line that took it."""
        number = 0
        for begin, end, line in self.code.co_lines():
            if begin <= self.at < end and line is not None:
                number = line
        return self.code.co_filename, number, self.code.co_qualname

    def lost(self) -> bool:
        """Whether what took it has ended, or the connection itself is gone, and it was not given back."""
        if self.item is not None and self.item() is None:
            return True
        if self.asks is None:
            return False
        holder = self.asks()
        if holder is None:
            return True
        if self.task is not None:
            log, running = self.task
            return log.running is not running
        return type(holder) is not Sign and bool(holder.done())


class Connections:
    """The record of one client's pool. Any thread may call `asks`, `took`, `gave_up` and `gave_back`, which raise what
    goes wrong with us; the rest is the reader's.

    A loan is one thread's or task's until it is out, and then in `out` until something takes it from there: each step
    is a single operation of a dict or list.
    """

    __slots__ = (
        "__weakref__",
        "_capacity",
        "_free",
        "_opening",
        "_owner",
        "_unseen",
        "_used",
        "_used_ns",
        "closed",
        "libraries",
        "older",
        "out",
        "patch",
        "site",
        "tasks",
        "waiting",
        "watch",
    )

    def __init__(
        self,
        owner: Any,
        patch: Patch,
        site: Site | None,
        *,
        capacity: Callable[[Any], int | None],
        tasks: bool,
        libraries: tuple[str, ...],
    ) -> None:
        """`site` is where the pool was made, if that is known; the others are as `lending.Lender` has them."""
        self._owner = ref(owner)
        self.patch = patch
        self._capacity = capacity
        self.tasks = tasks
        self.libraries = libraries
        self.site = site
        #: It is older than the patch: some of what is out is not known.
        self.older = True
        self.watch: Watch | None = None
        self.closed = False
        #: By what stands for the connection (see `Lender.key`).
        self.out: dict[Any, Loan] = {}
        self.waiting: dict[int, Loan] = {}
        self._free: deque[Permit] = deque()
        # Permits of connections that were out before we came.
        self._unseen: deque[Loan] = deque()
        self._opening = allocate_lock()
        # CPU time of threads while they had a connection (ns): told, and since.
        self._used: list[int] = []
        self._used_ns = 0

    def __reduce__(self) -> Any:
        # A copy of its owner has none.
        return type(None), ()

    # -- what happens ----------------------------------------------------------------------------------------

    def asks(self, full: bool) -> Loan:
        """Note that the calling thread or task asks for a connection. `full`: it has to wait for one."""
        loan = Loan(self, users_frame(_getframe(1)))
        task = current_task() if self.tasks else None
        if task is not None:
            loan.asks = ref(task)
        else:
            loan.asks = this_thread.sign.weak
            loan.task = task_here()
        if full:
            self.waits(loan)
        return loan

    def waits(self, loan: Loan) -> None:
        """Note that a loan has to wait from now on."""
        watch = self._recorded()
        if watch is None or loan.submitted:
            return
        loan.submitted = watch.clock()
        if not self._arrives(watch, loan):
            return
        self.waiting[id(loan)] = loan
        if type(loan.asks) is ref and type(holder := loan.asks()) is Sign:
            AWAITED[holder.ident] = watch.recorder

    def took(self, loan: Loan, key: Any, connection: Any) -> None:
        """Note that a loan is out from now on."""
        try:
            loan.item = ref(connection)
        except TypeError:
            loan.item = None
        watch = self.watch
        if watch is not None and not self.closed:
            now = watch.clock()
            waited = self._over(loan)
            if not waited:
                loan.submitted = now
            if waited or self._arrives(watch, loan):
                self._grant(watch, loan, now)
        before = self.out.pop(key, None)
        if before is not None:
            self.out[before] = before  # a connection that is gone, and was not given back: this one has its id now
        self.out[key] = loan

    def gave_up(self, loan: Loan) -> None:
        """Note that a loan was asked for in vain."""
        if self._over(loan) and self.watch is not None:
            self.watch.cancelled(loan.function, loan.submitted)

    def gave_back(self, key: Any) -> None:
        """Note that a connection is given back."""
        loan = self.out.pop(key, None)
        if loan is None:
            try:
                loan = self._unseen.popleft()
            except IndexError:
                return
        if self.watch is not None:
            self._end(self.watch, loan)

    def own(self) -> Any:
        """Return what the calling thread took last and has not given back; None if there is nothing."""
        weak = this_thread.sign.weak
        keys = [loan.item and loan.item() for loan in list(self.out.values()) if loan.asks is weak]
        return keys[-1] if keys else None

    def _over(self, loan: Loan) -> bool:
        """Note that a loan waits no more. Returns whether it did."""
        if self.waiting.pop(id(loan), None) is None:
            return False
        if type(holder := loan.asks and loan.asks()) is Sign:
            AWAITED.pop(holder.ident, None)
        return True

    def _arrives(self, watch: Watch, loan: Loan) -> bool:
        # As `Watch.arrive` does.
        if not 0 < len(watch.arrivals) < UNREAD_LIMIT and not watch.attend():
            return False
        loan.function = watch.probe.functions.of_code(loan.code, loan.names)
        watch.arrivals.extend((loan.function, loan.submitted))
        return True

    def _grant(self, watch: Watch, loan: Loan, now: int) -> None:
        try:
            permit = self._free.popleft()
        except IndexError:
            permit = watch.recorder.add(Permit)
        permit.holder = loan.asks
        permit.running = (loan.function, loan.submitted, now)
        if loan.asks is this_thread.sign.weak:
            loan.cpu_ns = thread_time_ns()
        loan.permit = permit

    def _end(self, watch: Watch, loan: Loan) -> None:
        try:
            permit = loan.permit
            del loan.permit  # another thread may be at it
        except AttributeError:
            return
        running = permit.running
        if running is not None:
            function, submitted, started = running
            now = watch.clock()
            permit.finished.extend((permit.worker, function * 2, submitted, started, now))
            permit.running = permit.holder = None
            permit.ended_ns = now
        if loan.cpu_ns >= 0 and loan.asks is this_thread.sign.weak:
            self._used.append(thread_time_ns() - loan.cpu_ns)
        self._free.append(permit)

    # -- as a row --------------------------------------------------------------------------------------------

    def _recorded(self) -> Watch | None:
        """Return the watch, which is opened with the first loan that waits."""
        watch = self.watch
        if self.closed or (watch is not None and watch.recorder.given_up):
            return None
        if watch is not None or not self._opening.acquire(False):
            return watch
        watch = self._open()
        if watch is None:
            self.closed = True  # and the lock stays taken
        return watch

    def _open(self) -> Watch | None:
        owner = self._owner()
        find_probe = self.patch.find_probe
        if owner is None or len(_rows) >= LIMITS_KEPT:
            return None
        weak = ref(self)

        def size() -> tuple[int, int] | None:
            record = weak()
            return None if record is None else record.size()

        site = self.site or site_of(users_frame(_getframe()))
        watch = open_watch(owner, find_probe, name=None, prefix="", kind=KIND, size_of=lambda _: size, site=site)
        if watch is None:
            return None
        _rows[id(self)] = ref(self, functools.partial(_rows.pop, id(self)))
        recorder = watch.recorder
        recorder.cpu = functools.partial(_cpu_ns, weak, [0])
        recorder.look = functools.partial(_look, weak)
        self.watch = watch
        now = watch.clock()
        known = list(self.out.items())
        for key, out in known:
            out.submitted = now
            if self._arrives(watch, out):
                self._grant(watch, out, now)
                if self.out.get(key) is not out:
                    self._end(watch, out)  # given back meanwhile
        if self.older:
            for _ in range((self._capacity(owner) or 0) - len(known)):
                unseen = Loan(self, _getframe())
                unseen.submitted = now
                watch.arrivals.extend((0, now))
                self._grant(watch, unseen, now)
                self._unseen.append(unseen)
        return watch

    def size(self) -> tuple[int, int] | None:
        """Return how many connections are out, and how many may be."""
        owner = self._owner()
        held = len(self.out) + len(self._unseen)
        return None if owner is None else (held, self._capacity(owner) or max(1, held))

    def close(self) -> None:
        """Record no more from now on."""
        self.closed = True
        watch = self.watch
        if watch is None:
            return
        for loan in list(self.waiting.values()):
            self.gave_up(loan)
        for loan in [*self.out.values(), *self._unseen]:
            self._end(watch, loan)

    def forget(self) -> None:
        """Likewise in a forked child: the record is the parent's."""
        self.watch = None
        self._opening = allocate_lock()
        for each in (self.out, self.waiting, self._free, self._unseen):
            each.clear()

    def cpu_ns(self) -> int:
        """Return what threads have used while they had a connection (ns)."""
        head = self._used[:]
        del self._used[: len(head)]
        self._used_ns += sum(head)
        return self._used_ns

    def look(self, most: int) -> tuple[list[Any], list[Any]]:
        """Return where what has a connection is, and where what waits for one is, as `poolscope.messages.Stack` has it:
        at most so many of each. Of one that is lost, the line that took it."""
        places = Places(self.libraries)
        held: dict[Any, list[int]] = {}
        waiting: dict[Any, list[int]] = {}
        try:
            for loan in list(self.out.values())[:most]:
                permit = getattr(loan, "permit", None)
                running = None if permit is None else permit.running
                if permit is None or running is None:
                    continue
                lost = loan.lost()
                place = ((loan.line(),), loan.at, LEAKED) if lost else places.of(loan.asks)
                if place is not None and permit.running is running:
                    held.setdefault(place, []).extend((permit.worker, running[0], running[2]))
            for loan in list(self.waiting.values())[:most]:
                place = places.of(loan.asks)
                if place is not None:
                    waiting.setdefault((*place[:2], KIND), []).extend((0, loan.function, loan.submitted))
        finally:
            places.frames.clear()
        return stacks(held), stacks(waiting)


def _cpu_ns(weak: ref[Connections], told: list[int], _: Any) -> int:
    record = weak()
    if record is not None:
        told[0] = record.cpu_ns()
    return told[0]


def _look(weak: ref[Connections], most: int) -> tuple[list[Any], list[Any]]:
    record = weak()
    return ([], []) if record is None else record.look(most)


# By id, weakly: the records of pools, and those that are open as rows. Single dict operations only.
_records: dict[int, ref[Connections]] = {}
_rows: dict[int, ref[Connections]] = {}


def remember(record: Connections) -> None:
    """Keep a record known, for `end` and for a fork."""
    _records[id(record)] = ref(record, functools.partial(_records.pop, id(record)))


def failed(record: Connections | None, patch: Patch, exc: BaseException) -> None:
    """Give a record up as a hook of ours has failed. Raises `exc` again if it is the program's: what was recorded may
    be torn then, and another record begins with the next loan that waits."""
    watch = None if record is None else record.watch
    if record is not None and not is_ours(exc):
        AWAITED.pop(get_ident(), None)
        if watch is not None:
            watch.recorder.ended = True
        record.forget()
    elif record is not None and watch is not None:
        record.closed = True
    if watch is None:
        report(patch.probe, exc)
    else:
        watch.give_up(exc)


def end(patch: Patch) -> None:
    """Record none of the pools of this patch any more."""
    for weak in list(_records.values()):
        record = weak()
        if record is not None and record.patch is patch:
            record.close()


def _forked() -> None:
    AWAITED.clear()
    for weak in list(_records.values()):
        record = weak()
        if record is not None:
            record.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)

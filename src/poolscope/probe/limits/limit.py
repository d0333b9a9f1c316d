"""One limit: what waits for it, what holds it, and what is recorded of that.

A hold is a task of a pool: submitted when it is asked for, started when it is granted, finished when it is given back.
A limit is noted from its first wait on (see `known_limits`). What was granted without a wait is not seen; but what is
held already when a wait begins is one of the pool's tasks from then on, or the pool would not look full.

Its owner, the semaphore or lock of the program's, refers to the limit, and never the other way round: what waits hangs
on the owner, as it does without us. Tasks and threads that hold it are referred to weakly.

What is given back by others than those that hold it is a signal and no limit. That shows only after a while, so a limit
gets its row once one of its holds has come back from where it went, or nothing has moved for long (`proven`).
"""

from __future__ import annotations

import operator
from collections import deque
from weakref import ref

from poolscope.probe.interpreter.blame import is_ours
from poolscope.probe.recording.pool_watch import report
from poolscope.probe.recording.virtual_workers import VirtualWorker

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType
    from typing import Any

    from poolscope.probe.interpreter.cpu import CpuClocks
    from poolscope.probe.interpreter.stacks import Site
    from poolscope.probe.recording.pool_watch import Watch

    Look = Callable[["Limit", int], tuple[list[Any], list[Any]]]

#: A limit at which something has waited for so long (ns), and to which nothing was given back, is one.
STANDSTILL_NS = 1_000_000_000
#: Of a semaphore that is older than the patch, the size is not known: nor, before so many holds were given back by
#: others than took them, whether it is a signal.
OTHERS_NEEDED = 8
#: A wait of this length (ns) is worth a row, and so is a second one.
MOMENT_NS = 10_000_000
#: So many limits are noted at once. A program may have one for each of its clients.
LIMITS_KEPT = 1_000
#: Integers in the arrivals of a limit without a row, beyond which it is taken for none.
UNPROVEN_LIMIT = 50_000


class Permit(VirtualWorker):
    """The place of one hold. `holder` is the task that has it, weakly; None: not known."""

    __slots__ = ("holder",)

    def __init__(self, worker: int) -> None:
        super().__init__(worker)
        self.holder: Callable[[], Any] | None = None

    def delay_now(self, clocks: CpuClocks) -> int | None:  # noqa: ARG002 - it has no thread
        """See `WorkerLog.delay_now`."""
        return None


class Hold:
    """One hold, from its request on. `key` is the `id` of the holder (0: not known), `outer` its other hold."""

    # Of the class until they are known: to set each costs where one waits.
    cpu_ns = -1  # what its thread had used when it got it (ns); -1: not known
    outer: Hold | None = None
    permit: Permit | None = None
    started = 0
    #: The code that asks, and the instruction.
    site: tuple[CodeType, int] | None = None

    def __init__(self, function: int, submitted: int, asks: Callable[[], Any] | None, key: int) -> None:
        self.function = function
        self.submitted = submitted
        self.asks = asks
        self.key = key


class Limit:
    """The record of one limit. Its methods are called by what uses the limit, one at a time, and may raise: the caller
    hands that to `broke`. `proven` and `open` are our thread's.

    `capacity` is how many holds it lets through at once; None: not known, as it is older than the patch. `owner` refers
    to the semaphore or lock, weakly; `site` is where that was made; `look` says where its holders and what waits for it
    are, and `holders` what holds it (see `PoolRecorder.holders`).
    """

    __slots__ = (
        "__weakref__",
        "_holders",
        "_holds",
        "_look",
        "_others",
        "_own",
        "_owner",
        "_returned",
        "again",
        "capacity",
        "clock",
        "cpu_ns",
        "free",
        "functions",
        "kind",
        "most",
        "named",
        "nameless",
        "of_code",
        "opened",
        "over",
        "since_ns",
        "site",
        "waiting",
        "waits",
        "watch",
    )

    def __init__(
        self,
        kind: str,
        capacity: int | None,
        watch: Watch,
        owner: Callable[[], Any],
        site: Site,
        look: Look,
        holders: Callable[[Limit], list[Any]] | None = None,
    ) -> None:
        self.kind = kind
        self.capacity = capacity
        self.watch = watch
        self._owner = owner
        self.site = site
        self._look = look
        self._holders = holders
        #: Whether it has a row.
        self.opened = False
        self.clock = watch.clock
        #: What threads have used while they had it.
        self.cpu_ns = 0
        self.of_code: Callable[[CodeType, dict[str, Any]], int] = watch.probe.functions.of_code
        #: Numbers of functions that have asked for it, by the `id` of their code, which the table of functions keeps.
        self.functions: dict[int, int] = {}
        #: Nothing is recorded any more; `again`: not in this record, but another may be opened.
        self.over = self.again = False
        #: What waits, by the `id` of what the owner keeps for it.
        self.waiting: dict[int, Hold] = {}
        self.since_ns = 0
        # By the `id` of the holder, the latest of each; and those whose holder is not known.
        self._holds: dict[int, Hold] = {}
        self.nameless: deque[Hold] = deque()
        #: How many holds have a known holder.
        self.named = 0
        self.free: deque[Permit] = deque()
        #: The most holds at once.
        self.most = 0
        self._own = self._others = 0
        #: How often something had to wait.
        self.waits = 0
        self._returned = False

    def __reduce__(self) -> Any:
        # A copy of its owner has none.
        return type(None), ()

    def size(self) -> tuple[int, int]:
        """Return the holds now, and how many there may be."""
        return self.named + len(self.nameless), max(1, self.most, self.capacity or 0)

    # -- what happens ----------------------------------------------------------------------------------------

    def asked(self, key: int, hold: Hold) -> None:
        """Note that something waits from now on: `key` is the owner's word for it."""
        waiting = self.waiting
        begins = not waiting
        if begins:
            self.since_ns = hold.submitted
            self._meet_holders(hold)
        waiting[key] = hold
        self.waits += 1
        watch = self.watch
        # As `Watch.arrive` does.
        arrivals = watch.arrivals
        if not arrivals and not watch.attend():
            self.over = True
            return
        if len(arrivals) > UNPROVEN_LIMIT and not self.opened:
            self.over = watch.recorder.given_up = True
            return
        arrivals.extend((hold.function, hold.submitted))

    def _meet_holders(self, first: Hold) -> None:
        """Take in what holds it already, whatever that is."""
        missing = (self.capacity or 1) - self.named - len(self.nameless)
        for _ in range(missing):
            unknown = Hold(first.function, first.submitted, None, 0)
            if not self.watch.arrivals and not self.watch.attend():
                self.over = True
                return
            self.watch.arrivals.extend((unknown.function, unknown.submitted))
            self.grant(unknown, first.submitted)

    def passed(self, hold: Hold) -> None:
        """Note that something has it without a wait, while others wait."""
        watch = self.watch
        if not watch.arrivals and not watch.attend():
            self.over = True
            return
        watch.arrivals.extend((hold.function, hold.submitted))
        self.grant(hold, hold.submitted)

    def grant(self, hold: Hold, now: int) -> None:
        """Note that it has it from now on."""
        free = self.free
        permit = free.popleft() if free else self.watch.recorder.add(Permit)
        hold.started = now
        hold.permit = permit
        permit.holder = hold.asks
        permit.running = (hold.function, hold.submitted, now)
        key = hold.key
        if key:
            hold.outer = self._holds.get(key)
            self._holds[key] = hold
            self.named += 1
        else:
            self.nameless.append(hold)
        held = self.named + len(self.nameless)
        if held > self.most:
            self.most = held

    def gave_up(self, hold: Hold) -> None:
        """Note that it waits no more, and does not get it."""
        if hold.permit is None:
            self.watch.cancelled(hold.function, hold.submitted)
        else:
            # It was granted, and is given back before it was taken.
            self._forget(hold)
            self._end(hold, self.clock())

    def returned(self, holder: Any, now: int, cpu_ns: int = -1) -> bool:
        """Note that `holder` (None: not known) gives it back. Returns whether that had it, as far as we know. `cpu_ns`
        is what the calling thread has used."""
        self._returned = True
        key = id(holder)
        hold = self._holds.get(key)
        if hold is None or hold.asks is None or hold.asks() is not holder:
            return False
        self._own += 1
        self.named -= 1
        if cpu_ns >= 0 and hold.cpu_ns >= 0:
            self.cpu_ns += cpu_ns - hold.cpu_ns
        if hold.outer is None:
            del self._holds[key]
        else:
            self._holds[key] = hold.outer
        self._end(hold, now)
        return True

    def handed_over(self, holder: Any, now: int, following: Hold | None) -> bool:
        """Do as `returned`, and grant it to `following`, if anything waits. If `holder` is not known to have had it,
        nothing is done."""
        key = id(holder)
        hold = self._holds.get(key)
        if hold is None or hold.asks is None or hold.asks() is not holder:
            return False
        permit = hold.permit
        if permit is None or following is None or not following.key:
            self.returned(holder, now)
            if following is not None:
                self.grant(following, now)
            return True
        # In one, as nothing can happen in between: this is what each hold costs that was waited for.
        self._own += 1
        self._returned = True
        holds = self._holds
        if hold.outer is None:
            del holds[key]
        else:
            holds[key] = hold.outer
        permit.finished.extend((permit.worker, hold.function * 2, hold.submitted, hold.started, now))
        following.started = now
        following.permit = permit
        following.outer = holds.get(following.key)
        holds[following.key] = following
        permit.holder = following.asks
        permit.running = (following.function, following.submitted, now)
        return True

    def returned_by_other(self, now: int, left: int | None) -> None:
        """Note that it is given back by what is not known to have had it. `left` are the holds that are out now, if
        that is known."""
        self._returned = True
        if self._is_signal(left):
            self.over = True
            if self.opened:
                self.watch.probe.notice(
                    f"{self.kind} {self.watch.recorder.name!r} is given back by others than those that hold it: it is "
                    "a signal, and no longer watched"
                )
            self.watch.recorder.given_up = True
        elif self.nameless:
            self._end(self.nameless.popleft(), now)

    def _is_signal(self, left: int | None) -> bool:
        if self.nameless or not self.named:
            return False
        if left is not None:
            # All that are still out, and the one that was given back, are of known holders.
            return left + 1 <= self.named
        self._others += 1
        return self._others > max(OTHERS_NEEDED, self._own)

    def _forget(self, hold: Hold) -> None:
        if not hold.key:
            if hold in self.nameless:
                self.nameless.remove(hold)
            return
        self.named -= 1
        latest = self._holds.get(hold.key)
        if latest is hold:
            if hold.outer is None:
                del self._holds[hold.key]
            else:
                self._holds[hold.key] = hold.outer
            return
        while latest is not None:
            if latest.outer is hold:
                latest.outer = hold.outer
                return
            latest = latest.outer

    def _end(self, hold: Hold, now: int) -> None:
        permit = hold.permit
        if permit is None:
            return
        permit.finished.extend((permit.worker, hold.function * 2, hold.submitted, hold.started, now))
        permit.running = None
        permit.holder = None
        permit.ended_ns = now
        self.free.append(permit)

    def close(self) -> None:
        """Record no more from now on."""
        if self.over:
            return
        self.over = self.again = True
        now = self.watch.now()
        for hold in list(self.waiting.values()):
            if hold.permit is None:
                self.watch.cancelled(hold.function, hold.submitted)
        for hold in [*self._holds.values(), *self.nameless]:
            latest: Hold | None = hold
            while latest is not None:
                self._end(latest, now)
                latest = latest.outer

    def torn(self) -> None:
        """End this record, as it may be torn; another one begins with the next wait."""
        self.over = self.again = self.watch.recorder.ended = True

    def broke(self, exc: BaseException) -> None:
        """Give up as a hook of ours has failed. Raises `exc` again if it is the program's: what was recorded may be
        torn then, and another record begins with the next wait."""
        if not is_ours(exc):
            self.torn()
        self.watch.give_up(exc)
        self.over = True

    # -- our thread's ----------------------------------------------------------------------------------------

    @property
    def at_rest(self) -> bool:
        """Whether nothing waits for it, and nothing is known to have it."""
        return not (self.waiting or self.named or self.nameless)

    @property
    def own_returns(self) -> int:
        """How many holds were given back by what had them."""
        return self._own

    def named_holds(self) -> list[Hold]:
        """Return the holds whose holder is known."""
        found: list[Hold] = []
        for latest in list(self._holds.values()):
            hold: Hold | None = latest
            while hold is not None:
                found.append(hold)
                hold = hold.outer
        return found

    def proven(self) -> bool:
        """Whether it is known by now to be a limit, and one that is worth a row."""
        waits_for = self.clock() - self.since_ns if self.waiting else 0
        if self._own:
            return self.waits > 1 or waits_for >= MOMENT_NS or self._kept_waiting()
        return self.capacity is not None and not self._returned and waits_for >= STANDSTILL_NS

    def _kept_waiting(self) -> bool:
        """Whether anything that has it by now, or has had it, waited for more than a moment."""
        for log in list(self.watch.recorder.workers):
            running, finished = log.running, list(log.finished)
            waited = [] if running is None else [running[2] - running[1]]
            waited += map(operator.sub, finished[3::5], finished[2::5])
            if waited and max(waited) >= MOMENT_NS:
                return True
        return False

    def open(self) -> None:
        """Open its row, with all that was noted. Never raises because of a failure of ours."""
        owner, watch = self._owner(), self.watch
        probe, recorder = watch.probe, watch.recorder
        try:
            weak = ref(self)
            if owner is None or not probe.open_pool(
                owner,
                name=None,
                prefix="",
                kind=self.kind,
                size=_sizer(weak, self.capacity),
                site=self.site,
                recorder=recorder,
            ):
                self.over = True
                return
            recorder.cpu = _used(weak)
            recorder.look = _looking(weak, self._look)
            recorder.holders = None if self._holders is None else _held(weak, self._holders)
            self.opened = True
        except Exception as exc:
            self.over = True
            report(probe, exc)


def _sizer(weak: ref[Limit], capacity: int | None) -> Callable[[], tuple[int, int] | None]:
    # The owner of the limit may go, and with it what waits there: nothing that stays refers to it.
    def size() -> tuple[int, int] | None:
        limit = weak()
        return (0, capacity or 1) if limit is None else limit.size()

    return size


def _used(weak: ref[Limit]) -> Callable[[CpuClocks], int]:
    told = 0

    def cpu_ns(_: CpuClocks) -> int:
        nonlocal told
        limit = weak()
        told = told if limit is None else limit.cpu_ns
        return told

    return cpu_ns


def _held(weak: ref[Limit], holders: Callable[[Limit], list[Any]]) -> Callable[[], list[Any]]:
    def held_now() -> list[Any]:
        limit = weak()
        return [] if limit is None else holders(limit)

    return held_now


def _looking(weak: ref[Limit], look: Look) -> Callable[[int], tuple[list[Any], list[Any]]]:
    def look_now(most: int) -> tuple[list[Any], list[Any]]:
        limit = weak()
        return ([], []) if limit is None else look(limit, most)

    return look_now

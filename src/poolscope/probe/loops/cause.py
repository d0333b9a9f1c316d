"""Why a loop did not get on: counters read at each look, their difference, and the cause that it establishes. Pure.

What is known of the loop's thread, without stopping it or asking its code:

- It used the CPU. Then it computed.
- Its CPU clock did not move at all. Then it slept in one call: whoever waits for the GIL wakes up every switch
  interval (5 ms) to ask again, which costs a few microseconds.
- It woke up now and then, and other threads burnt a core meanwhile. Then it waited for the GIL, unless the kernel
  shows it in another call.
- Our own thread was late as well, without having waited for the GIL, and nobody used the CPU: the process was not
  running. A cgroup out of quota looks like that, and so does a stopped process.
- It was ready to run, but on no CPU: the same, for a busy machine.
"""

from __future__ import annotations

BLOCKING_CALL = "blocking_call"
CPU_BOUND = "cpu_bound"
GIL_CONTENTION = "gil_contention"
GC = "gc"
HOST_DESCHEDULED = "host_descheduled"
UNKNOWN = "unknown"

#: Causes that hold up a loop whatever its callbacks do, so that no single one of them needs to be found.
STARVED = (GIL_CONTENTION, GC, HOST_DESCHEDULED)

#: Most of the time, or most of a core.
_MOST = 0.5
_NEARLY_ALL = 0.8
#: Of a core: what is too little to explain anything.
_LITTLE = 0.2
#: Answers of the kernel that are more than chance.
_SEEN_OFTEN = 2
#: A thread that waits for the GIL for this many switch intervals has woken up at least once.
_STILL_INTERVALS = 3
#: Whoever waits for the GIL wakes up once in each switch interval; this part of it is enough to be sure, if it is
#: more than the few times that each look goes to sleep anyway.
_WAKES_PER_INTERVAL = 0.25
_WAKES_ANYWAY = 5
#: Much more often than that, and the GIL was free now and then, but taken again before we got it: then the loop's
#: thread has been at many places meanwhile.
_WAKES_AT_MOST = 1.02
_WAKES_BESIDES = 3


class Reading:
    """The clocks at one look, as they are (ns, all of them running totals).

    `loop_cpu_ns` is None where threads have no CPU clock, `own_switches` where the system does not tell how often our
    thread went to sleep. `overslept_ns` is by how much our thread woke up too late, None if nobody measures that.
    """

    __slots__ = (
        "at_ns",
        "gc_ns",
        "loop_cpu_ns",
        "overslept_ns",
        "own_cpu_ns",
        "own_switches",
        "process_cpu_ns",
    )

    def __init__(
        self,
        at_ns: int,
        loop_cpu_ns: int | None = None,
        process_cpu_ns: int = 0,
        own_cpu_ns: int = 0,
        own_switches: int | None = None,
        gc_ns: int = 0,
        overslept_ns: int | None = None,
    ) -> None:
        self.at_ns = at_ns
        self.overslept_ns = overslept_ns
        self.loop_cpu_ns = loop_cpu_ns
        self.process_cpu_ns = process_cpu_ns
        self.own_cpu_ns = own_cpu_ns
        self.own_switches = own_switches
        self.gc_ns = gc_ns


class Counters:
    """Running totals of one loop at one look (ns). Not changed once they are made.

    `other_cpu_ns` is the CPU time of all threads but the loop's and ours; `late_ns` how late our looks were without
    having waited for the GIL; `still_ns` the time in which the loop's thread never woke up; `delay_ns` its time
    without a CPU though ready, in the `measured_ns` in which that was asked; `held_ns` the time in which it kept the
    GIL from us in one call, `waited_ns` that in which anybody kept it from us; the `*_seen` count answers of the
    kernel.
    `silenced` is of this look alone: it came late, and that was the doing of the GIL or the machine, surely not ours.
    """

    __slots__ = (
        "at_ns",
        "call_seen",
        "delay_ns",
        "futex_seen",
        "gc_ns",
        "held_ns",
        "late_ns",
        "loop_cpu_ns",
        "measured_ns",
        "other_cpu_ns",
        "run_seen",
        "silenced",
        "still_ns",
        "waited_ns",
    )

    def __init__(
        self,
        at_ns: int,
        loop_cpu_ns: int | None = None,
        other_cpu_ns: int = 0,
        gc_ns: int = 0,
        late_ns: int = 0,
        still_ns: int = 0,
        delay_ns: int = 0,
        measured_ns: int = 0,
        futex_seen: int = 0,
        call_seen: int = 0,
        run_seen: int = 0,
        held_ns: int = 0,
        waited_ns: int = 0,
        silenced: bool = False,
    ) -> None:
        self.at_ns = at_ns
        self.loop_cpu_ns = loop_cpu_ns
        self.other_cpu_ns = other_cpu_ns
        self.gc_ns = gc_ns
        self.late_ns = late_ns
        self.still_ns = still_ns
        self.delay_ns = delay_ns
        self.measured_ns = measured_ns
        self.futex_seen = futex_seen
        self.call_seen = call_seen
        self.run_seen = run_seen
        self.held_ns = held_ns
        self.waited_ns = waited_ns
        self.silenced = silenced


class Evidence:
    """What `classify` judges by: shares (0 to 1, or cores) of `wall_ns`, the time in question.

    `cpu` is None where the thread's CPU clock cannot be read, `delay` where the time without a CPU was not asked.
    """

    __slots__ = (
        "blocked_ns",
        "call_seen",
        "cpu",
        "delay",
        "futex_seen",
        "gc",
        "gil",
        "held",
        "late",
        "other",
        "run_seen",
        "still",
        "waited",
        "wall_ns",
    )

    def __init__(
        self,
        wall_ns: int,
        *,
        blocked_ns: int,
        cpu: float | None = 0.0,
        other: float = 0.0,
        gc: float = 0.0,
        late: float = 0.0,
        still: float = 0.0,
        held: float = 0.0,
        waited: float = 0.0,
        delay: float | None = None,
        futex_seen: int = 0,
        call_seen: int = 0,
        run_seen: int = 0,
        gil: bool = True,
    ) -> None:
        self.wall_ns = wall_ns
        self.blocked_ns = blocked_ns
        self.cpu = cpu
        self.other = other
        self.gc = gc
        self.late = late
        self.still = still
        self.held = held
        self.waited = waited
        self.delay = delay
        self.futex_seen = futex_seen
        self.call_seen = call_seen
        self.run_seen = run_seen
        self.gil = gil

    @classmethod
    def between(cls, base: Counters, last: Counters, blocked_ns: int, gil: bool = True) -> Evidence:
        """From `base`, the look before the loop was held, to `last`, the latest one."""
        wall = max(1, last.at_ns - base.at_ns)
        measured = last.measured_ns - base.measured_ns
        known = last.loop_cpu_ns is not None and base.loop_cpu_ns is not None
        return cls(
            wall,
            blocked_ns=blocked_ns,
            cpu=((last.loop_cpu_ns or 0) - (base.loop_cpu_ns or 0)) / wall if known else None,
            other=(last.other_cpu_ns - base.other_cpu_ns) / wall,
            gc=(last.gc_ns - base.gc_ns) / wall,
            late=(last.late_ns - base.late_ns) / wall,
            still=(last.still_ns - base.still_ns) / wall,
            held=(last.held_ns - base.held_ns) / wall,
            waited=(last.waited_ns - base.waited_ns) / wall,
            delay=(last.delay_ns - base.delay_ns) / measured if measured > 0 else None,
            futex_seen=last.futex_seen - base.futex_seen,
            call_seen=last.call_seen - base.call_seen,
            run_seen=last.run_seen - base.run_seen,
            gil=gil,
        )

    def explains(self, share: float) -> bool:
        """Whether this share of a core is of note, or enough for a block on a machine with nothing else to do."""
        return share >= _LITTLE or share * self.wall_ns >= self.blocked_ns


def classify(evidence: Evidence) -> str:
    """The cause that the evidence establishes, else "unknown"."""
    e = evidence
    if e.gc >= _MOST and (e.gc >= _NEARLY_ALL or e.wall_ns * (1 - e.gc) < e.blocked_ns):
        # Without the collections it would not have been a block.
        return GC
    used = (e.cpu or 0.0) + e.other
    if e.late >= _MOST and used < _MOST:
        return HOST_DESCHEDULED
    if e.cpu is None:
        # Nobody computed, so the loop did not either.
        return BLOCKING_CALL if used < _LITTLE else UNKNOWN
    if e.held >= _MOST:
        # One call that kept the GIL. If it got less than the whole core, then others had it.
        return CPU_BOUND if e.explains(e.cpu) else BLOCKING_CALL
    delay = e.delay or 0.0
    if delay >= _MOST:
        if e.cpu >= _LITTLE and e.cpu * e.wall_ns >= e.blocked_ns:
            return CPU_BOUND  # it would have been a block on any machine
        # Unless it was this process's own threads that took the CPUs.
        return HOST_DESCHEDULED if used < _NEARLY_ALL else UNKNOWN
    if e.cpu >= _MOST * (1 - min(e.late, _MOST)) * (1 - delay):
        return CPU_BOUND
    ready, waits = e.run_seen, e.call_seen + e.futex_seen
    if e.still >= _MOST and ready <= waits:
        return BLOCKING_CALL
    # On a machine that is too busy, those who keep the GIL do not burn a core. But we had to wait for it as well.
    kept = e.waited >= _MOST and e.explains(e.other) and e.other >= 4 * e.cpu
    if e.other >= _MOST or kept:
        if e.call_seen > e.futex_seen:
            # Seen once, it may have been one of the short calls of a callback that waits for the GIL after each.
            return BLOCKING_CALL if e.call_seen >= _SEEN_OFTEN else UNKNOWN
        return GIL_CONTENTION if e.gil else UNKNOWN
    if ready > waits:
        # Ready to run most of the time, but slowed down by something that nothing here measures.
        return CPU_BOUND if e.cpu >= _LITTLE else UNKNOWN
    # It slept, woke up often, and what others used does not explain why: sleeps and short calls, if those are most,
    # and if the kernel, where it was asked, has not seen it elsewhere.
    slept = 1 - e.cpu - max(e.other, e.waited) - e.late - delay
    return BLOCKING_CALL if slept >= _MOST and e.call_seen >= e.futex_seen + ready else UNKNOWN


class Meter:
    """Turns readings into counters. For one loop; one caller at a time.

    A look that is late by less than `period_ns` does not count as late: any machine does that now and then.
    """

    def __init__(self, period_ns: int, switch_interval_ns: int) -> None:
        self.period_ns = period_ns
        self._switch_ns = max(1, switch_interval_ns)
        self._still_run_ns = 0
        self._silenced = False
        self._first = False
        self._last: Reading | None = None
        self._delay: tuple[int, int] | None = None
        self._delay_ns = self._measured_ns = self._futex_seen = self._call_seen = self._run_seen = 0
        self._other_ns = self._late_ns = self._still_ns = self._held_ns = self._waited_ns = 0

    def advance(self, reading: Reading, *, first: bool = False, on_time: bool = False) -> Counters:
        """The counters at this reading.

        The `first` one may come from another thread than the others. `on_time`: there were looks in between that
        were not passed on, so that the time since the last one is no lateness.
        """
        last, self._last = self._last, reading
        self._silenced = False
        if last is not None:
            self._count(last, reading, on_time or self._first)
        self._first = first
        return Counters(
            reading.at_ns,
            reading.loop_cpu_ns,
            self._other_ns,
            reading.gc_ns,
            self._late_ns,
            self._still_ns,
            self._delay_ns,
            self._measured_ns,
            self._futex_seen,
            self._call_seen,
            self._run_seen,
            self._held_ns,
            self._waited_ns,
            self._silenced,
        )

    def _count(self, last: Reading, now: Reading, on_time: bool) -> None:
        gap = now.at_ns - last.at_ns
        # Ours may have been another thread last time: then its clock went back.
        own = 0 if self._first else max(0, now.own_cpu_ns - last.own_cpu_ns)
        measured = now.overslept_ns is not None and last.overslept_ns is not None
        overslept = (now.overslept_ns or 0) - (last.overslept_ns or 0)
        # What our thread was busy with is no lateness of the machine's.
        late = overslept if measured else gap - self.period_ns - own
        waited = late >= self.period_ns and not on_time and self._count_late(last, now, late, measured)
        loop_cpu = still = 0
        if now.loop_cpu_ns is not None and last.loop_cpu_ns is not None:
            loop_cpu = now.loop_cpu_ns - last.loop_cpu_ns
            still = self._count_still(gap, loop_cpu)
        other = max(0, now.process_cpu_ns - last.process_cpu_ns - loop_cpu - own)
        self._other_ns += other
        if waited and (still or loop_cpu >= _NEARLY_ALL * (loop_cpu + other)) and other < _LITTLE * gap:
            # Somebody kept the GIL from us, and never let go of it. The others did nothing, so it was the loop's
            # thread: asleep, without the GIL, it would have woken up to ask for it; in Python code it would have
            # given way.
            self._held_ns += gap

    def _count_late(self, last: Reading, now: Reading, late_ns: int, measured: bool) -> bool:
        """Returns whether we waited for the GIL all the time, in vain."""
        if now.own_switches is None or last.own_switches is None:
            self._late_ns += late_ns
            self._silenced = measured
            return False
        slept = now.own_switches - last.own_switches
        expected = late_ns / self._switch_ns
        if slept >= max(_WAKES_ANYWAY, _WAKES_PER_INTERVAL * expected):
            self._silenced = True
            self._waited_ns += now.at_ns - last.at_ns
            return slept <= _WAKES_AT_MOST * expected + _WAKES_BESIDES
        self._late_ns += late_ns
        # Once is our sleep between two looks. More may be a sink or a lock that kept us, unless it was that very sleep.
        self._silenced = measured or slept <= 1
        return False

    def _count_still(self, gap_ns: int, loop_cpu_ns: int) -> int:
        """Returns how much was added."""
        if loop_cpu_ns:
            self._still_run_ns = 0
            return 0
        enough = _STILL_INTERVALS * self._switch_ns
        before, self._still_run_ns = self._still_run_ns, self._still_run_ns + gap_ns
        if self._still_run_ns < enough:
            return 0
        added = gap_ns if before >= enough else self._still_run_ns
        self._still_ns += added
        return added

    def measured_delay(self, at_ns: int, delay_ns: int | None) -> None:
        """Takes in how long the thread has been without a CPU though ready, in all. Two of these make a measurement.

        None begins anew.
        """
        before = self._delay
        self._delay = None if delay_ns is None else (at_ns, delay_ns)
        if before is not None and delay_ns is not None:
            self._measured_ns += at_ns - before[0]
            self._delay_ns += max(0, delay_ns - before[1])

    def saw_kernel(self, wait: str) -> None:
        """Takes in an answer of `vitals.kernel_wait`."""
        if wait == "futex":
            self._futex_seen += 1
        elif wait == "call":
            self._call_seen += 1
        elif wait == "run":
            self._run_seen += 1

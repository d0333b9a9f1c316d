"""What is measured of an event loop's thread: clocks read at each look, and the totals that they add up to. Pure.

What is known of the thread, without stopping it or asking its code:

- Its CPU clock moved: it computed.
- Its CPU clock did not move at all: it slept in one call. A thread that waits for the GIL wakes up every switch
  interval (5 ms) to ask again, which costs a few microseconds.
- Our own thread was late as well: it waited for the GIL if it woke up as often as that takes, else the process was not
  running. A cgroup out of quota looks like that, and so does a stopped process.
- The kernel says where the thread waits, and how long it was ready to run but on no CPU.

What follows from it is judged elsewhere (`poolscope.rules.loop_causes`).
"""

from __future__ import annotations

#: Of the CPU that was used, and of a core: nearly all of it, and too little to explain anything.
_NEARLY_ALL = 0.8
_LITTLE = 0.2
#: A thread that waits for the GIL for this many switch intervals has woken up at least once.
_STILL_INTERVALS = 3
#: A thread that waits for the GIL wakes up once in each switch interval; this part of it is enough to be sure, if it is
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
    thread went to sleep. `overslept_ns` is by how much our thread woke up too late, None if that is not measured.
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
    GIL from us in one call, `waited_ns` that in which any thread did; the `*_seen` count answers of the
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
        """Return the counters at this reading.

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
        # Time in which our own thread was busy is no lateness of the machine.
        late = overslept if measured else gap - self.period_ns - own
        waited = late >= self.period_ns and not on_time and self._count_late(last, now, late, measured)
        loop_cpu = still = 0
        if now.loop_cpu_ns is not None and last.loop_cpu_ns is not None:
            loop_cpu = now.loop_cpu_ns - last.loop_cpu_ns
            still = self._count_still(gap, loop_cpu)
        other = max(0, now.process_cpu_ns - last.process_cpu_ns - loop_cpu - own)
        self._other_ns += other
        if waited and (still or loop_cpu >= _NEARLY_ALL * (loop_cpu + other)) and other < _LITTLE * gap:
            # A thread kept the GIL from us, and never let go of it. The others did nothing, so it was the loop's
            # thread: asleep, without the GIL, it would have woken up to ask for it; in Python code it would have
            # given way.
            self._held_ns += gap

    def _count_late(self, last: Reading, now: Reading, late_ns: int, measured: bool) -> bool:
        """Return whether we waited for the GIL all the time, in vain."""
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
        """Return how much was added."""
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
        """Take in how long the thread has been without a CPU though ready, in all. Two of these make a measurement.

        None begins anew.
        """
        before = self._delay
        self._delay = None if delay_ns is None else (at_ns, delay_ns)
        if before is not None and delay_ns is not None:
            self._measured_ns += at_ns - before[0]
            self._delay_ns += max(0, delay_ns - before[1])

    def saw_kernel(self, wait: str) -> None:
        """Take in an answer of `kernel_clocks.kernel_wait`."""
        if wait == "futex":
            self._futex_seen += 1
        elif wait == "call":
            self._call_seen += 1
        elif wait == "run":
            self._run_seen += 1

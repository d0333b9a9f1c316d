"""What was measured of a loop while it made no progress: the difference of two looks, as the engine gets it. Pure."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from poolscope.probe.loops.meter import Counters

    Told = tuple[int, int, float | None, float, float, float, float, float, float, float | None, int, int, int, bool]

#: Shares of the time, or of a core: most, nearly all, and a little.
_MOST = 0.5
_NEARLY_ALL = 0.8
_LITTLE = 0.2


class Evidence:
    """What was measured of `wall_ns`, the time in question: shares of it (0 to 1, or cores), and counts.

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

    def told(self) -> Told:
        """Return it in the order of `messages.BlockEvidence`."""
        return (
            self.wall_ns,
            self.blocked_ns,
            self.cpu,
            self.other,
            self.gc,
            self.late,
            self.still,
            self.held,
            self.waited,
            self.delay,
            self.futex_seen,
            self.call_seen,
            self.run_seen,
            self.gil,
        )

    @property
    def starved(self) -> bool:
        """Whether the loop was held from outside of its callbacks, so that no single one needs to be found.

        Garbage was collected, the process got no CPU, or other threads had the GIL. The engine decides which of these;
        here it only matters that there is a block to report.
        """
        return self._collected or self._stopped or self._deprived

    @property
    def _collected(self) -> bool:
        # Without the collections it would not have been a block.
        return self.gc >= _MOST and (self.gc >= _NEARLY_ALL or self.wall_ns * (1 - self.gc) < self.blocked_ns)

    @property
    def _stopped(self) -> bool:
        used = (self.cpu or 0.0) + self.other
        if self.late >= _MOST and used < _MOST:
            return True
        if self.cpu is None:
            return False
        long = self.cpu * self.wall_ns >= self.blocked_ns
        if self.held >= _MOST:
            # A call that computes for less than a block lost its CPU, unless its thread is known to have slept.
            return self.cpu >= _LITTLE and not long and (self.delay is None or self.delay >= _LITTLE)
        if (self.delay or 0.0) < _MOST:
            return False
        # It would have been a block on any machine, or it was this process's own threads that took the CPUs.
        computed = self.cpu >= _LITTLE and long
        return not computed and used < _NEARLY_ALL

    @property
    def _deprived(self) -> bool:
        delay = self.delay or 0.0
        if not self.gil or self.cpu is None or self.held >= _MOST or delay >= _MOST:
            return False
        if self.cpu >= _MOST * (1 - min(self.late, _MOST)) * (1 - delay):
            return False
        if self.still >= _MOST and self.run_seen <= self.call_seen + self.futex_seen:
            return False
        of_note = self.other >= _LITTLE or self.other * self.wall_ns >= self.blocked_ns
        kept = self.waited >= _MOST and of_note and self.other >= 4 * self.cpu
        return (self.other >= _MOST or kept) and self.call_seen <= self.futex_seen

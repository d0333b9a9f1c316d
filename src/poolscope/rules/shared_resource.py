"""Cause `shared_resource`: the workers queue for something scarcer than the pool."""

from __future__ import annotations

from typing import ClassVar

from poolscope.messages import Line
from poolscope.model import Advice
from poolscope.rules import cpu
from poolscope.rules.inflation import slower
from poolscope.rules.reason import Cause, Pattern, Scene
from poolscope.rules.wording import done_at_once, percent, seconds, workers
from poolscope.signals.contention import Contention, HeldUp
from poolscope.signals.deadlock import Awaited
from poolscope.signals.pool_signals import PoolSignals

#: Most of the workers' time.
HELD_UP_SHARE = 0.5

#: Gate -> what the workers wait for.
_GATES = {
    "lock": "a lock",
    "semaphore": "a semaphore",
    "queue": "room in a full queue",
    "inherited": "a lock that nothing in their process holds",
}
#: What they wait for one of, by the kind of its limit.
_OF = {"connections": "a connection of"}


class SharedResource(Cause, frozen=True, kw_only=True):
    """Workers wait for something scarce; more workers would wait there too."""

    name: ClassVar[str] = "shared_resource"
    telling: ClassVar[tuple[str, ...]] = ("held_up_share", "resource_holders", "effective_parallelism")

    action: str = "relieve_shared_resource"
    #: What is scarce, by where the workers are; None: only their runs show it, which grow with their number.
    scarce: Awaited | Contention | HeldUp | None
    #: How many times as long as alone their runs take, where that is known.
    times_alone: float | None

    @classmethod
    def match(cls, signals: PoolSignals, _pattern: Pattern) -> SharedResource | None:
        """Match by how their runs grow, or by where they are: how many get past a line, or that most worker time
        is spent at a limit that is watched, or at locks, semaphores and full queues."""
        awaited, held_up = signals.awaited, signals.held_up
        scarce: Awaited | Contention | HeldUp | None = signals.contention
        if awaited is not None and awaited.kind and awaited.share > HELD_UP_SHARE:
            scarce = awaited
        if scarce is None and held_up is not None and held_up.share > HELD_UP_SHARE:
            scarce = held_up
        if not cpu.wait(signals) or (scarce is None and signals.growing is not True):
            return None
        return cls(signals=signals, scarce=scarce, times_alone=slower(signals))

    @property
    def behind(self) -> bool:
        """Whether it is a limit that is watched."""
        return isinstance(self.scarce, Awaited)

    @property
    def waiting(self) -> tuple[Line, ...]:
        """Return where they wait, if that is known."""
        return self.scarce.waiting if self.scarce is not None and not isinstance(self.scarce, Awaited) else ()

    def sentence(self, scene: Scene) -> str:
        """Say where the workers wait. Waiting inside of a task is no work."""
        if self.signals.full_seconds:
            return f"{self._hold_up(scene)}, and {done_at_once(self.signals)}"
        run, working = self.signals.run_p50_seconds, self.signals.working_run_seconds
        waits, runs = seconds(self.signals.wait_p50_seconds), seconds(run)
        there = f", {seconds(run - working)} of that waiting there" if run is not None and working is not None else ""
        return f"{self._hold_up(scene)}, and a task now waits {waits} before it runs for {runs}{there}"

    def _hold_up(self, scene: Scene) -> str:
        scarce, its = self.scarce, f"its {workers(self.signals.max_workers)}"
        if isinstance(scarce, Awaited):
            its_own = f"{_OF.get(scarce.kind, scarce.kind)} {scarce.pool!r}"
            return f"{its} spend {percent(scarce.share)} of their time waiting for {its_own}{scene.place}"
        if isinstance(scarce, HeldUp):
            return f"{its} spend {percent(scarce.share)} of their time waiting for {_GATES[scarce.gate]}{scene.place}"
        if scarce is not None:
            at_once = "one" if scarce.holders == 1 else str(scarce.holders)
            go = "goes" if scarce.holders == 1 else "go"
            where = f", the others wait{scene.place}" if scarce.waiting else ""
            return f"only {at_once} of {its} {go} on at a time{where}"
        now = f": now {self.times_alone:.1f} times as long as alone" if self.times_alone is not None else ""
        return f"its tasks hold each other up{scene.place} (the more of them run at once, the longer each takes{now})"

    def advice(self, scene: Scene) -> Advice:
        """Advise to relieve what is scarce."""
        if isinstance(self.scarce, Awaited):
            return Advice(
                self.action,
                f"See to {self.scarce.pool!r} first: more workers in {scene.pool!r} would only wait for it too.",
                pool=self.scarce.pool,
            )
        if isinstance(self.scarce, HeldUp) and self.scarce.gate == "queue":
            return Advice(
                self.action,
                f"More workers in {scene.pool!r} would only wait too: what takes out of that queue is slower than they "
                "fill it. Make that faster, or give it more workers.",
            )
        unread = isinstance(self.scarce, Contention) and not self.scarce.waiting
        at = "" if unread else " at the line shown"
        return Advice(
            self.action,
            f"More workers would only wait too: relieve what they wait for{at} (hold the lock for less "
            "work, a larger pool of connections, a higher rate limit, fewer and larger writes).",
        )

"""Pattern `deadlock`: workers wait for tasks that only they could start."""

from __future__ import annotations

from typing import ClassVar

from poolscope.model import Severity
from poolscope.rules import deadlocked_limit, wording
from poolscope.rules.deadlocked_limit import GATES
from poolscope.rules.reason import Cause, Criteria, Pattern, Scene
from poolscope.signals.deadlock import Deadlock
from poolscope.signals.pool_signals import PoolSignals


class Deadlocked(Pattern, frozen=True, kw_only=True):
    """A proven cycle of waits."""

    name: ClassVar[str] = "deadlock"
    telling: ClassVar[tuple[str, ...]] = (
        "deadlocked_workers",
        "deadlocked_pools",
        "queue_depth",
        "oldest_queued_seconds",
    )
    severity: ClassVar[Severity] = "critical"

    deadlock: Deadlock

    @classmethod
    def match(cls, signals: PoolSignals, _criteria: Criteria) -> Deadlocked | None:
        """Match a cycle that the samples have proven."""
        return cls(signals=signals, deadlock=signals.deadlock) if signals.deadlock is not None else None

    @property
    def workers(self) -> frozenset[int] | None:
        """Return this pool's workers in the cycle."""
        return frozenset(self.deadlock.cycle.workers)

    def sentence(self, scene: Scene, _cause: Cause) -> str:
        """Say what they wait for."""
        if scene.kind in GATES or self.deadlock.next_kind in GATES:
            return deadlocked_limit.sentence(self.deadlock, scene)
        count = len(self.deadlock.cycle.workers)
        waits, who, they = ("waits", "it", "it") if count == 1 else ("wait", "one of them", "they")
        its = f"Pool {scene.pool!r} is deadlocked since {scene.since}: its {wording.workers(count)} {waits}"
        if self.deadlock.next_pool is None:
            return f"{its} for tasks in its own queue, which only {they} could start,{scene.place}."
        other = f"tasks of pool {self.deadlock.next_pool!r}, which can only go on once {who} is free"
        return f"{its} for {other},{scene.place}."

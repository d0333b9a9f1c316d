"""Cause `leaked`: connections that were taken and are never given back."""

from __future__ import annotations

from typing import ClassVar

from poolscope.model import Advice
from poolscope.rules.reason import Cause, Pattern, Scene
from poolscope.rules.stuck_workers import StuckWorkers
from poolscope.rules.wording import counted
from poolscope.signals.pool_signals import PoolSignals


class Leaked(Cause, frozen=True, kw_only=True):
    """What took them has ended."""

    name: ClassVar[str] = "leaked"
    patterns: ClassVar[tuple[str, ...]] = ("stuck_workers",)
    telling: ClassVar[tuple[str, ...]] = ("queue_depth",)

    action: str = "give_back"
    count: int

    @classmethod
    def match(cls, signals: PoolSignals, pattern: Pattern) -> Leaked | None:
        """Match if those that the pattern was found by are."""
        leaked = isinstance(pattern, StuckWorkers) and all(held.leaked for held in pattern.stuck)
        return cls(signals=signals, count=len(pattern.stuck)) if leaked else None  # type: ignore[attr-defined]

    def head(self, scene: Scene) -> str:
        """Say how many are gone."""
        of = counted(self.signals.max_workers, "connection")
        return f"Connection pool {scene.pool!r} has lost {self.count} of its {of} since {scene.since}"

    def sentence(self, scene: Scene) -> str:
        """Say where they were taken, and what it costs."""
        queued = self.signals.queue_depth
        waits = "1 task waits" if queued == 1 else f"{queued:,} tasks wait"
        return f"taken{scene.place} and never given back, though what took them has ended, while {waits} for one"

    def advice(self, scene: Scene) -> Advice:
        """Advise to give them back, whatever happens."""
        return Advice(
            self.action,
            f"Give back what is taken{scene.place} on every way out, errors included: take it in a `with` block, or "
            "close it in a `finally`. A larger pool would only be used up later.",
        )

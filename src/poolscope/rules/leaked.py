"""Cause `leaked`: connections or permits that were taken and are never given back."""

from __future__ import annotations

from typing import ClassVar

from poolscope.model import Advice
from poolscope.rules.deadlocked_limit import GATES
from poolscope.rules.reason import Cause, Pattern, Scene
from poolscope.rules.stuck_workers import StuckWorkers
from poolscope.rules.wording import counted, noun, subject
from poolscope.signals.limits import CONNECTIONS
from poolscope.signals.pool_signals import PoolSignals


class Leaked(Cause, frozen=True, kw_only=True):
    """What took them has ended."""

    name: ClassVar[str] = "leaked"
    patterns: ClassVar[tuple[str, ...]] = ("stuck_workers",)
    telling: ClassVar[tuple[str, ...]] = ("queue_depth",)

    action: str = "give_back"
    count: int
    #: Whether the lines of the finding are those that took them.
    taken: bool = True

    @classmethod
    def match(cls, signals: PoolSignals, pattern: Pattern) -> Leaked | None:
        """Match if those that the pattern was found by are."""
        if not isinstance(pattern, StuckWorkers) or not all(held.leaked for held in pattern.stuck):
            return None
        return cls(signals=signals, count=len(pattern.stuck), taken=all(held.taken for held in pattern.stuck))

    def _place(self, scene: Scene) -> str:
        return scene.place if self.taken else ""

    def head(self, scene: Scene) -> str:
        """Say how many are gone."""
        name = f"Connection pool {scene.pool!r}" if scene.kind not in GATES else subject(scene.kind, scene.pool)
        return f"{name} has lost {self.count} of its {self._places(scene)} since {scene.since}"

    def _places(self, scene: Scene) -> str:
        return counted(self.signals.max_workers, noun(scene.kind if scene.kind in GATES else CONNECTIONS))

    def sentence(self, scene: Scene) -> str:
        """Say where they were taken, and what it costs."""
        queued = self.signals.queue_depth
        waits = "1 task waits" if queued == 1 else f"{queued:,} tasks wait"
        gone = "though what took them has ended" if self.taken else "and nothing is left that could do so"
        return f"taken{self._place(scene)} and never given back, {gone}, while {waits} for one"

    def advice(self, scene: Scene) -> Advice:
        """Advise to give them back, whatever happens."""
        if scene.kind in GATES:
            return Advice(
                self.action,
                f"Give back what is taken{self._place(scene)} on every way out, errors and cancellation included: take "
                f"{scene.pool!r} in a `with` or `async with`, or release it in a `finally`. A larger one would only be "
                "used up later.",
            )
        return Advice(
            self.action,
            f"Give back what is taken{scene.place} on every way out, errors included: take it in a `with` block, or "
            "close it in a `finally`. A larger pool would only be used up later.",
        )

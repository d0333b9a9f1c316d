"""Cause `abandoned_calls`: calls that nothing waits for any more hold the workers."""

from __future__ import annotations

from typing import ClassVar

from poolscope.model import Advice
from poolscope.rules.reason import FULL, Cause, Pattern, Scene
from poolscope.rules.sustained import GIVEN_UP_SHARE
from poolscope.rules.wording import percent, workers
from poolscope.signals.pool_signals import PoolSignals


class AbandonedCalls(Cause, frozen=True, kw_only=True):
    """Calls that go on though their caller has given up."""

    name: ClassVar[str] = "abandoned_calls"
    patterns: ClassVar[tuple[str, ...]] = (*FULL, "stuck_workers", "stalled")

    action: str = "add_timeout"
    share: float

    @classmethod
    def match(cls, signals: PoolSignals, pattern: Pattern) -> AbandonedCalls | None:
        """Match by the share of the workers' time; where workers are stuck, by the calls that these are in."""
        share = signals.given_up_share
        if pattern.name not in FULL:
            stuck = [held for held in signals.held if pattern.workers is None or held.worker in pattern.workers]
            share = sum(held.given_up for held in stuck) / max(1, len(stuck))
        return None if share <= GIVEN_UP_SHARE else cls(signals=signals, share=share)

    def sentence(self, scene: Scene) -> str:
        """Say how much of the workers' time they take."""
        return (
            f"its {workers(self.signals.max_workers)} spend {percent(self.share)} of their time in calls that nothing "
            f"waits for any more{scene.place}: what gave up waiting did not end them"
        )

    def advice(self, _scene: Scene) -> Advice:
        """Advise a timeout where it frees the worker."""
        return Advice(
            self.action,
            "Put the timeout into the call at the line shown, as a thread cannot be cancelled: `wait_for`, "
            "`result(timeout)`, `as_completed` and a cancelled task give up waiting, and the worker goes on until the "
            "call returns. "
            "More workers would be taken by more such calls.",
        )

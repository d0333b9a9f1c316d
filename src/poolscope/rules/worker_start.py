"""Cause `worker_start`: tasks wait while workers are replaced."""

from __future__ import annotations

from typing import ClassVar

from poolscope.model import Advice
from poolscope.rules.reason import Cause, Pattern, Scene
from poolscope.rules.wording import percent, workers
from poolscope.signals.pool_signals import PoolSignals

#: Most of the workers' time.
REPLACING_SHARE = 0.5


class WorkerStart(Cause, frozen=True, kw_only=True):
    """Workers that spend most of their time starting."""

    name: ClassVar[str] = "worker_start"

    action: str = "keep_workers"
    share: float

    @classmethod
    def match(cls, signals: PoolSignals, _pattern: Pattern) -> WorkerStart | None:
        """Match by the share of the workers' time. Workers that start as the pool is set up replace none, and do not
        count."""
        share = signals.replacing_share
        return None if share is None or share < REPLACING_SHARE else cls(signals=signals, share=share)

    def sentence(self, _scene: Scene) -> str:
        """Say how much of their time the workers spend starting."""
        return (
            f"its {workers(self.signals.max_workers)} spend {percent(self.share)} of their time ending and starting "
            "anew, while tasks wait"
        )

    def advice(self, scene: Scene) -> Advice:
        """Advise to keep the workers."""
        return Advice(
            self.action,
            f"Keep the workers of {scene.pool!r} for more tasks each (max_tasks_per_child, maxtasksperchild), or have "
            "them start faster: less in the initializer, fewer imports, forkserver in the place of spawn.",
        )

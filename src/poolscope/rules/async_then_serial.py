"""Pattern `async_then_serial`: a pool that filled, so that its tasks wait for each other."""

from __future__ import annotations

from typing import ClassVar

from poolscope.rules.reason import Cause, Criteria, Scene
from poolscope.rules.sustained import Sustained, sustained
from poolscope.signals.pool_signals import PoolSignals


class AsyncThenSerial(Sustained, frozen=True, kw_only=True):
    """Several workers, all taken for long."""

    name: ClassVar[str] = "async_then_serial"

    @classmethod
    def match(cls, signals: PoolSignals, criteria: Criteria) -> AsyncThenSerial | None:
        """Match pools of several workers: one of a single worker is serial."""
        return cls(signals=signals) if signals.max_workers > 1 and sustained(signals, criteria) else None

    def head(self, scene: Scene, _cause: Cause) -> str:
        """Say when it filled."""
        return f"Pool {scene.pool!r} turned serial at {scene.since}"

"""Cause `held_across_wait`: a lock is held while its holder waits for something else."""

from __future__ import annotations

from typing import ClassVar

from poolscope.messages import Line
from poolscope.model import Advice
from poolscope.rules.reason import Cause, Pattern, Scene
from poolscope.rules.wording import at, percent, seconds
from poolscope.signals.limits import CONNECTIONS, LimitSignals
from poolscope.signals.pool_signals import PoolSignals

#: Most of the hold.
WAITING_SHARE = 0.5


class HeldAcrossWait(Cause, frozen=True, kw_only=True):
    """Everything that wants the lock waits for what its holder waits for."""

    name: ClassVar[str] = "held_across_wait"

    action: str = "shorten_hold"
    limit: LimitSignals
    share: float

    @classmethod
    def match(cls, signals: PoolSignals, _pattern: Pattern) -> HeldAcrossWait | None:
        """Match limits of one whose holder waits in most samples."""
        limit = signals.limit
        if limit is None or signals.max_workers != 1:
            return None
        # To wait for what a connection is for is to use it.
        share = limit.elsewhere_share if limit.kind == CONNECTIONS else limit.suspended_share
        if share is None or share <= WAITING_SHARE:
            return None
        return cls(signals=signals, limit=limit, share=share)

    @property
    def waiting(self) -> tuple[Line, ...]:
        """Return where the holder waits."""
        return self.limit.inside

    def head(self, scene: Scene) -> str:
        """Say that they take turns."""
        if self.limit.kind == CONNECTIONS:
            return f"Connection pool {scene.pool!r} has had its one connection in use since {scene.since}"
        kind = self.limit.kind.capitalize()
        return f"{kind} {scene.pool!r} has let one through at a time since {scene.since_seconds:.1f} s"

    def sentence(self, _scene: Scene) -> str:
        """Say where a holder spends its time, and what that costs the others."""
        signals = self.signals
        return (
            f"each holds it for {seconds(signals.run_p50_seconds)} and spends {percent(self.share)} of that waiting"
            f"{at(self.limit.inside)}, while a task waits {seconds(signals.wait_p50_seconds)} for its turn"
            f"{at(self.limit.waiting)}"
        )

    def advice(self, scene: Scene) -> Advice:
        """Advise to wait outside of the lock."""
        return Advice(
            self.action,
            f"Hold {scene.pool!r} for less: move what waits{at(self.limit.inside)} out of it, and keep only what must "
            "not be done twice at once inside. Where it guards one connection or file, use more than one of these.",
        )

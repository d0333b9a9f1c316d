"""Cause `downstream_pool`: the workers mostly wait for another pool, or for an event loop that is held itself."""

from __future__ import annotations

from typing import ClassVar

from poolscope.model import Advice
from poolscope.rules.reason import Cause, Pattern, Scene
from poolscope.rules.wording import percent, workers
from poolscope.signals.awaited_loop import AwaitedLoop
from poolscope.signals.deadlock import Awaited
from poolscope.signals.pool_signals import PoolSignals

#: Most of the workers' time.
DOWNSTREAM_SHARE = 0.5
#: A loop that mostly gets on runs many coroutines side by side: then the coroutines take long, and not the loop.
LOOP_HELD_SHARE = 0.5


class DownstreamPool(Cause, frozen=True, kw_only=True):
    """The pool that is waited for, or the event loop."""

    name: ClassVar[str] = "downstream_pool"
    telling: ClassVar[tuple[str, ...]] = ("downstream_share",)

    action: str = "see_pool"
    awaited: Awaited | AwaitedLoop

    @classmethod
    def match(cls, signals: PoolSignals, _pattern: Pattern) -> DownstreamPool | None:
        """Match by the share of the workers' time."""
        awaited, loop = signals.awaited, signals.awaited_loop
        if awaited is not None and not awaited.kind and awaited.share > DOWNSTREAM_SHARE:
            return cls(signals=signals, awaited=awaited)
        if loop is not None and loop.share > DOWNSTREAM_SHARE and loop.held_share >= LOOP_HELD_SHARE:
            return cls(signals=signals, awaited=loop)
        return None

    def sentence(self, scene: Scene) -> str:
        """Say how much of their time the workers wait, and for which pool or loop."""
        if isinstance(self.awaited, AwaitedLoop):
            return (
                f"its {workers(self.signals.max_workers)} spend {percent(self.awaited.share)} of their time waiting "
                f"for coroutines of event loop {self.awaited.loop!r}{scene.place}, which was held for "
                f"{percent(self.awaited.held_share)} of it"
            )
        return (
            f"its {workers(self.signals.max_workers)} spend {percent(self.awaited.share)} of their time waiting for "
            f"tasks of pool {self.awaited.pool!r}{scene.place}"
        )

    def advice(self, scene: Scene) -> Advice:
        """Point at the other pool, or the event loop."""
        if isinstance(self.awaited, AwaitedLoop):
            return Advice(
                self.action,
                f"See to event loop {self.awaited.loop!r}: what holds it holds up all that waits for it, and more "
                f"workers in {scene.pool!r} would only wait too.",
                pool=self.awaited.loop,
            )
        return Advice(
            self.action,
            f"See to pool {self.awaited.pool!r}: more workers in {scene.pool!r} would only wait for it too.",
            pool=self.awaited.pool,
        )

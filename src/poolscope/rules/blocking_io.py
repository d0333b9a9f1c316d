"""Cause `blocking_io`: the workers wait for something outside of the pool, and not for each other."""

from __future__ import annotations

from typing import ClassVar

from poolscope.model import Advice
from poolscope.rules import cpu
from poolscope.rules.inflation import became_slower, inflated
from poolscope.rules.reason import Pattern, Scene
from poolscope.rules.size import TooSmall, headroom
from poolscope.rules.wording import all_workers, are, costs, counted
from poolscope.signals.pool_signals import PoolSignals

#: Most of the workers' time.
OVERLONG_SHARE = 0.5


class BlockingIo(TooSmall, frozen=True, kw_only=True):
    """As far as is known, each worker waits by itself: more workers would wait side by side."""

    name: ClassVar[str] = "blocking_io"
    about_size: ClassVar[bool] = True
    by_exclusion: ClassVar[bool] = True

    #: How many times as long runs take as before, where what they wait for has become slower.
    times_before: float | None

    @classmethod
    def match(cls, signals: PoolSignals, _pattern: Pattern) -> BlockingIo | None:
        """Match unless a few tasks hold most workers and take far longer than their function usually does: they are
        stuck, or starved by others that pass. More workers might go the same way."""
        if signals.limit is not None:
            return None  # it has no workers
        times, runs_inflated = became_slower(signals), inflated(signals)
        few_hold_them = signals.suspected or signals.overlong_share > OVERLONG_SHARE
        by_themselves = runs_inflated is None or not runs_inflated[1] or times is not None
        if not cpu.wait(signals) or not by_themselves or few_hold_them:
            return None
        return cls(signals=signals, headroom=headroom(signals), times_before=times)

    def sentence(self, scene: Scene) -> str:
        """Say where the workers wait, and how tasks come in."""
        everyone = all_workers(self.signals.max_workers)
        slowed = f"which takes {self.times_before:.1f} times as long as before, " if self.times_before else ""
        population = scene.sizing.population if scene.sizing is not None else None
        coming = (
            "tasks come faster than they finish"
            if population is None
            else f"{counted(population, 'task')} {are(population)} submitted at a time"
        )
        return f"{everyone} are waiting{scene.place}, {slowed}{coming}, and {costs(self.signals)}"

    def advice(self, scene: Scene) -> Advice:
        """Advise a larger pool."""
        return self.size_advice(scene)

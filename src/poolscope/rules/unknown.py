"""Cause `unknown`: none of the others is established."""

from __future__ import annotations

from typing import ClassVar

from poolscope.model import PATTERNS, Advice
from poolscope.rules.inflation import slower
from poolscope.rules.reason import Cause, Pattern, Scene
from poolscope.rules.wording import all_workers, costs
from poolscope.signals.pool_signals import PoolSignals


class Unknown(Cause, frozen=True, kw_only=True):
    """What is known where no cause is established."""

    name: ClassVar[str] = "unknown"
    patterns: ClassVar[tuple[str, ...]] = PATTERNS
    by_exclusion: ClassVar[bool] = True
    established: ClassVar[bool] = False

    #: Whether most workers are in tasks that take far longer than the others.
    suspected: bool
    #: How many times as long runs take as alone, if they take longer.
    times_alone: float | None

    @classmethod
    def match(cls, signals: PoolSignals, _pattern: Pattern) -> Unknown:
        """Match always."""
        return cls(signals=signals, suspected=signals.suspected, times_alone=slower(signals))

    def sentence(self, scene: Scene) -> str:
        """Say what the workers do, as far as it is known."""
        everyone = all_workers(self.signals.max_workers)
        busy = f"{everyone} are busy" if self.signals.limit is None else "it is held all the time"
        return f"{busy}{scene.place}, and {costs(self.signals)}; {self._known()}"

    def _known(self) -> str:
        if self.suspected:
            return "most of them are in tasks that take far longer than the others, and why is not established"
        if self.times_alone is not None:
            return f"its tasks take {self.times_alone:.1f} times as long as alone, and why is not established"
        return "why is not established"

    def advice(self, _scene: Scene) -> Advice:
        """Advise what to find out."""
        if self.suspected:
            return Advice(
                "none",
                "Find out why a few calls at the line shown take so much longer than the others. If they take turns at "
                "something (a lock, a database that admits one writer), the others go ahead of them, and more workers "
                "would only wait too.",
            )
        if self.times_alone is not None:
            return Advice(
                "none",
                "Find out whether what they wait for at the line shown has become slower, or is slower the more tasks "
                "use it at once: then more workers would only wait too.",
            )
        return Advice(
            "none",
            "The cause is not established from what was recorded; look at the lines where the workers are.",
        )

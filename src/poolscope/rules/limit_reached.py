"""Cause `limit_reached`: holds of a limit are asked for faster than they are given back."""

from __future__ import annotations

from typing import ClassVar

from poolscope.messages import Line
from poolscope.model import Advice
from poolscope.rules.reason import Cause, Pattern, Scene
from poolscope.rules.wording import at, seconds
from poolscope.signals.limits import LimitSignals
from poolscope.signals.pool_signals import PoolSignals
from poolscope.signals.sizing import LARGEST

#: Holders that mostly run, and do not wait, would not get faster if there were more of them.
WAITING_SHARE = 0.5

_BEHIND = (
    "See first that what is behind it can serve so many at once: the limit may be there for that. If it is meant to be "
    "as it is, say `intended: true` in the settings."
)


class LimitReached(Cause, frozen=True, kw_only=True):
    """The limit holds up whatever waits for it."""

    name: ClassVar[str] = "limit_reached"
    about_size: ClassVar[bool] = True
    by_exclusion: ClassVar[bool] = True

    action: str = "raise_limit"
    limit: LimitSignals

    @classmethod
    def match(cls, signals: PoolSignals, _pattern: Pattern) -> LimitReached | None:
        """Match limits of more than one, unless samples show that the holders do not wait."""
        limit = signals.limit
        if limit is None or signals.max_workers == 1:
            return None
        if limit.suspended_share is not None and limit.suspended_share <= WAITING_SHARE:
            return None
        return cls(signals=signals, limit=limit)

    @property
    def waiting(self) -> tuple[Line, ...]:
        """Return where the holders wait."""
        return self.limit.inside

    def head(self, scene: Scene) -> str:
        """Say since when the limit is reached."""
        kind, now = self.limit.kind.capitalize(), self.signals.max_workers
        return f"{kind} {scene.pool!r} has let {now} through at a time since {scene.since_seconds:.1f} s"

    def sentence(self, scene: Scene) -> str:
        """Say where the limit is held and waited for, and what that costs."""
        signals = self.signals
        population = scene.sizing.population if scene.sizing is not None else None
        coming = (
            "it is asked for faster than it is given back" if population is None else f"{population} want it at a time"
        )
        return (
            f"{coming}, each holds it for {seconds(signals.run_p50_seconds)}{at(self.limit.inside)}, and a task waits "
            f"{seconds(signals.wait_p50_seconds)} for it{at(self.limit.waiting)}"
        )

    def advice(self, scene: Scene) -> Advice:
        """Advise a larger limit, with a number where a replay gives one."""
        name, now, sizing = scene.pool, self.signals.max_workers, scene.sizing
        if sizing is not None and sizing.recorded and sizing.population is None and sizing.feeder is None:
            if sizing.suggested is None:
                return Advice(
                    "bound_submission",
                    f"No limit up to {LARGEST} keeps up with this load: let less in, or hold {name!r} for less.",
                )
            return Advice(
                self.action,
                f"Raise {name!r} to {sizing.suggested} (now {now}): replayed with {sizing.suggested}, nothing waits "
                f"for it for {seconds(scene.sustain_seconds)}, if the holds last as long as they did. {_BEHIND}",
                suggested_max_workers=sizing.suggested,
            )
        return Advice(self.action, f"Raise {name!r} (now {now}), or give short holds one of their own. {_BEHIND}")

"""Cause `limit_reached`: holds of a limit are asked for faster than they are given back."""

from __future__ import annotations

from typing import ClassVar

from poolscope.messages import Line
from poolscope.model import Advice
from poolscope.rules.reason import Cause, Pattern, Scene
from poolscope.rules.wording import at, percent, seconds
from poolscope.signals.limits import CONNECTIONS, LimitSignals
from poolscope.signals.pool_signals import PoolSignals
from poolscope.signals.sizing import LARGEST

#: Holders that mostly run, and do not wait, would not get faster if there were more of them.
WAITING_SHARE = 0.5

_BEHIND = (
    "See first that what is behind it can serve so many at once: the limit may be there for that. If it is meant to be "
    "as it is, say `intended: true` in the settings."
)
_BEHIND_CONNECTIONS = (
    "See first that the server can bear so many: it has a limit of its own (such as max_connections), which all "
    "processes share, and may work no faster with more. If it is meant to be as it is, say `intended: true` in the "
    "settings."
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
        """Match limits of more than one, and pools of connections, unless their holders are seen not to wait."""
        limit = signals.limit
        if limit is None or (signals.max_workers == 1 and limit.kind != CONNECTIONS):
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
        if self.limit.kind == CONNECTIONS:
            its = "its one connection" if now == 1 else f"all its {now} connections"
            return f"Connection pool {scene.pool!r} has had {its} in use since {scene.since}"
        return f"{kind} {scene.pool!r} has let {now} through at a time since {scene.since_seconds:.1f} s"

    def sentence(self, scene: Scene) -> str:
        """Say where it is held and waited for, and what it costs."""
        signals, connections = self.signals, self.limit.kind == CONNECTIONS
        population = scene.sizing.population if scene.sizing is not None else None
        coming = (
            "it is asked for faster than it is given back" if population is None else f"{population} want it at a time"
        )
        it = "it"
        if connections:
            it = "one"
            asked = "they are asked for faster than they are given back"
            coming = asked if population is None else f"{population} want one at a time"
        return (
            f"{coming}, each holds {it} for {seconds(signals.run_p50_seconds)}{at(self.limit.inside)}, and a task "
            f"waits {seconds(signals.wait_p50_seconds)} for {it}{at(self.limit.waiting)}"
        )

    def advice(self, scene: Scene) -> Advice:
        """Advise a larger one, with a number where a replay gives one; first to hold connections for less, where their
        holders wait for something else."""
        name, now, sizing = scene.pool, self.signals.max_workers, scene.sizing
        behind = _BEHIND_CONNECTIONS if self.limit.kind == CONNECTIONS else _BEHIND
        first = self._first
        if sizing is not None and sizing.recorded and sizing.population is None and sizing.feeder is None:
            if sizing.suggested is None:
                return Advice(
                    "bound_submission",
                    f"{first}No limit up to {LARGEST} keeps up with this load: let less in, or hold {name!r} for less.",
                )
            return Advice(
                self.action,
                f"{first}Raise {name!r} to {sizing.suggested} (now {now}): replayed with {sizing.suggested}, nothing "
                f"waits for it for {seconds(scene.sustain_seconds)}, if the holds last as long as they did. {behind}",
                suggested_max_workers=sizing.suggested,
            )
        return Advice(self.action, f"{first}Raise {name!r} (now {now}), or give short holds one of their own. {behind}")

    @property
    def _first(self) -> str:
        """What to do before anything else; empty if there is nothing."""
        elsewhere = self.limit.elsewhere_share
        if elsewhere is None or elsewhere <= WAITING_SHARE:
            return ""
        return (
            f"Give a connection back before what waits{at(self.limit.inside)}, or take it after: {percent(elsewhere)} "
            "of the time that one is held goes into something else. "
        )

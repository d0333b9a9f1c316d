"""Cause `long_lived`: tasks that stay on purpose hold the workers, and none is left for the others."""

from __future__ import annotations

from typing import ClassVar

from poolscope.model import Advice
from poolscope.rules.reason import FULL, Cause, Pattern, Scene
from poolscope.signals.pool_signals import PoolSignals

#: They hold at least this share of the workers: otherwise the other workers would be enough.
STAYING_SHARE = 0.5
#: At most this many of the functions are named.
NAMED = 3


class LongLived(Cause, frozen=True, kw_only=True):
    """Streams, watchers, consumers, clients: none of these calls has come back, and they go on."""

    name: ClassVar[str] = "long_lived"
    patterns: ClassVar[tuple[str, ...]] = (*FULL, "stalled")

    action: str = "own_threads"
    #: How many workers they hold, and their functions.
    held: int
    functions: tuple[int, ...]

    @classmethod
    def match(cls, signals: PoolSignals, _pattern: Pattern) -> LongLived | None:
        """Match by the share of workers that they hold."""
        staying = [held for held in signals.held if held.stays]
        if not staying or len(staying) < STAYING_SHARE * signals.max_workers:
            return None
        return cls(
            signals=signals, held=len(staying), functions=tuple(dict.fromkeys(held.function for held in staying))
        )

    def _names(self, scene: Scene) -> str:
        names = [name for function in self.functions[:NAMED] if (name := scene.name_of(function)) is not None]
        return " and ".join(names) or "such tasks"

    def sentence(self, scene: Scene) -> str:
        """Say which they are, and how many workers they hold."""
        total = self.signals.max_workers
        count = f"{self.held} of its {total} workers are" if total > 1 else "its one worker is"
        return f"{count} in {self._names(scene)}, which goes on and does not come back, and the other tasks wait"

    def advice(self, scene: Scene) -> Advice:
        """Advise threads of their own."""
        return Advice(
            self.action,
            f"Give {self._names(scene)} threads or a pool of their own, or {scene.pool!r} more workers than there are "
            "such tasks: they stay as long as the program does. A timeout would only end what is meant to go on. If "
            "nothing else needs this pool, say `long_running: true` in the settings.",
        )

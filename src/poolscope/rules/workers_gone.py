"""Cause `workers_gone`: tasks are queued, and no worker is left to take them."""

from __future__ import annotations

from typing import ClassVar

from poolscope.model import Advice
from poolscope.rules.reason import Cause, Pattern, Scene
from poolscope.signals.pool_signals import PoolSignals

#: Kind of pool -> how its workers can end without a word.
_KNOWN = {
    "process": " A ProcessPoolExecutor with max_tasks_per_child may not replace its last workers (gh-115634, from "
    "CPython 3.11 on, mended in the releases of mid-2026): with an older one, leave max_tasks_per_child out.",
    "thread": " The threads of an executor are not in a forked child: make the executor there, after the fork.",
}


class WorkersGone(Cause, frozen=True, kw_only=True):
    """Workers that have ended, and that nothing replaces."""

    name: ClassVar[str] = "workers_gone"
    patterns: ClassVar[tuple[str, ...]] = ("stalled",)

    action: str = "restart_pool"

    @classmethod
    def match(cls, signals: PoolSignals, pattern: Pattern) -> WorkersGone | None:
        """Match if the pattern has found no worker: a pool that was ended by force has lost its workers."""
        return cls(signals=signals) if pattern.without_workers else None

    def sentence(self, _scene: Scene) -> str:
        """Say that no worker is left."""
        return f"none of its {self.signals.max_workers} workers is left, and none is started"

    def advice(self, scene: Scene) -> Advice:
        """Advise another pool."""
        return Advice(
            self.action,
            f"Make {scene.pool!r} anew and submit the queued tasks again: no worker of it will take them."
            + _KNOWN.get(scene.kind, ""),
        )

"""Cause `slow_tasks`: few long tasks hold the workers, and many short ones wait behind them."""

from __future__ import annotations

from typing import ClassVar

from poolscope.model import Advice
from poolscope.rules.reason import Cause, Pattern, Scene
from poolscope.rules.wording import percent, seconds
from poolscope.signals.contention import Hogs
from poolscope.signals.pool_signals import PoolSignals

#: Behind long tasks the others wait at least this many times their own run.
WAIT_RUNS = 5.0
#: At most this many of the functions are named.
NAMED = 3


class SlowTasks(Cause, frozen=True, kw_only=True):
    """The functions that hold the workers."""

    name: ClassVar[str] = "slow_tasks"

    action: str = "split_pool"
    hogs: Hogs

    @classmethod
    def match(cls, signals: PoolSignals, _pattern: Pattern) -> SlowTasks | None:
        """Match by how long the other tasks wait, in runs of their own."""
        hogs = signals.hogs
        if hogs is None or hogs.others_wait_ns < WAIT_RUNS * hogs.others_run_ns:
            return None
        return cls(signals=signals, hogs=hogs)

    def _names(self, scene: Scene) -> str:
        names = map(scene.name_of, self.hogs.functions[:NAMED])
        return " and ".join(name for name in names if name is not None)

    def sentence(self, scene: Scene) -> str:
        """Name the slow functions, and say what they cost the others."""
        hogs = self.hogs
        few = percent(hogs.start_share) if hogs.start_share >= 0.005 else "hardly any"
        return (
            f"{self._names(scene)} takes {percent(hogs.busy_share)} of the workers' time with {few} of the tasks, and "
            f"the others wait {seconds(hogs.others_wait_ns / 1e9)} for {seconds(hogs.others_run_ns / 1e9)} of their "
            "own work"
        )

    def advice(self, scene: Scene) -> Advice:
        """Advise two pools, with their sizes where a replay gives them."""
        if self.signals.limit is not None:
            return Advice(self.action, f"Give {self._names(scene)} one of its own, so that the others need not wait.")
        split = scene.split
        text = f"Give {self._names(scene)} a pool of its own, so that the others do not stand behind it"
        if split is not None and split.slow is not None and split.others is not None:
            text += (
                f": replayed with max_workers={split.slow} for it and {split.others} for the others, no task waits for "
                "long"
            )
        return Advice(self.action, f"{text}.")

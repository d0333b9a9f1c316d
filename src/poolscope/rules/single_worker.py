"""Cause `single_worker`: the pool has one worker only."""

from __future__ import annotations

from typing import ClassVar

from poolscope.model import Advice
from poolscope.rules import cpu
from poolscope.rules.reason import Pattern, Scene
from poolscope.rules.size import TooSmall, headroom
from poolscope.rules.wording import costs
from poolscope.signals.pool_signals import PoolSignals


class SingleWorker(TooSmall, frozen=True, kw_only=True):
    """The only worker is never free."""

    name: ClassVar[str] = "single_worker"
    about_size: ClassVar[bool] = True

    #: Whether the worker computes all the time: more threads would share its core.
    computes: bool

    @classmethod
    def match(cls, signals: PoolSignals, _pattern: Pattern) -> SingleWorker | None:
        """Match unless the process has one core only, which more threads or processes would share."""
        if signals.limit is not None:
            return None  # a lock is meant to let one through at a time
        if signals.max_workers != 1 or (not signals.process.gil and cpu.use_the_machine(signals)):
            return None
        computes = cpu.compute(signals)
        action = "use_process_pool" if computes else "raise_max_workers"
        return cls(signals=signals, action=action, headroom=headroom(signals), computes=computes)

    @property
    def sized(self) -> bool:
        """Return whether more threads help: not if the worker computes."""
        return not self.computes

    def sentence(self, scene: Scene) -> str:
        """Say that the worker is never free."""
        return f"its one worker is never free, and {costs(self.signals)}{scene.place}"

    def bounded(self) -> str:
        """Advise a larger pool first."""
        return self.action

    def purpose(self) -> str:
        """Name the setting for one worker that keeps the order of the tasks."""
        return " If one worker is there to keep the order, say `ordered: true` in the settings."

    def advice(self, scene: Scene) -> Advice:
        """Advise more workers, or processes."""
        return cpu.to_processes() if self.computes else self.size_advice(scene)

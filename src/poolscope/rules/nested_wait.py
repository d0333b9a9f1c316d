"""Cause `nested_wait`: tasks wait inside the pool for tasks that need its workers."""

from __future__ import annotations

from typing import ClassVar

from poolscope.model import Advice
from poolscope.rules import deadlocked_limit
from poolscope.rules.deadlocked_limit import GATES
from poolscope.rules.reason import Cause, Pattern, Scene
from poolscope.signals.pool_signals import PoolSignals


class NestedWait(Cause, frozen=True, kw_only=True):
    """The cycle of waits that the pattern has found."""

    name: ClassVar[str] = "nested_wait"
    patterns: ClassVar[tuple[str, ...]] = ("deadlock",)

    action: str = "avoid_nested_wait"
    #: The pool that most of the tasks wait for; None: their own.
    next_pool: str | None

    @classmethod
    def match(cls, signals: PoolSignals, _pattern: Pattern) -> NestedWait | None:
        """Match each deadlock: it has no other cause."""
        return cls(signals=signals, next_pool=signals.deadlock.next_pool) if signals.deadlock is not None else None

    def advice(self, scene: Scene) -> Advice:
        """Advise to collect the results outside of the pool; of limits, to take them in one order, or once."""
        deadlock = self.signals.deadlock
        if deadlock is not None and (scene.kind in GATES or deadlock.next_kind in GATES):
            return Advice(self.action, deadlocked_limit.advice(deadlock, scene), pool=self.next_pool or scene.pool)
        return Advice(
            self.action,
            "Do not wait inside the pool for tasks that need its workers: collect the results outside, or give the "
            f"inner tasks a pool of their own. Until then, more workers in {scene.pool!r} than tasks that wait at once "
            "keep it going.",
            pool=self.next_pool or scene.pool,
        )

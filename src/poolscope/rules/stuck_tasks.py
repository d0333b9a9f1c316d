"""Cause `stuck_tasks`: tasks that do not come back."""

from __future__ import annotations

from typing import ClassVar

from poolscope.model import Advice
from poolscope.rules.reason import Cause, Pattern, Scene
from poolscope.signals.pool_signals import PoolSignals


class StuckTasks(Cause, frozen=True, kw_only=True):
    """The tasks that the pattern has found."""

    name: ClassVar[str] = "stuck_tasks"
    patterns: ClassVar[tuple[str, ...]] = ("stuck_workers", "stalled")

    action: str = "add_timeout"
    #: Whether no worker is left, so that queued tasks cannot start either.
    stalled: bool
    #: Whether they wait for a lock that no thread of their process can release.
    inherited: bool = False

    @classmethod
    def match(cls, signals: PoolSignals, pattern: Pattern) -> StuckTasks:
        """Match always: the pattern has found such tasks."""
        standing = signals.standing
        return cls(
            signals=signals,
            stalled=pattern.name == "stalled",
            inherited=standing is not None and standing.inherited,
        )

    def sentence(self, _scene: Scene) -> str:
        """Say what is known of the lock, as the line alone does not show it."""
        if not self.inherited:
            return ""
        return (
            "the lock there is held by no thread of their processes: one of the parent held it as they were forked, "
            "and it will never be released in them"
        )

    def advice(self, scene: Scene) -> Advice:
        """Advise a timeout, or workers that inherit no lock."""
        if self.inherited:
            return Advice(
                self.action,
                "Start the workers by spawn or forkserver, or before any thread that takes this lock: a forked process "
                "has a copy of each lock as it was, and not the thread that would release it. Until then a timeout on "
                "the lock at the line shown ends the wait.",
            )
        queued = (
            f" If it waits for what a task in the queue of {scene.pool!r} would do, that one cannot start: give such "
            "tasks a pool of their own."
        )
        return Advice(
            self.action,
            "Give the call at the line shown a timeout, so that its worker comes back whatever happens there."
            + (queued if self.stalled else ""),
        )

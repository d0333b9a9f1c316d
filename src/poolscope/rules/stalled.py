"""Pattern `stalled`: tasks are queued, and none has finished for long."""

from __future__ import annotations

from typing import ClassVar

from poolscope.model import Severity
from poolscope.rules.reason import Cause, Criteria, Pattern, Scene
from poolscope.rules.wording import all_workers, counted, seconds
from poolscope.signals.pool_signals import PoolSignals

#: If no task finishes for this many times the longest run so far, the pool is not slow but stalled.
STALL_RUNS = 5.0


class Stalled(Pattern, frozen=True, kw_only=True):
    """No task finishes any more."""

    name: ClassVar[str] = "stalled"
    telling: ClassVar[tuple[str, ...]] = ("queue_depth", "oldest_queued_seconds", "longest_running_seconds")
    severity: ClassVar[Severity] = "critical"

    #: For how long nothing has finished.
    quiet_seconds: float
    #: Whether no worker is left.
    gone: bool = False

    @classmethod
    def match(cls, signals: PoolSignals, criteria: Criteria) -> Stalled | None:
        """Match by the time without a finish, within the window: a quiet time before the pool filled is no stall.

        If no task has ever finished there is nothing to compare with: then the lines of all workers decide. If no
        worker is left, nothing will finish, however long a task takes.
        """
        if criteria.long_running or signals.queue_depth == 0:
            return None
        if signals.limit is not None:
            return None  # a limit has no workers that could stand still
        gone = signals.gone_seconds is not None and signals.gone_seconds >= criteria.thresholds.stall_seconds
        since_finish, longest = signals.seconds_since_finish, signals.longest_run_seconds
        quiet = signals.window_seconds if since_finish is None else min(since_finish, signals.window_seconds)
        if gone:
            stalled = True
        elif longest is None:
            quiet = 0.0 if signals.standing is None else signals.standing.seconds
            stalled = True
        else:
            stalled = quiet >= STALL_RUNS * longest
        if not stalled or quiet < criteria.thresholds.stall_seconds:
            return None
        # The sentence gives the time since the last finish, which may have been before the pool filled.
        return cls(signals=signals, quiet_seconds=quiet if since_finish is None else since_finish, gone=gone)

    @property
    def without_workers(self) -> bool:
        """See `Pattern`."""
        return self.gone

    def sentence(self, scene: Scene, cause: Cause) -> str:
        """Say for how long nothing has finished, and why, if more than the line is known."""
        signals = self.signals
        quiet, why = seconds(self.quiet_seconds), cause.sentence(scene)
        tail = f": {why}." if why else "."
        if self.gone:
            return (
                f"Pool {scene.pool!r} stands still: {signals.queue_depth} tasks queued, and nothing finished for "
                f"{quiet}{tail}"
            )
        return (
            f"Pool {scene.pool!r} has stood still: {all_workers(signals.max_workers)} busy, "
            f"{counted(signals.queue_depth, 'task')} queued, and nothing finished for {quiet}{scene.place}{tail}"
        )

"""Pattern `stuck_workers`: some workers do not come back from their tasks, and others go on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from poolscope.rules import wording
from poolscope.rules.reason import Cause, Criteria, Pattern, Scene
from poolscope.signals.held import HeldWorker
from poolscope.signals.pool_signals import PoolSignals

#: A task that takes this many times the p99 run of its function does not come back.
STUCK_RUNS = 10.0


class StuckWorkers(Pattern, frozen=True, kw_only=True):
    """Workers that do not come back, the longest first."""

    name: ClassVar[str] = "stuck_workers"
    telling: ClassVar[tuple[str, ...]] = ("longest_running_seconds", "queue_depth", "run_p50_seconds")

    stuck: tuple[HeldWorker, ...]

    @classmethod
    def match(cls, signals: PoolSignals, criteria: Criteria) -> StuckWorkers | None:
        """Match if some are stuck: if all are, it is a stall. Consumers hold their workers on purpose.

        Of connections, if most are leaked while something waits for one: a single one may be kept on purpose.
        """
        leaked = cls.leaked(signals, criteria)
        if leaked:
            return cls(signals=signals, stuck=leaked)
        stuck = () if criteria.long_running else cls.among(signals.held, criteria)
        return cls(signals=signals, stuck=stuck) if 0 < len(stuck) < signals.max_workers else None

    @staticmethod
    def leaked(signals: PoolSignals, criteria: Criteria) -> tuple[HeldWorker, ...]:
        """Return the holds that are not given back though what took them has ended, where they are most of a limit. Of
        what is handed on to others others have come back before."""
        least = criteria.thresholds.sustain_seconds
        found = tuple(
            held
            for held in signals.held
            if held.leaked and held.seconds >= least and (held.times is None or held.times >= STUCK_RUNS)
        )
        return found if signals.queue_depth and len(found) > signals.max_workers / 2 else ()

    @staticmethod
    def among(workers: Sequence[HeldWorker], criteria: Criteria) -> tuple[HeldWorker, ...]:
        """Return the workers in tasks that do not come back, though other tasks of their function have. If there are
        none, the pool need not be measured for this."""
        least = criteria.thresholds.stuck_task_seconds
        return tuple(
            held for held in workers if held.seconds >= least and held.times is not None and held.times >= STUCK_RUNS
        )

    @property
    def workers(self) -> frozenset[int] | None:
        """Return the stuck workers: the lines of the others do not matter."""
        return frozenset(held.worker for held in self.stuck)

    def sentence(self, scene: Scene, cause: Cause) -> str:
        """Say for how long the first of them has been away, unless the cause says more."""
        head = cause.head(scene)
        if head is not None:
            return f"{head}: {cause.sentence(scene)}."
        longest = self.stuck[0]
        return (
            f"Pool {scene.pool!r} has lost workers since {scene.since}: they do not come back from a "
            f"task{scene.place} that has run for {wording.seconds(longest.seconds)}, {longest.times or 0:.0f} times "
            f"its longest, and {wording.workers(self.signals.max_workers)} are all there are."
        )

"""Pattern `serial`: a full pool that gets hardly more done than one worker would."""

from __future__ import annotations

from typing import ClassVar

from poolscope.rules.reason import Cause, Criteria, Diagnosis, Scene
from poolscope.rules.sustained import Sustained, given_up, sustained
from poolscope.signals.pool_signals import PoolSignals

#: A pool that gets less than this many tasks' worth of work done at once is serial, whatever its size.
SERIAL_PARALLELISM = 1.5
#: A pool that is full without a queue is observed for this many times `sustain_seconds`, and this many ended tasks.
FULL_SUSTAINS = 5
FULL_TASKS = 20
#: What makes its workers only look busy: of workers that compute half are enough, as what submits has to wait for the
#: GIL that they hold; at a lock are so many of them.
BUSY_CAUSES = ("cpu_bound", "shared_resource")
QUEUED_SHARE = 0.9


class Serial(Sustained, frozen=True, kw_only=True):
    """Tasks run one after another, or as if they did."""

    name: ClassVar[str] = "serial"

    #: Whether all workers were taken for long and only looked busy, with or without a queue.
    looks_busy: bool = False

    @classmethod
    def match(cls, signals: PoolSignals, criteria: Criteria) -> Serial | None:
        """Match by the work that gets done at once. A single worker on purpose is no fault."""
        parallelism = signals.effective_parallelism
        little = parallelism is not None and parallelism < SERIAL_PARALLELISM
        if signals.full_seconds:
            full = signals.full_seconds >= FULL_SUSTAINS * criteria.thresholds.sustain_seconds
            enough = signals.max_workers > 1 and signals.finished >= FULL_TASKS
            return cls(signals=signals, looks_busy=True) if full and enough and little else None
        if not sustained(signals, criteria) or (signals.max_workers == 1 and criteria.ordered):
            return None
        # Callers give up where calls have become slower: earlier runs are nothing to compare with.
        serial = signals.max_workers == 1 or (little and not given_up(signals))
        return cls(signals=signals) if serial else None

    def accepts(self, cause: Cause) -> bool:
        """Where nothing waits it takes proof that the workers are not at work side by side."""
        if not self.looks_busy:
            return True
        nearly_all = (self.signals.task_share or 0.0) >= QUEUED_SHARE
        return cause.name in BUSY_CAUSES and (nearly_all or cause.name == "cpu_bound")

    def head(self, scene: Scene, cause: Cause) -> str:
        """Say what happened. If nothing shows that tasks take turns, they all run and only take longer."""
        if self.looks_busy:
            return f"Pool {scene.pool!r} only looks busy since {scene.since}"
        longer = self.signals.max_workers > 1 and cause.by_exclusion
        one_by_one = "gets no more done than one worker would" if longer else "runs its tasks one after another"
        return f"Pool {scene.pool!r} {one_by_one} since {scene.since}"


def looks_busy(diagnosis: Diagnosis) -> bool:
    """Whether this is about a pool that was full and got hardly anything done, with or without a queue."""
    return isinstance(diagnosis.what, Serial) and diagnosis.what.looks_busy

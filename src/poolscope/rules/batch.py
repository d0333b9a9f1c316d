"""Pattern `batch`: a finite job that was submitted as a whole, as by `map`, and is worked off."""

from __future__ import annotations

from typing import ClassVar

from poolscope.model import Advice, Severity
from poolscope.rules.reason import Cause, Criteria, Pattern, Scene
from poolscope.rules.serial import SERIAL_PARALLELISM
from poolscope.rules.size import Headroom, headroom
from poolscope.rules.sustained import amplified
from poolscope.rules.wording import noun, seconds, workers
from poolscope.signals.batch import Batch
from poolscope.signals.pool_signals import PoolSignals
from poolscope.signals.sizing import BatchCurve

#: This share of a stretch's tasks comes in its first tenth (docs/concepts.md#numbers).
EARLY_SHARE = 0.9
#: Causes with which a full pool is the normal life of a batch; `cpu_bound` only where it uses every core.
CAUSES = ("blocking_io", "slow_tasks")


class BatchWork(Pattern, frozen=True, kw_only=True):
    """Tasks that wait because all of them came at once, while the workers do as much work as they can."""

    name: ClassVar[str] = "batch"
    severity: ClassVar[Severity] = "info"

    batch: Batch
    headroom: Headroom
    #: Whether a finding above info lasts.
    raised: bool

    @classmethod
    def match(cls, signals: PoolSignals, criteria: Criteria) -> BatchWork | None:
        """Match by when the tasks came. Chance is not ruled out, as this is only a note."""
        batch, parallelism = signals.batch, signals.effective_parallelism
        if batch is None or signals.max_workers < 2 or not amplified(signals, criteria):
            return None
        # Fewer tasks than workers are hardly a job.
        if batch.tasks < signals.max_workers or batch.early_share < EARLY_SHARE:
            return None
        if parallelism is not None and parallelism < SERIAL_PARALLELISM:
            return None
        return cls(signals=signals, batch=batch, headroom=headroom(signals), raised=criteria.raised)

    @staticmethod
    def in_the_making(signals: PoolSignals) -> bool:
        """Whether nearly all tasks of a stretch have come by its middle: if no more come, it will be a batch."""
        batch = signals.batch
        return batch is not None and signals.max_workers > 1 and batch.first_half_share >= EARLY_SHARE

    def accepts(self, cause: Cause) -> bool:
        """Whether the pool does what it can, given this cause."""
        # Short tasks that have waited so long behind long ones that a warning was raised: keep the warning.
        if self.raised and cause.name == "slow_tasks":
            return False
        return cause.name in CAUSES or (cause.name == "cpu_bound" and cause.harmless)

    @property
    def advises(self) -> bool:
        """Return False: nothing needs doing."""
        return False

    def sentence(self, scene: Scene, cause: Cause) -> str:
        """Say how long it takes, on this size and on others."""
        head = f"Pool {scene.pool!r} works off a batch"
        if cause.harmless:
            return f"{head} since {scene.since}: {cause.sentence(scene)}."
        curve = scene.batch
        if curve is None:
            its = workers(self.signals.max_workers, scene.kind)
            return (
                f"{head} of {self.batch.tasks} tasks since {scene.since}{scene.place}: each waits for "
                f"its turn on {its}, {seconds(self.signals.wait_p50_seconds)} in the middle."
            )
        return f"{head} of {curve.tasks} tasks since {scene.since}{scene.place}: {_worded(curve, scene.kind)}."

    def advice(self, scene: Scene, cause: Cause) -> Advice:
        """Advise nothing, and say what a larger pool would take."""
        if cause.harmless:
            return cause.advice(scene)
        if scene.batch is None:
            return Advice("none", "Nothing needs doing if the batch is done soon enough.")
        return Advice(
            "none",
            "Nothing needs doing if that is soon enough. The other sizes are a replay with the run times as recorded: "
            f"what the tasks wait for must serve so many at once.{self.headroom.warning(scene.batch.points[-1][0])}",
        )


def _worded(curve: BatchCurve, kind: str) -> str:
    """`8 workers 2.6 s, 16: 1.4 s, 32: 0.8 s, and beyond 60 more help little`."""
    (now, length), *others = curve.points
    parts = [f"{workers(now, kind)} {_length(length)}"]
    parts += [f"{size}: {_length(taken)}" for size, taken in others if size <= 2 * curve.enough]
    few = f"more {noun(kind)}s help little" if curve.enough <= now else f"beyond {curve.enough} more help little"
    return f"{', '.join(parts)}; {few}"


def _length(value: float) -> str:
    """Return seconds with one decimal, so that several are easily compared."""
    return f"{value:.1f} s" if 0.1 <= value < 120 else seconds(value)

"""Whether a stretch is a batch: a finite job that was submitted as a whole and is then worked off. Pure."""

from __future__ import annotations

import msgspec

from poolscope.aggregation.pool_history import PoolHistory
from poolscope.aggregation.stretches import Stretch
from poolscope.signals.window import LATE_NS

#: The first part of a stretch (docs/concepts.md#numbers).
FIRST_PART = 0.1


class Batch(msgspec.Struct, frozen=True):
    """The tasks that waited in a stretch, and how many of them had been submitted by the end of its first tenth, and by
    the middle of it."""

    tasks: int
    early: int
    first_half: int = 0

    @property
    def early_share(self) -> float:
        """The part that had come by the end of the first tenth; 0 without tasks."""
        return self.early / self.tasks if self.tasks else 0.0

    @property
    def first_half_share(self) -> float:
        """The part that had come by the middle; 0 without tasks."""
        return self.first_half / self.tasks if self.tasks else 0.0


def batch_of(history: PoolHistory, stretch: Stretch) -> Batch:
    """Count the tasks that were queued as the stretch began, or were submitted in it.

    If more tasks ended than are remembered, the first of a batch are missing: then the share is too small, never too
    large.
    """
    begin_ns, end_ns = stretch.begin_ns, stretch.end_ns
    early_ns, middle_ns = begin_ns + int(FIRST_PART * stretch.length_ns), begin_ns + stretch.length_ns // 2
    tasks = history.queue_depth
    early, first_half = (tasks - history.queued_since(at_ns) for at_ns in (early_ns, middle_ns))
    started = [task.submitted_ns for task in history.running.values() if task.started_ns >= begin_ns]
    for _, submitted, began, ended, _ in reversed(history.recent):
        if ended < begin_ns - LATE_NS:
            break  # newest first
        if began >= begin_ns and submitted <= end_ns:
            started.append(submitted)
    early += sum(at <= early_ns for at in started)
    first_half += sum(at <= middle_ns for at in started)
    return Batch(tasks + len(started), early, first_half)

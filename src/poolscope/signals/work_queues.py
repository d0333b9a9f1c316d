"""Facts about a work queue: whether anything suffers from how slowly it is worked off.

Pure: no clock, no thread, no I/O.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import msgspec

from poolscope.aggregation.pool_history import PoolHistory
from poolscope.messages import StackSample
from poolscope.signals.window import Window, median

#: The kind of their pools.
KIND = "queue"
#: Fewer looks than this say nothing about what waits for room in the queue, or for its end.
LOOKS_NEEDED = 5
#: The parts of a window whose waits are compared, and how many items each must have.
PARTS = 5
PART_ITEMS = 3
#: In the last part items wait so many times as long as in the first, where the wait grows.
GROWN = 1.5


class WorkQueueSignals(msgspec.Struct, frozen=True, kw_only=True):
    """A work queue over one window."""

    #: The part of the looks in which something waited to put an item, or for the end of all items; None: not looked at
    #: often enough.
    held_back_share: float | None = None
    #: Whether each item waits for longer than those before it.
    growing: bool = False


def work_queue_signals(history: PoolHistory, window: Window, samples: Sequence[StackSample]) -> WorkQueueSignals | None:
    """Return the facts about a work queue; None of any other pool."""
    if history.opened.kind != KIND:
        return None
    share = None
    if len(samples) >= LOOKS_NEEDED:
        share = sum(bool(sample.waiting) for sample in samples) / len(samples)
    # Items in an order of their own may be there for later.
    in_order = not history.opened.executor.endswith("PriorityQueue")
    return WorkQueueSignals(held_back_share=share, growing=in_order and _grows(window))


def _grows(window: Window) -> bool:
    """Whether the median wait is larger in each part of the window than in the one before."""
    length_ns = window.end_ns - window.begin_ns
    parts: list[list[int]] = [[] for _ in range(PARTS)]
    for started, wait in window.started():
        if 0 <= started - window.begin_ns < length_ns:
            parts[PARTS * (started - window.begin_ns) // length_ns].append(wait)
    if any(len(part) < PART_ITEMS for part in parts):
        return False
    medians = [median(part) or 0.0 for part in parts]
    return all(after > before for before, after in pairwise(medians)) and medians[-1] >= GROWN * medians[0]

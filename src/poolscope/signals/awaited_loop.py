"""How much of a pool's time goes to waiting for coroutines of an event loop, and whether the loop gets on. Pure."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping

import msgspec

from poolscope.aggregation.loop_history import LoopHistory
from poolscope.messages import Wait
from poolscope.signals.deadlock import SAMPLES_NEEDED, WAITS_KEPT


class AwaitedLoop(msgspec.Struct, frozen=True):
    """The part (0 to 1) of the workers' time in a full pool that goes to waiting for coroutines of the event loop of
    that name, and the part of that time in which the loop was held or had no rest."""

    loop: str
    share: float
    held_share: float


class LoopWaits:
    """Which event loops one pool's workers wait for, as time goes on. Not thread-safe: the engine's owner guards it."""

    def __init__(self) -> None:
        # When, and how many workers waited for a coroutine of which loop.
        self._samples: deque[tuple[int, Counter[int]]] = deque(maxlen=WAITS_KEPT)
        self._histories: dict[int, LoopHistory] = {}

    def note(self, at_ns: int, waits: Iterable[Wait], histories: Mapping[int, LoopHistory]) -> None:
        """Take in the waits of this pool's workers in one sample; `histories` of the loops that run."""
        counts: Counter[int] = Counter()
        for wait in waits:
            # A coroutine that itself waits for a task of a pool counts as waiting for that pool.
            if wait.loop in histories and not any(pool for pool, _ in wait.targets):
                counts[wait.loop] += 1
                self._histories[wait.loop] = histories[wait.loop]
        self._samples.append((at_ns, counts))

    def awaited(self, begin_ns: int, end_ns: int, workers: int) -> AwaitedLoop | None:
        """Return the loop that the workers, which were all busy, have waited for most in [begin, end]."""
        inside = [counts for at_ns, counts in self._samples if begin_ns <= at_ns <= end_ns]
        if len(inside) < SAMPLES_NEEDED:
            return None
        total: Counter[int] = Counter()
        for counts in filter(None, inside):
            total.update(counts)
        for loop, count in total.most_common(1):
            history = self._histories[loop]
            held_ns = history.held_within(begin_ns, end_ns)
            return AwaitedLoop(
                history.name, count / (len(inside) * max(1, workers)), held_ns / max(1, end_ns - begin_ns)
            )
        return None

"""What the patterns of a pool have in common that is full for long: `serial` and `async_then_serial`."""

from __future__ import annotations

from poolscope.rules import wording
from poolscope.rules.reason import Cause, Criteria, Pattern, Scene
from poolscope.rules.wording import seconds
from poolscope.signals.pool_signals import PoolSignals

#: Once raised, a finding stays until the amplification is below this part of its threshold.
RELEASE = 0.75
#: Calls that nothing waits for any more take most of the worker time from this share of it on. What they run is no work
#: to compare a wait with: then so long a wait is long (s).
GIVEN_UP_SHARE = 0.5
GIVEN_UP_WAIT_SECONDS = 0.1
#: Of its run, what a task does itself where it does most of it.
WORKING_SHARE = 0.5


def given_up(signals: PoolSignals) -> bool:
    """Whether calls that nothing waits for any more take most of the worker time."""
    return signals.given_up_share > GIVEN_UP_SHARE


def amplified(signals: PoolSignals, criteria: Criteria) -> bool:
    """Whether a stretch lasts, and its tasks wait for long."""
    if signals.stretch_seconds < criteria.thresholds.sustain_seconds:
        return False
    if given_up(signals) and (signals.wait_p50_seconds or 0.0) >= GIVEN_UP_WAIT_SECONDS:
        return True
    amplification = signals.amplification
    least = criteria.thresholds.min_amplification * (RELEASE if criteria.raised else 1.0)
    return amplification is not None and not signals.negligible and amplification >= least


#: A limit that holds up less than this is doing its work: seconds of waiting, holds that were waited for, and the part
#: of the stretch that a single hold may be.
LIMIT_WAIT_SECONDS = 0.01
LIMIT_HOLDS = 10
LIMIT_SINGLE_SHARE = 0.5


def matters(signals: PoolSignals) -> bool:
    """Whether it is worth more than a note: of a limit, that a good many wait for long, and not once for a single
    hold."""
    limit = signals.limit
    return limit is None or (
        (signals.wait_p50_seconds or 0.0) >= LIMIT_WAIT_SECONDS
        and limit.waited >= LIMIT_HOLDS
        and limit.longest_share < LIMIT_SINGLE_SHARE
    )


#: A put or a join that waits in so many of the looks is held up by the consumers. Without one, the items of a queue
#: with a single consumer wait longer and longer for so many times `sustain_seconds` until that is a fault.
HELD_BACK_SHARE = 0.5
GROWING_SUSTAINS = 5


def held_back(signals: PoolSignals) -> bool:
    """Whether those that put items into a queue, or wait for their end, are held up."""
    queue = signals.work_queue
    return queue is not None and (queue.held_back_share or 0.0) >= HELD_BACK_SHARE


def unhurried(signals: PoolSignals, criteria: Criteria) -> bool:
    """Whether it is a queue with one consumer, as many are on purpose, and nothing is held up by it: its items wait,
    but no longer and longer."""
    queue = signals.work_queue
    if queue is None or signals.max_workers > 1 or held_back(signals):
        return False
    lasts = signals.stretch_seconds >= GROWING_SUSTAINS * criteria.thresholds.sustain_seconds
    return not (queue.growing and lasts)


def by_no_chance(signals: PoolSignals) -> bool:
    """Whether a stretch is more than random arrivals bring to a healthy pool."""
    surprise = signals.crowd.surprise
    return surprise is not None and surprise >= signals.crowd.surprise_needed


def prefetched(signals: PoolSignals) -> bool:
    """Whether no more tasks are queued than there are workers, all of one function.

    A submitter that waits for results keeps one ready for each worker (joblib, a bounded `map`). Such a task waits as
    long as it runs, and its run is its work: it is not itself queued for most of it.
    """
    if signals.limit is not None or (signals.max_workers == 1 and held_back(signals)):
        return False
    run, working = signals.run_p50_seconds, signals.working_run_seconds
    if run is not None and working is not None and working < WORKING_SHARE * run:
        return False
    return signals.functions == 1 and 0 < signals.crowd.queue <= signals.max_workers


def sustained(signals: PoolSignals, criteria: Criteria) -> bool:
    """Whether both hold, and it is no prefetch; of a finding that lasts, the first is enough."""
    if prefetched(signals):
        return False
    return amplified(signals, criteria) and matters(signals) and (criteria.raised or by_no_chance(signals))


def kinds(signals: PoolSignals, scene: Scene) -> str:
    """Say that calls of a function are of two kinds, if they are: no median stands for both."""
    if signals.kinds is None:
        return ""
    long, short = seconds(signals.kinds.long_seconds), seconds(signals.kinds.short_seconds)
    return f"; {wording.every(signals.kinds.share, scene.name_of(signals.kinds.function))} {long}, the others {short}"


class Sustained(Pattern, frozen=True, kw_only=True):
    """A pool whose tasks wait for long, and for no chance."""

    def sentence(self, scene: Scene, cause: Cause) -> str:
        """Begin as the pattern, or as the cause where it has a head of its own; the rest is the cause's."""
        return f"{cause.head(scene) or self.head(scene, cause)}: {cause.sentence(scene)}{kinds(self.signals, scene)}."

    def head(self, scene: Scene, cause: Cause) -> str:
        """Say what happened, and since when."""
        raise NotImplementedError

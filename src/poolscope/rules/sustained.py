"""What `serial` and `async_then_serial` share: the pool is full for long. Pure."""

from __future__ import annotations

from poolscope.rules import wording
from poolscope.rules.reason import Cause, Criteria, Pattern, Scene
from poolscope.rules.wording import seconds
from poolscope.signals.pool_signals import PoolSignals

#: A finding ends once the amplification is below this part of the threshold at which it began.
RELEASE = 0.75
#: From this share of the workers' time on, calls that nothing waits for any more take most of it. Such runs are no work
#: that a wait could be compared with: then a wait is long from this many seconds on.
GIVEN_UP_SHARE = 0.5
GIVEN_UP_WAIT_SECONDS = 0.1
#: The part of its run that a task works itself, if it mostly works.
WORKING_SHARE = 0.5


def given_up(signals: PoolSignals) -> bool:
    """Whether calls that nothing waits for any more take most of the workers' time."""
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


#: A limit that holds up less than this only does its job: seconds of waiting, number of holds that were waited for, and
#: the part of the stretch that a single hold may take.
LIMIT_WAIT_SECONDS = 0.01
LIMIT_HOLDS = 10
LIMIT_SINGLE_SHARE = 0.5


def matters(signals: PoolSignals) -> bool:
    """Whether this is worth more than a note: at a limit, many waits are long, and not just those behind one hold."""
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
    """Whether random arrivals at a healthy pool cannot explain a stretch."""
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
    """Whether tasks wait for long, not by chance and not as a prefetch; for a finding that lasts, the first is
    enough."""
    if prefetched(signals):
        return False
    return amplified(signals, criteria) and matters(signals) and (criteria.raised or by_no_chance(signals))


def kinds(signals: PoolSignals, scene: Scene) -> str:
    """Say so if the calls of a function are of two kinds: no median stands for both."""
    if signals.kinds is None:
        return ""
    long, short = seconds(signals.kinds.long_seconds), seconds(signals.kinds.short_seconds)
    return f"; {wording.every(signals.kinds.share, scene.name_of(signals.kinds.function))} {long}, the others {short}"


class Sustained(Pattern, frozen=True, kw_only=True):
    """A pool whose tasks wait for long, and not by chance."""

    def sentence(self, scene: Scene, cause: Cause) -> str:
        """Begin with the head of the cause, or else of the pattern; the rest is the cause's."""
        return f"{cause.head(scene) or self.head(scene, cause)}: {cause.sentence(scene)}{kinds(self.signals, scene)}."

    def head(self, scene: Scene, cause: Cause) -> str:
        """Say what happened, and since when."""
        raise NotImplementedError

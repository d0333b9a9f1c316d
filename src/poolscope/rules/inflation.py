"""Whether runs take longer than alone: a condition that several rules share. Pure."""

from __future__ import annotations

from poolscope.signals.pool_signals import RUN_INFLATION, PoolSignals


def inflated(signals: PoolSignals) -> tuple[bool, bool] | None:
    """Whether runs take longer than alone, by their median and by their mean; None if that is not known.

    They do not if they took as long already when the pool was about to fill. The mean alone also grows where a few
    tasks are long.
    """
    work = signals.work
    median, mean, last = work.alone_p50_seconds, work.alone_mean_seconds, work.last_alone_seconds
    run_p50, run_mean = work.run_p50_seconds, work.run_mean_seconds
    if median is None or mean is None or last is None or not run_p50 or not run_mean:
        return None
    if last * RUN_INFLATION >= run_mean:
        return False, False
    return run_p50 > RUN_INFLATION * median, run_mean > RUN_INFLATION * mean


def slower(signals: PoolSignals) -> float | None:
    """Return how many times as long runs take as alone; None if they do not take longer, or that is not known.

    Either the tasks hold each other up, or what they wait for has become slower.
    """
    if inflated(signals) != (True, True):
        return None
    return (signals.work.run_p50_seconds or 0) / (signals.work.alone_p50_seconds or 1)


def became_slower(signals: PoolSignals) -> float | None:
    """Return the same, where the tasks are known not to hold each other up."""
    return slower(signals) if signals.growing is False else None

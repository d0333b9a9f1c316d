"""How many times longer the tasks of a pool take than their own work, by function. Pure.

A task takes its wait and its run. Time that it waits inside of its run is not its work either, so both are compared
with the working run where that is known (docs/concepts.md#numbers). A median over all functions says little, as the
tasks of one may wait behind those of another. So medians are kept by function, and the function that fares worst
counts.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from poolscope.aggregation.durations import FunctionTotals
from poolscope.signals.queueing import Queueing
from poolscope.signals.two_kinds import TwoKinds, two_kinds
from poolscope.signals.window import TASKS_NEEDED, Share, Window, median, middle

#: A function counts if this share of the tasks are its.
TASKS_SHARE = 0.1
#: No task suffers from a wait below this (ns) and below this many times the mean run of the pool.
LEAST_WAIT_NS = 100_000_000
LEAST_WAIT_RUNS = 1.5


class Delay(msgspec.Struct, frozen=True):
    """Medians (ns) of the tasks of a function, or of the pool: their wait, their run, and their run without the time
    that they were queued inside of it (None: not known). `counts`: whether they wait long enough to suffer from it.
    `kinds`: set where the runs are of two kinds; then their mean stands for both."""

    wait_ns: float
    run_ns: float
    working_ns: float | None
    counts: bool
    kinds: TwoKinds | None = None

    @property
    def times(self) -> float:
        """How many times longer than its own work a task takes."""
        working_ns = self.working_ns if self.working_ns is not None else self.run_ns
        return amplification(self.wait_ns / 1e9, self.run_ns / 1e9, working_ns / 1e9, self.kinds)


def amplification(wait: float, run: float, working: float, kinds: TwoKinds | None) -> float:
    """(wait + run) / working run, in seconds; where there are two kinds of runs, of their mean."""
    whole = run if kinds is None else kinds.mean_seconds
    return (wait + whole) / whole * (run / working)


def delay(
    window: Window, totals: Mapping[int, FunctionTotals], queued: Queueing | None, *, means: bool = False
) -> Delay | None:
    """Return the delay of the function that suffers most from it; None if too little ended to tell. `means`: of the
    waits the mean counts, where that is more than the median.

    If the tasks of a function end no more, its earlier runs (`totals`) say how long one takes.
    """
    tasks = sum(share.tasks for share in window.shares.values())
    runs = window.runs
    mean_ns = sum(runs) / len(runs) if runs else None
    found: list[Delay] = []
    for function, share in window.shares.items():
        if not share.tasks or share.tasks < TASKS_SHARE * tasks:
            continue
        wait_ns, run_ns = share.wait_p50_ns, _run_ns(share, totals.get(function))
        if means and wait_ns is not None:
            wait_ns = max(wait_ns, share.wait_mean_ns or 0.0)
        if wait_ns is None or not run_ns:
            continue
        worked = queued.worked(function) if queued is not None else 1.0
        found.append(_delay(wait_ns, run_ns, mean_ns, worked, two_kinds(function, share.runs)))
    if found:
        return max(found, key=lambda each: (each.counts, each.times))
    return _together(window, mean_ns, queued)


def _run_ns(share: Share, totals: FunctionTotals | None) -> float | None:
    if len(share.runs) >= TASKS_NEEDED:
        return median(share.runs)
    if len(share.runs) + len(share.carried) >= TASKS_NEEDED:
        return median(share.runs + share.carried)
    if totals is not None and totals.run.count >= TASKS_NEEDED:
        return totals.run.quantiles((0.5,))[0]
    return None


def _together(window: Window, mean_ns: float | None, queued: Queueing | None) -> Delay | None:
    """Return the delay of all tasks together, for pools without a function that has a tenth of them and is known."""
    run_ns = median(window.runs)
    if len(window.runs) < TASKS_NEEDED or not run_ns:
        return None
    waits = [(wait, 1) for wait in window.waits]
    for share in window.shares.values():
        waits += [(wait, share.each) for wait in share.queued] + [(wait, 1) for wait in share.cancelled]
    busy_ns = sum(share.busy_ns for share in window.shares.values())
    worked = 1.0
    if queued is not None and busy_ns:
        worked = sum(queued.worked(it) * share.busy_ns for it, share in window.shares.items()) / busy_ns
    return _delay(middle(waits), run_ns, mean_ns, worked)


def _delay(wait_ns: float, run_ns: float, mean_ns: float | None, worked: float, kinds: TwoKinds | None = None) -> Delay:
    counts = wait_ns >= LEAST_WAIT_NS or (mean_ns is not None and wait_ns >= LEAST_WAIT_RUNS * mean_ns)
    return Delay(wait_ns, run_ns, worked * run_ns if worked < 1 else None, counts, kinds)

"""From the messages of a loop at work to the numbers that `loop_full` is judged by. Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from statistics import median

import msgspec

from poolscope.aggregation.loop_history import LoopHistory
from poolscope.messages import BlockEvidence, Line, LoopLoad
from poolscope.signals.loop_evidence import BlockSignals, measure_block

#: A gap (ns) between two messages of a loop at work that does not count as rest.
_GAP_NS = 300_000_000
#: Lines of a loop that are shown, the heaviest first.
LINES_SHOWN = 3

#: Lines (the user's first) and their part of the time in callbacks that was looked at.
Share = tuple[tuple[Line, ...], float]


class LoadSignals(msgspec.Struct, frozen=True, kw_only=True):
    """An event loop over the latest time in which it was at work without a pause. Seconds, and shares of that time."""

    since_ns: int
    until_ns: int
    #: Part of the time in callbacks, and in blocks of one callback.
    share: float
    blocked_share: float
    #: Median of how late the loop ran what was due, then and when it had rest; None: it never had, or was not measured.
    lag_p50_seconds: float | None
    rest_lag_seconds: float | None
    #: Part of the time in callbacks, and the first of the lags over all of the time, on a machine with nothing else to
    #: do: without the time in which the thread was ready but on no CPU, and as if its own callbacks alone made the loop
    #: late. It is asked while it is in one, and late at no other time.
    own_share: float
    own_lag_p50_seconds: float | None
    tasks: int
    block: BlockSignals
    #: Part of the time at work in which samples show the loop in a callback. A loop with many short callbacks is mostly
    #: seen between two of them, where it releases the GIL.
    inside_share: float
    #: Where the loop and the other threads were, the heaviest line first.
    lines: tuple[Share, ...]
    busy: tuple[Share, ...]
    #: The lines to blame for blocks in that time.
    blocking: frozenset[Line] = frozenset()

    @property
    def seconds(self) -> float:
        """How long it was at work."""
        return (self.until_ns - self.since_ns) / 1e9


def measure_load(history: LoopHistory, window_ns: int) -> LoadSignals | None:
    """Return the signals of a loop over the last `window_ns` for which there are messages; None if there are not, for
    so long without a pause."""
    latest = history.loads[-1].loop if history.loads else 0
    loads: list[LoopLoad] = []
    for load in reversed(history.loads):
        if load.loop != latest:
            continue  # of another loop in the same thread, or at the same time
        if loads and loads[-1].since_ns - load.at_ns > _GAP_NS:
            break
        loads.append(load)
        if loads[0].at_ns - load.since_ns >= window_ns:
            break
    if not loads or loads[0].at_ns - loads[-1].since_ns < window_ns:
        return None
    begin_ns, end_ns = loads[-1].since_ns, loads[0].at_ns
    total_ns = sum(load.at_ns - load.since_ns for load in loads)
    lags = [lag for at_ns, lag in history.lags if begin_ns <= at_ns <= end_ns]
    rest = _at_rest(history)
    at_work_ns = sum(load.share * (load.at_ns - load.since_ns) for load in loads)
    share = at_work_ns / total_ns
    evidence = _together(loads)
    own_share = max(evidence.cpu or 0.0, share - (evidence.delay or 0.0))
    return LoadSignals(
        since_ns=begin_ns,
        until_ns=end_ns,
        share=share,
        blocked_share=history.blocked_within(begin_ns, end_ns) / total_ns,
        lag_p50_seconds=median(lags) / 1e9 if lags else None,
        rest_lag_seconds=median(rest) / 1e9 if rest else None,
        own_share=own_share,
        own_lag_p50_seconds=_over_all_time(lags, own_share) / 1e9 * own_share / share if lags and share else None,
        tasks=min(load.tasks for load in loads),
        block=measure_block(evidence),
        inside_share=sum(weight for load in loads for _, weight in load.lines) / max(1.0, at_work_ns),
        lines=_shares([load.lines for load in loads]),
        busy=_shares([load.busy for load in loads]),
        blocking=frozenset(line.lines[0] for line in history.lines.values() if line.lines and line.last_ns > begin_ns),
    )


def _over_all_time(lags: Sequence[int], share: float) -> int:
    """Return the median over all of the time of what is 0 but for this share of it, in which it is one of `lags`."""
    if share <= 0.5:
        return 0
    return sorted(lags)[int((1 - 0.5 / share) * len(lags))]


def _at_rest(history: LoopHistory) -> list[int]:
    """Return how late the loops were at rest."""
    begins = [load.since_ns for load in history.loads]  # in order
    found = []
    for at_ns, lag in history.lags:
        place = bisect_right(begins, at_ns)
        if not place or history.loads[place - 1].at_ns < at_ns:
            found.append(lag)
    return found


def _together(loads: Sequence[LoopLoad]) -> BlockEvidence:
    """Return the mean of what was measured, weighted by the time that was measured."""
    whole = sum(load.evidence.wall_ns for load in loads)
    one = loads[0].evidence

    def mean(name: str) -> float:
        return sum((getattr(load.evidence, name) or 0.0) * load.evidence.wall_ns for load in loads) / max(1, whole)

    return BlockEvidence(
        whole,
        one.blocked_ns,
        cpu=None if any(load.evidence.cpu is None for load in loads) else mean("cpu"),
        delay=None if all(load.evidence.delay is None for load in loads) else mean("delay"),
        gil=one.gil,
        other=mean("other"),
        gc=mean("gc"),
        late=mean("late"),
        still=mean("still"),
        held=mean("held"),
        waited=mean("waited"),
        futex_seen=sum(load.evidence.futex_seen for load in loads),
        call_seen=sum(load.evidence.call_seen for load in loads),
        run_seen=sum(load.evidence.run_seen for load in loads),
    )


def _shares(seen: Sequence[Sequence[tuple[Sequence[Line], int]]]) -> tuple[Share, ...]:
    weights: dict[tuple[Line, ...], int] = {}
    for lines, weight in (pair for each in seen for pair in each):
        weights[tuple(lines)] = weights.get(tuple(lines), 0) + weight
    total = sum(weights.values())
    by_first: dict[Line, int] = {}
    for stack, weight in weights.items():
        by_first[stack[0]] = by_first.get(stack[0], 0) + weight
    shares: list[Share] = []
    for first, weight in sorted(by_first.items(), key=lambda item: -item[1])[:LINES_SHOWN]:
        stack = max((each for each in weights if each[0] == first), key=lambda each: weights[each])
        shares.append((stack, weight / total))
    return tuple(shares)

"""What the tasks of a pool did over a window of time, by function, and what came before it. Pure."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from itertools import takewhile

import msgspec

from poolscope.aggregation.durations import FunctionTotals
from poolscope.aggregation.pool_history import PoolHistory
from poolscope.signals.significance import Before, Runs

#: Tasks come in batches, not in order of time: one that ended this much earlier (ns) may come after another.
LATE_NS = 1_000_000_000
#: Fewer finished tasks than this give no median.
TASKS_NEEDED = 5
#: Fewer unhindered runs than this say nothing about how long a task takes when nothing is in its way.
UNHINDERED_NEEDED = 20
#: A task is overlong from this many times the p99 run of its function on, which takes so many runs to know.
OVERLONG_RUNS = 10.0
P99_NEEDED = 100
#: Functions without unhindered runs may have this part of the workers' time.
UNKNOWN_SHARE = 0.1
#: How many unhindered runs are looked at for the time just before the pool filled, and needed of each function.
LAST_UNHINDERED = 5
#: If the longest tenth of its runs takes this many times the median, a function has no typical run.
SPREAD_RUNS = 10.0
#: Nor if their mean is this many times the median: a few calls take nearly all of the time.
MEAN_RUNS = 3.0
#: Part of the workers' time that the functions have, the busiest first, whose runs are compared with those.
WORK_SHARE = 0.8
#: The load before a stretch is that of so much time (ns), and its run times are those of so many tasks.
BEFORE_NS = 60_000_000_000
BEFORE_RUNS = 1_000
#: A task that waits for at most this part of a run has started at once: to hand something over takes a moment.
AT_ONCE_RUNS = 0.1


class Share:
    """What one function did in a window; ns.

    `waits` and `runs` are of tasks that started in it and ended, and `carried` the runs of those that started before it
    and ended in it. Of those that run, `running` are the waits of the ones that started in it, and `ages` the runs so
    far. `queued` are the waits so far of those that still wait, each for `each` of them, and `cancelled` the waits of
    those that were cancelled in the queue.
    """

    __slots__ = (
        "ages",
        "busy_ns",
        "cancelled",
        "carried",
        "each",
        "finished",
        "queued",
        "running",
        "runs",
        "starts",
        "waits",
    )

    def __init__(self) -> None:
        self.starts = self.busy_ns = self.finished = 0
        self.each = 1
        self.waits: list[int] = []
        self.runs: list[int] = []
        self.carried: list[int] = []
        self.running: list[int] = []
        self.ages: list[int] = []
        self.queued: list[int] = []
        self.cancelled: list[int] = []

    @property
    def tasks(self) -> int:
        """How many tasks started in the window, wait at its end or were cancelled in the queue meanwhile."""
        return self.starts + self.each * len(self.queued) + len(self.cancelled)

    @property
    def wait_p50_ns(self) -> float | None:
        """The median wait of all of those, the waits so far included; None if there are none."""
        known = self.waits + self.running + self.cancelled
        if self.each == 1:
            return median(known + self.queued)
        return middle([(wait, 1) for wait in known] + [(wait, self.each) for wait in self.queued])

    @property
    def wait_mean_ns(self) -> float | None:
        """The mean of the same."""
        tasks = self.tasks
        known = sum(self.waits) + sum(self.running) + sum(self.cancelled) + self.each * sum(self.queued)
        return known / tasks if tasks else None

    @property
    def at_once(self) -> int:
        """How many of those that ended started as soon as they had come, or nearly so."""
        most_ns = AT_ONCE_RUNS * (median(self.runs) or 0.0)
        return sum(wait <= most_ns for wait in self.waits)

    def overlong_ns(self, totals: FunctionTotals | None) -> int:
        """Return the time in the window of tasks that take many times the p99 run; 0 if that is not known. If hardly
        any task ends in the window, nearly the longest of all that ever ended (`totals`) stands for it."""
        if len(self.runs) < P99_NEEDED:
            if totals is None or totals.run.count < UNHINDERED_NEEDED:
                return 0
            least = OVERLONG_RUNS * totals.run.quantiles((0.95,))[0]
            return sum(run for run in self.ages + self.carried if run >= least)
        runs = sorted(self.runs)
        least = OVERLONG_RUNS * runs[int(0.99 * len(runs))]
        return sum(run for run in self.ages + self.carried + runs[int(0.99 * len(runs)) :] if run >= least)


class Work(msgspec.Struct, frozen=True):
    """The tasks of the functions that have most of the workers' time: how long they ran, and how long when nothing was
    in their way (`alone`): median, mean, and the mean of the last few of these, in which a slowness shows that came
    before the crowd. Seconds.

    Of those functions only: how long a short task takes says nothing about how long the others take alone.
    """

    #: How long those that finished would have taken alone, all together, each as long as the median of its function.
    done_seconds: float | None = None
    run_p50_seconds: float | None = None
    run_mean_seconds: float | None = None
    alone_p50_seconds: float | None = None
    alone_mean_seconds: float | None = None
    last_alone_seconds: float | None = None


class Window:
    """The tasks of a pool that ran in [`begin_ns`, `end_ns`]; all of it must have been folded."""

    def __init__(self, history: PoolHistory, begin_ns: int, end_ns: int) -> None:
        self.begin_ns, self.end_ns = begin_ns, end_ns
        self._recent = history.recent
        self._running = [task.started_ns for task in history.running.values()]
        #: Tasks that started in the window, and those of them that had to wait for another task to end.
        self.starts = self.coupled = 0
        #: The most time in the window that one task took.
        self.longest_ns = 0
        self.shares: dict[int, Share] = {}
        for function, submitted, started, ended, coupled in reversed(history.recent):
            if ended < begin_ns - LATE_NS:
                break  # newest first: the rest ended before the window
            share = self.shares.get(function) or self.shares.setdefault(function, Share())
            share.finished += begin_ns <= ended <= end_ns
            inside_ns = max(0, min(ended, end_ns) - max(started, begin_ns))
            share.busy_ns += inside_ns
            self.longest_ns = max(self.longest_ns, inside_ns)
            if started < begin_ns < ended:
                share.carried.append(ended - started)
            if begin_ns <= started <= end_ns:
                self.coupled += coupled
                share.waits.append(started - submitted)
                share.runs.append(ended - started)
        for share in self.shares.values():
            share.starts = len(share.waits)
        waits = [wait for share in self.shares.values() for wait in share.waits]
        for worker, running in history.running.items():
            if history.has_ended(worker):
                continue  # its run comes with its result
            share = self.shares.get(running.function) or self.shares.setdefault(running.function, Share())
            share.ages.append(max(0, end_ns - running.started_ns))
            inside_ns = max(0, end_ns - max(running.started_ns, begin_ns))
            share.busy_ns += inside_ns
            self.longest_ns = max(self.longest_ns, inside_ns)
            if begin_ns <= running.started_ns <= end_ns:
                share.starts += 1
                self.coupled += running.coupled
                share.running.append(running.started_ns - running.submitted_ns)
                waits.append(share.running[-1])
        self._add_queued(history)
        #: Of all tasks that started in it; runs of those that also ended.
        self.waits: Sequence[int] = waits
        self.runs: Sequence[int] = [run for share in self.shares.values() for run in share.runs]
        self.starts = sum(share.starts for share in self.shares.values())
        self.finished = sum(share.finished for share in self.shares.values())
        self.busy_ns = sum(share.busy_ns for share in self.shares.values())

    def _add_queued(self, history: PoolHistory) -> None:
        """Add the tasks that wait at the end of the window, and those that were cancelled in the queue meanwhile."""
        queued, each = history.some_queued()
        for submitted, function in queued:
            if submitted <= self.end_ns:
                share = self.shares.get(function) or self.shares.setdefault(function, Share())
                share.each = each
                share.queued.append(self.end_ns - submitted)
        for function, submitted, when in reversed(history.withdrawn):
            if when < self.begin_ns - LATE_NS:
                break  # newest first
            if self.begin_ns <= when <= self.end_ns:
                share = self.shares.get(function) or self.shares.setdefault(function, Share())
                share.cancelled.append(max(0, when - submitted))

    def overlong_share(self, totals: Mapping[int, FunctionTotals]) -> float:
        """Return the part of the workers' time that tasks have which take many times the p99 run of their function."""
        overlong_ns = sum(share.overlong_ns(totals.get(function)) for function, share in self.shares.items())
        return min(1.0, overlong_ns / max(1, self.busy_ns))

    def started(self) -> list[tuple[int, int]]:
        """Return when each task started that started in the window and has ended, and how long it had waited."""
        latest = takewhile(lambda task: task[3] >= self.begin_ns - LATE_NS, reversed(self._recent))
        return [(started, started - submitted) for _, submitted, started, _, _ in latest if started >= self.begin_ns]

    def ended(self) -> dict[tuple[int, int], int]:
        """Return (function, started) -> when that task ended."""
        latest = takewhile(lambda task: task[3] >= self.begin_ns - LATE_NS, reversed(self._recent))
        return {(function, started): ended for function, _, started, ended, _ in latest}

    def alone(self, workers: int) -> list[tuple[int, int]]:
        """Return function and run (ns) of the tasks that started while no more than a quarter of the workers, or one,
        were in tasks, themselves included: of workers that are in callbacks, say, no one is idle either."""
        latest = list(takewhile(lambda task: task[3] >= self.begin_ns - LATE_NS, reversed(self._recent)))
        starts = sorted([*self._running, *(started for _, _, started, _, _ in latest)])
        ends = sorted(ended for *_, ended, _ in latest)
        few = max(1, workers / 4)
        return [
            (function, ended - started)
            for function, _, started, ended, _ in latest
            if started >= self.begin_ns and bisect_left(starts, started) + 1 - bisect_left(ends, started) <= few
        ]

    def _done_seconds(self, unhindered: Mapping[int, Sequence[int]]) -> float | None:
        """See `Work`; None while functions of which it is not known have a tenth of the workers' time."""
        known = {function: runs for function, runs in unhindered.items() if _is_of_a_kind(runs)}
        busy_ns = sum(self.shares[function].busy_ns for function in known)
        if sum(map(len, known.values())) < UNHINDERED_NEEDED or busy_ns <= (1 - UNKNOWN_SHARE) * self.busy_ns:
            return None
        return sum(self.shares[it].finished * (median(runs) or 0.0) for it, runs in known.items()) / 1e9

    def work(self, unhindered: Iterable[tuple[int, int]]) -> Work:
        """See `Work`; `unhindered` are (function, run in ns)."""
        part = busiest(self.shares)
        runs = [run for share in part.values() for run in share.runs]
        if len(runs) < TASKS_NEEDED:
            return Work()
        every: dict[int, list[int]] = {function: [] for function in self.shares}
        for function, run in unhindered:
            if function in every:
                every[function].append(run)
        alone = {function: every[function] for function in part}
        known = sum(map(len, alone.values())) >= UNHINDERED_NEEDED and all(map(_is_of_a_kind, alone.values()))
        # The same number of each function as now: a different mix of functions is not a slower one.
        weights = {function: len(share.runs) for function, share in part.items()}
        return Work(
            done_seconds=self._done_seconds(every),
            run_p50_seconds=seconds(median(runs)),
            run_mean_seconds=sum(runs) / len(runs) / 1e9,
            alone_p50_seconds=_middle(alone, weights) / 1e9 if known else None,
            alone_mean_seconds=_mean(alone, weights) / 1e9 if known else None,
            last_alone_seconds=(
                _mean({it: runs[-LAST_UNHINDERED:] for it, runs in alone.items()}, weights) / 1e9 if known else None
            ),
        )


def _is_of_a_kind(runs: Sequence[int]) -> bool:
    """Whether there are enough runs of a function to say how long one takes, and there is such a length: a server's
    handler may end at once where there is no request."""
    if len(runs) < LAST_UNHINDERED:
        return False
    ordered = sorted(runs)
    usual = ordered[len(ordered) // 2]
    return ordered[int(0.9 * len(ordered))] <= SPREAD_RUNS * usual and sum(runs) <= MEAN_RUNS * usual * len(runs)


def _mean(runs: Mapping[int, Sequence[int]], weights: Mapping[int, int]) -> float:
    return sum(weights[it] * sum(own) / len(own) for it, own in runs.items()) / sum(weights.values())


def _middle(runs: Mapping[int, Sequence[int]], weights: Mapping[int, int]) -> int:
    """Return the weighted median."""
    return middle([(run, weights[it] / len(own)) for it, own in runs.items() for run in own])


def middle(values: Sequence[tuple[int, float]]) -> int:
    """Return the weighted median of (value, weight). There is one at least."""
    every = sorted(values)
    half = sum(weight for _, weight in every) / 2
    for value, weight in every:
        half -= weight
        if half <= 0:
            return value
    return every[-1][0]


def busiest(shares: Mapping[int, Share]) -> dict[int, Share]:
    """Return the functions that have most of the workers' time: no more of them than it takes for `WORK_SHARE`."""
    left = (1 - WORK_SHARE) * sum(share.busy_ns for share in shares.values())
    part = dict(sorted(shares.items(), key=lambda item: item[1].busy_ns, reverse=True))
    while part:
        function, share = part.popitem()
        left -= share.busy_ns
        if left < 0:
            part[function] = share
            break
    return part


def before(history: PoolHistory, begin_ns: int) -> Before:
    """Return the load before a stretch that began then, as far as it is remembered."""
    remembered_ns = history.known_ns
    if history.recent.full:
        remembered_ns = max(remembered_ns, history.recent.oldest[1])
    since_ns = min(begin_ns, max(begin_ns - BEFORE_NS, remembered_ns))
    arrivals = sum(since_ns <= task.submitted_ns < begin_ns for task in history.running.values())
    runs: list[int] = []
    for _, submitted, started, ended, _ in reversed(history.recent):
        if ended < since_ns:
            break  # newest first
        arrivals += since_ns <= submitted < begin_ns
        if ended <= begin_ns and len(runs) < BEFORE_RUNS:
            runs.append(ended - started)
    return Before((begin_ns - since_ns) / 1e9, arrivals, sums(runs))


def sums(runs: Sequence[int]) -> Runs:
    """Return the count, the sum (s) and the sum of squares of run times (ns)."""
    return Runs(len(runs), sum(runs) / 1e9, sum(run * run for run in runs) / 1e18)


def median(values: Sequence[int]) -> float | None:
    """Return the middle one, or the mean of the middle two; None of nothing."""
    if not values:
        return None
    ordered = sorted(values)
    middle = len(ordered) // 2
    if len(ordered) % 2:
        return float(ordered[middle])
    return (ordered[middle - 1] + ordered[middle]) / 2


def seconds(nanoseconds: float | None) -> float | None:
    """Return the same in seconds."""
    return None if nanoseconds is None else nanoseconds / 1e9

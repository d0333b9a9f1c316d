"""Measures a stretch of a pool's history: the numbers that rules judge by (`PoolSignals`).

Pure: no clock, no thread, no I/O.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable, Mapping, Sequence
from operator import attrgetter
from types import MappingProxyType
from typing import TypeVar

import msgspec

from poolscope.aggregation.durations import FunctionTotals
from poolscope.aggregation.pool_history import CpuReading, PoolHistory
from poolscope.aggregation.stretches import Stretch
from poolscope.messages import Handover, HeldSample, StackSample
from poolscope.signals.amplification import delay
from poolscope.signals.awaited_loop import AwaitedLoop
from poolscope.signals.batch import batch_of
from poolscope.signals.contention import (
    OTHERS_NEEDED,
    RENEWALS_NEEDED,
    SAMPLES_NEEDED,
    Contention,
    FunctionShare,
    Hogs,
    children_share,
    contention,
    held_up,
    hogs,
)
from poolscope.signals.deadlock import Awaited, Deadlock
from poolscope.signals.handover import between
from poolscope.signals.held import InLoop, given_up_share, held_workers, standing
from poolscope.signals.limits import limit_signals
from poolscope.signals.pool_signals import PoolSignals, ProcessSignals
from poolscope.signals.queueing import SourceOf, Task, queueing, takes, with_gates
from poolscope.signals.significance import Before, LoadTest, Runs
from poolscope.signals.window import TASKS_NEEDED, UNHINDERED_NEEDED, Window, median, seconds, sums
from poolscope.signals.work_queues import work_queue_signals

#: The kinds of pools whose workers are their own threads or processes, so that none left is none to come.
OWN_WORKERS = ("thread", "interpreter", "process", "multiprocessing")
#: The kinds whose workers have a GIL each, so that none computes under the one of the interpreter that watches.
OWN_GILS = ("process", "interpreter")

#: Workers that are in tasks for less than this part of their time have other things to do.
IN_TASKS_SHARE = 0.5

_at = attrgetter("at_ns")
_Timed = TypeVar("_Timed", StackSample, HeldSample, Handover)


def no_source(_file: str, _line: int) -> str | None:
    """Read no source."""
    return None


#: No task waits for another pool.
NOWHERE: Mapping[int, Collection[Task]] = MappingProxyType({})


class Surroundings(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a stretch beside the pool's own history. For those that are not told here see `PoolSignals`."""

    process: ProcessSignals
    #: The load before the stretch.
    came_before: Before
    growing: bool | None = None
    deadlock: Deadlock | None = None
    awaited: Awaited | None = None
    awaited_loop: AwaitedLoop | None = None
    full_seconds: float = 0.0
    #: The tasks that wait for another pool to start one (see `queueing`).
    elsewhere: Mapping[int, Collection[Task]] = NOWHERE
    #: Gives lines of source.
    source_of: SourceOf = no_source
    #: Whether a line is in a loop around a wait that ends by itself.
    in_loop: InLoop = lambda _: False


def measure(history: PoolHistory, stretch: Stretch, window: Window, around: Surroundings) -> PoolSignals:
    """Return the signals of a pool over a window that ends with the stretch; all of it must have been folded."""
    seen = _Seen(history, stretch, window, around)
    suffered, found, limit = seen.suffered, seen.contention, seen.limit
    return PoolSignals(
        window_seconds=seen.length_ns / 1e9,
        max_workers=history.size,
        starts=window.starts,
        coupled_starts=window.coupled,
        finished=window.finished,
        queue_depth=history.queue_depth,
        oldest_queued_seconds=history.oldest_queued_ns(stretch.end_ns) / 1e9,
        wait_p50_seconds=seconds(suffered.wait_ns) if suffered is not None else None,
        wait_max_seconds=seen.wait_max_seconds(),
        run_p50_seconds=seconds(suffered.run_ns) if suffered is not None else None,
        working_run_seconds=seconds(suffered.working_ns) if suffered is not None else None,
        working_workers=seen.working_workers(),
        overtaken=seen.overtaken,
        negligible=suffered is not None and not suffered.counts,
        kinds=suffered.kinds if suffered is not None else None,
        full_seconds=around.full_seconds,
        run_mean_seconds=seen.run_mean_seconds(),
        stretch_seconds=stretch.length_ns / 1e9,
        crowd=seen.crowd(),
        work=seen.work,
        worker_cores=seen.worker_cores,
        worker_cpu_share=seen.worker_cpu_share(),
        workers_ready=rate(history.ready_readings, window.begin_ns, stretch.end_ns),
        seconds_since_finish=_since_finish(history, stretch.end_ns),
        longest_run_seconds=history.run.maximum / 1e9 if history.run.count else None,
        process=seen.process(),
        held=held_workers(history, stretch.end_ns, around.in_loop),
        gone_seconds=gone_seconds(history, stretch.end_ns),
        standing=None if history.run.count else standing(history, stretch.end_ns),
        given_up_share=seen.given_up_share(),
        replacing_share=seen.replacing_share(),
        samples=len(seen.samples),
        contention=found if found is not None and found.sure else None,
        suspected=found is not None and not found.sure,
        held_up=held_up(seen.samples, seen.lasting),
        children_share=children_share(seen.samples),
        overlong_share=window.overlong_share(history.functions),
        hogs=seen.hogs(),
        growing=around.growing,
        deadlock=around.deadlock,
        awaited=around.awaited,
        between=between(seen.handovers, history.size, seen.task_share),
        handovers=len(seen.handovers),
        task_share=seen.task_share,
        batch=batch_of(history, stretch),
        functions=len(window.shares),
        awaited_loop=around.awaited_loop,
        limit=limit,
        work_queue=work_queue_signals(history, window, seen.samples),
    )


class _Seen:
    """What several numbers of one window are made from, worked out once; and the numbers that take some steps."""

    def __init__(self, history: PoolHistory, stretch: Stretch, window: Window, around: Surroundings) -> None:
        self._history, self._stretch, self._window, self._around = history, stretch, window, around
        self._begin_ns, self._end_ns = window.begin_ns, stretch.end_ns
        self.length_ns = max(1, self._end_ns - self._begin_ns)
        self._enough = len(window.runs) >= TASKS_NEEDED
        samples = self._within(history.stacks)
        cores = rate(history.cpu_readings, self._begin_ns, self._end_ns)
        self.limit = limit_signals(history, window, samples, cores)
        #: None of a limit: it has no workers.
        self.worker_cores = cores if self.limit is None else None
        self.samples = with_gates(samples, around.source_of)
        self.handovers = self._within(history.handovers)
        self.task_share = min(1.0, window.busy_ns / (self.length_ns * history.size))
        # Holds that nothing hinders pass unseen.
        self.work = window.work(self._unhindered() if self.limit is None else ())
        #: Workers that were in one task all the time.
        self.lasting = frozenset(
            worker for worker, task in history.running.items() if task.started_ns <= self._begin_ns
        )
        self.contention = self._contention() if self.limit is None else None
        waiting = self.contention.waiting if self.contention is not None and self.contention.sure else ()
        self._queued = queueing(self.samples, self.lasting, around.elsewhere, waiting)
        #: Those that wait are overtaken: the median says little of their waits.
        self.overtaken = self.limit is not None and self.limit.overtaken
        self.suffered = delay(window, history.functions, self._queued, means=self.overtaken)

    def _within(self, told: Iterable[_Timed]) -> list[_Timed]:
        return [each for each in told if self._begin_ns <= each.at_ns <= self._end_ns]

    def _unhindered(self) -> Collection[tuple[int, int]]:
        """Return function and run (ns) of tasks that nothing hindered: those that started while other workers were
        idle, and where too few did, those whose workers are not idle, yet hardly ever in tasks."""
        known = self._history.occupancy.unhindered
        if len(known) >= UNHINDERED_NEEDED or self.task_share >= IN_TASKS_SHARE:
            return known
        return self._window.alone(self._history.size)

    def _contention(self) -> Contention | None:
        history, window = self._history, self._window
        if len(self.samples) < SAMPLES_NEEDED or window.starts < RENEWALS_NEEDED:
            return None  # and what it is judged by costs more than to see that
        source_of = self._around.source_of
        return contention(
            self.samples,
            history.size,
            lasting=self.lasting,
            starts=window.starts,
            ended=window.ended(),
            usual={function: median(share.runs) or 0.0 for function, share in window.shares.items() if share.runs},
            worth=self._worth(),
            takes=lambda lines: takes(lines, source_of),
        )

    def _worth(self) -> float:
        """How many tasks' worth of work got done at once, had each taken only as long as it can: as alone, or as the
        fastest of its function if that is not known."""
        least_ns = sum(
            share.finished * self._history.functions[function].run.minimum
            for function, share in self._window.shares.items()
            if share.finished
        )
        return max(least_ns, (self.work.done_seconds or 0.0) * 1e9) / self.length_ns

    def process(self) -> ProcessSignals:
        """Return what the process has; workers with a GIL each are what computes in it."""
        process = self._around.process
        if self._history.opened.kind not in OWN_GILS:
            return process
        return ProcessSignals(cores_used=self.worker_cores, cores_allowed=process.cores_allowed, gil=False)

    def wait_max_seconds(self) -> float | None:
        """Return the longest wait, of tasks that still wait or were cancelled too; None if none has waited."""
        shares = self._window.shares.values()
        waits = [*self._window.waits, *(wait for share in shares for wait in (*share.queued, *share.cancelled))]
        return seconds(max(waits)) if waits else None

    def run_mean_seconds(self) -> float | None:
        """Return the mean run of the tasks in the window; None of too few."""
        runs = self._window.runs
        return sum(runs) / len(runs) / 1e9 if self._enough else None

    def working_workers(self) -> float | None:
        """How many workers are in a task and not queued within it, on average."""
        queued = self._queued
        if queued is None:
            return None
        worked_ns = sum(queued.worked(function) * share.busy_ns for function, share in self._window.shares.items())
        return worked_ns / self.length_ns

    def worker_cpu_share(self) -> float | None:
        """Return the CPU seconds of the workers per second that they were busy."""
        busy_ns = self._window.busy_ns
        if self.worker_cores is None or busy_ns <= 0:
            return None
        return min(1.0, self.worker_cores * self.length_ns / busy_ns)

    def given_up_share(self) -> float:
        """See `PoolSignals`."""
        return given_up_share(self._within(self._history.held), self._history.size)

    def replacing_share(self) -> float | None:
        """See `PoolSignals`."""
        history = self._history
        if not history.replacements.known:
            return None
        waited_ns = history.replacements.waited_ns(self._begin_ns, self._end_ns, history.oldest_submitted_ns)
        return waited_ns / (history.size * self.length_ns)

    def hogs(self) -> Hogs | None:
        """Return the functions that hold most of the workers' time in few tasks."""
        totals = self._history.functions
        return hogs(
            [
                FunctionShare(
                    function,
                    share.starts,
                    share.busy_ns,
                    share.waits + share.queued + share.cancelled,
                    share.runs if len(share.runs) >= OTHERS_NEEDED else earlier_runs(totals.get(function)),
                    share.tasks,
                )
                for function, share in self._window.shares.items()
            ]
        )

    def crowd(self) -> LoadTest:
        """Return what shows whether random arrivals bring about such a stretch."""
        history, stretch, queued = self._history, self._stretch, self._queued
        peak = history.occupancy.peaks.get(stretch.begin_ns)
        return LoadTest(
            workers=self._passing(),
            stretch_seconds=stretch.length_ns / 1e9,
            queue=peak.queued if peak is not None else 0,
            inside=queued.workers if queued is not None else 0.0,
            arrivals=peak.arrivals if peak is not None else 0,
            seconds=(peak.at_ns - stretch.begin_ns) / 1e9 if peak is not None else 0.0,
            runs=sums(self._window.runs) if self._enough else Runs(),
            before=self._around.came_before,
            regularity=history.regularity,
        )

    def _passing(self) -> int:
        """How many workers the tasks that come and go share: not those that are nearly all the time in a task of a
        function of which none has ever come back, such as a consumer. The holds of a limit that are out as its first
        wait is seen begin with that."""
        functions, since_ns = self._history.functions, self._begin_ns + self.length_ns // 10
        lasting = (task for task in self._history.running.values() if task.started_ns <= since_ns)
        known = (functions.get(task.function) for task in lasting)
        return max(1, self._history.size - sum(own is None or not own.run.count for own in known))


def rate(readings: Sequence[CpuReading], begin_ns: int, end_ns: int) -> float | None:
    """CPU seconds per second between the first and the last reading in the window; None if fewer than two are.

    `readings` are in order of time.
    """
    place = bisect_left(readings, begin_ns, key=_at)
    after = bisect_right(readings, end_ns, key=_at)
    if after - place < 2:
        return None
    first, last = readings[place], readings[after - 1]
    return (last.cpu_ns - first.cpu_ns) / (last.at_ns - first.at_ns) if last.at_ns > first.at_ns else None


def earlier_runs(totals: FunctionTotals | None) -> Sequence[int]:
    """Return runs that stand for those that a function had before the window."""
    if totals is None or totals.run.count < OTHERS_NEEDED:
        return ()
    return [int(totals.run.quantiles((0.5,))[0])] * OTHERS_NEEDED


def gone_seconds(history: PoolHistory, end_ns: int) -> float | None:
    """Return for how long no worker has been there, of pools that have their own; None if some are."""
    since_ns = history.gone_since_ns
    if since_ns is None or history.opened.kind not in OWN_WORKERS:
        return None
    return max(0, end_ns - since_ns) / 1e9


def _since_finish(history: PoolHistory, end_ns: int) -> float | None:
    """Seconds since a task has finished, or the result of one has come: it may have been under way for long."""
    if history.last_finish_ns is None:
        return None
    return max(0, end_ns - max(history.last_finish_ns, history.last_told_ns or 0)) / 1e9

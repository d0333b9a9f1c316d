"""From a stretch of a pool's history to the numbers that rules judge by.

Each number is independent of the others and of any threshold. What could not be measured is None, never 0.
Pure: no clock, no thread, no I/O.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from operator import attrgetter

import msgspec

from poolscope.analysis.chance import Before, Crowd, Runs
from poolscope.analysis.deadlock import Awaited, Deadlock
from poolscope.analysis.history import CpuReading, PoolHistory
from poolscope.analysis.occupants import (
    RENEWALS_NEEDED,
    SAMPLES_NEEDED,
    Contention,
    FunctionShare,
    HeldUp,
    Hogs,
    children_share,
    contention,
    held_up,
    hogs,
)
from poolscope.analysis.stretches import Stretch
from poolscope.analysis.window import TASKS_NEEDED, Window, Work, median, seconds, sums
from poolscope.messages import StackSample

#: Tasks shorter than this never hold a worker.
HELD_SECONDS = 1.0

_at = attrgetter("at_ns")


class ProcessSignals(msgspec.Struct, frozen=True):
    """What the process had and used over the same time: CPU seconds per second, and how many it may use; `children` are
    its child processes."""

    cores_used: float | None
    cores_allowed: float | None
    gil: bool
    children_cores: float | None = None


class HeldWorker(msgspec.Struct, frozen=True):
    """A worker that has been in one task for long: seconds, and how many times the p99 run of the task's function (of
    the pool, if the function never finished)."""

    worker: int
    function: int
    seconds: float
    times: float


class PoolSignals(msgspec.Struct, frozen=True, kw_only=True):
    """One pool over one window. Seconds and ratios."""

    window_seconds: float
    max_workers: int
    #: Tasks that started in the window, and those of them that had to wait for another task to end.
    starts: int
    coupled_starts: int
    finished: int
    queue_depth: int
    oldest_queued_seconds: float
    wait_p50_seconds: float | None
    wait_max_seconds: float | None
    run_p50_seconds: float | None
    run_mean_seconds: float | None
    stretch_seconds: float
    crowd: Crowd
    work: Work
    #: CPU seconds of the workers per second, and per second that they were busy.
    worker_cores: float | None
    worker_cpu_share: float | None
    #: Workers ready to run without a CPU, on average; None if it was not measured.
    workers_ready: float | None
    seconds_since_finish: float | None
    longest_run_seconds: float | None
    process: ProcessSignals
    #: Workers in tasks that take long, the longest first.
    held: tuple[HeldWorker, ...] = ()
    #: How often the lines of the workers were looked at.
    samples: int = 0
    contention: Contention | None = None
    #: It looks like that, unless those that seem to wait are tasks that just take long.
    suspected: bool = False
    held_up: HeldUp | None = None
    #: The part of the workers that wait for child processes, on average.
    children_share: float = 0.0
    #: The part of the workers' time that tasks have which take many times the p99 run of their function.
    overlong_share: float = 0.0
    hogs: Hogs | None = None
    #: Whether runs take longer the more of them there are at once; None if that does not show.
    growing: bool | None = None
    deadlock: Deadlock | None = None
    awaited: Awaited | None = None

    @property
    def cores_wanted(self) -> float | None:
        """Cores that the workers used or were ready to use."""
        return None if self.worker_cores is None else self.worker_cores + (self.workers_ready or 0.0)

    @property
    def wanted_share(self) -> float | None:
        """The same per second that they were busy."""
        share, cores, wanted = self.worker_cpu_share, self.worker_cores, self.cores_wanted
        return share * wanted / cores if share and cores and wanted is not None else share

    @property
    def coupling(self) -> float | None:
        """Coupled starts per start."""
        return self.coupled_starts / self.starts if self.starts else None

    @property
    def amplification(self) -> float | None:
        """(wait + run) / run, of medians: how many times longer a task takes than its own work."""
        if self.wait_p50_seconds is None or not self.run_p50_seconds:
            return None
        return (self.wait_p50_seconds + self.run_p50_seconds) / self.run_p50_seconds

    @property
    def throughput(self) -> float:
        """Tasks finished per second."""
        return self.finished / self.window_seconds if self.window_seconds > 0 else 0.0

    @property
    def effective_parallelism(self) -> float | None:
        """Throughput times the unhindered run time, summed over the functions that do the work: by Little's law
        (L = lambda W) how many tasks' worth of work got done at once, had each taken only as long as it does when
        nothing is in its way. Where that is not known, as many as the resource admits that the others wait for."""
        if self.work.done_seconds is None:
            return float(self.contention.holders) if self.contention is not None else None
        return self.work.done_seconds / self.window_seconds


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


def held_workers(history: PoolHistory, now_ns: int) -> tuple[HeldWorker, ...]:
    """The workers that are in a task for at least `HELD_SECONDS` now, if any task ever finished to compare with."""
    if not history.run.count:
        return ()
    held = []
    longest: dict[int, float] = {}
    for worker, task in history.running.items():
        age_ns = now_ns - task.started_ns
        if age_ns < HELD_SECONDS * 1e9:
            continue
        if task.function not in longest:
            own = history.functions.get(task.function)
            usual = own.run if own is not None and own.run.count else history.run
            longest[task.function] = max(1.0, usual.quantiles((0.99,))[0])
        held.append(HeldWorker(worker, task.function, age_ns / 1e9, age_ns / longest[task.function]))
    return tuple(sorted(held, key=lambda worker: -worker.seconds))


def measure(
    history: PoolHistory, stretch: Stretch, begin_ns: int, process: ProcessSignals, came_before: Before
) -> PoolSignals:
    """The signals of a pool over the part of a stretch from `begin_ns` on; all of it must have been folded.

    `came_before` is the load before the stretch.
    """
    end_ns = stretch.end_ns
    window = Window(history, begin_ns, end_ns)
    length_ns = max(1, end_ns - begin_ns)
    enough = len(window.runs) >= TASKS_NEEDED
    worker_cores = rate(history.cpu_readings, begin_ns, end_ns)
    if history.opened.kind == "process":
        # Its workers are processes of their own: each has its own GIL, and none computes in the one that watches.
        process = ProcessSignals(cores_used=worker_cores, cores_allowed=process.cores_allowed, gil=False)
    samples = [sample for sample in history.stacks if begin_ns <= sample.at_ns <= end_ns]
    busy_ns = window.busy_ns
    work = window.work(history.occupancy.unhindered)
    lasting = frozenset(worker for worker, task in history.running.items() if task.started_ns <= begin_ns)
    found = _contention(history, window, work, samples, lasting)
    return PoolSignals(
        window_seconds=length_ns / 1e9,
        max_workers=history.size,
        starts=window.starts,
        coupled_starts=window.coupled,
        finished=window.finished,
        queue_depth=history.queue_depth,
        oldest_queued_seconds=history.oldest_queued_ns(end_ns) / 1e9,
        wait_p50_seconds=seconds(median(window.waits)) if enough else None,
        wait_max_seconds=seconds(max(window.waits)) if window.waits else None,
        run_p50_seconds=seconds(median(window.runs)) if enough else None,
        run_mean_seconds=sum(window.runs) / len(window.runs) / 1e9 if enough else None,
        stretch_seconds=stretch.length_ns / 1e9,
        crowd=_crowd(history, stretch, sums(window.runs) if enough else Runs(), came_before),
        work=work,
        worker_cores=worker_cores,
        worker_cpu_share=(worker_cores * length_ns / busy_ns if worker_cores is not None and busy_ns > 0 else None),
        workers_ready=rate(history.ready_readings, begin_ns, end_ns),
        seconds_since_finish=((end_ns - history.last_finish_ns) / 1e9 if history.last_finish_ns is not None else None),
        longest_run_seconds=history.run.maximum / 1e9 if history.run.count else None,
        process=process,
        held=held_workers(history, end_ns),
        samples=len(samples),
        contention=found if found is not None and found.sure else None,
        suspected=found is not None and not found.sure,
        held_up=held_up(samples, lasting),
        children_share=children_share(samples),
        overlong_share=window.overlong_share,
        hogs=hogs(
            [
                FunctionShare(function, share.starts, share.busy_ns, share.waits, share.runs)
                for function, share in window.shares.items()
            ]
        ),
    )


def _contention(
    history: PoolHistory, window: Window, work: Work, samples: Sequence[StackSample], lasting: frozenset[int]
) -> Contention | None:
    if len(samples) < SAMPLES_NEEDED or window.starts < RENEWALS_NEEDED:
        return None  # and what it is judged by costs more than to see that
    return contention(
        samples,
        history.size,
        lasting=lasting,
        starts=window.starts,
        ended=window.ended(),
        usual={function: median(share.runs) or 0.0 for function, share in window.shares.items() if share.runs},
        worth=_worth(history, window, work),
    )


def _worth(history: PoolHistory, window: Window, work: Work) -> float:
    """How many tasks' worth of work got done at once, had each taken only as long as it can: as alone, or if that is
    not known, as the fastest of its function."""
    least_ns = sum(
        share.finished * history.functions[function].run.fastest
        for function, share in window.shares.items()
        if share.finished
    )
    return max(least_ns, (work.done_seconds or 0.0) * 1e9) / max(1, window.end_ns - window.begin_ns)


def _crowd(history: PoolHistory, stretch: Stretch, runs: Runs, came_before: Before) -> Crowd:
    crest = history.occupancy.crests.get(stretch.begin_ns)
    return Crowd(
        workers=history.size,
        stretch_seconds=stretch.length_ns / 1e9,
        queue=crest.queued if crest is not None else 0,
        arrivals=crest.arrivals if crest is not None else 0,
        seconds=(crest.at_ns - stretch.begin_ns) / 1e9 if crest is not None else 0.0,
        runs=runs,
        before=came_before,
        regularity=history.regularity,
    )

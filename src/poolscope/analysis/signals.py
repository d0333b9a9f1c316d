"""From a stretch of a pool's history to the numbers that rules judge by.

Each number is independent of the others and of any threshold. What could not be measured is None, never 0.
Pure: no clock, no thread, no I/O.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import msgspec

from poolscope.analysis.chance import Before, Crowd, Runs
from poolscope.analysis.deadlock import Awaited, Deadlock
from poolscope.analysis.history import CpuReading, PoolHistory
from poolscope.analysis.occupants import Contention, FunctionShare, Hogs, contention, hogs
from poolscope.analysis.stretches import Stretch

#: Fewer unhindered runs than this say nothing about how long a task takes when nothing is in its way.
UNHINDERED_NEEDED = 20
#: Part of the workers' time that the functions have, the busiest first, whose runs are compared with those.
WORK_SHARE = 0.8
#: How many of them are looked at for the time just before the pool filled.
LAST_UNHINDERED = 5
#: Fewer finished tasks than this give no median.
TASKS_NEEDED = 5
#: Tasks come in by batches, not by time: one that ended this much earlier may still stand behind another.
LATE_NS = 1_000_000_000
#: The load before a stretch is that of so much time (ns), and its run times are those of so many tasks.
BEFORE_NS = 60_000_000_000
BEFORE_RUNS = 1_000
#: Tasks shorter than this never hold a worker.
HELD_SECONDS = 1.0


class ProcessSignals(msgspec.Struct, frozen=True):
    """What the process had and used over the same time: CPU seconds per second, and how many it may use."""

    cores_used: float | None
    cores_allowed: float | None
    gil: bool


class HeldWorker(msgspec.Struct, frozen=True):
    """A worker that has been in one task for long: seconds, and how many times the p99 run of the task's function (of
    the pool, if the function never finished)."""

    worker: int
    function: int
    seconds: float
    times: float


class Work(msgspec.Struct, frozen=True):
    """How long tasks ran, and how long when nothing was in their way (`alone`): median, mean, and the mean of the last
    few of these, in which a slowness shows that came before the crowd. Seconds."""

    run_p50_seconds: float | None
    run_mean_seconds: float | None
    alone_p50_seconds: float | None
    alone_mean_seconds: float | None
    last_alone_seconds: float | None


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
    unhindered_run_seconds: float | None
    #: Means of the same tasks, and of the last few of them: a slowness that came before the crowd shows in those.
    unhindered_mean_seconds: float | None
    last_unhindered_seconds: float | None
    #: CPU seconds of the workers per second, and per second that they were busy.
    worker_cores: float | None
    worker_cpu_share: float | None
    #: Workers ready to run without a CPU, on average; None if it was not measured.
    workers_ready: float | None
    seconds_since_finish: float | None
    longest_run_seconds: float | None
    #: How long the tasks that run now have run: the median.
    running_p50_seconds: float | None
    process: ProcessSignals
    #: Workers in tasks that take long, the longest first.
    held: tuple[HeldWorker, ...] = ()
    #: How often the lines of the workers were looked at.
    samples: int = 0
    contention: Contention | None = None
    hogs: Hogs | None = None
    deadlock: Deadlock | None = None
    awaited: Awaited | None = None
    #: Of the functions that have most of the workers' time, where that are not all: how long a short task takes says
    #: nothing about how long those take alone.
    part: Work | None = None

    @property
    def work(self) -> Work:
        """The tasks whose runs tell whether they hinder each other."""
        return self.part or Work(
            self.run_p50_seconds,
            self.run_mean_seconds,
            self.unhindered_run_seconds,
            self.unhindered_mean_seconds,
            self.last_unhindered_seconds,
        )

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
        """Throughput times the unhindered run time: by Little's law (L = lambda W) how many tasks' worth of work
        got done at once, had each taken only as long as it does when nothing is in its way. Where that is not known,
        as many as the resource admits that the others wait for."""
        if self.unhindered_run_seconds is None:
            return float(self.contention.holders) if self.contention is not None else None
        return self.throughput * self.unhindered_run_seconds


def _median(values: Sequence[int]) -> float | None:
    if not values:
        return None
    ordered = sorted(values)
    middle = len(ordered) // 2
    if len(ordered) % 2:
        return float(ordered[middle])
    return (ordered[middle - 1] + ordered[middle]) / 2


def _seconds(nanoseconds: float | None) -> float | None:
    return None if nanoseconds is None else nanoseconds / 1e9


def _mean_seconds(values: Collection[int]) -> float | None:
    return sum(values) / len(values) / 1e9 if values else None


def rate(readings: Sequence[CpuReading], begin_ns: int, end_ns: int) -> float | None:
    """CPU seconds per second between the readings that enclose the window best; None if fewer than two do."""
    inside = [reading for reading in readings if begin_ns <= reading.at_ns <= end_ns]
    if len(inside) < 2 or inside[-1].at_ns <= inside[0].at_ns:
        return None
    return (inside[-1].cpu_ns - inside[0].cpu_ns) / (inside[-1].at_ns - inside[0].at_ns)


class _Share:
    """What one function did in a window; ns."""

    __slots__ = ("busy_ns", "runs", "starts", "waits")

    def __init__(self) -> None:
        self.starts = self.busy_ns = 0
        self.waits: list[int] = []
        self.runs: list[int] = []


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


def _runs(values: Sequence[int]) -> Runs:
    return Runs(len(values), sum(values) / 1e9, sum(value * value for value in values) / 1e18)


def before(history: PoolHistory, begin_ns: int) -> Before:
    """The load before a stretch that began then, as far as it is remembered."""
    remembered_ns = history.opened.at_ns
    if len(history.recent) == history.recent.maxlen:
        remembered_ns = history.recent[0][1]
    since_ns = min(begin_ns, max(begin_ns - BEFORE_NS, remembered_ns))
    arrivals = sum(since_ns <= task.submitted_ns < begin_ns for task in history.running.values())
    runs: list[int] = []
    for _, submitted, started, ended, _ in reversed(history.recent):
        if ended < since_ns:
            break  # newest first
        arrivals += since_ns <= submitted < begin_ns
        if ended <= begin_ns and len(runs) < BEFORE_RUNS:
            runs.append(ended - started)
    return Before((begin_ns - since_ns) / 1e9, arrivals, _runs(runs))


def _busiest(shares: dict[int, _Share]) -> dict[int, _Share]:
    """The functions that have most of the workers' time: no more of them than it takes for `WORK_SHARE`."""
    left = (1 - WORK_SHARE) * sum(share.busy_ns for share in shares.values())
    part = dict(sorted(shares.items(), key=lambda item: item[1].busy_ns, reverse=True))
    while part:
        function, share = part.popitem()
        left -= share.busy_ns
        if left < 0:
            part[function] = share
            break
    return part


def _work(part: dict[int, _Share], history: PoolHistory) -> Work:
    runs = [run for share in part.values() for run in share.runs]
    enough = len(runs) >= TASKS_NEEDED
    alone = [run for function, run in history.occupancy.unhindered if function in part]
    return Work(
        run_p50_seconds=_seconds(_median(runs)) if enough else None,
        run_mean_seconds=_mean_seconds(runs) if enough else None,
        alone_p50_seconds=_seconds(_median(alone)) if len(alone) >= UNHINDERED_NEEDED else None,
        alone_mean_seconds=_mean_seconds(alone),
        last_alone_seconds=_mean_seconds(alone[-LAST_UNHINDERED:]),
    )


def measure(
    history: PoolHistory, stretch: Stretch, begin_ns: int, process: ProcessSignals, came_before: Before
) -> PoolSignals:
    """The signals of a pool over the part of a stretch from `begin_ns` on; all of it must have been folded.

    `came_before` is the load before the stretch.
    """
    end_ns = stretch.end_ns
    crest = history.occupancy.crests.get(stretch.begin_ns)
    waits: list[int] = []
    runs: list[int] = []
    starts = coupled = finished = busy_ns = 0
    shares: dict[int, _Share] = {}
    for function, submitted, started, ended, was_coupled in reversed(history.recent):
        if ended < begin_ns - LATE_NS:
            break  # newest first: the rest ended before the window
        finished += begin_ns <= ended <= end_ns
        share = shares.get(function) or shares.setdefault(function, _Share())
        share.busy_ns += max(0, min(ended, end_ns) - max(started, begin_ns))
        if begin_ns <= started <= end_ns:
            starts += 1
            coupled += was_coupled
            share.waits.append(started - submitted)
            share.runs.append(ended - started)
    for share in shares.values():
        waits += share.waits
        runs += share.runs
        share.starts = len(share.waits)
    for running in history.running.values():
        share = shares.get(running.function) or shares.setdefault(running.function, _Share())
        share.busy_ns += max(0, end_ns - max(running.started_ns, begin_ns))
        if begin_ns <= running.started_ns <= end_ns:
            starts += 1
            share.starts += 1
            coupled += running.coupled
            waits.append(running.started_ns - running.submitted_ns)
    busy_ns = sum(share.busy_ns for share in shares.values())
    lasting = frozenset(worker for worker, task in history.running.items() if task.started_ns <= begin_ns)
    worker_cores = rate(history.cpu_readings, begin_ns, end_ns)
    if history.opened.kind == "process":
        # Its workers are processes of their own: each has its own GIL, and none computes in the one that watches.
        process = ProcessSignals(cores_used=worker_cores, cores_allowed=process.cores_allowed, gil=False)
    length_ns = max(1, end_ns - begin_ns)
    samples = [sample for sample in history.stacks if begin_ns <= sample.at_ns <= end_ns]
    part = _busiest(shares)
    unhindered = [run for _, run in history.occupancy.unhindered]
    enough = len(runs) >= TASKS_NEEDED
    return PoolSignals(
        window_seconds=length_ns / 1e9,
        max_workers=history.max_workers,
        starts=starts,
        coupled_starts=coupled,
        finished=finished,
        queue_depth=history.queue_depth,
        oldest_queued_seconds=history.oldest_queued_ns(end_ns) / 1e9,
        wait_p50_seconds=_seconds(_median(waits)) if enough else None,
        wait_max_seconds=_seconds(max(waits)) if waits else None,
        run_p50_seconds=_seconds(_median(runs)) if enough else None,
        run_mean_seconds=sum(runs) / len(runs) / 1e9 if enough else None,
        stretch_seconds=stretch.length_ns / 1e9,
        crowd=Crowd(
            workers=history.max_workers,
            stretch_seconds=stretch.length_ns / 1e9,
            queue=crest.queued if crest is not None else 0,
            arrivals=crest.arrivals if crest is not None else 0,
            seconds=(crest.at_ns - stretch.begin_ns) / 1e9 if crest is not None else 0.0,
            runs=_runs(runs) if enough else Runs(),
            before=came_before,
        ),
        unhindered_run_seconds=_seconds(_median(unhindered)) if len(unhindered) >= UNHINDERED_NEEDED else None,
        unhindered_mean_seconds=_mean_seconds(unhindered),
        last_unhindered_seconds=_mean_seconds(unhindered[-LAST_UNHINDERED:]),
        worker_cores=worker_cores,
        worker_cpu_share=(worker_cores * length_ns / busy_ns if worker_cores is not None and busy_ns > 0 else None),
        workers_ready=rate(history.ready_readings, begin_ns, end_ns),
        seconds_since_finish=((end_ns - history.last_finish_ns) / 1e9 if history.last_finish_ns is not None else None),
        longest_run_seconds=history.run.maximum / 1e9 if history.run.count else None,
        running_p50_seconds=_seconds(_median([end_ns - task.started_ns for task in history.running.values()])),
        process=process,
        held=held_workers(history, end_ns),
        samples=len(samples),
        part=_work(part, history) if len(part) < len(shares) else None,
        contention=contention(samples, history.max_workers, lasting=lasting, starts=starts),
        hogs=hogs(
            [
                FunctionShare(function, share.starts, share.busy_ns, share.waits, share.runs)
                for function, share in shares.items()
            ]
        ),
    )

"""The signals that rules judge by, made of samples: means stand where a program's own record has medians.

Pure: no clock, no thread, no I/O.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

import msgspec

from poolscope.fleet.chance import SampledLoad, UnknownRuns
from poolscope.fleet.readings import BEFORE_SECONDS, STRETCH_SCRAPES, Reading, Stretch
from poolscope.fleet.samples import Numbers
from poolscope.signals.amplification import LEAST_WAIT_NS, LEAST_WAIT_RUNS
from poolscope.signals.limits import LimitSignals
from poolscope.signals.pool_signals import PoolSignals, ProcessSignals
from poolscope.signals.significance import Before, LoadTest, Runs
from poolscope.signals.window import Work

#: The CPU is what its process lacks from this part of its limit on.
CPU_FULL_SHARE = 0.9
#: A busy worker that uses less of a core than this waits.
WAITING_CPU = 0.1
#: Collecting garbage for more than this part of the time is a cause of its own.
COLLECTING_SHARE = 0.1
#: Tasks were started at once before the knee if none waited at so many of the scrapes.
QUIET_SHARE = 0.9
#: Scrapes of the active workers that tell a mean run.
RUN_SCRAPES = 20
#: A queue is as good as at its highest from this part of it on.
NEARLY_PEAK = 0.9
#: Workers that were busy for so much of a stretch were never idle in it.
UNBROKEN_SHARE = 0.97
#: A pool that is this busy on average needs no more workers.
UTILISATION = 0.8


class Dependency(msgspec.Struct, frozen=True):
    """A pool of connections of the same instance, full over the same time: how many wait for one on average, and at
    what part of the scrapes."""

    name: str
    waiting: float
    share: float


class Process(msgspec.Struct, frozen=True):
    """The process of a pool over the same time: cores used and allowed, and the part of it in which it collected
    garbage; None: not known."""

    cores_used: float | None = None
    cores_allowed: float | None = None
    collecting: float | None = None
    #: When it started (s since the epoch).
    started: float | None = None
    dependencies: tuple[Dependency, ...] = ()
    #: Other pools of workers that were full over the same time.
    others: tuple[str, ...] = ()


class Sampled(PoolSignals, frozen=True, kw_only=True):
    """Signals from samples, and what only samples have."""

    #: Mean queue and mean number of active workers.
    queue_mean: float
    active_mean: float
    process_around: Process
    #: The part of the scrapes before the knee at which nothing waited; None if it was not seen before.
    quiet_before: float | None
    #: Workers that its load needs, an estimate; None if it is not known how long a run takes alone.
    workers_needed: int | None
    #: Tasks that came per second, on average and at most over a few scrapes.
    arriving: float | None
    arriving_peak: float | None

    @property
    def amplification(self) -> float | None:
        """(wait + run) / run: q and a share their time, so it takes no throughput."""
        return 1 + self.queue_mean / self.active_mean if self.active_mean > 0 else None


def measure(
    reading: Reading, stretch: Stretch, around: Process, alone_seconds: float | None, *, connections: bool = False
) -> Sampled | None:
    """Return the signals of a pool over a stretch; None if the stretch holds no time.

    `alone_seconds` is how long a run takes with nothing in its way.
    """
    first, last = stretch.first, stretch.last
    seconds = reading.at[last] - reading.at[first]
    active, queued = reading.mean(reading.active, first, last), reading.mean(reading.queued, first, last)
    limit = reading.mean(_workers(reading), first, last)
    if seconds <= 0 or active is None or queued is None or not limit:
        return None
    rate = reading.full_throughput(first, last)
    run = reading.run_seconds(first, last, (rate or 0.0) * seconds)
    wait, finished = queued / rate if rate else None, round((rate or 0.0) * seconds)
    before = _before(reading, stretch.began)
    quiet = _quiet_seconds(reading, stretch)
    peak = _arriving_peak(reading, stretch)
    cores = _cores(around, active, reading.mapping.gil) if active else None
    return Sampled(
        window_seconds=seconds,
        max_workers=max(1, round(limit)),
        starts=finished,
        coupled_starts=finished,
        finished=finished,
        queue_depth=round(_last(reading.queued, stretch)),
        oldest_queued_seconds=_last(reading.oldest, stretch),
        wait_p50_seconds=wait,
        wait_max_seconds=None,
        run_p50_seconds=run,
        run_mean_seconds=run,
        stretch_seconds=seconds if stretch.scrapes >= STRETCH_SCRAPES else 0.0,
        crowd=_crowd(reading, stretch, max(1, round(limit)), run, before),
        work=_work(finished, run, alone_seconds, before.runs.mean),
        negligible=wait is not None and wait < LEAST_WAIT_NS / 1e9 and (run is None or wait < LEAST_WAIT_RUNS * run),
        functions=1,
        worker_cores=cores,
        worker_cpu_share=None if cores is None else min(1.0, cores / active),
        workers_ready=None,
        seconds_since_finish=quiet,
        longest_run_seconds=_longest_run(reading, stretch) if quiet else None,
        process=_process(around, reading.mapping.gil),
        limit=LimitSignals(kind="connections", waited=_holds(reading, stretch), longest_share=0.0)
        if connections
        else None,
        queue_mean=queued,
        active_mean=active,
        process_around=around,
        quiet_before=_quiet_before(reading, stretch.began),
        workers_needed=_needed(peak, alone_seconds, max(1, round(limit))),
        arriving=_arriving(reading, first, last),
        arriving_peak=peak,
    )


def _workers(reading: Reading) -> Numbers[float] | None:
    """Return what was full: of a Java pool below its largest size, the workers that there were."""
    return reading.size if "java_queue" in reading.mapping.traps and reading.size is not None else reading.limit


def _holds(reading: Reading, stretch: Stretch) -> int:
    counter = reading.done or reading.waits
    # One that is not counted is there at each scrape.
    return round(counter.between(stretch.first, stretch.last)) if counter is not None else stretch.scrapes


def _last(values: Sequence[float] | None, stretch: Stretch) -> float:
    there = [value for value in values[stretch.first : stretch.last + 1] if value == value] if values else []
    return there[-1] if there else 0.0


def _before(reading: Reading, first: int) -> Before:
    """Return the load in the time before the knee."""
    begin = reading.back(first, BEFORE_SECONDS)
    end = max(begin, first - 1)
    seconds = reading.at[end] - reading.at[begin]
    arriving = _arriving(reading, begin, end)
    if arriving is None:
        return Before()
    # By few scrapes of how many are active it is hardly known how long a run takes.
    known = reading.busy is not None or end - begin >= RUN_SCRAPES
    run = reading.run_seconds(begin, end) if known else None
    count = round((reading.throughput(begin, end) or 0.0) * seconds)
    return Before(seconds, round(max(0.0, arriving) * seconds), _runs(count, run))


def _runs(count: int, mean: float | None) -> Runs:
    """So many runs of that mean, as scattered as exponential ones."""
    return Runs(count, count * mean, 2 * count * mean * mean) if mean else Runs()


def _arriving(reading: Reading, first: int, last: int) -> float | None:
    """Tasks that came per second: those that were done, and by how many the queue grew."""
    rate = reading.throughput(first, last)
    if rate is None or reading.queued is None:
        return rate
    grown = reading.queued[last] - reading.queued[first]
    return rate + (grown / (reading.at[last] - reading.at[first]) if grown == grown else 0.0)


def _crowd(reading: Reading, stretch: Stretch, workers: int, run: float | None, before: Before) -> LoadTest:
    first, last = stretch.first, stretch.last
    queue = reading.queued or ()
    depths = {at: queue[at] for at in range(first, last + 1) if queue[at] == queue[at]}
    most = max(depths.values(), default=0.0)
    # A queue that callers wait in is as long as they are many, soon and for as long as it lasts.
    peak = max((at for at, depth in depths.items() if depth >= NEARLY_PEAK * most), default=first)
    begin = first - 1 if first and first not in reading.breaks else first
    arriving = _arriving(reading, begin, peak) or 0.0
    seconds, length = reading.at[peak] - reading.at[begin], reading.at[last] - reading.at[first]
    busy = reading.busy.between(first, last) if reading.busy is not None else 0.0
    test = SampledLoad if run else UnknownRuns
    return test(
        workers=workers,
        stretch_seconds=length,
        queue=round(most),
        arrivals=round(max(0.0, arriving) * seconds),
        seconds=seconds,
        runs=_runs(round((reading.full_throughput(first, last) or 0.0) * length), run),
        before=before,
        scrapes=stretch.scrapes,
        interval=reading.interval,
        queue_mean=sum(depths.values()) / max(1, len(depths)),
        queue_usual=median(depths.values()) if depths else 0.0,
        unbroken=busy >= UNBROKEN_SHARE * workers * length,
        lent=reading.mapping.kind == "connections" and reading.done is None,
    )


def _work(finished: int, run: float | None, alone: float | None, before: float | None) -> Work:
    done = finished * alone if alone is not None else None
    return Work(done, run, run, alone, alone, before if before is not None and alone is not None else alone)


def _cores(around: Process, active: float, gil: bool) -> float | None:
    """Return the cores that the workers use, where it is settled by that whether they compute or wait."""
    used, allowed = around.cores_used, around.cores_allowed
    if used is None:
        return None
    if gil:
        allowed = 1.0 if allowed is None else min(1.0, allowed)
    computes = allowed is not None and used >= CPU_FULL_SHARE * allowed
    waits = used < WAITING_CPU * active and (around.collecting or 0.0) < COLLECTING_SHARE
    return used if computes or waits else None


def _process(around: Process, gil: bool) -> ProcessSignals:
    allowed = around.cores_allowed
    # Under such a lock one core is the limit of the process, and that of the machine is another matter.
    return ProcessSignals(around.cores_used, math.inf if gil and allowed is None else allowed, gil)


def _quiet_seconds(reading: Reading, stretch: Stretch) -> float:
    """For how long nothing was done at the end of the stretch, over as many scrapes as a stretch has at least."""
    if reading.done is None:
        return 0.0
    at = stretch.last
    while at > stretch.first and reading.done.between(at - 1, stretch.last) == 0:
        at -= 1
    return reading.at[stretch.last] - reading.at[at] if stretch.last - at >= STRETCH_SCRAPES else 0.0


def _longest_run(reading: Reading, stretch: Stretch) -> float | None:
    """As long as a run may take: their mean before, or the longest time in which none ended though some ran."""
    runs = reading.run_seconds(0, stretch.last)
    if runs is None or reading.done is None or reading.active is None:
        return None
    longest, since = 0.0, 0
    end = stretch.last
    while end > 0 and reading.done.between(end - 1, stretch.last) == 0:
        end -= 1
    for at in range(1, end + 1):
        if reading.done.between(at - 1, at) > 0 or not reading.active[at] >= 1 or at in reading.breaks:
            since = at
        longest = max(longest, reading.at[at] - reading.at[since])
    return max(runs, longest)


def _quiet_before(reading: Reading, first: int) -> float | None:
    begin = reading.back(first, BEFORE_SECONDS)
    if first - begin < STRETCH_SCRAPES or reading.queued is None:
        return None
    return sum(value == 0 for value in reading.queued[begin:first]) / (first - begin)


def _arriving_peak(reading: Reading, stretch: Stretch) -> float | None:
    step = STRETCH_SCRAPES - 1
    starts = range(stretch.first, stretch.last - step + 1)
    loads = [load for first in starts if (load := _arriving(reading, first, first + step)) is not None]
    return max(loads, default=None)


def _needed(load: float | None, alone: float | None, now: int) -> int | None:
    """Return how many workers that load needs; None if it is not known, or no more than there are."""
    if alone is None or load is None:
        return None
    needed = math.ceil(load * alone / UTILISATION)
    return needed if needed > now else None

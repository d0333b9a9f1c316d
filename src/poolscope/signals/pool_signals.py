"""From a stretch of a pool's history to the numbers that rules judge by.

Each number is independent of the others and of any threshold. What could not be measured is None, never 0.
Pure: no clock, no thread, no I/O.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Collection, Mapping, Sequence
from operator import attrgetter
from types import MappingProxyType

import msgspec

from poolscope.aggregation.pool_history import CpuReading, FunctionTotals, PoolHistory
from poolscope.aggregation.stretches import Stretch
from poolscope.messages import StackSample
from poolscope.signals.amplification import amplification, delay
from poolscope.signals.awaited_loop import AwaitedLoop
from poolscope.signals.batch import Batch, batch_of
from poolscope.signals.contention import (
    OTHERS_NEEDED,
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
from poolscope.signals.deadlock import Awaited, Deadlock
from poolscope.signals.handover import Between, between
from poolscope.signals.held import HeldWorker, InLoop, Standing, given_up_share, held_workers, standing
from poolscope.signals.limits import LimitSignals, limit_signals
from poolscope.signals.queueing import LEAST_WORK, Queueing, SourceOf, Task, queueing, takes, with_gates
from poolscope.signals.significance import Before, LoadTest, Runs
from poolscope.signals.two_kinds import TwoKinds
from poolscope.signals.window import TASKS_NEEDED, UNHINDERED_NEEDED, Window, Work, median, seconds, sums

#: Runs that take up to this many times as long as alone are not hindering each other.
RUN_INFLATION = 1.5
#: The CPU is the limit from this share of it on: the rest is what switching and measuring take.
CPU_LIMIT_SHARE = 0.85
#: From here on more than one worker computes at once.
SEVERAL_CORES = 1.2
#: Most of the workers.
CHILDREN_SHARE = 0.5
#: So much more than the least is still about the least.
SLACK = 0.2
#: The kinds of pools whose workers are their own threads or processes, so that none left is none to come.
OWN_WORKERS = ("thread", "interpreter", "process", "multiprocessing")

_at = attrgetter("at_ns")


class ProcessSignals(msgspec.Struct, frozen=True):
    """What the process had and used over the same time: CPU seconds per second, and how many it may use; `children` are
    its child processes."""

    cores_used: float | None
    cores_allowed: float | None
    gil: bool
    children_cores: float | None = None


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
    #: Medians of the function whose tasks suffer most, see `amplification.py`; the waits so far of queued tasks count.
    wait_p50_seconds: float | None
    wait_max_seconds: float | None
    run_p50_seconds: float | None
    run_mean_seconds: float | None
    stretch_seconds: float
    crowd: LoadTest
    work: Work
    #: Of that run, what the task is not queued for within it; None if nothing is known of that.
    working_run_seconds: float | None = None
    #: How many workers were in a task and not queued within it, on average; None if none was seen to be queued.
    working_workers: float | None = None
    #: Where the runs of that function are of two kinds, so that no median stands for both.
    kinds: TwoKinds | None = None
    #: How long the pool has been full, whether tasks were queued or not, where it is that by which it is judged.
    full_seconds: float = 0.0
    #: Waits that are no more than a moment (see `amplification.py`).
    negligible: bool = False
    #: CPU seconds of the workers per second, and per second that they were busy: what they use between tasks counts, up
    #: to a whole core for each.
    worker_cores: float | None
    worker_cpu_share: float | None
    #: Workers ready to run without a CPU, on average; None if it was not measured.
    workers_ready: float | None
    seconds_since_finish: float | None
    longest_run_seconds: float | None
    process: ProcessSignals
    #: Workers in tasks that take long, the longest first.
    held: tuple[HeldWorker, ...] = ()
    #: For how long no worker has been there; None if some are, or it is not known.
    gone_seconds: float | None = None
    #: Where no task has ever finished, how all workers stand at what others have.
    standing: Standing | None = None
    #: The part of the workers that tasks hold which nothing waits for any more, on average.
    given_up_share: float = 0.0
    #: The part of the workers' time in which processes took the place of ended ones while tasks waited; None if it is
    #: not told when they start.
    replacing_share: float | None = None
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
    #: What was seen between the tasks, None if that is too little; and how often that was looked at.
    between: Between | None = None
    handovers: int = 0
    #: The part of the workers' time in which they are in tasks.
    task_share: float | None = None
    #: What waited in the stretch, and when it had come; None if that was not counted.
    batch: Batch | None = None
    #: Functions that ran in the window; None if that was not counted.
    functions: int | None = None
    awaited_loop: AwaitedLoop | None = None
    #: Of a limit: what has no workers of its own.
    limit: LimitSignals | None = None

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
    def beside_the_gil(self) -> bool:
        """Whether the workers compute without the GIL: there is none, or several are on a CPU at once, or would be, had
        the host one for them. A thread that waits for the GIL is not ready to run."""
        if not self.process.gil:
            return True
        wanted, share = self.cores_wanted, self.wanted_share
        several = self.worker_cores is not None and self.worker_cores > SEVERAL_CORES
        ready = wanted is not None and wanted > SEVERAL_CORES and share is not None and share >= CPU_LIMIT_SHARE
        return several or ready

    @property
    def cpu_limit_cores(self) -> float | None:
        """Cores that the workers can use at once, as far as their use shows; None if it was not measured."""
        allowed = self.process.cores_allowed
        if allowed is None or self.worker_cores is None:
            return None
        return allowed if self.beside_the_gil else min(1.0, allowed)

    @property
    def child_cores(self) -> float | None:
        """Cores that the child processes use that most workers wait for; None if most wait for none, or it is not
        known."""
        return self.process.children_cores if self.children_share > CHILDREN_SHARE else None

    @property
    def coupling(self) -> float | None:
        """Coupled starts per start."""
        return self.coupled_starts / self.starts if self.starts else None

    @property
    def amplification(self) -> float | None:
        """(wait + run) / working run, of medians: how many times longer a task takes than its own work."""
        if self.wait_p50_seconds is None or not self.run_p50_seconds:
            return None
        run, working = self.run_p50_seconds, self.working_run_seconds or self.run_p50_seconds
        return amplification(self.wait_p50_seconds, run, working, self.kinds)

    def unlikely_by(self, nats: float) -> PoolSignals:
        """Return the same, with something else known that random arrivals hardly bring about (see `LoadTest.nats`)."""
        return msgspec.structs.replace(self, crowd=msgspec.structs.replace(self.crowd, nats=nats))

    @property
    def throughput(self) -> float:
        """Tasks finished per second."""
        return self.finished / self.window_seconds if self.window_seconds > 0 else 0.0

    @property
    def effective_parallelism(self) -> float | None:
        """Throughput times the unhindered run time, summed over the functions that do the work: by Little's law
        (L = lambda W) how many tasks' worth of work got done at once, had each taken only as long as it does when
        nothing is in its way. Where that is not known, as many workers as were not queued within their tasks, or as the
        resource admits that the others wait for; else the cores that they get, where those are the limit."""
        if self.work.done_seconds is not None and not self._became_slower:
            return self.work.done_seconds / self.window_seconds
        holders = float(self.contention.holders) if self.contention is not None else None
        if self.working_workers is not None:
            # Below that part of the workers the samples do not tell, and what they queue for may.
            untold = holders is not None and self.working_workers <= (1 + SLACK) * LEAST_WORK * self.max_workers
            return holders if untold else self.working_workers
        return holders if holders is not None else self._computing_cores

    @property
    def _became_slower(self) -> bool:
        """Whether runs grew though no more of them ran at once: then nothing is known of how long one takes now with
        nothing in its way."""
        work = self.work
        if not work.alone_p50_seconds or not work.run_p50_seconds or work.run_mean_seconds is None:
            return False
        before = (work.last_alone_seconds or 0.0) * RUN_INFLATION >= work.run_mean_seconds
        return work.run_p50_seconds > RUN_INFLATION * work.alone_p50_seconds and (before or self.growing is False)

    @property
    def _computing_cores(self) -> float | None:
        """Cores that the workers get, where they compute or wait for the GIL nearly all the time; else None."""
        cores, share, limit = self.worker_cores, self.worker_cpu_share, self.cpu_limit_cores
        if cores is None or share is None or limit is None:
            return None
        of_the_gil = not self.beside_the_gil and cores >= CPU_LIMIT_SHARE * limit
        return cores if of_the_gil or share >= CPU_LIMIT_SHARE else None


def workers_for_cpu(limit: float, share: float) -> int:
    """How many busy workers that each use this share of a core use up so many cores."""
    return max(1, int(CPU_LIMIT_SHARE * limit / share))


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


def no_source(_file: str, _line: int) -> str | None:
    """Read no source."""
    return None


#: No task waits for another pool.
NOWHERE: Mapping[int, Collection[Task]] = MappingProxyType({})


def measure(
    history: PoolHistory,
    stretch: Stretch,
    window: Window,
    process: ProcessSignals,
    came_before: Before,
    *,
    growing: bool | None = None,
    deadlock: Deadlock | None = None,
    awaited: Awaited | None = None,
    elsewhere: Mapping[int, Collection[Task]] = NOWHERE,
    source_of: SourceOf = no_source,
    full_seconds: float = 0.0,
    in_loop: InLoop = lambda _: False,
    awaited_loop: AwaitedLoop | None = None,
) -> PoolSignals:
    """Return the signals of a pool over a window that ends with the stretch; all of it must have been folded.

    `came_before` is the load before the stretch; `elsewhere` are the tasks that wait for another pool to start one (see
    `queueing`); `source_of` gives lines of source, and `in_loop` reads it; for the
    others see `PoolSignals`.
    """
    begin_ns, end_ns = window.begin_ns, stretch.end_ns
    length_ns = max(1, end_ns - begin_ns)
    enough = len(window.runs) >= TASKS_NEEDED
    samples = [sample for sample in history.stacks if begin_ns <= sample.at_ns <= end_ns]
    worker_cores = rate(history.cpu_readings, begin_ns, end_ns)
    limit = limit_signals(history, window, samples, worker_cores)
    if limit is not None:
        worker_cores = None  # it has no workers
    if history.opened.kind in ("process", "interpreter"):
        # Each of its workers has a GIL of its own, and none computes under the one of the interpreter that watches.
        process = ProcessSignals(cores_used=worker_cores, cores_allowed=process.cores_allowed, gil=False)
    samples = with_gates([sample for sample in history.stacks if begin_ns <= sample.at_ns <= end_ns], source_of)
    handovers = [each for each in history.handovers if begin_ns <= each.at_ns <= end_ns]
    busy_ns = window.busy_ns
    task_share = min(1.0, busy_ns / (length_ns * history.size))
    # Holds that nothing hinders pass unseen.
    work = window.work(_unhindered(history, window, task_share) if limit is None else ())
    lasting = frozenset(worker for worker, task in history.running.items() if task.started_ns <= begin_ns)
    found = _contention(history, window, work, samples, lasting, source_of) if limit is None else None
    queued = queueing(samples, lasting, elsewhere, found.waiting if found is not None and found.sure else ())
    suffered = delay(window, history.functions, queued)
    return PoolSignals(
        window_seconds=length_ns / 1e9,
        max_workers=history.size,
        starts=window.starts,
        coupled_starts=window.coupled,
        finished=window.finished,
        queue_depth=history.queue_depth,
        oldest_queued_seconds=history.oldest_queued_ns(end_ns) / 1e9,
        wait_p50_seconds=seconds(suffered.wait_ns) if suffered is not None else None,
        wait_max_seconds=seconds(max(window.waits)) if window.waits else None,
        run_p50_seconds=seconds(suffered.run_ns) if suffered is not None else None,
        working_run_seconds=seconds(suffered.working_ns) if suffered is not None else None,
        working_workers=_working(window, queued),
        negligible=suffered is not None and not suffered.counts,
        kinds=suffered.kinds if suffered is not None else None,
        full_seconds=full_seconds,
        run_mean_seconds=sum(window.runs) / len(window.runs) / 1e9 if enough else None,
        stretch_seconds=stretch.length_ns / 1e9,
        crowd=_crowd(history, stretch, sums(window.runs) if enough else Runs(), came_before, queued),
        work=work,
        worker_cores=worker_cores,
        worker_cpu_share=(
            min(1.0, worker_cores * length_ns / busy_ns) if worker_cores is not None and busy_ns > 0 else None
        ),
        workers_ready=rate(history.ready_readings, begin_ns, end_ns),
        seconds_since_finish=_since_finish(history, end_ns),
        longest_run_seconds=history.run.maximum / 1e9 if history.run.count else None,
        process=process,
        held=held_workers(history, end_ns, in_loop),
        gone_seconds=gone_seconds(history, end_ns),
        standing=None if history.run.count else standing(history, end_ns),
        given_up_share=given_up_share(
            [sample for sample in history.held if begin_ns <= sample.at_ns <= end_ns], history.size
        ),
        replacing_share=_replacing_share(history, begin_ns, end_ns),
        samples=len(samples),
        contention=found if found is not None and found.sure else None,
        suspected=found is not None and not found.sure,
        held_up=held_up(samples, lasting),
        children_share=children_share(samples),
        overlong_share=window.overlong_share(history.functions),
        hogs=hogs(
            [
                FunctionShare(
                    function,
                    share.starts,
                    share.busy_ns,
                    share.waits + share.queued + share.cancelled,
                    share.runs if len(share.runs) >= OTHERS_NEEDED else earlier_runs(history.functions.get(function)),
                    share.tasks,
                )
                for function, share in window.shares.items()
            ]
        ),
        growing=growing,
        deadlock=deadlock,
        awaited=awaited,
        between=between(handovers, history.size, task_share),
        handovers=len(handovers),
        task_share=task_share,
        batch=batch_of(history, stretch),
        functions=len(window.shares),
        awaited_loop=awaited_loop,
        limit=limit,
    )


def _working(window: Window, queued: Queueing | None) -> float | None:
    """How many workers are in a task and not queued within it, on average."""
    if queued is None:
        return None
    worked_ns = sum(queued.worked(function) * share.busy_ns for function, share in window.shares.items())
    return worked_ns / max(1, window.end_ns - window.begin_ns)


def gone_seconds(history: PoolHistory, end_ns: int) -> float | None:
    """Return for how long no worker has been there, of pools that have their own; None if some are."""
    since_ns = history.gone_since_ns
    if since_ns is None or history.opened.kind not in OWN_WORKERS:
        return None
    return max(0, end_ns - since_ns) / 1e9


#: Workers that are in tasks for less than this part of their time have other things to do.
IN_TASKS_SHARE = 0.5


def _unhindered(history: PoolHistory, window: Window, task_share: float) -> Collection[tuple[int, int]]:
    """Return function and run (ns) of tasks that nothing hindered: those that started while other workers were idle,
    and where too few did, those whose workers are not idle, yet hardly ever in tasks."""
    known = history.occupancy.unhindered
    return known if len(known) >= UNHINDERED_NEEDED or task_share >= IN_TASKS_SHARE else window.alone(history.size)


def _replacing_share(history: PoolHistory, begin_ns: int, end_ns: int) -> float | None:
    if not history.replacements.known:
        return None
    waited_ns = history.replacements.waited_ns(begin_ns, end_ns, history.oldest_submitted_ns)
    return waited_ns / (history.size * max(1, end_ns - begin_ns))


def _since_finish(history: PoolHistory, end_ns: int) -> float | None:
    """Seconds since a task has finished, or the result of one has come: it may have been under way for long."""
    if history.last_finish_ns is None:
        return None
    return max(0, end_ns - max(history.last_finish_ns, history.last_told_ns or 0)) / 1e9


def _contention(
    history: PoolHistory,
    window: Window,
    work: Work,
    samples: Sequence[StackSample],
    lasting: frozenset[int],
    source_of: SourceOf,
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
        takes=lambda lines: takes(lines, source_of),
    )


def _worth(history: PoolHistory, window: Window, work: Work) -> float:
    """How many tasks' worth of work got done at once, had each taken only as long as it can: as alone, or if that is
    not known, as the fastest of its function."""
    least_ns = sum(
        share.finished * history.functions[function].run.minimum
        for function, share in window.shares.items()
        if share.finished
    )
    return max(least_ns, (work.done_seconds or 0.0) * 1e9) / max(1, window.end_ns - window.begin_ns)


def _crowd(
    history: PoolHistory, stretch: Stretch, runs: Runs, came_before: Before, queued: Queueing | None
) -> LoadTest:
    crest = history.occupancy.crests.get(stretch.begin_ns)
    return LoadTest(
        workers=history.size,
        stretch_seconds=stretch.length_ns / 1e9,
        queue=crest.queued if crest is not None else 0,
        inside=queued.workers if queued is not None else 0.0,
        arrivals=crest.arrivals if crest is not None else 0,
        seconds=(crest.at_ns - stretch.begin_ns) / 1e9 if crest is not None else 0.0,
        runs=runs,
        before=came_before,
        regularity=history.regularity,
    )

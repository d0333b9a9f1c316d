"""The numbers that rules judge a pool by, and numbers that follow from several of them.

Each number is independent of the others and of any threshold. What could not be measured is None, never 0.
Pure: no clock, no thread, no I/O.
"""

from __future__ import annotations

import msgspec

from poolscope.signals.amplification import amplification
from poolscope.signals.awaited_loop import AwaitedLoop
from poolscope.signals.batch import Batch
from poolscope.signals.contention import Contention, HeldUp, Hogs
from poolscope.signals.deadlock import Awaited, Deadlock
from poolscope.signals.handover import Between
from poolscope.signals.held import HeldWorker, Standing
from poolscope.signals.limits import LimitSignals
from poolscope.signals.queueing import LEAST_WORK
from poolscope.signals.significance import LoadTest
from poolscope.signals.two_kinds import TwoKinds
from poolscope.signals.window import Work
from poolscope.signals.work_queues import WorkQueueSignals

#: Runs of up to this many times the run alone do not hinder each other.
RUN_INFLATION = 1.5
#: The CPU is the limit from this share of it on; switching and measuring take the rest.
CPU_LIMIT_SHARE = 0.85
#: Above this many cores more than one worker computes at once.
SEVERAL_CORES = 1.2
#: The share of the workers that is most of them.
CHILDREN_SHARE = 0.5
#: A value that is at most this part larger than the least counts as the least.
SLACK = 0.2


class ProcessSignals(msgspec.Struct, frozen=True):
    """CPU of the process over the same time: seconds used per second, and how many it may use; `children` are its child
    processes."""

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
    #: Those that wait are overtaken by others: the wait is a mean.
    overtaken: bool = False
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
    #: Of a work queue, whose workers are its consumers.
    work_queue: WorkQueueSignals | None = None

    @property
    def cores_wanted(self) -> float | None:
        """Cores that the workers used or were ready to use."""
        return None if self.worker_cores is None else self.worker_cores + (self.workers_ready or 0.0)

    @property
    def wanted_share(self) -> float | None:
        """`cores_wanted` per second that the workers were busy."""
        share, cores, wanted = self.worker_cpu_share, self.worker_cores, self.cores_wanted
        return share * wanted / cores if share and cores and wanted is not None else share

    @property
    def beside_the_gil(self) -> bool:
        """Whether the workers compute without the GIL: there is none, or several workers are on a CPU at once, or would
        be if the host had one for them. A thread that waits for the GIL is not ready to run."""
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
        """Cores that child processes use while most workers wait for them; None if most workers do not, or it is not
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
        """Return the same, with one more fact that random arrivals hardly explain (see `LoadTest.nats`)."""
        return msgspec.structs.replace(self, crowd=msgspec.structs.replace(self.crowd, nats=nats))

    @property
    def throughput(self) -> float:
        """Tasks finished per second."""
        return self.finished / self.window_seconds if self.window_seconds > 0 else 0.0

    @property
    def effective_parallelism(self) -> float | None:
        """How many tasks' worth of work got done at once.

        By Little's law (L = lambda W): throughput times the unhindered run time, summed over the functions that do the
        work. Where that is not known: the workers that were not queued within their tasks, or as many as the resource
        admits that the others wait for; else the cores that the workers get, where those are the limit.
        """
        if self.work.done_seconds is not None and not self._became_slower:
            return self.work.done_seconds / self.window_seconds
        holders = float(self.contention.holders) if self.contention is not None else None
        if self.working_workers is not None:
            # Below that part of the workers samples are not exact enough, but the resource may say it.
            untold = holders is not None and self.working_workers <= (1 + SLACK) * LEAST_WORK * self.max_workers
            return holders if untold else self.working_workers
        return holders if holders is not None else self._computing_cores

    @property
    def _became_slower(self) -> bool:
        """Whether runs grew though no more of them ran at once: then nothing is known of an unhindered run any more."""
        work = self.work
        if not work.alone_p50_seconds or not work.run_p50_seconds or work.run_mean_seconds is None:
            return False
        before = (work.last_alone_seconds or 0.0) * RUN_INFLATION >= work.run_mean_seconds
        return work.run_p50_seconds > RUN_INFLATION * work.alone_p50_seconds and (before or self.growing is False)

    @property
    def _computing_cores(self) -> float | None:
        """Cores that the workers get, if they compute or wait for the GIL nearly all the time; else None."""
        cores, share, limit = self.worker_cores, self.worker_cpu_share, self.cpu_limit_cores
        if cores is None or share is None or limit is None:
            return None
        of_the_gil = not self.beside_the_gil and cores >= CPU_LIMIT_SHARE * limit
        return cores if of_the_gil or share >= CPU_LIMIT_SHARE else None


def workers_for_cpu(limit: float, share: float) -> int:
    """Return how many busy workers use up `limit` cores, if each uses this share of a core."""
    return max(1, int(CPU_LIMIT_SHARE * limit / share))

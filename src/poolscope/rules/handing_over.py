"""The cost of handing tasks over: conditions that several rules share. Pure."""

from __future__ import annotations

import msgspec

from poolscope.signals.pool_signals import CPU_LIMIT_SHARE, PoolSignals

#: Workers that are in tasks for less than this part of their time have little to do.
LITTLE_SHARE = 0.5
#: Most of the time of a thread, or of the workers.
MOST = 0.5
#: Handing over an empty task costs some tenths of a millisecond; more (s) is due to what goes with it.
COUNT_SECONDS = 0.001
#: Fewer tasks a second than this cost next to nothing to hand over.
TASKS_PER_SECOND = 500.0
#: The workers use at least this share of the CPU.
WORKERS_LEAST = 0.2


class HandingOver(msgspec.Struct, frozen=True):
    """What is busy handing over: "sender", "receiver" or "workers"; which part of a core, or of the workers' time, that
    takes; and the CPU time of a task beside its run (s)."""

    whose: str
    share: float
    task_seconds: float


def between_processes(signals: PoolSignals) -> HandingOver | None:
    """Return the cost of sending tasks to worker processes and of receiving their results; None if that is little, or
    not known."""
    seen, in_tasks, cores = signals.between, signals.task_share, signals.worker_cores or 0.0
    if seen is None or seen.sender_cores is None or in_tasks is None or in_tasks >= LITTLE_SHARE:
        return None
    if not signals.finished:
        return None
    # The CPU that the workers use between tasks: the tasks use at most as much as they take.
    wanted = max(0.0, (cores + (signals.workers_ready or 0.0)) / signals.max_workers - in_tasks)
    share, whose = max((seen.sender_busy, "sender"), (seen.receiver_busy, "receiver"), (wanted, "workers"))
    if share < MOST and seen.sender_busy + seen.receiver_busy < CPU_LIMIT_SHARE:  # they share a GIL
        return None
    used = seen.sender_cores + (seen.receiver_cores or 0.0) + max(0.0, cores - in_tasks * signals.max_workers)
    return HandingOver(whose, min(1.0, share), used / signals.throughput)


def between_threads(signals: PoolSignals) -> HandingOver | None:
    """Return the cost of handing tasks to threads that share the GIL, where the process mostly does that: the workers
    use more CPU between tasks than in them. None if it does not, or that is not known."""
    used, limit, cores = signals.process.cores_used, signals.cpu_limit_cores, signals.worker_cores
    share, run = signals.task_share, signals.run_p50_seconds
    if not signals.process.gil or used is None or limit is None or cores is None or share is None or run is None:
        return None
    if used < CPU_LIMIT_SHARE * limit or cores < WORKERS_LEAST * limit or signals.throughput < TASKS_PER_SECOND:
        return None
    # Half of the tasks run no longer than the median. What a task takes beyond it is waiting, mostly for the GIL.
    in_tasks = min(share * signals.max_workers, 2 * run * signals.throughput)
    if in_tasks > MOST * cores:
        return None
    return HandingOver("workers", min(1.0, 1 - in_tasks / cores), (used - in_tasks) / signals.throughput)

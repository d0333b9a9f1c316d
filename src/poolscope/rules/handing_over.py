"""What handing tasks over costs, beside the tasks: what several rules share. Pure."""

from __future__ import annotations

import msgspec

from poolscope.signals.pool_signals import CPU_LIMIT_SHARE, PoolSignals

#: Workers that are in tasks for less than this part of their time have little to do.
LITTLE_SHARE = 0.5
#: Most of the time of a thread, or of the workers.
MOST = 0.5
#: To hand over a task costs some tenths of a millisecond, however little goes with it; more is what goes with it.
COUNT_SECONDS = 0.001
#: Fewer tasks a second than this cost next to nothing to hand over.
TASKS_PER_SECOND = 500.0
#: So much of the CPU at least is used by the workers.
WORKERS_LEAST = 0.2


class HandingOver(msgspec.Struct, frozen=True):
    """What takes the time: "sender", "receiver" or "workers"; the part of a core, or of the workers' time, that it
    takes; and the CPU time that a task costs beside its run (s)."""

    whose: str
    share: float
    task_seconds: float


def between_processes(signals: PoolSignals) -> HandingOver | None:
    """Return what it takes to send tasks to worker processes and to take their results; None if that is little, or not
    known."""
    seen, in_tasks, cores = signals.between, signals.task_share, signals.worker_cores or 0.0
    if seen is None or seen.sender_cores is None or in_tasks is None or in_tasks >= LITTLE_SHARE:
        return None
    if not signals.finished:
        return None
    # What the workers use beside the tasks; the CPU time of tasks is at most as long as they are in them.
    wanted = max(0.0, (cores + (signals.workers_ready or 0.0)) / signals.max_workers - in_tasks)
    share, whose = max((seen.sender_busy, "sender"), (seen.receiver_busy, "receiver"), (wanted, "workers"))
    if share < MOST and seen.sender_busy + seen.receiver_busy < CPU_LIMIT_SHARE:  # they share a GIL
        return None
    used = seen.sender_cores + (seen.receiver_cores or 0.0) + max(0.0, cores - in_tasks * signals.max_workers)
    return HandingOver(whose, min(1.0, share), used / signals.throughput)


def between_threads(signals: PoolSignals) -> HandingOver | None:
    """Return what it takes to hand tasks to threads that share the GIL, where that is most of what the process does:
    the workers use more CPU between the tasks than in them. None if it is not, or not known."""
    used, limit, cores = signals.process.cores_used, signals.cpu_limit_cores, signals.worker_cores
    share, run = signals.task_share, signals.run_p50_seconds
    if not signals.process.gil or used is None or limit is None or cores is None or share is None or run is None:
        return None
    if used < CPU_LIMIT_SHARE * limit or cores < WORKERS_LEAST * limit or signals.throughput < TASKS_PER_SECOND:
        return None
    # Half of the tasks run for no longer than the median: beyond that they wait, for the GIL above all.
    in_tasks = min(share * signals.max_workers, 2 * run * signals.throughput)
    if in_tasks > MOST * cores:
        return None
    return HandingOver("workers", min(1.0, 1 - in_tasks / cores), (used - in_tasks) / signals.throughput)

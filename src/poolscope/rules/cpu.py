"""How the workers and their process use the CPU: conditions that several rules share. Pure."""

from __future__ import annotations

import msgspec

from poolscope.model import Advice
from poolscope.signals.pool_signals import CPU_LIMIT_SHARE, PoolSignals

#: Workers compute if together they use more than this share of the CPU that they can have.
COMPUTING_SHARE = 0.6
#: Workers that want all of it, and do not get it, use at least this share.
COMPUTING_LEAST = 0.25
#: Workers that use less CPU than this while busy are waiting for something else.
OFF_CPU_SHARE = 0.5


class Starved(msgspec.Struct, frozen=True):
    """The workers are ready to run, and the process gets too little CPU: the cores that it uses, and could use."""

    used: float
    limit: float


def starved(signals: PoolSignals) -> Starved | None:
    """See `Starved`; None if the workers get what they can use, or that is not known."""
    used, limit = signals.process.cores_used, signals.cpu_limit_cores
    if (signals.workers_ready or 0.0) <= 0 or signals.child_cores is not None:
        return None
    if used is None or limit is None or used >= CPU_LIMIT_SHARE * limit:
        return None
    return Starved(used, limit)


def compute(signals: PoolSignals) -> bool:
    """Whether the workers themselves use up the CPU that the process can have.

    Under the GIL they can have one core. More than one in use shows that the work releases the GIL; then they can have
    what affinity and quota allow. On a host that is short of CPU, the time that they are ready to run counts as well.
    """
    used, limit = signals.process.cores_used, signals.cpu_limit_cores
    workers, wanted = signals.worker_cores, signals.cores_wanted
    if used is None or limit is None or workers is None or wanted is None:
        return False
    least = CPU_LIMIT_SHARE * limit
    return workers >= COMPUTING_LEAST * limit and wanted >= least and used + wanted - workers >= least


def use_the_machine(signals: PoolSignals) -> bool:
    """Whether the process, or its child processes, use all the CPU that they may."""
    used, allowed = signals.process.cores_used, signals.process.cores_allowed
    if used is None or allowed is None:
        return False
    if signals.beside_the_gil:
        used += signals.workers_ready or 0.0
    used += signals.child_cores or 0.0
    return used >= CPU_LIMIT_SHARE * allowed


def wait(signals: PoolSignals) -> bool:
    """Whether each worker mostly waits, and not for a CPU that they all use up together."""
    share, limit, cores = signals.wanted_share, signals.cpu_limit_cores, signals.worker_cores
    if share is None or share >= OFF_CPU_SHARE:
        return False
    return limit is None or cores is None or cores < COMPUTING_SHARE * limit


def to_processes() -> Advice:
    """Return the advice where threads share one core."""
    return Advice(
        "use_process_pool",
        "More threads cannot help: the work computes and shares one CPU. Move it to a ProcessPoolExecutor, or to code "
        "that releases the GIL.",
    )

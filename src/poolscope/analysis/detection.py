"""Numbers and thresholds in, a diagnosis out: the tables of section 2 of the contract.

A pool's diagnosis is the first pattern that applies in order of precedence, with the first cause that is established
in its order; a pattern whose cause is not established has the cause `unknown`. A rule sees signals and thresholds
only, and stands in one of the two tables below, in its place. Pure: no clock, no thread, no I/O.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from poolscope.analysis.occupants import Contention, HeldUp
from poolscope.analysis.signals import HeldWorker, PoolSignals
from poolscope.model import Severity, Thresholds

#: Below this much work getting done at once a pool is serial, whatever its size.
SERIAL_PARALLELISM = 1.5
#: The CPU is the limit from this share of it on: the rest is what switching and measuring take.
CPU_LIMIT_SHARE = 0.85
#: Workers that together use more than this of what they can have do compute, though the machine may give it to others.
COMPUTING_SHARE = 0.6
#: So much of it at least is used, where they want all of it and do not get it.
COMPUTING_LEAST = 0.25
#: From here on more than one worker computes at once.
SEVERAL_CORES = 1.2
#: Workers that use less CPU than this while busy are waiting for something else.
OFF_CPU_SHARE = 0.5
#: Runs that take up to this many times as long as alone are not hindering each other.
RUN_INFLATION = 1.5
#: Once raised, a finding stays until the amplification is below this part of its threshold.
RELEASE = 0.75
#: A task that takes this many times the p99 run of its function does not come back.
STUCK_RUNS = 10.0
#: Where few long tasks hold the workers, the others wait many times their run: this many.
WAIT_RUNS = 5.0
#: Most of the worker time.
DOWNSTREAM_SHARE = 0.5
OVERLONG_SHARE = 0.5
HELD_UP_SHARE = 0.5
CHILDREN_SHARE = 0.5
#: No task finished for this many times the longest run so far: not slow, stalled.
STALL_RUNS = 5.0


class Rules(msgspec.Struct, frozen=True):
    """What a pool's settings ask of its judge."""

    thresholds: Thresholds = Thresholds()
    #: One worker on purpose: no `single_worker` warning.
    ordered: bool = False
    #: Consumers that hold their workers: no `stuck_workers` and no `stalled`.
    long_running: bool = False
    #: The stretch has been told of: it goes on until its tasks wait for less long than makes one begin.
    raised: bool = False


class Diagnosis(msgspec.Struct, frozen=True):
    """What and why. `sized` says whether the size of the pool is the problem, so that a number would help."""

    pattern: str
    cause: str
    severity: Severity
    action: str
    sized: bool = False


Pattern = Callable[[PoolSignals, Rules], Severity | None]
Cause = Callable[[PoolSignals, Rules], bool]


def _deadlock(signals: PoolSignals, rules: Rules) -> Severity | None:
    return "critical" if signals.deadlock is not None else None


def _stalled(signals: PoolSignals, rules: Rules) -> Severity | None:
    quiet, longest = signals.seconds_since_finish, signals.longest_run_seconds
    if rules.long_running or quiet is None or longest is None or signals.queue_depth == 0:
        return None
    quiet = min(quiet, signals.window_seconds)
    return "critical" if quiet >= rules.thresholds.stall_seconds and quiet >= STALL_RUNS * longest else None


def stuck_workers(workers: Sequence[HeldWorker], rules: Rules) -> list[HeldWorker]:
    """Those that are in tasks that do not come back, the longest first."""
    least = rules.thresholds.stuck_task_seconds
    return [held for held in workers if held.seconds >= least and held.times >= STUCK_RUNS]


def _stuck_workers(signals: PoolSignals, rules: Rules) -> Severity | None:
    stuck = 0 if rules.long_running else len(stuck_workers(signals.held, rules))
    return "warning" if 0 < stuck < signals.max_workers else None


def amplified(signals: PoolSignals, rules: Rules) -> bool:
    """Whether a stretch lasts, and its tasks wait for long."""
    amplification = signals.amplification
    return (
        signals.stretch_seconds >= rules.thresholds.sustain_seconds
        and amplification is not None
        and amplification >= rules.thresholds.min_amplification * (RELEASE if rules.raised else 1.0)
    )


def by_no_chance(signals: PoolSignals) -> bool:
    """Whether a stretch is more than random arrivals bring to a healthy pool."""
    surprise = signals.crowd.surprise
    return surprise is not None and surprise >= signals.crowd.surprise_needed


def _sustained(signals: PoolSignals, rules: Rules) -> bool:
    return amplified(signals, rules) and (rules.raised or by_no_chance(signals))


def _serial(signals: PoolSignals, rules: Rules) -> Severity | None:
    if not _sustained(signals, rules) or (signals.max_workers == 1 and rules.ordered):
        return None
    parallelism = signals.effective_parallelism
    serial = signals.max_workers == 1 or (parallelism is not None and parallelism < SERIAL_PARALLELISM)
    return "warning" if serial else None


def _async_then_serial(signals: PoolSignals, rules: Rules) -> Severity | None:
    return "warning" if _sustained(signals, rules) and signals.max_workers > 1 else None


def _burst(signals: PoolSignals, rules: Rules) -> Severity | None:
    return "info"


#: In order of precedence. A later rule goes where the contract puts it.
PATTERNS: tuple[tuple[str, Pattern], ...] = (
    ("deadlock", _deadlock),
    ("stalled", _stalled),
    ("stuck_workers", _stuck_workers),
    ("serial", _serial),
    ("async_then_serial", _async_then_serial),
    ("burst", _burst),
)


def _nested_wait(signals: PoolSignals, rules: Rules) -> bool:
    """The cycle that the pattern was found by."""
    return True


def _single_worker(signals: PoolSignals, rules: Rules) -> bool:
    return signals.max_workers == 1


def _stuck_tasks(signals: PoolSignals, rules: Rules) -> bool:
    """They are what the pattern was found by."""
    return True


def _beside_the_gil(signals: PoolSignals) -> bool:
    """Whether the workers compute without the GIL: several are on a CPU at once, or would be, had the host one for
    them. Who waits for the GIL is not ready to run."""
    wanted, share = signals.cores_wanted, signals.wanted_share
    several = signals.worker_cores is not None and signals.worker_cores > SEVERAL_CORES
    ready = wanted is not None and wanted > SEVERAL_CORES and share is not None and share >= CPU_LIMIT_SHARE
    return several or ready


def cpu_limit(signals: PoolSignals) -> float | None:
    """Cores that the workers can use at once, as far as their use shows; None if it was not measured."""
    allowed = signals.process.cores_allowed
    if allowed is None or signals.worker_cores is None:
        return None
    return min(1.0, allowed) if signals.process.gil and not _beside_the_gil(signals) else allowed


def _downstream_pool(signals: PoolSignals, rules: Rules) -> bool:
    """Most worker time is spent waiting for futures of another pool."""
    return signals.awaited is not None and signals.awaited.share > DOWNSTREAM_SHARE


def workers_for_cpu(limit: float, share: float) -> int:
    """How many busy workers that each use this share of a core use up so many cores."""
    return max(1, int(CPU_LIMIT_SHARE * limit / share))


def child_cores(signals: PoolSignals) -> float | None:
    """Cores that the child processes use that most workers wait for; None if most wait for none, or it is not known."""
    return signals.process.children_cores if signals.children_share > CHILDREN_SHARE else None


def _cpu_bound(signals: PoolSignals, rules: Rules) -> bool:
    """The workers use up the CPU that the process can have, or the child processes do that they wait for."""
    return _computes(signals) or (child_cores(signals) is not None and _uses_the_machine(signals))


def _computes(signals: PoolSignals) -> bool:
    """The workers themselves use up the CPU that the process can have.

    Under the GIL that is one core, unless more than one is in use, which shows that the work releases it; then it
    is what affinity and quota allow. On a host that is short of CPU, what they are ready to use counts as well.
    """
    used, limit = signals.process.cores_used, cpu_limit(signals)
    workers, wanted = signals.worker_cores, signals.cores_wanted
    if used is None or limit is None or workers is None or wanted is None:
        return False
    least = CPU_LIMIT_SHARE * limit
    return workers >= COMPUTING_LEAST * limit and wanted >= least and used + wanted - workers >= least


def starved(signals: PoolSignals) -> bool:
    """Whether the workers are ready to use CPU that the process does not get."""
    used, limit = signals.process.cores_used, cpu_limit(signals)
    ready = (signals.workers_ready or 0.0) > 0 and child_cores(signals) is None
    return ready and used is not None and limit is not None and used < CPU_LIMIT_SHARE * limit


def _off_cpu(signals: PoolSignals) -> bool:
    """Whether the workers wait: each of them mostly, and all together not for a CPU that they use up."""
    share, limit, cores = signals.wanted_share, cpu_limit(signals), signals.worker_cores
    if share is None or share >= OFF_CPU_SHARE:
        return False
    return limit is None or cores is None or cores < COMPUTING_SHARE * limit


def _inflated(signals: PoolSignals) -> tuple[bool, bool] | None:
    """Whether runs take longer than alone, by their median and by their mean; None if that is not known.

    They do not, if they took as long already when the pool was about to fill. The mean alone also grows where a few
    long tasks have come.
    """
    work = signals.work
    median, mean, last = work.alone_p50_seconds, work.alone_mean_seconds, work.last_alone_seconds
    run_p50, run_mean = work.run_p50_seconds, work.run_mean_seconds
    if median is None or mean is None or last is None or not run_p50 or not run_mean:
        return None
    if last * RUN_INFLATION >= run_mean:
        return False, False
    return run_p50 > RUN_INFLATION * median, run_mean > RUN_INFLATION * mean


def slower(signals: PoolSignals) -> bool:
    """Whether runs take longer than alone: they hold each other up, or what they wait for has become slower."""
    return _inflated(signals) == (True, True)


def became_slower(signals: PoolSignals) -> bool:
    """Whether they do, and it is known that they do not hold each other up."""
    return slower(signals) and signals.growing is False


def behind(signals: PoolSignals) -> Contention | HeldUp | None:
    """What the workers wait for that is scarcer than the pool, by where they are: how many get past a line, or that
    most worker time is spent at locks, semaphores and full queues. More workers would wait there too.
    """
    found, held_up = signals.contention, signals.held_up
    if found is None and held_up is not None and held_up.share > HELD_UP_SHARE:
        return held_up
    return found


def _shared_resource(signals: PoolSignals, rules: Rules) -> bool:
    """The workers queue for something scarcer than the pool: shown by how their runs grow, or by where they are."""
    return _off_cpu(signals) and (behind(signals) is not None or signals.growing is True)


def _slow_tasks(signals: PoolSignals, rules: Rules) -> bool:
    """Few long tasks hold the workers, and the many short ones wait behind them."""
    hogs = signals.hogs
    return hogs is not None and hogs.others_wait_ns >= WAIT_RUNS * hogs.others_run_ns


def _blocking_io(signals: PoolSignals, rules: Rules) -> bool:
    """The workers wait for something else than each other, as far as is known.

    It is not, where few tasks that take beyond all measure of their function hold most of them: stuck, or starved by
    those that pass. More workers may go the same way.
    """
    inflated, few_hold_them = _inflated(signals), signals.suspected or signals.overlong_share > OVERLONG_SHARE
    by_themselves = inflated is None or not inflated[1] or became_slower(signals)
    return _off_cpu(signals) and by_themselves and not few_hold_them


#: Patterns whose cause is about the size of the pool and the work in it.
_FULL = ("serial", "async_then_serial", "burst")

#: In order of precedence: name, patterns that it can be the cause of, rule, action, whether a size helps.
CAUSES: tuple[tuple[str, tuple[str, ...], Cause, str, bool], ...] = (
    ("nested_wait", ("deadlock",), _nested_wait, "avoid_nested_wait", False),
    ("single_worker", _FULL, _single_worker, "raise_max_workers", True),
    ("stuck_tasks", ("stuck_workers", "stalled"), _stuck_tasks, "add_timeout", False),
    ("downstream_pool", _FULL, _downstream_pool, "see_pool", False),
    ("cpu_bound", _FULL, _cpu_bound, "use_process_pool", False),
    ("shared_resource", _FULL, _shared_resource, "relieve_shared_resource", False),
    ("slow_tasks", _FULL, _slow_tasks, "split_pool", False),
    ("blocking_io", _FULL, _blocking_io, "raise_max_workers", True),
)


def diagnose(signals: PoolSignals, rules: Rules) -> Diagnosis:
    """What a saturated pool has over the window of its signals."""
    pattern, severity = next(
        (name, severity) for name, rule in PATTERNS if (severity := rule(signals, rules)) is not None
    )
    for cause, patterns, established, action, sized in CAUSES:
        if pattern not in patterns or not established(signals, rules):
            continue
        if cause == "cpu_bound" and _uses_the_machine(signals):
            return Diagnosis(pattern, cause, "info", "none")
        if cause == "single_worker" and _computes(signals):
            # The one worker computes all the time: more threads would share its core.
            return Diagnosis(pattern, cause, severity, "use_process_pool")
        return Diagnosis(pattern, cause, severity, action, sized)
    return Diagnosis(pattern, "unknown", severity, "none")


def _uses_the_machine(signals: PoolSignals) -> bool:
    used, allowed = signals.process.cores_used, signals.process.cores_allowed
    if used is None or allowed is None:
        return False
    if _beside_the_gil(signals):
        used += signals.workers_ready or 0.0
    used += child_cores(signals) or 0.0
    return used >= CPU_LIMIT_SHARE * allowed


class LoopLineSignals(msgspec.Struct, frozen=True):
    """The blocks of one line of one event loop; seconds."""

    cause: str
    blocks: int
    blocked_seconds: float
    longest_seconds: float
    loop_seconds: float
    #: Done once, as the program starts: the line imports something, in a module that is being imported itself, or it
    #: has us serve.
    startup: bool = False

    @property
    def share(self) -> float:
        """Part of the loop's time that the blocks took."""
        return self.blocked_seconds / self.loop_seconds if self.loop_seconds > 0 else 1.0


#: One block this long, or this share of the loop's time, makes a loop's finding a warning (section 2).
LONG_BLOCK_SECONDS = 1.0
BLOCKED_SHARE = 0.02
#: A share needs this much of the loop's life behind it before it may warn while the program runs: a slow start-up is
#: no fault of the service.
SHARE_AFTER_SECONDS = 5.0

_LOOP_ACTIONS = {
    "blocking_call": "await_instead",
    "cpu_bound": "use_process_pool",
    "gil_contention": "use_process_pool",
}


def diagnose_loop(signals: LoopLineSignals, *, final: bool) -> Diagnosis:
    """What the blocks of one line amount to. `final`: the loop's whole time is known."""
    # A server that loads its application inside its loop: that happens once, before anything can wait for it.
    innocent = signals.cause in ("gc", "host_descheduled") or signals.startup
    shared = signals.share >= BLOCKED_SHARE and (final or signals.loop_seconds >= SHARE_AFTER_SECONDS)
    warns = not innocent and (signals.longest_seconds >= LONG_BLOCK_SECONDS or shared)
    return Diagnosis(
        "loop_blocked",
        signals.cause,
        "warning" if warns else "info",
        "none" if innocent else _LOOP_ACTIONS.get(signals.cause, "none"),
    )

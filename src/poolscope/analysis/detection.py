"""Numbers and thresholds in, a diagnosis out: the tables of section 2 of the contract.

A pool's diagnosis is the first pattern that applies in order of precedence, with the first cause that is established
in its order; a pattern whose cause is not established has the cause `unknown`. A rule sees signals and thresholds
only, and stands in one of the two tables below, in its place. Pure: no clock, no thread, no I/O.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from poolscope.analysis.signals import PoolSignals
from poolscope.model import Severity, Thresholds

#: Below this much work getting done at once a pool is serial, whatever its size.
SERIAL_PARALLELISM = 1.5
#: The CPU is the limit from this share of it on: the rest is what switching and measuring take.
CPU_LIMIT_SHARE = 0.85
#: Workers that use less CPU than this while busy are waiting for something else.
OFF_CPU_SHARE = 0.5
#: Runs that take up to this many times as long as alone are not hindering each other.
RUN_INFLATION = 1.5
#: A stretch that random arrivals at a healthy load bring more often than exp(-18), about once in ten million stretches,
#: is nobody's fault.
SURPRISE_NATS = 18.0
#: No task finished for this many times the longest run so far: not slow, stalled.
STALL_RUNS = 5.0


class Rules(msgspec.Struct, frozen=True):
    """What a pool's settings ask of its judge."""

    thresholds: Thresholds = Thresholds()
    #: One worker on purpose: no `single_worker` warning.
    ordered: bool = False
    #: Consumers that hold their workers: no `stuck_workers` and no `stalled`.
    long_running: bool = False


class Diagnosis(msgspec.Struct, frozen=True):
    """What and why. `sized` says whether the size of the pool is the problem, so that a number would help."""

    pattern: str
    cause: str
    severity: Severity
    action: str
    sized: bool = False


Pattern = Callable[[PoolSignals, Rules], Severity | None]
Cause = Callable[[PoolSignals, Rules], bool]


def _stalled(signals: PoolSignals, rules: Rules) -> Severity | None:
    quiet, longest = signals.seconds_since_finish, signals.longest_run_seconds
    if rules.long_running or quiet is None or longest is None or signals.queue_depth == 0:
        return None
    quiet = min(quiet, signals.window_seconds)
    return "critical" if quiet >= rules.thresholds.stall_seconds and quiet >= STALL_RUNS * longest else None


def _sustained(signals: PoolSignals, rules: Rules) -> bool:
    amplification, surprise = signals.amplification, signals.surprise
    return (
        signals.stretch_seconds >= rules.thresholds.sustain_seconds
        and amplification is not None
        and amplification >= rules.thresholds.min_amplification
        and surprise is not None
        and surprise >= SURPRISE_NATS
    )


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
    ("stalled", _stalled),
    ("serial", _serial),
    ("async_then_serial", _async_then_serial),
    ("burst", _burst),
)


def _single_worker(signals: PoolSignals, rules: Rules) -> bool:
    return signals.max_workers == 1


def _cpu_bound(signals: PoolSignals, rules: Rules) -> bool:
    """The workers themselves use up the CPU that the process can have.

    Under the GIL that is one core, unless more than one is in use, which shows that the work releases it; then it
    is what affinity and quota allow.
    """
    used, allowed, workers = signals.process.cores_used, signals.process.cores_allowed, signals.worker_cores
    if used is None or allowed is None or workers is None:
        return False
    limit = min(1.0, allowed)
    if not signals.process.gil or workers > 1.2:
        limit = allowed
    return workers >= CPU_LIMIT_SHARE * limit and used >= CPU_LIMIT_SHARE * limit


def _blocking_io(signals: PoolSignals, rules: Rules) -> bool:
    """The workers wait for something else than each other.

    What gets done at once would be all the workers' work if tasks ran as they do alone; where it is less, runs grow
    with concurrency: tasks wait for something scarcer than the pool, and more workers would only wait with them.
    """
    share, parallelism = signals.worker_cpu_share, signals.effective_parallelism
    hindered = parallelism is not None and parallelism * RUN_INFLATION < signals.max_workers
    return share is not None and share < OFF_CPU_SHARE and not hindered


#: In order of precedence: name, rule, action, whether a size helps.
CAUSES: tuple[tuple[str, Cause, str, bool], ...] = (
    ("single_worker", _single_worker, "raise_max_workers", True),
    ("cpu_bound", _cpu_bound, "use_process_pool", False),
    ("blocking_io", _blocking_io, "raise_max_workers", True),
)

#: Patterns whose cause is about the size of the pool and the work in it.
_CAUSED = ("serial", "async_then_serial", "burst")


def diagnose(signals: PoolSignals, rules: Rules) -> Diagnosis:
    """What a saturated pool has over the window of its signals."""
    pattern, severity = next(
        (name, severity) for name, rule in PATTERNS if (severity := rule(signals, rules)) is not None
    )
    if pattern not in _CAUSED:
        return Diagnosis(pattern, "unknown", severity, "none")
    for cause, established, action, sized in CAUSES:
        if not established(signals, rules):
            continue
        if cause == "cpu_bound" and _uses_the_machine(signals):
            return Diagnosis(pattern, cause, "info", "none")
        if cause == "single_worker" and _cpu_bound(signals, rules):
            # The one worker computes all the time: more threads would share its core.
            return Diagnosis(pattern, cause, severity, "use_process_pool")
        return Diagnosis(pattern, cause, severity, action, sized)
    return Diagnosis(pattern, "unknown", severity, "none")


def _uses_the_machine(signals: PoolSignals) -> bool:
    used, allowed = signals.process.cores_used, signals.process.cores_allowed
    return used is not None and allowed is not None and used >= CPU_LIMIT_SHARE * allowed


class LoopLineSignals(msgspec.Struct, frozen=True):
    """The blocks of one line of one event loop; seconds."""

    cause: str
    blocks: int
    blocked_seconds: float
    longest_seconds: float
    loop_seconds: float

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
    innocent = signals.cause in ("gc", "host_descheduled")
    shared = signals.share >= BLOCKED_SHARE and (final or signals.loop_seconds >= SHARE_AFTER_SECONDS)
    warns = not innocent and (signals.longest_seconds >= LONG_BLOCK_SECONDS or shared)
    return Diagnosis(
        "loop_blocked",
        signals.cause,
        "warning" if warns else "info",
        _LOOP_ACTIONS.get(signals.cause, "none"),
    )

"""The rules in order of precedence. The first pattern and the first cause that match are the diagnosis.

A pool's diagnosis is the first pattern that applies, with the first cause that is established; a pattern whose cause
is not established has the cause `unknown`. A rule sees signals and criteria only, and has its place in one of the two
tables below. Pure: no clock, no thread, no I/O.
"""

from __future__ import annotations

from collections.abc import Sequence

from poolscope.rules.abandoned_calls import AbandonedCalls
from poolscope.rules.async_then_serial import AsyncThenSerial
from poolscope.rules.batch import BatchWork
from poolscope.rules.blocking_io import BlockingIo
from poolscope.rules.burst import Burst
from poolscope.rules.cpu_bound import CpuBound
from poolscope.rules.deadlock import Deadlocked
from poolscope.rules.downstream_pool import DownstreamPool
from poolscope.rules.held_across_wait import HeldAcrossWait
from poolscope.rules.leaked import Leaked
from poolscope.rules.limit_reached import LimitReached
from poolscope.rules.long_lived import LongLived
from poolscope.rules.nested_wait import NestedWait
from poolscope.rules.reason import Cause, Criteria, Diagnosis, Pattern
from poolscope.rules.results_not_taken import ResultsNotTaken
from poolscope.rules.serial import Serial
from poolscope.rules.shared_resource import SharedResource
from poolscope.rules.single_worker import SingleWorker
from poolscope.rules.slow_tasks import SlowTasks
from poolscope.rules.stalled import Stalled
from poolscope.rules.stuck_tasks import StuckTasks
from poolscope.rules.stuck_workers import StuckWorkers
from poolscope.rules.sustained import unhurried
from poolscope.rules.transfer import Transfer
from poolscope.rules.unknown import Unknown
from poolscope.rules.worker_start import WorkerStart
from poolscope.rules.workers_gone import WorkersGone
from poolscope.signals.pool_signals import PoolSignals

#: In order of precedence; the last one always matches.
PATTERNS: tuple[type[Pattern], ...] = (
    Deadlocked,
    Stalled,
    StuckWorkers,
    BatchWork,
    Serial,
    AsyncThenSerial,
    Burst,
)

#: In order of precedence; the last one always matches.
CAUSES: tuple[type[Cause], ...] = (
    NestedWait,
    WorkersGone,
    Leaked,
    LongLived,
    AbandonedCalls,
    StuckTasks,
    WorkerStart,
    SingleWorker,
    HeldAcrossWait,
    DownstreamPool,
    ResultsNotTaken,
    Transfer,
    CpuBound,
    SharedResource,
    SlowTasks,
    LimitReached,
    BlockingIo,
    Unknown,
)

#: Causes that more workers do not help.
NOT_SIZE = frozenset(cause.name for cause in CAUSES if cause.established and not cause.about_size)


def diagnose(
    signals: PoolSignals,
    criteria: Criteria,
    patterns: Sequence[type[Pattern]] = PATTERNS,
    causes: Sequence[type[Cause]] = CAUSES,
) -> Diagnosis:
    """Return the diagnosis of a pool by its signals, by these rules in their order."""
    for rule in patterns:
        pattern = rule.match(signals, criteria)
        if pattern is not None:
            established = (cause.match(signals, pattern) for cause in causes if pattern.name in cause.patterns)
            found = next(cause for cause in established if cause is not None)
            if pattern.accepts(found):
                return Diagnosis(pattern, found, criteria.intended or unhurried(signals, criteria))
    raise AssertionError("the last pattern always matches, whatever the cause")

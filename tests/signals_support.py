"""A saturated pool in numbers, to be changed one by one."""

from __future__ import annotations

import msgspec

from poolscope.signals.contention import Contention, HeldUp
from poolscope.signals.pool_signals import PoolSignals, ProcessSignals
from poolscope.signals.significance import LoadTest, Runs
from poolscope.signals.window import Work

IDLE_HOST = ProcessSignals(cores_used=0.1, cores_allowed=4.0, gil=True)
ONE_CORE_BUSY = ProcessSignals(cores_used=1.0, cores_allowed=4.0, gil=True)
HALF_A_CORE = ProcessSignals(cores_used=0.52, cores_allowed=4.0, gil=True)
ALL_CORES_BUSY = ProcessSignals(cores_used=3.9, cores_allowed=4.0, gil=True)
CHILDREN_BUSY = ProcessSignals(cores_used=0.1, cores_allowed=4.0, gil=True, children_cores=3.5)
UNKNOWN_HOST = ProcessSignals(cores_used=None, cores_allowed=None, gil=True)

#: One worker at a time gets past a line.
LOCK = Contention(1, (("/app/db.py", 8, "save"),), (("/app/db.py", 9, "save"),), 20)
#: Most of the time workers wait for room in a full queue, or for a lock.
FULL_QUEUE = HeldUp("queue", 0.7, (("/app/db.py", 8, "save"),))
LOCKS = HeldUp("lock", 0.7, (("/app/db.py", 8, "save"),))
#: Four workers that wait for something while tasks come too fast, for two seconds.
WAITING = PoolSignals(
    window_seconds=2.0,
    max_workers=4,
    starts=20,
    coupled_starts=20,
    finished=20,
    queue_depth=30,
    oldest_queued_seconds=1.5,
    wait_p50_seconds=1.0,
    wait_max_seconds=1.5,
    run_p50_seconds=0.4,
    run_mean_seconds=0.4,
    stretch_seconds=2.0,
    crowd=LoadTest(workers=4, stretch_seconds=2.0, queue=30, arrivals=50, seconds=2.0, runs=Runs(20, 8.0, 3.2)),
    work=Work(8.0, 0.4, 0.4, 0.4, 0.4, 0.4),
    worker_cores=0.05,
    worker_cpu_share=0.02,
    workers_ready=None,
    seconds_since_finish=0.1,
    longest_run_seconds=0.5,
    process=IDLE_HOST,
)
#: A crowd that random arrivals bring now and then.
BY_CHANCE = msgspec.structs.replace(WAITING.crowd, queue=10, arrivals=20)


def but(**changes: object) -> PoolSignals:
    """With these numbers changed; all tasks are of one function."""
    names = msgspec.structs.asdict(WAITING.work)
    work = msgspec.structs.replace(WAITING.work, **{name: changes[name] for name in names if name in changes})
    changes = {name: value for name, value in changes.items() if not name.startswith(("alone_", "last_alone_"))}
    signals = msgspec.structs.replace(WAITING, **changes)
    done = None if work.alone_p50_seconds is None else signals.finished * work.alone_p50_seconds
    return msgspec.structs.replace(signals, work=msgspec.structs.replace(work, done_seconds=done))

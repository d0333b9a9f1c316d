"""A table of facts and the diagnosis each must give."""

import msgspec
import pytest
from signals_support import (
    ALL_CORES_BUSY,
    BY_CHANCE,
    CHILDREN_BUSY,
    FULL_QUEUE,
    HALF_A_CORE,
    IDLE_HOST,
    LOCK,
    ONE_CORE_BUSY,
    UNKNOWN_HOST,
    WAITING,
    but,
)

from poolscope.analysis.detection import LoopLineSignals, Rules, diagnose, diagnose_loop
from poolscope.analysis.occupants import Hogs
from poolscope.analysis.signals import HeldWorker, PoolSignals
from poolscope.model import Thresholds


@pytest.mark.parametrize(
    ("signals", "rules", "expected"),
    [
        (WAITING, Rules(), ("async_then_serial", "blocking_io", "warning", "raise_max_workers", True)),
        (but(stretch_seconds=0.9), Rules(), ("burst", "blocking_io", "info", "raise_max_workers", True)),
        (but(wait_p50_seconds=0.3), Rules(), ("burst", "blocking_io", "info", "raise_max_workers", True)),
        (
            but(wait_p50_seconds=None, run_p50_seconds=None),
            Rules(),
            ("burst", "blocking_io", "info", "raise_max_workers", True),
        ),
        # long waits, but no more than random arrivals bring at a healthy load
        (
            but(crowd=BY_CHANCE, queue_depth=10),
            Rules(),
            ("burst", "blocking_io", "info", "raise_max_workers", True),
        ),
        # one worker
        (but(max_workers=1), Rules(), ("serial", "single_worker", "warning", "raise_max_workers", True)),
        (
            but(max_workers=1),
            Rules(ordered=True),
            ("burst", "single_worker", "info", "raise_max_workers", True),
        ),
        (
            but(max_workers=1, worker_cores=0.98, worker_cpu_share=0.98, process=ONE_CORE_BUSY),
            Rules(),
            ("serial", "single_worker", "warning", "use_process_pool", False),
        ),
        # four workers get one worker's work done, as runs have grown with their number
        (
            but(finished=5, run_p50_seconds=1.6, run_mean_seconds=1.6, wait_p50_seconds=4.0, growing=True),
            Rules(),
            ("serial", "shared_resource", "warning", "relieve_shared_resource", False),
        ),
        # they have grown, and it is not known with what, or known that it is not with their number
        (
            but(finished=5, run_p50_seconds=1.6, run_mean_seconds=1.6, wait_p50_seconds=4.0),
            Rules(),
            ("serial", "unknown", "warning", "none", False),
        ),
        (
            but(finished=5, run_p50_seconds=1.6, run_mean_seconds=1.6, wait_p50_seconds=4.0, growing=False),
            Rules(),
            ("serial", "blocking_io", "warning", "raise_max_workers", True),
        ),
        # they took as long before the pool filled: something else slowed them down
        (
            but(
                finished=5,
                run_p50_seconds=1.6,
                run_mean_seconds=1.6,
                wait_p50_seconds=4.0,
                last_alone_seconds=1.5,
            ),
            Rules(),
            ("serial", "blocking_io", "warning", "raise_max_workers", True),
        ),
        # eight workers behind one lock: the few that are lucky run as if alone, all together get one worker's work done
        (
            but(max_workers=8, finished=10, run_mean_seconds=1.6),
            Rules(),
            ("async_then_serial", "unknown", "warning", "none", False),
        ),
        (
            but(max_workers=8, finished=10, run_mean_seconds=1.6, contention=LOCK),
            Rules(),
            ("async_then_serial", "shared_resource", "warning", "relieve_shared_resource", False),
        ),
        # nothing is known of runs without a crowd: the lines decide
        (
            but(alone_p50_seconds=None, alone_mean_seconds=None, contention=LOCK),
            Rules(),
            ("serial", "shared_resource", "warning", "relieve_shared_resource", False),
        ),
        # the resource goes to the same few, whose runs are short, and the others starve
        (
            but(contention=LOCK),
            Rules(),
            ("async_then_serial", "shared_resource", "warning", "relieve_shared_resource", False),
        ),
        # they stand before a full queue most of the time, or only now and then
        (
            but(held_up=FULL_QUEUE),
            Rules(),
            ("async_then_serial", "shared_resource", "warning", "relieve_shared_resource", False),
        ),
        (
            but(held_up=msgspec.structs.replace(FULL_QUEUE, share=0.4)),
            Rules(),
            ("async_then_serial", "blocking_io", "warning", "raise_max_workers", True),
        ),
        # the child processes that they wait for use up the machine, or somebody else's do
        (
            but(children_share=0.9, process=CHILDREN_BUSY),
            Rules(),
            ("async_then_serial", "cpu_bound", "info", "none", False),
        ),
        (
            but(children_share=0.4, process=CHILDREN_BUSY),
            Rules(),
            ("async_then_serial", "blocking_io", "warning", "raise_max_workers", True),
        ),
        (
            but(max_workers=1, children_share=0.9, process=CHILDREN_BUSY),
            Rules(),
            ("serial", "single_worker", "warning", "raise_max_workers", True),
        ),
        # few tasks that take beyond all measure hold the workers: more workers may go the same way
        (
            but(overlong_share=0.8),
            Rules(),
            ("async_then_serial", "unknown", "warning", "none", False),
        ),
        (
            but(suspected=True),
            Rules(),
            ("async_then_serial", "unknown", "warning", "none", False),
        ),
        # few long tasks before many short ones
        (
            but(hogs=Hogs((1,), 0.9, 0.1, 1e9, 1e8)),
            Rules(),
            ("async_then_serial", "slow_tasks", "warning", "split_pool", False),
        ),
        (
            but(hogs=Hogs((1,), 0.9, 0.1, 1e9, 4e8)),
            Rules(),
            ("async_then_serial", "blocking_io", "warning", "raise_max_workers", True),
        ),
        # workers that do not come back
        (
            but(held=(HeldWorker(2, 1, 31.0, 50.0), HeldWorker(1, 1, 31.0, 9.0))),
            Rules(),
            ("stuck_workers", "stuck_tasks", "warning", "add_timeout", False),
        ),
        (
            but(held=(HeldWorker(2, 1, 31.0, 50.0),)),
            Rules(long_running=True),
            ("async_then_serial", "blocking_io", "warning", "raise_max_workers", True),
        ),
        (
            but(held=(HeldWorker(2, 1, 29.0, 50.0),)),
            Rules(),
            ("async_then_serial", "blocking_io", "warning", "raise_max_workers", True),
        ),
        # computing under the GIL: one core is the limit
        (
            but(
                worker_cores=0.97,
                worker_cpu_share=0.25,
                process=ONE_CORE_BUSY,
                finished=5,
                run_p50_seconds=1.6,
                wait_p50_seconds=4.0,
            ),
            Rules(),
            ("serial", "cpu_bound", "warning", "use_process_pool", False),
        ),
        (
            but(worker_cores=0.97, worker_cpu_share=0.25, process=ONE_CORE_BUSY),
            Rules(),
            ("async_then_serial", "cpu_bound", "warning", "use_process_pool", False),
        ),
        # computing beside the GIL on every core that is allowed: the machine is the limit
        (
            but(worker_cores=3.8, worker_cpu_share=0.96, process=ALL_CORES_BUSY),
            Rules(),
            ("async_then_serial", "cpu_bound", "info", "none", False),
        ),
        # computing beside the GIL, cores to spare: neither waiting nor at the limit
        (
            but(
                worker_cores=2.0,
                worker_cpu_share=0.9,
                process=msgspec.structs.replace(IDLE_HOST, cores_used=2.1),
            ),
            Rules(),
            ("async_then_serial", "unknown", "warning", "none", False),
        ),
        # on a host that is busy with something else they get half a core of the one that they want
        (
            but(worker_cores=0.5, worker_cpu_share=0.13, workers_ready=0.45, process=HALF_A_CORE),
            Rules(),
            ("async_then_serial", "cpu_bound", "warning", "use_process_pool", False),
        ),
        # beside the GIL all four are ready to run, and the host has one core and a half for them
        (
            but(worker_cores=1.1, worker_cpu_share=0.28, workers_ready=2.8, process=ONE_CORE_BUSY),
            Rules(),
            ("async_then_serial", "cpu_bound", "info", "none", False),
        ),
        # those that wait for something else are ready now and then, too
        (
            but(worker_cores=0.1, worker_cpu_share=0.03, workers_ready=0.9, process=IDLE_HOST),
            Rules(),
            ("async_then_serial", "blocking_io", "warning", "raise_max_workers", True),
        ),
        # the process computes, but not in this pool's workers
        (
            but(process=ONE_CORE_BUSY),
            Rules(),
            ("async_then_serial", "blocking_io", "warning", "raise_max_workers", True),
        ),
        # nothing known about the CPU: no guess
        (
            but(worker_cores=None, worker_cpu_share=None, process=UNKNOWN_HOST),
            Rules(),
            ("async_then_serial", "unknown", "warning", "none", False),
        ),
        # nothing finishes any more
        (
            but(seconds_since_finish=11.0, window_seconds=12.0, stretch_seconds=12.0),
            Rules(),
            ("stalled", "stuck_tasks", "critical", "add_timeout", False),
        ),
        (
            but(
                seconds_since_finish=11.0,
                window_seconds=12.0,
                stretch_seconds=12.0,
                finished=100,
                longest_run_seconds=3.0,
            ),
            Rules(),
            ("async_then_serial", "blocking_io", "warning", "raise_max_workers", True),
        ),
        (
            but(seconds_since_finish=11.0, window_seconds=12.0, stretch_seconds=12.0, finished=100),
            Rules(long_running=True),
            ("async_then_serial", "blocking_io", "warning", "raise_max_workers", True),
        ),
        # quiet since long before the pool filled: that is no stall of this stretch
        (
            but(seconds_since_finish=60.0, window_seconds=2.0),
            Rules(),
            ("async_then_serial", "blocking_io", "warning", "raise_max_workers", True),
        ),
        (
            WAITING,
            Rules(thresholds=Thresholds(sustain_seconds=3.0)),
            ("burst", "blocking_io", "info", "raise_max_workers", True),
        ),
        (
            WAITING,
            Rules(thresholds=Thresholds(min_amplification=5.0)),
            ("burst", "blocking_io", "info", "raise_max_workers", True),
        ),
        (
            but(seconds_since_finish=11.0, window_seconds=12.0, stretch_seconds=12.0),
            Rules(thresholds=Thresholds(stall_seconds=12.0)),
            ("serial", "blocking_io", "warning", "raise_max_workers", True),
        ),
        (
            but(held=(HeldWorker(2, 1, 31.0, 50.0), HeldWorker(1, 1, 31.0, 9.0))),
            Rules(thresholds=Thresholds(stuck_task_seconds=32.0)),
            ("async_then_serial", "blocking_io", "warning", "raise_max_workers", True),
        ),
    ],
)
def test_pools(signals: PoolSignals, rules: Rules, expected: tuple[str, str, str, str, bool]) -> None:
    found = diagnose(signals, rules)
    assert (found.pattern, found.cause, found.severity, found.action, found.sized) == expected


def test_the_formulas_of_the_contract() -> None:
    assert WAITING.amplification == pytest.approx((1.0 + 0.4) / 0.4)
    assert WAITING.coupling == 1.0
    assert WAITING.throughput == 10.0
    assert WAITING.effective_parallelism == pytest.approx(10.0 * 0.4)
    assert but(alone_p50_seconds=None).effective_parallelism is None
    assert but(starts=0, coupled_starts=0).coupling is None


@pytest.mark.parametrize(
    ("cause", "blocked", "longest", "loop", "final", "expected"),
    [
        ("blocking_call", 2.0, 2.0, 100.0, False, ("warning", "await_instead")),
        ("blocking_call", 0.2, 0.2, 100.0, False, ("info", "await_instead")),
        ("blocking_call", 2.5, 0.2, 100.0, False, ("warning", "await_instead")),
        ("blocking_call", 0.2, 0.2, 1.0, False, ("info", "await_instead")),  # start-up is no service's fault
        ("blocking_call", 0.2, 0.2, 1.0, True, ("warning", "await_instead")),
        ("cpu_bound", 2.0, 2.0, 100.0, False, ("warning", "use_process_pool")),
        ("gil_contention", 2.0, 2.0, 100.0, False, ("warning", "use_process_pool")),
        ("gc", 50.0, 2.0, 100.0, True, ("info", "none")),
        ("host_descheduled", 50.0, 20.0, 100.0, True, ("info", "none")),
        ("unknown", 2.0, 2.0, 100.0, True, ("warning", "none")),
    ],
)
def test_loops(cause: str, blocked: float, longest: float, loop: float, final: bool, expected: tuple[str, str]) -> None:
    found = diagnose_loop(LoopLineSignals(cause, 3, blocked, longest, loop), final=final)
    assert (found.pattern, found.cause) == ("loop_blocked", cause)
    assert (found.severity, found.action) == expected


def test_a_loop_that_loads_its_application() -> None:
    found = diagnose_loop(LoopLineSignals("cpu_bound", 1, 2.0, 2.0, 3.0, startup=True), final=True)
    assert (found.severity, found.cause, found.action) == ("info", "cpu_bound", "none")

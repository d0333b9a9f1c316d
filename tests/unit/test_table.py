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

from poolscope.model import PATTERNS, Thresholds
from poolscope.rules import called_not_passed, table
from poolscope.rules.loop_blocked import LoopBlocked
from poolscope.rules.loop_full import LoopFull
from poolscope.rules.reason import Criteria, Scene
from poolscope.rules.table import diagnose
from poolscope.signals.batch import Batch
from poolscope.signals.contention import Hogs
from poolscope.signals.held import HeldWorker, Standing
from poolscope.signals.loop_signals import LoopLineSignals
from poolscope.signals.pool_signals import PoolSignals, ProcessSignals
from poolscope.signals.sizing import Sizing

#: No more tasks than workers are queued, which random arrivals do not do.
FEW_QUEUED = msgspec.structs.replace(WAITING.crowd, queue=4, nats=20.0)
#: All of it came as the stretch began.
MAP = Batch(100, 95)


def without_gil(process: ProcessSignals, allowed: float = 4.0) -> ProcessSignals:
    return msgspec.structs.replace(process, gil=False, cores_allowed=allowed)


@pytest.mark.parametrize(
    ("signals", "criteria", "expected"),
    [
        (WAITING, Criteria(), ("async_then_serial", "blocking_io", "warning", "raise_max_workers", True)),
        (but(stretch_seconds=0.9), Criteria(), ("burst", "blocking_io", "info", "raise_max_workers", True)),
        (but(wait_p50_seconds=0.3), Criteria(), ("burst", "blocking_io", "info", "raise_max_workers", True)),
        (
            but(wait_p50_seconds=None, run_p50_seconds=None),
            Criteria(),
            ("burst", "blocking_io", "info", "raise_max_workers", True),
        ),
        # long waits, but no more than random arrivals bring at a healthy load
        (
            but(crowd=BY_CHANCE, queue_depth=10),
            Criteria(),
            ("burst", "blocking_io", "info", "raise_max_workers", True),
        ),
        # one worker
        (but(max_workers=1), Criteria(), ("serial", "single_worker", "warning", "raise_max_workers", True)),
        (
            but(max_workers=1),
            Criteria(ordered=True),
            ("burst", "single_worker", "info", "raise_max_workers", True),
        ),
        (
            but(max_workers=1, worker_cores=0.98, worker_cpu_share=0.98, process=ONE_CORE_BUSY),
            Criteria(),
            ("serial", "single_worker", "warning", "use_process_pool", False),
        ),
        # four workers get one worker's work done, as runs have grown with their number
        (
            but(finished=5, run_p50_seconds=1.6, run_mean_seconds=1.6, wait_p50_seconds=4.0, growing=True),
            Criteria(),
            ("serial", "shared_resource", "warning", "relieve_shared_resource", False),
        ),
        # they have grown, and it is not known with what, or known that it is not with their number
        (
            but(finished=5, run_p50_seconds=1.6, run_mean_seconds=1.6, wait_p50_seconds=4.0),
            Criteria(),
            ("serial", "unknown", "warning", "none", False),
        ),
        (
            but(finished=5, run_p50_seconds=1.6, run_mean_seconds=1.6, wait_p50_seconds=4.0, growing=False),
            Criteria(),
            ("async_then_serial", "blocking_io", "warning", "raise_max_workers", True),
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
            Criteria(),
            ("async_then_serial", "blocking_io", "warning", "raise_max_workers", True),
        ),
        # eight workers behind one lock: the few that are lucky run as if alone, all together get one worker's work done
        (
            but(max_workers=8, finished=10, run_mean_seconds=1.6),
            Criteria(),
            ("async_then_serial", "unknown", "warning", "none", False),
        ),
        (
            but(max_workers=8, finished=10, run_mean_seconds=1.6, contention=LOCK),
            Criteria(),
            ("async_then_serial", "shared_resource", "warning", "relieve_shared_resource", False),
        ),
        # nothing is known of runs without a crowd: the lines decide
        (
            but(alone_p50_seconds=None, alone_mean_seconds=None, contention=LOCK),
            Criteria(),
            ("serial", "shared_resource", "warning", "relieve_shared_resource", False),
        ),
        # the resource goes to the same few, whose runs are short, and the others starve
        (
            but(contention=LOCK),
            Criteria(),
            ("async_then_serial", "shared_resource", "warning", "relieve_shared_resource", False),
        ),
        # they stand before a full queue most of the time, or only now and then
        (
            but(held_up=FULL_QUEUE),
            Criteria(),
            ("async_then_serial", "shared_resource", "warning", "relieve_shared_resource", False),
        ),
        (
            but(held_up=msgspec.structs.replace(FULL_QUEUE, share=0.4)),
            Criteria(),
            ("async_then_serial", "blocking_io", "warning", "raise_max_workers", True),
        ),
        # the child processes that they wait for use up the machine, or somebody else's do
        (
            but(children_share=0.9, process=CHILDREN_BUSY),
            Criteria(),
            ("async_then_serial", "cpu_bound", "info", "none", False),
        ),
        (
            but(children_share=0.4, process=CHILDREN_BUSY),
            Criteria(),
            ("async_then_serial", "blocking_io", "warning", "raise_max_workers", True),
        ),
        (
            but(max_workers=1, children_share=0.9, process=CHILDREN_BUSY),
            Criteria(),
            ("serial", "single_worker", "warning", "raise_max_workers", True),
        ),
        # few tasks that take beyond all measure hold the workers: more workers may go the same way
        (
            but(overlong_share=0.8),
            Criteria(),
            ("async_then_serial", "unknown", "warning", "none", False),
        ),
        (
            but(suspected=True),
            Criteria(),
            ("async_then_serial", "unknown", "warning", "none", False),
        ),
        # few long tasks before many short ones
        (
            but(hogs=Hogs((1,), 0.9, 0.1, 1e9, 1e8)),
            Criteria(),
            ("async_then_serial", "slow_tasks", "warning", "split_pool", False),
        ),
        (
            but(hogs=Hogs((1,), 0.9, 0.1, 1e9, 4e8)),
            Criteria(),
            ("async_then_serial", "blocking_io", "warning", "raise_max_workers", True),
        ),
        # a batch: what came in the first tenth of the stretch is worked off, and that is all
        (but(batch=MAP), Criteria(), ("batch", "blocking_io", "info", "none", False)),
        (
            but(batch=MAP, hogs=Hogs((1,), 0.9, 0.1, 1e9, 1e8)),
            Criteria(),
            ("batch", "slow_tasks", "info", "none", False),
        ),
        (
            but(batch=MAP, worker_cores=3.8, worker_cpu_share=0.96, process=ALL_CORES_BUSY),
            Criteria(),
            ("batch", "cpu_bound", "info", "none", False),
        ),
        # a tenth and more of it came later, or there is hardly anything in it
        (
            but(batch=Batch(100, 89)),
            Criteria(),
            ("async_then_serial", "blocking_io", "warning", "raise_max_workers", True),
        ),
        (
            but(batch=Batch(3, 3)),
            Criteria(),
            ("async_then_serial", "blocking_io", "warning", "raise_max_workers", True),
        ),
        # its tasks hardly wait, or it is short, or it has one worker
        (but(batch=MAP, wait_p50_seconds=0.3), Criteria(), ("burst", "blocking_io", "info", "raise_max_workers", True)),
        (but(batch=MAP, stretch_seconds=0.9), Criteria(), ("burst", "blocking_io", "info", "raise_max_workers", True)),
        (
            but(batch=MAP, max_workers=1),
            Criteria(),
            ("serial", "single_worker", "warning", "raise_max_workers", True),
        ),
        # the workers do not get their worth of work done
        (
            but(batch=MAP, contention=LOCK),
            Criteria(),
            ("async_then_serial", "shared_resource", "warning", "relieve_shared_resource", False),
        ),
        (
            but(batch=MAP, suspected=True),
            Criteria(),
            ("async_then_serial", "unknown", "warning", "none", False),
        ),
        (
            but(batch=MAP, worker_cores=0.97, worker_cpu_share=0.25, process=ONE_CORE_BUSY),
            Criteria(),
            ("async_then_serial", "cpu_bound", "warning", "use_process_pool", False),
        ),
        (
            # what the tasks wait for has become slower: how much gets done is not known
            but(batch=MAP, finished=5, run_p50_seconds=1.6, wait_p50_seconds=4.0, growing=False),
            Criteria(),
            ("batch", "blocking_io", "info", "none", False),
        ),
        # a task for each worker is kept ready, and never more: a prefetch
        (
            but(functions=1, crowd=FEW_QUEUED),
            Criteria(),
            ("burst", "blocking_io", "info", "raise_max_workers", True),
        ),
        (
            but(functions=2, crowd=FEW_QUEUED),
            Criteria(),
            ("async_then_serial", "blocking_io", "warning", "raise_max_workers", True),
        ),
        (
            but(functions=1, crowd=msgspec.structs.replace(FEW_QUEUED, queue=5)),
            Criteria(),
            ("async_then_serial", "blocking_io", "warning", "raise_max_workers", True),
        ),
        # workers that do not come back
        (
            but(held=(HeldWorker(2, 1, 31.0, 50.0), HeldWorker(1, 1, 31.0, 9.0))),
            Criteria(),
            ("stuck_workers", "stuck_tasks", "warning", "add_timeout", False),
        ),
        (
            but(held=(HeldWorker(2, 1, 31.0, 50.0),)),
            Criteria(long_running=True),
            ("async_then_serial", "blocking_io", "warning", "raise_max_workers", True),
        ),
        (
            but(held=(HeldWorker(2, 1, 29.0, 50.0),)),
            Criteria(),
            ("async_then_serial", "blocking_io", "warning", "raise_max_workers", True),
        ),
        # they never came back from that function: there is nothing to compare with
        (
            but(held=(HeldWorker(2, 1, 31.0, None),)),
            Criteria(),
            ("async_then_serial", "blocking_io", "warning", "raise_max_workers", True),
        ),
        # nothing waits for them any more
        (
            but(held=(HeldWorker(2, 1, 31.0, 50.0, given_up=True), HeldWorker(1, 1, 31.0, 9.0))),
            Criteria(),
            ("stuck_workers", "abandoned_calls", "warning", "add_timeout", False),
        ),
        (
            but(given_up_share=0.6),
            Criteria(),
            ("async_then_serial", "abandoned_calls", "warning", "add_timeout", False),
        ),
        (
            but(given_up_share=0.5),
            Criteria(),
            ("async_then_serial", "blocking_io", "warning", "raise_max_workers", True),
        ),
        # what they run is no work to compare a wait with
        (
            but(given_up_share=0.6, wait_p50_seconds=0.3),
            Criteria(),
            ("async_then_serial", "abandoned_calls", "warning", "add_timeout", False),
        ),
        (
            but(given_up_share=0.6, wait_p50_seconds=0.05),
            Criteria(),
            ("burst", "abandoned_calls", "info", "add_timeout", False),
        ),
        # they take far longer than before
        (
            but(given_up_share=0.6, finished=5, run_p50_seconds=1.6, run_mean_seconds=1.6, wait_p50_seconds=1.0),
            Criteria(),
            ("async_then_serial", "abandoned_calls", "warning", "add_timeout", False),
        ),
        # tasks that stay hold half of the workers, or fewer, which leaves enough
        (
            but(held=(HeldWorker(1, 1, 5.0, None, stays=True), HeldWorker(2, 1, 5.0, None, stays=True))),
            Criteria(),
            ("async_then_serial", "long_lived", "warning", "own_threads", False),
        ),
        (
            but(held=(HeldWorker(1, 1, 5.0, None, stays=True), HeldWorker(2, 1, 5.0, None))),
            Criteria(),
            ("async_then_serial", "blocking_io", "warning", "raise_max_workers", True),
        ),
        # its processes are replaced most of the time, or less, or it is not told when they start
        (
            but(replacing_share=0.5),
            Criteria(),
            ("async_then_serial", "worker_start", "warning", "keep_workers", False),
        ),
        (
            but(replacing_share=0.49),
            Criteria(),
            ("async_then_serial", "blocking_io", "warning", "raise_max_workers", True),
        ),
        # no worker is left, for long, or only since the pool was ended by force; or before any task
        (
            but(gone_seconds=9.0, window_seconds=12.0, seconds_since_finish=11.0, longest_run_seconds=3.0),
            Criteria(),
            ("serial", "blocking_io", "warning", "raise_max_workers", True),
        ),
        (
            but(gone_seconds=10.0, window_seconds=12.0, seconds_since_finish=11.0, longest_run_seconds=3.0),
            Criteria(),
            ("stalled", "workers_gone", "critical", "restart_pool", False),
        ),
        (
            but(gone_seconds=10.0, window_seconds=12.0, seconds_since_finish=None, longest_run_seconds=None),
            Criteria(),
            ("stalled", "workers_gone", "critical", "restart_pool", False),
        ),
        # nothing ever finished: by where all workers stand
        (
            but(window_seconds=12.0, seconds_since_finish=None, longest_run_seconds=None, standing=Standing(10.0)),
            Criteria(),
            ("stalled", "stuck_tasks", "critical", "add_timeout", False),
        ),
        (
            but(window_seconds=12.0, seconds_since_finish=None, longest_run_seconds=None, standing=Standing(9.0)),
            Criteria(),
            ("serial", "blocking_io", "warning", "raise_max_workers", True),
        ),
        # all are held on purpose, and the others wait
        (
            but(
                window_seconds=12.0,
                seconds_since_finish=11.0,
                held=tuple(HeldWorker(worker, 1, 12.0, None, stays=True) for worker in range(1, 5)),
            ),
            Criteria(),
            ("stalled", "long_lived", "critical", "own_threads", False),
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
            Criteria(),
            ("serial", "cpu_bound", "warning", "use_process_pool", False),
        ),
        (
            but(worker_cores=0.97, worker_cpu_share=0.25, process=ONE_CORE_BUSY),
            Criteria(),
            ("async_then_serial", "cpu_bound", "warning", "use_process_pool", False),
        ),
        # computing beside the GIL on every core that is allowed: the machine is the limit
        (
            but(worker_cores=3.8, worker_cpu_share=0.96, process=ALL_CORES_BUSY),
            Criteria(),
            ("async_then_serial", "cpu_bound", "info", "none", False),
        ),
        # computing beside the GIL, cores to spare: neither waiting nor at the limit
        (
            but(
                worker_cores=2.0,
                worker_cpu_share=0.9,
                process=msgspec.structs.replace(IDLE_HOST, cores_used=2.1),
            ),
            Criteria(),
            ("async_then_serial", "unknown", "warning", "none", False),
        ),
        # on a host that is busy with something else they get half a core of the one that they want
        (
            but(worker_cores=0.5, worker_cpu_share=0.13, workers_ready=0.45, process=HALF_A_CORE),
            Criteria(),
            ("async_then_serial", "cpu_bound", "warning", "use_process_pool", False),
        ),
        # without a GIL one core is no limit, and more workers use more of them
        (
            but(worker_cores=0.97, worker_cpu_share=0.25, process=without_gil(ONE_CORE_BUSY)),
            Criteria(),
            ("async_then_serial", "blocking_io", "warning", "raise_max_workers", True),
        ),
        (
            but(worker_cores=3.8, worker_cpu_share=0.96, process=without_gil(ALL_CORES_BUSY)),
            Criteria(),
            ("async_then_serial", "cpu_bound", "info", "none", False),
        ),
        # eight that want half a core each, of which other programs take most: processes would get no more
        (
            but(
                max_workers=8,
                worker_cores=1.0,
                worker_cpu_share=0.13,
                workers_ready=3.0,
                process=without_gil(ONE_CORE_BUSY),
            ),
            Criteria(),
            ("async_then_serial", "cpu_bound", "info", "none", False),
        ),
        # one worker that computes, of one core and of four
        (
            but(max_workers=1, worker_cores=0.97, worker_cpu_share=0.97, process=without_gil(ONE_CORE_BUSY, 1.0)),
            Criteria(),
            ("serial", "cpu_bound", "info", "none", False),
        ),
        (
            but(max_workers=1, worker_cores=0.97, worker_cpu_share=0.97, process=without_gil(ONE_CORE_BUSY)),
            Criteria(),
            ("serial", "single_worker", "warning", "raise_max_workers", True),
        ),
        # beside the GIL all four are ready to run, and the host has one core and a half for them
        (
            but(worker_cores=1.1, worker_cpu_share=0.28, workers_ready=2.8, process=ONE_CORE_BUSY),
            Criteria(),
            ("async_then_serial", "cpu_bound", "info", "none", False),
        ),
        # those that wait for something else are ready now and then, too
        (
            but(worker_cores=0.1, worker_cpu_share=0.03, workers_ready=0.9, process=IDLE_HOST),
            Criteria(),
            ("async_then_serial", "blocking_io", "warning", "raise_max_workers", True),
        ),
        # the process computes, but not in this pool's workers
        (
            but(process=ONE_CORE_BUSY),
            Criteria(),
            ("async_then_serial", "blocking_io", "warning", "raise_max_workers", True),
        ),
        # nothing known about the CPU: no guess
        (
            but(worker_cores=None, worker_cpu_share=None, process=UNKNOWN_HOST),
            Criteria(),
            ("async_then_serial", "unknown", "warning", "none", False),
        ),
        # nothing finishes any more
        (
            but(seconds_since_finish=11.0, window_seconds=12.0, stretch_seconds=12.0),
            Criteria(),
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
            Criteria(),
            ("async_then_serial", "blocking_io", "warning", "raise_max_workers", True),
        ),
        (
            but(seconds_since_finish=11.0, window_seconds=12.0, stretch_seconds=12.0, finished=100),
            Criteria(long_running=True),
            ("async_then_serial", "blocking_io", "warning", "raise_max_workers", True),
        ),
        # quiet since long before the pool filled: that is no stall of this stretch
        (
            but(seconds_since_finish=60.0, window_seconds=2.0),
            Criteria(),
            ("async_then_serial", "blocking_io", "warning", "raise_max_workers", True),
        ),
        (
            WAITING,
            Criteria(thresholds=Thresholds(sustain_seconds=3.0)),
            ("burst", "blocking_io", "info", "raise_max_workers", True),
        ),
        (
            WAITING,
            Criteria(thresholds=Thresholds(min_amplification=5.0)),
            ("burst", "blocking_io", "info", "raise_max_workers", True),
        ),
        (
            but(seconds_since_finish=11.0, window_seconds=12.0, stretch_seconds=12.0),
            Criteria(thresholds=Thresholds(stall_seconds=12.0)),
            ("serial", "blocking_io", "warning", "raise_max_workers", True),
        ),
        (
            but(held=(HeldWorker(2, 1, 31.0, 50.0), HeldWorker(1, 1, 31.0, 9.0))),
            Criteria(thresholds=Thresholds(stuck_task_seconds=32.0)),
            ("async_then_serial", "blocking_io", "warning", "raise_max_workers", True),
        ),
    ],
)
def test_pools(signals: PoolSignals, criteria: Criteria, expected: tuple[str, str, str, str, bool]) -> None:
    found = diagnose(signals, criteria)
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
    found = LoopBlocked.match(LoopLineSignals(cause, 3, blocked, longest, loop), final=final)
    assert (found.pattern, found.cause) == ("loop_blocked", cause)
    assert (found.severity, found.action) == expected


def test_a_loop_that_loads_its_application() -> None:
    found = LoopBlocked.match(LoopLineSignals("cpu_bound", 1, 2.0, 2.0, 3.0, startup=True), final=True)
    assert (found.severity, found.cause, found.action) == ("info", "cpu_bound", "none")


def test_the_tables_have_each_name_of_the_contract_once() -> None:
    of_stretches = [rule.name for rule in table.PATTERNS]
    of_stretches.insert(of_stretches.index("burst"), called_not_passed.PATTERN)  # which is no matter of being full
    assert (*of_stretches, LoopBlocked.name, LoopFull.name) == PATTERNS
    causes = [rule.name for rule in table.CAUSES]
    assert len(set(causes)) == len(causes)
    assert {pattern for rule in table.CAUSES for pattern in rule.patterns} <= set(PATTERNS)


def test_the_causes_that_more_workers_do_not_help_against() -> None:
    assert {
        "nested_wait",
        "workers_gone",
        "leaked",
        "long_lived",
        "abandoned_calls",
        "stuck_tasks",
        "worker_start",
        "held_across_wait",
        "downstream_pool",
        "results_not_taken",
        "transfer",
        "cpu_bound",
        "shared_resource",
        "slow_tasks",
    } == table.NOT_SIZE


def test_the_one_thread_of_asgiref_has_no_size_to_set() -> None:
    found = diagnose(but(max_workers=1), Criteria())
    scene = Scene(pool="asgiref.sync_to_async", kind="asgiref", since_seconds=1.0, sizing=Sizing(2))
    advice = found.advice(scene)
    assert advice.text.startswith("Let 2 calls of 'asgiref.sync_to_async' run at a time (now 1)")
    assert "thread_sensitive=False" in advice.text
    assert "max_workers" not in advice.text

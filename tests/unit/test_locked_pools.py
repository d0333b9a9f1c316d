"""Pools whose tasks queue at a lock within their runs, in virtual time: told though each of them runs long."""

from heapq import heappop, heappush
from typing import NamedTuple

import pytest
from pool_support import ORIGIN, SECOND, TICK, VirtualPool, batches, poisson

from poolscope.messages import Stack, StackSample
from poolscope.model import Finding


class Locked(NamedTuple):
    """A task by (worker, function, submitted, started, ended), and from when to when it has the lock."""

    task: tuple[int, int, int, int, int]
    taken: int
    given: int


def locked(times: list[float], workers: int, *, before: float, held: float, after: float = 0.0) -> list[Locked]:
    """First come, first served, in the pool and at the lock (which all reach in the order of their starts)."""
    free = [(0, worker) for worker in range(1, workers + 1)]
    lock_free, done = 0, []
    for time in sorted(times):
        submitted = ORIGIN + round(time * SECOND)
        when, worker = heappop(free)
        started = max(submitted, when)
        taken = max(started + round(before * SECOND), lock_free)
        given = lock_free = taken + round(held * SECOND)
        ended = given + round(after * SECOND)
        heappush(free, (ended, worker))
        done.append(Locked((worker, 1, submitted, started, ended), taken, given))
    return done


def judged(tasks: list[Locked], workers: int, *, before: float) -> list[Finding]:
    pool = VirtualPool(workers)
    for batch in batches([each.task for each in tasks], workers):
        pool.history.fold(batch)
        pool.history.settle(batch.at_ns - 2 * TICK)
        now = batch.at_ns
        running = [each for each in tasks if each.task[3] <= now < each.task[4]]
        if len(running) == workers:
            at_lock = [each.task for each in running if each.task[3] + before * SECOND <= now < each.taken]
            inside = [each.task for each in running if each.taken <= now < each.given]
            elsewhere = [each.task for each in running if each.task not in at_lock and each.task not in inside]
            stacks = [
                Stack(
                    [("/app/hooks.py", line, "push")],
                    0,
                    [n for w, f, _, start, _ in there for n in (w, f, start)],
                    gate,
                )
                for line, there, gate in ((8, at_lock, "lock"), (9, inside, ""), (12, elsewhere, ""))
                if there
            ]
            pool.history.sample(StackSample(1, now, stacks))
        pool._note(now, pool.case.judge(now))
    pool._note(batch.at_ns, pool.case.finish(batch.at_ns))
    return [finding for finding in pool.case.findings() if finding.severity != "info"]


def test_forty_workers_at_one_lock() -> None:
    """Calls come back from devices that were offline: each runs for six seconds, and waits for less."""
    times = [1 + number * 0.26 for number in range(25)] + [8 + number * 0.02 for number in range(70)]
    (finding,) = judged(locked(times, 40, before=0, held=0.15), 40, before=0)
    assert (finding.pattern, finding.cause) == ("serial", "shared_resource")
    assert finding.advice.action == "relieve_shared_resource"
    assert finding.advice.suggested_max_workers is None
    assert finding.frames[0].line == 8
    assert finding.detected_after_seconds < 3
    assert finding.until_seconds is not None
    assert finding.until_seconds > 12
    numbers = finding.evidence
    assert numbers["run_p50_seconds"] > 1
    # Of the runs, what is no wait at the lock; never below a tenth.
    assert numbers["working_run_seconds"] == pytest.approx(numbers["run_p50_seconds"] / 10)
    assert numbers["amplification"] > 10


def test_eight_workers_at_the_lock_of_a_log() -> None:
    """Nobody saw a task alone: what they do beside the lock is work too."""
    tasks = locked([0.0] * 240, 8, before=0.06, held=0.04)
    (finding,) = judged(tasks, 8, before=0.06)
    assert finding.cause == "shared_resource"
    assert finding.evidence["effective_parallelism"] == pytest.approx(2.5, rel=0.15)
    assert finding.pattern == "async_then_serial"
    assert finding.evidence["working_run_seconds"] == pytest.approx(0.1, rel=0.15)


@pytest.mark.parametrize("seed", range(4))
def test_a_lock_for_moments_is_no_matter(seed: int) -> None:
    times = list(poisson(0.6 * 8 / 0.1, 12.0, seed))
    assert judged(locked(times, 8, before=0.05, held=0.0005, after=0.05), 8, before=0.05) == []


def test_an_overload_whose_tasks_hold_a_lock_for_moments_is_one_of_the_size() -> None:
    times = [*poisson(0.4 * 8 / 0.1, 4.0, 1), *poisson(2 * 8 / 0.1, 4.0, 2, 4.0)]
    (finding,) = judged(locked(times, 8, before=0.05, held=0.0005, after=0.05), 8, before=0.05)
    assert (finding.pattern, finding.cause) == ("async_then_serial", "blocking_io")
    assert finding.advice.suggested_max_workers is not None

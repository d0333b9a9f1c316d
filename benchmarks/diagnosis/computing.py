"""Programs whose workers compute: under the GIL, beside it, and in processes."""

import hashlib
import os
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context

from benchmarks.diagnosis.recording import Expected, arrivals, family
from benchmarks.diagnosis.waiting import phases

BLOCK = bytes(1 << 20)
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def compute(task, seconds):
    """Uses `seconds` of CPU time in Python code, under the GIL."""
    with task:
        end = time.thread_time() + seconds
        while time.thread_time() < end:
            sum(range(500))  # <- compute
    return task


def digest(task, blocks):
    """Hashes that many megabytes without the GIL."""
    with task:
        found = hashlib.sha256()
        for _ in range(blocks):
            found.update(BLOCK)  # <- digest
    return task


def _blocks(seconds):
    """How many blocks keep one core busy for so long here."""
    begin = time.perf_counter()
    for _ in range(8):
        hashlib.sha256(BLOCK)
    return max(1, round(8 * seconds / (time.perf_counter() - begin)))


@family(
    # A machine of one core is used up by it.
    Expected("pool", "saturated", "cpu_bound", line="compute", action="use_process_pool", info=CORES == 1),
    alone=True,
)
def cpu_under_the_gil(recording):
    rng = recording.random
    workers, run = rng.choice((4, 6, 8)), rng.uniform(0.02, 0.05)
    pool = recording.pool(ThreadPoolExecutor(workers, "pool"))
    plan = [(3.0, rng.uniform(0.2, 0.4) / run), (2.5, rng.uniform(1.8, 2.4) / run)]
    pool.play([(at, compute, run) for at in arrivals(rng, plan)])


@family(
    # Nobody saw how long a task takes alone: as much gets done as one core does.
    Expected("pool", "saturated", "cpu_bound", line="compute", action="use_process_pool", limit=1, info=CORES == 1),
    alone=True,
)
def cpu_under_the_gil_at_once(recording):
    rng = recording.random
    workers, run = rng.choice((4, 6, 8)), rng.uniform(0.02, 0.05)
    pool = recording.pool(ThreadPoolExecutor(workers, "pool"))
    pool.map(compute, [run] * int(rng.uniform(4, 6) / run))


@family(Expected("pool", "saturated", "cpu_bound", line="digest", action="none", info=True), alone=True)
def cpu_beside_the_gil(recording):
    rng = recording.random
    run = rng.uniform(0.04, 0.08)
    blocks = _blocks(run)
    pool = recording.pool(ThreadPoolExecutor(CORES * rng.choice((1, 2)), "pool"))
    plan = phases(rng, CORES / run, over=(1.8, 2.2))
    pool.play([(at, digest, blocks) for at in arrivals(rng, plan)])


NAME = "benchmarks.diagnosis.computing:cpu_in_processes.executor"


@family(Expected(NAME, "saturated", "cpu_bound", action="none", info=True), alone=True)
def cpu_in_processes(recording):
    rng = recording.random
    run = rng.uniform(0.04, 0.08)
    executor = ProcessPoolExecutor(CORES, get_context("forkserver"))
    list(executor.map(time.sleep, [0.2] * CORES))
    pool = recording.pool(executor, NAME)
    pool.play([(at, compute, run) for at in arrivals(rng, phases(rng, CORES / run, over=(1.8, 2.2)))])


@family(Expected("pool", "serial", "single_worker", line="compute", action="use_process_pool"), alone=True)
def one_worker_that_computes(recording):
    rng = recording.random
    run = rng.uniform(0.02, 0.06)
    pool = recording.pool(ThreadPoolExecutor(1, "pool"))
    pool.play([(at, compute, run) for at in arrivals(rng, phases(rng, 1 / run))])


@family(Expected(), alone=True)
def computing_in_time(recording):
    rng = recording.random
    workers, run = rng.choice((2, 4)), rng.uniform(0.01, 0.03)
    pool = recording.pool(ThreadPoolExecutor(workers, "pool"))
    pool.play([(at, compute, run) for at in arrivals(rng, [(8.0, rng.uniform(0.2, 0.4) / run)])])

"""Programs whose tasks queue within their runs, pools that are full without a queue, and their healthy twins."""

import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context

from benchmarks.diagnosis.computing import CORES, compute
from benchmarks.diagnosis.healthy import SECONDS, ask, fetch, size_and_run
from benchmarks.diagnosis.recording import Expected, arrivals, family
from benchmarks.diagnosis.waiting import connecting, locked, phases, polite, scarce

#: A pool without a name is called by where it was made.
NAME = "benchmarks.diagnosis.queueing:"


def rush(pool, times, *call):
    """Submits a call as many times as there are workers, and that again, so that the queue is never long."""
    for _ in range(int(times * pool.workers)):
        pool.submit(*call)
    for future in list(pool.futures):
        future.result()


@family(scarce("lock", 1))
def lock_behind_a_short_queue(recording):
    """Each task runs long, nearly all of that at the lock, and waits before for no longer than it runs."""
    rng = recording.random
    workers, held = rng.choice((12, 16, 24)), rng.uniform(0.06, 0.09)
    before = held * rng.uniform(0, 0.5)
    recording.working = before + held
    lock = threading.Lock()
    pool = recording.pool(ThreadPoolExecutor(workers, "pool"))
    pool.play([(at, locked, lock, before, held) for at in arrivals(rng, [(4.0, 0.4 / held)])])
    rush(pool, rng.uniform(3, 4), locked, lock, before, held)


@family(scarce("connection"))
def connections_behind_a_short_queue(recording):
    connecting(recording, lambda rng, full: [*arrivals(rng, [(4.0, 0.4 * full)]), *[4.0] * 45], working=True)


#: The lock that worker processes share, and how they get it.
SHARED = []


def in_turns(task, before, held):
    with task:
        time.sleep(before)
        with SHARED[0]:  # <- lock
            time.sleep(held)
    return task


def apart(task, before, held):
    with task:
        time.sleep(before + held)
    return task


def between_processes(recording, name, work):
    """All at once: an own wait, then the lock that is held for as long as three workers have one."""
    rng = recording.random
    held = rng.uniform(0.03, 0.06)
    context = get_context("fork")
    executor = ProcessPoolExecutor(4, context, initializer=SHARED.append, initargs=(context.Lock(),))
    list(executor.map(time.sleep, [0.1] * 4))
    pool = recording.pool(executor, name)
    for _ in range(int(6 / held)):
        pool.submit(work, held / 3, held)
    pool.close()


@family(
    Expected(
        NAME + "between_processes.executor", "serial", "shared_resource", line="lock",
        action="relieve_shared_resource",
    )
)  # fmt: skip
def lock_between_processes(recording):
    between_processes(recording, NAME + "between_processes.executor", in_turns)


@family(Expected(NAME + "between_processes.executor", "batch", "blocking_io", action="none", info=True))
def processes_that_share_no_lock(recording):
    between_processes(recording, NAME + "between_processes.executor", apart)


def brief(task, lock, seconds):
    with task:
        with lock:
            sum(range(200))
        time.sleep(seconds)  # <- fetch
        with lock:
            sum(range(200))
    return task


@family(Expected())
def locks_for_moments(recording):
    """Many tasks share a lock that each of them holds for some microseconds."""
    rng = recording.random
    workers, run = size_and_run(rng)
    lock = threading.Lock()
    pool = recording.pool(ThreadPoolExecutor(workers, "pool"))
    times = arrivals(rng, [(SECONDS, rng.uniform(0.3, 0.8) * workers / run)])
    pool.play((at, brief, lock, run) for at in times)


@family(Expected("pool", "saturated", "blocking_io", line="fetch", action="raise_max_workers", size="replay"))
def overload_with_locks_for_moments(recording):
    rng = recording.random
    workers, run = size_and_run(rng)
    lock = threading.Lock()
    pool = recording.pool(ThreadPoolExecutor(workers, "pool"))
    pool.play([(at, brief, lock, run) for at in arrivals(rng, phases(rng, workers / run))])


# -- full without a queue ---------------------------------------------------------------------------------------


def keep_full(recording, pool, seconds, *call):
    """As many tasks at a time as there are workers: what submits waits for one to end before it submits more."""
    room = threading.Semaphore(pool.workers)
    recording.moment("full")
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        room.acquire()
        pool.submit(*call).add_done_callback(lambda _: room.release())


def busy(cause, line, action, **more):
    return Expected("pool", "serial", cause, line=line, action=action, full=True, **more)


@family(busy("shared_resource", "host", "relieve_shared_resource"))
def full_at_a_lock(recording):
    rng = recording.random
    pool = recording.pool(ThreadPoolExecutor(rng.choice((4, 6, 8, 12)), "pool"))
    keep_full(recording, pool, SECONDS, polite, threading.Lock(), rng.uniform(0.03, 0.08))


@family(busy("cpu_bound", "compute", "use_process_pool", info=CORES == 1), alone=True)
def full_under_the_gil(recording):
    rng = recording.random
    pool = recording.pool(ThreadPoolExecutor(rng.choice((4, 6, 8)), "pool"))
    keep_full(recording, pool, SECONDS, compute, rng.uniform(0.02, 0.05))


@family(Expected())
def full_and_at_work(recording):
    rng = recording.random
    pool = recording.pool(ThreadPoolExecutor(rng.choice((2, 4, 8, 12)), "pool"))
    keep_full(recording, pool, SECONDS, fetch, rng.uniform(0.03, 0.3))


def staged(task, first, second):
    with task:
        time.sleep(first)
        time.sleep(second)
    return task


@family(Expected())
def full_in_two_stages(recording):
    rng = recording.random
    run = rng.uniform(0.05, 0.15)
    pool = recording.pool(ThreadPoolExecutor(rng.choice((4, 8, 12)), "pool"))
    keep_full(recording, pool, SECONDS, staged, run, run * rng.uniform(0.1, 0.5))


@family(Expected("front"), Expected("back"))
def full_of_waits_for_a_healthy_pool(recording):
    rng = recording.random
    workers, run = rng.choice((3, 4, 8)), rng.uniform(0.05, 0.1)
    front = recording.pool(ThreadPoolExecutor(workers, "front"), "front")
    back = recording.pool(ThreadPoolExecutor(2 * workers, "back"), "back")
    keep_full(recording, front, SECONDS, ask, back, run)
    front.close()


# -- two kinds of calls -----------------------------------------------------------------------------------------


@family(Expected())
def some_calls_run_into_a_timeout(recording):
    """Most calls come back at once, some take hundreds of times as long, and there is room for all of them."""
    rng = recording.random
    workers, short, long = rng.choice((8, 12, 16)), rng.uniform(0.003, 0.008), rng.uniform(0.4, 0.8)
    share = rng.uniform(0.1, 0.35)
    rate = rng.uniform(0.25, 0.45) * workers / (share * long + (1 - share) * short)
    pool = recording.pool(ThreadPoolExecutor(workers, "pool"))
    pool.play([(at, fetch, long if rng.random() < share else short) for at in arrivals(rng, [(SECONDS, rate)])])

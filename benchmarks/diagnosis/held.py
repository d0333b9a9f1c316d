"""Programs whose workers are held: by tasks that stay, by calls that nothing waits for, or by their own end; and
healthy ones that look like it."""

import queue
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from contextlib import suppress
from multiprocessing import get_context

from benchmarks.diagnosis.healthy import fetch
from benchmarks.diagnosis.recording import Expected, Pool, Threads, arrivals, family, in_threads

STALL = {"detection": {"stall_seconds": 2.0, "stuck_task_seconds": 2.0}}
SECONDS = 6.0


def stream(task, recording, stop, pause):
    with task:
        recording.moment("stuck")
        while not stop.is_set():
            stop.wait(pause)  # <- stream
    return task


def drain(task, recording, items):
    with task:
        recording.moment("stuck")
        while items.get() is not None:  # <- drain
            pass
    return task


def staying(recording, held, workers, task, *arguments):
    """Calm short calls, then so many tasks that stay, and short calls again."""
    rng = recording.random
    run = rng.uniform(0.02, 0.05)
    pool = recording.pool(ThreadPoolExecutor(workers, "pool"))
    calm = rng.uniform(0.1, 0.3) * max(1, workers - held) / run
    pool.play([(at, fetch, run) for at in arrivals(rng, [(2.0, calm)])])
    for _ in range(held):
        pool.submit(task, recording, *arguments)
    pool.play([(at, fetch, run) for at in arrivals(rng, [(SECONDS, calm)])])


FULL_OF_THEM = Expected("pool", "stalled", "long_lived", line="stream", action="own_threads")


@family(FULL_OF_THEM, settings=STALL)
def streams_fill_the_pool(recording):
    workers, stop = recording.random.choice((3, 4, 6)), threading.Event()
    staying(recording, workers, workers, stream, stop, recording.random.choice((0.2, 0.5, 30.0)))
    stop.set()


@family(Expected(), settings=STALL)
def streams_with_room(recording):
    """As many as above, and threads enough for the others."""
    streams, stop = recording.random.choice((2, 3, 4)), threading.Event()
    staying(recording, streams, 2 * streams + 2, stream, stop, recording.random.choice((0.2, 0.5, 30.0)))
    stop.set()


@family(Expected("pool", "stalled", "long_lived", line="drain", action="own_threads"), settings=STALL)
def consumers_fill_the_pool(recording):
    workers, items = recording.random.choice((3, 4, 6)), queue.Queue()
    staying(recording, workers, workers, drain, items)
    for _ in range(workers):
        items.put(None)


@family(Expected(), settings=STALL)
def consumers_idle_with_room(recording):
    consumers, items = recording.random.choice((2, 3, 4)), queue.Queue()
    staying(recording, consumers, 2 * consumers + 2, drain, items)
    for _ in range(consumers):
        items.put(None)


def slow(task, seconds):
    with task:
        time.sleep(seconds)  # <- slow call
    return task


def asked(recording, workers, clients, run, patience):
    """Clients that ask anew as soon as they have an answer, or none in time."""
    pool = recording.pool(ThreadPoolExecutor(workers, "pool"))
    # Too few to say how long a call takes alone: what they wait for becomes slower.
    pool.play([(at / 8, slow, 0.02) for at in range(15)])
    end = time.monotonic() + 8.0

    def client():
        while time.monotonic() < end:
            try:
                pool.submit(slow, run).result(patience)
            except TimeoutError:
                continue

    for thread in in_threads(clients, client):
        thread.join()
    for future in pool.futures:
        if not future.done():
            pool.cancel(future)


@family(Expected("pool", "saturated", "abandoned_calls", line="slow call", action="add_timeout"))
def calls_given_up(recording):
    rng = recording.random
    workers = rng.choice((2, 3, 4))
    asked(recording, workers, 5 * workers, rng.uniform(1.6, 2.4), rng.uniform(0.3, 0.6))


def checks(recording, workers, lost, patience):
    """Now and then three calls, one of which takes long (`lost`), and who asked for them waits for so long."""
    rng = recording.random
    pool = recording.pool(ThreadPoolExecutor(workers, "pool"))
    end, quick = time.monotonic() + 12.0, rng.uniform(0.01, 0.03)
    while time.monotonic() < end:
        asked = [pool.submit(slow, run) for run in (quick, quick, lost)]
        with suppress(TimeoutError):
            for future in as_completed(asked, patience):
                future.result()
        time.sleep(rng.uniform(0.2, 0.3))
    for future in pool.futures:
        if not future.done():
            pool.cancel(future)


@family(Expected("pool", "saturated", "abandoned_calls", line="slow call", action="add_timeout"))
def calls_left_by_as_completed(recording):
    rng = recording.random
    checks(recording, rng.choice((4, 5, 6)), rng.uniform(5.0, 7.0), rng.uniform(0.3, 0.5))


@family(Expected())
def calls_that_as_completed_waits_for(recording):
    rng = recording.random
    checks(recording, rng.choice((4, 5, 6)), rng.uniform(1.5, 2.5), 10.0)


@family(Expected())
def slow_calls_that_return(recording):
    rng = recording.random
    workers = rng.choice((6, 8))
    asked(recording, workers, workers - 2, rng.uniform(0.8, 1.2), 10.0)


def work(task, seconds):
    with task:
        time.sleep(seconds)
    return task


REPLACED = "benchmarks.diagnosis.held:workers_replaced_after_each_task.processes"


@family(Expected(REPLACED, "saturated", "worker_start", action="keep_workers"))
def workers_replaced_after_each_task(recording):
    """Each task has a worker process of its own, which takes longer to start than the task to run."""
    rng = recording.random
    workers = rng.choice((2, 3))
    processes = get_context("fork").Pool(workers, time.sleep, (rng.uniform(0.2, 0.4),), maxtasksperchild=1)
    pool = recording.pools[REPLACED] = Pool(Threads(processes), workers)
    for future in [pool.submit(work, rng.uniform(0.01, 0.05)) for _ in range(8 * workers)]:
        future.result()


SELDOM = "benchmarks.diagnosis.held:workers_replaced_now_and_then.processes"


@family(Expected(SELDOM))
def workers_replaced_now_and_then(recording):
    """The same, after many tasks and at a load that leaves time for it."""
    rng = recording.random
    workers, run = rng.choice((3, 4)), rng.uniform(0.03, 0.06)
    processes = get_context("fork").Pool(workers, maxtasksperchild=20)
    pool = recording.pools[SELDOM] = Pool(Threads(processes), workers)
    pool.play([(at, work, run) for at in arrivals(rng, [(SECONDS, 0.3 * workers / run)])])


@family(Expected("benchmarks.diagnosis.held:workers_that_start_once.executor"))
def workers_that_start_once(recording):
    """A pool is set up, which takes longer than a task, and then keeps up."""
    rng = recording.random
    workers, run = rng.choice((2, 3)), rng.uniform(0.02, 0.05)
    executor = ProcessPoolExecutor(workers, get_context("spawn"), time.sleep, (rng.uniform(0.5, 0.8),))
    pool = recording.pool(executor, "benchmarks.diagnosis.held:workers_that_start_once.executor")
    pool.play([(at, work, run) for at in arrivals(rng, [(SECONDS, 0.3 * workers / run)])])


LOCK = threading.Lock()


def guarded(task):
    with task, LOCK:  # <- inherited lock
        pass
    return task


@family(
    Expected(
        "benchmarks.diagnosis.held:forked_lock.executor",
        "stalled",
        "stuck_tasks",
        line="inherited lock",
        action="add_timeout",
    ),
    settings=STALL,
)
def forked_lock(recording):
    """A thread holds a lock while the workers are forked, in which nothing will release it."""
    workers = recording.random.choice((2, 3))
    released = threading.Event()

    def hold():
        with LOCK:
            released.wait()

    in_threads(1, hold)
    while not LOCK.locked():
        time.sleep(0.01)
    executor = ProcessPoolExecutor(workers, get_context("fork"))
    pool = recording.pool(executor, "benchmarks.diagnosis.held:forked_lock.executor")
    for _ in range(5 * workers):
        pool.submit(guarded)
    time.sleep(2.0)
    recording.moment("stuck")  # a worker process shows where it is once a call has lasted a second
    time.sleep(SECONDS)
    for task in pool.tasks:
        task.cancelled = time.monotonic_ns()
    for process in list(executor._processes.values()):
        process.terminate()
    released.set()

"""Programs that need no help: whatever is said of them above info is a false alarm."""

import queue
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context

from benchmarks.diagnosis.recording import THREADS, Expected, arrivals, family

SECONDS = 8.0


def fetch(task, seconds):
    with task:
        time.sleep(seconds)  # <- fetch
    return task


def export(task, seconds):
    with task:
        time.sleep(seconds)  # <- export
    return task


def size_and_run(rng):
    """Workers and mean run time, so that no more than some 250 tasks a second are needed to fill them."""
    workers = rng.choice((3, 4, 6, 8, 12))
    return workers, rng.uniform(max(0.03, workers / 250), 0.12)


def steady(recording, *, exponential=False, load=None):
    rng = recording.random
    workers, run = size_and_run(rng)
    load = load or rng.uniform(0.2, 0.8)
    pool = recording.pool(ThreadPoolExecutor(workers, "pool"))
    times = arrivals(rng, [(SECONDS, load * workers / run)])
    pool.play((at, fetch, rng.expovariate(1 / run) if exponential else run) for at in times)


@family(Expected())
def healthy_exponential(recording):
    steady(recording, exponential=True)


@family(Expected())
def healthy_fixed(recording):
    steady(recording)


@family(Expected(), burners=2)
def healthy_host_under_load(recording):
    steady(recording, load=recording.random.uniform(0.2, 0.6))


NAME = "benchmarks.diagnosis.healthy:healthy_processes.executor"


@family(Expected(NAME))
def healthy_processes(recording):
    rng = recording.random
    workers, run = rng.choice((2, 3, 4)), rng.uniform(0.04, 0.12)
    executor = ProcessPoolExecutor(workers, get_context("forkserver"))
    # Processes take long to start: what comes before that waits.
    list(executor.map(time.sleep, [0.2] * workers))
    pool = recording.pool(executor, NAME)
    pool.play((at, fetch, run) for at in arrivals(rng, [(SECONDS, rng.uniform(0.2, 0.6) * workers / run)]))


@family(Expected())
def healthy_mixed(recording):
    """Few long tasks beside many short ones, and room for both."""
    rng = recording.random
    workers, short, long = rng.choice((8, 12)), rng.uniform(0.01, 0.03), rng.uniform(0.3, 0.6)
    pool = recording.pool(ThreadPoolExecutor(workers, "pool"))
    load = [(at, fetch, short) for at in arrivals(rng, [(SECONDS, 0.1 * workers / short)])]
    load += [(at, export, long) for at in arrivals(rng, [(SECONDS, rng.uniform(0.1, 0.25) * workers / long)])]
    pool.play(sorted(load, key=lambda entry: entry[0]))


@family(Expected())
def bursts(recording):
    """More tasks than workers at once, now and then, and over in half a second."""
    rng = recording.random
    workers, run = size_and_run(rng)
    count = int(workers * max(2, rng.uniform(0.2, 0.5) / run))
    every = rng.uniform(1.0, 2.0)
    pool = recording.pool(ThreadPoolExecutor(workers, "pool"))
    pool.play((number * every, fetch, run) for number in range(int(SECONDS / every)) for _ in range(count))


@family(Expected())
def rounds(recording):
    """As many tasks as workers, at once, again and again: full, and nobody waits."""
    rng = recording.random
    workers, run = size_and_run(rng)
    every = run * rng.uniform(1.3, 3)
    pool = recording.pool(ThreadPoolExecutor(workers, "pool"))
    pool.play((number * every, fetch, run) for number in range(int(SECONDS / every)) for _ in range(workers))


@family(Expected())
def one_worker_in_time(recording):
    rng = recording.random
    run = rng.uniform(0.01, 0.05)
    pool = recording.pool(ThreadPoolExecutor(1, "pool"))
    pool.play((at, fetch, run) for at in arrivals(rng, [(SECONDS, rng.uniform(0.2, 0.5) / run)]))


def consume(task, items):
    with task:
        while (seconds := items.get()) is not None:  # <- consume
            time.sleep(seconds)


def consuming(recording, spare):
    """Consumers hold all workers but `spare`, on purpose."""
    rng = recording.random
    consumers, run = rng.choice((3, 4, 8)), rng.uniform(0.02, 0.1)
    items = queue.SimpleQueue()
    pool = recording.pool(ThreadPoolExecutor(consumers + spare, "pool"))
    for _ in range(consumers):
        pool.submit(consume, items)
    if spare:
        pool.play((at, fetch, run) for at in arrivals(rng, [(SECONDS, rng.uniform(0.2, 0.5) * spare / run)]))
    else:
        begin = time.monotonic()
        for at in arrivals(rng, [(SECONDS, rng.uniform(0.5, 1.5) * consumers / run)]):
            time.sleep(max(0.0, begin + at - time.monotonic()))
            items.put(run)
    for _ in range(consumers):
        items.put(None)


@family(Expected())
def consumers(recording):
    consuming(recording, 0)


@family(Expected())
def consumers_beside_tasks(recording):
    consuming(recording, 4)


@family(Expected(), settings={"pools": [{"match": "pool", "long_running": True}]})
def consumers_that_the_settings_know(recording):
    """They hold all workers, and what is submitted beside them waits, as is known and wanted."""
    rng = recording.random
    consumers, items = rng.choice((2, 3, 4)), queue.SimpleQueue()
    pool = recording.pool(ThreadPoolExecutor(consumers, "pool"))
    for _ in range(consumers + 1):
        pool.submit(consume, items)
    begin = time.monotonic()
    for at in arrivals(rng, [(SECONDS, consumers * 10)]):
        time.sleep(max(0.0, begin + at - time.monotonic()))
        items.put(0.02)
    for _ in range(consumers + 1):
        items.put(None)


@family(Expected(), settings={"pools": [{"match": "pool", "ordered": True}]})
def one_worker_that_is_wanted(recording):
    """Tasks that must run one after the other, and the settings say so."""
    rng = recording.random
    run = rng.uniform(0.02, 0.06)
    pool = recording.pool(ThreadPoolExecutor(1, "pool"))
    pool.play((at, fetch, run) for at in arrivals(rng, [(3.0, 0.4 / run), (2.0, 1.8 / run)]))


@family(Expected())
def load_that_rises(recording):
    """From hardly anything to as much as is healthy."""
    rng = recording.random
    workers, run = size_and_run(rng)
    pool = recording.pool(ThreadPoolExecutor(workers, "pool"))
    full = workers / run
    pool.play((at, fetch, run) for at in arrivals(rng, [(4.0, 0.15 * full), (6.0, rng.uniform(0.5, 0.7) * full)]))


@family(Expected(THREADS))
def healthy_multiprocessing_threads(recording):
    rng = recording.random
    workers, run = size_and_run(rng)
    pool = recording.threads(workers)
    pool.play((at, fetch, run) for at in arrivals(rng, [(SECONDS, rng.uniform(0.2, 0.7) * workers / run)]))


@family(Expected())
def cancelled_while_queued(recording):
    """The queue of a full pool holds tasks that were cancelled at once: nobody waits."""
    rng = recording.random
    workers, run = rng.choice((2, 4, 6)), rng.uniform(1.2, 2.0)
    pool = recording.pool(ThreadPoolExecutor(workers, "pool"))
    for _ in range(int(SECONDS / run)):
        held = [pool.submit(fetch, run) for _ in range(workers)]
        dropped = [pool.submit(fetch, run) for _ in range(rng.randint(20, 60))]
        for future in dropped:
            pool.cancel(future)
        for future in held:
            future.result()


def ask(task, pool, seconds):
    with task:
        pool.submit(fetch, seconds).result()  # <- ask
    return task


@family(Expected("front"), Expected("back"))
def nested_in_time(recording):
    """Workers wait for another pool that keeps up."""
    rng = recording.random
    workers, run = rng.choice((4, 8)), rng.uniform(0.03, 0.1)
    front = recording.pool(ThreadPoolExecutor(2 * workers, "front"), "front")
    back = recording.pool(ThreadPoolExecutor(workers, "back"), "back")
    times = arrivals(rng, [(SECONDS, rng.uniform(0.2, 0.5) * workers / run)])
    front.play((at, ask, back, run) for at in times)
    front.close()


@family(Expected())
def nested_in_one_pool_in_time(recording):
    """Workers wait for their own pool, which has enough of them."""
    rng = recording.random
    run = rng.uniform(0.05, 0.1)
    pool = recording.pool(ThreadPoolExecutor(12, "pool"))
    count = int(SECONDS / (3 * run))
    for _ in range(count):
        asked = [pool.submit(ask, pool, run) for _ in range(rng.randint(1, 4))]
        time.sleep(rng.uniform(1, 3) * run)
        for future in asked:
            future.result()

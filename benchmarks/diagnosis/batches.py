"""Batches, which are a note, and what looks like one; submitters that wait for results, which get no number."""

import time
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait

from benchmarks.diagnosis.healthy import export, fetch, size_and_run
from benchmarks.diagnosis.recording import Expected, arrivals, family, in_threads

NOTE = Expected("pool", "batch", "blocking_io", line="fetch", action="none", info=True)
NO_NUMBER = Expected("pool", "saturated", "blocking_io", line="fetch", size="none")


def _batch(recording, runs):
    """A `list(map)` of tasks that take `runs(mean)`: how many seconds of it there are for each worker."""
    rng = recording.random
    workers, run = size_and_run(rng)
    count = int(rng.uniform(3, 6) * workers / run)
    pool = recording.pool(ThreadPoolExecutor(workers, "pool"))
    pool.map(fetch, [runs(run) for _ in range(count)])
    return pool


@family(NOTE)
def batch(recording):
    """All at once: the normal life of `map`."""
    fixed = recording.random.random() < 0.5
    _batch(recording, lambda run: run if fixed else recording.random.expovariate(1 / run))


@family(NOTE)
def batch_that_thins_out(recording):
    """Some of its tasks take ten times as long."""
    _batch(recording, lambda run: run if recording.random.random() < 0.95 else 10 * run)


@family(Expected("pool", "batch", "slow_tasks", line="export", action="none", info=True))
def batch_of_two_kinds(recording):
    """A few long ones come first, and the short ones of another function behind them."""
    rng = recording.random
    workers, short, long = rng.choice((4, 6, 8)), rng.uniform(0.01, 0.02), rng.uniform(1.5, 2.5)
    pool = recording.pool(ThreadPoolExecutor(workers, "pool"))
    futures = [pool.submit(export, long) for _ in range(2 * workers)]
    futures += [pool.submit(fetch, short) for _ in range(60 * workers)]
    wait(futures)


@family(Expected("pool", "saturated", "blocking_io", line="fetch", size="any"))
def crowd_before_an_overload(recording):
    """It begins as a batch does, and more than the pool can do goes on coming."""
    rng = recording.random
    workers, run = size_and_run(rng)
    pool = recording.pool(ThreadPoolExecutor(workers, "pool"))
    plan = [(4.0, rng.uniform(1.4, 1.8) * workers / run)]
    pool.play([(0.0, fetch, run) for _ in range(2 * workers)] + [(at, fetch, run) for at in arrivals(rng, plan)])


def _kept_ready(recording, ahead):
    rng = recording.random
    workers, run = size_and_run(rng)
    pool = recording.pool(ThreadPoolExecutor(workers, "pool"))
    running = {pool.submit(fetch, run * rng.uniform(0.9, 1.1)) for _ in range(workers + ahead(workers))}
    end = time.monotonic() + 6
    while time.monotonic() < end:
        done, running = wait(running, return_when=FIRST_COMPLETED)
        running |= {pool.submit(fetch, run * rng.uniform(0.9, 1.1)) for _ in done}
    wait(running)


@family(Expected())
def prefetch(recording):
    """One task for each worker is kept ready, as joblib does: it waits as long as it runs."""
    _kept_ready(recording, lambda workers: workers)


@family(NO_NUMBER)
def deep_prefetch(recording):
    """Four for each worker: they wait long, and more workers would get others."""
    _kept_ready(recording, lambda workers: 4 * workers)


@family(NO_NUMBER)
def more_and_more_clients(recording):
    """Another client every now and then, each of which waits for its result and thinks for a moment."""
    rng = recording.random
    workers, run = rng.choice((2, 3, 4)), rng.uniform(0.03, 0.06)
    pool = recording.pool(ThreadPoolExecutor(workers, "pool"))
    end = time.monotonic() + 8

    def client():
        while time.monotonic() < end:
            pool.submit(fetch, run).result()
            time.sleep(0.001)

    clients = []
    for _ in range(5 * workers):
        clients += in_threads(1, client)
        time.sleep(6 / (5 * workers))
    for thread in clients:
        thread.join()


@family(Expected("pool", "saturated", ("blocking_io", "slow_tasks"), size="none"))
def clients_beside_others(recording):
    """Clients hold nearly all workers, and short tasks of an open load wait behind theirs."""
    rng = recording.random
    workers, run = rng.choice((3, 4)), rng.uniform(0.1, 0.2)
    pool = recording.pool(ThreadPoolExecutor(workers, "pool"))
    end = time.monotonic() + 7

    def client():
        while time.monotonic() < end:
            pool.submit(export, run).result()

    clients = in_threads(4 * workers, client)
    pool.play([(at, fetch, 0.005) for at in arrivals(rng, [(6.0, 3.0)])])
    for thread in clients:
        thread.join()

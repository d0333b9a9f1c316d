"""Programs in which the time goes into what comes between the tasks: callbacks, consumers, and handing over; and such
in which it does not."""

import asyncio
import multiprocessing
import time
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from multiprocessing import get_context

from benchmarks.diagnosis.healthy import SECONDS, fetch, size_and_run
from benchmarks.diagnosis.recording import THREADS, Expected, Task, arrivals, family

NAME = "benchmarks.diagnosis.handing:"


def not_taken(name="pool", line="consume"):
    return Expected(name, "saturated", "results_not_taken", line=line, action="speed_up_consumer")


def larger_tasks(name="pool"):
    return Expected(name, "saturated", "cpu_bound", action="larger_tasks")


# -- results that wait ------------------------------------------------------------------------------------------


def slow_and_many(rng):
    """(workers, run, tasks, time for each result): what takes the results needs two to four times as long as the
    pool."""
    workers, run = rng.choice((3, 4, 6)), rng.uniform(0.03, 0.08)
    count = int(rng.uniform(3, 4) * workers / run)
    return workers, run, count, rng.uniform(2, 4) * run / workers


@family(not_taken())
def slow_consumer_of_map(recording):
    workers, run, count, take = slow_and_many(recording.random)
    pool = recording.pool(ThreadPoolExecutor(workers, "pool"))
    pool.tasks = [Task() for _ in range(count)]
    for _ in pool.executor.map(fetch, pool.tasks, [run] * count):
        time.sleep(take)  # <- consume


@family(not_taken())
def slow_consumer_of_as_completed(recording):
    workers, run, count, take = slow_and_many(recording.random)
    pool = recording.pool(ThreadPoolExecutor(workers, "pool"))
    for future in as_completed([pool.submit(fetch, run) for _ in range(count)]):
        future.result()
        time.sleep(take)  # <- consume


def fetch_with(item):
    return fetch(*item)


@family(not_taken(THREADS))
def slow_consumer_of_imap(recording):
    rng = recording.random
    workers, run, count, take = slow_and_many(rng)
    pool = recording.threads(workers)
    pool.tasks = [Task() for _ in range(count)]
    imap = pool.executor.pool.imap if rng.random() < 0.5 else pool.executor.pool.imap_unordered
    for _ in imap(fetch_with, [(task, run) for task in pool.tasks]):
        time.sleep(take)  # <- consume


def paced(pool, schedule):
    """Tasks for a lazy `imap`, each when its time has come."""
    begin = time.monotonic()
    for at, *arguments in schedule:
        time.sleep(max(0.0, begin + at - time.monotonic()))
        task = Task()
        pool.tasks.append(task)
        yield (task, *arguments)


@family(Expected(THREADS, "saturated", "blocking_io", line="fetch", action="raise_max_workers", size="replay"))
def consumer_that_waits(recording):
    """Too few workers, and whoever takes their results has nothing to do most of the time."""
    rng = recording.random
    workers, run = size_and_run(rng)
    pool, full = recording.threads(workers), workers / run
    plan = arrivals(rng, [(3.0, 0.4 * full), (3.0, rng.uniform(1.6, 2.4) * full)])
    for task in pool.executor.pool.imap(fetch_with, paced(pool, ((at, run) for at in plan))):
        assert task.ended


@family(Expected(THREADS))
def consumer_that_keeps_up(recording):
    rng = recording.random
    workers, run = size_and_run(rng)
    pool = recording.threads(workers)
    plan = arrivals(rng, [(SECONDS, rng.uniform(0.3, 0.6) * workers / run)])
    for _ in pool.executor.pool.imap(fetch_with, paced(pool, ((at, run) for at in plan))):
        time.sleep(0.3 * run / workers)


# -- callbacks --------------------------------------------------------------------------------------------------


@family(not_taken(line="callback"))
def slow_callbacks(recording):
    """They run in the worker, after its task."""
    rng = recording.random
    workers, run = rng.choice((2, 4, 6)), rng.uniform(0.01, 0.03)
    after = run * rng.uniform(2, 4)

    def report(_):
        time.sleep(after)  # <- callback

    pool = recording.pool(ThreadPoolExecutor(workers, "pool"))
    for _ in range(int(rng.uniform(3, 5) * workers / (run + after))):
        pool.submit(fetch, run).add_done_callback(report)
    pool.close()


@family(Expected())
def quick_callbacks(recording):
    rng = recording.random
    workers, run = size_and_run(rng)

    def report(_):
        time.sleep(0.1 * run)

    pool = recording.pool(ThreadPoolExecutor(workers, "pool"))
    begin = time.monotonic()
    for at in arrivals(rng, [(SECONDS, rng.uniform(0.2, 0.6) * workers / run)]):
        time.sleep(max(0.0, begin + at - time.monotonic()))
        pool.submit(fetch, run).add_done_callback(report)
    pool.close()


@family(Expected("pool", "saturated", "blocking_io", line="fetch"))
def quick_callbacks_of_a_full_pool(recording):
    rng = recording.random
    workers, run = size_and_run(rng)

    def report(_):
        time.sleep(0.1 * run)

    pool, full = recording.pool(ThreadPoolExecutor(workers, "pool")), workers / run
    begin = time.monotonic()
    for at in arrivals(rng, [(3.0, 0.4 * full), (3.0, rng.uniform(1.6, 2.4) * full)]):
        time.sleep(max(0.0, begin + at - time.monotonic()))
        pool.submit(fetch, run).add_done_callback(report)
    pool.close()


class Processes:
    """A `multiprocessing.Pool` with the face of an executor, whose callbacks take so long."""

    def __init__(self, pool, seconds):
        self.pool = pool
        self.seconds = seconds
        self._max_workers = pool._processes

    def submit(self, function, *arguments):
        future = Future()

        def done(result):
            time.sleep(self.seconds)  # <- callback
            future.set_result(result)

        self.pool.apply_async(function, arguments, callback=done, error_callback=future.set_exception)
        return future

    def shutdown(self, wait):
        self.pool.close()
        if wait:
            self.pool.join()


@family(not_taken(NAME + "slow_callbacks_of_processes.pool", line="callback"))
def slow_callbacks_of_processes(recording):
    """They run in the one thread of the pool that takes the results."""
    rng = recording.random
    workers, run = rng.choice((2, 3)), rng.uniform(0.04, 0.08)
    pool = multiprocessing.Pool(workers)
    pool = recording.pool(Processes(pool, run * rng.uniform(1.2, 2)), NAME + "slow_callbacks_of_processes.pool")
    for _ in range(int(rng.uniform(2.5, 3.5) * workers / run)):
        pool.submit(fetch, run)
    pool.close()


# -- handing over -----------------------------------------------------------------------------------------------


def convert(task, grid, seconds, size):
    with task:
        time.sleep(seconds)
        len(grid)
    return task, {(number, number + 1): float(number) for number in range(size)}


def converted(recording, name, sent, received, count):
    rng = recording.random
    executor = ProcessPoolExecutor(2, get_context("forkserver"))
    list(executor.map(time.sleep, [0.2] * 2))
    pool = recording.pool(executor, name)
    grid = {(number, number + 1): float(number) for number in range(sent)}
    run = rng.uniform(0.004, 0.01)
    futures = [pool.submit(convert, grid, run, received) for _ in range(count)]
    pool.futures, pool.tasks = [], [future.result()[0] for future in futures]


def transfer(name):
    return Expected(NAME + name, "saturated", "transfer", action="send_less")


@family(transfer("converted.executor"), alone=True)
def big_arguments(recording):
    converted(recording, NAME + "converted.executor", recording.random.randint(80_000, 160_000), 0, 60)


@family(transfer("converted.executor"), alone=True)
def big_results(recording):
    converted(recording, NAME + "converted.executor", 0, recording.random.randint(80_000, 160_000), 60)


@family(Expected(NAME + "arguments_that_matter_little.executor"))
def arguments_that_matter_little(recording):
    """Each task carries a megabyte, and there is time for it."""
    rng = recording.random
    run = rng.uniform(0.04, 0.08)
    executor = ProcessPoolExecutor(3, get_context("forkserver"))
    list(executor.map(time.sleep, [0.2] * 3))
    pool = recording.pool(executor, NAME + "arguments_that_matter_little.executor")
    block = bytes(1 << 20)
    pool.play((at, fetch_block, run, block) for at in arrivals(rng, [(SECONDS, rng.uniform(0.2, 0.5) * 3 / run)]))


def fetch_block(task, seconds, _block):
    return fetch(task, seconds)


def nothing(task):
    with task:
        pass


@family(larger_tasks(), alone=True)
def tiny_tasks_of_a_loop(recording):
    """As an asynchronous file library reads: a call in a thread for each line."""
    rng = recording.random
    workers, readers = rng.choice((4, 6, 8)), rng.randint(40, 100)
    pool = recording.pool(ThreadPoolExecutor(workers, "pool"))

    async def read(loop, end):
        while time.monotonic() < end:
            task = Task()
            pool.tasks.append(task)
            await loop.run_in_executor(pool.executor, nothing, task)

    async def main():
        loop = asyncio.get_running_loop()
        end = time.monotonic() + 5
        await asyncio.gather(*(read(loop, end) for _ in range(readers)))

    asyncio.run(main())


@family(larger_tasks(), alone=True)
def tiny_tasks_at_once(recording):
    pool = recording.pool(ThreadPoolExecutor(recording.random.choice((2, 4, 8)), "pool"))

    def stamped():
        for _ in range(100_000):
            pool.tasks.append(Task())
            yield pool.tasks[-1]

    for _ in pool.executor.map(nothing, stamped()):
        pass

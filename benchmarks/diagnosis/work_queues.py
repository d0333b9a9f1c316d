"""Programs around queues with consumers: home-made pools that are too small, and queues that do their work."""

import asyncio
import logging
import logging.handlers
import queue
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from benchmarks.diagnosis.recording import Expected, Task, arrivals, family

SECONDS = 8.0
#: A queue is named by where it was made: here all are called alike.
NAMED = {"pools": [{"match": "benchmarks.diagnosis.work_queues:*", "name": "pool"}]}
STUCK = {**NAMED, "detection": {"stuck_task_seconds": 2.0}}

TOO_FEW = Expected("pool", "saturated", "blocking_io", line="inside", action="raise_max_workers", size="any")
ONLY_ONE = Expected("pool", "saturated", "single_worker", line="inside", action="raise_max_workers", size="any")
NOT_BACK = Expected("pool", "stuck_workers", "stuck_tasks", line="hangs", action="add_timeout")

#: A queue is seen once items wait in it.
QUIET = Expected(optional=True)


class Queue:
    """A queue, and the log of its items."""

    def __init__(self, items, workers):
        self.items = items
        self.workers = workers
        self.tasks = []

    def close(self):
        pass

    def log(self):
        stamps = [[task.submitted, task.started, task.ended, task.cancelled] for task in self.tasks]
        return {"workers": self.workers, "tasks": stamps}

    def item(self, seconds):
        task = Task()
        self.tasks.append(task)
        return task, seconds


async def consume(items):
    while True:
        task, seconds = await items.get()
        with task:
            await asyncio.sleep(seconds)  # <- inside
        items.task_done()


def work(items):
    while True:
        item = items.get()
        if item is None:
            return
        task, seconds = item
        with task:
            time.sleep(seconds)  # <- inside


async def consumed(recording, items, workers, times, seconds):
    """Puts an item at each of these times (seconds from now), and waits until all are done."""
    pool = recording.pools["pool"] = Queue(items, workers)
    consumers = [asyncio.create_task(consume(items)) for _ in range(workers)]
    begin = time.monotonic()
    for at in times:
        await asyncio.sleep(max(0.0, begin + at - time.monotonic()))
        items.put_nowait(pool.item(seconds()))
    await drained(pool)
    for consumer in consumers:
        consumer.cancel()


async def drained(pool):
    while any(task.ended is None for task in pool.tasks):
        await asyncio.sleep(0.05)


def worked(recording, items, workers, times, seconds):
    """The same with threads."""
    pool = recording.pools["pool"] = Queue(items, workers)
    threads = [threading.Thread(target=work, args=(items,)) for _ in range(workers)]
    for thread in threads:
        thread.start()
    begin = time.monotonic()
    for at in times:
        time.sleep(max(0.0, begin + at - time.monotonic()))
        items.put(pool.item(seconds()))
    for _ in threads:
        items.put(None)
    for thread in threads:
        thread.join()


def load(rng, workers, run, factor, *, before=None, seconds=SECONDS):
    """Times of arrivals: so many times as many as there is room for; `before`: of the first two seconds."""
    rate = workers / run
    phases = [(2.0, before * rate)] if before is not None else []
    return arrivals(rng, [*phases, (seconds - 2.0, factor * rate)])


def about(rng, run):
    return lambda: rng.uniform(0.7, 1.3) * run


# -- too few consumers -------------------------------------------------------------------------------------------------


@family(TOO_FEW, settings=NAMED)
def queue_with_too_few_tasks(recording):
    rng = recording.random
    workers, run = rng.randint(2, 6), rng.uniform(0.05, 0.15)
    times = load(rng, workers, run, rng.uniform(1.5, 2.5), before=0.3)

    async def main():
        items = asyncio.Queue()
        await consumed(recording, items, workers, times, about(rng, run))

    asyncio.run(main())


@family(TOO_FEW, settings=NAMED)
def queue_with_too_few_threads(recording):
    rng = recording.random
    workers, run = rng.randint(2, 6), rng.uniform(0.05, 0.15)
    times = load(rng, workers, run, rng.uniform(1.5, 2.5), before=0.3)
    items = queue.Queue()
    worked(recording, items, workers, times, about(rng, run))


@family(ONLY_ONE, settings=NAMED)
def queue_that_one_task_works_off(recording):
    rng = recording.random
    run = rng.uniform(0.03, 0.08)
    times = load(rng, 1, run, rng.uniform(1.6, 2.5), seconds=10.0)

    async def main():
        items = asyncio.Queue()
        await consumed(recording, items, 1, times, about(rng, run))

    asyncio.run(main())


@family(ONLY_ONE, settings=NAMED)
def producers_that_wait_for_one_thread(recording):
    """The queue is bounded: whoever puts an item waits for room."""
    rng = recording.random
    run = rng.uniform(0.03, 0.08)
    items = queue.Queue(rng.randint(6, 12))
    worked(recording, items, 1, [0.0] * int(SECONDS / run), about(rng, run))


@family(NOT_BACK, settings=STUCK)
def consumer_that_does_not_come_back(recording):
    rng = recording.random
    workers, run = rng.randint(3, 6), rng.uniform(0.02, 0.05)
    lock = threading.Lock()
    lock.acquire()
    stuck_at = rng.uniform(2.0, 3.0)
    items = queue.Queue()
    pool = recording.pools["pool"] = Queue(items, workers)

    def work():
        while True:
            item = items.get()
            if item is None:
                return
            task, seconds, hangs = item
            with task:
                if hangs:
                    recording.moment("stuck")
                    lock.acquire()  # <- hangs
                time.sleep(seconds)

    threads = [threading.Thread(target=work) for _ in range(workers)]
    for thread in threads:
        thread.start()
    begin, hung = time.monotonic(), False
    for at in load(rng, workers, run, 0.6, seconds=SECONDS):
        time.sleep(max(0.0, begin + at - time.monotonic()))
        hangs = not hung and at >= stuck_at
        hung = hung or hangs
        items.put((*pool.item(rng.uniform(0.7, 1.3) * run), hangs))
    lock.release()
    for _ in threads:
        items.put(None)
    for thread in threads:
        thread.join()


# -- what does its work, or is no pool ---------------------------------------------------------------------------------


@family(QUIET, settings=NAMED)
def consumers_that_idle(recording):
    rng = recording.random
    workers, run = rng.randint(4, 10), rng.uniform(0.05, 0.15)
    times = load(rng, workers, run, rng.uniform(0.2, 0.5))

    async def main():
        items = asyncio.Queue()
        await consumed(recording, items, workers, times, about(rng, run))

    asyncio.run(main())


@family(QUIET, settings=NAMED)
def threads_that_idle(recording):
    rng = recording.random
    workers, run = rng.randint(4, 10), rng.uniform(0.05, 0.15)
    times = load(rng, workers, run, rng.uniform(0.2, 0.5))
    items = rng.choice((queue.Queue, queue.LifoQueue))()
    worked(recording, items, workers, times, about(rng, run))


@family(QUIET, settings=NAMED)
def one_consumer_that_keeps_up(recording):
    rng = recording.random
    run = rng.uniform(0.02, 0.05)
    times = load(rng, 1, run, rng.uniform(0.2, 0.4))

    async def main():
        items = asyncio.Queue()
        await consumed(recording, items, 1, times, about(rng, run))

    asyncio.run(main())


@family(QUIET, settings=NAMED)
def log_that_a_listener_writes(recording):
    """A handler that is slow enough for records to wait."""
    rng = recording.random
    recording.pools["pool"] = Queue(None, 1)
    records = queue.Queue()

    class Slow(logging.Handler):
        def emit(self, _):
            time.sleep(0.01)

    log = logging.Logger("log")
    log.addHandler(logging.handlers.QueueHandler(records))
    listener = logging.handlers.QueueListener(records, Slow())
    listener.start()
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        for number in range(rng.randint(10, 60)):
            log.warning("line %d", number)
        time.sleep(rng.uniform(0.1, 0.4))
    listener.stop()


@family(QUIET, settings=NAMED)
def results_that_one_collects(recording):
    """Workers of a pool put what they have done into a queue, and the main thread is slow to take it."""
    rng = recording.random
    recording.pools["pool"] = Queue(None, 1)
    results = queue.Queue()
    run = rng.uniform(0.01, 0.03)

    def work(number):
        time.sleep(run)
        results.put(number)

    with ThreadPoolExecutor(4) as pool:
        rounds = int(SECONDS / run / 3)
        for number in range(rounds):
            pool.submit(work, number)
        for _ in range(rounds):
            results.get()
            time.sleep(run / 3)


@family(QUIET, settings=NAMED)
def stock_of_connections(recording):
    """More threads than connections, each of which is put back by the one that took it."""
    rng = recording.random
    recording.pools["pool"] = Queue(None, 1)
    stock = rng.choice((queue.Queue, queue.LifoQueue))()
    for _ in range(rng.randint(2, 4)):
        stock.put(object())
    end = time.monotonic() + SECONDS

    def query():
        while time.monotonic() < end:
            connection = stock.get()
            time.sleep(0.02)
            stock.put(connection)
            time.sleep(rest)

    rest = rng.choice((0.0, 0.05, 0.3))
    threads = [threading.Thread(target=query) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@family(QUIET, settings=NAMED)
def queue_of_each_client(recording):
    """Each client has a queue of its own, with one task that sends what is in it."""
    rng = recording.random
    recording.pools["pool"] = Queue(None, 1)

    async def send(outbox):
        while True:
            await outbox.get()
            await asyncio.sleep(0.005)

    async def client(end):
        outbox = asyncio.Queue()
        sender = asyncio.create_task(send(outbox))
        while time.monotonic() < end:
            for number in range(rng.randint(1, 5)):
                outbox.put_nowait(number)
            await asyncio.sleep(rng.uniform(0.05, 0.5))
        sender.cancel()

    async def main():
        begin = time.monotonic()
        while time.monotonic() < begin + SECONDS - 1.0:
            await asyncio.gather(*(client(time.monotonic() + rng.uniform(0.2, 1.0)) for _ in range(30)))

    asyncio.run(main())

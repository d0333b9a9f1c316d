"""Programs that wait for one thing before they ask for the next: needlessly, and because they have to."""

import asyncio
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

from benchmarks.diagnosis.recording import Expected, Task, arrivals, family

SECONDS = 7.0
PATTERN = "not_concurrent"
#: A pool without a name is called by where it was made.
NAME = "benchmarks.diagnosis.in_turn:"
CHUNKED = f"{NAME}all_items_in_one_chunk.pool"


def in_turn(subject, line="in turn"):
    return Expected(subject, PATTERN, "awaited_in_turn", line=line, action="overlap", info=True)


def turns(rng):
    """(how many, how long each, s), for `SECONDS` in all."""
    seconds = rng.uniform(0.12, 0.5)
    return int(SECONDS / seconds), seconds


async def fetch(number, seconds):
    await asyncio.sleep(seconds)
    return number


def read(task, seconds):
    with task:
        time.sleep(seconds)
    return task


def convert(seconds):
    time.sleep(seconds)


# -- needlessly


@family(in_turn("loop"))
def coroutines_awaited_in_a_loop(recording):
    async def main(count, seconds):
        found = []
        for number in range(count):
            found.append(await fetch(number, seconds))  # <- in turn

    asyncio.run(main(*turns(recording.random)))


@family(in_turn("loop"))
def coroutines_awaited_in_a_comprehension(recording):
    async def main(count, seconds):
        return [await fetch(number, seconds) for number in range(count)]  # <- in turn

    asyncio.run(main(*turns(recording.random)))


@family(in_turn("loop"))
def tasks_awaited_at_once(recording):
    """Each turn makes a task, and awaits it before the next turn makes its own."""

    async def main(count, seconds):
        found = []
        for number in range(count):
            task = asyncio.create_task(fetch(number, seconds))
            found.append(await task)  # <- in turn

    asyncio.run(main(*turns(recording.random)))


@family(in_turn("loop"))
def a_loop_run_for_each(recording):
    count, seconds = turns(recording.random)
    found = []
    for number in range(count):
        found.append(asyncio.run(fetch(number, seconds)))  # <- in turn


@family(in_turn("loop"))
def threads_awaited_in_turn(recording):
    """`to_thread` in a loop: it says what to do elsewhere, and waits for it."""

    async def main(count, seconds):
        for number in range(count):
            await asyncio.to_thread(time.sleep, seconds + number * 1e-6)  # <- in turn

    asyncio.run(main(*turns(recording.random)))


@family(in_turn("pool"))
def results_asked_for_in_turn(recording):
    pool = recording.pool(ThreadPoolExecutor(recording.random.choice((4, 8, 16)), "pool"))
    count, seconds = turns(recording.random)
    for number in range(count):
        pool.submit(read, seconds + number * 1e-6).result()  # <- in turn


@family(Expected(CHUNKED, PATTERN, "one_chunk", line="chunk", action="smaller_chunks", info=True))
def all_items_in_one_chunk(recording):
    count, seconds = turns(recording.random)
    pool = multiprocessing.get_context("fork").Pool(4)
    recording.pools.pop("pool", None)
    list(pool.imap(convert, [seconds] * count, chunksize=2 * count))  # <- chunk
    pool.close()
    pool.join()


@family(Expected("loop", PATTERN, "waits_for_slowest", line="rounds", action="one_pool", info=True))
def rounds_with_one_slow_task(recording):
    """Each round has one task that takes many times as long as the others."""
    rng = recording.random
    size, seconds = rng.randint(10, 14), rng.uniform(1.0, 1.3)

    async def main():
        found = []
        for number in range(int(SECONDS / seconds) + 1):
            work = [fetch(number, 0.12) for _ in range(size - 1)]
            found += await asyncio.gather(fetch(number, seconds), *work)  # <- rounds

    asyncio.run(main())


@family(Expected("pool", PATTERN, "waits_for_slowest", line="rounds", action="one_pool", info=True))
def rounds_of_a_map(recording):
    """Each round has a pool of its own, as a list that is cut into parts by hand."""
    rng = recording.random
    size, seconds = rng.randint(8, 12), rng.uniform(0.6, 1.0)
    items = [seconds if number % size == 3 else 0.06 for number in range(size * int(SECONDS / seconds + 1))]
    for first in range(0, len(items), size):
        with ThreadPoolExecutor(size, "pool") as pool:
            list(pool.map(time.sleep, items[first : first + size]))  # <- rounds


@family(Expected(NAME + "pools_of_processes_that_mostly_start.pool", PATTERN, "waits_for_slowest", info=True))
def pools_of_processes_that_mostly_start(recording):
    """A process of its own for each worker of each round, which imports everything anew."""
    rng = recording.random
    for number in range(rng.randint(12, 14)):
        with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
            list(pool.map(time.sleep, [0.01 + number * 1e-6] * 4))


@family(Expected("pool"))
def twin_even_rounds_of_a_map(recording):
    """Rounds too, with little between the first and the last to end."""
    size, seconds = recording.random.randint(8, 12), recording.random.uniform(0.4, 0.8)
    for number in range(int(SECONDS / seconds) + 1):
        with ThreadPoolExecutor(size, "pool") as executor:
            recording.pool(executor)
            list(executor.map(time.sleep, [seconds + number * 1e-6] * size))


# -- because they have to


def twin(make):
    """A program around one loop of which nothing may be the verdict."""

    def run(recording):
        asyncio.run(make(*turns(recording.random)))

    run.__name__ = make.__name__
    return family(Expected("loop"))(run)


class Service:
    """What all turns share: it does one thing at a time, or in order."""

    def __init__(self, seconds):
        self.seconds = seconds
        self.written = []

    async def get(self, key):
        return await fetch(key, self.seconds)

    async def append(self, row):
        self.written.append(await fetch(row, self.seconds))
        return len(self.written)

    async def page(self, cursor):
        await asyncio.sleep(self.seconds)
        return cursor + 1


@twin
async def twin_pagination(count, seconds):
    service, cursor, rows = Service(seconds), 0, []
    for number in range(count):
        cursor = await service.page(cursor)
        rows.append((number, cursor))


@twin
async def twin_pages_until_none_is_left(count, seconds):
    rows = []
    for number in range(1, 1000):
        page = await fetch(number, seconds)
        if page >= count:
            break
        rows.append(page)


@twin
async def twin_ordered_writes(count, seconds):
    service, offsets = Service(seconds), []
    for number in range(count):
        offsets.append(await service.append(number))


@twin
async def twin_effects(count, seconds):
    service = Service(seconds)
    for number in range(count):
        await service.append(number)


@twin
async def twin_one_connection(count, seconds):
    service, rows = Service(seconds), []
    for number in range(count):
        rows.append(await service.get(number))


@twin
async def twin_heartbeats(count, seconds):
    sent = []
    for number in range(count):
        sent.append(await fetch(number, 0.01))
        await asyncio.sleep(seconds)


@twin
async def twin_rate_limit_on_purpose(count, seconds):
    class Limiter:
        async def __aenter__(self):
            await asyncio.sleep(seconds)

        async def __aexit__(self, *_):
            pass

    limiter, found = Limiter(), []
    for number in range(count):
        async with limiter:
            found.append(await fetch(number, 0.01))


@twin
async def twin_state_of_the_turn_before(count, seconds):
    state = 0
    for number in range(count):
        state = await fetch(state + number, seconds)


@twin
async def twin_tasks_started_before(count, seconds):
    tasks = [asyncio.create_task(fetch(number, seconds * (number + 1))) for number in range(count)]
    for task in tasks:
        await task


@twin
async def twin_work_of_an_endless_loop(count, seconds):
    queue, found = asyncio.Queue(), []
    for number in range(count):
        queue.put_nowait(number)
    while not queue.empty():
        found.append(await fetch(await queue.get(), seconds))


@twin
async def twin_attempts(count, seconds):
    async def attempt(number):
        await asyncio.sleep(seconds)
        if number < count - 1:
            raise OSError
        return number

    async def with_attempts():
        for number in range(count):
            try:
                return await attempt(number)
            except OSError:
                pass
        raise OSError

    await with_attempts()


@twin
async def twin_all_at_once(count, seconds):
    for _ in range(count):
        await asyncio.gather(*(fetch(number, seconds) for number in range(count)))


@family(Expected("pool"))
def twin_prefetch(recording):
    """The next one is asked for before the last one is taken: two at a time, of two."""
    pool = recording.pool(ThreadPoolExecutor(2, "pool"))
    count, seconds = turns(recording.random)
    future = pool.submit(read, seconds)
    for _ in range(count):
        following = pool.submit(read, seconds)
        future.result()
        time.sleep(seconds)
        future = following


@family(Expected("pool"))
def twin_results_collected(recording):
    pool = recording.pool(ThreadPoolExecutor(4, "pool"))
    count, seconds = turns(recording.random)
    futures = [pool.submit(read, seconds * 4) for _ in range(count)][:4]
    for future in futures:
        future.result()
    time.sleep(SECONDS)


@family(Expected("pool"))
def twin_requests_of_one_client(recording):
    """A client asks when it has an answer: what it asks for is in the answer."""
    pool = recording.pool(ThreadPoolExecutor(8, "pool"))
    count, seconds = turns(recording.random)
    answer = Task()
    for _ in range(count):
        answer = pool.submit(read, seconds + 0 * answer.submitted).result()


@family(Expected("pool"))
def twin_loops_of_several_threads(recording):
    """Each handler of a server runs a loop of its own, and awaits in turn: the handlers go on side by side."""
    pool = recording.pool(ThreadPoolExecutor(8, "pool"))
    count, seconds = turns(recording.random)

    async def answer():
        return [await fetch(number, seconds / 2) for number in range(4)]

    def handle(task):
        with task:
            asyncio.run(answer())
        return task

    pool.play([(at, handle) for at in arrivals(recording.random, [(count * seconds, 2 / seconds)], regular=True)])
    pool.close()

"""Programs around asyncio's semaphores and locks: those that hold everything up, and those that do their work."""

import asyncio
import time

from benchmarks.diagnosis.recording import Expected, Task, arrivals, family

SECONDS = 7.0
#: A limit is named by where it was made: here all are called alike.
NAMED = {"pools": [{"match": "benchmarks.diagnosis.gates:*", "name": "pool"}]}
ON_PURPOSE = {"pools": [{"match": "benchmarks.diagnosis.gates:*", "name": "pool", "intended": True}]}

REACHED = Expected("pool", "saturated", "limit_reached", line="inside", action="raise_limit", size="any")
HELD = Expected("pool", "saturated", "held_across_wait", line="inside", action="shorten_hold")

#: Where nothing waits there is nothing to see.
QUIET = Expected(optional=True)


class Gate:
    """A semaphore or lock, and the log of its holds."""

    def __init__(self, limit, workers):
        self.limit = limit
        self.workers = workers
        self.tasks = []

    def close(self):
        pass

    def log(self):
        stamps = [[task.submitted, task.started, task.ended, task.cancelled] for task in self.tasks]
        return {"workers": self.workers, "tasks": stamps}


async def fetch(gate, seconds):
    task = Task()
    gate.tasks.append(task)
    async with gate.limit:
        with task:
            await asyncio.sleep(seconds)  # <- inside


async def update(gate, table):
    task = Task()
    gate.tasks.append(task)
    async with gate.limit:
        with task:
            table[0] += 1
            await asyncio.sleep(0)


async def play(times, make):
    """Starts a task at each of these times (seconds from now), and waits for all of them."""
    begin = time.monotonic()
    tasks = []
    for at in times:
        delay = begin + at - time.monotonic()
        if delay > 0:
            await asyncio.sleep(delay)
        tasks.append(asyncio.create_task(make()))
    await asyncio.gather(*tasks)


def fetches(recording, limit, workers, load, *, before=None):
    """Holds of 0.05 to 0.15 s, so many times as many as there is room for; `before`: of the first seconds."""
    rng = recording.random
    gate = recording.pools["pool"] = Gate(limit, workers)
    run = rng.uniform(0.05, 0.15)
    rate = workers / run
    phases = [(2.0, before * rate)] if before is not None else []
    times = arrivals(rng, [*phases, (SECONDS - 2.0, load * rate)])
    asyncio.run(play(times, lambda: fetch(gate, run)))


@family(REACHED, settings=NAMED)
def gate_too_narrow(recording):
    workers = recording.random.randint(2, 6)
    fetches(recording, asyncio.Semaphore(workers), workers, recording.random.uniform(1.5, 2.5), before=0.3)


@family(HELD, settings=NAMED)
def lock_held_across_an_await(recording):
    fetches(recording, asyncio.Lock(), 1, recording.random.uniform(1.5, 2.5), before=0.3)


@family(QUIET, settings=NAMED)
def gate_with_room(recording):
    workers = recording.random.randint(4, 10)
    fetches(recording, asyncio.Semaphore(workers), workers, recording.random.uniform(0.2, 0.6))


@family(Expected(), settings=ON_PURPOSE)
def rate_limit_on_purpose(recording):
    workers = recording.random.randint(2, 6)
    fetches(recording, asyncio.Semaphore(workers), workers, recording.random.uniform(1.5, 2.5), before=0.3)


@family(QUIET, settings=NAMED)
def lock_for_microseconds(recording):
    """Thousands of tasks take a lock for one turn of the loop each."""
    rng = recording.random
    gate, table = Gate(asyncio.Lock(), 1), [0]
    recording.pools["pool"] = gate

    async def main():
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            await asyncio.gather(*(update(gate, table) for _ in range(rng.randint(20, 60))))
            await asyncio.sleep(rng.uniform(0.01, 0.05))

    asyncio.run(main())


@family(QUIET, settings=NAMED)
def room_given_back_by_the_consumer(recording):
    """A semaphore that one task takes and another one gives back is a signal: there is room for the next item."""
    rng = recording.random
    recording.pools["pool"] = Gate(None, 1)

    async def main():
        room, items = asyncio.Semaphore(rng.randint(2, 6)), asyncio.Queue()

        async def produce(end):
            while time.monotonic() < end:
                await room.acquire()
                items.put_nowait(time.monotonic())
            items.put_nowait(None)

        async def consume():
            while await items.get() is not None:
                await asyncio.sleep(0.02)
                room.release()

        await asyncio.gather(produce(time.monotonic() + SECONDS), consume())

    asyncio.run(main())

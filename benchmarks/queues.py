"""What watching costs of queues: one whose items never wait, one that consumers do not keep up with, and making one.

    python benchmarks/queues.py [--repeat N] [--rounds N] [--json FILE]

A round is an item: put and taken in one task or thread; handed to a consumer that waits for it; or put into a queue
that is full of others, so that it waits, taken, and said to be done. Each family has an interpreter of its own. There,
each repetition runs it without us, installed, and without us again, in an order drawn anew, on a queue that is made for
it. What has one thread is measured in CPU time of that, as other programs disturb it less. Figures are nanoseconds
without us, what we add, and the ratio, as median (min..max); "again" is the noise.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time

import watched

#: Items that wait in a queue that is not worked off: the record is read while it runs.
DEPTH = 100
#: So long it takes until a queue is known to be a pool, and its items go into the record (s).
KNOWN = 0.3


def asyncio_free(make):
    def run(rounds):
        async def main():
            items = make()
            began = time.thread_time_ns()
            for number in range(rounds):
                await items.put(number)
                await items.get()
            return (time.thread_time_ns() - began) / rounds

        return asyncio.run(main())

    return run


def asyncio_handed(make):
    """The consumer waits for each item."""

    def run(rounds):
        async def consume(items):
            for _ in range(rounds):
                await items.get()

        async def main():
            items = make()
            consumer = asyncio.create_task(consume(items))
            began = time.thread_time_ns()
            for number in range(rounds):
                items.put_nowait(number)
                await asyncio.sleep(0)
            await consumer
            return (time.thread_time_ns() - began) / rounds

        return asyncio.run(main())

    return run


def asyncio_full(make):
    """In one task, which is its only consumer."""

    def run(rounds):
        took = []

        async def consume(items):
            for number in range(DEPTH):
                items.put_nowait(number)
            end = time.monotonic() + KNOWN
            while time.monotonic() < end:
                await turn(items, 1)
                await asyncio.sleep(0.01)
            began = time.thread_time_ns()
            await turn(items, rounds)
            took.append((time.thread_time_ns() - began) / rounds)

        async def turn(items, times):
            for _ in range(times):
                number = await items.get()
                await items.put(number + DEPTH)
                items.task_done()

        async def main():
            await asyncio.create_task(consume(make()))

        asyncio.run(main())
        return took[0]

    return run


def threading_free(make):
    def run(rounds):
        items = make()
        began = time.thread_time_ns()
        for number in range(rounds):
            items.put(number)
            items.get()
        return (time.thread_time_ns() - began) / rounds

    return run


def threading_full(make):
    """In one thread, which is its only consumer."""

    def run(rounds):
        items = make()
        took = []

        def consume():
            for number in range(DEPTH):
                items.put(number)
            end = time.monotonic() + KNOWN
            while time.monotonic() < end:
                turn(1)
                time.sleep(0.01)
            began = time.thread_time_ns()
            turn(rounds)
            took.append((time.thread_time_ns() - began) / rounds)

        def turn(times):
            for _ in range(times):
                number = items.get()
                items.put(number + DEPTH)
                items.task_done()

        thread = threading.Thread(target=consume)
        thread.start()
        thread.join()
        return took[0]

    return run


def made(make):
    def run(rounds):
        began = time.thread_time_ns()
        for _ in range(rounds):
            make()
        return (time.thread_time_ns() - began) / rounds

    return run


FAMILIES = {
    "asyncio.Queue, put and get": (asyncio_free(asyncio.Queue), 1.0),
    "asyncio.Queue, handed over": (asyncio_handed(asyncio.Queue), 0.5),
    "asyncio.Queue, items wait": (asyncio_full(asyncio.Queue), 0.2),
    "asyncio.PriorityQueue, put and get": (asyncio_free(asyncio.PriorityQueue), 1.0),
    "asyncio.Queue, made": (made(asyncio.Queue), 0.5),
    "queue.Queue, put and get": (threading_free(queue.Queue), 1.0),
    "queue.Queue, items wait": (threading_full(queue.Queue), 0.2),
    "queue.PriorityQueue, put and get": (threading_free(queue.PriorityQueue), 1.0),
    "queue.LifoQueue, put and get": (threading_free(queue.LifoQueue), 1.0),
    "queue.Queue, made": (made(queue.Queue), 0.2),
}


if __name__ == "__main__":
    watched.main(__file__, "queues", __doc__, FAMILIES, rounds=100_000)

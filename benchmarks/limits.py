"""What watching costs of semaphores and locks: one that nothing waits for, one that tasks queue for, and making one.

    python benchmarks/limits.py [--repeat N] [--rounds N] [--json FILE]

A round is an acquire and its release (`async with`, `with`), in one task or thread; or the same where eight tasks or
two threads take turns, so that each acquire has to wait; or a semaphore that is made and dropped. Each family has an
interpreter of its own. There, each repetition runs it without us, installed, and without us again, in an order drawn
anew, on a limit that is made for it. What has one thread is measured in CPU time of that, as other programs disturb it
less. Figures are nanoseconds without us, what we add, and the ratio, as median
(min..max); "again" is the noise.
"""

from __future__ import annotations

import asyncio
import threading
import time

import watched

TASKS = 8


def asyncio_free(make):
    def run(rounds):
        async def main():
            limit = make()
            began = time.thread_time_ns()
            for _ in range(rounds):
                async with limit:
                    pass
            return (time.thread_time_ns() - began) / rounds

        return asyncio.run(main())

    return run


def asyncio_contended(make):
    def run(rounds):
        async def take(limit, times):
            for _ in range(times):
                async with limit:
                    await asyncio.sleep(0)

        async def main():
            limit = make()
            await asyncio.gather(*(take(limit, 10) for _ in range(TASKS)))
            began = time.thread_time_ns()
            await asyncio.gather(*(take(limit, rounds // TASKS) for _ in range(TASKS)))
            return (time.thread_time_ns() - began) / rounds

        return asyncio.run(main())

    return run


def threading_free(make):
    def run(rounds):
        limit = make()
        began = time.thread_time_ns()
        for _ in range(rounds):
            with limit:
                pass
        return (time.thread_time_ns() - began) / rounds

    return run


def threading_contended(make):
    def run(rounds):
        limit = make()
        ready = threading.Barrier(3)

        def take():
            ready.wait()
            for _ in range(rounds // 2):
                with limit:
                    time.sleep(0)
            ready.wait()

        threads = [threading.Thread(target=take) for _ in range(2)]
        for thread in threads:
            thread.start()
        ready.wait()
        began = time.perf_counter_ns()
        ready.wait()
        took = time.perf_counter_ns() - began
        for thread in threads:
            thread.join()
        return took / rounds

    return run


def made(make):
    def run(rounds):
        began = time.thread_time_ns()
        for _ in range(rounds):
            make()
        return (time.thread_time_ns() - began) / rounds

    return run


FAMILIES = {
    "asyncio.Lock, free": (asyncio_free(asyncio.Lock), 1.0),
    "asyncio.Semaphore(2), free": (asyncio_free(lambda: asyncio.Semaphore(2)), 1.0),
    "asyncio.Lock, contended": (asyncio_contended(asyncio.Lock), 0.2),
    "asyncio.Semaphore(2), contended": (asyncio_contended(lambda: asyncio.Semaphore(2)), 0.2),
    "asyncio.Semaphore(2), made": (made(lambda: asyncio.Semaphore(2)), 0.5),
    "threading.Semaphore(2), free": (threading_free(lambda: threading.Semaphore(2)), 1.0),
    "threading.Semaphore(1), contended": (threading_contended(lambda: threading.Semaphore(1)), 0.05),
    "threading.Semaphore(2), made": (made(lambda: threading.Semaphore(2)), 0.2),
}


if __name__ == "__main__":
    watched.main(__file__, "limits", __doc__, FAMILIES, rounds=100_000)

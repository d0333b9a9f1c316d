"""150 coroutines start at once, and only 3 of them go on: a semaphore, and then a lock that is held across an `await`.

For 7.5 s the semaphore lets 3 through at a time. After that each coroutine stores what it has got behind one lock, and
holds that while it waits for 50 ms: 7.5 s more, one after another.
"""

import asyncio

CALLS = 150


async def fetch(gate: asyncio.Semaphore, number: int) -> int:
    async with gate:
        await asyncio.sleep(0.15)
        return number


async def store(lock: asyncio.Lock, stored: list[int], number: int) -> None:
    async with lock:
        await asyncio.sleep(0.05)
        stored.append(number)


async def main() -> None:
    gate = asyncio.Semaphore(3)
    fetched = await asyncio.gather(*(fetch(gate, number) for number in range(CALLS)))
    lock, stored = asyncio.Lock(), list[int]()
    await asyncio.gather(*(store(lock, stored, number) for number in fetched))
    print(f"stored {len(stored)} answers")


if __name__ == "__main__":
    asyncio.run(main())

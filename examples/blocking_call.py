"""The same three coroutines with `time.sleep`: the loop runs them one after another, and it takes 6 seconds."""

import asyncio
import time


async def fetch(name: str, seconds: float) -> str:
    time.sleep(seconds)
    return name


async def main() -> None:
    done = await asyncio.gather(fetch("first", 2), fetch("second", 1), fetch("third", 3))
    print("fetched", *done)


if __name__ == "__main__":
    asyncio.run(main())

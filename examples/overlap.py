"""Three coroutines that await 2, 1 and 3 seconds: they overlap, and all is done after 3 seconds."""

import asyncio


async def fetch(name: str, seconds: float) -> str:
    await asyncio.sleep(seconds)
    return name


async def main() -> None:
    done = await asyncio.gather(fetch("first", 2), fetch("second", 1), fetch("third", 3))
    print("fetched", *done)


if __name__ == "__main__":
    asyncio.run(main())

"""Coroutines that are awaited one after another: nothing is full and nothing blocks, and yet 16 pages take 8 seconds.

Each page takes 0.5 s. `await` in a loop waits for one page before the next one is asked for; `asyncio.gather` over all
of them would take as long as one.
"""

import asyncio


async def fetch(number: int) -> str:
    await asyncio.sleep(0.5)
    return f"page {number}"


async def main() -> None:
    pages = []
    for number in range(16):
        pages.append(await fetch(number))
    print(f"fetched {len(pages)} pages")


if __name__ == "__main__":
    asyncio.run(main())

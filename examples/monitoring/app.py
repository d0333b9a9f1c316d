"""A program to watch: a pool that turns serial again and again, one that never does, and a loop that is held up.

For `--gentle` seconds the pool `crawler` (4 workers) is given a page of 0.2 s every 0.25 s; then, for `--busy` seconds,
50 a second: ten workers' worth. At the end it is given time to finish, and begins again. Meanwhile the pool `mailer`
does a little all the time, and an event loop in a thread of its own calls a synchronous client in the busy times, and
has more to ask of a service than its semaphore lets through.

    poolscope run --listen 9464 examples/monitoring/app.py
"""

from __future__ import annotations

import argparse
import asyncio
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor

GENTLE_INTERVAL, BUSY_INTERVAL = 0.25, 0.02
busy = threading.Event()
GATE = asyncio.Semaphore(2)


def fetch() -> None:
    time.sleep(0.2)


def parse() -> int:
    return sum(number * number for number in range(100_000))


def send_mail() -> None:
    time.sleep(0.01)


def ask_synchronously() -> None:
    time.sleep(0.4)


async def ask_service() -> None:
    """Asks a service that bears two requests at a time, without a rest in the busy times."""
    while True:
        async with GATE:
            await asyncio.sleep(0.05)
        if not busy.is_set():
            await asyncio.sleep(0.2)


async def serve_requests() -> None:
    """An event loop of which one coroutine calls what it should await."""
    asking = [asyncio.create_task(ask_service()) for _ in range(6)]
    while asking:
        await asyncio.sleep(0.5)
        if busy.is_set():
            ask_synchronously()


def feed(crawler: ThreadPoolExecutor, mailer: ThreadPoolExecutor, seconds: float, interval: float) -> None:
    """Submits on schedule, whatever becomes of it."""
    pending: list[Future[object]] = []
    begin = time.monotonic()
    for number in range(int(seconds / interval)):
        time.sleep(max(0.0, begin + number * interval - time.monotonic()))
        pending.append(crawler.submit(parse if number % 5 == 4 else fetch))
        if number % max(1, int(0.2 / interval)) == 0:
            pending.append(mailer.submit(send_mail))
    if busy.is_set():
        busy.clear()
        for future in pending:
            future.result()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--gentle", type=float, default=60, help="seconds of a load that 4 workers keep up with")
    parser.add_argument("--busy", type=float, default=60, help="seconds of ten workers' worth of load; 0: never")
    options = parser.parse_args()
    loop = threading.Thread(target=asyncio.run, args=(serve_requests(),), name="requests", daemon=True)
    loop.start()
    with (
        ThreadPoolExecutor(4, thread_name_prefix="crawler") as crawler,
        ThreadPoolExecutor(4, thread_name_prefix="mailer") as mailer,
    ):
        while True:
            print(f"{time.time():.3f} gentle", flush=True)
            feed(crawler, mailer, options.gentle, GENTLE_INTERVAL)
            if options.busy:
                busy.set()
                print(f"{time.time():.3f} busy", flush=True)
                feed(crawler, mailer, options.busy, BUSY_INTERVAL)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        pass

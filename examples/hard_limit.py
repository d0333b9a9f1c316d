"""A scheduler feeds a pool of 4 workers: gently at first, then faster than 4 workers can finish.

Each task takes 0.2 s. For 6 s one is due every 0.25 s, so one worker is busy at a time and every task starts when it
is submitted. Then one is due every 0.02 s for 3 s: 10 workers' worth of work for 4. From the moment the fourth worker
is taken a task can only start when another one ends, though no line of the program has changed.

`--schedule` prints when each task is due and ends.
"""

import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor

WORKERS = 4
TASK_SECONDS = 0.2
GENTLE = (6.0, 0.25)
FAST = (3.0, 0.02)


def schedule() -> list[float]:
    """When each task is due, in seconds from the start."""
    due: list[float] = []
    begin = 0.0
    for length, interval in (GENTLE, FAST):
        due += [begin + number * interval for number in range(round(length / interval))]
        begin += length
    return due


def fetch(number: int) -> int:
    time.sleep(TASK_SECONDS)
    return number


def main() -> None:
    if sys.argv[1:] == ["--schedule"]:
        print(*schedule(), sep="\n")
        return
    start = time.monotonic()
    pending: list[Future[int]] = []
    with ThreadPoolExecutor(max_workers=WORKERS, thread_name_prefix="crawler") as pool:
        for number, due in enumerate(schedule()):
            time.sleep(max(0.0, start + due - time.monotonic()))
            pending.append(pool.submit(fetch, number))
        fetched = sum(1 for future in pending if future.result() >= 0)
    print(f"fetched {fetched} pages")


if __name__ == "__main__":
    main()

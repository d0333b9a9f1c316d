"""How long a service's endpoint does not answer after the worker that held it was killed.

    python benchmarks/takeover.py [ROUNDS]

Starts gunicorn with three workers, and `kill -9`s the one that answers scrapes, ROUNDS times (10). Prints the seconds
from the kill to the first scrape that is answered; no counter may be less in it than before. Needs the development
environment (pip install -e . --group dev).
"""

from __future__ import annotations

import random
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from multiprocess_support import service


def main(rounds: int) -> None:
    seconds = []
    words = (
        "gunicorn",
        "--bind=127.0.0.1:PORT",
        "--workers=3",
        "--log-level=critical",
        "--no-control-socket",
        "app:wsgi",
    )
    with tempfile.TemporaryDirectory() as folder, service(Path(folder), *words) as server:
        for _ in range(rounds):
            server.drive(3)
            server.await_shown(3)
            holder = server.holder()
            time.sleep(random.random())  # at any moment between two looks of the others
            server.kill(holder)
            killed = time.perf_counter()
            server.scrape()
            seconds.append(time.perf_counter() - killed)
    low, middle, high = min(seconds), statistics.median(seconds), max(seconds)
    print(f"{rounds} kills: {low:.2f} s at best, {middle:.2f} s in the middle, {high:.2f} s at worst")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10)

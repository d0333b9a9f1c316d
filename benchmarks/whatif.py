"""What replaying a record on many sizes costs: 200,000 tasks x 32 sizes, and the search for the suggested size.

Each load is replayed as `poolscope whatif` does it, in CPU seconds of one core, `--repeat` times; the command itself
(start, reading the session, printing) is timed once on the first load, in seconds of wall clock.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from array import array

from common import headline, print_table, save, shown, starting

from poolscope.commands import whatif
from poolscope.model import PoolTrace
from poolscope.signals import sizing

SECOND = 1_000_000_000
SUSTAIN_NS = SECOND


def poisson(rate):
    def arrivals(rng, count):
        at = 0.0
        for _ in range(count):
            at += rng.expovariate(rate)
            yield at

    return arrivals


def at_once(_rng, count):
    return [0.0] * count


def bursts(_rng, count):
    return [number // 500 * 2.0 for number in range(count)]


def exponential(rng):
    return rng.expovariate(20)


def fixed(_rng):
    return 0.05


#: Name: arrivals, run times (0.05 s in the mean), sizes.
LOADS = {
    "overload, then enough": (poisson(640), exponential, range(8, 71, 2)),
    "enough at most sizes": (poisson(160), exponential, range(4, 67, 2)),
    "too small at every size": (poisson(1600), exponential, range(16, 79, 2)),
    "all at once": (at_once, exponential, range(2, 65, 2)),
    "all at once, large sizes": (at_once, exponential, range(31, 993, 31)),
    "bursts of 500, fixed runs": (bursts, fixed, range(4, 67, 2)),
}


def recorded(name, count):
    """A record as a session holds it; nothing but the arrivals and the run times matters for a replay."""
    arrivals, run, sizes = LOADS[name]
    rng = random.Random(name)
    numbers = array("q")
    for at in arrivals(rng, count):
        submitted = int(at * SECOND)
        numbers.extend((0, submitted, submitted, submitted + int(run(rng) * SECOND)))
    return PoolTrace(("load",), numbers.tobytes(), ()), list(sizes)


def measure(name, count, repeat):
    trace, sizes = recorded(name, count)
    samples = {"read": [], "replay": [], "suggest": []}
    for _ in range(repeat):
        begin = time.process_time()
        tasks = whatif.tasks(trace, 0)
        read = time.process_time()
        sizing.curve(tasks, sizes)
        replayed = time.process_time()
        sizing.suggest(tasks, SUSTAIN_NS)
        samples["read"].append(read - begin)
        samples["replay"].append(replayed - read)
        samples["suggest"].append(time.process_time() - replayed)
    return {"sizes": len(sizes), **samples}


def command_seconds(name, count):
    """The whole command, on a session of one pool with this record."""
    from poolscope import session
    from poolscope.profiler import profile

    with profile() as recording:
        from poolscope import ThreadPoolExecutor

        with ThreadPoolExecutor(1, name="load") as pool:
            pool.submit(int).result()
    trace, sizes = recorded(name, count)
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "load.session")
        one = session.Session(recording.report, tuple(trace for _ in recording.report.pools))
        session.save(one, path)
        command = [sys.executable, "-m", "poolscope", "whatif", path, "--workers", ",".join(map(str, sizes))]
        begin = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return time.perf_counter() - begin


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=int, default=200_000)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", help="keep the record")
    options = parser.parse_args()
    started = starting()
    headline(f"{options.tasks:,} tasks, CPU seconds, median (min..max) of {options.repeat}")
    results = {name: measure(name, options.tasks, options.repeat) for name in LOADS}
    print_table(
        ("load", "sizes", "read", "replay", "suggest"),
        [
            (name, str(found["sizes"]), *(shown(found[part]) for part in ("read", "replay", "suggest")))
            for name, found in results.items()
        ],
    )
    first = next(iter(LOADS))
    whole = command_seconds(first, options.tasks)
    print(f"\npoolscope whatif on {first!r}, from start to exit: {whole:.2f} s")
    if options.json:
        save(options.json, "whatif", options, started, {**results, "command_seconds": whole})


if __name__ == "__main__":
    main()

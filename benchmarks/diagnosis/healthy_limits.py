"""Healthy hours of limits, connections and queues on a virtual clock: how often the judge calls for help without need.

python -m benchmarks.diagnosis.healthy_limits [--hours 20] [--first 801] [--jobs 2]

A limit is recorded as the probe does it: only while something waits there, and with what holds it as that begins. What
its holders do is seen ten times a second. There is no machine in it, so what goes wrong here is the judge's own.
"""

import argparse
import random
import sys
from bisect import bisect_right
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from heapq import heappop, heappush
from multiprocessing import get_context
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))

from benchmarks.diagnosis.recording import arrivals
from common import headline, print_table
from pool_support import VirtualPool, simulate

from poolscope.messages import Stack, StackSample
from poolscope.rules.reason import Criteria

#: Seconds of one trace.
LENGTH = 120.0
HOLDS, WAITS = ("/app/service.py", 20, "call"), ("/app/service.py", 19, "call")
#: What the holders of each kind wait for.
GATES = {"lock": "await", "semaphore": "await", "connections": "client", "queue": "await"}

FAMILIES = {}


def family(kind, **criteria):
    """Registers a generator of (places, load): holds or items (submitted, run, function), seconds."""

    def register(generate):
        FAMILIES[generate.__name__] = (generate, kind, Criteria(**criteria))
        return generate

    return register


def _open(rng, places, load, run, *, exponential):
    times = arrivals(rng, [(LENGTH, load * places / run)])
    return [(at, rng.expovariate(1 / run) if exponential else run, 1) for at in times]


def _at_once(rng, places, run):
    """More than there are places at once, now and then, and over in a second."""
    count, every = int(places * max(2, rng.uniform(0.2, 0.7) / run)), rng.uniform(1.5, 4)
    return [(number * every, run, 1) for number in range(int(LENGTH / every)) for _ in range(count)]


@family("lock")
def lock_held_briefly(rng):
    """Microseconds to milliseconds, by very many."""
    run = rng.uniform(0.0002, 0.004)
    return 1, _open(rng, 1, rng.uniform(0.1, 0.6), run, exponential=rng.random() < 0.5)


@family("lock")
def lock_with_room(rng):
    run = rng.uniform(0.01, 0.1)
    return 1, _open(rng, 1, rng.uniform(0.1, 0.5), run, exponential=rng.random() < 0.5)


@family("lock")
def long_honest_hold(rng):
    """One that takes seconds, such as a reload, behind which all others wait once."""
    run = rng.uniform(0.001, 0.01)
    load = _open(rng, 1, rng.uniform(0.1, 0.3), run, exponential=True)
    every = rng.uniform(20, 40)
    return 1, sorted(load + [(number * every, rng.uniform(2, 6), 2) for number in range(1, int(LENGTH / every))])


@family("semaphore")
def semaphore_with_room(rng):
    places, run = rng.choice((2, 3, 5, 10, 20)), rng.uniform(0.02, 0.3)
    return places, _open(rng, places, rng.uniform(0.2, 0.7), run, exponential=True)


@family("semaphore")
def semaphore_of_equal_holds(rng):
    places, run = rng.choice((2, 3, 5, 10, 20)), rng.uniform(0.02, 0.3)
    return places, _open(rng, places, rng.uniform(0.2, 0.7), run, exponential=False)


@family("semaphore")
def many_at_once(rng):
    places, run = rng.choice((3, 5, 10, 20)), rng.uniform(0.02, 0.2)
    return places, _at_once(rng, places, run)


@family("semaphore", intended=True)
def limit_on_purpose(rng):
    """Reached all the time, as the settings say that it may be."""
    places, run = rng.choice((2, 3, 5, 10)), rng.uniform(0.02, 0.2)
    return places, _open(rng, places, rng.uniform(1.1, 1.4), run, exponential=rng.random() < 0.5)


@family("connections")
def connections_with_room(rng):
    places, run = rng.choice((2, 5, 10, 20)), rng.uniform(0.005, 0.1)
    return places, _open(rng, places, rng.uniform(0.2, 0.7), run, exponential=True)


@family("connections")
def connections_at_once(rng):
    places, run = rng.choice((5, 10, 20)), rng.uniform(0.01, 0.1)
    return places, _at_once(rng, places, run)


@family("queue")
def consumers_with_room(rng):
    places, run = rng.choice((2, 3, 5, 8)), rng.uniform(0.02, 0.2)
    return places, _open(rng, places, rng.uniform(0.2, 0.7), run, exponential=True)


@family("queue")
def one_consumer(rng):
    run = rng.uniform(0.01, 0.1)
    return 1, _open(rng, 1, rng.uniform(0.2, 0.8), run, exponential=rng.random() < 0.5)


@family("queue")
def items_at_once(rng):
    places, run = rng.choice((2, 3, 5, 8)), rng.uniform(0.02, 0.1)
    return places, _at_once(rng, places, run)


def recorded(tasks):
    """What of these holds a limit records, each in the place that has been free for longest."""
    waits = sorted((submitted, started) for _, _, submitted, started, _ in tasks if started > submitted)
    spans = []
    for begin, end in waits:
        if spans and begin <= spans[-1][1]:
            spans[-1][1] = max(spans[-1][1], end)
        else:
            spans.append([begin, end])
    begins = [begin for begin, _ in spans]
    holds = []
    for _, function, submitted, started, ended in tasks:
        place = bisect_right(begins, started) - 1
        if started > submitted or (place >= 0 and started <= spans[place][1]):
            holds.append((submitted, started, ended, function))
        elif place + 1 < len(spans) and spans[place + 1][0] < ended:
            begin = spans[place + 1][0]  # it has it already as others begin to wait
            holds.append((begin, begin, ended, function))
    holds.sort(key=lambda hold: hold[1])
    return _placed(holds)


def _placed(holds):
    free, busy, most, found = [], [], 0, []
    for submitted, started, ended, function in holds:
        while busy and busy[0][0] <= started:
            heappush(free, heappop(busy)[1])
        if free:
            worker = heappop(free)
        else:
            most += 1
            worker = most
        heappush(busy, (ended, worker))
        found.append((worker, function, submitted, started, ended))
    return sorted(found, key=lambda task: task[2])


class Look:
    """What is seen of the holds at a moment, which only goes on."""

    def __init__(self, kind, tasks):
        self._kind, self._tasks, self._place, self._open = kind, tasks, 0, []

    def __call__(self, at):
        while self._place < len(self._tasks) and self._tasks[self._place][2] <= at:
            self._open.append(self._tasks[self._place])
            self._place += 1
        self._open = [task for task in self._open if task[4] > at]
        held = [(worker, function, started) for worker, function, _, started, _ in self._open if started <= at]
        waits = [(0, function, submitted) for _, function, submitted, started, _ in self._open if started > at]
        return StackSample(1, at, _stack(HOLDS, held, GATES[self._kind]), _stack(WAITS, waits, self._kind))


def _stack(line, rows, gate):
    return [Stack([line], 2, [number for row in rows for number in row], gate)] if rows else []


def one(work):
    """The family, and what is told above a note of one trace."""
    name, number = work
    generate, kind, criteria = FAMILIES[name]
    places, load = generate(random.Random(f"{name} {number}"))
    tasks = simulate(load, places)
    if kind in ("lock", "semaphore"):
        tasks = recorded(tasks)
    found = VirtualPool(places, kind=kind, criteria=criteria, look=Look(kind, tasks)).play(tasks).case.findings()
    return name, number, [finding.summary for finding in found if finding.severity != "info"]


def main():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.diagnosis.healthy_limits", description=__doc__)
    parser.add_argument("--hours", type=float, default=20.0)
    parser.add_argument("--first", type=int, default=801, help="the seed, as for the board")
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    count = round(options.hours * 3600 / LENGTH / len(FAMILIES)) or 1
    headline(f"{count * len(FAMILIES) * LENGTH / 3600:.1f} hours, {count} traces of each family, seed {options.first}")
    work = [(name, 10_000 * options.first + number) for number in range(count) for name in FAMILIES]
    alarms, told = Counter(), []
    with ProcessPoolExecutor(options.jobs, get_context("spawn")) as pool:
        for name, number, found in pool.map(one, work, chunksize=4):
            alarms[name] += len(found)
            told += [f"{name} {number}: {summary}" for summary in found]
    print_table(
        ["family", "hours", "alarms"], [[name, f"{count * LENGTH / 3600:.1f}", str(alarms[name])] for name in FAMILIES]
    )
    print(f"\n{len(told)} alarms\n" + "".join(f"\n- {line}" for line in told))


if __name__ == "__main__":
    main()

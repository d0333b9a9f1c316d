"""Traces on a virtual clock: what a probe would have told of a pool, through poolscope's judge, as fast as it goes.

There is no machine in it, so what goes wrong here is the judge's own. Tasks start first come, first served.
"""

import random
import sys
from concurrent.futures import ProcessPoolExecutor
from heapq import heapify, heappop, heappush
from multiprocessing import get_context
from pathlib import Path

import msgspec

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))

from benchmarks.diagnosis import truth
from benchmarks.diagnosis.recording import Expected, arrivals
from benchmarks.diagnosis.scores import Subject
from pool_support import ORIGIN, VirtualPool, simulate

from poolscope.signals.pool_signals import ProcessSignals

TRACES = {}
WAITING = ProcessSignals(cores_used=0.1, cores_allowed=4.0, gil=True)
COMPUTING = ProcessSignals(cores_used=1.0, cores_allowed=4.0, gil=True)


def trace(pattern=None, cause=(), *, size="none", info=False, process=WAITING, cpu_share=0.0, limit=None):
    """Registers a generator of (workers, load): tasks (submitted, run, function), seconds."""
    expected = Expected("pool", pattern, cause, size=size, info=info, limit=limit)

    def register(generate):
        TRACES[generate.__name__] = (generate, expected, process, cpu_share)
        return generate

    return register


def _pool(rng):
    return rng.choice((2, 3, 4, 6, 8, 16, 32)), rng.uniform(0.02, 0.3)


class Open(list):
    """An open load, and what it was drawn from: phases as in `arrivals`, the mean run (s), whether by a clock."""

    def __init__(self, tasks, plan, run, regular):
        super().__init__(tasks)
        self.plan, self.run, self.regular = plan, run, regular


def _open(rng, plan, run, *, exponential=False, regular=False):
    times = arrivals(rng, plan, regular=regular)
    tasks = ((at, rng.expovariate(1 / run) if exponential else run, 1) for at in times)
    return Open(tasks, plan, run, regular)


@trace()
def healthy_exponential(rng):
    workers, run = _pool(rng)
    return workers, _open(rng, [(120.0, rng.uniform(0.2, 0.8) * workers / run)], run, exponential=True)


@trace()
def healthy_fixed(rng):
    workers, run = _pool(rng)
    return workers, _open(rng, [(120.0, rng.uniform(0.2, 0.8) * workers / run)], run)


@trace()
def healthy_mixed(rng):
    """One task in ten takes ten times as long."""
    workers, run = rng.choice((8, 16, 32)), rng.uniform(0.02, 0.05)
    times = arrivals(rng, [(120.0, rng.uniform(0.2, 0.6) * workers / (1.9 * run))])
    return workers, [(at, run * 10, 2) if rng.random() < 0.1 else (at, run, 1) for at in times]


@trace()
def bursts(rng):
    workers, run = _pool(rng)
    count, every = int(workers * max(1, rng.uniform(0.2, 0.7) / run)), rng.uniform(1.5, 4)
    return workers, [(number * every, run, 1) for number in range(int(120 / every)) for _ in range(count)]


@trace()
def rounds(rng):
    workers, run = _pool(rng)
    every = run * rng.uniform(1.2, 3)
    return workers, [(number * every, run, 1) for number in range(int(60 / every)) for _ in range(workers)]


@trace()
def consumers(rng):
    """Some workers are held on purpose, and the others keep up."""
    workers = rng.choice((4, 8, 16))
    held, run = workers - max(2, workers // 2), rng.uniform(0.02, 0.1)
    load = _open(rng, [(25.0, rng.uniform(0.2, 0.5) * (workers - held) / run)], run, exponential=True)
    return workers, [(0.0, 25.0, 2)] * held + load


@trace("saturated", "blocking_io", size="replay")
def sudden_overload(rng):
    workers, run = _pool(rng)
    plan = [
        (rng.uniform(3, 20), rng.uniform(0.2, 0.7) * workers / run),
        (rng.uniform(3, 8), rng.uniform(1.4, 3) * workers / run),
    ]
    return workers, _open(rng, plan, run, exponential=rng.random() < 0.5)


@trace("saturated", "blocking_io", size="replay")
def ramp(rng):
    workers, run = _pool(rng)
    plan = [(rng.uniform(8, 20), 0.3 * workers / run, rng.uniform(1.6, 2.5) * workers / run)]
    return workers, _open(rng, plan, run, exponential=rng.random() < 0.5, regular=rng.random() < 0.3)


@trace("saturated", "blocking_io", size="replay")
def flapping(rng):
    workers, run = _pool(rng)
    full = workers / run
    plan = [(rng.uniform(1, 2), rng.uniform(1.8, 2.5) * full), (rng.uniform(3, 6), 0.2 * full)] * 5
    return workers, _open(rng, plan, run, exponential=rng.random() < 0.5)


@trace("batch", "blocking_io", info=True)
def batch(rng):
    workers, run = _pool(rng)
    count = int(rng.uniform(3, 20) * workers / run)
    fixed = rng.random() < 0.5
    return workers, [(0.0, run if fixed else rng.expovariate(1 / run), 1) for _ in range(count)]


@trace("saturated", "blocking_io")
def clients_that_wait(rng):
    """Each client submits when its last task has ended, and a while has passed."""
    workers, run = rng.choice((2, 3, 4, 8)), rng.uniform(0.02, 0.2)
    think, clients = run * rng.choice((0.0, 0.1, 0.5)), workers * rng.randint(3, 6)
    free, ready, load = [0.0] * workers, [0.0] * clients, []
    heapify(free)
    while (at := heappop(ready)) < 15:
        load.append((at, run, 1))
        end = max(at, heappop(free)) + run
        heappush(free, end)
        heappush(ready, end + think)
    return workers, load


@trace("serial", "single_worker", size="replay")
def one_worker(rng):
    run = rng.uniform(0.02, 0.1)
    return 1, _open(rng, [(5.0, 0.4 / run), (rng.uniform(3, 8), rng.uniform(1.5, 3) / run)], run)


@trace("async_then_serial", "slow_tasks")
def head_of_line(rng):
    workers, short, long = rng.choice((4, 8, 16)), rng.uniform(0.01, 0.03), rng.uniform(1.0, 3.0)
    load = _open(rng, [(12.0, 0.3 * workers / short)], short)
    load += [(4 + at, long, 2) for at in arrivals(rng, [(6.0, rng.uniform(1.1, 1.6) * workers / long)])]
    return workers, load


@trace("saturated", "cpu_bound", process=COMPUTING, cpu_share=0.25, limit=1)
def computing(rng):
    """Four workers share one core, so each takes four times as long as alone."""
    run = rng.uniform(0.05, 0.2)
    return 4, _open(rng, [(rng.uniform(4, 8), rng.uniform(1.5, 2.5) * 4 / run)], run)


def drawn(name, number):
    """(workers, load) of one trace."""
    return TRACES[name][0](random.Random(f"{name} {number}"))


def one(name, number):
    """The subject of one trace."""
    _, expected, process, cpu_share = TRACES[name]
    workers, load = drawn(name, number)
    tasks = [(submitted, start, end, None) for _, _, submitted, start, end in simulate(load, workers)]
    pool = VirtualPool(workers, process=process).run(load, cpu_share)
    found, doubtful = truth.troubles(workers, tasks, expected.limit)
    last = max(end for _, _, end, _ in tasks)
    subject = Subject(name, number, "pool", seconds=(last - ORIGIN) / 1e9)
    subject.findings = [
        msgspec.to_builtins(finding) | {"marked": None}
        for finding in pool.case.findings()
        if finding.pattern != "burst"
    ]
    if expected.pattern is None:
        subject.label(expected, (), doubtful or bool(found), (), None)
    elif not found:
        subject.label(expected, (), doubtful, (), None)
    else:
        troubles = truth.main_troubles(found)
        knees = tuple((trouble.knee - ORIGIN) / 1e9 for trouble in troubles)
        patterns = troubles[0].patterns if expected.pattern == "saturated" else (expected.pattern,)
        subject.label(expected, patterns, False, knees, (troubles[0].due - ORIGIN) / 1e9)
        if expected.size == "replay":
            subject.needed = truth.first_size(workers, tasks)
    return subject


def _one(work):
    return one(*work)


def subjects(count, first, jobs=2):
    """`count` traces, of each family in turn, numbered from `first` thousands on so that seeds do not overlap."""
    names = list(TRACES)
    work = [(names[index % len(names)], 10_000 * first + index // len(names)) for index in range(count)]
    with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
        return list(pool.map(_one, work, chunksize=8))

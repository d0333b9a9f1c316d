"""How often chance is reported, and how soon trouble could be told from it.

python -m benchmarks.diagnosis.limits [--hours 40] [--traces 160] [--first 401] [--jobs 2]

*Alarms*: pools at a load that never changes, at random, with fixed and exponential run times, for so many hours of
virtual time each. Every finding above info counts, also where the board's label is withdrawn: the stretch was there, by
chance.

*Limits*: the simulated traces again, each compared with an ideal observer. It knows how the trace was drawn, except for
what chance will do: the rate of arrivals at every moment, the mean run, and that trouble is a rate above what is
healthy. The likelihood ratio of arrivals as they come between the two rates (the sum of ln(rate / healthy), less the
integral of the difference, never below 0) is the most that any test can use (Neyman and Pearson; Page for the restart
at 0). The observer reports once it is as high as poolscope requires, where the condition of the pattern holds. Loads by
a clock are not random, and are left to poolscope.
"""

import argparse
import math
import random
import sys
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.diagnosis import simulated
from benchmarks.diagnosis.recording import arrivals
from common import headline, print_table
from pool_support import VirtualPool

from poolscope.signals import significance

#: Seconds of one trace of a load that never changes.
STEADY_SECONDS = 120.0
UTILISATIONS = (0.6, 0.8)
#: What is settled and read is two ticks old.
READ_SECONDS = 0.2
STEP_SECONDS = 0.02
#: A finding that comes more than this after it could (s) is late.
LATE_SECONDS = 1.0
FAMILIES = ("ramp", "sudden_overload", "flapping", "one_worker", "computing")


def steady(utilisation, number):
    """What is told of a pool at that load in `STEADY_SECONDS`."""
    rng = random.Random(f"steady {utilisation} {number}")
    workers, run = rng.choice((2, 3, 4, 6, 8, 16, 32)), rng.uniform(0.02, 0.3)
    times = arrivals(rng, [(STEADY_SECONDS, utilisation * workers / run)])
    exponential = number % 2
    load = [(at, rng.expovariate(1 / run) if exponential else run, 1) for at in times]
    found = VirtualPool(workers).run(load).case.findings()
    return sum(finding.severity != "info" for finding in found)


def _rate(plan, at):
    """Arrivals a second at that moment of a load in phases."""
    for seconds, rate, *last in plan:
        if at < seconds:
            return rate + ((last[0] if last else rate) - rate) * at / seconds
        at -= seconds
    return 0.0


def knowing(workers, load, due):
    """How late (s) the ideal observer reports trouble that could be reported at `due`; None: never."""
    capacity = workers / load.run
    # Where there are two phases, the first is the load before.
    before = load.plan[0][1] / capacity if len(load.plan) == 2 else significance.HEALTHY_UTILISATION
    healthy = capacity * min(significance.HEALTHY_UTILISATION, max(significance.LEAST_UTILISATION, before))
    needed = math.log(
        max(1.0, 3600 * capacity * (1 - math.sqrt(significance.HEALTHY_UTILISATION)) ** 2)
        / significance.ALARMS_PER_HOUR
    )
    moments = sorted(at for at, *_ in load)
    ends = [step * STEP_SECONDS for step in range(round(moments[-1] / STEP_SECONDS) + 2)]
    evidence, place = 0.0, 0
    for begin, end in pairwise(ends):
        rate = _rate(load.plan, begin)
        least = min(rate, healthy)
        evidence -= (rate - least) * STEP_SECONDS
        while place < len(moments) and moments[place] < end:
            evidence += math.log(rate / least) if least else 0.0
            place += 1
        evidence = max(0.0, evidence)
        if end >= due and evidence >= needed:
            return end + READ_SECONDS - due
    return None


def compared(first, work):
    """(kind, how late poolscope reported, how late the ideal observer did) of one trace; None without trouble."""
    name, number = work
    number += 10_000 * first
    subject = simulated.one(name, number)
    if not subject.positive:
        return None
    workers, load = simulated.drawn(name, number)
    late = math.inf if subject.delay is None else subject.delay
    if load.regular:
        return f"{name}, by a clock", late, None
    best = knowing(workers, load, subject.due)
    return name, late, math.inf if best is None else best


def _late(delays):
    return f"{sum(delay > LATE_SECONDS for delay in delays)} of {len(delays)}"


def main():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.diagnosis.limits", description=__doc__)
    parser.add_argument("--hours", type=float, default=40.0, help="of each load that never changes")
    parser.add_argument("--traces", type=int, default=160, help="of each family")
    parser.add_argument("--first", type=int, default=401, help="the seed, as for the board")
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    count = round(options.hours * 3600 / STEADY_SECONDS)
    headline(f"{options.hours:g} hours of each load, {options.traces} traces of each family, seed {options.first}")
    with ProcessPoolExecutor(options.jobs, get_context("spawn")) as pool:
        rows = []
        for utilisation in UTILISATIONS:
            told = sum(pool.map(partial(steady, utilisation), range(count), chunksize=8))
            rows.append([f"{utilisation:.0%}", str(told), f"{told / options.hours:.3f}"])
        print()
        print_table(["load", "told", "an hour"], rows)
        work = [(name, number) for name in FAMILIES for number in range(options.traces)]
        kinds = defaultdict(list)
        for kind, *delays in filter(None, pool.map(partial(compared, options.first), work, chunksize=8)):
            kinds[kind].append(delays)
    rows = []
    for kind, found in kinds.items():
        told, best = ([delay for delay in delays if delay is not None] for delays in zip(*found, strict=True))
        after = sum(late > LATE_SECONDS and knows <= LATE_SECONDS for late, knows in found if knows is not None)
        rows.append([kind, _late(told), f"{median(told):.2f}"])
        rows[-1] += [_late(best), f"{median(best):.2f}", str(after)] if best else ["-", "-", "-"]
    print()
    print_table(["family", "late", "median, s", "ideal: late", "median, s", "late, where the ideal is not"], rows)


if __name__ == "__main__":
    main()

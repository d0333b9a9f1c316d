"""What watching adds to one operation: each family without us, installed, and without us again, by turns."""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import random
import sys

from common import headline, in_child, print_table, save, shown, spread, starting, to_standard
from contestants import watch

import poolscope

CONTESTANTS = {
    "standard": contextlib.nullcontext,
    "again": contextlib.nullcontext,
    "watched": lambda: poolscope.install(loops=False),
}


def main(script, benchmark, description, families, *, rounds):
    """Compare `families`, each in an interpreter of its own that runs `script`, which calls this.

    Of each name they have a function that runs so many rounds and returns ns a round, and for which part of `rounds`.
    """
    parser = argparse.ArgumentParser(description=description.partition("\n")[0])
    parser.add_argument("--repeat", type=int, default=15)
    parser.add_argument("--rounds", type=int, default=rounds, help="of each run, fewer where they wait")
    parser.add_argument("--json", metavar="FILE", help="write every sample there")
    parser.add_argument("--cell", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.cell:
        run, part = families[options.cell]
        print(json.dumps(_samples(options.cell, run, int(options.rounds * part), options.repeat)))
        return
    started = starting()
    headline(f"{options.repeat} repetitions of up to {options.rounds} rounds")
    results, rows = [], []
    for family in families:
        samples = in_child(script, *sys.argv[1:], "--cell", family)
        base = samples["standard"]
        ratios = to_standard(samples)
        added = [took - standard for took, standard in zip(samples["watched"], base, strict=True)]
        results.append(
            {
                "family": family,
                "samples_ns_per_round": samples,
                "ratios": {contestant: spread(found) for contestant, found in ratios.items()},
            }
        )
        rows.append([family, shown(base, ".0f"), *map(shown, ratios.values()), shown(added, ".0f")])
    print_table(["", "standard ns", "again", "watched", "added ns"], rows)
    if options.json:
        save(options.json, benchmark, options, started, results)


def _samples(family, run, rounds, repeat):
    """Samples of each contestant."""
    probe = watch()
    samples = {contestant: [] for contestant in CONTESTANTS}
    rng = random.Random(family)
    for _ in range(repeat):
        for contestant in rng.sample(list(samples), len(samples)):
            probe.flush()  # what others have left is not for this one to fetch
            gc.collect()
            with CONTESTANTS[contestant]():
                samples[contestant].append(run(rounds))
    return samples

"""What watching costs beside what it cost before: short runs of `overhead.py` against the stored `baseline.json`.

    python benchmarks/compare.py [--repeat N] [--tasks N] [--write]

Prints a table and always ends with status 0: it is a report, not a gate. Ratios to the standard executor hold from
machine to machine, but for some tenths; `standard again` shows how noisy this one is now. `--write` stores what was
measured for this version of Python.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from common import print_table

HERE = Path(__file__).parent
BASELINE = HERE / "baseline.json"
WORKERS = 4
WORKLOADS = ("batch", "map", "callbacks", "ping-pong pinned")
CONTESTANTS = ("standard again", "drop-in", "drop-in judged", "patched")


def measured(repeat, tasks):
    """Workload -> contestant -> median ratio to the standard executor."""
    with tempfile.TemporaryDirectory() as folder:
        record = Path(folder) / "overhead.json"
        sizes = ["--repeat", repeat, "--tasks", tasks, "--workers", WORKERS]
        chosen = ["--workload", ",".join(WORKLOADS), "--contestants", ",".join(CONTESTANTS)]
        words = [sys.executable, HERE / "overhead.py", *sizes, *chosen, "--json", record]
        subprocess.run([*map(str, words)], stdout=subprocess.DEVNULL, check=True)
        results = json.loads(record.read_text())["results"]
    return {
        result["workload"]: {name: round(result["ratios"][name]["median"], 2) for name in CONTESTANTS}
        for result in results
    }


def rows(now, before):
    """A row for each workload and contestant: now, stored, and how many times as much."""
    for workload, ratios in now.items():
        for name, ratio in ratios.items():
            stored = before.get(workload, {}).get(name)
            change = "" if stored is None else f"{ratio / stored:.2f}"
            yield [workload, name, f"{ratio:.2f}", "none" if stored is None else f"{stored:.2f}", change]


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeat", type=int, default=7)
    parser.add_argument("--tasks", type=int, default=10_000)
    parser.add_argument("--baseline", type=Path, default=BASELINE, metavar="FILE")
    parser.add_argument("--write", action="store_true", help="store what was measured")
    options = parser.parse_args()
    version = "{}.{}".format(*sys.version_info)
    stored = json.loads(options.baseline.read_text()) if options.baseline.exists() else {}
    now = measured(options.repeat, options.tasks)
    print(f"Python {version}: ratio to the standard executor, {WORKERS} workers, median of {options.repeat}")
    print_table(["workload", "executor", "now", "stored", "now / stored"], list(rows(now, stored.get(version, {}))))
    if options.write:
        stored[version] = now
        options.baseline.write_text(json.dumps(dict(sorted(stored.items())), indent=1) + "\n")


if __name__ == "__main__":
    main()

"""The fastest submission there is: does the engine keep up, does memory stay flat, is every task counted?

    python benchmarks/flood.py [--seconds 60] [--stop 0] [--repeat 1] [--only TEXT] [--json FILE]

A pool of 2 workers gets tasks that do nothing, 2,000 at a time, the last of which is waited for, for so many seconds.

    drop-in      the drop-in executor under `poolscope run`
    patched      the standard one under `poolscope run`
    in process   the drop-in executor, judged in the process

With `--stop` the parent is stopped (SIGSTOP) for so many seconds in the midst. Memory is the resident set in MiB of the
program and of the parent, looked at a tenth of the time apart. `by number` are tasks of which only the numbers are
known; `lost` are those that the program counted and the report did not. `end` is how long it took from the last task to
the end of all, `CPU` what poolscope used in all, a task.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import headline, print_table, save, starting

CASES = ("drop-in", "patched", "in process")
LOOKS = 10

PROGRAM = """
import json, sys, time
kind, seconds, result = sys.argv[1:]
if kind == "patched":
    from concurrent.futures import ThreadPoolExecutor
else:
    from poolscope import ThreadPoolExecutor

def nothing():
    pass

end, count = time.monotonic() + float(seconds), 0
with ThreadPoolExecutor(2, thread_name_prefix="flood") as pool:
    while time.monotonic() < end:
        for future in [pool.submit(nothing) for _ in range(2000)]:
            pass
        future.result()
        count += 2000
if kind == "in process":
    import poolscope
    report = poolscope.report()
    [row] = report.pools
    told = {
        "pools": [{"tasks": {"submitted": row.tasks.submitted, "succeeded": row.tasks.succeeded}}],
        "notices": report.notices,
        "overhead": {"cpu_seconds": report.overhead.cpu_seconds},
    }
    with open(result, "w") as file:
        json.dump(told, file)
print(json.dumps([count, time.monotonic()]), flush=True)
"""


def resident_mib(pid):
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    except (OSError, IndexError):
        return None


def child_of(pid):
    try:
        return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])
    except (OSError, IndexError):
        return None


def run(case, seconds, stop, folder):
    script, report = folder / "flood_program.py", folder / "report.json"
    script.write_text(PROGRAM)
    words = [str(script), case, str(seconds), str(report)]
    if case != "in process":
        words = ["-m", "poolscope", "run", "--quiet", "--json", str(report), *words]
    process = subprocess.Popen([sys.executable, *words], stdout=subprocess.PIPE, text=True)
    memory = {"program": [], "parent": []}
    for look in range(1, LOOKS):
        time.sleep(seconds / LOOKS)
        program = process.pid if case == "in process" else child_of(process.pid)
        memory["program"].append(resident_mib(program))
        if case != "in process":
            memory["parent"].append(resident_mib(process.pid))
            if stop and look == LOOKS // 2:
                os.kill(process.pid, signal.SIGSTOP)
                time.sleep(stop)
                os.kill(process.pid, signal.SIGCONT)
    said = process.stdout.readline()
    count, last = json.loads(said)
    process.communicate()
    ended = time.monotonic()
    told = json.loads(report.read_text())
    tasks = told["pools"][0]["tasks"] if told["pools"] else {"submitted": 0, "succeeded": 0}
    by_number = [int(notice.split()[0].replace(",", "")) for notice in told["notices"] if "one by one" in notice]
    return {
        "tasks": count,
        "lost": count - min(tasks["submitted"], tasks["succeeded"]),
        "by_number": sum(by_number),
        "memory_mib": memory,
        "end_seconds": ended - last,
        "cpu_us": told["overhead"]["cpu_seconds"] * 1e6 / count,
        "notices": told["notices"],
        "status": process.returncode,
    }


def curve(samples):
    return " ".join("-" if sample is None else f"{sample:.0f}" for sample in samples) or "-"


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--stop", type=float, default=0.0, help="stop the parent for so many seconds")
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--only", help="the cases whose names contain this")
    parser.add_argument("--json", metavar="FILE", help="write every sample there")
    options = parser.parse_args()
    started = starting()
    headline(f"{options.seconds:g} s of tasks that do nothing, the parent stopped for {options.stop:g} s")
    results, rows = {}, []
    for case in CASES:
        if options.only is not None and options.only not in case:
            continue
        results[case] = []
        for _ in range(options.repeat):
            with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
                found = run(case, options.seconds, options.stop, Path(folder))
            results[case].append(found)
            rows.append(
                [
                    case,
                    f"{found['tasks']:,}",
                    f"{found['lost']:,}",
                    f"{found['by_number']:,}",
                    curve(found["memory_mib"]["program"]),
                    curve(found["memory_mib"]["parent"]),
                    f"{found['cpu_us']:.1f} us",
                    f"{found['end_seconds']:.1f} s",
                ]
            )
    print()
    print_table(["", "tasks", "lost", "by number", "program, MiB", "parent, MiB", "CPU", "end"], rows)
    if options.json:
        save(options.json, "flood", options, started, results)


if __name__ == "__main__":
    main()

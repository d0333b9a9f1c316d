"""What it takes to judge a fleet: time, memory, and what is asked of the engine.

    python benchmarks/fleet.py [--pools 1000,10000] [--hours 6] [--interval 60] [--busy 0.02] [--seed 1] [--json FILE]
    python benchmarks/fleet.py --find [--instances 500] [--each 10] [--sick 20]
    python benchmarks/fleet.py --healthy 150

The samples are made up, written as OpenMetrics and made blocks of by promtool: a real Prometheus has them before
it starts (both are Debian's). `poolscope fleet` is a process of its own; its peak of resident memory is the kernel's.

    pools     so many thread pools, ten of each instance; in a part of them (`--busy`) tasks wait for half an hour
    healthy   of the same, none waits: what is only looked at
    find      so many instances with ten pools each, of which some turn serial: how many of them are found, and how many
              others are said to have a finding
    healthy N N pools of random size and run time, whose tasks come at random and take half to four fifths of their
              workers' time: how often one is said to have a finding; by runs that are exponential, and by some that
              scatter far more (lognormal, sigma 1.5). Without an engine
    overloaded N
              the same, of less load, but from half of the time on 1.3 to 2 times as much work comes as they bear, as
              there are more tasks or as each runs for longer: how many of them are found. Without an engine
"""

from __future__ import annotations

import argparse
import contextlib
import heapq
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from array import array
from pathlib import Path

from common import headline, integers, print_table, save, starting

from poolscope.config.settings import Settings
from poolscope.fleet import known
from poolscope.fleet.judging import Instance, Range
from poolscope.fleet.samples import Assembly, Series

#: 2026-08-01 14:00 UTC, when a block of a Prometheus begins; and how long one is.
BEGIN = 1_785_592_800
BLOCK_SECONDS = 7200
WORKERS = 8
RUN_SECONDS = 0.5
POOLS_OF_AN_INSTANCE = 10
METRICS = (
    "executor_pool_max_threads",
    "executor_pool_core_threads",
    "executor_pool_size_threads",
    "executor_active_threads",
    "executor_queued_tasks",
    "executor_queue_remaining_tasks",
    "executor_completed_tasks_total",
)


def scrapes(random_, seconds, interval, sick_from=None, sick_until=None):
    """(time, active, queued, done) of a pool whose load varies, and is more than it bears for some time."""
    queued = done = 0.0
    for now in range(0, seconds + 1, interval):
        sick = sick_from is not None and sick_from <= now < sick_until
        rate = 20.0 if sick else random_.uniform(1.0, 12.0)
        capacity = WORKERS / RUN_SECONDS
        queued = max(0.0, queued + (rate - capacity) * interval)
        active = WORKERS if queued else min(WORKERS, round(rate * RUN_SECONDS))
        done += active / RUN_SECONDS * interval
        yield BEGIN + now, active, int(queued), int(done)


def write(folder, pools, seconds, interval, seed, sick):
    """Write the samples of all pools as OpenMetrics, a file for each block of a Prometheus, as promtool reads all of a
    file for each block; `sick` are the numbers of those that fill. The paths."""
    random_ = random.Random(seed)
    paths = [folder / f"samples-{begin}.txt" for begin in range(0, seconds + 1, BLOCK_SECONDS)]
    with contextlib.ExitStack() as open_files:
        files = [open_files.enter_context(open(path, "w")) for path in paths]
        for number in range(pools):
            labels = (
                f'{{job="orders",instance="10.0.{number // POOLS_OF_AN_INSTANCE // 250}.'
                f'{number // POOLS_OF_AN_INSTANCE % 250}:8080",name="pool{number % POOLS_OF_AN_INSTANCE}"}}'
            )
            begin = random_.randrange(seconds // 4, seconds // 2)
            when = (begin, begin + 1800) if number in sick else (None, None)
            series = [f"{name}{labels} " for name in METRICS]
            lines = [[] for _ in files]
            for at, active, queued, done in scrapes(random_, seconds, interval, *when):
                values = (WORKERS, WORKERS, WORKERS, active, queued, 2147483647 - queued, done)
                lines[(at - BEGIN) // BLOCK_SECONDS] += [
                    f"{begin}{value} {at}\n" for begin, value in zip(series, values, strict=True)
                ]
            for file, part in zip(files, lines, strict=True):
                file.write("".join(part))
        for file in files:
            file.write("# EOF\n")
    return paths


class Prometheus:
    """A server on loopback that has these samples."""

    def __init__(self, folder, pools, seconds, interval, seed, sick):
        for text in write(folder, pools, seconds, interval, seed, sick):
            command = ["promtool", "tsdb", "create-blocks-from", "openmetrics", "--quiet", text, folder / "data"]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            text.unlink()
        (folder / "prometheus.yml").write_text("{}\n")
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.url = f"http://127.0.0.1:{free.getsockname()[1]}"
        self.process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address={self.url[7:]}",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while not self.is_ready():
            time.sleep(0.1)

    def is_ready(self):
        if self.process.poll() is not None:
            sys.exit("prometheus ended")
        try:
            with urllib.request.urlopen(f"{self.url}/-/ready", timeout=5) as answer:
                return answer.status == 200
        except (OSError, urllib.error.URLError):
            return False

    def close(self):
        self.process.terminate()
        self.process.wait()


def survey(url, seconds, folder):
    """Seconds, peak of resident memory (bytes) and report of one look at all of it."""
    path = folder / "report.json"
    path.unlink(missing_ok=True)
    command = [sys.executable, "-m", "poolscope", "fleet", url, "--json", str(path), "--quiet"]
    command += ["--from", str(BEGIN), "--to", str(BEGIN + seconds), "--yes"]
    start = time.monotonic()
    child = subprocess.Popen(command)
    _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        sys.exit(f"poolscope fleet ended with {child.returncode}")
    return time.monotonic() - start, used.ru_maxrss * 1024, json.loads(path.read_text())


def measured(pools, options, busy):
    """One row: so many pools, a part of which is busy."""
    seconds = options.hours * 3600
    sick = set(random.Random(options.seed).sample(range(pools), round(busy * pools)))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        server = Prometheus(folder, pools, seconds, options.interval, options.seed, sick)
        try:
            runs = [survey(server.url, seconds, folder) for _ in range(options.repeat)]
        finally:
            server.close()
    taken, peak, report = min(runs, key=lambda run: run[0])
    found = sum(each["instances"] for each in report["findings"] if each["severity"] != "info")
    stored = pools * len(METRICS) * (seconds // options.interval + 1)
    return {
        "pools": pools,
        "sick": len(sick),
        "found": found,
        "stored": stored,
        "read": report["cost"]["samples"],
        "requests": report["cost"]["requests"],
        "megabytes": report["cost"]["bytes"] / 1e6,
        "seconds": taken,
        "peak_megabytes": peak / 1e6,
    }


def random_load(random_, workers, run, utilisation, seconds, interval, scattered, more=1.0, longer=1.0):
    """(active, queued, done) of a pool at each scrape; from half of the time on so many times as many tasks come, or
    run so many times as long."""
    rate, half = utilisation * workers / run, seconds / 2
    next_one, ends, queued, done, at = random_.expovariate(rate), [], 0, 0, 0.0

    def takes(now):
        mean = run * (longer if now >= half else 1.0)
        # exp(sigma^2 / 2) is the mean of a lognormal one
        return mean * random_.lognormvariate(0, 1.5) / 3.0802 if scattered else random_.expovariate(1 / mean)

    while at <= seconds:
        now = min(next_one, ends[0]) if ends else next_one
        while at < now and at <= seconds:
            yield len(ends), queued, done
            at += interval
        if now == next_one:
            next_one = now + random_.expovariate(rate * (more if now >= half else 1.0))
            if len(ends) < workers:
                heapq.heappush(ends, now + takes(now))
            else:
                queued += 1
        else:
            heapq.heappop(ends)
            done += 1
            if queued:
                queued -= 1
                heapq.heappush(ends, now + takes(now))


class Judge:
    """Judges a Java pool of these samples, as the only one of its instance."""

    def __init__(self):
        self.mappings = known.shipped()
        self.by_name = {mapping.name: mapping for mapping in self.mappings}

    def verdict(self, workers, interval, seconds, load):
        found = [(workers, workers, workers, a, q, room(q), d) for a, q, d in load]
        at = array("d", (BEGIN + interval * step for step in range(len(found))))
        assembly = Assembly(known.present(self.mappings, METRICS))
        for name, values in zip(METRICS, zip(*found, strict=True), strict=True):
            assembly.add(Series({"__name__": name, "job": "a", "instance": "b", "name": "c"}, at, array("d", values)))
        (verdict,) = Instance(assembly.pools(), self.by_name).judge(Range(BEGIN, BEGIN + seconds, str), Settings(), {})
        return verdict


def drawn(random_):
    """Workers, mean run (s), seconds between two scrapes, and kind of runs of a pool."""
    workers, run = random_.choice([1, 2, 4, 8, 16, 50]), random_.choice([0.2, 1, 5, 30])
    return workers, run, random_.choice([15, 60]), random_.choice(["exponential", "lognormal"])


def healthy(options):
    """Rows: hours of healthy pools, and what is said of them."""
    random_, judge = random.Random(options.seed), Judge()
    rows = {kind: [0.0, 0, 0, 0] for kind in ("exponential", "lognormal")}
    for _ in range(options.healthy):
        workers, run, interval, kind = drawn(random_)
        # So many tasks are enough.
        seconds = max(1800, min(options.hours * 3600, int(60_000 * run / workers)))
        load = random_load(random_, workers, run, random_.uniform(0.5, 0.8), seconds, interval, kind == "lognormal")
        verdict = judge.verdict(workers, interval, seconds, load)
        row = rows[kind]
        row[0] += seconds / 3600
        row[1] += 1
        row[2] += verdict.state == "finding" and verdict.severity != "info"
        row[3] += verdict.state == "finding" and verdict.severity == "info"
    return rows


def overloaded(options):
    """Rows: pools that are overloaded from half of the time on, by why and for how many mean runs, and how many of them
    are found."""
    random_, judge = random.Random(options.seed), Judge()
    rows = {}
    for _ in range(options.overloaded):
        workers, run, interval, kind = drawn(random_)
        utilisation, why = random_.uniform(0.3, 0.7), random_.choice(["more tasks", "longer runs"])
        seconds = max(3600, min(7200, int(60_000 * run / workers)))
        times = random_.uniform(1.3, 2.0) / utilisation
        change = {"more": times} if why == "more tasks" else {"longer": times}
        load = random_load(random_, workers, run, utilisation, seconds, interval, kind == "lognormal", **change)
        verdict = judge.verdict(workers, interval, seconds, load)
        lasts = "below 1,000" if seconds / 2 / run < 1000 else "1,000 and more"
        row = rows.setdefault((why, kind, lasts), [0, 0])
        row[0] += 1
        row[1] += verdict.severity != "info"
    return rows


def room(queued):
    """The room that an unbounded queue of Java says it has."""
    return 2147483647 - queued


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pools", type=integers, default=[1000, 10_000])
    parser.add_argument("--hours", type=int, default=6)
    parser.add_argument("--interval", type=int, default=60)
    parser.add_argument("--busy", type=float, default=0.02)
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--find", action="store_true")
    parser.add_argument("--instances", type=int, default=500)
    parser.add_argument("--each", type=int, default=POOLS_OF_AN_INSTANCE)
    parser.add_argument("--sick", type=int, default=20)
    parser.add_argument("--healthy", type=int, metavar="N")
    parser.add_argument("--overloaded", type=int, metavar="N")
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    if options.healthy:
        rows = healthy(options)
        print_table(
            ("runs", "hours", "pools", "false alarms", "notes"),
            [(kind, f"{row[0]:.0f}", *map(str, row[1:])) for kind, row in rows.items()],
        )
        return
    if options.overloaded:
        rows = sorted(overloaded(options).items())
        head = ("overloaded by", "runs", "for so many mean runs", "pools", "found")
        print_table(head, [(*key, *map(str, row)) for key, row in rows])
        return
    missing = [program for program in ("prometheus", "promtool") if shutil.which(program) is None]
    if missing:
        sys.exit(f"no {missing[0]}: install Debian's package prometheus")
    started = starting()
    headline(f"a fleet, {options.hours} h scraped every {options.interval} s")
    if options.find:
        pools = options.instances * options.each
        rows = [measured(pools, options, options.sick / pools)]
    else:
        rows = [measured(pools, options, options.busy) for pools in options.pools]
    print_table(
        ("pools", "sick", "found", "samples stored", "read", "requests", "MB", "seconds", "peak MB"),
        [
            (
                f"{row['pools']:,}",
                str(row["sick"]),
                str(row["found"]),
                f"{row['stored']:,}",
                f"{row['read']:,}",
                str(row["requests"]),
                f"{row['megabytes']:.1f}",
                f"{row['seconds']:.1f}",
                f"{row['peak_megabytes']:.0f}",
            )
            for row in rows
        ],
    )
    if options.json:
        save(options.json, "fleet", options, started, rows)


if __name__ == "__main__":
    main()

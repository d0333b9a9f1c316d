"""A day of processes that come and go, told by messages: whether memory stays flat and counters stay true.

    python benchmarks/churn.py [--children N] [--home parent|process|workers] [--seconds S] [--json FILE]

`parent`: a judge as `poolscope run` has it, and N processes one after the other, beside one that lives on and has a
pool of the same name. `process`: one process that makes as many pools and loops. `workers`: N processes that serve one
address, whose totals go into those of the dead. Time is simulated, S seconds from one to the next (0.864: 100,000 in a
day). Each of them has

- a pool of a name that all share, and every third one a pool of a name of its own
- tasks of a function that all share, and of one of its own, some of which fail or are cancelled
- an event loop in a thread of a name of its own, and one of a shared name, with a block at a line of its own file
- a notice with its number in it, and now and then an incident, a failure of a part, and a message that does not fit
- a note of a short saturation, every fiftieth one a warning of a long one

At every scrape, each 50 children or so, every counter is compared with what was told, by name and in all, and with the
scrape before. Printed at 10 %, 50 % and 100 %: resident memory, objects, rows, lines and bytes of a scrape, bytes of
the report, and whether the counters were true so far.
"""

from __future__ import annotations

import argparse
import gc
import os
from collections import Counter

import msgspec
from common import headline, print_table, save, starting
from prometheus_client import CollectorRegistry, generate_latest

from poolscope.config import Settings
from poolscope.engine import Engine
from poolscope.messages import PROTOCOL
from poolscope.metrics.families import SnapshotCollector
from poolscope.metrics.merge import merged, retired
from poolscope.multiprocess.wire import VERSION, Dead, encoded

SECOND = 1_000_000_000
#: Processes between two scrapes.
SCRAPE_EVERY = 50
#: Process numbers are used again.
PIDS = 30_000
TASKS = 8
LIVING = 1  # the source of the process that lives on
FIRST = 2


class Truth:
    """What was told, by the series that it must be shown in."""

    def __init__(self):
        self.submitted = Counter()
        self.outcomes = Counter()
        self.started = 0
        self.busy_ns = 0
        self.lags = 0
        self.blocked_ns = 0
        self.lines_warned = 0


class Churn:
    """Tells a judge of processes, pools and loops that come and go."""

    def __init__(self, judge, *, seconds):
        self.judge = judge
        self.truth = Truth()
        self.step_ns = int(seconds * SECOND)
        self.number = 0
        self.now = SECOND

    def begin(self, source, pid):
        hello = ("hello", PROTOCOL, pid, 1, ["python", "app.py", f"--part={self.number}"], "3.13.0", self.now, True)
        self.judge.feed(source, hello)
        self.judge.feed(source, ("function", 1, "app.work", "/app/app.py", 10))

    def child(self, source, pid, ids=0):
        """One process from its begin to its end; `ids` is where its numbers for pools, loops and functions begin."""
        number, feed = self.number, self.judge.feed
        own = 2 + ids
        feed(source, ("function", own, f"jobs.job_{number}", f"/app/job_{number}.py", 3))
        self.pool(source, 1 + ids, "web", own)
        if number % 3 == 0:
            self.pool(source, 2 + ids, f"tenant-{number}", own, closes=True)
        self.loop(source, 1 + ids, f"Thread-{number} (run)", number)
        self.loop(source, 2 + ids, "MainThread", None)
        feed(source, ("notice", f"process {pid}: library {number} is not seen"))
        if number % 20 == 0:
            feed(source, ("incident", f"a worker of process {pid} was killed"))
            feed(source, ("fault", "stacks", f"RuntimeError: number {number}"))
            feed(source, ("fault", f"part-{number}", "RuntimeError"))
            feed(source, ("from_a_later_probe", number))
            feed(source, ("pool_opened", 9, number, "thread", "x", "x", 1, self.now))
        feed(source, ("process_tick", self.now + SECOND, 1_000_000, 1_000, 2.0, 0))

    def pool(self, source, pool, name, own, *, closes=False):
        long = self.number % 50 == 0
        at, truth = self.now, self.truth
        workers = 2
        opened = ("pool_opened", pool, name, "thread", "x.ThreadPoolExecutor", f"/app/{name}.py:1", workers, at)
        self.judge.feed(source, opened)
        tasks, run = (40, SECOND // 8) if long else (TASKS, 20_000_000)
        arrivals, finished, free = [], [], [at] * workers
        for task in range(tasks):
            function, worker = (1, own)[task % 2], task % workers
            begin, free[worker] = free[worker], free[worker] + run
            failed = task % 7 == 3
            arrivals += [function, at]
            finished.append((worker + 1, function * 2 + failed, at, begin, free[worker]))
            truth.outcomes[name, "failed" if failed else "succeeded"] += 1
            truth.busy_ns += run
        arrivals += [own, at]
        truth.outcomes[name, "cancelled"] += 1
        truth.submitted[name] += tasks + 1
        truth.started += tasks
        flat = [item for task in sorted(finished) for item in task]
        end = max(free)
        self.judge.feed(source, ("pool_batch", pool, at, workers, workers, 0, 0, [], [], [], [], arrivals))
        cancelled = [own, at, at + run]
        self.judge.feed(source, ("pool_batch", pool, end, workers, workers, 500, 1, flat, [], cancelled, [], []))
        if closes:
            self.judge.feed(source, ("pool_closed", pool, end))

    def loop(self, source, loop, name, line):
        feed, at, truth = self.judge.feed, self.now, self.truth
        feed(source, ("loop_opened", loop, name, "asyncio", at))
        feed(source, ("loop_tick", loop, at + 1000, [1_000_000] * 3, 2))
        truth.lags += 3
        if line is not None:
            lines = [(f"/app/job_{line}.py", 7, "main")]
            length = 2 * SECOND if line % 50 == 0 else SECOND // 5
            feed(source, ("loop_block", loop, 1, at, at + length, "blocking_call", lines, 0.0))
            truth.blocked_ns += length
        feed(source, ("loop_closed", loop, at + 4 * SECOND))

    def go_on(self):
        self.judge.tick(self.now + 6 * SECOND)
        self.judge.deliver()
        self.now += self.step_ns
        self.number += 1


class Checked:
    """A scrape that is compared with the truth, and with the scrape before."""

    def __init__(self, snapshot, truth):
        self._snapshot = snapshot
        self._truth = truth
        self._collector = SnapshotCollector(lambda: self._snapshot(), Settings())
        self._before = {}
        self.wrong = []

    def text(self):
        registry = CollectorRegistry(auto_describe=False)
        registry.register(SnapshotCollector(lambda: self._snapshot(), Settings()))
        return generate_latest(registry)

    def check(self):
        shown = {}
        for family in self._collector.collect():
            for sample in family.samples:
                shown[sample.name, tuple(sorted(sample.labels.items()))] = sample.value
        truth = self._truth
        self._sum(shown, "poolscope_pool_tasks_submitted_total", sum(truth.submitted.values()))
        self._same(shown, "poolscope_pool_tasks_submitted_total", {"pool": "web"}, truth.submitted["web"])
        self._sum(shown, "poolscope_pool_tasks_finished_total", sum(truth.outcomes.values()))
        for outcome in ("succeeded", "failed", "cancelled"):
            labels = {"pool": "web", "outcome": outcome}
            self._same(shown, "poolscope_pool_tasks_finished_total", labels, truth.outcomes["web", outcome])
        self._sum(shown, "poolscope_pool_busy_seconds_total", truth.busy_ns / 1e9)
        self._sum(shown, "poolscope_task_run_seconds_count", truth.started)
        rows = self._snapshot().pools
        started = sum(started for row in rows for _, started, _ in (*row.functions, *row.former_functions))
        if started != truth.started:
            self.wrong.append(f"functions were started {started} times, not {truth.started}")
        self._sum(shown, "poolscope_loop_lag_seconds_count", truth.lags)
        self._sum(shown, "poolscope_loop_blocked_seconds_total", truth.blocked_ns / 1e9)
        for key, value in shown.items():
            if key[0].endswith(("_total", "_count", "_bucket", "_sum")) and value < self._before.get(key, 0):
                self.wrong.append(f"{key} fell from {self._before[key]} to {value}")
        self._before = shown

    def _same(self, shown, name, labels, expected):
        found = shown.get((name, tuple(sorted(labels.items()))), 0)
        if found != expected:
            self.wrong.append(f"{name}{labels} is {found}, not {expected}")

    def _sum(self, shown, name, expected):
        found = sum(value for (sample, _), value in shown.items() if sample == name)
        if abs(found - expected) > 1e-6 * expected:
            self.wrong.append(f"the sum of {name} is {found}, not {expected}")


def rss():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")


class Parent:
    """The judge of a parent, or of one process."""

    def __init__(self, *, seconds, one_process):
        self.judge = Engine(Settings(), started_ns=SECOND, log=len)
        self.churn = Churn(self.judge, seconds=seconds)
        self.one_process = one_process
        self.scrape = Checked(lambda: self.judge.snapshot(self.churn.now), self.churn.truth)
        self.churn.begin(LIVING, PIDS + 1)

    def step(self):
        churn, judge = self.churn, self.judge
        if self.one_process:
            churn.child(LIVING, PIDS + 1, ids=3 * churn.number)
            judge.feed(LIVING, ("pool_closed", 1 + 3 * churn.number, churn.now + 5 * SECOND))
        else:
            source, pid = FIRST + churn.number, 300 + churn.number % PIDS
            if churn.number % SCRAPE_EVERY == 0:
                churn.pool(LIVING, 1 + churn.number, "web", 1)
                judge.feed(LIVING, ("pool_closed", 1 + churn.number, churn.now + 5 * SECOND))
            churn.begin(source, pid)
            churn.child(source, pid)
            if churn.number % 10:
                judge.feed(source, ("bye", churn.now + 5 * SECOND))
            judge.lost(source, churn.now + 5 * SECOND)
        churn.go_on()

    def report(self):
        session = self.judge.session(
            self.churn.now, command=["app.py"], started_at="now", exit_code=None, own_cpu_seconds=0.0
        )
        return session.report

    def standing(self):
        report, records = self.report(), self.judge._ingest
        truth = self.churn.truth
        tasks = sum(pool.tasks.submitted for pool in report.pools)
        if tasks != sum(truth.submitted.values()):
            self.scrape.wrong.append(f"the report has {tasks} tasks, not {sum(truth.submitted.values())}")
        processes = sum(process.count for process in report.processes)
        if not self.one_process and processes != self.churn.number + 1:
            self.scrape.wrong.append(f"the report has {processes} processes, not {self.churn.number + 1}")
        text = self.scrape.text()
        return {
            "rows": len(records.pool_rows) + len(records.loop_rows),
            "processes": len(report.processes),
            "findings": len(report.findings),
            "notices": len(report.notices),
            "lines": text.count(b"\n"),
            "scrape kB": len(text) // 1000,
            "report kB": len(report.to_json()) // 1000,
        }


class Workers:
    """The totals of the processes that served one address."""

    def __init__(self, *, seconds):
        self.seconds = seconds
        self.totals = None
        self.truth = Truth()
        self.number = 0
        self.now = SECOND
        self.scrape = Checked(self.merged, self.truth)
        self.living = self.made(PIDS + 1)

    def made(self, pid):
        judge = Engine(Settings(), started_ns=self.now)
        churn = Churn(judge, seconds=self.seconds)
        churn.truth, churn.number, churn.now = self.truth, self.number, self.now
        churn.begin(LIVING, pid)
        churn.pool(LIVING, 99, "web", 1)
        return churn

    def merged(self):
        living = self.living.judge.snapshot(self.now + 9 * SECOND)
        return merged([living], [self.totals] if self.totals is not None else [])

    def step(self):
        churn = self.made(300 + self.number % PIDS)
        churn.child(LIVING, 300 + self.number % PIDS)
        churn.judge.finish(self.now + 5 * SECOND)
        churn.go_on()
        last = churn.judge.snapshot(self.now + 6 * SECOND)
        self.totals = retired(self.totals, last, lambda: [self.living.judge.snapshot(self.now)])
        self.now, self.number = churn.now, churn.number

    def standing(self):
        text = self.scrape.text()
        data = encoded(Dead(VERSION, "", (0, 0), (), self.totals))
        return {
            "rows": len(self.totals.pools) + len(self.totals.loops),
            "findings": len(self.totals.findings),
            "lines": text.count(b"\n"),
            "scrape kB": len(text) // 1000,
            "report kB": len(data) // 1000,
        }


def home(name, seconds):
    return Workers(seconds=seconds) if name == "workers" else Parent(seconds=seconds, one_process=name == "process")


def run(name, children, seconds, marks, scrape_every=SCRAPE_EVERY):
    """Yields what stands at each of the `marks` (children)."""
    made = home(name, seconds)
    for number in range(1, children + 1):
        made.step()
        if number % scrape_every == 0:
            made.scrape.check()
        if number in marks:
            standing = made.standing()
            gc.collect()
            yield {
                "children": number,
                "RSS MB": round(rss() / 1e6, 1),
                "objects": len(gc.get_objects()),
                **standing,
                "counters": "true" if not made.scrape.wrong else f"{len(made.scrape.wrong)} wrong",
                "wrong": made.scrape.wrong[:5],
            }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--children", type=int, default=100_000)
    parser.add_argument("--home", choices=("parent", "process", "workers"), default="parent")
    parser.add_argument("--seconds", type=float, default=0.864, help="simulated, from one child to the next")
    parser.add_argument("--scrape", type=int, default=SCRAPE_EVERY, metavar="N", help="children between two scrapes")
    parser.add_argument("--json", metavar="FILE", help="write what was measured there")
    options = parser.parse_args()
    started = starting()
    headline(f"{options.children:,} children, {options.home}")
    marks = {max(1, options.children * percent // 100) for percent in (10, 50, 100)}
    found = []
    for row in run(options.home, options.children, options.seconds, marks, options.scrape):
        found.append(row)
        print(f"{row['children']:,} children, {row['RSS MB']} MB, counters {row['counters']}", flush=True)
        for wrong in row["wrong"]:
            print(wrong)
    print()
    columns = [name for name in found[0] if name != "wrong"]
    print_table(columns, [[f"{row[name]:,}" if name != "counters" else row[name] for name in columns] for row in found])
    if options.json:
        save(options.json, "churn", options, started, msgspec.to_builtins(found))


if __name__ == "__main__":
    main()

"""The suggested size against reality: what the replay promises, and what a run at that size then does.

python benchmarks/sizing.py [--workloads poisson/exponential,...] [--json PATH]

Each open-loop workload (arrivals / run times) is run under `poolscope run` on a pool that is too small; size,
p95 wait and makespan are taken from the report, and the program is run again at that size, unwatched, with the same
arrivals and run times. What is real comes from the program's own log. A prediction holds if it is within 15 % of the
real value, or within 5 % of the median run, whichever is larger.

Closed loops must get no number. Those whose submitters are as many all the time are replayed with them: what the curve
says of twice the size must hold as above, with the time for as many tasks in the place of the makespan; others, as
their number grows or other tasks come beside, must have no curve. `server` is FastAPI, 100 clients, 20 threads.

`woken late` is the p95 of how much longer than asked the tasks slept, in the recorded and in the real run: it shows
where a loaded machine made the two runs differ. It excuses nothing: the verdict is by the rule above.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import queue
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import FIRST_COMPLETED, wait

from common import headline, names, print_table, save, starting

SECONDS = 4.0
MEAN_RUN = 0.08
#: Workers' worth of work that arrives, and workers of the pool that is too small.
OFFERED = 12
SMALL = 6
TOLERANCE = 0.15
TOLERANCE_RUN = 0.05


def poisson(rng):
    at = 0.0
    while (at := at + rng.expovariate(OFFERED / MEAN_RUN)) < SECONDS:
        yield at


def fixed(_rng):
    rate = OFFERED / MEAN_RUN
    yield from (number / rate for number in range(int(SECONDS * rate)))


def bursty(rng):
    """Bursts of a Poisson number of tasks, half a second apart."""
    count = OFFERED / MEAN_RUN / 2
    for burst in range(int(SECONDS * 2)):
        at = burst / 2
        for _ in range(round(rng.gauss(count, math.sqrt(count)))):
            yield at
            at += rng.expovariate(10 * OFFERED / MEAN_RUN)


def ramp(rng):
    """From nothing to twice the mean rate: the square root of a uniform time."""
    count = round(SECONDS * OFFERED / MEAN_RUN)
    yield from sorted(SECONDS * math.sqrt(rng.random()) for _ in range(count))


ARRIVALS = {"poisson": poisson, "fixed": fixed, "bursty": bursty, "ramp": ramp}
RUNS = {
    "exponential": lambda rng: rng.expovariate(1 / MEAN_RUN),
    "fixed": lambda _: MEAN_RUN,
    "bimodal": lambda rng: MEAN_RUN / 2 if rng.random() < 0.8 else 3 * MEAN_RUN,
    "lognormal": lambda rng: MEAN_RUN * rng.lognormvariate(-0.125, 0.5),
}
OPEN = [
    "poisson/exponential",
    "poisson/fixed",
    "poisson/bimodal",
    "poisson/lognormal",
    "fixed/exponential",
    "fixed/fixed",
    "fixed/bimodal",
    "bursty/exponential",
    "bursty/fixed",
    "bursty/lognormal",
    "ramp/exponential",
    "ramp/bimodal",
]


# -- the programs that are run -----------------------------------------------------------------------------


def program(workload, workers, log):
    """One run of the workload; writes (submitted, started, finished, seconds asked for) of each task to `log`."""
    from poolscope import ThreadPoolExecutor

    if workload == "closed: server":
        server(workers, log)
        return
    rng = random.Random(workload)
    stamps = []

    def task(number, seconds):
        stamps[number][1] = time.perf_counter()
        time.sleep(seconds)
        stamps[number][2] = time.perf_counter()

    def submit(seconds):
        stamps.append([time.perf_counter(), 0.0, 0.0, seconds])
        return pool.submit(task, len(stamps) - 1, seconds)

    with ThreadPoolExecutor(workers, name="load") as pool:
        CLOSED.get(workload, open_loop)(workload, rng, submit)
    with open(log, "w") as file:
        json.dump(stamps, file)


def open_loop(workload, rng, submit):
    arrivals, _, runs = workload.partition("/")
    load = [(at, RUNS[runs](rng)) for at in ARRIVALS[arrivals](rng)]
    begin = time.perf_counter()
    for at, seconds in load:
        time.sleep(max(0.0, begin + at - time.perf_counter()))
        submit(seconds)


def clients(_workload, rng, submit):
    """Four tasks for each worker at a time, the next one when one is done."""
    running = {submit(rng.expovariate(1 / MEAN_RUN)) for _ in range(4 * SMALL)}
    end = time.perf_counter() + SECONDS
    while time.perf_counter() < end:
        done, running = wait(running, return_when=FIRST_COMPLETED)
        running |= {submit(rng.expovariate(1 / MEAN_RUN)) for _ in done}


def bounded(_workload, rng, submit):
    """A bound on what is submitted, its places given back by callbacks."""
    places = queue.SimpleQueue()
    for _ in range(3 * SMALL):
        places.put(None)
    end = time.perf_counter() + SECONDS
    while time.perf_counter() < end:
        places.get()
        submit(RUNS["lognormal"](rng)).add_done_callback(lambda _: places.put(None))


def batches(_workload, rng, submit):
    """Batches one after the other, each waited for."""
    for _ in range(4):
        wait([submit(RUNS["bimodal"](rng)) for _ in range(25 * SMALL)])


def callers(_workload, rng, submit):
    """Threads that each submit, wait for the result, and submit again."""
    calling(rng, submit, [0.0] * (4 * SMALL))


def growing(_workload, rng, submit):
    """More and more of them."""
    calling(rng, submit, [SECONDS * number / (6 * SMALL) for number in range(6 * SMALL)])


def beside(_workload, rng, submit):
    """Such threads, and other tasks that come whatever they do."""
    clients = threading.Thread(target=calling, args=(rng, submit, [0.0] * (4 * SMALL)))
    clients.start()
    begin, at, others = time.perf_counter(), 0.0, random.Random(1)
    while (at := at + others.expovariate(0.4 * SMALL / MEAN_RUN)) < SECONDS:
        time.sleep(max(0.0, begin + at - time.perf_counter()))
        submit(others.expovariate(1 / MEAN_RUN))
    clients.join()


def calling(rng, submit, begins):
    """A thread from each of these times on."""
    lock, begin = threading.Lock(), time.perf_counter()

    def call(at):
        time.sleep(at)
        while time.perf_counter() < begin + SECONDS:
            with lock:  # the same runs in the same order, whoever takes them
                seconds = rng.expovariate(1 / MEAN_RUN)
                future = submit(seconds)
            future.result()

    threads = [threading.Thread(target=call, args=(at,)) for at in begins]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def server(workers, log):
    """FastAPI with so many threads, and clients that ask again as soon as they have an answer."""
    import asyncio

    import anyio.to_thread
    import uvicorn
    from fastapi import FastAPI

    app, rng, lock, stamps = FastAPI(), random.Random("server"), threading.Lock(), []

    @app.get("/")
    def answer(asked: float):
        started = time.perf_counter()
        with lock:
            seconds = rng.expovariate(1 / MEAN_RUN)
        time.sleep(seconds)
        stamps.append((asked, started, time.perf_counter(), seconds))
        return "done"

    async def client(port, end):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while time.perf_counter() < end:
            writer.write(f"GET /?asked={time.perf_counter()} HTTP/1.1\r\nHost: it\r\n\r\n".encode())
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length"))
            await reader.readexactly(int(length.split()[1]))
        writer.close()

    async def main():
        anyio.to_thread.current_default_thread_limiter().total_tokens = workers
        serving = uvicorn.Server(uvicorn.Config(app, port=0, log_level="critical"))
        task = asyncio.create_task(serving.serve())
        while not serving.started:
            await asyncio.sleep(0.01)
        port = serving.servers[0].sockets[0].getsockname()[1]
        end = time.perf_counter() + SECONDS
        await asyncio.gather(*(client(port, end) for _ in range(CLIENTS)))
        serving.should_exit = True
        await task

    asyncio.run(main())
    with open(log, "w") as file:
        json.dump(sorted(stamps), file)


def pipeline(_workload, rng, submit):
    """Tasks that the workers of another full pool submit, and do not wait for."""
    from poolscope import ThreadPoolExecutor

    def stage(first, second):
        time.sleep(first)
        submit(second)

    with ThreadPoolExecutor(SMALL, name="first stage") as pool:
        for _ in range(int(SECONDS * SMALL / MEAN_RUN)):
            pool.submit(stage, rng.expovariate(1 / MEAN_RUN), 2 * rng.expovariate(1 / MEAN_RUN))


CLOSED = {
    "closed: pipeline": pipeline,
    "closed: clients": clients,
    "closed: bounded": bounded,
    "closed: batches": batches,
    "closed: callers": callers,
    "closed: server": server,
    "closed: growing": growing,
    "closed: beside": beside,
}
#: Replayed with their submitters; the others must have no curve but that of a batch.
REPLAYED = ["closed: clients", "closed: bounded", "closed: callers", "closed: server"]
#: Of the server, which has as many threads as it has in use mostly.
CLIENTS, THREADS = 100, 20


# -- recorded, predicted, run again ------------------------------------------------------------------------


def run(folder, workload, workers, *, watched):
    """The pool's row of the report (None if not watched), and the stamps of the tasks."""
    log, report = os.path.join(folder, "log.json"), os.path.join(folder, "report.json")
    watch = ["-m", "poolscope", "run", "--quiet", "--json", report] if watched else []
    subprocess.run(
        [sys.executable, *watch, os.path.abspath(__file__), "--program", workload, str(workers), log], check=True
    )
    with open(log) as file:
        stamps = json.load(file)
    if not watched:
        return None, stamps
    with open(report) as file:
        row = next(row for row in json.load(file)["pools"] if row["name"] in ("load", "anyio.to_thread"))
    return row, stamps


def late_p95(stamps):
    """By how much the tasks outslept what they asked for: what the rest of the machine did to the run."""
    late = sorted(finished - started - asked for _, started, finished, asked in stamps)
    return late[(len(late) - 1) * 95 // 100]


def advice_of(row):
    return [found["advice"] for found in row["findings"] if found["severity"] != "info"]


def against_reality(folder, workload):
    row, recorded = run(folder, workload, SMALL, watched=True)
    size = next((advice["suggested_max_workers"] for advice in advice_of(row)), None)
    if size is None:
        return {"holds": False, "advice": advice_of(row)}
    predicted = next(point for point in row["sizing"] if point["workers"] == size)
    _, stamps = run(folder, workload, size, watched=False)
    return compared(SMALL, size, predicted, recorded, stamps)


def compared(now, size, predicted, recorded, stamps):
    """What was predicted beside what is real. A closed loop does more in the same time: for as many tasks then."""
    tasks = min(len(recorded), len(stamps))
    waits = sorted(started - submitted for submitted, started, *_ in stamps)
    run_p50 = statistics.median(finished - started for _, started, finished, _ in stamps)
    makespan = max(finished for *_, finished, _ in stamps) - stamps[0][0]
    real = {
        "wait_p95_seconds": waits[(len(waits) - 1) * 95 // 100],
        "makespan_seconds": makespan * tasks / len(stamps),
    }
    errors = {name: predicted[name] - value for name, value in real.items()}
    holds = all(abs(error) <= max(TOLERANCE * real[name], TOLERANCE_RUN * run_p50) for name, error in errors.items())
    return {
        "now": now,
        "size": size,
        "tasks": len(stamps),
        "run_p50": run_p50,
        "predicted": predicted,
        "real": real,
        "late_p95_seconds": [late_p95(recorded), late_p95(stamps)],
        "holds": holds,
    }


def without_number(folder, workload):
    now = THREADS if workload == "closed: server" else SMALL
    row, stamps = run(folder, workload, now, watched=True)
    advice = advice_of(row)
    numbers = [given["suggested_max_workers"] for given in advice if given["suggested_max_workers"] is not None]
    if workload in REPLAYED and row["sizing"] and not numbers:
        predicted = next(point for point in row["sizing"] if point["workers"] == 2 * now)
        return compared(now, 2 * now, predicted, stamps, run(folder, workload, 2 * now, watched=False)[1])
    # Batches one after the other are notes, each of which has its curve, or one load that waits for its results.
    noted = any(found["pattern"] == "batch" for found in row["findings"])
    holds = not numbers and (noted or (bool(advice) and row["sizing"] is None))
    return {"tasks": len(stamps), "advice": advice, "holds": holds}


def shown(workload, found):
    verdict = "holds" if found["holds"] else "FAILS"
    if "size" not in found:
        actions = ", ".join(sorted({given["action"] for given in found["advice"]})) or "no finding"
        return (workload, str(found.get("tasks", "")), "none", f"({actions})", "", "", "", "", verdict)
    cells = [workload, str(found["tasks"]), f"{found['now']} -> {found['size']}"]
    for name in ("wait_p95_seconds", "makespan_seconds"):
        cells += [f"{found['predicted'][name]:.3f}", f"{found['real'][name]:.3f}"]
    cells.append(" / ".join(f"{1000 * late:.1f} ms" for late in found["late_p95_seconds"]))
    return (*cells, verdict)


def main():
    if sys.argv[1:2] == ["--program"]:
        workload, workers, log = sys.argv[2:]
        return program(workload, int(workers), log)
    known = [*OPEN, *CLOSED]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workloads", type=names(known), default=known)
    parser.add_argument("--json", help="keep the record")
    options = parser.parse_args()
    started = starting()
    headline("seconds; the size is the report's, reality is the program's own log at that size")
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        for workload in options.workloads:
            judge = without_number if workload in CLOSED else against_reality
            results[workload] = judge(folder, workload)
    print_table(
        (
            "workload",
            "tasks",
            "size",
            "p95 wait predicted",
            "real",
            "makespan predicted",
            "real",
            "woken late",
            "verdict",
        ),
        [shown(workload, found) for workload, found in results.items()],
    )
    failed = [workload for workload, found in results.items() if not found["holds"]]
    print(f"\n{len(results) - len(failed)} of {len(results)} hold")
    if options.json:
        save(options.json, "sizing", options, started, results)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

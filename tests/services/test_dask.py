"""Dask's workers, processes of a real cluster on this machine, driven into saturation and back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cli_support import environment, python, script, watched
from service_support import Ended

#: A module that the workers import: functions of a script itself are sent to them as values, without their file.
WORK = """
import time
from distributed import worker_client

def fetch(number):
    time.sleep(0.1)
    return number * number

def fail(number):
    raise ValueError(number)

async def later(number):
    return -number

def divided(number):
    with worker_client() as client:
        return sum(client.gather(client.map(fetch, [1000 + number, 2000 + number])))
"""
#: Two workers of two threads, gentle, overloaded, gentle again.
PROGRAM = """
import sys
import time
from distributed import Client, LocalCluster
from work import divided, fail, fetch, later

def main():
    with LocalCluster(n_workers=2, threads_per_worker=2, dashboard_address=":0") as cluster, Client(cluster) as client:
        begin(client)
        for number in range(4):
            print(client.submit(fetch, number, pure=False).result())
        print(sum(client.gather(client.map(fetch, range(80), pure=False))))
        for number in range(4):
            print(client.submit(fetch, number, pure=False).result())
        print(client.submit(later, 3).result(), client.submit(divided, 5).result())
        print(type(client.submit(fail, 3).exception()))
        end(client)

def begin(client):
    pass

def end(client):
    pass
"""
RUN = """
if __name__ == "__main__":
    main()
"""
#: The same, with our plugin: the report of all workers, and what their pages of metrics say meanwhile.
WITH_PLUGIN = """
import threading
from poolscope.config.settings import Settings
from poolscope.fleet.client import Access
from poolscope.fleet.pages import Watch
from poolscope.integrations.dask import WatchWorkers, report

pages = None

def scrape():
    while True:
        pages.scrape(time.time())
        time.sleep(0.25)

def begin(client):
    global pages
    client.register_plugin(WatchWorkers())
    ports = client.run(lambda dask_worker: dask_worker.http_server.port)
    pages = Watch([str(port) for port in ports.values()], Access(), Settings())
    threading.Thread(target=scrape, daemon=True).start()

def end(client):
    with open("report.json", "wb") as file:
        file.write(report(client).to_json())
    verdicts, met = pages.judge(str)
    print("met", met, sorted((each.state, each.pattern) for each in verdicts), file=sys.stderr)
"""
NAME = "dask.worker"
#: All that comes goes to the workers at once: by default the scheduler keeps what they have no thread for.
TO_WORKERS = {"DASK_DISTRIBUTED__SCHEDULER__WORKER_SATURATION": "inf"}


def check(report: dict[str, Any]) -> None:
    """Both workers turned serial at that line, each in its row, and nothing else is wrong."""
    rows = [row for row in report["pools"] if row["name"] == NAME]
    assert len({row["pid"] for row in rows}) == len(rows) == 2
    tasks: dict[str, int] = {}
    for row in rows:
        assert (row["kind"], row["executor"], row["max_workers"], row["peak_active"]) == (
            "dask",
            "distributed.worker.Worker",
            2,
            2,
        )
        # What a worker takes off another one, which has too much, is cancelled there.
        assert row["tasks"]["rejected"] == 0
        for function in row["functions"]:
            name = function["name"].rpartition(".")[2]
            tasks[name] = tasks.get(name, 0) + function["started"]
        [finding] = [found for found in row["findings"] if found["pattern"] in ("async_then_serial", "batch")]
        assert finding["cause"] == "blocking_io"
        frame = finding["frames"][0]
        assert (Path(frame["file"]).name, frame["source"]) == ("work.py", "time.sleep(0.1)")
        assert finding["until_seconds"] is not None
    # A coroutine runs in the loop.
    assert tasks == {"fetch": 90, "fail": 1, "divided": 1}
    assert sum(row["tasks"]["failed"] for row in rows) == 1
    assert {loop["pid"] for loop in report["event_loops"]} >= {row["pid"] for row in rows}


def test_workers_of_a_program(tmp_path: Path) -> None:
    script(tmp_path, WORK, "work.py")
    program = script(tmp_path, PROGRAM + RUN)
    env = environment(**TO_WORKERS)
    plain = python(program, cwd=tmp_path, env=env)
    outcome, report = watched(program, cwd=tmp_path, env=env)
    assert (outcome.status, outcome.out) == (plain.status, plain.out)
    assert outcome.status == 0, outcome.err
    check(Ended(*outcome, report).report)


def test_workers_of_a_cluster_by_our_plugin(tmp_path: Path) -> None:
    script(tmp_path, WORK, "work.py")
    program = script(tmp_path, PROGRAM + WITH_PLUGIN + RUN)
    outcome = python(program, cwd=tmp_path, env=environment(**TO_WORKERS))
    assert outcome.status == 0, outcome.err
    report = json.loads((tmp_path / "report.json").read_text())
    check(report)
    assert len(report["processes"]) == 2
    assert all(process["command"][0].startswith("tcp://127.0.0.1:") for process in report["processes"])
    # The metrics that Dask has itself show the same from outside.
    assert "'dask-worker': 2" in outcome.err

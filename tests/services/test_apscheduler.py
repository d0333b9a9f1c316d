"""APScheduler: its ten threads, driven into saturation and back, and its processes, replaced when they break."""

from __future__ import annotations

import re
from pathlib import Path

from cli_support import python, script, watched
from load_support import check_knee
from service_support import Ended

#: Each job runs once, as soon as it is added; `run` returns when so many have.
SCHEDULER = """
import os, queue, sys, time
from apscheduler.events import EVENT_JOB_ERROR, EVENT_JOB_EXECUTED
from apscheduler.executors.pool import ProcessPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler

def fetch(number):
    time.sleep(0.1)
    return number * number

def crash(number):
    os._exit(number)

class Jobs:
    def __init__(self, scheduler):
        self.scheduler = scheduler
        self.ended = queue.SimpleQueue()
        scheduler.add_listener(self.ended.put, EVENT_JOB_EXECUTED | EVENT_JOB_ERROR)

    def run(self, function, numbers, executor="default"):
        for number in numbers:
            self.scheduler.add_job(
                function, args=[number], executor=executor, misfire_grace_time=None, id=f"{function.__name__}-{number}"
            )
        ended = [self.ended.get() for _ in numbers]
        return sorted((event.job_id, event.retval) for event in ended)
"""
THREADS = (
    SCHEDULER
    + """
scheduler = BackgroundScheduler()
scheduler.start()
jobs = Jobs(scheduler)
print(len([jobs.run(fetch, [number]) for number in range(8)]))
print(jobs.run(fetch, range(150)))
print(len([jobs.run(fetch, [number]) for number in range(8)]))
scheduler.shutdown()
"""
)
PROCESSES = (
    SCHEDULER
    + """
def main():
    executor = ProcessPoolExecutor(2)
    scheduler = BackgroundScheduler(executors={"processes": executor})
    scheduler.start()
    jobs = Jobs(scheduler)
    print(jobs.run(fetch, range(6), "processes"))
    scheduler.add_job(crash, args=[3], executor="processes", misfire_grace_time=None, id="crash")
    while not executor._pool._broken or executor._instances:
        time.sleep(0.01)  # until it has broken, and has said so
    print(jobs.run(fetch, range(6), "processes"))
    scheduler.shutdown()

if __name__ == "__main__":
    main()
"""
)
NAME = "apscheduler.executors.pool:ThreadPoolExecutor.__init__.pool"
PROCESS_NAME = "apscheduler.executors.pool:ProcessPoolExecutor"


def test_ten_threads(tmp_path: Path) -> None:
    program = script(tmp_path, THREADS)
    plain = python(program, cwd=tmp_path)
    outcome, report = watched(program, cwd=tmp_path)
    assert outcome == plain
    ended = Ended(*outcome, report)
    check_knee(ended, NAME, "program.py", "time.sleep(0.1)", gentle_seconds=8 * 0.1)
    pool = ended.pool(NAME)
    assert (pool["max_workers"], pool["peak_active"]) == (10, 10)
    assert pool["created_at"].rpartition(":")[0] == f"{tmp_path.name}/program.py"
    assert [function["name"] for function in pool["functions"]] == ["__main__.fetch"]
    assert pool["tasks"]["succeeded"] == 166


def test_processes_that_break_and_are_replaced(tmp_path: Path) -> None:
    program = script(tmp_path, PROCESSES)
    plain = python(program, cwd=tmp_path)
    outcome, report = watched(program, cwd=tmp_path)
    # From 3.15 on the exception tells of the process, by its number, if that has been waited for by then.
    cause = re.compile(r"concurrent\.futures\.process\._RemoteTraceback: .*?following exception:\n\n", re.DOTALL)
    without_cause = [ended._replace(err=cause.sub("", ended.err)) for ended in (outcome, plain)]
    assert without_cause[0] == without_cause[1]
    assert not report["notices"]
    processes = [pool for pool in report["pools"] if pool["kind"] == "process"]
    first, second = sorted(processes, key=lambda pool: pool["first_submit_seconds"])
    assert (first["name"], second["name"]) == (f"{PROCESS_NAME}.__init__.pool", f"{PROCESS_NAME}._do_submit_job._pool")
    assert first["tasks"]["succeeded"] == second["tasks"]["succeeded"] == 6
    assert [function["name"] for function in second["functions"]] == ["__main__.fetch"]
    assert {function["name"] for function in first["functions"]} == {"__main__.fetch", "__main__.crash"}
    # Of those that the broken pool had taken, none is left without an end.
    assert first["tasks"]["submitted"] == first["tasks"]["succeeded"] + first["tasks"]["failed"]

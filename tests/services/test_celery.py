"""Celery's threads, driven into saturation and back."""

from __future__ import annotations

from pathlib import Path

from cli_support import python, script, watched
from load_support import check_knee
from service_support import Ended

#: A worker of four threads and its client in one process. The broker in memory is asked once a second.
PROGRAM = """
import time
from celery import Celery
from celery.contrib.testing.worker import start_worker

app = Celery("shop", broker="memory://", backend="cache+memory://", broker_connection_retry_on_startup=True)

@app.task
def fetch(number):
    time.sleep(0.1)
    return number * number

@app.task(bind=True, autoretry_for=(ValueError,))
def again(self, number):
    return number + self.request.retries

def run(task, numbers):
    results = [task.delay(number) for number in numbers]
    return [result.get(timeout=50) for result in results]

with start_worker(
    app, pool="threads", concurrency=4, prefetch_multiplier=0, perform_ping_check=False, loglevel="ERROR"
):
    print([run(fetch, [number]) for number in range(3)])
    print(run(fetch, range(100)))
    print(run(again, range(3)))
"""
NAME = "celery.concurrency.thread:TaskPool.__init__.executor"


def test_more_tasks_than_threads(tmp_path: Path) -> None:
    program = script(tmp_path, PROGRAM)
    plain = python(program, cwd=tmp_path)
    outcome, report = watched(program, cwd=tmp_path)
    assert outcome == plain
    assert outcome.status == 0, outcome.err
    ended = Ended(*outcome, report)
    check_knee(ended, NAME, "program.py", "time.sleep(0.1)", gentle_seconds=2 * 0.1)
    pool = ended.pool(NAME)
    assert (pool["kind"], pool["max_workers"], pool["peak_active"]) == ("thread", 4, 4)
    assert pool["created_at"].rpartition(":")[0] == f"{tmp_path.name}/program.py"
    assert {function["name"]: function["started"] for function in pool["functions"]} == {
        "__main__.fetch": 103,
        "__main__.again": 3,
    }

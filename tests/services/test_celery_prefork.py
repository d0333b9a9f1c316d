"""Celery's processes, driven into saturation and back."""

from __future__ import annotations

import signal
from pathlib import Path

from cli_support import environment, python, script
from database_support import redis_server
from service_support import Ended, serving, tool

SHOP = """
import os
import time
from concurrent.futures import ThreadPoolExecutor
from celery import Celery

app = Celery("shop", broker=os.environ["SHOP"], backend=os.environ["SHOP"], broker_connection_retry_on_startup=True)

@app.task
def fetch(number):
    time.sleep(0.1)
    return number * number

@app.task
def fail(number):
    raise ValueError(number)

@app.task
def many(count):
    with ThreadPoolExecutor(2, thread_name_prefix="inside") as pool:
        return sum(pool.map(len, ["x"] * count))

@app.task
def end():
    os.kill(os.getpid(), 9)
"""
CLIENT = """
from shop import end, fail, fetch, many

def run(task, numbers):
    results = [task.delay(number) for number in numbers]
    return [result.get(timeout=50, propagate=False) for result in results]

for number in range(4):
    print(run(fetch, [number]))
print(run(many, [30]))
print(run(fetch, range(100)))
for number in range(4):
    print(run(fetch, [number]))
print(run(fail, [1]))
print(type(end.delay().get(timeout=50, propagate=False)).__name__)
"""
NAME = "celery.prefork"


def driven(folder: Path, port: int, *, watched: bool) -> tuple[str, Ended]:
    """What a client of a worker with three processes got, and how the worker ended."""
    env = environment(PYTHONPATH=str(folder), SHOP=f"redis://127.0.0.1:{port}/{int(watched)}")
    words = (tool("celery"), "-A", "shop", "worker", "-P", "prefork", "-c", "3", "--prefetch-multiplier", "40")
    with serving(*words, "-l", "ERROR", folder=folder, watched=watched, env=env, listens=False) as server:
        answers = python(script(folder, CLIENT, "client.py"), cwd=folder, env=env)
        assert answers.status == 0, answers.err
        return answers.out, server.stop(signal.SIGTERM)


def test_more_tasks_than_processes(tmp_path: Path) -> None:
    script(tmp_path, SHOP, "shop.py")
    with redis_server() as port:
        plain, alone = driven(tmp_path, port, watched=False)
        answers, ended = driven(tmp_path, port, watched=True)
    assert answers == plain
    assert ended.status == alone.status
    pool = ended.pool(NAME)
    assert (pool["kind"], pool["max_workers"], pool["peak_active"]) == ("process", 3, 3)
    assert pool["tasks"] == {
        "submitted": 111,
        "started": 111,
        "succeeded": 109,
        "failed": 2,
        "cancelled": 0,
        "rejected": 0,
    }
    assert {function["name"]: function["started"] for function in pool["functions"]} == {
        "shop.fetch": 108,
        "shop.fail": 1,
        "shop.many": 1,
        "shop.end": 1,
    }
    [finding] = [found for found in pool["findings"] if found["pattern"] in ("batch", "async_then_serial")]
    assert finding["cause"] == "blocking_io"
    assert finding["until_seconds"] is not None
    assert ended.warnings() == ([] if finding["pattern"] == "batch" else [finding])
    # What a task makes in its process is in the same report.
    inside = ended.pool("inside")
    assert (inside["tasks"]["succeeded"], inside["max_workers"]) == (30, 2)
    assert inside["pid"] != pool["pid"]


BESIDE_THE_APP = """
import poolscope.integrations.celery
from celery.signals import worker_init
import celery.concurrency.prefork, celery.worker.worker

plain = celery.concurrency.prefork.TaskPool.on_start
worker_init.send(sender=None)
print(celery.concurrency.prefork.TaskPool.on_start is not plain)
"""


def test_a_worker_whose_app_imports_our_module(tmp_path: Path) -> None:
    outcome = python(script(tmp_path, BESIDE_THE_APP), cwd=tmp_path)
    assert (outcome.status, outcome.out, outcome.err) == (0, "True\n", "")

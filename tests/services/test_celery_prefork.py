"""Celery's worker processes, which are billiard's."""

from __future__ import annotations

from pathlib import Path

from billiard import pool as billiard_pool
from cli_support import python, script, watched
from probe_support import FakeProbe
from service_support import Ended

from poolscope.probe.adapters import billiard as adapter

#: A worker of two processes, in which a thread is the client; the broker is in memory, and results are files.
PROGRAM = """
import os, signal, threading, time
from celery import Celery

app = Celery("shop", broker="memory://", backend="file://{folder}/results")
app.conf.update(
    broker_transport_options=dict(polling_interval=0.01), broker_connection_retry_on_startup=True,
    worker_prefetch_multiplier=0, worker_hijack_root_logger=False, worker_redirect_stdouts=False,
)

@app.task
def fetch(number):
    time.sleep(0.1)
    return number * number

@app.task
def fail():
    raise LookupError

def ask():
    results = [fetch.delay(number) for number in range(12)]
    print(sum(result.get(timeout=50, interval=0.05, disable_sync_subtasks=False) for result in results))
    failed = fail.delay()
    print(type(failed.get(timeout=50, propagate=False, disable_sync_subtasks=False)).__name__, flush=True)
    os.kill(os.getpid(), signal.SIGTERM)

if __name__ == "__main__":
    os.makedirs("{folder}/results", exist_ok=True)
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    app.worker_main(["--quiet", "worker", "--pool=prefork", "--concurrency=2", "--loglevel=CRITICAL",
                     "--without-mingle", "--without-gossip", "--without-heartbeat"])
"""


def test_more_tasks_than_processes(tmp_path: Path) -> None:
    program = script(tmp_path, PROGRAM.format(folder=tmp_path))
    outcome, report = watched(program, cwd=tmp_path)
    assert outcome.status == 0, outcome.err
    assert outcome.out.split()[:2] == ["506", "LookupError"]
    ended = Ended(*outcome, report)
    (pool,) = [pool for pool in ended.report["pools"] if pool["executor"].startswith("billiard.")]
    assert (pool["kind"], pool["max_workers"], pool["peak_active"]) == ("process", 2, 2)
    tasks = pool["tasks"]
    assert (tasks["succeeded"], tasks["failed"], tasks["cancelled"]) == (12, 1, 0)
    assert {function["name"]: function["started"] for function in pool["functions"]} == {
        "__main__.fetch": 12,
        "__main__.fail": 1,
    }
    assert pool["peak_queue_depth"] > 0
    assert 0.1 <= pool["run_seconds"]["p50"] < 0.4


ALONE = """
    import os, time
    from billiard.pool import Pool

    def fetch(number):
        time.sleep(0.05)
        if number == 7:
            raise LookupError(number)
        return number

    if __name__ == "__main__":
        pool = Pool(2)
        results = [pool.apply_async(fetch, (number,)) for number in range(20)]
        found = 0
        for result in results:
            try:
                found += result.get(30)
            except LookupError as error:
                print(type(error).__name__)
        print(found, pool.map(abs, [-1, -2]))
        pool.close()
        pool.join()
"""


def test_billiard_by_itself(tmp_path: Path) -> None:
    program = script(tmp_path, ALONE)
    plain = python(program, cwd=tmp_path)
    outcome, report = watched(program, cwd=tmp_path)
    assert outcome == plain
    (pool,) = report["pools"]
    assert (pool["name"], pool["created_at"]) == ("__main__:<module>.pool", f"{tmp_path.name}/program.py:12")
    assert (pool["tasks"]["succeeded"], pool["tasks"]["failed"]) == (19, 1)
    assert [function["name"] for function in pool["functions"]] == ["__main__.fetch"]


def test_an_unknown_version_is_left_alone(monkeypatch):
    probe = FakeProbe()
    monkeypatch.setattr(billiard_pool.ApplyResult, "_ack", lambda self: None)
    before = dict(billiard_pool.ApplyResult.__dict__), dict(billiard_pool.Pool.__dict__)
    adapter.patch(probe)
    assert (dict(billiard_pool.ApplyResult.__dict__), dict(billiard_pool.Pool.__dict__)) == before
    assert "its pools of processes are not watched" in str(probe.messages)
    adapter.unpatch()

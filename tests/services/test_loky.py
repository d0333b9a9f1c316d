"""loky's executor of processes, of its own and joblib's."""

from __future__ import annotations

from pathlib import Path

from cli_support import python, script, watched
from joblib.externals.loky import process_executor
from probe_support import FakeProbe

from poolscope.probe.adapters import loky as adapter

PROGRAM = """
    import os, sys, time
    from loky import get_reusable_executor

    def fetch(number):
        time.sleep(0.1)
        if number == 7:
            raise LookupError(number)
        return number

    if __name__ == "__main__":
        executor = get_reusable_executor(max_workers=2)
        print(executor.submit(fetch, 1).result())
        futures = [executor.submit(fetch, number) for number in range(24)]
        print(sum(future.exception() is None and future.result() for future in futures))
        executor.shutdown()
        try:
            executor.submit(fetch, 1)
        except RuntimeError as error:
            print(type(error).__name__)
"""


def test_more_calls_than_processes(tmp_path: Path) -> None:
    program = script(tmp_path, PROGRAM)
    plain = python(program, cwd=tmp_path)
    outcome, report = watched(program, cwd=tmp_path)
    assert outcome == plain
    assert outcome.status == 0, outcome.err
    (pool,) = report["pools"]
    assert (pool["kind"], pool["max_workers"], pool["peak_active"]) == ("process", 2, 2)
    assert pool["created_at"] == f"{tmp_path.name}/program.py:12"
    counted = {"submitted": 25, "started": 25, "succeeded": 24, "failed": 1, "cancelled": 0, "rejected": 1}
    assert pool["tasks"] == counted
    assert [function["name"] for function in pool["functions"]] == ["__main__.fetch"]
    assert pool["wait_seconds"]["max"] > 0.5
    assert 0.1 <= pool["run_seconds"]["p50"] < 0.4
    assert [finding["pattern"] for finding in pool["findings"]] == ["batch"]


JOBLIB = """
    import time
    from joblib import Parallel, delayed

    def fetch(number):
        time.sleep(0.05)
        return number

    if __name__ == "__main__":
        print(sum(Parallel(n_jobs=2)(delayed(fetch)(number) for number in range(16))))
"""


def test_joblibs_own_backend(tmp_path: Path) -> None:
    outcome, report = watched(script(tmp_path, JOBLIB), cwd=tmp_path)
    assert outcome == (0, "120\n", "")
    (pool,) = report["pools"]
    assert (pool["kind"], pool["max_workers"]) == ("process", 2)
    assert [function["name"] for function in pool["functions"]] == ["__main__.fetch"]
    assert pool["tasks"]["succeeded"] >= 2


LOST = """
    import os, signal
    from loky import get_reusable_executor

    def end():
        os.kill(os.getpid(), signal.SIGKILL)

    if __name__ == "__main__":
        executor = get_reusable_executor(max_workers=2)
        try:
            executor.submit(end).result()
        except Exception as error:
            print(type(error).__name__)
        print(get_reusable_executor(max_workers=2).submit(abs, -3).result())
"""


def test_a_process_that_is_lost(tmp_path: Path) -> None:
    outcome, report = watched(script(tmp_path, LOST), cwd=tmp_path)
    assert (outcome.status, outcome.out) == (0, "TerminatedWorkerError\n3\n")
    tasks = [pool["tasks"] for pool in report["pools"]]
    assert sum(task["failed"] for task in tasks) == 1
    assert sum(task["succeeded"] for task in tasks) == 1


def test_an_unknown_version_is_left_alone(monkeypatch):
    probe = FakeProbe()
    monkeypatch.setattr(process_executor.ProcessPoolExecutor, "submit", lambda self: None)
    before = dict(process_executor.ProcessPoolExecutor.__dict__)
    adapter.patch(probe)
    assert dict(process_executor.ProcessPoolExecutor.__dict__) == before
    assert "its executors are not watched" in str(probe.messages)
    adapter.unpatch()

"""joblib's threads, driven beyond their number, and its processes."""

from __future__ import annotations

from pathlib import Path

from cli_support import python, script, watched
from load_support import check_knee
from service_support import Ended

PROGRAM = """
import time
from joblib import Parallel, delayed

def work(number):
    time.sleep(0.05)
    return number * number

def fail(number):
    raise ValueError("no")

def main():
    with Parallel(n_jobs=4, backend="threading", pre_dispatch="all", batch_size=1) as parallel:
        for number in range(10):
            parallel(delayed(work)(number) for _ in range(2))
        print(parallel(delayed(work)(number) for number in range(200)))
        for number in range(10):
            parallel(delayed(work)(number) for _ in range(2))
    # Batches of several calls, and the error of one.
    print(Parallel(n_jobs=2, prefer="threads", batch_size=5)(delayed(work)(number) for number in range(20)))
    try:
        Parallel(n_jobs=2, backend="threading")(delayed(fail)(number) for number in range(3))
    except ValueError as error:
        print("failed:", error)

main()
"""
NAME = "joblib._parallel_backends:ThreadingBackend._get_pool._pool"


def test_more_calls_than_threads(tmp_path: Path) -> None:
    program = script(tmp_path, PROGRAM)
    plain = python(program, cwd=tmp_path)
    outcome, report = watched(program, cwd=tmp_path)
    assert outcome == plain
    ended = Ended(*outcome, report)
    check_knee(ended, NAME, "program.py", "time.sleep(0.05)", gentle_seconds=10 * 0.05)
    pool = ended.pool(NAME)  # all of this name are one row
    assert (pool["kind"], pool["executor"]) == ("multiprocessing", "multiprocessing.pool.ThreadPool")
    assert pool["peak_active"] == 4
    assert pool["created_at"].rpartition(":")[0] == f"{tmp_path.name}/program.py"
    started = {function["name"]: function["started"] for function in pool["functions"]}
    # A batch is a task, which goes by its first call; the last ones may be smaller than they are meant to be.
    assert 240 + 20 // 5 <= started["__main__.work"] < 240 + 20
    assert 1 <= started["__main__.fail"] <= 3
    assert started.keys() == {"__main__.work", "__main__.fail"}


PROCESSES = """
import time
from joblib import Parallel, delayed

def work(number):
    time.sleep(0.01)
    return number * number

if __name__ == "__main__":
    print(Parallel(n_jobs=2, backend="multiprocessing", batch_size=1)(delayed(work)(number) for number in range(40)))
"""


def test_processes(tmp_path: Path) -> None:
    program = script(tmp_path, PROCESSES)
    plain = python(program, cwd=tmp_path)
    outcome, report = watched(program, cwd=tmp_path)
    assert outcome == plain
    pool = Ended(*outcome, report).pool("joblib.pool:PicklingPool.__init__")
    assert (pool["kind"], pool["executor"]) == ("process", "joblib.pool.MemmappingPool")
    assert pool["created_at"].rpartition(":")[0] == f"{tmp_path.name}/program.py"
    assert (pool["tasks"]["succeeded"], pool["peak_active"], pool["max_workers"]) == (40, 2, 2)
    assert [function["name"] for function in pool["functions"]] == ["__main__.work"]

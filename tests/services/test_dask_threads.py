"""dask's threads: a standard pool, whose tasks go by the functions of the graph."""

from __future__ import annotations

from pathlib import Path

from cli_support import script, watched

THREADED = """
    import time
    import dask

    def fetch(number):
        time.sleep(0.05)
        return number * number

    def add(numbers):
        return sum(numbers)

    print(dask.delayed(fetch)(3).compute(scheduler="threads", num_workers=4))
    print(dask.delayed(add)([dask.delayed(fetch)(number) for number in range(24)]).compute(
        scheduler="threads", num_workers=4))
    print(dask.delayed(fetch)(3).compute(scheduler="synchronous"))
"""


def test_the_threaded_scheduler(tmp_path: Path) -> None:
    outcome, report = watched(script(tmp_path, THREADED), cwd=tmp_path)
    assert outcome == (0, "9\n4324\n9\n", "")
    # distributed makes a pool for itself as it is imported.
    (pool,) = [pool for pool in report["pools"] if pool["name"] != "Dask-Offload"]
    assert pool["name"] == "dask.threaded:get.pool"
    assert (pool["kind"], pool["max_workers"], pool["peak_active"]) == ("thread", 4, 4)
    assert pool["created_at"] == f"{tmp_path.name}/program.py:12"
    assert {function["name"]: function["started"] for function in pool["functions"]} == {
        "__main__.fetch": 25,
        "__main__.add": 1,
    }
    assert not [notice for notice in report["notices"] if "dask" in notice]

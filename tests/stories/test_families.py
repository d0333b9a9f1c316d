"""Each family of pools in a real program under `poolscope run`: what it prints stays, what it did is told."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from cli_support import PATIENCE, script, started

PROGRAM = """
import multiprocessing, os, sys, time, traceback
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.pool import ThreadPool

def work(number):
    time.sleep(0.01)
    return number

def fail():
    raise ValueError("no")

def tell(call):
    try:
        call()
    except ValueError:
        traceback.print_exc(file=sys.stdout)

def main(family):
    if family == "threads":
        with ThreadPool(2) as pool:
            print(pool.map(work, range(20), chunksize=1))
            tell(lambda: pool.apply(fail))
            pool.close()
            pool.join()
        return
    context = multiprocessing.get_context(family.removesuffix(" pool"))
    if family.endswith(" pool"):
        pool = context.Pool(2)
        print(pool.map(work, range(20), chunksize=1))
        tell(lambda: pool.apply(fail))
        return  # it is ended with the program
    with ProcessPoolExecutor(2, context) as pool:
        print(list(pool.map(work, range(20))))
        tell(pool.submit(fail).result)
        if os.fork() == 0:  # with a live pool, whose threads are not in the child
            os._exit(0)
        os.wait()

if __name__ == "__main__":
    main(sys.argv[1])
"""


@pytest.mark.parametrize(
    ("family", "kind"),
    [
        ("fork", "process"),
        ("spawn", "process"),
        ("forkserver", "process"),
        ("threads", "multiprocessing"),
        ("fork pool", "process"),
        ("spawn pool", "process"),
        ("forkserver pool", "process"),
    ],
)
def test_a_program_with_such_a_pool(tmp_path: Path, family: str, kind: str) -> None:
    program, report = tmp_path / "program.py", tmp_path / "report.json"
    program.write_text(PROGRAM)
    command = [sys.executable, "-W", "ignore::DeprecationWarning", str(program), family]

    def run(*before: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*before, *command], capture_output=True, text=True, timeout=100, check=False)

    plain = run()
    watched = run(sys.executable, "-m", "poolscope", "run", "--quiet", "--json", str(report), "--")
    assert (watched.returncode, watched.stdout) == (plain.returncode, plain.stdout)
    assert watched.stderr == plain.stderr == ""
    told = json.loads(report.read_text())
    [pool] = told["pools"]
    assert pool["kind"] == kind
    assert (pool["name"], pool["created_by"]) == ("__main__:main.pool", "pool")
    assert pool["pid"] == told["processes"][0]["pid"]
    tasks = {"submitted": 21, "started": 21, "succeeded": 20, "failed": 1, "cancelled": 0, "rejected": 0}
    assert pool["tasks"] == tasks
    assert (pool["max_workers"], pool["peak_workers"], pool["peak_active"]) == (2, 2, 2)
    # Two at a time: twenty tasks of 10 ms are not over before 100 ms, and the last but two waited as long.
    assert pool["wait_seconds"]["max"] >= 0.08
    assert pool["run_seconds"]["max"] < pool["wait_seconds"]["max"]
    assert not told["notices"]


KILLED = """
import multiprocessing, os, signal, sys

def work(number):
    return number

def die():
    os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    with multiprocessing.get_context(sys.argv[1]).Pool(1) as pool:
        never = pool.apply_async(die)
        print(pool.map(work, range(3)), never.ready())
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_worker_of_a_pool_is_killed(tmp_path: Path, method: str) -> None:
    program, report = tmp_path / "program.py", tmp_path / "report.json"
    program.write_text(KILLED)
    command = ["poolscope", "run", "--quiet", "--json", str(report), str(program), method]
    done = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, timeout=100, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[0, 1, 2] False\n", "")
    told = json.loads(report.read_text())
    [pool] = told["pools"]
    assert (pool["tasks"]["submitted"], pool["tasks"]["succeeded"], pool["tasks"]["failed"]) == (4, 3, 1)
    assert told["notices"] == [
        "a worker of pool __main__:<module>.pool was killed (signal 9) in __main__.die: multiprocessing.Pool does not "
        "tell, and the thread that waits for the result waits for ever"
    ]


HANGS = """
    import multiprocessing, os, signal

    def work(number):
        if number == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return number

    with multiprocessing.get_context("fork").Pool(2) as pool:
        pool.map(work, range(8), chunksize=1)
"""


def test_a_program_that_hangs_because_a_worker_was_killed_is_told_of_while_it_hangs(tmp_path: Path) -> None:
    script(tmp_path, HANGS)
    words = (sys.executable, "-m", "poolscope", "run", "--json", "report.json", "program.py")
    with started(*words, cwd=tmp_path) as process:
        assert process.stderr is not None
        told = process.stderr.readline()
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, rest = process.communicate(timeout=PATIENCE)
    [notice] = json.loads((tmp_path / "report.json").read_text())["notices"]
    assert "was killed (signal 9) in __main__.work" in notice
    assert re.fullmatch(rf"poolscope: \d\d:\d\d:\d\d warning: {re.escape(notice)}\n", told)
    assert "poolscope: " not in rest
    assert f"notice  {notice.split()[0]}" in rest

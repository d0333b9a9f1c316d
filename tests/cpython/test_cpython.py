"""CPython's own tests of thread pools, of what asyncio does with them, and of multiprocessing, with and without us.

What passes with the standard library as it is must pass in each mode of `runner`; none may go missing or be skipped.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

MODES = ("standard", "drop-in", "patched", "uninstalled")
POOLS = "multiprocessing_fork"
QUEUES = "queue"
#: Each group runs in a process of its own: a package of CPython's tests, and what of it. Of asyncio: what submits to
#: executors, waits for their futures, or runs on loops that we patch; not TLS, child processes and the parts without a
#: loop. Its events alone take as long as all the rest. Pools of interpreters stay what they are.
GROUPS = {
    "concurrent_futures": ("thread_pool wait as_completed shutdown init future deadlock", ""),
    "asyncio events": ("events", ""),
    "asyncio": (
        "base_events eager_task_factory futures futures2 locks queues runners selector_events sendfile server"
        " sock_lowlevel streams tasks.RunCoroutineThreadsafeTests threads timeouts unix_events waitfor",
        "free_threading graph server_context",
    ),
    POOLS: (
        "processes.WithProcessesTestPool processes.WithProcessesTestPoolWorkerLifetime threads.WithThreadsTestPool"
        " misc.TestPoolNotLeakOnFailure",
        "",
    ),
    QUEUES: ("", ""),
}
#: There is no drop-in for multiprocessing's pools and for queues. Those of queues take ten seconds.
LEFT_OUT = (("drop-in", POOLS), ("drop-in", QUEUES), ("uninstalled", QUEUES))
RUNS = [(mode, group) for mode in MODES for group in GROUPS if (mode, group) not in LEFT_OUT]
#: Most of their time the tests sleep.
AT_ONCE = 4
LIMIT = 280  # seconds for one group

pytestmark = pytest.mark.timeout(LIMIT + 20)


def has_tests():
    if importlib.util.find_spec("test") is None:
        return False
    return importlib.util.find_spec("test.test_concurrent_futures") is not None


def modules(group):
    """The modules of a group: those of every version, here or not, and those of later versions if they are here."""
    always, later = GROUPS[group]
    if not always:
        return [f"test.test_{group}"]
    package = f"test.test_{group.split()[0]}.test_"
    later_here = [name for name in later.split() if importlib.util.find_spec(package + name) is not None]
    return [package + name for name in (*always.split(), *later_here)]


def run(mode, group, directory):
    output = directory / f"{mode}-{group}.json"
    runner = Path(__file__).with_name("runner.py")
    done = subprocess.run(
        [sys.executable, runner, mode, output, *modules(group)],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        cwd=directory,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, f"{mode}, {group}: {done.stderr[-5000:]}"
    return json.loads(output.read_text())


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """(mode, group) -> the future of what the runner tells, all on their way."""
    if not has_tests():
        version = "{}.{}".format(*sys.version_info)
        reason = f"this CPython {version} comes without its own tests: Debian has them in libpython{version}-testsuite"
        if "CI" in os.environ and sys.version_info >= (3, 13):
            pytest.fail(reason)
        pytest.skip(reason)
    directory = tmp_path_factory.mktemp("cpython")
    with ThreadPoolExecutor(AT_ONCE) as pool:
        # The baseline first: each comparison waits for it.
        yield {(mode, group): pool.submit(run, mode, group, directory) for mode, group in RUNS}
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize(("mode", "group"), [run for run in RUNS if run[0] != "standard"])
def test_what_passes_without_us_passes_with_us(runs, mode, group, capsys):
    without = runs["standard", group].result()["outcomes"]
    told = runs[mode, group].result()
    outcomes = told["outcomes"]
    totals = dict(Counter(outcomes.values()))
    with capsys.disabled():
        print(f"\n{group}: standard {dict(Counter(without.values()))}; {mode} {totals}, {told['recorded']} tasks seen ")
    worse = {
        test: told["details"].get(test, "did not run")
        for test, outcome in without.items()
        if outcomes.get(test) not in ("passed", outcome)
    }
    assert not worse, "\n".join(f"{test}: {detail}" for test, detail in worse.items())
    assert outcomes.keys() == without.keys()
    # That the mode was what it says: of a pool that nobody watches nothing is seen.
    if mode == "uninstalled":
        assert told["recorded"] == 2
    else:
        assert told["recorded"] > 2


def test_the_baseline_is_not_empty(runs):
    outcomes = [outcome for group in GROUPS for outcome in runs["standard", group].result()["outcomes"].values()]
    assert Counter(outcomes)["passed"] > 1000

"""The processes that a program starts are watched too, to their last task."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
from cli_support import script, watched

WORK = """
    from concurrent.futures import ThreadPoolExecutor
    def work():
        with ThreadPoolExecutor(2, thread_name_prefix="workers") as pool:
            assert len(list(pool.map(int, range(50)))) == 50
"""


def pools(report: dict[str, Any]) -> dict[int, tuple[str, int, int]]:
    """Process -> its pool's name, and how many tasks came and succeeded."""
    return {
        pool["pid"]: (pool["name"], pool["tasks"]["submitted"], pool["tasks"]["succeeded"]) for pool in report["pools"]
    }


def check(report: dict[str, Any], processes: int) -> None:
    found = pools(report)
    assert len(found) == processes
    assert set(found.values()) == {("workers", 50, 50)}
    assert all(process["ended_seconds"] is not None for process in report["processes"])


def run(folder: Path, text: str, *words: str) -> dict[str, Any]:
    script(folder, WORK, "shared.py")
    script(folder, text)
    outcome, report = watched(*(words or ("program.py",)), cwd=folder)
    assert outcome == (0, "", "")
    return report


def test_a_subprocess(tmp_path: Path) -> None:
    text = """
        import subprocess, sys
        import shared
        shared.work()
        subprocess.run([sys.executable, "-c", "import shared; shared.work()"], check=True)
        """
    report = run(tmp_path, text)
    check(report, 2)
    first, second = report["processes"]
    assert second["parent"] == first["pid"]
    assert [process["exit_code"] for process in (first, second)] == [0, None]


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_child_of_multiprocessing(tmp_path: Path, method: str) -> None:
    # It ends by os._exit, right after its last task.
    text = f"""
        import multiprocessing
        import shared
        if __name__ == "__main__":
            context = multiprocessing.get_context({method!r})
            children = [context.Process(target=shared.work) for _ in range(2)]
            for child in children:
                child.start()
            for child in children:
                child.join()
                assert child.exitcode == 0
        """
    check(run(tmp_path, text), 2)


def test_a_fork_of_a_process_with_a_pool_of_its_own(tmp_path: Path) -> None:
    text = """
        import os, sys
        import shared
        shared.work()
        for _ in range(2):
            child = os.fork()
            if not child:
                shared.work()
                sys.exit(0)
            assert os.waitpid(child, 0)[1] == 0
        shared.work()
        """
    found = pools(run(tmp_path, text))
    assert sorted(found.values()) == [("workers", 50, 50), ("workers", 50, 50), ("workers", 100, 100)]


def test_a_fork_of_a_fork_that_never_used_a_pool(tmp_path: Path) -> None:
    text = """
        import os, sys
        if not (child := os.fork()):
            if not (grandchild := os.fork()):
                import shared
                shared.work()
                sys.exit(0)
            sys.exit(os.waitstatus_to_exitcode(os.waitpid(grandchild, 0)[1]))
        assert os.waitpid(child, 0)[1] == 0
        """
    report = run(tmp_path, text)
    check(report, 1)
    assert len(report["processes"]) == 2  # the child in between had nothing to say


def test_a_daemon_that_closes_all_descriptors(tmp_path: Path) -> None:
    text = """
        import os, sys
        import shared
        shared.work()
        if not (child := os.fork()):
            os.closerange(3, 2000)
            shared.work()
            sys.exit(0)
        assert os.waitpid(child, 0)[1] == 0
        """
    check(run(tmp_path, text), 2)


def test_a_program_that_closes_all_descriptors_goes_on_unwatched(tmp_path: Path) -> None:
    text = """
        import os
        os.closerange(3, 2000)
        import shared
        shared.work()
        opened = {os.open(os.devnull, os.O_RDONLY) for _ in range(2000 if os.sysconf("SC_OPEN_MAX") > 3000 else 50)}
        shared.work()
        """
    assert run(tmp_path, text)["pools"] == []


def test_a_program_that_becomes_another(tmp_path: Path) -> None:
    text = """
        import os, sys
        import shared
        shared.work()
        if "again" not in sys.argv:
            os.execv(sys.executable, [sys.executable, "program.py", "again"])
        """
    report = run(tmp_path, text)
    assert [process["exit_code"] for process in report["processes"]] == [0, 0]
    assert len({process["pid"] for process in report["processes"]}) == 1
    assert sum(pool["tasks"]["submitted"] for pool in report["pools"]) >= 50


def test_a_shell_around_it(tmp_path: Path) -> None:
    command = f"{sys.executable} program.py && {sys.executable} program.py"
    check(run(tmp_path, "import shared; shared.work()", "--", "sh", "-c", command), 2)


def test_nothing_of_poolscope_is_imported_for_a_process_that_needs_none_of_it(tmp_path: Path) -> None:
    script(tmp_path, "import sys; print(*sorted(sys.modules))")
    outcome, _ = watched("program.py", cwd=tmp_path)
    loaded = set(outcome.out.split())
    ours = {name for name in loaded if name.startswith("poolscope")}
    assert ours == {"poolscope", "poolscope.probe"} | {
        f"poolscope.probe.{name}" for name in ("bootstrap", "channel", "families", "imports", "native")
    }
    assert not loaded & {"json", "re", "socket", "threading", "logging", "concurrent.futures", "asyncio", "array"}


def test_what_runs_inside_is_the_standard_library_and_us(tmp_path: Path) -> None:
    text = """
        import sys, asyncio
        import shared
        async def main():
            await asyncio.to_thread(shared.work)
        asyncio.run(main())
        for name, module in sorted(sys.modules.items()):
            if "site-packages" in str(getattr(module, "__file__", None)) and not name.startswith("poolscope"):
                print(name)
        """
    script(tmp_path, WORK, "shared.py")
    script(tmp_path, text)
    outcome, report = watched("--", sys.executable, "program.py", cwd=tmp_path)
    # What start-up files of the environment load is there without us, too.
    assert not {name.partition(".")[0] for name in outcome.out.split()} - {"_distutils_hack"}
    assert outcome.err == ""
    assert {pool["name"] for pool in report["pools"]} >= {"workers"}
    assert len(report["event_loops"]) == 1
    assert os.path.basename(report["event_loops"][0]["name"])

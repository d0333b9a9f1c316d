"""The processes that a program starts are watched too, to their last task."""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from cli_support import environment, same_as_without, script, watched

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


def check(report: dict[str, Any], processes: int, each: int = 50) -> None:
    found = pools(report)
    assert len(found) == processes
    assert set(found.values()) == {("workers", each, each)}
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


@pytest.mark.parametrize("method", [None, "fork", "spawn", "forkserver"])
def test_pools_of_processes_and_pools_in_their_workers(tmp_path: Path, method: str | None) -> None:
    """With the start method of the interpreter, and with each. A fork server imports the program from 3.14 on."""
    text = f"""
        import multiprocessing
        from concurrent.futures import ProcessPoolExecutor
        from multiprocessing.pool import ThreadPool
        def inside(number):
            with ThreadPool(1) as pool:
                result = pool.apply(abs, (-number,))
                pool.close()
                pool.join()
            return result
        if __name__ == "__main__":
            multiprocessing.set_forkserver_preload(["__main__", "shared"])
            context = multiprocessing.get_context({method!r})
            # Where workers are forks, none is made beside other threads.
            limit = None if context.get_start_method() == "fork" else 2
            with ProcessPoolExecutor(2, context) as pool:
                print(sum(pool.map(inside, range(12))))
            with ProcessPoolExecutor(2, context, max_tasks_per_child=limit) as pool:
                print(sum(pool.map(inside, range(12), chunksize=3)))
            with context.Pool(2, maxtasksperchild=limit) as pool:
                print(sum(pool.map(inside, range(12), chunksize=1)))
                pool.close()
                pool.join()
        """
    script(tmp_path, "from concurrent.futures import ProcessPoolExecutor", "shared.py")
    script(tmp_path, text)
    outcome = same_as_without("program.py", cwd=tmp_path, env=environment(PYTHONWARNINGS="error"))
    assert outcome.status == 0
    assert outcome.err == ""
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["notices"] == []
    tasks: dict[str, Counter[str]] = {}
    for pool in report["pools"]:
        tasks.setdefault(pool["kind"], Counter()).update(pool["tasks"])
    counted = {kind: (counts["submitted"], counts["succeeded"]) for kind, counts in tasks.items()}
    # Two of 12 and one of 4 chunks; and one in a worker for each item.
    assert counted == {"process": (28, 28), "multiprocessing": (36, 36)}
    [main] = [process for process in report["processes"] if process["exit_code"] is not None]
    assert {pool["pid"] for pool in report["pools"] if pool["kind"] == "process"} == {main["pid"]}
    assert len({pool["pid"] for pool in report["pools"]} - {main["pid"]}) >= 3
    assert all(process["ended_seconds"] is not None for process in report["processes"])


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
            os.closerange(3, os.sysconf("SC_OPEN_MAX"))
            shared.work()
            sys.exit(0)
        assert os.waitpid(child, 0)[1] == 0
        """
    check(run(tmp_path, text), 2)


def test_a_daemon_that_lives_on_is_said(tmp_path: Path) -> None:
    text = """
        import os, time
        import shared
        ready, wait = os.pipe()
        if os.fork() == 0:
            shared.work()
            os.write(wait, b"x")
            os.setsid()
            for descriptor in range(3):
                os.dup2(os.open(os.devnull, os.O_RDWR), descriptor)
            time.sleep(60)
            os._exit(0)
        os.read(ready, 1)
    """
    report = run(tmp_path, text)
    ((daemon, found),) = pools(report).items()
    try:
        assert found == ("workers", 50, 50)
        (told,) = report["notices"]
        expected = f"a process of the program went on after its end (pid {daemon}): from then on nothing of it is seen"
        assert told == expected
    finally:
        os.kill(daemon, signal.SIGKILL)


def test_a_program_that_closes_all_descriptors_goes_on_unwatched(tmp_path: Path) -> None:
    text = """
        import os
        ours = [int(number) for number in os.listdir("/proc/self/fd") if int(number) >= 900]
        assert ours
        os.closerange(3, os.sysconf("SC_OPEN_MAX"))
        import shared
        shared.work()
        nothing = os.open(os.devnull, os.O_RDONLY)
        for number in ours:
            os.dup2(nothing, number)
        shared.work()
        for number in ours:
            os.fstat(number)
        """
    assert run(tmp_path, text)["pools"] == []


def test_a_program_that_closes_what_it_may_have_opened_is_watched(tmp_path: Path) -> None:
    """As daemons do that take 1,024 or 2,048 for the most that there can be."""
    text = """
        import os, resource
        import shared
        shared.work()
        os.closerange(3, min(2048, os.sysconf("SC_OPEN_MAX") - 30))
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        shared.work()
        """
    check(run(tmp_path, text), 1, each=100)


@pytest.mark.skipif(os.geteuid() != 0, reason="only the superuser's children can become another user")
@pytest.mark.parametrize("forks", [1, 2])
def test_a_fork_that_becomes_another_user(tmp_path: Path, forks: int) -> None:
    """The workers of gunicorn with --user, and those of Celery with --uid, which are forked after that."""
    text = f"""
        import array, os, sys
        import shared
        shared.work()

        def fork(then):
            if not (child := os.fork()):
                then()
                sys.exit(0)
            assert os.waitpid(child, 0)[1] == 0

        def drop():
            os.setgid(65534)
            os.setuid(65534)
            try:
                os.stat(os.environ["POOLSCOPE_RUN"].partition(":")[2])
            except PermissionError:
                shared.work() if {forks} == 1 else fork(shared.work)

        fork(drop)
        shared.work()
        """
    report = run(tmp_path, text)
    assert sorted(pools(report).values()) == [("workers", 50, 50), ("workers", 100, 100)]
    assert report["notices"] == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only the superuser can become another user")
def test_another_user_can_neither_enter_nor_connect(tmp_path: Path) -> None:
    text = """
        import os, socket, sys
        path = os.environ["POOLSCOPE_RUN"].partition(":")[2]
        if not (child := os.fork()):
            os.closerange(3, os.sysconf("SC_OPEN_MAX"))
            stranger = socket.socket(socket.AF_UNIX)
            os.setgid(65534)
            os.setuid(65534)
            for call, argument in (os.listdir, os.path.dirname(path)), (stranger.connect, path):
                try:
                    call(argument)
                    print("it could")
                except PermissionError:
                    print("refused")
            sys.exit(0)
        assert os.waitpid(child, 0)[1] == 0
        """
    script(tmp_path, text)
    outcome, _ = watched("program.py", cwd=tmp_path)
    assert outcome == (0, "refused\nrefused\n", "")


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
    words = f"{shlex.quote(sys.executable)} program.py"
    command = f"{words} && {words}"
    check(run(tmp_path, "import shared; shared.work()", "--", "sh", "-c", command), 2)


def test_nothing_of_poolscope_is_imported_for_a_process_that_needs_none_of_it(tmp_path: Path) -> None:
    script(tmp_path, "import sys; print(*sorted(sys.modules))")
    outcome, _ = watched("program.py", cwd=tmp_path)
    loaded = set(outcome.out.split())
    ours = {name for name in loaded if name.startswith("poolscope")}
    assert ours == {"poolscope", "poolscope.probe"} | {
        f"poolscope.probe.{name}"
        for name in (
            "api",
            "interpreter",
            "interpreter.blame",
            "interpreter.gil",
            "interpreter.imports",
            "interpreter.standard",
            "interpreter.tracebacks",
            "interpreter.unpatched",
            "startup",
            "startup.bootstrap",
            "startup.handover",
            "targets",
            "transport",
            "transport.channel",
        )
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

"""Programs that serve metrics and start processes of their own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_support import environment, python, reserved_port, script, watched

SHARED = """
import os, sys, time, urllib.request
import poolscope

ADDRESS = sys.argv[1]

def work(tasks, name="web"):
    with poolscope.ThreadPoolExecutor(2, name=name) as pool:
        assert len(list(pool.map(int, range(tasks)))) == tasks

def shown(name="poolscope_pool_tasks_submitted_total"):
    try:
        text = urllib.request.urlopen(f"http://{ADDRESS}/metrics", timeout=30).read().decode()
    except OSError:
        return 0
    return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name + "{"))

def await_shown(value):
    deadline = time.monotonic() + 30
    while (found := shown()) != value:
        assert time.monotonic() < deadline, (found, value)
        time.sleep(0.02)

def tasks():
    return len(os.listdir("/proc/self/task"))
"""


@pytest.fixture
def home() -> Iterator[Path]:
    path = Path(f"/tmp/ps-{os.urandom(4).hex()}")
    path.mkdir(0o700)
    yield path
    left = sorted(str(entry.relative_to(path)) for entry in path.rglob("*"))
    for entry in sorted(path.rglob("*"), reverse=True):
        entry.rmdir() if entry.is_dir() else entry.unlink()
    path.rmdir()
    assert left == []


def check(folder: Path, home: Path, text: str) -> None:
    script(folder, SHARED, "shared.py")
    script(folder, text)
    env = environment(TMPDIR=str(home), XDG_RUNTIME_DIR="", PYTHONWARNINGS="error")
    with reserved_port() as port:
        assert python("program.py", f"127.0.0.1:{port}", cwd=folder, env=env) == (0, "done\n", "")


def test_a_fork_of_a_serving_process_joins_with_its_first_task(tmp_path: Path, home: Path) -> None:
    text = """
        from shared import *
        poolscope.serve(ADDRESS)
        work(3)
        await_shown(3)
        go, end = os.pipe(), os.pipe()
        if not (child := os.fork()):
            assert tasks() == 1
            os.read(go[0], 1)
            work(4)
            os.read(end[0], 1)
            sys.exit(0)
        work(1)  # which lets the parent go on, where it had no other thread
        await_shown(4)
        os.write(go[1], b"x")
        await_shown(8)
        os.write(end[1], b"x")
        assert os.waitpid(child, 0)[1] == 0
        await_shown(8)
        print("done")
        """
    check(tmp_path, home, text)


def test_a_fork_under_run_joins_too(tmp_path: Path, home: Path) -> None:
    text = """
        from shared import *
        poolscope.serve(ADDRESS)
        work(3)
        ready = os.pipe()
        if not (child := os.fork()):
            os.close(ready[1])
            work(4)
            os.read(ready[0], 1)
            sys.exit(0)
        work(1)
        await_shown(8)
        os.write(ready[1], b"x")
        assert os.waitpid(child, 0)[1] == 0
        await_shown(8)
        print("done")
        """
    script(tmp_path, SHARED, "shared.py")
    script(tmp_path, text)
    env = environment(TMPDIR=str(home), XDG_RUNTIME_DIR="")
    with reserved_port() as port:
        outcome, report = watched("program.py", f"127.0.0.1:{port}", cwd=tmp_path, env=env)
    assert outcome == (0, "done\n", "")
    assert sorted(pool["tasks"]["succeeded"] for pool in report["pools"]) == [4, 4]


def test_no_thread_of_ours_is_there_at_a_fork(tmp_path: Path, home: Path) -> None:
    """PYTHONWARNINGS makes the warning of a fork with threads an error."""
    text = """
        from shared import *
        poolscope.serve(ADDRESS)
        for _ in range(3):
            if not (child := os.fork()):
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
            assert tasks() == 1
        work(2)
        await_shown(2)
        print("done")
        """
    check(tmp_path, home, text)


def test_a_parent_with_other_threads_goes_on_at_once(tmp_path: Path, home: Path) -> None:
    text = """
        from shared import *
        import threading, warnings
        warnings.simplefilter("ignore")
        server = poolscope.serve(ADDRESS)
        work(2)
        gate = threading.Event()
        thread = threading.Thread(target=gate.wait)
        thread.start()
        if not (child := os.fork()):
            os._exit(0)
        assert server.holds_port
        assert shown() == 2
        os.waitpid(child, 0)
        gate.set()
        thread.join()
        print("done")
        """
    check(tmp_path, home, text)


def test_a_loop_goes_on_with_its_next_turn(tmp_path: Path, home: Path) -> None:
    text = """
        from shared import *
        import asyncio
        async def main():
            server = poolscope.serve(ADDRESS)
            if not (child := os.fork()):
                os._exit(0)
            os.waitpid(child, 0)
            while not server.holds_port:
                await asyncio.sleep(0.01)
        asyncio.run(main())
        print("done")
        """
    check(tmp_path, home, text)


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_children_of_multiprocessing(tmp_path: Path, home: Path, method: str) -> None:
    """They end by `os._exit`: what they counted stays, until the last of them has ended."""
    text = f"""
        from shared import *
        import multiprocessing

        def child(number, ready, go):
            poolscope.serve(ADDRESS)
            work(10 * number)
            ready.release()
            go.acquire()

        if __name__ == "__main__":
            context = multiprocessing.get_context({method!r})
            ready, go = context.Semaphore(0), [context.Semaphore(0) for _ in range(3)]
            children = [context.Process(target=child, args=(number + 1, ready, go[number])) for number in range(3)]
            for process in children:
                process.start()
            for _ in children:
                ready.acquire()
            await_shown(60)
            for process, end in list(zip(children, go))[:2]:
                end.release()
                process.join()
                await_shown(60)
            go[2].release()
            children[2].join()
            assert [process.exitcode for process in children] == [0, 0, 0]
            assert shown() == 0
            print("done")
        """
    check(tmp_path, home, text)


def test_the_findings_of_all_are_told(tmp_path: Path, home: Path) -> None:
    text = """
        from shared import *
        import logging
        logging.disable()
        server = poolscope.serve(ADDRESS)
        gate = os.pipe()
        children = []
        for number in range(2):
            children.append(os.fork())
            if not children[-1]:
                os.close(gate[1])
                with poolscope.ThreadPoolExecutor(1, name=f"child-{number}") as pool:
                    list(pool.map(time.sleep, [0.05] * 40))
                    os.read(gate[0], 1)
                sys.exit(0)
        work(1)
        def both():
            try:
                text = urllib.request.urlopen(f"http://{ADDRESS}/findings", timeout=30).read().decode()
            except OSError:
                return False
            return "child-0" in text and "child-1" in text
        deadline = time.monotonic() + 30
        while not both():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        os.close(gate[1])
        for child in children:
            assert os.waitpid(child, 0)[1] == 0
        print("done")
        """
    check(tmp_path, home, text)


def test_two_programs_on_one_port_are_two(tmp_path: Path, home: Path) -> None:
    text = """
        from shared import *
        import subprocess
        with poolscope.serve(ADDRESS):
            code = "import sys, poolscope; poolscope.serve(sys.argv[1])"
            ended = subprocess.run([sys.executable, "-c", code, ADDRESS], stderr=subprocess.PIPE, text=True)
        assert ended.returncode == 1
        assert "the port is taken" in ended.stderr.splitlines()[-1], ended.stderr
        print("done")
        """
    check(tmp_path, home, text)


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_children_of_a_program_that_serves_as_it_is_imported(tmp_path: Path, home: Path, method: str) -> None:
    """A fork server has imported it too, and has other arguments."""
    text = f"""
        from shared import *
        import multiprocessing

        ADDRESS = os.environ["ADDRESS"]
        poolscope.serve(ADDRESS)

        def child(ready, go):
            work(10)
            ready.release()
            go.acquire()

        if __name__ == "__main__":
            import shared
            shared.ADDRESS = ADDRESS
            context = multiprocessing.get_context({method!r})
            ready, go = context.Semaphore(0), context.Semaphore(0)
            process = context.Process(target=child, args=(ready, go))
            process.start()
            ready.acquire()
            await_shown(10)
            go.release()
            process.join()
            assert process.exitcode == 0
            await_shown(10)
            print("done")
        """
    script(tmp_path, SHARED.replace("sys.argv[1]", '""'), "shared.py")
    script(tmp_path, text)
    env = environment(TMPDIR=str(home), XDG_RUNTIME_DIR="", PYTHONWARNINGS="error")
    with reserved_port() as port:
        env["ADDRESS"] = f"127.0.0.1:{port}"
        assert python("program.py", cwd=tmp_path, env=env) == (0, "done\n", "")

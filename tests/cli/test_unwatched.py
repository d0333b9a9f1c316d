"""Children that our part does not get into: what they are is said, and they run as without us."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_support import environment, python, script, watched

#: Lives until its standard input ends, and says when it has begun.
WAITING = "import sys; print('here', flush=True); sys.stdin.read()"


def interpreters(minors: range) -> Iterator[str]:
    """Other interpreters of this machine, looked for where .ci/machine.sh does."""
    home = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    for minor in minors:
        candidates = [shutil.which(f"python3.{minor}"), f"/usr/bin/python3.{minor}"]
        candidates += sorted(map(str, home.glob(f"versions/3.{minor}.*/bin/python3")))
        candidates += [str(Path(__file__).parents[2] / f".venvs/debian/usr/bin/python3.{minor}")]
        for candidate in candidates:
            text = f"import sys; print(sys.version_info[1] == {minor})"
            if candidate is not None and os.access(candidate, os.X_OK):
                found = subprocess.run([candidate, "-c", text], capture_output=True, text=True, check=False)
                if found.stdout == "True\n":  # a shim may stand for a version that is not there
                    yield candidate
                    break


def parent_of(command: list[str], **variables: str) -> str:
    """A program that starts a child and lets it wait until the supervisor has surely looked."""
    return f"""
        import subprocess, sys, time
        child = subprocess.Popen({command!r}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={variables or None!r})
        assert child.stdout.readline() == b"here\\n"
        time.sleep(1.5)
        child.stdin.close()
        print(child.wait())
        """


@pytest.mark.parametrize("option", ["-I", "-E", "-S"])
def test_a_child_that_leaves_us_out(tmp_path: Path, option: str) -> None:
    script(tmp_path, parent_of([sys.executable, option, "-c", WAITING]))
    outcome, report = watched("program.py", cwd=tmp_path)
    assert outcome == (0, "0\n", "")
    (notice,) = report["notices"]
    assert f"{option} -c import sys" in notice
    assert f"was not watched: started with {option}" in notice


def test_a_child_without_our_environment(tmp_path: Path) -> None:
    script(tmp_path, parent_of([sys.executable, "-c", WAITING], PATH="/usr/bin"))
    outcome, report = watched("program.py", cwd=tmp_path)
    assert outcome == (0, "0\n", "")
    (notice,) = report["notices"]
    assert "without the environment of the program" in notice


def test_a_child_with_another_path_of_python(tmp_path: Path) -> None:
    variables = "{**__import__('os').environ, 'PYTHONPATH': '/nowhere'}"
    text = parent_of([sys.executable, "-c", WAITING]).replace("env=None", f"env={variables}")
    script(tmp_path, text)
    outcome, report = watched("program.py", cwd=tmp_path)
    assert outcome == (0, "0\n", "")
    (notice,) = report["notices"]
    assert "was not watched: started with another PYTHONPATH" in notice


def test_many_children_that_leave_us_out_are_one_notice(tmp_path: Path) -> None:
    text = f"""
        import subprocess, sys, time
        words = [sys.executable, "-I", "-c", {WAITING!r}]
        pipes = {{"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}}
        children = [subprocess.Popen(words, **pipes) for _ in range(12)]
        for child in children:
            assert child.stdout.readline() == b"here\\n"
        time.sleep(1.5)
        for child in children:
            child.communicate()
        """
    script(tmp_path, text)
    outcome, report = watched("program.py", cwd=tmp_path)
    assert outcome == (0, "", "")
    (notice,) = report["notices"]
    assert notice.startswith("12 processes were not watched, the first of them ")
    assert notice.endswith(": started with -I, which ignores PYTHONPATH")


def test_a_start_hook_that_fails_says_why(tmp_path: Path) -> None:
    text = """
        import os, subprocess, sys
        path = os.environ["POOLSCOPE_RUN"].partition(":")[2]
        subprocess.run([sys.executable, "-c", "print('done')"], env={**os.environ, "POOLSCOPE_RUN": f"nonsense:{path}"})
        """
    script(tmp_path, text)
    outcome, report = watched("program.py", cwd=tmp_path)
    assert outcome == (0, "done\n", "")
    (notice,) = report["notices"]
    assert "was not watched: our part in it failed: ValueError: " in notice


@pytest.mark.skipif(os.geteuid() != 0, reason="only the superuser can become another user")
def test_a_fork_that_became_another_user_and_closed_everything_is_named(tmp_path: Path) -> None:
    text = """
        import os, time
        if not (child := os.fork()):
            os.closerange(3, os.sysconf("SC_OPEN_MAX"))
            os.setgid(65534)
            os.setuid(65534)
            time.sleep(4)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        """
    script(tmp_path, text)
    outcome, report = watched("program.py", cwd=tmp_path)
    assert outcome == (0, "", "")
    (notice,) = report["notices"]
    assert "was not watched: it runs as another user, and has closed the descriptors" in notice


def test_a_child_that_is_not_python_is_nobodys_business(tmp_path: Path) -> None:
    script(tmp_path, parent_of(["sh", "-c", "echo here; cat"]))
    outcome, report = watched("program.py", cwd=tmp_path)
    assert outcome == (0, "0\n", "")
    assert report["notices"] == []


def test_a_fork_that_has_nothing_to_say_is_watched(tmp_path: Path) -> None:
    text = """
        import os, time
        if not (child := os.fork()):
            time.sleep(1.5)
            os._exit(0)
        os.waitpid(child, 0)
        """
    script(tmp_path, text)
    outcome, report = watched("program.py", cwd=tmp_path)
    assert outcome == (0, "", "")
    assert report["notices"] == []


@pytest.mark.parametrize("interpreter", list(interpreters(range(8, 11))))
def test_an_interpreter_that_is_too_old_runs_and_says_so(tmp_path: Path, interpreter: str) -> None:
    script(tmp_path, "import sys; print(sys.version_info[1], sys.argv[1:])")
    alone = python("-c", "", cwd=tmp_path)
    assert alone.status == 0
    outcome, report = watched("--", interpreter, "program.py", 'a "word"', cwd=tmp_path)
    assert outcome.status == 0
    assert outcome.out.endswith("['a \"word\"']\n")
    assert outcome.err == ""
    (notice,) = report["notices"]
    assert "program.py a ?word?) was not watched: it is Python 3." in notice


@pytest.mark.parametrize("interpreter", list(interpreters(range(11, 20))))
def test_an_interpreter_of_another_environment_is_watched(tmp_path: Path, interpreter: str) -> None:
    text = """
        from concurrent.futures import ThreadPoolExecutor
        with ThreadPoolExecutor(2, thread_name_prefix="theirs") as pool:
            print(sum(pool.map(int, range(50))))
        """
    script(tmp_path, text)
    outcome, report = watched("--", interpreter, "program.py", cwd=tmp_path)
    assert outcome == (0, "1225\n", "")
    assert [(pool["name"], pool["tasks"]["succeeded"]) for pool in report["pools"]] == [("theirs", 50)]
    assert report["notices"] == []


def test_the_start_hook_of_an_old_interpreter(tmp_path: Path) -> None:
    """By one that takes itself for old: the words that it would say, whatever the command."""
    hook = Path(__file__).parents[2] / "src/poolscope/probe/site/sitecustomize.py"
    text = f"""
        import os, runpy, sys
        if "again" not in sys.argv:
            os.execv(sys.executable, [sys.executable, "-S", "program.py", "again", 'a "\\\\\\\\é' * 40])
        sys.version_info = (3, 10, 1)
        try:
            runpy.run_path({str(hook)!r})
        except ImportError:
            pass  # no next one, which `site` would expect
        print("done")
        """
    script(tmp_path, text)
    outcome, report = watched("program.py", cwd=tmp_path, env=environment())
    assert outcome == (0, "done\n", "")
    assert any("was not watched: it is Python 3.10, and only 3.11 or later is" in text for text in report["notices"])


def test_threads_and_processes_that_the_program_starts_itself_are_told(tmp_path: Path) -> None:
    text = """
        import multiprocessing, threading

        def main():
            for _ in range(4):
                thread = threading.Thread(target=int)
                thread.start()
                thread.join()
            processes = [multiprocessing.get_context("fork").Process(target=int) for _ in range(2)]
            for process in processes:
                process.start()
            for process in processes:
                process.join()
            print("done")

        main()
        """
    script(tmp_path, text)
    outcome, report = watched("program.py", cwd=tmp_path)
    assert outcome == (0, "done\n", "")
    assert report["verdict"] == "insufficient_data"
    place = f"{tmp_path.name}/program.py"
    assert report["notices"] == [
        f"4 threads that the program started itself at {place}:7, one after the other, are not watched as a pool",
        f"2 processes that the program started itself at {place}:11 are not watched as a pool",
    ]
    assert [(start["what"], start["where"], start["count"]) for start in report["own_starts"]] == [
        ("thread", f"{place}:7", 4),
        ("process", f"{place}:11", 2),
    ]
    assert not report["processes"][0]["alone"]


@pytest.mark.parametrize(
    ("text", "alone"),
    [
        ("import threading, logging", True),
        ("import threading; t = threading.Thread(target=int); t.start(); t.join()", False),
        ("import subprocess; subprocess.run(['/bin/true'], check=True)", False),
    ],
)
def test_a_program_that_could_not_do_two_things_at_once(tmp_path: Path, text: str, alone: bool) -> None:
    script(tmp_path, text)
    outcome, report = watched("program.py", cwd=tmp_path)
    assert outcome == (0, "", "")
    assert [process["alone"] for process in report["processes"]] == [alone]

"""The commands of a checkout, with interpreters and a pip that only write down what they are asked for."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest
from cli_support import Outcome, await_path, environment, line, run, started

ROOT = Path(__file__).parents[2]
#: An interpreter: `-V`, `-c` that asks for its path, `-m venv DIR`, and in DIR `-m pip`, which fails if `fail` is there
#: and waits for `go` if `wait` is. What else it is asked for is in `asked`, one call a line.
FAKE = """\
#!/usr/bin/env bash
here="$(dirname "$(readlink -f "$0")")"
case "$1 ${2:-} ${3:-}" in
"-V "*) echo "Python 3.15.0" ;;
"-m venv "*)
    echo "venv" >>"$here/asked"
    mkdir -p "$3/bin" && ln -s "$here/fake" "$3/bin/python" ;;
"-m pip install")
    echo "pip ${*: -1}" >>"$here/asked"
    [ ! -e "$here/wait" ] || until [ -e "$here/go" ]; do sleep 0.01; done
    [ ! -e "$here/fail" ] ;;
"-c "*) echo "$here/fake" ;;
*) echo "$*" >>"$here/asked" ;;
esac
"""


class Checkout:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        shutil.copytree(ROOT / ".ci", folder / ".ci")
        shutil.copy(ROOT / "pyproject.toml", folder)
        self.fake = folder / "fake"
        self.fake.write_text(FAKE)
        self.fake.chmod(0o755)
        self.demo = folder / ".venvs" / "demo"

    def words(self, command: str) -> list[str]:
        return ["bash", "-euc", f"source .ci/machine.sh; {command}"]

    def make(self, **env: str) -> Outcome:
        """The demo's environment."""
        words = self.words("environment demo ./fake '.[cli]'")
        return run(*words, cwd=self.folder, env=environment(**{"VIRTUAL_ENV": "", **env}))

    def asked(self) -> list[str]:
        path = self.folder / "asked"
        return path.read_text().splitlines() if path.exists() else []

    def change(self) -> None:
        """So that what was made before is out of date."""
        with (self.folder / "pyproject.toml").open("a") as file:
            file.write("# changed\n")


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    folder = tmp_path / "ein prüf stand" / "poolscope"
    folder.mkdir(parents=True)
    return Checkout(folder)


MADE = ["venv", "pip pip>=25.1", "pip .[cli]"]


class TestEnvironment:
    def test_is_made_once_and_said(self, checkout: Checkout) -> None:
        first = checkout.make()
        assert (first.status, first.out) == (0, ".venvs/demo/bin/python\n")
        assert "== making .venvs/demo with Python 3.15.0" in first.err
        assert checkout.asked() == MADE
        assert checkout.make() == (0, ".venvs/demo/bin/python\n", "")
        assert checkout.asked() == MADE

    def test_is_made_again_when_it_is_out_of_date(self, checkout: Checkout) -> None:
        checkout.make()
        (checkout.demo / "old").touch()
        checkout.change()
        assert checkout.make().status == 0
        assert checkout.asked() == MADE * 2
        assert not (checkout.demo / "old").exists()

    def test_is_made_again_where_the_checkout_was_moved(self, checkout: Checkout) -> None:
        checkout.make()
        there = checkout.folder.rename(checkout.folder.with_name("there"))
        words = checkout.words("environment demo ./fake '.[cli]'")
        assert run(*words, cwd=there).status == 0
        assert (there / "asked").read_text().splitlines() == MADE * 2

    def test_that_could_not_be_installed_does_not_count(self, checkout: Checkout) -> None:
        (checkout.folder / "fail").touch()
        failed = checkout.make()
        assert failed.status == 1
        assert failed.out == ""
        (checkout.folder / "fail").unlink()
        assert checkout.make().status == 0
        assert checkout.asked() == [*MADE[:2], *MADE]

    def test_that_it_did_not_make_stays(self, checkout: Checkout) -> None:
        mine = checkout.demo / "mine"
        mine.parent.mkdir(parents=True)
        mine.touch()
        outcome = checkout.make()
        assert outcome.status == 2
        [said] = outcome.err.splitlines()
        assert said.startswith(f"{checkout.demo} is in the way")
        assert mine.exists()
        assert checkout.asked() == []

    def test_that_is_active_stays(self, checkout: Checkout) -> None:
        checkout.make()
        checkout.change()
        outcome = checkout.make(VIRTUAL_ENV=str(checkout.demo))
        assert outcome.status == 2
        [said] = outcome.err.splitlines()
        assert said.startswith(f"{checkout.demo} is out of date")
        assert checkout.asked() == MADE

    def test_that_is_active_and_up_to_date_is_used(self, checkout: Checkout) -> None:
        checkout.make()
        assert checkout.make(VIRTUAL_ENV=str(checkout.demo)).status == 0

    @pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="what runs cannot be seen")
    @pytest.mark.parametrize("name", ["{}/bin/python", ".venvs/demo/bin/python", "python"])
    def test_that_a_python_runs_from_stays(self, checkout: Checkout, name: str) -> None:
        checkout.make()
        checkout.change()
        python = checkout.demo / "bin" / "python"
        python.unlink()
        python.symlink_to(sys.executable)
        # As a shell has it that the environment was activated in.
        env = environment(VIRTUAL_ENV=str(checkout.demo), PATH=f"{python.parent}:{os.environ['PATH']}")
        program = "import time; print(1, flush=True); time.sleep(600)"
        with started(name.format(checkout.demo), "-c", program, cwd=checkout.folder, env=env) as process:
            assert line(process) == "1"
            outcome = checkout.make()
            assert outcome.status == 2
            assert "is in use" in outcome.err
        assert checkout.make().status == 0

    @pytest.mark.skipif(shutil.which("flock") is None, reason="two cannot be kept apart")
    def test_two_at_once_make_it_once(self, checkout: Checkout) -> None:
        (checkout.folder / "wait").touch()
        words = checkout.words("environment demo ./fake '.[cli]'")
        with started(*words, cwd=checkout.folder) as first:
            await_path(checkout.folder / "asked")
            with started(*words, cwd=checkout.folder) as second:
                assert second.stderr is not None
                assert second.stderr.readline() == "\n"
                assert "waiting for it" in second.stderr.readline()
                (checkout.folder / "go").touch()
                assert [line(first), line(second)] == [".venvs/demo/bin/python"] * 2
        assert checkout.asked() == MADE

    def test_a_folder_of_the_caller_s_is_not_asked(self, checkout: Checkout) -> None:
        words = checkout.words("environment demo ./fake '.[cli]' >/dev/null; echo \"<${PYTHONPATH-}>\"")
        assert run(*words, cwd=checkout.folder, env=environment(PYTHONPATH="/somewhere")).out == "<>\n"


class TestPythons:
    @pytest.fixture(autouse=True)
    def newer_than_any(self, checkout: Checkout) -> None:
        """python3.19 as if installed, python3.18 as if fetched; the script that fetches notes its arguments."""
        for path in ("bin/python3.19", ".venvs/debian/usr/bin/python3.18"):
            link = checkout.folder / path
            link.parent.mkdir(parents=True)
            link.symlink_to(checkout.fake)
        (checkout.folder / ".ci" / "fetch-pythons").write_text('#!/bin/sh\necho "$@" >fetched\n')

    def ask(self, checkout: Checkout, *words: str) -> Outcome:
        path = f"{checkout.folder / 'bin'}:{os.environ['PATH']}"
        return run(*words, cwd=checkout.folder, env=environment(PATH=path, VIRTUAL_ENV=""))

    def test_fetched_ones_are_found(self, checkout: Checkout) -> None:
        found = self.ask(checkout, *checkout.words("pythons")).out.splitlines()
        assert found[:2] == [f"19 {checkout.fake}", f"18 {checkout.fake}"]

    def test_what_is_installed_is_not_fetched(self, checkout: Checkout) -> None:
        assert self.ask(checkout, *checkout.words("fetch_pythons 19")) == (0, "", "")
        assert not (checkout.folder / "fetched").exists()

    def test_what_was_fetched_is_asked_for_again(self, checkout: Checkout) -> None:
        """It knows itself whether all is there, and where it was when it was fetched."""
        assert self.ask(checkout, *checkout.words("fetch_pythons 19 18")) == (0, "", "")
        assert (checkout.folder / "fetched").read_text() == f".venvs/debian {checkout.fake} 18\n"

    def test_the_demo_fetches_nothing(self, checkout: Checkout) -> None:
        (checkout.folder / "examples").mkdir()
        shutil.copy(ROOT / "examples" / "demo", checkout.folder / "examples")
        assert self.ask(checkout, "examples/demo", "hard-limit").status == 0
        assert checkout.asked() == [*MADE, "-m poolscope demo hard-limit"]
        assert not (checkout.folder / "fetched").exists()

    def test_a_command_of_the_development_environment(self, checkout: Checkout) -> None:
        """Of the newest, made once, with the directory and the status that it has by itself."""
        there = checkout.folder / "docs"
        there.mkdir()
        words = (checkout.folder / ".ci" / "dev", "python", "-m", "there")
        path = f"{checkout.folder / 'bin'}:{os.environ['PATH']}"
        outcomes = [run(*words, cwd=there, env=environment(PATH=path, VIRTUAL_ENV="")) for _ in range(2)]
        assert [outcome.status for outcome in outcomes] == [0, 0]
        assert checkout.asked() == ["venv", "pip pip>=25.1", "pip dev", "-m there", "-m there"]
        assert (checkout.folder / ".venvs" / "3.19" / "stamp").exists()


class TestFetch:
    """What .ci/fetch-pythons refuses before it asks the network."""

    def refused(self, folder: Path, **env: str) -> str:
        words = (ROOT / ".ci" / "fetch-pythons", folder, "python3", "15")
        outcome = run(*words, cwd=ROOT, env=environment(**env))
        assert outcome.status == 1
        [said] = outcome.err.splitlines()
        return said

    def test_where_there_is_no_apt(self, tmp_path: Path) -> None:
        for name in ("bash", "mkdir", "dirname", "basename", "uname", "cat"):
            (tmp_path / name).symlink_to(str(shutil.which(name)))
        assert "no apt-get here" in self.refused(tmp_path / "to", PATH=str(tmp_path))

    def test_where_a_path_cannot_be_burned_in(self, tmp_path: Path) -> None:
        assert "a colon" in self.refused(tmp_path / "a:b")

    def test_where_something_else_is_in_the_way(self, tmp_path: Path) -> None:
        (tmp_path / "mine").touch()
        assert f"{tmp_path} is there" in self.refused(tmp_path)
        assert (tmp_path / "mine").exists()


#: Interpreters that pretend to run tests: `python3.N` of the folder `named`, as tests/run finds them.
RUNNER = """\
#!/usr/bin/env bash
minor="$(basename "$(dirname "$(dirname "$0")")")"
case "$*" in
"-m pytest "*)
    for word; do case "$word" in --junit-xml=*) report="${word#--junit-xml=}" ;; esac; done
    echo "$minor $*" | sed 's/--junit-xml=[^ ]* .*xunit1 //' >>asked
    tests='<testcase file="tests/a.py" name="one"/><testcase file="tests/a.py" name="two"><skipped/></testcase>'
    failure='<testcase file="tests/a.py" name="three"><failure/></testcase>'
    case "$minor" in
    3.15) echo "<testsuites>$tests$failure</testsuites>" >"$report"; exit 1 ;;
    3.14) exit 139 ;;
    *) echo "<testsuites>$tests</testsuites>" >"$report" ;;
    esac ;;
"-m ruff check .") exit 1 ;;
*) exit 0 ;;
esac
"""


class TestRun:
    """tests/run, with environments that are there."""

    @pytest.fixture
    def ran(self, checkout: Checkout) -> Outcome:
        (checkout.folder / "tests").mkdir()
        shutil.copy(ROOT / "tests" / "run", checkout.folder / "tests")
        for minor in range(11, 16):
            folder = checkout.folder / ".venvs" / f"3.{minor}" / "bin"
            folder.mkdir(parents=True)
            for name in ("python", "lint-imports", "sphinx-build"):
                (folder / name).write_text(RUNNER)
                (folder / name).chmod(0o755)
        with (checkout.folder / ".ci" / "machine.sh").open("a") as file:
            file.write(f"""
debian() {{ :; }}
pythons() {{ for minor in 15 14 13 12 11; do echo "$minor {sys.executable}"; done; }}
fetch_pythons() {{ echo "cannot fetch $*"; return 1; }}
environment() {{ [ "$1" != 12 ]; }}
""")
        return run("tests/run", "-k", "some", cwd=checkout.folder)

    def test_whatever_fails_all_is_run_and_said(self, checkout: Checkout, ran: Outcome) -> None:
        assert ran.status == 1
        asked = (checkout.folder / "asked").read_text().splitlines()
        assert [words.split()[0] for words in asked if "-k some" in words].count("3.15") == 5
        assert {words.split()[0] for words in asked} == {"3.15", "3.14", "3.13", "3.11"}
        assert {words.split()[0] for words in asked if " tests/cpython" in words} == {"3.15", "3.14", "3.13"}
        monitors = [words for words in asked if "tests/threads/test_loops.py -k some" in words]
        assert [words.split()[0] for words in monitors] == ["3.14", "3.13", "3.11"]
        said = ran.out.splitlines()
        failed = [text for text in said if "FAILED" in text]
        assert failed == [
            "3.15: FAILED CPython's own: tests/a.py::three",
            "3.15: FAILED command line, pages, metrics: tests/a.py::three",
            "3.15: FAILED each recording and executor test in four threads at once: tests/a.py::three",
            "3.15: FAILED races: tests/a.py::three",
            "3.15: FAILED ruff check . ended with 1",
            "3.15: FAILED threads, programs, services: tests/a.py::three",
            "3.15: FAILED units: tests/a.py::three",
            "3.14: FAILED CPython's own ended with 139",
            "3.14: FAILED stories, patched libraries ended with 139",
            "3.14: FAILED the loop monitor ended with 139",
            "3.14: FAILED threads ended with 139",
            "3.14: FAILED units ended with 139",
            "3.12: FAILED environment could not be installed",
        ]
        assert said[-5:] == [
            "3.15: 6 passed, 6 failed, 6 skipped, other failures: 1",
            "3.14: nothing was tested, other failures: 5",
            "3.13: 5 passed, 5 skipped",
            "3.12: nothing was tested, other failures: 1",
            "3.11: 4 passed, 4 skipped",
        ]

"""The pytest plugin, in programs of pytest of their own."""

from __future__ import annotations

import re
import sys
from itertools import chain
from pathlib import Path
from xml.etree import ElementTree

import pytest
from cli_support import Outcome, environment, run, script

SATURATED = """
    import time
    from concurrent.futures import ThreadPoolExecutor

    def fetch(number):
        time.sleep(0.1)

    def test_saturated():
        with ThreadPoolExecutor(2) as pool:
            for number in range(60):
                pool.submit(fetch, number)
                time.sleep(0.03)

    def test_calm():
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(fetch, range(4)))

    def test_nothing():
        pass
"""
BLOCKED = """
    import asyncio, time
    import pytest

    async def main(seconds):
        await asyncio.sleep(0.1)
        time.sleep(seconds)
        await asyncio.sleep(0.1)

    @pytest.mark.parametrize("seconds", [0.001, 0.4])
    def test_loop(seconds):
        asyncio.run(main(seconds))
"""

#: Plugins that are here and may be without.
OTHERS = ("asyncio", "anyio", "xdist", "run-parallel", "random-order")


def pytest_in(folder: Path, *options: str, plugins: tuple[str, ...] = ()) -> Outcome:
    disabled = [("-p", f"no:{name}") for name in OTHERS if name not in plugins]
    words = ("-m", "pytest", "-q", "-p", "no:cacheprovider", *chain(*disabled), *options)
    return run(sys.executable, *words, cwd=folder, env=environment(COLUMNS="300"))


def counts(outcome: Outcome) -> str:
    return outcome.out.splitlines()[-1].rpartition(" in ")[0]


def test_a_test_that_saturates_a_pool_fails_with_the_line(tmp_path: Path) -> None:
    script(tmp_path, SATURATED, "test_it.py")
    outcome = pytest_in(tmp_path, "--poolscope", "--junit-xml=junit.xml")
    assert (outcome.status, counts(outcome)) == (1, "1 failed, 2 passed")
    failure, _, summary = outcome.out.partition("=== poolscope ===")
    assert "poolscope: warning: async_then_serial" in failure
    assert re.search(r"^  test_it.py:\d+ in fetch\n      time.sleep\(0.1\)$", failure, re.MULTILINE)
    assert "Traceback" not in failure
    assert "test_it.py::test_saturated\n  warning: Pool 'test_it:test_saturated" in summary
    failed = [
        case for case in ElementTree.parse(tmp_path / "junit.xml").iter("testcase") if case.find("failure") is not None
    ]
    assert [case.get("name") for case in failed] == ["test_saturated"]
    assert "async_then_serial" in (failed[0].findtext("failure") or "")


def test_a_path_behind_the_option_is_a_path(tmp_path: Path) -> None:
    script(tmp_path, SATURATED, "test_it.py")
    script(tmp_path, "def test_other(): pass\n", "test_other.py")
    for options, plugins, passed in (
        (("--poolscope", "test_it.py::test_saturated", "test_other.py"), (), 1),
        (("-n2", "--poolscope", "test_it.py"), ("xdist",), 2),
    ):
        outcome = pytest_in(tmp_path, *options, plugins=plugins)
        assert (outcome.status, counts(outcome)) == (1, f"1 failed, {passed} passed")
    wrong = pytest_in(tmp_path, "--poolscope=bad")
    assert wrong.status == 4
    told = "argument --poolscope: expected one of info, warning, critical, or a path that exists, found 'bad'"
    assert told in wrong.err


BROKEN = """
    import pytest
    from poolscope.pytest_plugin import Judge

    # As if the mistake stood in the file of the plugin.
    broken = eval(compile("lambda *_: 1 / 0", Judge.finish.__code__.co_filename, "eval"))

    @pytest.fixture(scope="session", autouse=True)
    def break_it():
        Judge.PART = broken

    def test_first():
        pass

    def test_second():
        pass
"""


@pytest.mark.parametrize("part", ["finish", "_tick", "__init__"])
def test_a_failure_of_ours_fails_no_test(tmp_path: Path, part: str) -> None:
    script(tmp_path, BROKEN.replace("PART", part), "test_it.py")
    outcome = pytest_in(tmp_path, "--poolscope")
    assert (outcome.status, counts(outcome)) == (0, "2 passed")
    told = "poolscope has failed and watches no more tests: ZeroDivisionError: division by zero"
    assert (told in outcome.out) == (part != "_tick")


def test_without_the_option_nothing_is_watched(tmp_path: Path) -> None:
    script(tmp_path, SATURATED, "test_it.py")
    script(
        tmp_path,
        "import sys\ndef test_last():\n    assert 'poolscope.probe.runtime' not in sys.modules\n",
        "test_last.py",
    )
    outcome = pytest_in(tmp_path)
    assert (outcome.status, counts(outcome)) == (0, "4 passed")
    assert "poolscope" not in outcome.out


@pytest.mark.parametrize("given", ["--poolscope=critical", "poolscope = critical"])
def test_the_severity_is_that_of_the_option_or_the_ini_file(tmp_path: Path, given: str) -> None:
    script(tmp_path, SATURATED, "test_it.py")
    option = given.startswith("--")
    (tmp_path / "pytest.ini").write_text("[pytest]\n" + ("" if option else given))
    outcome = pytest_in(tmp_path, *([given] if option else []))
    assert (outcome.status, counts(outcome)) == (0, "3 passed")


def test_a_test_that_blocks_a_loop_fails_and_each_is_judged_by_itself(tmp_path: Path) -> None:
    script(tmp_path, BLOCKED, "test_it.py")
    outcome = pytest_in(tmp_path, "--poolscope")
    assert (outcome.status, counts(outcome)) == (1, "1 failed, 1 passed")
    assert "test_it.py::test_loop[0.4]\n  warning: Event loop" in outcome.out
    assert re.search(r"^  test_it.py:\d+ in main\n      time.sleep\(seconds\)$", outcome.out, re.MULTILINE)


TORN_DOWN = """
    import asyncio, time
    import pytest

    @pytest.fixture
    def server():
        yield

        async def close():
            time.sleep(0.3)

        asyncio.run(close())

    def test_first(server): pass
    def test_innocent(): asyncio.run(asyncio.sleep(0.2))
"""


def test_what_a_fixture_does_after_its_test_is_not_the_next_test_s(tmp_path: Path) -> None:
    script(tmp_path, TORN_DOWN, "test_it.py")
    outcome = pytest_in(tmp_path, "--poolscope")
    assert (outcome.status, counts(outcome)) == (0, "2 passed"), outcome.out


MARKED = """
    import asyncio, time
    import pytest

    async def main():
        await asyncio.sleep(0.1)
        time.sleep(0.06)
        await asyncio.sleep(0.1)

    @pytest.mark.poolscope(fail_on="info", loop_blocked_seconds=0.03)
    def test_strict():
        asyncio.run(main())

    def test_usual():
        asyncio.run(main())
"""


def test_a_mark_has_settings_of_its_own_and_needs_no_option(tmp_path: Path) -> None:
    script(tmp_path, MARKED, "test_it.py")
    for options in ((), ("--poolscope",)):
        outcome = pytest_in(tmp_path, *options)
        assert (outcome.status, counts(outcome)) == (1, "1 failed, 1 passed")
        assert "test_it.py::test_strict\n" in outcome.out


@pytest.mark.parametrize(
    ("mark", "told"),
    [
        ("fail_on='bad'", "expected fail_on (info, warning, critical) and settings"),
        ("'warning'", "expected fail_on (info, warning, critical) and settings"),
        ("loop_blocked=1", "loop_blocked"),
        ("sustain_seconds='x'", "sustain_seconds"),
    ],
)
def test_a_mark_that_means_nothing_is_refused_before_any_test_runs(tmp_path: Path, mark: str, told: str) -> None:
    text = (
        f"import pytest\ndef test_first(): raise SystemExit(9)\n@pytest.mark.poolscope({mark})\ndef test_it(): pass\n"
    )
    (tmp_path / "test_it.py").write_text(text)
    outcome = pytest_in(tmp_path)
    assert outcome.status == 4
    (line,) = [line for line in outcome.err.splitlines() if line]
    assert line.startswith("ERROR: test_it.py::test_it: @pytest.mark.poolscope: ")
    assert told in line


def test_an_ini_value_that_means_nothing_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\npoolscope = much")
    outcome = pytest_in(tmp_path)
    assert outcome.status == 4
    assert "poolscope = much: expected one of info, warning, critical" in outcome.err


FIXTURE = """
    import time
    from concurrent.futures import ThreadPoolExecutor

    def test_it(poolscope):
        with ThreadPoolExecutor(2, thread_name_prefix="mine") as pool:
            list(pool.map(abs, range(30)))
            (row,) = poolscope.report.pools
            assert (row.name, row.tasks.succeeded) == ("mine", 30)
        with ThreadPoolExecutor(2) as pool:
            for _ in range(60):
                pool.submit(time.sleep, 0.1)
                time.sleep(0.03)
        assert poolscope.findings[0].pattern == "async_then_serial"
"""


def test_the_fixture_shows_what_was_seen_and_fails_nothing(tmp_path: Path) -> None:
    script(tmp_path, FIXTURE, "test_it.py")
    assert pytest_in(tmp_path).status == 0


def test_a_test_that_fails_keeps_its_own_failure(tmp_path: Path) -> None:
    script(tmp_path, SATURATED.replace("time.sleep(0.03)", "time.sleep(0.03)\n        assert not 'mine'"), "test_it.py")
    outcome = pytest_in(tmp_path, "--poolscope")
    assert counts(outcome) == "1 failed, 2 passed"
    assert "assert not 'mine'" in outcome.out
    assert "poolscope: warning" not in outcome.out


def test_with_xdist_the_findings_of_all_are_told_at_the_end(tmp_path: Path) -> None:
    script(tmp_path, SATURATED, "test_it.py")
    script(tmp_path, BLOCKED, "test_other.py")
    outcome = pytest_in(tmp_path, "--poolscope", "-n2", plugins=("xdist",))
    assert (outcome.status, counts(outcome)) == (1, "2 failed, 3 passed")
    summary = outcome.out.partition("=== poolscope ===")[2]
    assert "test_it.py::test_saturated\n  warning: " in summary
    assert "test_other.py::test_loop[0.4]\n  warning: " in summary


ASYNC = """
    import asyncio, time
    import pytest
    {mark}

    async def test_blocked():
        await asyncio.sleep(0.1)
        time.sleep(0.4)
        await asyncio.sleep(0.1)

    async def test_calm():
        await asyncio.sleep(0.2)
"""


@pytest.mark.parametrize("plugin", ["anyio", "asyncio"])
def test_tests_that_are_coroutines(tmp_path: Path, plugin: str) -> None:
    mark = f"pytestmark = pytest.mark.{plugin}"
    if plugin == "anyio":
        mark += "\n\n    @pytest.fixture\n    def anyio_backend():\n        return 'asyncio'"
    script(tmp_path, ASYNC.replace("{mark}", mark), "test_it.py")
    outcome = pytest_in(tmp_path, "--poolscope", plugins=(plugin,))
    assert (outcome.status, counts(outcome).removesuffix(", 1 warning")) == (1, "1 failed, 1 passed")
    assert "in test_blocked\n      time.sleep(0.4)\n" in outcome.out


def test_under_a_run_both_tell(tmp_path: Path) -> None:
    script(tmp_path, SATURATED, "test_it.py")
    words = ("-m", "poolscope", "run", "-m", "pytest", "-q", "-p", "no:cacheprovider", "--poolscope")
    outcome = run(sys.executable, *words, cwd=tmp_path, env=environment(COLUMNS="300"))
    assert outcome.status == 1
    assert "=== poolscope ===" in outcome.out
    assert "async_then_serial" in outcome.err

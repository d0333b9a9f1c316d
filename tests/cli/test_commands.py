"""The options of `run`, and the other commands."""

from __future__ import annotations

import gzip
import json
import os
import re
import shlex
import signal
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from cli_support import (
    PATIENCE,
    await_path,
    await_true,
    environment,
    line,
    poolscope,
    run,
    script,
    started,
    watched,
)

import poolscope as package
from poolscope import commands, errors, model, session
from poolscope.commands import console
from poolscope.commands import run as run_command
from poolscope.probe.startup import bootstrap

#: 40 tasks in half a second for 2 workers, which take two: a warning. All at once, they were a batch.
BUSY = """
    import sys, time
    from concurrent.futures import ThreadPoolExecutor
    with ThreadPoolExecutor(2, thread_name_prefix="data.base") as pool:
        for _ in range(40):
            pool.submit(time.sleep, 0.1)
            time.sleep(0.0125)
        print(pool._max_workers)
    sys.exit(int(sys.argv[1]) if len(sys.argv) > 1 else 0)
"""


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the session and the report of one run."""
    folder = tmp_path_factory.mktemp("recorded")
    script(folder, BUSY)
    outcome = poolscope("run", "--session", "it.session", "--json", "it.json", "program.py", cwd=folder)
    assert (outcome.status, outcome.out) == (0, "2\n")
    (folder / "stderr").write_text(outcome.err)
    return folder


def test_the_report_says_what_happened(recorded: Path) -> None:
    report = json.loads((recorded / "it.json").read_text())
    assert report["schema"] == "poolscope.report/1"
    assert report["command"] == ["program.py"]
    assert report["verdict"] == "async_then_serial"
    assert report["pools"][0]["name"] == "data.base"
    assert report["pools"][0]["tasks"]["succeeded"] == 40
    assert report["notices"] == []
    assert report["overhead"]["cpu_seconds"] > 0
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", report["started_at"])
    text = (recorded / "stderr").read_text()
    assert re.search(r"^poolscope: \d\d:\d\d:\d\d warning: pool 'data.base': async_then_serial", text, re.MULTILINE)
    assert "WARNING" in text


def test_the_session_gives_the_same_report_later(recorded: Path) -> None:
    outcome = poolscope("report", "it.session", "--json", "again.json", cwd=recorded)
    assert outcome == (0, "", "")
    assert (recorded / "again.json").read_bytes() == (recorded / "it.json").read_bytes()
    shown = poolscope("report", "it.session", cwd=recorded)
    assert (shown.status, shown.err) == (0, "")
    assert shown.out in (recorded / "stderr").read_text()
    verbose = poolscope("report", "it.session", "--verbose", cwd=recorded)
    assert re.search(r"\bcoupling \d", verbose.out)
    assert not re.search(r"\bcoupling \d", shown.out)
    assert shown.out.rstrip().endswith("more numbers: --verbose")


def test_a_report_to_a_pipe(recorded: Path) -> None:
    outcome = poolscope("report", "it.session", "--json", "/dev/stdout", cwd=recorded)
    assert json.loads(outcome.out)["verdict"] == "async_then_serial"
    words = f"{shlex.quote(sys.executable)} -m poolscope report it.session | true"
    assert run("sh", "-c", words, cwd=recorded).err == ""


def test_what_if(recorded: Path) -> None:
    outcome = poolscope("whatif", "it.session", "--pool", "data.base", "--workers", "2,8-9", cwd=recorded)
    assert (outcome.status, outcome.err) == (0, "")
    title, _, two, more, *_ = outcome.out.splitlines()
    assert title.startswith("pool data.base")
    assert "40 tasks" in title
    # Sizes that differ in nothing are one row.
    assert [row.split()[0] for row in (two, more)] == ["2", "8-9"]
    assert float(two.split()[-5]) > float(more.split()[-2])
    assert two.endswith("as it is")
    assert "8" in poolscope("whatif", "it.session", cwd=recorded).out
    missing = poolscope("whatif", "it.session", "--pool", "other", cwd=recorded)
    assert missing == (2, "", "poolscope: no pool 'other' in this session; its pools: data.base\n")


#: Ten tasks at a time for one worker, the next one submitted when one is done.
CLOSED = """
    import time
    from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
    with ThreadPoolExecutor(1, thread_name_prefix="bridge") as pool:
        running = {pool.submit(time.sleep, 0.03) for _ in range(10)}
        for _ in range(60):
            done, running = wait(running, return_when=FIRST_COMPLETED)
            running |= {pool.submit(time.sleep, 0.03) for _ in done}
"""


def test_a_closed_loop_is_replayed_with_its_population(tmp_path: Path) -> None:
    script(tmp_path, CLOSED)
    words = ("run", "--quiet", "--session", "it.session", "--json", "it.json", "program.py")
    assert poolscope(*words, cwd=tmp_path).status == 0
    (row,) = json.loads((tmp_path / "it.json").read_text())["pools"]
    assert [(point["workers"], point["wait_p50_seconds"]) for point in row["sizing"]][-1] == (10, 0.0)
    assert [found["advice"]["suggested_max_workers"] for found in row["findings"]] == [None]
    outcome = poolscope("whatif", "it.session", cwd=tmp_path)
    assert (outcome.status, outcome.err) == (0, "")
    assert "waits for results before it submits more: replayed with 10 tasks at a time" in outcome.out


def test_the_files_have_sane_permissions_and_links_stay(tmp_path: Path) -> None:
    script(tmp_path, "")
    (tmp_path / "target").write_text('{\n  "schema": "poolscope.report/1"\n}')
    (tmp_path / "target").chmod(0o640)
    (tmp_path / "link").symlink_to("target")
    words = ("--json", "link", "--trace", "new.json", "--session", "own.session")
    assert poolscope("run", "--quiet", *words, "program.py", cwd=tmp_path).status == 0
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").stat().st_mode & 0o777 == 0o640
    assert json.loads((tmp_path / "target").read_text())["exit_code"] == 0
    # A report is made to be handed on; a session holds more.
    (tmp_path / "like_any_other").touch()
    assert (tmp_path / "new.json").stat().st_mode == (tmp_path / "like_any_other").stat().st_mode
    assert (tmp_path / "own.session").stat().st_mode & 0o777 == 0o600
    assert sorted(os.listdir(tmp_path)) == ["like_any_other", "link", "new.json", "own.session", "program.py", "target"]


@pytest.mark.parametrize("quiet", [True, False])
def test_another_size_of_a_pool_that_is_not_there_is_said(tmp_path: Path, quiet: bool) -> None:
    script(
        tmp_path, "from concurrent.futures import ThreadPoolExecutor\npool = ThreadPoolExecutor(2)\npool.submit(int)"
    )
    words = ("--set", "crawler.max_workers=16", "--json", "it.json", "program.py")
    outcome = poolscope("run", *(["--quiet"] if quiet else []), *words, cwd=tmp_path)
    said = "--set crawler: no pool has that name; the pools: __main__:<module>.pool"
    assert json.loads((tmp_path / "it.json").read_text())["notices"] == [said]
    assert "--set crawler: no pool has that name" in outcome.err
    assert not quiet or outcome.err == f"poolscope: {said}\n"


@pytest.mark.parametrize(("named", "sizes"), [("work:process", (1, 3)), ("work:thread", (3, 1)), ("work", (3, 3))])
def test_another_size_of_one_of_two_pools_of_a_name(tmp_path: Path, named: str, sizes: tuple[int, int]) -> None:
    script(
        tmp_path,
        """
        from concurrent.futures import ThreadPoolExecutor
        from multiprocessing import get_context
        from poolscope import ProcessPoolExecutor

        if __name__ == "__main__":
            for pool in ThreadPoolExecutor(1, "work"), ProcessPoolExecutor(1, get_context("fork"), name="work"):
                with pool:
                    pool.submit(int).result()
        """,
    )
    _, report = watched("--set", f"{named}.max_workers=3", "program.py", cwd=tmp_path)
    assert {row["kind"]: row["max_workers"] for row in report["pools"]} == dict(
        zip(("thread", "process"), sizes, strict=True)
    )
    said = "--set work: pools of several kinds have that name; one alone: work:process, work:thread"
    assert (said in report["notices"]) == (named == "work")


def test_another_size_without_touching_the_code(tmp_path: Path) -> None:
    script(tmp_path, BUSY)
    outcome, report = watched("--set", "data.base.max_workers=16", "program.py", cwd=tmp_path)
    assert outcome.out == "16\n"
    assert report["pools"][0]["max_workers"] == 16
    assert report["verdict"] == "concurrent"


@pytest.mark.parametrize(
    ("severity", "argument", "status"), [("warning", "0", 3), ("critical", "0", 0), ("info", "5", 5)]
)
def test_fail_on(tmp_path: Path, severity: str, argument: str, status: int) -> None:
    script(tmp_path, BUSY)
    outcome = poolscope("run", "--quiet", "--fail-on", severity, "program.py", argument, cwd=tmp_path)
    assert (outcome.status, outcome.out) == (status, "2\n")
    if status != 3:
        assert not outcome.err
        return
    (line,) = outcome.err.splitlines()
    assert line.startswith(f"poolscope: exit status 3, as --fail-on {severity} wants it: Pool 'data.base'")


def test_settings_of_a_file_and_of_the_environment(tmp_path: Path) -> None:
    script(tmp_path, BUSY)
    script(tmp_path, "pools: [{match: 'data*', name: renamed, max_workers: 16}]", "settings.yaml")
    _, by_option = watched("--config", "settings.yaml", "program.py", cwd=tmp_path)
    _, by_variable = watched("program.py", cwd=tmp_path, env=environment(POOLSCOPE_CONFIG="settings.yaml"))
    for report in (by_option, by_variable):
        assert [(pool["name"], pool["max_workers"]) for pool in report["pools"]] == [("renamed", 16)]


def scrape(url: str) -> str:
    with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
        text: str = answer.read().decode()
    return text


def test_an_endpoint_while_the_program_runs(tmp_path: Path) -> None:
    script(
        tmp_path,
        """
        import os, time
        from concurrent.futures import ThreadPoolExecutor
        with ThreadPoolExecutor(2, thread_name_prefix="p") as pool:
            list(pool.map(int, "12345"))
            while not os.path.exists("go"):
                time.sleep(0.01)
        """,
    )
    words = (sys.executable, "-m", "poolscope", "run", "--listen", "127.0.0.1:0", "program.py")
    with started(*words, cwd=tmp_path) as process:
        assert process.stderr is not None
        said = process.stderr.readline()
        url = said.removeprefix("poolscope: metrics at ").strip()
        assert url.startswith("http://127.0.0.1:")
        expected = 'poolscope_pool_tasks_finished_total{outcome="succeeded",pool="p"} 5.0'
        await_true(lambda: expected in scrape(url), "the tasks did not show up")
        (tmp_path / "go").touch()
        assert process.wait(PATIENCE) == 0


def test_a_killed_poolscope_leaves_a_session(tmp_path: Path) -> None:
    script(
        tmp_path,
        """
        import time
        from concurrent.futures import ThreadPoolExecutor
        with ThreadPoolExecutor(2, thread_name_prefix="p") as pool:
            list(pool.map(int, "12345"))
        print("done", flush=True)
        time.sleep(60)
        """,
    )
    often = (
        "import poolscope.supervisor.watch as w; w.CHECKPOINT_SECONDS = 0.2; "
        "from poolscope.commands import main; main()"
    )
    words = (sys.executable, "-c", often, "run", "--quiet", "--session", "it.session", "program.py")
    path = tmp_path / "it.session"

    def submitted() -> int:
        return sum(pool.tasks.submitted for pool in session.load(path).report.pools)

    with started(*words, cwd=tmp_path, process_group=0, env=environment(TMPDIR=str(tmp_path))) as process:
        assert line(process) == "done"
        await_path(path)
        await_true(lambda: submitted() == 5, "the tasks did not show up")
        os.killpg(process.pid, signal.SIGKILL)
    assert submitted() == 5
    assert session.load(path).report.exit_code is None


def test_a_report_that_cannot_be_written_in_the_end(tmp_path: Path) -> None:
    script(tmp_path, "import shutil, sys; shutil.rmtree('out'); sys.exit(int(sys.argv[1]))")
    for status, expected in (("0", 2), ("5", 5)):
        (tmp_path / "out").mkdir()
        words = ("run", "--quiet", "--json", "out/it.json", "--session", "out/it.session", "program.py", status)
        outcome = poolscope(*words, cwd=tmp_path)
        assert outcome.status == expected
        assert [text.partition(": ")[0] for text in outcome.err.splitlines()] == ["poolscope", "poolscope"]
        (tmp_path / "out").mkdir()
        loud = poolscope("run", "--json", "out/it.json", "program.py", status, cwd=tmp_path)
        assert loud.status == expected
        assert loud.err.count("it.json") == 1


def test_a_report_that_is_missing_is_no_success(tmp_path: Path) -> None:
    script(tmp_path, "")
    breaking = "from poolscope import commands, engine; engine.Engine = None; commands.main()"
    for words, status in (((), 0), (("--fail-on", "warning"), 2), (("--json", "r.json"), 2)):
        outcome = run(sys.executable, "-c", breaking, "run", *words, "program.py", cwd=tmp_path)
        assert outcome.status == status
        assert outcome.err.startswith("poolscope: it failed, there is no report")


def test_a_failed_look_for_processes_is_told(tmp_path: Path) -> None:
    script(tmp_path, "import time; time.sleep(0.5)")
    breaking = """
import sys
from poolscope.commands import main
from poolscope.supervisor import children, watch
watch.CHILDREN_SECONDS = 0.05
def fail(*args, **kwargs):
    raise ZeroDivisionError
children.Children = fail
main()
"""
    outcome = run(sys.executable, "-c", breaking, "run", "--json", "r.json", "program.py", cwd=tmp_path)
    assert outcome.status == 0
    notices = json.loads((tmp_path / "r.json").read_text())["notices"]
    assert any("processes that are not watched are not named" in notice for notice in notices), notices


@pytest.mark.parametrize("broken", ["__init__", "tick", "finish", "session"])
def test_a_failure_of_ours_costs_the_report_and_nothing_else(tmp_path: Path, broken: str) -> None:
    script(tmp_path, "import concurrent.futures.thread, time, sys; time.sleep(0.3); print('fine'); sys.exit(5)")
    breaking = f"""
import sys
from poolscope.engine import Engine
from poolscope.commands import main
def fail(*args, **kwargs):
    raise ZeroDivisionError
Engine.{broken} = fail
main()
"""
    outcome = run(sys.executable, "-c", breaking, "run", "--json", "r.json", "program.py", cwd=tmp_path)
    assert (outcome.status, outcome.out) == (5, "fine\n")
    assert "ZeroDivisionError" in outcome.err
    if broken == "tick":
        assert "findings may be missing" in json.loads((tmp_path / "r.json").read_text())["notices"][0]
    else:
        assert outcome.err.startswith("poolscope: it failed, there is no report")


def test_the_report_goes_to_standard_error(tmp_path: Path) -> None:
    script(tmp_path, "print('hello')")
    outcome = poolscope("run", "program.py", cwd=tmp_path)
    assert outcome.out == "hello\n"
    assert "INSUFFICIENT DATA" in outcome.err
    assert poolscope("run", "--quiet", "program.py", cwd=tmp_path) == (0, "hello\n", "")


def test_a_standard_error_that_nobody_reads(tmp_path: Path) -> None:
    script(tmp_path, BUSY)
    command = f"{shlex.quote(sys.executable)} -m poolscope run program.py 2>&- && echo fine"
    assert run("sh", "-c", command, cwd=tmp_path).out == "2\nfine\n"


def test_settings_reach_the_program(tmp_path: Path) -> None:
    script(
        tmp_path,
        """
        import asyncio, time
        from concurrent.futures import ThreadPoolExecutor
        async def main():
            for _ in range(20):
                time.sleep(0.04)
                await asyncio.sleep(0)
        with ThreadPoolExecutor(1, "db-1") as first, ThreadPoolExecutor(1, "secret") as second:
            first.submit(int).result(), second.submit(int).result()
            print(first._max_workers, second._max_workers)
        asyncio.run(main())
        """,
    )
    settings = {
        "sample_interval": 0.05,
        "pools": [{"match": "db-*", "name": "database", "max_workers": 3}, {"match": "secret", "ignore": True}],
        "detection": {"loop_blocked_seconds": 0.02},
    }
    (tmp_path / "c.yaml").write_text(json.dumps(settings))
    outcome = poolscope("run", "--quiet", "--config", "c.yaml", "--json", "it.json", "program.py", cwd=tmp_path)
    assert outcome == (0, "3 1\n", "")
    report = json.loads((tmp_path / "it.json").read_text())
    assert [(pool["name"], pool["max_workers"]) for pool in report["pools"]] == [("database", 3)]
    # Below the default of 0.1 s none of these blocks would be one.
    assert report["event_loops"][0]["blocked_seconds"] > 0.4
    assert report["event_loops"][0]["findings"][0]["pattern"] == "loop_blocked"


def test_demo_lists_the_stories(tmp_path: Path) -> None:
    outcome = poolscope("demo", cwd=tmp_path)
    assert outcome.status == 0
    stories = ["overlap", "blocking-call", "hard-limit", "in-turn", "gate"]
    assert [text.split()[0] for text in outcome.out.splitlines()] == stories


def test_check_and_export(tmp_path: Path) -> None:
    assert poolscope("export", "config", "made/here", cwd=tmp_path).status == 0
    path = "made/here/poolscope.yaml"
    assert poolscope("check", path, cwd=tmp_path) == (0, f"{path}: valid\n", "")


def test_version_and_help(tmp_path: Path) -> None:
    assert poolscope("--version", cwd=tmp_path) == (0, f"poolscope {package.__version__}\n", "")
    for words in ((), ("--help",), ("run", "--help"), ("demo", "--help"), ("whatif", "--help")):
        outcome = poolscope(*words, cwd=tmp_path)
        assert (outcome.status, outcome.err) == (0, "")
        assert outcome.out.startswith("usage: poolscope")


def test_what_is_written_twice_agrees() -> None:
    from poolscope import messages
    from poolscope.commands import export

    assert run_command._SEVERITIES == model.SEVERITIES
    assert tuple(export.SHIPPED) == commands._EXPORTS
    assert bootstrap.PROTOCOL == messages.PROTOCOL
    assert issubclass(console.UsageError, errors.PoolscopeError)


def test_arguments_that_are_no_text(tmp_path: Path) -> None:
    script(tmp_path, "import sys, os; print(os.fsencode(sys.argv[1]))")
    words: Any = (b"program.py", b"caf\xe9")
    command = [os.fsencode(sys.executable), b"-m", b"poolscope", b"run", b"--quiet", b"--json", b"r.json"]
    with started(*[os.fsdecode(word) for word in (*command, *words)], cwd=tmp_path) as process:
        assert line(process) == "b'caf\\xe9'"
        assert process.wait(PATIENCE) == 0
    assert json.loads((tmp_path / "r.json").read_text())["command"] == ["program.py", "caf\\udce9"]


def test_a_session_gives_every_output_later(recorded: Path, tmp_path: Path) -> None:
    summary, timeline = tmp_path / "summary.md", tmp_path / "timeline.json.gz"
    summary.write_text("What the job wrote.\n")
    page = tmp_path / "page.html"
    words = ["report", "it.session", "--markdown", str(summary), "--trace", str(timeline), "--html", str(page)]
    assert poolscope(*words[:2], "--html", str(page), cwd=recorded) == (0, "", "")
    words += ["--annotations"]
    outcome = poolscope(*words, cwd=recorded)
    assert (outcome.status, outcome.err) == (0, "")
    assert outcome.out.startswith("::warning title=poolscope%3A async_then_serial")
    assert page.read_text().startswith("<!doctype html>")
    head, _, report = summary.read_text().partition("\n")
    assert head == "What the job wrote."
    assert report.startswith("### \N{LARGE YELLOW CIRCLE} poolscope: async then serial")
    events = json.loads(gzip.decompress(timeline.read_bytes()))["traceEvents"]
    assert sum(event["ph"] == "X" and event["tid"] >= 3 for event in events) == 40
    again = poolscope("report", "it.session", "--trace", str(timeline), cwd=recorded)
    assert again == (0, "", "")


def test_standard_output_comes_after_the_programs(tmp_path: Path) -> None:
    script(tmp_path, "print('mine')")
    outcome = poolscope("run", "--quiet", "--json", "-", "program.py", cwd=tmp_path)
    first, _, rest = outcome.out.partition("\n")
    assert (outcome.status, outcome.err, first) == (0, "", "mine")
    assert json.loads(rest)["exit_code"] == 0


def test_a_file_of_another_kind_is_overwritten_if_that_is_said(tmp_path: Path) -> None:
    script(tmp_path, "")
    (tmp_path / "notes").write_text("mine")
    assert poolscope("run", "--quiet", "--json", "notes", "program.py", cwd=tmp_path).status == 2
    assert (tmp_path / "notes").read_text() == "mine"
    assert poolscope("run", "--quiet", "--force", "--json", "notes", "program.py", cwd=tmp_path).status == 0
    assert json.loads((tmp_path / "notes").read_text())["exit_code"] == 0


def test_code_is_run_as_by_python(tmp_path: Path) -> None:
    code = "import sys; print(sys.argv, __name__); sys.exit(3)"
    plain = run(sys.executable, "-c", code, "-x", "--json", cwd=tmp_path)
    assert poolscope("run", "--quiet", "-c", code, "-x", "--json", cwd=tmp_path) == plain
    assert poolscope("run", "--quiet", f"-c{code}", "-x", "--json", cwd=tmp_path) == plain


def test_what_changed_from_one_run_to_another(recorded: Path, tmp_path: Path) -> None:
    script(tmp_path, BUSY)
    words = ("run", "--quiet", "--session", "after.session", "--set", "data.base.max_workers=16", "program.py")
    assert poolscope(*words, cwd=tmp_path).out == "16\n"
    before, after = str(recorded / "it.session"), "after.session"
    better = poolscope("compare", before, after, "--fail-on-regression", cwd=tmp_path)
    assert (better.status, better.err) == (0, "")
    assert "gone: warning: Pool 'data.base'" in better.out
    assert re.search(r"^  wait p50 .* better$", better.out, re.MULTILINE)
    worse = poolscope("compare", after, before, "--fail-on-regression", "--markdown", "-", cwd=tmp_path)
    assert worse.status == 3
    assert worse.err.startswith("poolscope: exit status 3, as --fail-on-regression wants it: Pool 'data.base'")
    assert worse.out.startswith("### \N{LARGE RED CIRCLE} poolscope: ")
    same = poolscope("compare", before, before, "--fail-on-regression", cwd=tmp_path)
    assert (same.status, same.err) == (0, "")

"""What cannot be read or makes no sense: the verdict is silent about it or `unknown`, and nothing fails."""

from __future__ import annotations

import io
import linecache
import os
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from pool_support import ORIGIN, SECOND, VirtualPool, batches, simulate

from poolscope.config import Settings
from poolscope.engine import Engine
from poolscope.engine.sources import Sources
from poolscope.messages import PROTOCOL
from poolscope.model import Report, Session
from poolscope.rendering.terminal import render

FLOOD = [(0.5, 0.1, 1)] * 200


class Program:
    """A judge, and one process that tells it of one pool."""

    def __init__(self, file: str = "/app/app.py", workers: int = 4, started_ns: int = ORIGIN) -> None:
        self.judge = Engine(Settings(), started_ns=started_ns)
        self.end = started_ns
        self.judge.feed(0, ("hello", PROTOCOL, 7, 1, ["python", "app.py"], "3.13.0", started_ns, True))
        self.judge.feed(0, ("function", 1, "app.fetch", file, 2))
        self.judge.feed(
            0, ("pool_opened", 1, "crawler", "thread", "x.ThreadPoolExecutor", "app.py:1", workers, started_ns)
        )

    def batch(self, at: int, workers: int, **fields: Any) -> None:
        lists = [fields.get(name, []) for name in ("finished", "running", "cancelled", "broken", "arrivals")]
        self.judge.feed(0, ("pool_batch", 1, at, workers, fields.get("most", workers), 0, 0, *lists))
        self.judge.feed(0, ("process_tick", at, 0, 1000, 2.0))
        self.judge.tick(at)
        self.end = max(self.end, at)

    def flood(self, sizes: tuple[int, ...] = (4,)) -> None:
        """A flood on four workers, which the pool says are as many as `sizes`, one after another."""
        for number, batch in enumerate(batches(simulate(FLOOD, 4), 4)):
            said = msgspec.structs.replace(batch, max_workers=sizes[number % len(sizes)])
            fields = [getattr(said, name) for name in said.__struct_fields__]
            self.judge.feed(0, ("pool_batch", 1, *fields[1:]))
            self.judge.feed(0, ("process_tick", said.at_ns, 0, 1000, 2.0))
            self.judge.tick(said.at_ns)
            self.end = max(self.end, said.at_ns)

    def session(self) -> Session:
        self.judge.finish(self.end)
        return self.judge.session(self.end, command=["app.py"], started_at="2026-03-01T03:12:44Z", exit_code=0)

    def report(self) -> Report:
        """What came of it, after it has been shown and written as JSON."""
        session = self.session()
        render(session, io.StringIO(), color=False)
        assert msgspec.json.decode(session.report.to_json())
        assert session.report.notices == (), "a failure of ours would stand here"
        self.judge.snapshot(self.end)
        return session.report


# -- sources -----------------------------------------------------------------------------------------------


def written(file: Path, data: bytes) -> str:
    file.write_bytes(data)
    return str(file)


def test_a_source_that_was_changed_since_the_start_is_not_quoted(tmp_path: Path) -> None:
    file = written(tmp_path / "app.py", b"first\nsecond\n")
    started = time.perf_counter_ns()
    assert Sources().line(file, 2, started + 60 * SECOND) == "second"
    assert Sources().line(file, 2, started - 60 * SECOND) is None
    assert Sources().line(file, 2) == "second", "it is not known when the program read it"
    # Whatever date its content has.
    os.utime(file, (0, 0))
    assert Sources().line(file, 2, started - 60 * SECOND) is None


def test_what_was_read_before_the_change_is_still_right(tmp_path: Path) -> None:
    file = written(tmp_path / "app.py", b"first\nsecond\n")
    sources, started = Sources(), time.perf_counter_ns() + 60 * SECOND
    assert sources.line(file, 2, started) == "second"
    written(tmp_path / "app.py", b"other\nlines\n")
    assert sources.line(file, 2, started) == "second"


@pytest.mark.parametrize(
    "data",
    [
        b"caf\xe9 = 1\nx = 2\n",  # no UTF-8, and not said to be anything else
        b"# coding: no-such-codec\nx = 2\n",
        b"\x00\x01\x02\n\xff\xfe\n",
        b"",
    ],
    ids=["latin-1", "unknown codec", "binary", "empty"],
)
def test_a_source_that_is_no_text_is_not_quoted(data: bytes, tmp_path: Path) -> None:
    assert Sources().line(written(tmp_path / "app.py", data), 2) is None


def test_a_source_in_the_encoding_that_it_says(tmp_path: Path) -> None:
    file = written(tmp_path / "app.py", b"# coding: latin-1\ncaf\xe9 = 1\n")
    assert Sources().line(file, 2) == "caf\xe9 = 1"


def test_a_huge_source_is_not_read_and_a_huge_line_is_cut(tmp_path: Path) -> None:
    with open(tmp_path / "huge.py", "wb") as file:
        file.truncate(17 << 20)
    assert Sources().line(str(tmp_path / "huge.py"), 1) is None
    line = Sources().line(written(tmp_path / "minified.py", b"x = '" + b"a" * 5_000_000 + b"'\n"), 1)
    assert line is not None
    assert len(line) == 1_000
    assert not [name for name in linecache.cache if str(tmp_path) in str(name)]


@pytest.mark.parametrize(
    "file",
    ["<string>", "<stdin>", "<frozen importlib._bootstrap>", "\ud800.py", "a\0b", "", "x" * 100_000, "os.py"],
    ids=lambda file: file[:20].encode("ascii", "backslashreplace").decode(),
)
@pytest.mark.parametrize("number", [-1, 0, 1, 10**30])
def test_what_is_made_at_run_time_has_no_source(file: str, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor has a file of that name that lies somewhere on the path of our own."""
    # The program of `python -c`, such as a worker of a parallel test run, is known as <string>.
    monkeypatch.delitem(linecache.cache, file, raising=False)
    assert Sources().line(file, number, time.perf_counter_ns()) is None


@pytest.mark.parametrize(
    ("name", "data"),
    [("gone.py", None), ("binary.py", b"\xff\xfe\x00"), ("changed.py", b"def f():\n    time.sleep(1)\n")],
)
def test_a_pool_is_judged_without_its_source(name: str, data: bytes | None, tmp_path: Path) -> None:
    if data is not None:
        written(tmp_path / name, data)
    # Everything in `tmp_path` is younger than a process that started at the begin of time.
    program = Program(str(tmp_path / name))
    program.flood()
    report = program.report()
    (finding,) = report.findings
    assert (finding.pattern, finding.cause) == ("batch", "blocking_io"), "its workers use no CPU"
    (frame,) = finding.frames
    assert (frame.line, frame.function, frame.source) == (2, "app.fetch", None)


# -- sizes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sizes",
    [(4, 8), (8, 4), (1, 4), (4, 0), (0, 0), (4, 4, 4, 2, 2, 2), (2**31, 4), (1,)],
    ids=str,
)
def test_a_pool_whose_size_changes_while_it_runs_is_judged(sizes: tuple[int, ...]) -> None:
    program = Program()
    program.flood(sizes)
    report = program.report()
    (pool,) = report.pools
    assert pool.tasks.succeeded == 200
    assert pool.peak_active <= 4
    assert pool.max_workers == max(4, *sizes)
    for finding in pool.findings:
        suggested = finding.advice.suggested_max_workers
        assert suggested is None or suggested > finding.evidence["max_workers"], "no number at or below the size"


# -- clocks ------------------------------------------------------------------------------------------------


def test_a_clock_that_stands_is_no_failure() -> None:
    """Every task, batch and tick has the same time."""
    program = Program()
    for _ in range(50):
        finished = [number for worker in (1, 2, 3, 4) for number in (worker, 2, ORIGIN, ORIGIN, ORIGIN)]
        program.batch(ORIGIN, 4, finished=finished, arrivals=[1, ORIGIN] * 4)
    report = program.report()
    (pool,) = report.pools
    assert pool.tasks.succeeded == 200
    assert (pool.run_seconds.p50, pool.run_seconds.max) == (0.0, 0.0)
    assert (report.verdict, report.findings, report.overhead.share) == ("concurrent", (), 0.0)


def test_a_clock_that_stands_for_a_while_is_no_stall() -> None:
    """A virtual machine that is stopped: time jumps when it goes on."""
    program = Program()
    program.flood()
    for _ in range(20):
        program.batch(program.end, 4)
    program.batch(program.end + 3600 * SECOND, 4)
    report = program.report()
    assert [finding.pattern for finding in report.findings] == ["batch"]


def test_a_clock_that_steps_back_is_no_failure() -> None:
    program = Program()
    program.flood()
    end = program.end
    for step in (SECOND, 30 * SECOND, 1):
        finished = [1, 2, end, end, end - step]
        program.batch(end - step, 4, finished=finished, arrivals=[1, end])
    report = program.report()
    assert report.pools[0].tasks.succeeded == 203


# -- names -------------------------------------------------------------------------------------------------


def test_a_thousand_functions_of_one_name_are_one_row() -> None:
    """As closures and lambdas are that a loop makes."""
    program = Program()
    for number in range(2, 1002):
        program.judge.feed(0, ("function", number, "app.<lambda>", "/app/app.py", 3))
    tasks = simulate([(0.5 + 0.001 * number, 0.02, number + 2) for number in range(1000)], 4)
    for batch in batches(tasks, 4):
        fields = [getattr(batch, name) for name in batch.__struct_fields__]
        program.judge.feed(0, ("pool_batch", 1, *fields[1:]))
        program.judge.tick(batch.at_ns)
        program.end = batch.at_ns
    report = program.report()
    (function,) = report.pools[0].functions
    assert (function.name, function.started) == ("app.<lambda>", 1000)
    assert report.verdict == "async_then_serial"
    assert "app.<lambda> and app.<lambda>" not in report.findings[0].summary


def test_a_pool_of_many_functions_is_sized_like_one_of_one() -> None:
    one = VirtualPool(4).run([(0.5 + 0.01 * number, 0.1, 1) for number in range(300)]).case.findings()
    many = VirtualPool(4).run([(0.5 + 0.01 * number, 0.1, number + 1) for number in range(300)]).case.findings()
    assert [finding.pattern for finding in many] == [finding.pattern for finding in one]
    assert many[0].advice.suggested_max_workers == one[0].advice.suggested_max_workers

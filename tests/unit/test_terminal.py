from __future__ import annotations

import io
import os
import re
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, timedelta, timezone
from typing import Any

import msgspec
import pytest
import report_support
from hypothesis import given, settings
from hypothesis import strategies as st

from poolscope.model import Advice, Concurrency, Distribution, Finding, Frame, SizingPoint, TaskCounts, TimelinePoint
from poolscope.model import Session as Recorded
from poolscope.rendering.layout import layout
from poolscope.rendering.terminal import render
from poolscope.rendering.text import ASCII, UNICODE, Medium, cells, line_cells, plain
from poolscope.rendering.timeline import Column, columns, span

ESCAPES = re.compile(r"\x1b\[[0-9;]*m")
NAMES = sorted(report_support.SESSIONS)


class Screen(io.StringIO):
    """A terminal in memory."""

    def isatty(self) -> bool:
        return True


def shown(session: Recorded, width: int = 100, **options: Any) -> str:
    file = io.StringIO()
    render(session, file, width=width, color=False, cwd=report_support.CWD, **{"zone": UTC, **options})
    return file.getvalue()


def change(session: Recorded, **changed: Any) -> Recorded:
    return msgspec.structs.replace(session, report=msgspec.structs.replace(session.report, **changed))


def medium(width: int = 100, encoding: str | None = "utf-8") -> Medium:
    return Medium(width=width, encoding=encoding, cwd=report_support.CWD)


def point(at: float, width: float, active: float = 0, queued: float = 0, wait: float = 0) -> TimelinePoint:
    return TimelinePoint(at, width, active, queued, wait, 0, 0)


@pytest.fixture
def without_rich(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("rich", "rich.console", "rich.text"):
        monkeypatch.setitem(sys.modules, name, None)


class TestVerdict:
    def test_a_finding_comes_first_with_all_that_is_known(self) -> None:
        text = shown(report_support.hard_limit())
        assert text.startswith("WARNING  Pool fetch turned serial at 4.0 s")
        order = [
            "async_then_serial · cause blocking_io · pool fetch · made at shop/jobs.py:12\nfrom 4.0 s",
            " (03:12:48) to 15.9 s (03:12:59)\n",
            "evidence  wait p50 2.95 s · run p50 200 ms · amplification 15.8\u00d7 · effective parallelism 3.98\n",
            "line      shop/jobs.py:31 in fetch, 98 % of samples",
            "    response = session.get(url, timeout=10)",
            "urllib3/connectionpool.py:790 in HTTPConnectionPool.urlopen\n",
            "advice    The tasks wait for the network",
            "try it: poolscope run --set fetch.max_workers=9",
            "▲ knee 4.0 s",
            "thread pool  peak  tasks  wait p50     p95  run p50     p95  saturated",
            "functions of fetch",
            "◀ now",
            "◀ suggested",
            "assumes run times unchanged",
            "info  Pool fetch was full for 0.1 s.",
            "ran 16.1 s · started 2025-03-01 03:12:44 UTC · overhead 31.0 ms CPU (0.2 %)\nmore numbers: --verbose\n",
        ]
        places = [text.find(piece) for piece in order]
        assert -1 not in places, order[places.index(-1)]
        assert places == sorted(places)

    def test_a_healthy_run_is_short(self) -> None:
        text = shown(report_support.healthy_pools())
        assert text.startswith("CONCURRENT  40 tasks in 1 pool, at most 2 at once, and 1 event loop in 3.02 s.\n")
        assert len(text.splitlines()) <= 9

    def test_a_loop_that_is_late_without_a_finding_is_not_passed_over(self) -> None:
        late = Distribution(mean=0.7, p50=0.73, p95=0.75, p99=0.78, max=0.8)
        text = " ".join(shown(report_support.session(loops=[report_support.loop(lag_seconds=late)])).split())
        assert text.startswith("CONCURRENT 1 event loop in")
        assert "But event loop 'main' ran half of what was due 730 ms late or later" in text

    def test_too_little_to_judge(self) -> None:
        assert shown(report_support.empty()).startswith(
            "INSUFFICIENT DATA  Too little to judge: no pool and no event loop in 0 s"
        )

    def test_too_few_tasks_that_finished(self) -> None:
        session = report_support.healthy_pools()
        (pool,) = session.report.pools
        pool = msgspec.structs.replace(pool, tasks=TaskCounts(40, 6, 4, 1, 34))
        text = shown(change(session, verdict="insufficient_data", pools=(pool,), event_loops=()))
        assert " ".join(text.split()).startswith(
            "INSUFFICIENT DATA Too little to judge: 40 tasks, 5 of them finished, in 1 pool, at most 2 at once, in "
            "3.02 s; it takes 10 "
        )

    def test_how_much_went_on_at_once(self) -> None:
        session = report_support.healthy_pools()
        pool = msgspec.structs.replace(session.report.pools[0], peak_active=4, concurrency=Concurrency(2.26, 4))
        text = " ".join(shown(change(session, pools=(pool,))).split())
        assert "in 1 pool, at most 4 at once and 2.3 on average, and 1 event" in text
        text = " ".join(shown(change(session, pools=(pool, msgspec.structs.replace(pool, name="b")))).split())
        assert "at most 4 at once in one of them, 2.3 on average in the busiest," in text

    def test_what_goes_on_in_turn_is_the_headline(self) -> None:
        note = report_support.in_turn()
        session = report_support.session(loops=[report_support.loop(findings=(note,))], verdict="not_concurrent")
        text = shown(session)
        assert text.startswith(f"NOT CONCURRENT  {note.summary}"[:60])
        assert "cause awaited_in_turn" in text
        assert "await fetch(number)" in text
        assert text.count(note.advice.text[:40]) == 1
        assert shown(change(session, verdict="concurrent")).startswith("CONCURRENT  1 event loop in")

    def test_tasks_that_have_not_finished_are_not_passed_over(self) -> None:
        session = report_support.healthy_pools()
        pool = msgspec.structs.replace(session.report.pools[0], tasks=TaskCounts(40, 20, 18, 1, 4))
        text = " ".join(shown(change(session, pools=(pool,))).split())
        assert text.startswith(
            "CONCURRENT 40 tasks, 17 of them not finished, in 1 pool, at most 2 at once, and 1 event"
        )

    @pytest.mark.parametrize(
        ("code", "said"),
        [
            (-9, "The program was killed by SIGKILL."),
            (-15, "The program was killed by SIGTERM."),
            (-200, "The program was killed by signal 200."),
            (3, "The program ended with exit status 3."),
        ],
    )
    def test_how_the_program_ended(self, code: int, said: str) -> None:
        session = change(report_support.overlap(), exit_code=code)
        assert said in shown(session)

    @pytest.mark.parametrize("code", [0, None])
    def test_an_end_in_order_is_not_worth_a_line(self, code: int | None) -> None:
        session = change(report_support.overlap(), exit_code=code)
        assert "The program" not in shown(session)

    def test_the_worst_finding_is_the_headline(self) -> None:
        text = shown(report_support.several_pools())
        assert text.startswith("CRITICAL  Pool render stands still")
        assert "4 findings, the worst first." in text
        summaries = [
            "Pool render stands",
            "Pool writer has run",
            "Pool fetch turned",
            "The event loop was blocked",
        ]
        places = [text.index(summary) for summary in summaries]
        assert places == sorted(places)
        assert all(text.count(summary) == 1 for summary in summaries)

    def test_workers_with_a_pool_of_the_same_name_are_told_apart(self) -> None:
        session = report_support.hard_limit()
        (fetch,) = session.report.pools
        other = msgspec.structs.replace(fetch, pid=4243)
        assert "pid" not in shown(session)
        text = shown(
            msgspec.structs.replace(
                change(session, pools=(fetch, other)), traces=(session.traces[0], session.traces[0])
            )
        )
        headings = re.findall(r"cause \w+ · pool fetch · pid (\d+)", text)
        assert headings == ["4242", "4243"]
        for pid in headings:
            assert f"functions of fetch, pid {pid}" in text
            assert f"sizes of fetch, pid {pid}" in text

    def test_a_finding_that_lasts(self) -> None:
        assert "from 2.0 s (03:12:46) to the end" in shown(report_support.several_pools())

    def test_a_finding_beside_pools_and_loops_is_shown_too(self) -> None:
        session = change(report_support.empty(), findings=(report_support.finding(summary="Strange things."),))
        assert shown(session).startswith("WARNING  Strange things.")

    def test_info_is_no_alarm(self) -> None:
        burst = report_support.finding(severity="info", pattern="burst", cause="unknown", summary="Full for 0.1 s.")
        text = shown(change(report_support.empty(), verdict="concurrent", findings=(burst,)))
        assert text.startswith("CONCURRENT")
        assert "\ninfo  Full for 0.1 s. (burst)\n" in text

    def test_many_findings_are_told_in_short(self) -> None:
        findings = tuple(
            report_support.finding(since_seconds=float(number), summary=f"Strange thing {'i' * number}.")
            for number in range(30)
        )
        infos = tuple(
            report_support.finding(severity="info", since_seconds=50.0 + number, summary=f"Note {'i' * number}.")
            for number in range(30)
        )
        text = shown(change(report_support.empty(), findings=findings + infos))
        assert text.count("evidence") == 5
        assert text.count("and 20 more findings") == 1
        assert text.count("and 25 more findings") == 1

    def test_a_number_without_a_pool_to_set(self) -> None:
        advice = Advice("raise_max_workers", "Make it larger.", 9, pool="db")
        text = shown(change(report_support.empty(), findings=(report_support.finding(advice=advice),)))
        assert "suggested max_workers: 9" in text
        assert "see pool db" in text

    def test_a_name_for_the_shell_is_quoted(self) -> None:
        session = report_support.hard_limit()
        pool = msgspec.structs.replace(session.report.pools[0], name="my pool; rm")
        assert "--set 'my pool; rm.max_workers=9'" in shown(change(session, pools=(pool,)))

    def test_a_headline_says_what_else_stands_below(self) -> None:
        burst = report_support.finding(severity="info", pattern="burst", cause="unknown", summary="Full for 0.1 s.")
        session = change(report_support.healthy_pools(), findings=(burst,))
        text = shown(session)
        assert " in 3.02 s. 1 note below.\n" in text
        assert "serial" not in text
        unseen = change(report_support.empty(), notices=("no Python process was seen",))
        assert "What could not be seen stands in the notices below." in " ".join(shown(unseen).split())

    def test_a_pool_in_which_never_two_tasks_ran_at_once_is_not_praised(self) -> None:
        session = report_support.healthy_pools()
        pool = msgspec.structs.replace(session.report.pools[0], peak_active=1)
        assert "40 tasks in 1 pool, never two at once, and" in shown(change(session, pools=(pool,)))
        assert "in 2 pools, at most 2 at once in one of them, and" in shown(
            change(session, pools=(pool, session.report.pools[0]))
        )

    def test_a_finding_of_one_of_several_pools_of_a_name_says_so(self) -> None:
        session = report_support.hard_limit()
        assert "pool fetch ·" in shown(session)
        pool = msgspec.structs.replace(session.report.pools[0], max_workers=8, peak_active=8)
        assert "pool fetch (4 of 8 workers) ·" in shown(change(session, pools=(pool,)))

    def test_loops_of_one_name_and_several_kinds_are_told_apart(self) -> None:
        (blocked,) = report_support.blocking_call().report.event_loops
        loops = (blocked, msgspec.structs.replace(blocked, kind="uvloop"))
        text = shown(change(report_support.blocking_call(), event_loops=loops))
        assert re.findall(r"cause blocking_call · event loop main( \(\w+\))?\s", text) == ["", " (uvloop)"]


class TestEvidence:
    LIMIT = {"cpu_limit_cores": 1.0, "process_cores_allowed": 4.0}

    def said(self, evidence: dict[str, float], **options: Any) -> str:
        finding = report_support.finding(evidence=evidence)
        return shown(change(report_support.empty(), findings=(finding,)), **options)

    def test_four_numbers_are_enough_unless_more_are_wanted(self) -> None:
        numbers = {name * 3: 1.0 for name in "abcdefg"}
        text = self.said(numbers)
        assert "evidence  aaa 1 · bbb 1 · ccc 1 · ddd 1\n" in text
        assert "more numbers: --verbose" in text
        text = self.said(numbers, verbose=True)
        assert "ddd 1 · eee 1 · fff 1 · ggg 1\n" in text
        assert "--verbose" not in text
        assert "--verbose" not in self.said(dict.fromkeys(("aaa", "bbb", "ccc", "ddd"), 1.0))

    def test_a_limit_of_the_cpu_says_whose_it_is(self) -> None:
        assert "evidence  cpu limit the GIL's one core · process cores allowed 4\n" in self.said(self.LIMIT)
        assert "cpu limit 1 core ·" in self.said({**self.LIMIT, "process_cores_allowed": 1.0})
        assert "cpu limit 4 cores ·" in self.said({**self.LIMIT, "cpu_limit_cores": 4.0})
        assert "cpu limit 0.5 cores ·" in self.said({"cpu_limit_cores": 0.5, "process_cores_allowed": 0.5})


class TestTimesOfDay:
    def test_they_are_those_of_the_reader(self) -> None:
        zone = timezone(timedelta(hours=5, minutes=30))
        text = shown(report_support.hard_limit(), zone=zone)
        assert "from 4.0 s (08:42:48) to 15.9 s (08:42:59)" in text
        assert "started 2025-03-01 08:42:44 UTC+05:30" in text

    def test_another_day_is_named(self) -> None:
        finding = report_support.finding(since_seconds=4.0, until_seconds=80_000.0)
        text = shown(change(report_support.empty(), findings=(finding,)))
        assert "from 4.0 s (03:12:48) to 22 h 13 min (2025-03-02 01:26:04)" in text

    def test_they_give_way_where_there_is_no_room(self) -> None:
        assert "from 4.0 s to 15.9 s\n" in shown(report_support.hard_limit(), 40)

    @pytest.mark.parametrize("started", ["now", "", "2025-03-01T03:12:44", "9999-12-31T23:59:59Z", "\ud800"])
    def test_a_start_that_is_no_time_gives_none(self, started: str) -> None:
        text = shown(change(report_support.hard_limit(), started_at=started))
        assert "from 4.0 s to 15.9 s\n" in text


class TestFitting:
    @pytest.mark.parametrize("name", NAMES)
    @pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
    def test_no_line_is_wider_than_the_terminal(self, name: str, encoding: str) -> None:
        session = report_support.SESSIONS[name]()
        for width in (40, 47, 60, 80, 100, 140, 160):
            for line in layout(session, medium(width, encoding)):
                assert cells(plain(line)) <= width, plain(line)

    def test_a_width_that_is_asked_for_beats_the_terminal(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("COLUMNS", "50")
        wide = Screen()
        render(report_support.hard_limit(), wide, width=300, color=False, cwd=report_support.CWD)
        assert max(map(len, wide.getvalue().splitlines())) > 100

    @pytest.mark.parametrize(
        ("environment", "coloured"),
        [
            ({"FORCE_COLOR": "1"}, True),
            ({"FORCE_COLOR": "0"}, False),
            ({"FORCE_COLOR": "1", "TERM": "dumb"}, True),
            ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, False),
            ({"NO_COLOR": ""}, False),
        ],
    )
    def test_colours_can_be_forced_and_refused(
        self, environment: dict[str, str], coloured: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("NO_COLOR", "FORCE_COLOR"):
            monkeypatch.delenv(name, raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        file = io.StringIO()
        render(report_support.hard_limit(), file, width=80, cwd=report_support.CWD)
        assert ("\x1b[" in file.getvalue()) is coloured

    @pytest.mark.parametrize("width", [-1, 0, 1, 39, 10_000])
    def test_an_absurd_width_is_mended(self, width: int) -> None:
        text = shown(report_support.hard_limit(), width=width)
        assert 30 < max(map(len, text.splitlines())) <= 160

    def test_without_a_terminal_it_is_100_wide_and_plain(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("COLUMNS", "50")
        file = io.StringIO()
        render(report_support.hard_limit(), file, cwd=report_support.CWD)
        assert file.getvalue() == shown(report_support.hard_limit(), width=100)

    @pytest.mark.parametrize(
        ("columns", "width"), [("72", 72), ("", 100), ("0", 100), ("many", 100), ("٣٣", 100), ("9" * 30, 100)]
    )
    def test_a_terminal_is_as_wide_as_it_says(self, columns: str, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("COLUMNS", columns)  # a screen in memory has no size of its own
        file = Screen()
        render(report_support.hard_limit(), file, color=False, cwd=report_support.CWD)
        assert file.getvalue() == shown(report_support.hard_limit(), width=width)

    def test_paths_are_relative_to_the_working_directory(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
        monkeypatch.chdir(tmp_path)
        frames = (
            Frame(f"{tmp_path}/app.py", 7, "main"),
            Frame("/else/b.py", 1, "f"),
        )
        session = change(report_support.empty(), findings=(report_support.finding(frames=frames),))
        file = io.StringIO()
        render(session, file)
        assert "line      app.py:7 in main\n" in file.getvalue()
        assert " /else/b.py:1 in f\n" in file.getvalue()

    @pytest.mark.parametrize("library", ["/usr/lib/python3.13", "/opt/py/lib64/python3.14t", "/venv/lib/python3.15"])
    def test_paths_of_the_standard_library_are_without_the_way_to_it(self, library: str) -> None:
        assert medium().path(f"{library}/logging/__init__.py", 80) == "logging/__init__.py"
        assert medium().path(f"{library}/site-packages/urllib3/pool.py", 80) == "urllib3/pool.py"

    def test_a_working_directory_that_is_gone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def gone() -> str:
            raise FileNotFoundError

        monkeypatch.setattr(os, "getcwd", gone)
        file = io.StringIO()
        render(report_support.hard_limit(), file)
        assert "/shop/jobs.py:31" in file.getvalue()


class TestColor:
    @pytest.mark.parametrize("name", NAMES)
    @pytest.mark.usefixtures("without_rich")
    def test_without_rich_the_same_lines(self, name: str) -> None:
        session = report_support.SESSIONS[name]()
        file = Screen()
        render(session, file, width=80, color=True, cwd=report_support.CWD)
        assert file.getvalue() == shown(session, 80)

    @pytest.mark.parametrize("name", NAMES)
    def test_rich_adds_nothing_but_color(self, name: str) -> None:
        session = report_support.SESSIONS[name]()
        file = io.StringIO()
        render(session, file, width=80, color=True, cwd=report_support.CWD)
        assert "\x1b[" in file.getvalue()
        lines = ESCAPES.sub("", file.getvalue()).splitlines()
        assert [line.rstrip() for line in lines] == shown(session, 80).splitlines()

    def test_the_verdict_and_the_knee_stand_out(self) -> None:
        file = io.StringIO()
        render(report_support.hard_limit(), file, width=80, color=True)
        assert file.getvalue().startswith("\x1b[1;33mWARNING\x1b[0m")
        assert "\x1b[1;33m▲ knee 4.0 s" in file.getvalue()

    @pytest.mark.parametrize(
        ("environment", "colored"),
        [({}, True), ({"NO_COLOR": "1"}, False), ({"NO_COLOR": ""}, True), ({"TERM": "dumb"}, False)],
    )
    def test_a_terminal_decides(
        self, environment: dict[str, str], colored: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("NO_COLOR", raising=False)
        monkeypatch.setenv("TERM", "xterm")
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        file = Screen()
        render(report_support.hard_limit(), file)
        assert ("\x1b" in file.getvalue()) == colored

    def test_the_caller_decides_over_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("NO_COLOR", "1")
        monkeypatch.setenv("TERM", "dumb")
        file = io.StringIO()
        render(report_support.hard_limit(), file, color=True)
        assert "\x1b[1;33m" in file.getvalue()


class TestHostileText:
    def check(self, text: str) -> None:
        for line in text.splitlines():
            assert line.isprintable(), line
        assert text.count("\n") == len(text.splitlines())  # no other line break that a terminal knows

    def test_nothing_that_a_terminal_obeys(self) -> None:
        self.check(shown(report_support.hostile()))
        file = io.StringIO()
        render(report_support.hostile(), file, color=True)
        self.check(ESCAPES.sub("", file.getvalue()))

    def test_markup_stays_text(self) -> None:
        file = io.StringIO()
        render(report_support.hostile(), file, color=True)
        assert "[red]now[/red]" in file.getvalue()
        assert "[/nothing]" in file.getvalue()

    @pytest.mark.parametrize("color", [False, True])
    @pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
    @pytest.mark.parametrize("name", NAMES)
    def test_any_encoding(self, name: str, encoding: str, color: bool) -> None:
        raw = io.BytesIO()
        file = io.TextIOWrapper(raw, encoding=encoding)
        render(report_support.SESSIONS[name](), file, color=color)
        file.flush()
        assert raw.getvalue().decode(encoding)

    def test_ascii_instead_of_blocks(self) -> None:
        raw = io.BytesIO()
        file = io.TextIOWrapper(raw, encoding="ascii")
        render(report_support.hard_limit(), file, width=80)
        file.flush()
        assert "^ knee 4.0 s" in raw.getvalue().decode("ascii")

    def test_an_encoding_that_nobody_knows(self) -> None:
        assert medium(encoding="klingon").glyphs is ASCII
        assert medium(encoding="klingon").clean("é") == "\\xe9"
        assert medium(encoding=None).glyphs is UNICODE

    def test_long_names_are_cut_in_the_middle(self) -> None:
        text = shown(report_support.several_pools(), 80)
        assert "shop.integ…lient_pool" in text
        assert medium().clean("a" * 50 + "b" * 50, 11) == "aaaaa…bbbbb"
        assert medium().cut("abcdef", 1) == "…"
        assert medium().cut("abcdef", 0) == ""

    def test_wide_letters_take_two_columns(self) -> None:
        assert cells("日本") == 4
        assert cells("e\u0301") == 1
        assert medium().clean("日本語日本語", 7) == "日…語"

    def test_marks_without_width_are_bounded(self) -> None:
        assert len(medium().clean("e" + "\u0301" * 100_000, 10)) <= 60

    @given(st.text(), st.integers(0, 50), st.sampled_from(["ascii", "utf-8", "cp1252", "klingon"]))
    def test_any_text_is_made_harmless(self, text: str, most: int, encoding: str) -> None:
        cleaned = medium(encoding=encoding).clean(text, most)
        assert cleaned.isprintable()
        assert cells(cleaned) <= max(most, 0)

    @given(st.text(), st.integers(2, 50))
    def test_wrapping_loses_nothing_but_blanks(self, text: str, width: int) -> None:
        cleaned = medium().clean(text)
        lines = medium().wrap(cleaned, width)
        assert all(cells(line) <= width for line in lines)
        assert "".join(lines).replace(" ", "") == cleaned.replace(" ", "")


class TestNumbers:
    @pytest.mark.parametrize(
        ("value", "said"),
        [
            (None, "—"),
            (float("nan"), "—"),
            (float("inf"), "—"),
            (0.0, "0 s"),
            (1e-9, "0 s"),
            (0.000002, "0.002 ms"),
            (0.00015, "0.15 ms"),
            (0.0512, "51.2 ms"),
            (0.2, "200 ms"),
            (0.9996, "1.00 s"),
            (2.345, "2.35 s"),
            (59.94, "59.9 s"),
            (59.96, "1 min"),
            (61.27, "1 min 1 s"),
            (119.7, "2 min"),
            (200.0, "3 min 20 s"),
            (3725.0, "1 h 2 min"),
            (90_061.0, "1 day 1 h"),
            (900_000.0, "10 days 10 h"),
            (-0.2, "-200 ms"),
            (1e308, "1e+308 s"),
        ],
    )
    def test_seconds(self, value: float | None, said: str) -> None:
        assert medium().seconds(value) == said

    @pytest.mark.parametrize(
        ("share", "said"),
        [
            (None, "—"),
            (float("nan"), "—"),
            (0.0, "0 %"),
            (0.0002, "< 0.1 %"),
            (0.0036, "0.4 %"),
            (0.05, "5 %"),
            (0.775, "78 %"),
            (1.0, "100 %"),
            (1e300, "1e+302 %"),
        ],
    )
    def test_percent(self, share: float | None, said: str) -> None:
        assert medium().percent(share) == said

    @pytest.mark.parametrize(
        ("value", "said"),
        [
            (4.0, "4"),
            (12345.0, "12,345"),
            (3.984, "3.98"),
            (-2.5, "-2.50"),
            (1e300, "1e+300"),
            (float("nan"), "—"),
        ],
    )
    def test_number(self, value: float, said: str) -> None:
        assert medium().number(value) == said

    def test_evidence_has_the_unit_of_its_name(self) -> None:
        evidence = {
            "wait_p50_seconds": 1.5,
            "throughput_per_second": 20.0,
            "worker_cpu_share": 0.25,
            "coupling": 1.0,
            "amplification": 7.51,
            "blocks": 3.0,
        }
        finding = report_support.finding(evidence=evidence)
        text = shown(change(report_support.empty(), findings=(finding,)), 140, verbose=True)
        assert (
            "wait p50 1.50 s · throughput 20/s · worker cpu share 25 % · amplification 7.51\u00d7 · blocks 3"
            " · coupling 100 %\n"
        ) in text


class TestColumns:
    def test_points_as_wide_as_columns(self) -> None:
        points = [point(1, 1, 2, 0), point(2, 1, 4, 6, 0.5)]
        assert columns(points, 0, 2, 2) == (Column(2, 0, 0), Column(4, 6, 0.5))

    def test_means_are_weighted_by_time_and_the_longest_wait_counts(self) -> None:
        points = [point(1, 1, 1, 10, 0.1), point(4, 3, 3, 30, 0.9), point(5, 1, 0, 0, 0.2)]
        (only,) = columns(points, 0, 5, 1)
        assert only.active == pytest.approx(2.0)
        assert only.queued == pytest.approx(20.0)
        assert only.wait_seconds == 0.9

    def test_a_point_over_several_columns(self) -> None:
        assert columns([point(4, 4, 2, 1, 3)], 0, 4, 4) == (Column(2, 1, 3),) * 4

    def test_time_without_a_point_is_idle(self) -> None:
        points = [point(1, 1, 4), point(4, 1, 4)]
        assert [column.active for column in columns(points, 0, 4, 4)] == [4, 0, 0, 4]

    def test_a_part_of_the_time(self) -> None:
        points = [point(number, 1, number) for number in range(1, 11)]
        assert [column.active for column in columns(points, 4, 6, 2)] == [5, 6]

    @pytest.mark.parametrize(
        ("start", "end", "count"),
        [
            (0, 0, 5),
            (2, 1, 5),
            (0, 1, 0),
            (0, 1, -1),
            (0, float("inf"), 5),
            (0, float("nan"), 5),
            (0, 5e-324, 100),
        ],
    )
    def test_no_time_or_no_room(self, start: float, end: float, count: int) -> None:
        assert columns([point(1, 1, 1)], start, end, count) == ()

    def test_no_points(self) -> None:
        assert columns([], 0, 1, 2) == (Column(0, 0, 0),) * 2

    @given(
        st.lists(st.tuples(st.floats(0, 10), st.floats(0, 8), st.integers(0, 100)), max_size=20),
        st.integers(1, 200),
    )
    def test_steady_work_stays_steady_and_time_is_kept(
        self, gaps: Sequence[tuple[float, float, int]], count: int
    ) -> None:
        at, points, work = 0.0, [], 0.0
        for gap, width, queued in gaps:
            at += gap + width
            points.append(point(at, width, 4, queued))
            work += queued * width
        if at < 1e-6:
            return
        cut = columns(points, 0, at, count)
        assert len(cut) == count
        assert all(column.active <= 4.001 for column in cut)
        assert sum(column.queued for column in cut) * at / count == pytest.approx(work, rel=1e-6, abs=1e-6)

    @given(
        st.lists(st.builds(point, st.floats(), st.floats(), st.floats(), st.floats(), st.floats()), max_size=5),
        st.floats(),
        st.floats(),
        st.integers(0, 50),
    )
    def test_any_numbers(self, points: list[TimelinePoint], start: float, end: float, count: int) -> None:
        assert len(columns(points, start, end, count)) in (0, count)


class TestChart:
    def rows(self, session: Recorded, width: int = 100) -> list[str]:
        lines = shown(session, width).splitlines()
        first = next((index for index, line in enumerate(lines) if line.startswith("  active   ")), None)
        return [] if first is None else lines[first : first + 5]

    @pytest.mark.parametrize("width", [60, 80, 100, 140])
    def test_the_knee_is_under_the_column_where_the_queue_begins(self, width: int) -> None:
        active, queued, wait, ruler, axis = self.rows(report_support.hard_limit(), width)
        knee = ruler.index("▲ knee 4.0 s")
        begins = next(index for index, char in enumerate(queued) if char in UNICODE.blocks)
        assert abs(begins - knee) <= 1
        assert active[knee + 2 : knee + 12] == "█" * 10
        assert "█" not in active[: knee - 1]
        assert active.endswith("peak 4 of 4")
        assert queued.endswith("peak 119")
        assert wait.endswith("longest 5.92 s")
        assert axis.split() == [item for number in axis.split()[::2] for item in (number, "s")]
        assert ruler[axis.index("10 s")] in "┴ "  # or the blank behind the knee's name

    def test_a_name_that_does_not_fit_to_the_right(self) -> None:
        session = report_support.hard_limit()
        late = report_support.finding(since_seconds=15.5, until_seconds=None)
        pool = msgspec.structs.replace(session.report.pools[0], findings=(report_support.finding(), late))
        ruler = self.rows(change(session, pools=(pool,)))[3]
        assert ruler.index("▲ knee 4.0 s") < ruler.index(" knee 15.5 s ▲")

    def test_knees_side_by_side(self) -> None:
        session = report_support.hard_limit()
        findings = tuple(report_support.finding(since_seconds=4.0 + 0.4 * number) for number in range(3))
        pool = msgspec.structs.replace(session.report.pools[0], findings=findings)
        assert self.rows(change(session, pools=(pool,)))[3].count("▲") == 3

    def test_one_chart_per_pool(self) -> None:
        session = report_support.hard_limit()
        findings = (report_support.finding(), report_support.finding(since_seconds=9.0))
        pool = msgspec.structs.replace(session.report.pools[0], findings=findings)
        assert shown(change(session, pools=(pool,))).count("  active   ") == 1

    def test_a_short_stretch_in_a_long_run_fills_the_chart(self) -> None:
        points = [point(number, 1, 1, 0) for number in range(1, 3601)]
        finding = report_support.finding(since_seconds=1800.0, until_seconds=1810.0)
        assert span(points, [finding]) == (1790.0, 1820.0)
        assert span(points, []) == (0.0, 3600.0)
        lasting = msgspec.structs.replace(finding, until_seconds=None)
        assert span(points, [lasting]) == (0.0, 3600.0)

    def test_no_timeline_no_chart(self) -> None:
        assert span([], [report_support.finding()]) == (0.0, 0.0)
        session = report_support.hard_limit()
        traces = (msgspec.structs.replace(session.traces[0], timeline=()),)
        assert self.rows(msgspec.structs.replace(session, traces=traces)) == []
        assert self.rows(msgspec.structs.replace(session, traces=())) == []


class TestTables:
    def test_pools_in_trouble_come_first_and_the_rest_is_counted(self) -> None:
        text = shown(report_support.several_pools())
        rows = text[text.index("\n  pool ") :].splitlines()[2:]
        assert [row.split()[0] for row in rows[:3]] == ["render", "writer", "fetch"]
        assert "  and 4 more pools" in rows
        assert any(row.endswith("3 failed, 2 cancelled, 7 rejected") for row in rows)

    def test_processes_are_told_apart(self) -> None:
        assert "  4243  " in shown(report_support.several_pools())
        assert "4242" not in shown(report_support.hard_limit())

    def test_what_was_not_measured_is_a_dash(self) -> None:
        text = shown(report_support.nulls())
        assert "(no name)" in text
        assert "—" in text

    def test_only_the_busiest_functions(self) -> None:
        session = report_support.hard_limit()
        pool = session.report.pools[0]
        (function,) = pool.functions
        functions = tuple(
            msgspec.structs.replace(function, name=f"job{number}", busy_seconds=float(number)) for number in range(9)
        )
        text = shown(change(session, pools=(msgspec.structs.replace(pool, functions=functions),)))
        assert re.findall(r"^  (job\d)", text, re.MULTILINE) == ["job8", "job7", "job6", "job5", "job4"]
        assert "and 4 more functions" in text

    @pytest.mark.parametrize("suggested", [None, 9, 500])
    def test_a_long_curve_is_thinned_but_keeps_its_marks(self, suggested: int | None) -> None:
        session = report_support.hard_limit()
        advice = Advice("raise_max_workers", "More.", suggested)
        pool = msgspec.structs.replace(
            session.report.pools[0],
            sizing=tuple(SizingPoint(workers, 1.0, 2.0, 3.0) for workers in range(1000, 0, -1)),
            findings=(report_support.finding(advice=advice),),
        )
        text = shown(change(session, pools=(pool,)))
        sizes = [int(size.replace(",", "")) for size in re.findall(r"(?m)^  ([\d,]+) workers? ", text)]
        assert sizes == sorted(sizes)
        assert len(sizes) <= 10
        assert {1, 4, 1000} <= set(sizes)
        assert (suggested is None) == ("◀ suggested" not in text)

    def test_the_present_size_may_be_the_suggested_one(self) -> None:
        session = report_support.hard_limit()
        advice = Advice("raise_max_workers", "Stay.", 4)
        pool = msgspec.structs.replace(session.report.pools[0], findings=(report_support.finding(advice=advice),))
        assert "◀ now, suggested" in shown(change(session, pools=(pool,)))

    def test_notices_are_bounded(self) -> None:
        notices = tuple(f"notice {'i' * number}" for number in range(1, 16))
        text = shown(change(report_support.overlap(), notices=notices))
        assert text.count("\nnotice  ") == 10
        assert "and 5 more notices" in text
        text = shown(change(report_support.overlap(), notices=notices), verbose=True)
        assert text.count("\nnotice  ") == 15
        assert "more notices" not in text

    def test_notices_that_differ_in_numbers_only_are_one_with_a_count(self) -> None:
        notices = (*(f"process {number} was not watched" for number in range(62)), "something else")
        text = shown(change(report_support.overlap(), notices=notices))
        assert "\nnotice  process 0 was not watched (and 61 more like it)\nnotice  something else\n" in text
        assert "more notice" not in text

    def test_notes_that_differ_in_numbers_only_are_one_with_a_count(self) -> None:
        notes = tuple(
            report_support.finding(
                severity="info", pattern="burst", cause="slow_tasks", summary=f"Full {number} times."
            )
            for number in range(40)
        )
        text = shown(change(report_support.empty(), verdict="concurrent", findings=notes))
        assert "\ninfo  Full 0 times. (burst) (and 39 more like it)\n" in text
        assert "more finding" not in text


def mutated(value: Any, draw: Callable[[], Any]) -> Any:
    """The same value with other floats in it."""
    if isinstance(value, float):
        return draw()
    if isinstance(value, dict):
        return {key: mutated(item, draw) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [mutated(item, draw) for item in value]
    return value


def brief_hard_limit() -> Recorded:
    session = report_support.hard_limit()
    trace = session.traces[0]
    return msgspec.structs.replace(session, traces=(msgspec.structs.replace(trace, timeline=trace.timeline[:8]),))


HARD = msgspec.to_builtins(brief_hard_limit(), builtin_types=(bytes,))


@pytest.mark.slow
@settings(deadline=None, max_examples=200)
@given(st.data())
def test_any_numbers_can_be_shown(data: st.DataObject) -> None:
    numbers = st.sampled_from([0.0, -1.0, 1e-9, 0.3, 4.0, 1e9, 1e308, -1e308, 5e-324]) | st.floats()
    pool = data.draw(st.lists(numbers, min_size=1, max_size=8))
    position = iter(range(sys.maxsize))
    session = msgspec.convert(mutated(HARD, lambda: pool[next(position) % len(pool)]), Recorded, builtin_types=(bytes,))
    for line in layout(session, medium(80)):
        assert line_cells(((plain(line), ""),)) <= 80


def test_a_finding_of_a_later_pattern() -> None:
    later: Finding = report_support.finding(pattern="something_new", cause="who_knows")
    text = shown(change(report_support.empty(), findings=(later, report_support.finding())))
    assert text.index("something_new") > text.index("async_then_serial")

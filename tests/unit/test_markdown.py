"""Reports as Markdown, and annotations."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import report_support
from msgspec.structs import replace
from report_support import CWD

from poolscope.model import Session
from poolscope.rendering import markdown
from poolscope.rendering.markdown import as_code, as_text
from poolscope.rendering.text import Medium

SESSIONS = [
    report_support.overlap,
    report_support.healthy_pools,
    report_support.blocking_call,
    report_support.hard_limit,
    report_support.several_pools,
    report_support.empty,
    report_support.insufficient_data,
    report_support.hostile,
    report_support.nulls,
]
MEDIUM = Medium(width=120, encoding=None, cwd=CWD)


def cells(row: str) -> int:
    return len(re.findall(r"(?<!\\)\|", row)) - 1


@pytest.mark.parametrize("made", SESSIONS)
def test_each_table_has_the_cells_of_its_header_in_each_row(made: Callable[[], Session]) -> None:
    width = 0
    for line in markdown.render(made(), CWD).splitlines():
        if not line.startswith("|"):
            width = 0
            continue
        width = width or cells(line)
        assert cells(line) == width, line


@pytest.mark.parametrize("made", SESSIONS)
def test_nothing_of_the_program_is_markup(made: Callable[[], Session]) -> None:
    text = markdown.render(made(), CWD)
    assert set(re.findall(r"<[^>]*>", re.sub(r"`[^`]*`", "", text))) <= {
        "<details>",
        "<summary>",
        "</summary>",
        "</details>",
        "<sub>",
        "</sub>",
    }
    assert all(char == "\n" or char.isprintable() for char in text)


def test_the_verdict_the_line_and_the_advice_are_there() -> None:
    text = markdown.render(report_support.hard_limit(), CWD)
    assert text.startswith("### \N{LARGE YELLOW CIRCLE} poolscope: async then serial\n\n**Pool fetch turned serial")
    assert "- `shop/jobs.py:31` in `fetch`: `response = session.get(url, timeout=10)`" in text
    assert "> The tasks wait for the network, not for the CPU: raise max\\_workers from 4 to 9." in text
    assert "| `fetch` | thread | 4 | 4 | 119 | 280 |" in text


def test_the_headline_of_a_healthy_run_says_what_was_seen() -> None:
    head = markdown.render(report_support.healthy_pools(), CWD).splitlines()[:3]
    assert head == ["### \N{LARGE GREEN CIRCLE} poolscope: concurrent", "", "40 tasks, 1 pool, 1 event loop in 3.02 s."]


def test_what_goes_on_in_turn_is_the_headline() -> None:
    note = report_support.in_turn()
    session = report_support.session(loops=[report_support.loop(findings=(note,))], verdict="not_concurrent")
    text = markdown.render(session, CWD)
    assert text.startswith("### \N{LARGE BLUE CIRCLE} poolscope: not concurrent\n\n**Event loop")


def test_too_little_to_judge_is_not_green() -> None:
    assert markdown.render(report_support.insufficient_data(), CWD).startswith("### \N{MEDIUM WHITE CIRCLE} ")


def test_a_report_that_is_too_long_is_cut_to_its_verdict() -> None:
    session = report_support.healthy_pools()
    notices = tuple(f"{number} {'x' * 400}" for number in range(50))
    pools = tuple(replace(session.report.pools[0], name="y" * 400) for _ in range(50))
    findings = tuple(report_support.finding(summary="z" * 450, severity="info") for _ in range(20))
    long = replace(session, report=replace(session.report, notices=notices, pools=pools, findings=findings))
    assert len(markdown.render(long, CWD).encode()) <= markdown.MOST_BYTES


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("# x", "\\# x"),
        ("- x", "\\- x"),
        ("12. x", "12\\. x"),
        ("a # b - c 12. d", "a # b - c 12. d"),
        ("a|b", "a\\|b"),
        ("<script>&amp;", "&lt;script&gt;&amp;amp;"),
        ("[x](y) *z* __w__", "\\[x\\](y) \\*z\\* \\_\\_w\\_\\_"),
        ("@ada", "@\u200bada"),
    ],
)
def test_what_means_something_is_escaped(text: str, shown: str) -> None:
    assert as_text(MEDIUM, text) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [("a", "`a`"), ("`a`", "`` `a` ``"), ("a``b`c", "```a``b`c```"), ("", "`-`"), ("a|b", "`a\\|b`")],
)
def test_code_is_fenced_by_more_backticks_than_it_has(text: str, shown: str) -> None:
    assert as_code(MEDIUM, text) == shown


def test_annotations_are_of_lines_of_the_repository() -> None:
    lines = markdown.annotate(report_support.several_pools(), CWD).splitlines()
    assert [line.split(" ", 1)[0] for line in lines] == ["::error", "::warning", "::warning", "::warning"]
    assert lines[0].startswith(
        "::error title=poolscope%3A stalled (stuck_tasks),file=shop/jobs.py,line=31::Pool render stands still"
    )
    assert not markdown.annotate(report_support.healthy_pools(), CWD)
    elsewhere = markdown.annotate(report_support.several_pools(), "/somewhere/else")
    assert "file=" not in elsewhere


def test_an_annotation_is_one_line_whatever_is_in_it() -> None:
    made = report_support.finding(summary="100 %\n::error::evil", severity="critical")
    session = report_support.hard_limit()
    session = replace(session, report=replace(session.report, findings=(made,)))
    (line,) = markdown.annotate(session, CWD).splitlines()
    assert line.partition("(blocking_io)")[2].partition("::")[2].startswith("100 %25\\n::error::evil")

"""The page: its words, tables and data. How it looks and moves: tests/cli/test_page.py."""

from __future__ import annotations

import base64
import hashlib
import re
import struct
import zlib
from collections.abc import Callable
from typing import Any

import pytest
import report_support
from html_support import Page, data_of
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from report_support import CWD
from rules_support import causes_of_rules

from poolscope.model import PATTERNS, Block, Frame, LoopTrace, PoolTrace, Session
from poolscope.rendering import glossary, html, page_data

SESSIONS = [
    report_support.overlap,
    report_support.hard_limit,
    report_support.several_pools,
    report_support.empty,
    report_support.hostile,
    report_support.nulls,
]


def tasks_of(pool: dict[str, Any]) -> list[tuple[int, ...]]:
    """(gap, wait, run, function, lane) of each task, in units."""
    numbers = struct.unpack(f"<{5 * pool['shown']}i", zlib.decompress(base64.b64decode(pool["tasks"])))
    return list(zip(*(numbers[column * pool["shown"] :][: pool["shown"]] for column in range(5)), strict=True))


@pytest.mark.parametrize("made", SESSIONS)
def test_it_loads_nothing_and_its_policy_allows_what_is_in_it_alone(made: Callable[[], Session]) -> None:
    encoded = html.encode(made(), CWD)
    page = Page(encoded)
    assert not [attributes for _, attributes in page.elements if {"src", "style"} & attributes.keys()]
    assert all((each["href"] or "").startswith("#word-") for _, each in page.elements if "href" in each)
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    (policy,) = [each["content"] or "" for _, each in page.elements if each.get("http-equiv")]
    inline = re.findall(r"<(?:style|script)>(.*?)</(?:style|script)>", encoded.decode(), re.DOTALL)
    assert len(inline) == 4
    for text in inline:
        assert f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" in policy
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy


@pytest.mark.parametrize("made", SESSIONS)
def test_only_our_elements_are_in_it(made: Callable[[], Session]) -> None:
    page = Page(html.encode(made(), CWD))
    assert {tag for tag, _ in page.elements} <= {
        *("html", "meta", "title", "style", "script", "header", "main", "footer", "section", "article", "figure"),
        *("figcaption", "h1", "h2", "h3", "p", "div", "span", "code", "pre", "dl", "dt", "dd", "ul", "li", "table"),
        *("thead", "tbody", "tr", "th", "td", "details", "summary", "button", "canvas", "input", "output", "a"),
    }
    data_of(page)


def test_a_name_that_is_markup_stays_a_name() -> None:
    session = report_support.hard_limit()
    evil = '</script><script>alert(1)</script><img src=x onerror="alert(2)">&amp;'
    pool = replace(session.report.pools[0], name=evil)
    traces = (replace(session.traces[0], functions=(evil,)),)
    page = Page(html.encode(replace(session, report=replace(session.report, pools=(pool,)), traces=traces), CWD))
    assert not [tag for tag, _ in page.elements if tag == "img"]
    assert f"Pool {evil}" in "".join(text for _, text in page.texts)
    assert data_of(page)["pools"][0]["functions"] == [evil]


def test_the_verdict_the_line_the_advice_and_a_table_for_each_picture_are_there() -> None:
    page = Page(html.encode(report_support.hard_limit(), CWD))
    assert page.all("h1")[0].startswith("Pool fetch turned serial at 4.0 s")
    assert "shop/jobs.py:31" in page.all("code")
    assert "response = session.get(url, timeout=10)" in page.all("pre")
    assert any("raise max_workers from 4 to 9" in text for text in page.all("p"))
    pictures = [tag for tag, attributes in page.elements if tag == "figure" or attributes.get("class") == "sizing"]
    assert len(pictures) == 3
    # Timeline and sizes; the lanes' is that of the functions.
    assert page.all("summary").count("The same as a table") == 2
    assert "Functions" in page.all("h3")


@pytest.mark.parametrize("made", SESSIONS)
def test_each_link_leads_to_what_its_word_means(made: Callable[[], Session]) -> None:
    page = Page(html.encode(made(), CWD))
    known = {f"#{attributes['id']}" for _, attributes in page.elements if "id" in attributes}
    assert {each["href"] for tag, each in page.elements if tag == "a"} <= known
    if any(finding.severity != "info" for finding in made().report.findings):
        assert "a" in {tag for tag, _ in page.elements}


def test_each_pattern_and_cause_that_a_rule_has_is_explained() -> None:
    assert tuple(glossary.PATTERNS) == PATTERNS
    assert set(glossary.CAUSES) == causes_of_rules()


def test_tasks_come_back_from_their_columns() -> None:
    numbers = [(0, 1_000_000, 3_000_000, 7_000_000), (1, 2_000_000, 2_000_000, -1), (0, 5_000_000, -1, -1)]
    packed = struct.pack("<12q", *(number for task in numbers for number in task))
    session = report_support.healthy_pools()
    session = replace(session, traces=(PoolTrace(("f", "g"), packed, ()),))
    (pool,) = data_of(Page(html.encode(session, CWD)))["pools"]
    assert (pool["shown"], pool["left_out"], pool["unit"]) == (3, 0, 1000)
    assert tasks_of(pool) == [(1000, 2000, 4000, 0, 1), (1000, 0, -1, 1, 0), (3000, -1, -1, 0, -1)]
    assert "A lane for each worker" not in html.encode(session, CWD).decode()


def test_a_lane_is_a_worker_where_these_are_known() -> None:
    numbers = [(0, 0, 0, 1000), (0, 0, 0, 3000), (0, 0, 1000, 2000), (0, 0, 3000, 4000)]
    packed = struct.pack("<16q", *(number for task in numbers for number in task))
    session = report_support.healthy_pools()
    session = replace(session, traces=(PoolTrace(("f",), packed, (), struct.pack("<4q", 2, 1, 2, 2)),))
    page = html.encode(session, CWD)
    assert [task[4] for task in tasks_of(data_of(Page(page))["pools"][0])] == [1, 0, 1, 1]
    assert "A lane for each worker" in page.decode()


def test_a_loop_has_its_blocks_as_bars_and_in_a_table() -> None:
    blocks = (Block(2.0, 0.5, 0), Block(1.0, 0.25, 5))
    session = replace(report_support.blocking_call(), loops=(LoopTrace((Frame("/app/web.py", 7, "view"),), blocks),))
    page = Page(html.encode(session, "/app"))
    assert data_of(page)["loops"] == [
        {"places": ["web.py:7 in view"], "blocks": [[1.0, 0.25, -1], [2.0, 0.5, 0]]},
    ]
    cells = page.all("td")
    assert cells[-6:] == ["2.0 s", "500 ms", "web.py:7 in view", "1.0 s", "250 ms", "not known"]


def test_the_last_tasks_are_kept_and_the_others_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_data, "MOST_TASKS", 10)
    (pool,) = data_of(Page(html.encode(report_support.healthy_pools(), CWD)))["pools"]
    assert (pool["shown"], pool["left_out"]) == (10, 30)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(*[st.integers(-(2**63), 2**63 - 1)] * 4), max_size=15))
def test_any_numbers_give_a_page(numbers: list[tuple[int, int, int, int]]) -> None:
    packed = struct.pack(f"<{4 * len(numbers)}q", *(number for task in numbers for number in task))
    session = report_support.healthy_pools()
    session = replace(session, traces=(PoolTrace(("f",), packed, ()),))
    (pool,) = data_of(Page(html.encode(session, CWD)))["pools"]
    assert len(tasks_of(pool)) == pool["shown"]


def test_a_timeline_of_hours_is_thinned_for_the_picture_and_the_table() -> None:
    session = report_support.hard_limit()
    points = session.traces[0].timeline * 100
    page = Page(html.encode(replace(session, traces=(replace(session.traces[0], timeline=points),)), CWD))
    assert len(data_of(page)["pools"][0]["timeline"][0]) <= 2_000
    assert len([tag for tag, _ in page.elements if tag == "tr"]) < 150

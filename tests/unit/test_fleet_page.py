"""The page of a fleet: its words, tables and data. How it looks: tests/cli/test_fleet_page.py."""

from __future__ import annotations

import math
from typing import Any

import pytest
from fleet_page_support import CLOCK, FILLS, a_fleet, empty, healthy, hostile
from fleet_support import BEGIN, BY_NAME, THREAD_POOL, shown
from html_support import Page, data_of

from poolscope.fleet.drawn import thinned
from poolscope.fleet.page import encode
from poolscope.fleet.readings import Reading
from poolscope.fleet.report import Outcome
from poolscope.fleet.samples import Assembly


def page_of(outcome: Outcome) -> tuple[Page, str, dict[str, Any]]:
    page = Page(encode(outcome, CLOCK))
    return page, " ".join(" ".join(text for _, text in page.texts).split()), data_of(page)


def test_it_says_what_was_found_where_and_since_when() -> None:
    page, text, data = page_of(a_fleet())
    assert page.all("h1") == ["3 pools of 7 turned serial, stand still or are blocked"]
    assert "2 of 3 instances of orders: 'db' async_then_serial, blocking io, since 14:20:00 to 14:20:15" in text
    assert "corePoolSize of 'db'" in text
    assert "1 of 1 instance of orders: 'event loop' loop_blocked" in text
    assert "one page does not answer" in text
    rows = page.all("td")
    assert {"orders-0:8080", "orders-1:8080", "14:20:15", "not scraped"} <= set(rows)
    assert "orders-2:8080" not in rows
    assert len(data["pools"]) == sum(tag == "figure" for tag, _ in page.elements) == 3


def test_pictures_have_the_knee_and_the_gaps() -> None:
    _, _, data = page_of(a_fleet())
    whole, gap, loop = data["pools"]
    (finding,) = whole["findings"]
    assert (finding["after"], finding["since"]) == (1200.0, 1215.0)
    assert max(whole["timeline"][2]) == max(each.queued for each in FILLS)
    broken = gap["timeline"][1].index(None)
    assert 1600 < gap["timeline"][0][broken] < 1900
    assert [gap["timeline"][2][broken], gap["workers"][broken]] == [None, None]
    assert None not in whole["timeline"][1]
    assert loop["timeline"][1:3] == [None, None]
    assert max(loop["timeline"][3]) == 2.51


@pytest.mark.parametrize("made", [healthy, empty])
def test_without_a_finding_there_are_no_pictures(made: Any) -> None:
    page, _, data = page_of(made())
    assert data["pools"] == []
    assert "figure" not in [tag for tag, _ in page.elements]
    assert ("fine" in page.all("th")) == (made is healthy)


def test_what_comes_from_metrics_is_text() -> None:
    page, text, _ = page_of(hostile())
    assert "img" not in [tag for tag, _ in page.elements]
    assert "<img src=x" in text
    assert "\u202e" not in text
    assert "\x1b" not in text
    assert sum(tag == "script" for tag, _ in page.elements) == 3


def test_many_samples_become_few_points_that_keep_the_peaks() -> None:
    assembly = Assembly([(BY_NAME["micrometer-thread-pool"], "")])
    for each in shown(FILLS, THREAD_POOL, name="db"):
        assembly.add(each)
    ((_, samples),) = assembly.pools()
    reading = Reading(samples, BY_NAME["micrometer-thread-pool"])
    points = thinned(reading, 50)
    assert len(points) <= 50
    assert max(each.queued for each in points) == max(each.queued for each in FILLS)
    assert points[0][:4] == (BEGIN, pytest.approx(1.5, abs=1), 0.0, 8.0)
    assert math.isnan(points[0].late)

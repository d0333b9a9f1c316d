"""The live page in a real browser, fed by an endpoint of which the test says what is to be seen."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from typing import Any

import live_support
import pytest
from browser_support import drawn
from live_support import a_finding, full, snapshot
from metrics_support import get
from playwright.sync_api import expect

from poolscope.config import from_mapping
from poolscope.live.feed import Feed, pages
from poolscope.metrics.families import serve_snapshots
from poolscope.snapshot import Snapshot

SETTINGS = from_mapping({"listen": "127.0.0.1:0"})


class Program:
    """What goes on, second after second: `show` it, and let the page look."""

    def __init__(self) -> None:
        self.second = 0
        self.now = snapshot(full(0))
        self.feed = Feed(lambda: self.now, "app.py --fast", clock=lambda: self.second, now=lambda: live_support.BEGAN)
        self.server = serve_snapshots(lambda: self.now, SETTINGS, detailed=lambda: self.now, pages=pages(self.feed))

    def show(self, now: Snapshot) -> None:
        self.second += 1
        self.now = now

    def go_on(self, seconds: int, **findings: Any) -> None:
        for _ in range(seconds):
            self.show(snapshot(full(self.second + 1), second=self.second + 1, **findings))
            self.feed.look()


@pytest.fixture
def program() -> Iterator[Program]:
    made = Program()
    yield made
    made.server.close()


@pytest.fixture
def complaints() -> list[str]:
    """What a page asked for or complained of: a test fails at its end for what is left here."""
    return []


@pytest.fixture
def opened(browser: Any, program: Program, complaints: list[str]) -> Iterator[Any]:
    """Opens the page; its second passes when the test says so."""
    contexts = []

    def open_page(*, width: int = 1000, scheme: str = "light") -> Any:
        context = browser.new_context(
            viewport={"width": width, "height": 800}, color_scheme=scheme, timezone_id="UTC", locale="en-GB"
        )
        contexts.append(context)
        page = context.new_page()
        page.clock.install()
        page.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: complaints.append(dialog.message))
        origin = f"{program.server.url}/"
        page.on("request", lambda request: request.url.startswith(origin) or complaints.append(request.url))
        page.goto(origin)
        page.wait_for_selector("html[data-drawn=true]", state="attached")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not complaints


def second_passes(page: Any) -> None:
    with page.expect_response("**/live*"):
        page.clock.run_for(1000)


@pytest.mark.parametrize(("width", "scheme"), [(1000, "light"), (360, "dark")])
def test_it_is_drawn_and_fits_a_phone(program: Program, opened: Any, width: int, scheme: str) -> None:
    program.go_on(8, findings=(a_finding(),))
    page = opened(width=width, scheme=scheme)
    page.clock.run_for(100)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert drawn(page, "figure.timeline canvas") > 3
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(20, 24, 29)")


def test_what_goes_on_comes_and_a_finding_appears_and_ends(program: Program, opened: Any) -> None:
    page = opened()
    word, headline = page.locator("#word"), page.locator("#headline")
    assert word.inner_text().lower() == "concurrent"
    assert page.locator("article").count() == 0
    program.go_on(8, findings=(a_finding(),))
    second_passes(page)
    page.wait_for_selector("article.warning")
    assert word.inner_text().lower() == "async then serial"
    assert headline.inner_text().startswith("Pool 'fetch' turned serial")
    assert page.locator("article code").first.inner_text() == "/srv/shop/jobs.py:31"
    assert page.locator("article pre").inner_text() == "response = session.get(url)"
    assert page.locator("article .lasted").inner_text() == "for 4.00 s, from 03:12:04.0"
    assert page.title() == "poolscope: async then serial"
    facts = page.locator("#pools dd").all_inner_texts()
    assert facts[:2] == ["4 of 4", "80"]
    page.locator("article summary").click()
    program.go_on(1, findings=(a_finding(evidence={"amplification": 13.0}),))
    second_passes(page)
    expect(page.locator("article dd").first).to_have_text("13")
    assert page.locator("article details").get_attribute("open") is not None
    program.go_on(1, findings=(a_finding(until_seconds=9.0),))
    second_passes(page)
    expect(word).to_have_text("concurrent now")
    assert page.locator("article .lasted").inner_text() == "lasted 5.00 s, from 03:12:04.0 to 03:12:09.0"


def test_pools_come_and_go_and_zooming_stays(program: Program, opened: Any) -> None:
    program.go_on(8)
    page = opened()
    page.locator("figure.timeline").focus()
    page.keyboard.press("+")
    whole = page.locator("figure.timeline button.whole")
    assert whole.is_enabled()
    program.show(snapshot(full(9), full(1, "other"), second=9))
    second_passes(page)
    expect(page.locator("#pools section")).to_have_count(2)
    assert whole.first.is_enabled()
    whole.first.click()
    program.show(snapshot(full(2, "other"), second=10))
    second_passes(page)
    expect(page.locator("#pools section")).to_have_count(1)
    assert page.locator("#pools h2").inner_text() == "Pool other"
    assert whole.is_disabled()
    page.locator("#pools summary").click()
    second_passes(page)
    page.wait_for_selector("#pools details table")
    assert page.locator("#pools details tbody tr").count() == 2


def test_hostile_names_are_text(program: Program, opened: Any) -> None:
    program.now = live_support.hostile().snapshot or program.now
    page = opened()
    assert page.locator("img").count() == 0
    assert "<img src=x" in page.locator("article h3").inner_text()
    assert page.evaluate("document.documentElement.scrollWidth") == 1000


def test_its_policy_holds(opened: Any, complaints: list[str]) -> None:
    page = opened()
    ran = page.evaluate(
        """() => { const script = document.createElement("script"); script.textContent = "window.evil = 1";
        const refused = new Promise((tell) => document.addEventListener("securitypolicyviolation", tell));
        document.body.append(script); return refused.then(() => window.evil) }"""
    )
    assert ran is None
    assert page.evaluate("fetch('http://127.0.0.1:1/').then(() => true, () => false)") is False
    assert len(complaints) >= 2
    assert all("Content Security Policy" in each for each in complaints)
    complaints.clear()


def test_an_endpoint_that_has_ended_is_told_and_the_last_look_stays(
    program: Program, opened: Any, complaints: list[str]
) -> None:
    program.go_on(3)
    page = opened()
    program.server.close()
    page.clock.run_for(1000)
    expect(page.locator("#trouble")).not_to_be_empty()
    assert "since 03:12:03" in page.locator("#trouble").inner_text()
    assert page.locator("#pools h2").inner_text() == "Pool fetch"
    assert all("ERR_CONNECTION" in each for each in complaints)
    complaints.clear()


class TestEndpoint:
    def test_lines_of_code_are_for_this_machine(self, program: Program) -> None:
        program.go_on(5, findings=(a_finding(),))
        _, headers, body = get(f"{program.server.url}/live")
        assert json.loads(body)["findings"][0]["places"][0]["where"] == "/srv/shop/jobs.py:31"
        assert headers["Cache-Control"] == "no-store"
        _, _, body = get(f"{program.server.url}/live", Host="evil.example")
        board = json.loads(body)
        assert (board["findings"][0]["places"], board["command"]) == ([], "")
        assert b"jobs.py" not in body

    def test_the_page_has_nothing_of_the_program_and_is_in_no_frame(self, program: Program) -> None:
        status, headers, body = get(f"{program.server.url}/")
        assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
        assert headers["X-Frame-Options"] == "DENY"
        assert b"fetch" not in body.split(b"<script>")[0]
        assert b"connect-src 'self'" in body

    def test_only_later_points_are_sent(self, program: Program) -> None:
        program.go_on(5)
        url = f"{program.server.url}/live"
        with urllib.request.urlopen(f"{url}?since={live_support.BEGAN + 4}", timeout=10) as answer:
            assert len(json.load(answer)["pools"][0]["points"]) == 1

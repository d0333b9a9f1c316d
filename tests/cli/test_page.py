"""The page in a real browser: Debian's Chromium, driven by Playwright."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import browser_support
import pytest
import report_support
from browser_support import drawn
from msgspec.structs import replace
from report_support import CWD

from poolscope.model import Block, Frame, LoopTrace, Session
from poolscope.rendering import html


@pytest.fixture
def complaints() -> list[str]:
    """What a page asked for or complained of: a test fails at its end for what is left here."""
    return []


@pytest.fixture
def opened(browser: Any, tmp_path: Path, complaints: list[str]) -> Iterator[Any]:
    """Opens the page of a session."""
    pages = []

    def open_page(session: Session, **how: Any) -> Any:
        path = tmp_path / "page.html"
        path.write_bytes(html.encode(session, CWD))
        pages.append(browser_support.opened(browser, path, complaints, **how))
        return pages[-1]

    yield open_page
    for page in pages:
        page.context.close()
    assert not complaints


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1000, 360])
@pytest.mark.parametrize("made", [report_support.hard_limit, report_support.hostile, report_support.several_pools])
def test_it_is_drawn_and_fits_a_phone(opened: Any, made: Any, width: int, scheme: str) -> None:
    page = opened(made(), width=width, scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert drawn(page, "figure.timeline canvas") > 3
    assert drawn(page, "canvas.lanes") > 1
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(20, 24, 29)")


def test_a_run_without_pools_has_no_pictures(opened: Any) -> None:
    page = opened(report_support.empty())
    assert page.locator("figure").count() == 0
    assert page.locator("h1").inner_text()


def test_the_keys_zoom_and_move_and_one_goes_back(opened: Any) -> None:
    page = opened(report_support.hard_limit())
    whole = page.locator("figure.timeline button.whole")
    assert whole.is_disabled()
    page.locator("figure.timeline").focus()
    ticks = page.evaluate("document.querySelector('figure.tasks .tip').textContent")
    page.keyboard.press("+")
    assert whole.is_enabled()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("-")
    page.keyboard.press("Escape")
    assert whole.is_disabled()
    assert ticks == ""


def test_a_drag_zooms_all_pictures(opened: Any) -> None:
    page = opened(report_support.hard_limit())
    before = page.locator("canvas.lanes").screenshot()
    plot = page.locator("figure.timeline .u-over").first
    plot.scroll_into_view_if_needed()
    box = plot.bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.3, box["y"] + 50)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + 50, steps=5)
    page.mouse.up()
    whole = page.locator("figure.timeline button.whole")
    assert whole.is_enabled()
    assert page.locator("canvas.lanes").screenshot() != before
    whole.click()
    assert whole.is_disabled()


def test_a_task_says_what_it_is(opened: Any) -> None:
    page = opened(report_support.hard_limit())
    page.locator("canvas.lanes").scroll_into_view_if_needed()
    box = page.locator("canvas.lanes").bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.6, box["y"] + 44)
    told = page.locator("figure.tasks .tip").inner_text()
    assert told.startswith("fetch: waited ")
    assert ", ran 200 ms, from 03:12:" in told


def test_a_block_says_what_held_the_loop(opened: Any) -> None:
    loops = (LoopTrace((Frame("/app/web.py", 7, "view"),), (Block(0.0, 3.0, 0),)),)
    page = opened(replace(report_support.blocking_call(), loops=loops))
    canvas = page.locator("figure.blocks canvas.lanes")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + 8)
    told = page.locator("figure.blocks .tip").inner_text()
    assert told.startswith("/app/web.py:7 in view: held the loop for 3.00 s, from ")


def test_the_slider_tells_what_another_size_does(opened: Any) -> None:
    page = opened(report_support.hard_limit())
    output = page.locator(".sizing output")
    assert output.inner_text().startswith("4 workers (as it is): half of the tasks wait")
    page.locator(".sizing input").focus()
    page.keyboard.press("End")
    told = output.inner_text()
    assert "as it is" not in told
    assert page.locator(".sizing input").get_attribute("aria-valuetext") == told


def test_its_policy_holds(opened: Any, complaints: list[str]) -> None:
    page = opened(report_support.overlap())
    ran = page.evaluate(
        """() => { const script = document.createElement("script"); script.textContent = "window.evil = 1";
        const refused = new Promise((tell) => document.addEventListener("securitypolicyviolation", tell));
        document.body.append(script); return refused.then(() => window.evil) }"""
    )
    assert ran is None
    (complaint,) = complaints
    assert "violates the following Content Security Policy directive" in complaint
    complaints.clear()

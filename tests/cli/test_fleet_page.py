"""The page of a fleet in a real browser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import browser_support
import fleet_page_support
import pytest
from browser_support import drawn
from fleet_page_support import CLOCK

from poolscope.fleet.page import encode
from poolscope.fleet.report import Outcome


@pytest.fixture
def opened(browser: Any, tmp_path: Path) -> Iterator[Any]:
    """Opens the page of an outcome, of which nothing may be complained."""
    pages, complaints = [], list[str]()

    def open_page(outcome: Outcome, **how: Any) -> Any:
        path = tmp_path / "page.html"
        path.write_bytes(encode(outcome, CLOCK))
        pages.append(browser_support.opened(browser, path, complaints, **how))
        return pages[-1]

    yield open_page
    for page in pages:
        page.context.close()
    assert not complaints


@pytest.mark.parametrize(("width", "scheme"), [(1000, "light"), (360, "dark")])
@pytest.mark.parametrize("made", [fleet_page_support.a_fleet, fleet_page_support.hostile])
def test_it_is_drawn_and_fits_a_phone(opened: Any, made: Any, width: int, scheme: str) -> None:
    page = opened(made(), width=width, scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    # Active and queued of two pools, and the lateness of a loop.
    assert page.locator("figure.timeline canvas").count() == 2 * 2 + 1
    assert drawn(page, "figure.timeline canvas") > 3
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(20, 24, 29)")


@pytest.mark.parametrize("made", [fleet_page_support.healthy, fleet_page_support.empty])
def test_one_without_findings_has_no_pictures(opened: Any, made: Any) -> None:
    page = opened(made())
    assert page.locator("figure").count() == 0
    assert page.locator("h1").inner_text()


def test_the_keys_zoom_all_pictures(opened: Any) -> None:
    page = opened(fleet_page_support.a_fleet())
    pictures = page.locator("figure.timeline")
    before = pictures.nth(1).locator("canvas").first.screenshot()
    pictures.first.focus()
    page.keyboard.press("+")
    assert pictures.nth(1).locator("canvas").first.screenshot() != before
    page.keyboard.press("Escape")
    assert pictures.first.locator("button.whole").is_disabled()

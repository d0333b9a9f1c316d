"""A real browser for pages: Debian's Chromium, driven by Playwright."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = "/usr/bin/chromium"
#: As root, and without the connections of its own that a browser makes.
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@contextmanager
def launched() -> Iterator[Any]:
    """The browser while the block runs. Without one a test is skipped, but fails in CI."""
    if not Path(CHROMIUM).exists():
        if "CI" in os.environ:
            pytest.fail("there is no Chromium: Debian's package chromium has it")
        pytest.skip("there is no Chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(ARGUMENTS))
        yield browser
        browser.close()


def opened(browser: Any, path: Path, complaints: list[str], *, width: int = 1000, scheme: str = "light") -> Any:
    """A page in a context of its own, once it is drawn; `complaints` get what it asks for and complains of."""
    context = browser.new_context(
        viewport={"width": width, "height": 800}, color_scheme=scheme, timezone_id="UTC", locale="en-GB"
    )
    page = context.new_page()
    page.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("dialog", lambda dialog: complaints.append(dialog.message))
    page.on("request", lambda request: request.url == path.as_uri() or complaints.append(request.url))
    page.goto(path.as_uri())
    page.wait_for_selector("html[data-drawn=true]")
    return page


def drawn(page: Any, selector: str) -> int:
    """How many colours a canvas has."""
    count: int = page.evaluate(
        """selector => { const canvas = document.querySelector(selector);
        const image = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
        return new Set(new Uint32Array(image.data.buffer)).size }""",
        selector,
    )
    return count

"""Make the pictures of the views from real runs: `python docs/pictures/make.py` (about half a minute).

It needs Chromium (Debian's package) and the development environment. The dashboards' pictures are made by
`dashboards/draw/draw`.
"""

from __future__ import annotations

import asyncio
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

from poolscope.commands.top import source
from poolscope.errors import PoolscopeError
from poolscope.live.board import Board
from poolscope.live.screen import View

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
CHROMIUM = "/usr/bin/chromium"
WIDTH = 1000
#: When the example is in the middle of what is wrong with it, seconds after its start.
TROUBLE = 11.0


def main() -> None:
    """Run the example once, and look at it on the way and at its end."""
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        page = Path(folder, "page.html")
        url = f"http://127.0.0.1:{_free_port()}"
        command = [sys.executable, "-m", "poolscope", "run", "--quiet", "--listen", url.removeprefix("http://")]
        program = subprocess.Popen([*command, "--html", str(page), "examples/hard_limit.py"], cwd=ROOT)
        began = time.monotonic()
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        ask = source(url)
        _answered(ask)
        live = _opened(browser, f"{url}/")
        time.sleep(max(0.0, began + TROUBLE - time.monotonic()))
        live.screenshot(path=HERE / "live-page.png")
        board = ask()
        program.wait()
        _opened(browser, page.as_uri()).screenshot(path=HERE / "page.png", full_page=True)
        browser.close()
    (HERE / "top.svg").write_text(_screen(board))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _answered(ask: Callable[[], Board]) -> Board:
    """Return the first board of the run."""
    while True:
        try:
            return ask()
        except PoolscopeError:
            time.sleep(0.1)


def _opened(browser: Any, url: str) -> Any:
    page = browser.new_page(viewport={"width": WIDTH, "height": 900}, color_scheme="light")
    page.goto(url)
    page.wait_for_selector("html[data-drawn=true]", state="attached")
    return page


def _screen(board: Board) -> str:
    """Return what `poolscope top` shows of a board, as SVG."""

    async def shown() -> str:
        view = View(board, lambda: board)
        async with view.run_test(size=(100, 30)) as pilot:
            await pilot.pause()
            return view.export_screenshot()

    # A picture asks no server for its font.
    return re.sub(r"@font-face \{.*?\}", "", asyncio.run(shown()), flags=re.DOTALL)


if __name__ == "__main__":
    main()

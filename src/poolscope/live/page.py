"""The live page: the frame that its script fills once a second from the feed, in the look of a report's page."""

from __future__ import annotations

from collections.abc import Iterator

from poolscope import __version__
from poolscope.rendering.html import document
from poolscope.rendering.text import Medium


def encode() -> bytes:
    """Return the page. Nothing of the program is in it."""
    medium = Medium(width=160, encoding=None, cwd="")
    return document(medium, "poolscope: live", __version__, _body(), '{"live":"live"}', connect="'self'")


def _body() -> Iterator[str]:
    yield (
        '<header><p aria-live="polite"><span class="badge unknown" id="word">live</span></p>'
        '<h1 id="headline">Waiting for the first look</h1></header>'
    )
    yield '<p class="facts" id="facts"></p><p class="warning" id="trouble" role="status"></p>'
    yield "<noscript><p>This page needs its script. /live has the same as JSON, /metrics the metrics.</p></noscript>"
    yield "<main>"
    yield '<div id="overview"></div>'
    yield '<div id="findings"></div>'
    yield '<div id="pools"></div>'
    yield '<div id="loops"></div>'
    yield '<ul id="notes"></ul>'
    yield "</main>"
    yield (
        '<template id="pool"><section><h2></h2><p class="facts"></p>'
        '<p class="batch" hidden><progress max="1"></progress> <span></span></p><dl></dl>'
        '<figure class="timeline" tabindex="0"><figcaption>Running and queued tasks, and the age of the one that is'
        " queued longest; bands are findings. Drag to zoom, or use the keys + - and the arrows."
        ' <button class="whole" type="button">All of it</button></figcaption>'
        '<div class="chart" role="img"></div><div class="chart" role="img"></div></figure>'
        '<details><summary>The same as a table</summary><div class="scroll"></div></details></section></template>'
    )
    yield f"<footer>poolscope {__version__}, live: asked once a second while this page is seen</footer>"

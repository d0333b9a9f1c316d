"""A page as a test reads it: its elements, its words and its data."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from typing import Any


class Page(HTMLParser):
    """What a browser makes of it: elements with their attributes, and text by element."""

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self._open = ""
        self.feed(page.decode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._open = tag

    def handle_data(self, data: str) -> None:
        self.texts.append((self._open, data))

    def handle_endtag(self, tag: str) -> None:
        self._open = ""

    def all(self, tag: str) -> list[str]:
        return [text for opened, text in self.texts if opened == tag and text.strip()]


def data_of(page: Page) -> dict[str, Any]:
    def refuse(word: str) -> None:
        raise ValueError(word)

    (text,) = [text for text in page.all("script") if text.startswith('{"started"')]
    content: dict[str, Any] = json.loads(text, parse_constant=refuse)
    return content

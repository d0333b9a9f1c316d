"""Looks at a program once a second at most, however many ask, and gives what live views show. Thread-safe."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

import msgspec

from poolscope.endpoint import Page
from poolscope.live.board import Board, board
from poolscope.live.history import History
from poolscope.model import storable
from poolscope.probe.interpreter.unpatched import allocate_lock
from poolscope.rendering.text import Medium

if TYPE_CHECKING:
    from poolscope.snapshot import Snapshot

#: A look is taken where the last one is older (s): a little less than the second in which views ask.
PERIOD_SECONDS = 0.9
#: Where the page is, and what feeds it.
PAGE, FEED = "/", "/live"

_JSON = "application/json"
#: What the policy in the page itself cannot say: not in a frame of others, and no address of ours for them.
_HEADERS = (("X-Frame-Options", "DENY"), ("Referrer-Policy", "no-referrer"))


class Feed:
    """What goes on, for everyone who looks."""

    def __init__(
        self,
        source: Callable[[], Snapshot],
        command: str,
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        """`source` gives a snapshot with its details; `now` is asked once: later times are steady."""
        self._source = source
        self._command = command
        self._clock = clock
        self._epoch = now() - clock()
        self._medium = Medium(width=160, encoding=None, cwd=_folder())
        self._history = History()
        self._lock = allocate_lock()  # that greenlets have not replaced

    def look(self) -> None:
        """Take a look, if the last one is old. Raises what the source raises."""
        with self._lock:
            self._look()

    def board(self, *, frames: bool = True, since: float = 0.0) -> Board:
        """Return what is shown as of now; see `board.board`. Raises what the source raises."""
        with self._lock:
            self._look()
            return board(self._history, self._medium, command=self._command, frames=frames, since=since)

    def json(self, *, frames: bool = True, since: float = 0.0) -> bytes:
        """Return the same as JSON."""
        shown = self.board(frames=frames, since=since)
        try:
            return msgspec.json.encode(shown) + b"\n"
        except UnicodeEncodeError:  # a name with half of a character
            return msgspec.json.encode(storable(msgspec.to_builtins(shown))) + b"\n"

    def _look(self) -> None:
        at = self._epoch + self._clock()
        if self._history.snapshot is None or at - self._history.at >= PERIOD_SECONDS:
            self._history.look(self._source(), at)


def pages(feed: Feed) -> Mapping[str, Page]:
    """Return the live page and its feed, for an endpoint."""

    def page(_frames: bool, _query: str) -> bytes:
        from poolscope.live.page import encode

        return encode()

    def data(frames: bool, query: str) -> bytes:
        return feed.json(frames=frames, since=_since(query))

    return {PAGE: Page("text/html; charset=utf-8", page, _HEADERS), FEED: Page(_JSON, data)}


def own_command() -> str:
    """Return the command of this process, for its own endpoint."""
    return " ".join(getattr(sys, "argv", ())) or "python"


def _since(query: str) -> float:
    """Return from when on points are asked for; all, where it is no number."""
    try:
        since = float(parse_qs(query, max_num_fields=10).get("since", ["0"])[0])
    except ValueError:
        return 0.0
    return since if since == since else 0.0


def _folder() -> str:
    try:
        return os.getcwd()
    except OSError:  # removed under our feet
        return ""

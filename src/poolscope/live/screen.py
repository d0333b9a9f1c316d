"""The terminal's view: textual shows the lines of `layout`, and scrolls them. Importing it needs textual."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from datetime import tzinfo
from typing import ClassVar

from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.widgets import Static

from poolscope.errors import PoolscopeError
from poolscope.live.board import Board
from poolscope.live.lines import layout
from poolscope.rendering.terminal import PAINT
from poolscope.rendering.text import Line, Medium

#: Seconds between two looks.
LOOK_SECONDS = 1.0


def painted(lines: list[Line]) -> Text:
    """Return the lines for rich: appended, never parsed, so that no name is markup."""
    text = Text(no_wrap=True, overflow="crop", end="")
    for number, line in enumerate(lines):
        if number:
            text.append("\n")
        for words, style in line:
            text.append(words, PAINT[style])
    return text


class View(App[None]):
    """Shows what `ask` returns, once a second, until somebody has seen enough."""

    CSS = """
    #view { height: auto; width: 100%; }
    #keys { dock: bottom; height: 1; color: $text-muted; }
    """
    TITLE = "poolscope top"
    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q", "quit", "quit"),
        Binding("ctrl+c", "interrupt", "interrupt", priority=True),
    ]

    def __init__(
        self,
        first: Board,
        ask: Callable[[], Board],
        *,
        interrupted: Callable[[], object] | None = None,
        ended: int | None = None,
        zone: tzinfo | None = None,
    ) -> None:
        """`interrupted` is called for Ctrl-C, which else ends the view; so does the end of `ended`, a descriptor."""
        super().__init__()
        self._board = first
        self._ask = ask
        self._trouble = ""
        self._asking = threading.Lock()
        self._interrupted = interrupted
        self._ended = ended
        self._zone = zone

    def compose(self) -> ComposeResult:
        """See textual."""
        with VerticalScroll():
            yield Static(id="view")
        yield Static("q quit, arrows scroll", id="keys")

    def on_mount(self) -> None:
        """See textual."""
        self._show()
        self.set_interval(LOOK_SECONDS, self.look)
        if self._ended is not None:
            threading.Thread(target=self._await_end, args=(self._ended,), name="poolscope-end", daemon=True).start()

    def on_resize(self) -> None:
        """See textual."""
        self._show()

    def action_interrupt(self) -> None:
        """Interrupt the program that is shown, or else end."""
        if self._interrupted is None:
            self.exit()
        else:
            self._interrupted()

    def look(self) -> None:
        """Take a look, on a thread: what it asks may take its time. One at a time."""
        self.run_worker(self._asked, thread=True, exclusive=False, group="look", exit_on_error=False)

    def _asked(self) -> None:
        if not self._asking.acquire(blocking=False):
            return  # the one before has not been answered
        try:
            board, trouble = self._ask(), ""
        except PoolscopeError as error:
            board, trouble = self._board, f"{error}. Asking again."
        finally:
            self._asking.release()
        if self.is_running:
            self.call_from_thread(self._take, board, trouble)

    def _take(self, board: Board, trouble: str) -> None:
        self._board, self._trouble = board, trouble
        self._show()

    def _show(self) -> None:
        width = max(1, self.size.width - 2)  # beside the scroll bar
        medium = Medium(width=width, encoding=None, cwd="")
        lines = layout(self._board, medium, trouble=self._trouble, zone=self._zone)
        self.query_one("#view", Static).update(painted(lines))

    def _await_end(self, descriptor: int) -> None:
        while os.read(descriptor, 1):
            pass
        if self.is_running:
            self.call_from_thread(self.exit)


def interrupt_parent() -> None:
    """Send the parent, which is `poolscope run`, what Ctrl-C would send it."""
    os.kill(os.getppid(), signal.SIGINT)

"""The view of `poolscope top` while the program runs, on the terminal that both of them have.

The view draws on all of the terminal. So what the program writes to it goes to a pseudo-terminal, where it is kept, and
is written once the view has ended, by a key or with the program; what it writes elsewhere goes there. There is nothing
to read from the terminal for it meanwhile: the keys are the view's.
"""

from __future__ import annotations

import fcntl
import os
import selectors
import signal
import sys
import tempfile
import termios
import threading
from collections.abc import Iterable
from typing import Any

from poolscope.supervisor.printer import say

#: How long (s) the view may take to end.
PATIENCE_SECONDS = 5.0
_CHUNK = 1 << 16
_INPUT, _OUTPUT, _ERRORS = 0, 1, 2
#: Back from the other screen, with a cursor and without reports of the mouse, where the view could not do it.
_RESTORED = b"\x1b[?1049l\x1b[?25h\x1b[?1000l\x1b[?1003l\x1b[?1006l\x1b[0m"


def can_be_shown() -> bool:
    """Whether there is a terminal to draw on and to read keys from."""
    term = os.environ.get("TERM", "dumb")
    return term not in ("", "dumb") and os.isatty(_INPUT) and os.isatty(_ERRORS)


class LiveView:
    """The view as a process of its own. `start` it once the program runs, and `finish` it when that has ended."""

    def __init__(self, door: str) -> None:
        """`door` is where the view asks. Raises OSError without a pseudo-terminal, RuntimeError without a thread."""
        self._door = door
        self._terminal = os.dup(_ERRORS)
        self._before = termios.tcgetattr(self._terminal)
        self._master, self._slave = os.openpty()
        self._take_after()
        #: The view reads one, and ends when no process can write there; it holds the other one for as long as it lives.
        self._until = os.pipe()
        self._life = os.pipe()
        self._wake = os.pipe()
        self._kept = tempfile.TemporaryFile()  # noqa: SIM115 - as long as we are
        self._ended = threading.Event()
        self._pid = 0
        self._thread = threading.Thread(target=self._pump, name="poolscope-output", daemon=True)
        self._thread.start()

    @property
    def for_program(self) -> list[tuple[Any, ...]]:
        """What is done with the program's descriptors as it is started: see `os.posix_spawn`."""
        written = [number for number in (_OUTPUT, _ERRORS) if os.isatty(number)]
        actions: list[tuple[Any, ...]] = [(os.POSIX_SPAWN_DUP2, self._slave, number) for number in written]
        return [*actions, (os.POSIX_SPAWN_OPEN, _INPUT, os.devnull, os.O_RDONLY, 0)]

    def start(self, mask: Iterable[int]) -> None:
        """Show the view, which blocks the signals of `mask`. If it cannot be started, the output is just passed on."""
        os.close(self._slave)
        until, life = self._until[0], self._life[1]
        words = ["-P", "-m", "poolscope", "top", f"unix:{self._door}", "--until", str(until)]
        shown = [(os.POSIX_SPAWN_DUP2, self._terminal, number) for number in (_INPUT, _OUTPUT, _ERRORS)]
        for descriptor in (until, life):
            os.set_inheritable(descriptor, True)
        try:
            self._pid = os.posix_spawn(
                sys.executable, [sys.executable, *words], os.environ, file_actions=shown, setsigmask=mask
            )
        except OSError as error:
            say(f"--live cannot be shown: {error.strerror}")
        finally:
            os.close(life)
            os.close(until)

    def finish(self) -> None:
        """End the view, and write what the program has written meanwhile."""
        os.close(self._until[1])
        if self._pid and not self._ended.wait(PATIENCE_SECONDS):
            os.kill(self._pid, signal.SIGKILL)
            self._ended.wait(PATIENCE_SECONDS)
            os.write(self._terminal, _RESTORED)
        termios.tcsetattr(self._terminal, termios.TCSADRAIN, self._before)
        os.close(self._wake[1])
        self._thread.join()
        for descriptor in (self._master, self._terminal, self._life[0], self._wake[0]):
            os.close(descriptor)
        self._kept.close()

    def _take_after(self) -> None:
        """Make the pseudo-terminal like the terminal, but for the ends of lines: that turns them by itself."""
        size = fcntl.ioctl(self._terminal, termios.TIOCGWINSZ, bytes(8))
        fcntl.ioctl(self._slave, termios.TIOCSWINSZ, size)
        attributes = list(self._before)
        attributes[1] &= ~termios.OPOST
        termios.tcsetattr(self._slave, termios.TCSANOW, attributes)

    def _pump(self) -> None:
        """Keep what the program writes while the view is there, then write it on; until there is nothing more."""
        with selectors.DefaultSelector() as selector:
            for descriptor in (self._master, self._life[0], self._wake[0]):
                selector.register(descriptor, selectors.EVENT_READ)
            stopping = False
            while True:
                ready = [key.fd for key, _ in selector.select(0 if stopping else None)]
                if self._master in ready and not self._take():
                    selector.unregister(self._master)
                if self._life[0] in ready:
                    selector.unregister(self._life[0])
                    self._ended.set()
                    self._write_kept()
                if self._wake[0] in ready and not stopping:
                    stopping = True
                    selector.unregister(self._wake[0])
                    if not self._ended.is_set():  # it never began
                        self._ended.set()
                        self._write_kept()
                elif stopping and self._master not in ready:
                    return

    def _take(self) -> bool:
        """Take what is there; false where nothing more can come."""
        try:
            data = os.read(self._master, _CHUNK)
        except OSError:  # the last one that could write has closed it
            return False
        if self._ended.is_set():
            self._write(data)
        else:
            self._kept.write(data)
        return bool(data)

    def _write_kept(self) -> None:
        self._kept.seek(0)
        while data := self._kept.read(_CHUNK):
            self._write(data)

    def _write(self, data: bytes) -> None:
        try:
            while data:
                data = data[os.write(self._terminal, data) :]
        except OSError:
            pass  # the terminal has gone

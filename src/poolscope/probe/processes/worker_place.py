"""The place of a worker process in a lasting call: a thread of ours in the worker shows it, the parent reads it.

The frames of another process cannot be seen from outside. So in a worker of a watched process a thread looks ten times
a second at the call that the worker is in, and writes the place of one that lasts into the shared memory of the pool.
It is below `threading`, and ends before a fork, as the probe's thread does. It imports nothing: in a forked process the
lock of an import may belong to a thread that only the parent has.
"""

from __future__ import annotations

import os
import threading
from time import perf_counter_ns

from poolscope.probe.interpreter.stacks import user_place
from poolscope.probe.interpreter.unpatched import current_frames
from poolscope.probe.processes import processchild
from poolscope.probe.processes.processchild import ENTRY, SHOWN
from poolscope.probe.sampling.wait_reasons import WaitReasons
from poolscope.probe.ticker import Ticker

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    Line = tuple[str, int, str]

#: How often the worker is looked at, as often as the parent reads, and from when on a call lasts.
LOOK_NS = 100_000_000
HELD_NS = 20_000_000
#: How long a fork waits for the thread to end (seconds).
FORK_PATIENCE = 0.2
#: Characters that no name of a file or function has.
_BETWEEN_LINES, _BETWEEN_FIELDS = "\x1e", "\x1f"
#: A lock that no thread of the process can release.
INHERITED = "inherited"
#: The function of `processchild` that runs the calls of a worker.
_WORK = "work"
#: The module of the locks that another process can release.
_BETWEEN_PROCESSES = "multiprocessing.synchronize"


class Place:
    """The place of one worker in shared memory: integers `shown`, see `processchild.PLACE`."""

    def __init__(self, shown: memoryview[int]) -> None:
        self._shown = shown
        self._text = shown.cast("B")[16:]

    def write(self, number: int, lines: list[Line], spot: int, gate: str) -> None:
        """Show the place of call `number`, if there is room for it."""
        text = _packed(lines, spot, gate)
        self._shown[0] = 0  # a reader that finds another number after its reading does not use it
        if len(text) > len(self._text):
            return
        self._text[: len(text)] = text
        self._shown[1] = len(text)
        self._shown[0] = number

    def read(self, number: int) -> tuple[list[Line], int, str] | None:
        """Return what is shown of call `number`; None if that is nothing, or of another call."""
        if self._shown[0] != number:
            return None
        text = bytes(self._text[: self._shown[1]])
        if self._shown[0] != number:
            return None
        try:
            return _unpacked(text)
        except ValueError:
            return None


def _packed(lines: list[Line], spot: int, gate: str) -> bytes:
    # As text: a module for it would have to be imported in the midst of the program.
    parts = [_BETWEEN_FIELDS.join((file, str(line), function)) for file, line, function in lines]
    parts.append(_BETWEEN_FIELDS.join((str(spot), gate)))
    return _BETWEEN_LINES.join(parts).encode("utf-8", "surrogatepass")


def _unpacked(text: bytes) -> tuple[list[Line], int, str]:
    """Return what was packed. Raises ValueError for anything else."""
    *parts, last = text.decode("utf-8", "surrogatepass").split(_BETWEEN_LINES)
    lines = []
    for part in parts:
        file, line, function = part.split(_BETWEEN_FIELDS)
        lines.append((file, int(line), function))
    spot, gate = last.split(_BETWEEN_FIELDS)
    return lines, int(spot), gate


def _boundary(frame: FrameType) -> int | None:
    """Return the `id` of the frame in which a worker runs all of its calls: of a forked one, what is outside of that is
    its parent's. None between two calls, when a result is pickled or sent."""
    each: FrameType | None = frame
    while each is not None:
        code = each.f_code
        if code.co_filename == processchild.__file__:
            return id(each) if code.co_name == _WORK else None
        each = each.f_back
    return 0


class _Looker:
    """Looks at the main thread of a worker, which runs its calls."""

    def __init__(self, calls: memoryview[int], place: Place, *, forked: bool) -> None:
        """`forked`: the locks of this process are copies, as another process had them."""
        self._calls = calls
        self._place = place
        self._forked = forked
        self._worker = threading.get_ident()
        self._gate: Callable[[FrameType], str] | None = None

    def __call__(self, now_ns: int) -> None:
        number = max(self._calls[::ENTRY])
        at = number % SHOWN * ENTRY
        _, _, started, sent = self._calls[at : at + ENTRY]
        if number <= 0 or sent or now_ns - started < HELD_NS:
            return
        if self._gate is None:
            self._gate = WaitReasons()
        frames = current_frames()
        frame = frames.get(self._worker)
        try:
            boundary = None if frame is None else _boundary(frame)
            if frame is None or boundary is None:
                return
            lines, spot = user_place(frame, boundary)
            gate = self._gate(frame)
            # Beside the worker and us there is no thread, so none that could release it: unless it is one that
            # processes share.
            shared = frame.f_globals.get("__name__") == _BETWEEN_PROCESSES
            if gate == "lock" and self._forked and len(frames) <= 2 and not shared:
                gate = INHERITED
            self._place.write(number, lines, spot, gate)
        finally:
            # Frames that we held would keep the locals of the task alive.
            del frame, frames


def _ignore(_part: str, _error: BaseException) -> None:
    """Ignore the failure: the line is then no longer shown."""


def show(calls: memoryview[int], place: memoryview[int], *, forked: bool) -> None:
    """From here on show where the calling thread is in a call that lasts; `calls` are those that it shows it is in."""
    ticker = Ticker(perf_counter_ns, _ignore)
    ticker.add("worker", LOOK_NS, _Looker(calls, Place(place), forked=forked))
    process = os.getpid()

    def go_on() -> None:
        if os.getpid() == process:
            ticker.wake()

    if hasattr(os, "register_at_fork"):
        os.register_at_fork(before=lambda: ticker.stop(FORK_PATIENCE), after_in_parent=go_on)
    ticker.wake()

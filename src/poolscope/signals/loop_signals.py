"""From the blocks of one line of an event loop to the numbers that rules judge by. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from poolscope.aggregation.loop_history import BlockingLine, LoopHistory
from poolscope.messages import Line

_OURS = __file__.removesuffix("signals/loop_signals.py")
#: Functions of ours that a program calls once, to be served: file and name.
_SERVING = {(f"{_OURS}__init__.py", "__getattr__"), (f"{_OURS}profiler.py", "serve")}

#: A block that begins so soon after its loop (ns), and one that ends so shortly before it, ...
_FIRST_NS = 1_000_000_000
_LAST_NS = 250_000_000
#: ... of a loop that runs so long after it or before it, and as long as the block took.
_ELSE_NS = 5_000_000_000
#: The tasks of a program that starts or ends: the main one, and one that prepares or finishes something for it, as the
#: lifespan of a server.
_FEW_TASKS = 2
#: What asyncio does when a loop ends.
_ENDING = frozenset(
    (
        "BaseEventLoop.shutdown_default_executor",
        "BaseEventLoop._do_shutdown",
        "BaseEventLoop.shutdown_asyncgens",
        "BaseEventLoop.close",
        "Runner.close",
        "_cancel_all_tasks",
    )
)


class LoopLineSignals(msgspec.Struct, frozen=True):
    """The blocks of one line of one event loop; seconds."""

    cause: str
    blocks: int
    blocked_seconds: float
    longest_seconds: float
    loop_seconds: float
    #: Whether this happens once, as the program starts: the line imports something in a module that is being imported
    #: itself, it calls `serve`, or it came first in a loop that has gone on for longer, before another task was there
    #: to wait.
    startup: bool = False
    #: Whether this happens once, as the loop ends: in asyncio's own functions for that, or as the last thing in a loop
    #: that ran for longer.
    ending: bool = False
    #: Most tasks that the loop had at once, as far as it was counted.
    tasks: int = 0
    #: What the loop's thread was stopped at (see `LoopBlock`), and the part of the time in which one call kept the GIL.
    gate: str = ""
    gil_held: float = 0.0

    @property
    def share(self) -> float:
        """Part of the loop's time that the blocks took."""
        return self.blocked_seconds / self.loop_seconds if self.loop_seconds > 0 else 1.0


def measure_line(line: BlockingLine, history: LoopHistory, now_ns: int) -> LoopLineSignals:
    """Return the signals of a line of a loop up to now; a block that lasts included."""
    loop_ns = history.ran_ns(now_ns)
    return LoopLineSignals(
        cause=line.cause,
        blocks=line.blocks + (line.open_ns > 0),
        blocked_seconds=(line.total_ns + line.open_ns) / 1e9,
        longest_seconds=line.longest_so_far_ns / 1e9,
        loop_seconds=loop_ns / 1e9,
        startup=_is_startup(line.lines) or _came_first(line, history, now_ns),
        ending=_is_ending(line.lines) or _came_last(line, history),
        tasks=history.peak_tasks,
        gate=line.gate,
        gil_held=line.measured.get("held", 0.0) / line.measured_ns if line.measured_ns else 0.0,
    )


def _is_startup(lines: Sequence[Line]) -> bool:
    if len(lines) < 2:
        return False
    (_, _, function), (file, _, called) = lines[:2]
    return (file, called) in _SERVING or (function == "<module>" and file.startswith("<frozen importlib"))


def _is_ending(lines: Sequence[Line]) -> bool:
    return bool(lines) and lines[0][2] in _ENDING and "asyncio" in lines[0][0]


def _only_block(line: BlockingLine, history: LoopHistory) -> bool:
    return not history.several and line.blocks == 1 and not line.open_ns


def _came_first(line: BlockingLine, history: LoopHistory, now_ns: int) -> bool:
    if not _only_block(line, history) or line.first_ns - history.opened_ns > _FIRST_NS:
        return False
    after_ns = (history.closed_ns if not history.alive else now_ns) - line.last_ns
    tasks = history.tasks_after(line.last_ns)
    return after_ns >= max(_ELSE_NS, line.total_ns) and tasks is not None and tasks <= _FEW_TASKS


def _came_last(line: BlockingLine, history: LoopHistory) -> bool:
    if not _only_block(line, history) or history.alive or history.closed_ns - line.last_ns > _LAST_NS:
        return False
    # Others would have waited; at the end all tasks but those that end it are cancelled.
    tasks = history.tasks_before(history.closed_ns)
    return (
        tasks is not None and tasks <= _FEW_TASKS and line.first_ns - history.opened_ns >= max(_ELSE_NS, line.total_ns)
    )

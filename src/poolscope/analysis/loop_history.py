"""What one event loop did: its lags, and its blocks by the line that caused them. Pure; times (ns) come in."""

from __future__ import annotations

from collections.abc import Sequence

from poolscope.analysis.detection import LoopLineSignals
from poolscope.analysis.spread import Spread
from poolscope.messages import Line, LoopBlock, LoopOpened, LoopTick

#: Lines that are told apart; the blocks of further ones count in the totals only.
BLOCKING_LINES = 200

_OURS = __file__.rpartition("analysis")[0]
#: What of ours a program calls once, to be served: file and function.
_SERVING = {(f"{_OURS}__init__.py", "__getattr__"), (f"{_OURS}profiler.py", "serve")}


class BlockingLine:
    """All blocks of one line with one cause."""

    __slots__ = (
        "blocks",
        "cause",
        "cpu_ns",
        "first_ns",
        "last_ns",
        "lines",
        "longest_ns",
        "open_ns",
        "total_ns",
    )

    def __init__(self, cause: str, lines: Sequence[Line], first_ns: int) -> None:
        self.cause = cause
        self.lines = tuple(lines)
        self.first_ns = self.last_ns = first_ns
        self.blocks = self.total_ns = self.longest_ns = 0
        self.cpu_ns = 0.0
        #: Length of the block that still lasts, else 0.
        self.open_ns = 0

    def signals(self, loop_ns: int) -> LoopLineSignals:
        """What detection judges by."""
        return LoopLineSignals(
            cause=self.cause,
            blocks=self.blocks + (self.open_ns > 0),
            blocked_seconds=(self.total_ns + self.open_ns) / 1e9,
            longest_seconds=max(self.longest_ns, self.open_ns) / 1e9,
            loop_seconds=loop_ns / 1e9,
            startup=_is_startup(self.lines),
        )

    @property
    def cpu_share(self) -> float:
        """CPU of the loop's thread per blocked second."""
        return self.cpu_ns / self.total_ns if self.total_ns else 0.0


def _is_startup(lines: Sequence[Line]) -> bool:
    if len(lines) < 2:
        return False
    (_, _, function), (file, _, called) = lines[:2]
    return (file, called) in _SERVING or (function == "<module>" and file.startswith("<frozen importlib"))


class LoopHistory:
    """Folds the messages of the loops of one name in one process."""

    def __init__(self, name: str, kind: str, pid: int, lag_bounds: Sequence[int]) -> None:
        self.name = name
        self.kind = kind
        self.pid = pid
        self.lag = Spread(lag_bounds)
        self.tasks = self.peak_tasks = 0
        self.blocked_ns = self.longest_ns = 0
        self.lines: dict[tuple[str, Line | None], BlockingLine] = {}
        self._running: dict[int, int] = {}  # loop id -> since
        self._ran_ns = 0
        self._open: dict[int, tuple[BlockingLine, int]] = {}  # loop id -> where its block is, since when

    @property
    def alive(self) -> bool:
        """Whether one of the loops runs."""
        return bool(self._running)

    def opened(self, message: LoopOpened) -> None:
        """A loop began to run."""
        self._running[message.loop] = message.at_ns

    def closed(self, loop: int, at_ns: int) -> None:
        """A loop stopped; what was said of a block that never ended is all there is of it."""
        since = self._running.pop(loop, None)
        if since is not None:
            self._ran_ns += max(0, at_ns - since)
        if loop in self._open:
            line, started_ns = self._open.pop(loop)
            self._add(line, max(line.open_ns, at_ns - started_ns), 0.0)
        if not self._running:
            self.tasks = 0

    def tick(self, message: LoopTick) -> None:
        """Takes in lags."""
        self.lag.add(message.lags_ns)
        self.tasks = message.tasks
        self.peak_tasks = max(self.peak_tasks, message.tasks)

    def block(self, message: LoopBlock) -> None:
        """Takes in one block, while it lasts or when it ended."""
        key = self._key(message)
        line = self.lines.get(key)
        if line is None:
            if len(self.lines) >= BLOCKING_LINES:
                key = ("unknown", None)
            line = self.lines.setdefault(key, BlockingLine(key[0], message.lines, message.started_ns))
        if message.loop in self._open:
            # Sampled again, the same block may turn out to be at another line.
            self._open.pop(message.loop)[0].open_ns = 0
        if message.ended_ns:
            line.last_ns = max(line.last_ns, message.ended_ns)
            self._add(line, message.ended_ns - message.started_ns, message.cpu_share)
        else:
            self._open[message.loop] = (line, message.started_ns)

    def _key(self, message: LoopBlock) -> tuple[str, Line | None]:
        """Which line a block is counted at. Where other threads held the GIL it is not always seen where: such blocks
        go with the line that is known, as long as there is one only."""
        key = (message.cause, message.lines[0] if message.lines else None)
        if message.cause != "gil_contention" or key in self.lines:
            return key
        alike = [known for known in self.lines if known[0] == message.cause]
        if key[1] is None:
            return alike[0] if len(alike) == 1 else key
        if alike == [(message.cause, None)]:
            self.lines[key] = unseen = self.lines.pop(alike[0])
            unseen.lines = tuple(message.lines)
        return key

    def advance(self, now_ns: int) -> None:
        """What is open lasts until now at least."""
        for line, started_ns in self._open.values():
            line.open_ns = max(line.open_ns, now_ns - started_ns)
            line.last_ns = max(line.last_ns, now_ns)

    def _add(self, line: BlockingLine, length_ns: int, cpu_share: float) -> None:
        line.open_ns = 0
        line.blocks += 1
        line.total_ns += length_ns
        line.longest_ns = max(line.longest_ns, length_ns)
        line.cpu_ns += cpu_share * length_ns
        self.blocked_ns += length_ns
        self.longest_ns = max(self.longest_ns, length_ns)

    def ran_ns(self, now_ns: int) -> int:
        """How long the loops have run."""
        return self._ran_ns + sum(max(0, now_ns - since) for since in self._running.values())

    def blocked_so_far_ns(self) -> int:
        """Time in blocks, with those that last."""
        return self.blocked_ns + sum(line.open_ns for line, _ in self._open.values())

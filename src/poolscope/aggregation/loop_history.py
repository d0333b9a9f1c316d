"""What one event loop did: its lags, and its blocks by the line that caused them. Pure; times (ns) come in."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence

from poolscope.aggregation.histogram import Histogram
from poolscope.messages import BlockEvidence, Line, LoopBlock, LoopLoad, LoopOpened, LoopTick

#: Lines that are kept apart; the blocks of further ones count in the totals only.
BLOCKING_LINES = 200

UNKNOWN = "unknown"
#: A cause is the line's if it was established for so much of its blocks.
ESTABLISHED_SHARE = 0.25
#: Causes at a line of the loop's own thread. With the other causes, the line is one of another thread, if any.
_OWN_CAUSES = frozenset(("blocking_call", "cpu_bound", UNKNOWN))
_OWN = "own"

#: Fields of a block's evidence that are added up: shares of its time, and counts.
SHARES = ("other", "gc", "late", "still", "held", "waited", "delay")
COUNTS = ("futex_seen", "call_seen", "run_seen")

#: The latest blocks, loads and lags that are kept with their time.
_BLOCKS_KEPT = 1_000
_LOADS_KEPT = 120
_LAGS_KEPT = 1_200

#: The key of all further ones together.
_NO_LINE: tuple[str, None] = (UNKNOWN, None)


class BlockingLine:
    """All blocks of one line, of the loop's thread or of others that held the GIL."""

    __slots__ = (
        "_by_cause",
        "_first_cause",
        "blocks",
        "cpu_ns",
        "first_ns",
        "gate",
        "last_ns",
        "lines",
        "longest_ns",
        "measured",
        "measured_ns",
        "open_cause",
        "open_ns",
        "total_ns",
        "warned",
    )

    def __init__(self, cause: str, lines: Sequence[Line], first_ns: int) -> None:
        self._first_cause = cause
        #: How long the blocks of each cause were, and the cause of the block that still lasts.
        self._by_cause: dict[str, int] = {}
        self.open_cause = ""
        self.lines = tuple(lines)
        #: What the loop's thread last waited for there (see `LoopBlock`).
        self.gate = ""
        self.first_ns = self.last_ns = first_ns
        self.blocks = self.total_ns = self.longest_ns = 0
        self.cpu_ns = 0.0
        #: Sums over the blocks that came with evidence: of its shares, times their length; of its counts; that length.
        self.measured: dict[str, float] = {}
        self.measured_ns = 0
        #: Length of the block that still lasts, else 0.
        self.open_ns = 0
        #: Whether it had a finding above info, where nothing else remembers that.
        self.warned = False

    def absorb(self, other: BlockingLine) -> None:
        """Take over the blocks of the same line of another loop."""
        self.first_ns = min(self.first_ns, other.first_ns)
        self.last_ns = max(self.last_ns, other.last_ns)
        self.longest_ns = max(self.longest_ns, other.longest_ns)
        self.blocks += other.blocks
        self.total_ns += other.total_ns
        self.cpu_ns += other.cpu_ns
        self.measured_ns += other.measured_ns
        for cause, length_ns in other._by_cause.items():
            self.count(cause, length_ns)
        for name, value in other.measured.items():
            self.measured[name] = self.measured.get(name, 0.0) + value
        self.gate = self.gate or other.gate
        self.warned = self.warned or other.warned

    @property
    def longest_so_far_ns(self) -> int:
        """Length of the longest block, including the one that still lasts."""
        return max(self.longest_ns, self.open_ns)

    def count(self, cause: str, length_ns: int) -> None:
        """Add the length of a block of this cause."""
        self._by_cause[cause] = self._by_cause.get(cause, 0) + length_ns

    def mix(self) -> None:
        """Note that these are blocks of several lines, which have no common cause."""
        self._by_cause = {UNKNOWN: self.total_ns}

    @property
    def cause(self) -> str:
        """The established cause of most blocks; "unknown" if few have one."""
        weights = dict(self._by_cause)
        if self.open_ns or not weights:
            cause = self.open_cause or self._first_cause
            weights[cause] = weights.get(cause, 0) + max(1, self.open_ns)
        most = max(weights, key=lambda cause: (cause != UNKNOWN, weights[cause]))
        return most if weights[most] >= ESTABLISHED_SHARE * sum(weights.values()) else UNKNOWN

    def measure(self, evidence: BlockEvidence, length_ns: int) -> None:
        """Add what was measured during a block of this length, which has ended."""
        self.measured_ns += length_ns
        for name in SHARES:
            self.measured[name] = self.measured.get(name, 0.0) + (getattr(evidence, name) or 0.0) * length_ns
        for name in COUNTS:
            self.measured[name] = self.measured.get(name, 0.0) + getattr(evidence, name)

    @property
    def cpu_share(self) -> float:
        """CPU of the loop's thread per blocked second."""
        return self.cpu_ns / self.total_ns if self.total_ns else 0.0


class LoopHistory:
    """Folds the messages of the loops of one name in one process."""

    def __init__(self, name: str, kind: str, pid: int, lag_bounds: Sequence[int]) -> None:
        self.name = name
        self.kind = kind
        self.pid = pid
        self.lag = Histogram(lag_bounds)
        self.tasks = self.peak_tasks = 0
        self.blocked_ns = self.longest_ns = 0
        #: For how long the loops were at work, in callbacks of any length.
        self.busy_ns = 0
        #: Reports of loops at work, and how late the loops were, with the time (the median of a tick, ns).
        self.loads: deque[LoopLoad] = deque(maxlen=_LOADS_KEPT)
        self.lags: deque[tuple[int, int]] = deque(maxlen=_LAGS_KEPT)
        self._blocks: deque[tuple[int, int, BlockingLine]] = deque(maxlen=_BLOCKS_KEPT)  # begin, end
        #: How many loops have begun to run.
        self.runs = 0
        self.lines: dict[tuple[str, Line | None], BlockingLine] = {}
        #: Whether there were several; one loop may run more than once, as asyncio does to end it.
        self.several = False
        self._number = 0
        #: When the first of them began to run, and the last one stopped.
        self.opened_ns = self.closed_ns = 0
        #: When, and how many tasks there were.
        self._counts: deque[tuple[int, int]] = deque(maxlen=_LAGS_KEPT)
        self._running: dict[int, int] = {}  # loop id -> since
        self._ran_ns = 0
        self._open: dict[int, tuple[BlockingLine, int]] = {}  # loop id -> where its block is, since when

    @property
    def alive(self) -> bool:
        """Whether one of the loops runs."""
        return bool(self._running)

    def opened(self, message: LoopOpened) -> None:
        """Note that a loop began to run."""
        self._running[message.loop] = message.at_ns
        self.opened_ns = self.opened_ns or message.at_ns
        self.several = self.several or message.loop != (self._number or message.loop)
        self._number = message.loop
        self.runs += 1

    def closed(self, loop: int, at_ns: int) -> None:
        """Note that a loop stopped; keep what is known of a block that never ended."""
        since = self._running.pop(loop, None)
        if since is not None:
            self._ran_ns += max(0, at_ns - since)
        if loop in self._open:
            line, started_ns = self._open.pop(loop)
            self._add(line, max(line.open_ns, at_ns - started_ns), 0.0, line.open_cause)
        self.closed_ns = max(self.closed_ns, at_ns)
        if not self._running:
            self.tasks = 0

    def tick(self, message: LoopTick) -> None:
        """Take in lags, and for how long the loop was at work."""
        self.busy_ns += max(0, message.busy_ns)
        self.lag.add(message.lags_ns)
        if message.lags_ns:
            self.lags.append((message.at_ns, sorted(message.lags_ns)[len(message.lags_ns) // 2]))
        self._counts.append((message.at_ns, message.tasks))
        self.tasks = message.tasks
        self.peak_tasks = max(self.peak_tasks, message.tasks)

    def tasks_after(self, at_ns: int) -> int | None:
        """Return the number of tasks at the first count after that time; None if there is none."""
        return next((tasks for counted_ns, tasks in self._counts if counted_ns >= at_ns), None)

    def tasks_before(self, at_ns: int) -> int | None:
        """Return the number of tasks at the last count before that time; None if there is none."""
        return next((tasks for counted_ns, tasks in reversed(self._counts) if counted_ns <= at_ns), None)

    def load(self, message: LoopLoad) -> None:
        """Take in how much of its time a loop was at work."""
        self.loads.append(message)

    def blocked_within(self, begin_ns: int, end_ns: int) -> int:
        """Return how long callbacks held the loops in this time, as far back as blocks are kept."""
        return _overlap(((begin, end) for begin, end, _ in self.blocks()), begin_ns, end_ns)

    def blocks(self) -> Iterator[tuple[int, int, BlockingLine]]:
        """Return begin, end and line of the latest blocks; of those that last, the end so far."""
        yield from self._blocks
        yield from ((started_ns, started_ns + line.open_ns, line) for line, started_ns in self._open.values())

    def held_within(self, begin_ns: int, end_ns: int) -> int:
        """Return the same, or the reported time at work if that is longer."""
        at_work = sum(
            round(load.share * _overlap(((load.since_ns, load.at_ns),), begin_ns, end_ns)) for load in self.loads
        )
        return max(self.blocked_within(begin_ns, end_ns), at_work)

    def block(self, message: LoopBlock) -> None:
        """Take in one block, while it lasts or when it ended."""
        key = self._key(message)
        line = self.lines.get(key)
        if line is None:
            if len(self.lines) >= BLOCKING_LINES:
                key = _NO_LINE
            line = self.lines.setdefault(key, BlockingLine(message.cause, message.lines, message.started_ns))
        line.gate = message.gate or line.gate
        if message.loop in self._open:
            # A later sample may find the same block at another line.
            mistaken = self._open.pop(message.loop)[0]
            mistaken.open_ns, mistaken.open_cause = 0, ""
        if message.ended_ns:
            line.last_ns = max(line.last_ns, message.ended_ns)
            length_ns = message.ended_ns - message.started_ns
            self._add(line, length_ns, message.cpu_share, UNKNOWN if key == _NO_LINE else message.cause)
            self._blocks.append((message.started_ns, message.ended_ns, line))
            if message.evidence is not None:
                line.measure(message.evidence, length_ns)
        else:
            self._open[message.loop] = (line, message.started_ns)
            line.open_cause = UNKNOWN if key == _NO_LINE else message.cause

    def _key(self, message: LoopBlock) -> tuple[str, Line | None]:
        """Return the line that a block is counted at: for the loop's own thread always the same, with any cause.

        Where other threads held the GIL it is not always seen where: such blocks go with the line that is known, as
        long as there is one only.
        """
        key = (message.cause, message.lines[0] if message.lines else None)
        if message.cause in _OWN_CAUSES and message.lines:
            return (_OWN, message.lines[0])
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
        """Note that open blocks last at least until now."""
        for line, started_ns in self._open.values():
            line.open_ns = max(line.open_ns, now_ns - started_ns)
            line.last_ns = max(line.last_ns, now_ns)

    def _add(self, line: BlockingLine, length_ns: int, cpu_share: float, cause: str) -> None:
        line.open_ns, line.open_cause = 0, ""
        line.count(cause, length_ns)
        line.blocks += 1
        line.total_ns += length_ns
        line.longest_ns = max(line.longest_ns, length_ns)
        line.cpu_ns += cpu_share * length_ns
        self.blocked_ns += length_ns
        self.longest_ns = max(self.longest_ns, length_ns)

    def absorb(self, ended: LoopHistory) -> None:
        """Add what ended loops of another name or process did."""
        self.lag.merge(ended.lag)
        self.peak_tasks = max(self.peak_tasks, ended.peak_tasks)
        self.blocked_ns += ended.blocked_ns
        self.busy_ns += ended.busy_ns
        self.longest_ns = max(self.longest_ns, ended.longest_ns)
        self._ran_ns += ended._ran_ns
        self.runs += ended.runs
        self.several = True
        for key, line in ended.lines.items():
            mine = self.lines.get(key)
            if mine is None:
                self.lines[key] = line
            else:
                mine.absorb(line)
        if len(self.lines) > BLOCKING_LINES:
            self._fold_lines()

    def _fold_lines(self) -> None:
        """Merge the least important lines into one unknown line."""
        rest = self.lines.pop(_NO_LINE, None) or BlockingLine(UNKNOWN, (), self._first_ns)
        lightest = sorted(self.lines, key=lambda key: (self.lines[key].warned, self.lines[key].total_ns))
        for key in lightest[: len(lightest) - BLOCKING_LINES // 2]:
            rest.absorb(self.lines.pop(key))
        rest.lines = ()
        rest.mix()
        self.lines[_NO_LINE] = rest

    @property
    def _first_ns(self) -> int:
        return min(line.first_ns for line in self.lines.values())

    def ran_ns(self, now_ns: int) -> int:
        """How long the loops have run."""
        return self._ran_ns + sum(max(0, now_ns - since) for since in self._running.values())

    def busy_so_far_ns(self) -> int:
        """Time at work: what was added up, or the time in blocks, if that is longer so far."""
        return max(self.busy_ns, self.blocked_so_far_ns())

    def blocked_so_far_ns(self) -> int:
        """Time in blocks, with those that last."""
        return self.blocked_ns + sum(line.open_ns for line, _ in self._open.values())


def _overlap(spans: Iterable[tuple[int, int]], begin_ns: int, end_ns: int) -> int:
    return sum(max(0, min(end, end_ns) - max(begin, begin_ns)) for begin, end in spans)

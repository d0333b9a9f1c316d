"""Where threads and tasks wait in each turn of a loop, in sums by line. Pure: times (ns) come in."""

from __future__ import annotations

from collections import Counter

from poolscope.messages import Line

#: Lines of a row that are told apart; threads and tasks of a line; lines below it.
LINES_KEPT = 200
_KNOWN_KEPT = 1_000
_BELOW_KEPT = 50


class TurnLine:
    """One line in a loop, at which threads or tasks wait in each turn."""

    __slots__ = (
        "_known",
        "alone_ns",
        "below",
        "call",
        "first_ns",
        "gate",
        "last_ns",
        "line",
        "looks",
        "most_others",
        "others_ns",
        "samples",
        "shared",
        "turns",
        "waited_ns",
        "who",
    )

    def __init__(self, line: Line, gate: str, call: str, shared: str, at_ns: int) -> None:
        """`call` and `shared` are what the source says of it (`signals.in_turn.InTurn`)."""
        self.line = line
        self.gate = gate
        self.call = call
        self.shared = shared
        self.first_ns = self.last_ns = at_ns
        #: How often a thread or task was seen there, how many turns that were at the least, and the most at once.
        self.samples = self.turns = 0
        #: In how many looks any of them was there.
        self.looks = 0
        #: For how long, that while nothing else was under way, and the same times the number of what else was.
        self.waited_ns = self.alone_ns = self.others_ns = 0
        self.most_others = 0
        #: Threads and tasks that were seen there.
        self.who = 0
        #: The innermost lines of the user's below it, by the time there.
        self.below: Counter[Line] = Counter()
        # By thread or task: the number of its turn.
        self._known: dict[int, int] = {}

    def add(self, at_ns: int, gap_ns: int, *, who: int, turn: int, others: int, below: Line | None) -> None:
        """Take in that a thread or task (`who`) was seen waiting there, which stands for `gap_ns`."""
        if who not in self._known:
            self.who += 1
            if len(self._known) >= _KNOWN_KEPT:
                self._known.clear()
        if self._known.get(who) != turn:
            self.turns += 1
            self._known[who] = turn
        self.looks += at_ns != self.last_ns or not self.looks
        self.first_ns = min(self.first_ns, at_ns - gap_ns)
        self.last_ns = max(self.last_ns, at_ns)
        self.samples += 1
        self.waited_ns += gap_ns
        self.alone_ns += 0 if others else gap_ns
        self.others_ns += others * gap_ns
        self.most_others = max(self.most_others, others)
        if below is not None and (below in self.below or len(self.below) < _BELOW_KEPT):
            self.below[below] += gap_ns

    @property
    def at_once(self) -> float:
        """Mean number of threads or tasks that were there at once."""
        return self.samples / self.looks if self.looks else 0.0

    @property
    def mean_others(self) -> float:
        """Mean number of other tasks under way meanwhile."""
        return self.others_ns / self.waited_ns if self.waited_ns else 0.0


class Turns:
    """The lines of one row: a loop, the pools of one name, or a process."""

    __slots__ = ("lines", "waited_ns", "waiting")

    def __init__(self) -> None:
        self.lines: dict[tuple[Line, str], TurnLine] = {}
        #: For how long threads and tasks of the row were seen waiting, at any line of the user's.
        self.waited_ns = 0
        #: The innermost lines of the user's, in a loop or not, by the time there.
        self.waiting: Counter[Line] = Counter()

    def wait(self, line: Line | None, gap_ns: int) -> None:
        """Take in that a thread or task was seen waiting at a line of the user's."""
        self.waited_ns += gap_ns
        if line is not None and (line in self.waiting or len(self.waiting) < _BELOW_KEPT):
            self.waiting[line] += gap_ns

    @property
    def most_waiting(self) -> Line | None:
        """Return the line where they waited longest, if they were seen."""
        return self.waiting.most_common(1)[0][0] if self.waiting else None

    def line(self, line: Line, gate: str, call: str, shared: str, at_ns: int) -> TurnLine | None:
        """Return the sums of a line; None if there are too many."""
        known = self.lines.get((line, gate))
        if known is None and len(self.lines) < LINES_KEPT:
            known = self.lines[line, gate] = TurnLine(line, gate, call, shared, at_ns)
        return known

    def merge(self, other: Turns) -> None:
        """Take over the lines of another row, which is of no more use."""
        self.waited_ns += other.waited_ns
        self.waiting = self.waiting or other.waiting
        for key, line in other.lines.items():
            known = self.lines.get(key)
            if known is None or known.waited_ns < line.waited_ns:
                self.lines[key] = line

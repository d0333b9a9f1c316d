"""What is shown as one row: the event loops of one name in one process, those that ended included."""

from __future__ import annotations

from poolscope.engine.finding_list import Event, FindingTally
from poolscope.engine.loop_case import LoopCase
from poolscope.engine.turn_case import TurnFindings
from poolscope.messages import Line
from poolscope.model import Block, Finding, Frame, LoopReport, LoopTrace
from poolscope.rules.in_turn import Row
from poolscope.snapshot import FindingCount, LoopSnapshot


class LoopRow:
    """The event loops of one name in one process."""

    def __init__(self, case: LoopCase, since_ns: int = 0) -> None:
        """`since_ns`: see `LoopSnapshot`."""
        self.case = case
        self.since_ns = since_ns
        self.tally = FindingTally()
        #: What these loops wait for in turn; None if that is not known.
        self.turns: TurnFindings | None = None

    @property
    def name(self) -> str:
        """The name of the loops."""
        return self.case.history.name

    @property
    def pid(self) -> int:
        """Their process."""
        return self.case.history.pid

    @property
    def alive(self) -> bool:
        """Whether one of the loops runs."""
        return self.case.history.alive

    @property
    def weight(self) -> tuple[int, bool, int]:
        """Return how much the row matters: how often a loop of that name ran, in powers of two, whether one of them
        warned, and for how long they were blocked."""
        history = self.case.history
        warned = any(sort[2] != "info" for sort in self.tally.totals)
        return history.runs.bit_length(), warned, history.blocked_ns

    def fold(self, now_ns: int) -> list[Event]:
        """Merge its ended loops with others; return the findings that end with that."""
        return self.case.fold(now_ns)

    def become(self, pid: int, name: str) -> None:
        """Stand for another process, or another name, from now on."""
        self.case.history.pid, self.case.history.name = pid, name

    def absorb(self, ended: LoopRow) -> None:
        """Add the counts of another folded row, which is then of no more use."""
        self.since_ns = min(self.since_ns, ended.since_ns)
        self.case.absorb(ended.case)
        self.tally.merge(ended.tally)
        if self.turns is not None and ended.turns is not None:
            self.turns.turns.merge(ended.turns.turns)

    @property
    def in_turn(self) -> Row:
        """What the rules about turns need to know about the row."""
        return Row(kind="loop", name=self.name)

    def findings(self, now_ns: int) -> tuple[Finding, ...]:
        """All findings so far, including notes."""
        turned = [] if self.turns is None else self.turns.findings(self.in_turn)
        return (*self.case.findings(now_ns), *turned)

    def finding_counts(self) -> list[FindingCount]:
        """For a scrape."""
        return self.tally.counts("loop", self.name, self.pid, self.case.active_sorts(), self.since_ns)

    def snapshot(self) -> LoopSnapshot:
        """For a scrape."""
        history = self.case.history
        return LoopSnapshot(
            name=history.name,
            kind=history.kind,
            pid=history.pid,
            alive=history.alive,
            lag_buckets=tuple(history.lag.buckets),
            lag_sum_seconds=history.lag.total / 1e9,
            blocked_seconds=history.blocked_so_far_ns() / 1e9,
            busy_seconds=history.busy_so_far_ns() / 1e9,
            tasks=history.tasks,
            since_ns=self.since_ns,
        )

    def trace(self, origin_ns: int) -> LoopTrace:
        """Return what the session keeps of it; times from `origin_ns` on."""
        places: dict[Line, int] = {}
        blocks = []
        for begin, end, line in self.case.history.blocks():
            place = places.setdefault(line.lines[0], len(places)) if line.lines else -1
            blocks.append(Block((begin - origin_ns) / 1e9, (end - begin) / 1e9, place))
        return LoopTrace(tuple(Frame(*place) for place in places), tuple(blocks))

    def report(self, now_ns: int) -> LoopReport:
        """For the report."""
        history = self.case.history
        ran_ns = history.ran_ns(now_ns)
        longest_ns = max((line.longest_so_far_ns for line in history.lines.values()), default=0)
        return LoopReport(
            name=history.name,
            kind=history.kind,
            pid=history.pid,
            blocked_seconds=history.blocked_so_far_ns() / 1e9,
            longest_block_seconds=longest_ns / 1e9,
            lag_seconds=history.lag.distribution(),
            peak_tasks=history.peak_tasks,
            findings=self.findings(now_ns),
            busy_share=min(1.0, history.busy_so_far_ns() / ran_ns) if ran_ns else None,
        )

"""What the causes `awaited_in_turn` and `waits_for_slowest` of `not_concurrent` have in common: turns of a loop that
could go on at once, of which the source says so, and that do not. Pure."""

from __future__ import annotations

from typing import ClassVar, Self

import msgspec

from poolscope.aggregation.turns import TurnLine
from poolscope.messages import Line
from poolscope.model import IN_TURN, Advice, Severity
from poolscope.rules.wording import at, counted, percent, seconds

PATTERN = IN_TURN
SEVERITY: Severity = "info"
#: In multiples of `sustain_seconds`: for less time than this, and in fewer turns, nothing is said.
SUSTAINS = 5
TURNS_NEEDED = 5
#: A row with more than this at once, on average, or a quarter of what it could, is concurrent.
ONE_AT_A_TIME = 1.1
_QUARTER = 4
TIMES = "\N{MULTIPLICATION SIGN}"
#: In place of what is waited for: several statements in a row, which are never the verdict.
ROW = "row"
#: So much of the time nothing else was under way in the loop. Else it is a note, and only where tasks spend so much of
#: their time there.
ALONE = 0.9
MOST = 0.5
#: So many at once go on beside each other; and where so many times as many were seen, they come and go.
SEVERAL = 1.5
COME_AND_GO = 3
#: Where every look finds another turn, there were more of them than were seen.
_ALL_NEW = 0.7
#: The tasks of a pool are its turns where they ran for about as long as was waited for them.
_SAME_TIME = (0.6, 1.4)


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """Whose lines they are: `kind` "pool", "loop" or "program"; of a pool how many workers there may be, what it has
    finished, in how much time (s), and in what time it had any task (s; from, until: ns)."""

    kind: str
    name: str = ""
    workers: int = 0
    finished: int = 0
    busy_seconds: float = 0.0
    occupied_seconds: float = 0.0
    since_ns: int = 0
    until_ns: int = 0
    #: How many of its tasks were chunks of `map`, and how many items were in them.
    chunks: int = 0
    items: int = 0
    #: For how long threads and tasks of it were seen to wait (s).
    waited_seconds: float = 0.0
    #: How many pools of processes of that name were made.
    process_pools: int = 0

    @property
    def enough(self) -> float:
        """How much at once counts as concurrent."""
        return max(ONE_AT_A_TIME, self.workers / _QUARTER)


def side_by_side(line: TurnLine) -> bool:
    """Whether the same few tasks go through a loop beside each other: workers that share the items are as many at once
    as the program wants, while requests come and go."""
    return line.at_once >= SEVERAL and line.who < COME_AND_GO * line.at_once


class InTurnCause(msgspec.Struct, frozen=True, kw_only=True):
    """Turns of a loop: how many, how long they took (s), and what the source says of them."""

    cause: ClassVar[str]
    action: ClassVar[str]
    gates: ClassVar[tuple[str, ...]]

    row: Row
    line: Line
    below: Line | None
    gate: str
    call: str
    shared: str
    turns: int
    seconds: float
    #: More turns than were seen.
    at_least: bool
    others: float
    #: Of the time that the row's threads and tasks wait.
    share: float
    tasks: int
    #: It may be the verdict; else a note.
    alone: bool

    @classmethod
    def match(cls, line: TurnLine, row: Row, sustain_seconds: float) -> Self | None:
        """Match by what was seen of a line."""
        waited = line.waited_ns / 1e9
        if line.gate not in cls.gates or waited < SUSTAINS * sustain_seconds or line.turns < TURNS_NEEDED:
            return None
        alone = cls._alone(line, row)
        share = waited / row.waited_seconds if row.waited_seconds else 0.0
        if alone is None or (not alone and (row.kind != "loop" or share < MOST or side_by_side(line))):
            return None
        turns, length, at_least = line.turns, waited, line.turns >= _ALL_NEW * line.samples
        low, high = _SAME_TIME
        if row.kind == "pool" and row.finished >= turns and low * waited <= row.busy_seconds <= high * waited:
            turns, length, at_least = row.finished, row.busy_seconds, False
        return cls(
            row=row,
            line=line.line,
            below=line.below.most_common(1)[0][0] if line.below else None,
            gate=line.gate,
            call=line.call,
            shared=line.shared,
            turns=turns,
            seconds=length,
            at_least=at_least,
            others=line.mean_others,
            share=share,
            tasks=line.who,
            alone=alone and not line.shared,
        )

    @classmethod
    def _alone(cls, line: TurnLine, row: Row) -> bool | None:
        """Whether hardly anything else was under way; None: so much that nothing is said."""
        raise NotImplementedError

    @property
    def lines(self) -> tuple[Line, ...]:
        """The line in the loop, and the innermost one of the user's below it."""
        return (self.line, *([] if self.below is None or self.below == self.line else [self.below]))

    @property
    def each_seconds(self) -> float:
        """How long a turn takes."""
        return self.seconds / self.turns

    @property
    def arithmetic(self) -> str:
        """`40 x 0.2 s one after another; together about 0.2 s`."""
        if self.at_least:
            return (
                f"at least {self.turns:,} of them, each shorter than {seconds(self.each_seconds)}, took "
                f"{seconds(self.seconds)} one after another"
            )
        together = self.each_seconds
        if self.row.workers:
            together *= -(-self.turns // self.row.workers)
            how = f" on its {self.row.workers} workers" if self.turns > self.row.workers else ""
        else:
            how = ""
        each = seconds(self.each_seconds)
        return f"{self.turns:,} {TIMES} {each} one after another; together about {seconds(together)}{how}"

    def evidence(self) -> dict[str, float]:
        """Return the numbers that it rests on."""
        numbers = {
            "turns": float(self.turns),
            "turn_seconds": self.each_seconds,
            "waited_seconds": self.seconds,
            "tasks_besides": self.others,
            "share": self.share,
        }
        if self.row.workers:
            numbers["max_workers"] = float(self.row.workers)
        return numbers

    def sentence(self) -> str:
        """Say what goes on one after the other, and where."""
        raise NotImplementedError

    def advice(self) -> Advice:
        """Advise what to do about it."""
        raise NotImplementedError

    @property
    def place(self) -> str:
        """Where it waits, with a blank before it."""
        return at([self.line])

    @property
    def mostly(self) -> str:
        """How many tasks wait there, and for how much of their time, where others go on beside them."""
        whose = "its" if self.tasks == 1 else "their"
        return f"{counted(self.tasks, 'task')} spent {percent(self.share)} of {whose} waiting"

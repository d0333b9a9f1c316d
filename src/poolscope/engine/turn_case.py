"""What one process waits for in turn: from its samples to lines of rows, and from these to findings.

Pure but for the source, which is read through what is passed in. Not thread-safe: the engine's owner guards it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import msgspec

from poolscope.aggregation.turns import TurnLine, Turns
from poolscope.engine.finding_builder import SourceOf
from poolscope.messages import Line, Turn, TurnSample
from poolscope.model import Finding, Frame
from poolscope.rules.awaited_in_turn import AwaitedInTurn
from poolscope.rules.in_turn import PATTERN, ROW, SEVERITY, SUSTAINS, InTurnCause, Row
from poolscope.rules.one_chunk import CAUSE as CHUNK
from poolscope.rules.one_chunk import OneChunk
from poolscope.rules.waits_for_slowest import MadeAnew, WaitsForSlowest
from poolscope.signals.in_turn import InRow, InTurn, Told
from poolscope.snapshot import FindingCount

#: Says what the source says of a line and what is waited for there.
TurnOf = Callable[[Line, str], InTurn | InRow | Told]
#: Returns the lines of the row that a turn belongs to; None if it belongs to none.
TurnsOf = Callable[[Turn], Turns | None]

#: The most time (ns) that a sample represents, however late it comes.
MOST_NS = 500_000_000
CAUSES: tuple[type[InTurnCause], ...] = (AwaitedInTurn, WaitsForSlowest)
#: Findings of one row.
FINDINGS_KEPT = 10


class TurnCase:
    """The samples of one process."""

    def __init__(self, turn_of: TurnOf) -> None:
        self._turn_of = turn_of
        self._last_ns: int | None = None
        #: For how long a task, an await or a child thread was under way.
        self.under_way_ns = 0

    def note(self, sample: TurnSample, turns_of: TurnsOf) -> None:
        """Take in what threads and tasks wait for at one moment."""
        gap_ns = 0 if self._last_ns is None else min(MOST_NS, sample.at_ns - self._last_ns)
        self._last_ns = sample.at_ns
        if gap_ns <= 0:
            return
        self.under_way_ns += gap_ns
        for turn in _beside_each_other(sample.turns):
            turns = turns_of(turn)
            if turns is not None:
                turns.wait(turn.lines[-1] if turn.lines else None, gap_ns)
                self._add(turns, turn, sample.at_ns, gap_ns)

    def _add(self, turns: Turns, turn: Turn, at_ns: int, gap_ns: int) -> None:
        """Add to the innermost line that is in a loop, if the source says that its turns could go on at once; else to
        the innermost statements in a row that could."""
        row: tuple[int, InRow] | None = None
        for level in range(min(len(turn.lines), len(turn.turns)) - 1, -1, -1):
            read = self._turn_of(turn.lines[level], turn.gate)
            if isinstance(read, InRow):
                row = row or (level, read)
            elif isinstance(read, InTurn):
                self._add_turn(turns, turn, level, read, at_ns, gap_ns)
                return
            elif read is Told.NOTHING:
                break
        if row is not None:
            self._add_row(turns, turn, *row, at_ns, gap_ns)

    @staticmethod
    def _add_turn(turns: Turns, turn: Turn, level: int, read: InTurn, at_ns: int, gap_ns: int) -> None:
        known = turns.line(turn.lines[level], turn.gate, read.call, read.shared, at_ns)
        if known is not None:
            below = turn.lines[-1] if level < len(turn.lines) - 1 else None
            number = turn.turns[level]
            known.add(at_ns, gap_ns, who=turn.who, turn=number, others=turn.others, below=below)

    @staticmethod
    def _add_row(turns: Turns, turn: Turn, level: int, read: InRow, at_ns: int, gap_ns: int) -> None:
        file, _, function = turn.lines[level]
        known = turns.line((file, read.first, function), ROW, ", ".join(read.calls), "", at_ns)
        if known is not None:
            # Each call of the function is a turn.
            number = turn.turns[level - 1] if level else turn.who
            known.add(at_ns, gap_ns, who=turn.who, turn=number, others=turn.others, below=None)


def _beside_each_other(turns: Sequence[Turn]) -> Iterator[Turn]:
    """Give the turns, those of event loops with the loops of other threads that wait at one of their lines as others:
    where each handler of a server runs a loop, these go on beside each other."""
    loops: dict[Line, set[int]] = {}
    for turn in turns:
        for line in turn.lines if turn.loop else ():
            loops.setdefault(line, set()).add(turn.loop)
    for turn in turns:
        others = {loop for line in turn.lines for loop in loops.get(line, ())} - {turn.loop}
        yield msgspec.structs.replace(turn, others=turn.others + len(others)) if turn.loop and others else turn


class TurnFindings:
    """The lines of a row, and the findings that they make."""

    def __init__(self, *, origin_ns: int, source_of: SourceOf, sustain_seconds: float) -> None:
        """`origin_ns` is the origin of the findings' times."""
        self.turns = Turns()
        self._origin_ns = origin_ns
        self._source_of = source_of
        self._sustain_seconds = sustain_seconds

    def _found(self, row: Row) -> Iterator[tuple[TurnLine, InTurnCause]]:
        row = msgspec.structs.replace(row, waited_seconds=self.turns.waited_ns / 1e9)
        for line in sorted(self.turns.lines.values(), key=lambda line: -line.waited_ns):
            for cause in CAUSES:
                if (found := cause.match(line, row, self._sustain_seconds)) is not None:
                    yield line, found

    def findings(self, row: Row) -> list[Finding]:
        """Return a note for each line, the most time first."""
        found = []
        if (chunk := self._one_chunk(row)) is not None:
            lines = () if chunk.line is None else (chunk.line,)
            found.append(self._finding(chunk, CHUNK, row.since_ns, row.until_ns, lines))
        if (anew := self._made_anew(row)) is not None:
            return [*found, self._finding(anew, WaitsForSlowest.cause, row.since_ns, row.until_ns, anew.lines)]
        for line, cause in self._found(row):
            found.append(self._finding(cause, cause.cause, line.first_ns, line.last_ns, cause.lines))
        return found[:FINDINGS_KEPT]

    def counts(self, row: Row, pid: int, now_ns: int) -> list[FindingCount]:
        """For a scrape. A finding lasts until its line was not seen for as long as it takes to be one."""
        since: dict[str, list[int]] = {}
        for line, cause in self._found(row):
            since.setdefault(cause.cause, []).append(line.last_ns)
        lasts_ns = SUSTAINS * self._sustain_seconds * 1e9
        return [
            FindingCount(
                kind=row.kind,
                name=row.name or row.kind,
                pid=pid,
                pattern=PATTERN,
                cause=cause,
                severity=SEVERITY,
                active=now_ns - max(seen) < lasts_ns,
                total=len(seen),
                since_ns=self._origin_ns,
            )
            for cause, seen in since.items()
        ]

    def covered_ns(self, row: Row) -> int:
        """Return for how long findings that may be the verdict were seen."""
        if self._one_chunk(row) is not None:
            return round(row.occupied_seconds * 1e9)
        if self._made_anew(row) is not None:
            return self.turns.waited_ns
        return sum(line.waited_ns for line, found in self._found(row) if found.alone)

    def _one_chunk(self, row: Row) -> OneChunk | None:
        return OneChunk.match(row, self.turns.most_waiting, self._sustain_seconds) if row.items else None

    def _made_anew(self, row: Row) -> MadeAnew | None:
        row = msgspec.structs.replace(row, waited_seconds=self.turns.waited_ns / 1e9)
        longest_first = sorted(self.turns.lines.values(), key=lambda line: -line.waited_ns)
        lines = tuple(line.line for line in longest_first if line.gate in WaitsForSlowest.gates)
        return MadeAnew.match(row, lines, self._sustain_seconds)

    def _finding(
        self, what: InTurnCause | OneChunk | MadeAnew, cause: str, first_ns: int, last_ns: int, lines: Sequence[Line]
    ) -> Finding:
        frames = tuple(Frame(file, number, function, self._source_of(file, number)) for file, number, function in lines)
        return Finding(
            pattern=PATTERN,
            cause=cause,
            severity=SEVERITY,
            since_seconds=max(0.0, (first_ns - self._origin_ns) / 1e9),
            until_seconds=(last_ns - self._origin_ns) / 1e9,
            detected_after_seconds=min(SUSTAINS * self._sustain_seconds, (last_ns - first_ns) / 1e9),
            summary=what.sentence(),
            evidence=what.evidence(),
            frames=frames,
            advice=what.advice(),
        )

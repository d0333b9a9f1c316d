"""Cause `waits_for_slowest` of `not_concurrent`: rounds of work, each of which waits for the slowest of its round."""

from __future__ import annotations

from typing import ClassVar

import msgspec

from poolscope.aggregation.turns import TurnLine
from poolscope.messages import Line
from poolscope.model import Advice
from poolscope.rules.in_turn import SUSTAINS, TURNS_NEEDED, InTurnCause, Row
from poolscope.rules.wording import at, seconds, workers

#: While pools of processes are waited for, tasks run for less than this part of the time: they mostly start and end.
STARTING_SHARE = 0.5
#: A round of fewer waits for one thing only.
_SEVERAL = 2


class WaitsForSlowest(InTurnCause, frozen=True, kw_only=True):
    """Most of the time only the last of a round is left."""

    cause: ClassVar[str] = "waits_for_slowest"
    action: ClassVar[str] = "one_pool"
    gates: ClassVar[tuple[str, ...]] = ("batch", "end")

    @classmethod
    def _alone(cls, line: TurnLine, row: Row) -> bool | None:
        """By how much of a round is left on average, of what there was at its begin. In a loop, what waits for the
        round is one of its tasks; of a pool's, the one that is seen is another one."""
        most, mean = line.most_others, line.mean_others
        if row.kind == "pool":
            most, mean = most + 1, mean + 1
        # By what there was, and not by the workers that there may be: a small round that is over at once is none.
        if most < _SEVERAL or mean > Row(kind=row.kind, workers=most).enough:
            return None
        return True

    def sentence(self) -> str:
        """Say what the rounds wait for, and where."""
        subject = f"Pool {self.row.name!r}" if self.row.kind == "pool" else f"Event loop {self.row.name!r}"
        at_once = 1 + self.others if self.row.kind == "pool" else self.others
        return (
            f"{subject} works in rounds{self.place}, each of which waits for its slowest task: in {self.seconds:.1f} s "
            f"of waiting about {at_once:.1f} tasks went on at once."
        )

    def advice(self) -> Advice:
        """Advise one pool for all."""
        text = (
            "Give all of the work to one pool, and take the results as they come (as_completed), so that the next task "
            "starts when one ends: in asyncio, all tasks behind one semaphore in place of rounds."
        )
        if self.shared:
            text = f"If {self.shared} can go on with several rounds at once: {text[0].lower()}{text[1:]}"
        return Advice(self.action, text)


class MadeAnew(msgspec.Struct, frozen=True):
    """Pools of processes that are made and closed in a loop, and mostly start and end."""

    row: Row
    lines: tuple[Line, ...]

    @classmethod
    def match(cls, row: Row, lines: tuple[Line, ...], sustain_seconds: float) -> MadeAnew | None:
        """Match by how little is done while they are waited for. `lines` are those in a loop at which they are."""
        enough = row.process_pools >= TURNS_NEEDED and row.finished >= TURNS_NEEDED and row.workers > 1
        if not enough or not lines or row.waited_seconds < SUSTAINS * sustain_seconds:
            return None
        if row.busy_seconds > STARTING_SHARE * row.waited_seconds:
            return None
        return cls(row, lines)

    def sentence(self) -> str:
        """Say how many there were, and how little they did."""
        row = self.row
        return (
            f"Pool {row.name!r} was made anew {row.process_pools} times{at([self.lines[0]])}: in "
            f"{row.waited_seconds:.1f} s in which it was waited for, its {workers(row.workers)} worked for "
            f"{seconds(row.busy_seconds)} in all; most of the rest they start, import and end."
        )

    def advice(self) -> Advice:
        """Advise to make it once."""
        return Advice(
            WaitsForSlowest.action,
            "Make the pool once, before the loop, and give it all of the work: each new pool starts its processes, and "
            "where these are not forked, each of them imports the program's modules again.",
        )

    def evidence(self) -> dict[str, float]:
        """Return the numbers that it rests on."""
        return {
            "pools": float(self.row.process_pools),
            "waited_seconds": self.row.waited_seconds,
            "busy_seconds": self.row.busy_seconds,
            "max_workers": float(self.row.workers),
        }

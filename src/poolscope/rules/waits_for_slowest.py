"""Cause `waits_for_slowest` of `not_concurrent`: rounds of work, each of which waits for the slowest of its round."""

from __future__ import annotations

from typing import ClassVar

from poolscope.aggregation.turns import TurnLine
from poolscope.model import Advice
from poolscope.rules.in_turn import InTurnCause, Row

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

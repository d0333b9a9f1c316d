"""Cause `awaited_in_turn` of `not_concurrent`: each result is waited for before the next one is asked for."""

from __future__ import annotations

from typing import ClassVar

from poolscope.aggregation.turns import TurnLine
from poolscope.model import Advice
from poolscope.rules.in_turn import ALONE, ROW, InTurnCause, Row

_ADVICE = {
    "await": "Start them together and then use the results, which stay in order: asyncio.gather, or a TaskGroup. Where "
    "there are very many, a semaphore bounds how many go on at once.",
    "future": "Submit all of them first and collect the results after that, or use map: the results stay in order.",
    "thread": "Start all threads before the first one is joined, or give the work to the map of a ThreadPoolExecutor.",
    "process": "Start all processes before the first one is joined, or give the work to the map of a "
    "ProcessPoolExecutor.",
}
_ROW = (
    "Await them together, as in a, b = await asyncio.gather(first(), second()), where none of them relies on what "
    "another one does."
)
_WHAT = {"thread": "thread is started and joined", "process": "process is started and joined"}


class AwaitedInTurn(InTurnCause, frozen=True, kw_only=True):
    """One thing at a time, though none needs what came before it."""

    cause: ClassVar[str] = "awaited_in_turn"
    action: ClassVar[str] = "overlap"
    gates: ClassVar[tuple[str, ...]] = (*_ADVICE, ROW)

    @classmethod
    def _alone(cls, line: TurnLine, row: Row) -> bool | None:
        """Of a pool, by how many of its tasks ran; of a loop, by how long it had no other task."""
        if row.kind == "pool":
            return True if row.workers > 1 and 1 + line.mean_others <= row.enough else None
        return line.gate != ROW and line.alone_ns >= ALONE * line.waited_ns

    def sentence(self) -> str:
        """Say what goes on one after the other, and where."""
        if self.row.kind == "pool":
            return (
                f"Pool {self.row.name!r} had about {1 + self.others:.0f} of its {self.row.workers} workers at work: "
                f"each result is waited for{self.place} before the next task is submitted, {self.arithmetic}."
            )
        if self.gate in _WHAT:
            return f"Each {_WHAT[self.gate]}{self.place} before the next one, {self.arithmetic}."
        name = f"event loop {self.row.name!r}"
        if self.gate == ROW:
            return (
                f"In {name} {self.mostly}{self.place.replace(' at ', ' from ')} on, where one after another is awaited "
                f"and none uses what came before: {self.call}."
            )
        if self.alone or self.others < 1:
            return f"{name[0].upper()}{name[1:]} had one thing to wait for at a time{self.place}: {self.arithmetic}."
        return f"In {name} {self.mostly} in a loop{self.place} that waits for one thing at a time: {self.arithmetic}."

    def advice(self) -> Advice:
        """Advise to overlap them."""
        text = _ADVICE.get(self.gate, _ROW)
        if self.shared:
            text = f"If {self.shared} can do several things at once: {text[0].lower()}{text[1:]}"
        return Advice(self.action, text)

"""Cause `one_chunk` of `not_concurrent`: a `map` has put all items into chunks for one or a few workers. Pure."""

from __future__ import annotations

import msgspec

from poolscope.messages import Line
from poolscope.model import Advice
from poolscope.rules.in_turn import SUSTAINS, TURNS_NEEDED, Row
from poolscope.rules.wording import at, counted, seconds

CAUSE = "one_chunk"
#: So much of what the pool does are chunks.
NEARLY_ALL = 0.9
#: What spreads items well: so many chunks for each worker, as `multiprocessing` makes them.
_CHUNKS_EACH = 4


class OneChunk(msgspec.Struct, frozen=True):
    """Items that one worker works off while the others have nothing to do."""

    row: Row
    line: Line | None

    @classmethod
    def match(cls, row: Row, line: Line | None, sustain_seconds: float) -> OneChunk | None:
        """Match by the items in a chunk, and how many chunks went on at once. `line` is where their results are waited
        for, if that was seen."""
        enough = row.workers > 1 and row.items >= TURNS_NEEDED and row.items >= row.workers
        if not enough or row.occupied_seconds < SUSTAINS * sustain_seconds:
            return None
        # With more chunks than workers, something else keeps the workers from their work.
        together = row.chunks < min(row.workers, row.items) and row.chunks >= NEARLY_ALL * row.finished
        if not together or row.busy_seconds > row.enough * row.occupied_seconds:
            return None
        return cls(row, line)

    @property
    def size(self) -> int:
        """How many items a chunk should have."""
        return max(1, self.row.items // (_CHUNKS_EACH * self.row.workers))

    def sentence(self) -> str:
        """Say how many chunks there were for how many workers."""
        row = self.row
        at_once = row.busy_seconds / row.occupied_seconds
        return (
            f"Pool {row.name!r} got {row.items:,} items in {counted(row.chunks, 'chunk')}"
            f"{at([self.line] if self.line else [])}, so that about {at_once:.0f} of its {row.workers} workers was at "
            f"work: {seconds(row.busy_seconds)} one after another; spread over all of them about "
            f"{seconds(row.busy_seconds / row.workers)}."
        )

    def advice(self) -> Advice:
        """Advise smaller chunks."""
        return Advice(
            "smaller_chunks",
            f"Leave chunksize out, or make it about {self.size}: it is how many items one worker gets at a time, and "
            "each worker needs several such chunks.",
        )

    def evidence(self) -> dict[str, float]:
        """Return the numbers that it rests on."""
        row = self.row
        return {
            "items": float(row.items),
            "chunks": float(row.chunks),
            "concurrency": row.busy_seconds / row.occupied_seconds,
            "busy_seconds": row.busy_seconds,
            "max_workers": float(row.workers),
        }

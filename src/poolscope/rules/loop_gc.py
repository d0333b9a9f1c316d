"""Cause `gc`: garbage collection stopped the loop's thread."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from poolscope.messages import Line, LoopBlock
from poolscope.rules.loop_cause import MOST, NEARLY_ALL, LoopCause
from poolscope.signals.loop_evidence import BlockSignals


class Gc(LoopCause, frozen=True):
    """Without the collections the callback would not have blocked the loop."""

    name: ClassVar[str] = "gc"
    why: ClassVar[str] = "garbage collection held it"
    fills: ClassVar[str] = "garbage collection takes it"
    text: ClassVar[str] = "Fewer objects in cycles, or gc.freeze() after start-up, shorten collections."
    harmless: ClassVar[bool] = True

    @classmethod
    def match(cls, signals: BlockSignals) -> bool:
        """Match where collections took nearly all of the time, or the rest is too short for a block."""
        share = signals.evidence.gc
        return share >= MOST and (share >= NEARLY_ALL or not signals.blocks(1 - share))

    @classmethod
    def blamed(cls, _block: LoopBlock) -> Sequence[Line]:
        """Blame no line: a collection comes wherever an object is made."""
        return ()

"""Cause `gil_contention`: other threads held the interpreter's lock."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from poolscope.messages import Line, LoopBlock
from poolscope.rules.loop_cause import MOST, LoopCause, others_compute, slowed_down
from poolscope.signals.loop_evidence import BlockSignals


class GilContention(LoopCause, frozen=True):
    """The loop's thread woke up now and then, but other threads had the GIL."""

    name: ClassVar[str] = "gil_contention"
    why: ClassVar[str] = "other threads held the interpreter's lock (GIL)"
    fills: ClassVar[str] = "other threads hold the interpreter's lock (GIL)"
    action: ClassVar[str] = "use_process_pool"
    text: ClassVar[str] = "The threads at this line keep the GIL from the loop: move their computing to processes."

    @classmethod
    def match(cls, signals: BlockSignals) -> bool:
        """Match where other threads computed, unless the kernel shows the loop's thread in another call."""
        e = signals.evidence
        if not e.gil or e.cpu is None or e.held >= MOST or slowed_down(signals):
            return False
        return others_compute(signals) and e.call_seen <= e.futex_seen

    @classmethod
    def blamed(cls, block: LoopBlock) -> Sequence[Line]:
        """Blame the line that the other threads computed at."""
        return block.busy_lines

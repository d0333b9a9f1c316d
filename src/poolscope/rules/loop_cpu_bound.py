"""Cause `cpu_bound` of a loop: its thread computed."""

from __future__ import annotations

from typing import ClassVar

from poolscope.rules.loop_cause import LOOK, MOST, LoopCause, computed_anywhere, others_compute, slowed_down
from poolscope.signals.loop_evidence import BlockSignals


class LoopComputes(LoopCause, frozen=True):
    """A callback used the CPU."""

    name: ClassVar[str] = "cpu_bound"
    why: ClassVar[str] = "computing held it"
    fills: ClassVar[str] = "computing fills it"
    action: ClassVar[str] = "use_process_pool"
    text: ClassVar[str] = "Move the computing to a process: loop.run_in_executor() with a ProcessPoolExecutor."
    startup_text: ClassVar[str | None] = LOOK

    @classmethod
    def match(cls, signals: BlockSignals) -> bool:
        """Match where the loop's thread was on a CPU for most of the time that it could have been."""
        e = signals.evidence
        if e.cpu is None:
            return False
        if e.held >= MOST:
            # One call kept the GIL. If it got less than a whole core, other programs had the rest.
            return signals.blocks(e.cpu)
        if slowed_down(signals):
            return computed_anywhere(signals)
        if e.cpu >= MOST * (1 - min(e.late, MOST)) * (1 - signals.delay):
            return True
        # The thread was mostly ready to run, and something that is not measured slowed it down.
        return signals.ready > signals.waits and not others_compute(signals) and computed_anywhere(signals)

"""Cause `host_descheduled`: the process did not get a CPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from poolscope.messages import Line, LoopBlock
from poolscope.rules.loop_cause import MOST, NEARLY_ALL, LoopCause, computed_anywhere, slowed_down
from poolscope.signals.loop_evidence import LITTLE, BlockSignals


class HostDescheduled(LoopCause, frozen=True):
    """The process was not running, for lack of quota or because it was stopped, or it was ready but on no CPU."""

    name: ClassVar[str] = "host_descheduled"
    why: ClassVar[str] = "the process did not get a CPU"
    fills: ClassVar[str] = "the process gets too little CPU"
    text: ClassVar[str] = "No line is to blame: the machine or its quota gave the process too little CPU."
    harmless: ClassVar[bool] = True

    @classmethod
    def match(cls, signals: BlockSignals) -> bool:
        """Match where our thread was late though it did not wait for the GIL, or the loop's thread was ready and had no
        CPU, while no thread of this process used the CPUs instead."""
        e = signals.evidence
        if e.late >= MOST and signals.used < MOST:
            return True
        if e.cpu is None:
            return False
        if e.held >= MOST:
            return _lost_its_cpu(signals)
        if not slowed_down(signals):
            return False
        return not computed_anywhere(signals) and signals.used < NEARLY_ALL

    @classmethod
    def blamed(cls, _block: LoopBlock) -> Sequence[Line]:
        """Blame no line."""
        return ()


def _lost_its_cpu(signals: BlockSignals) -> bool:
    """Whether a call that kept the GIL computed for less than a block takes, and its thread is not known to have slept.

    On a CPU of its own it would have been over before.
    """
    cpu, delay = signals.evidence.cpu or 0.0, signals.evidence.delay
    return cpu >= LITTLE and not signals.blocks(cpu) and (delay is None or delay >= LITTLE)

"""Cause `unknown` of a loop: nothing was established."""

from __future__ import annotations

from typing import ClassVar

from poolscope.rules.loop_cause import LoopCause
from poolscope.signals.loop_evidence import BlockSignals


class LoopUnknown(LoopCause, frozen=True):
    """No cause is established."""

    name: ClassVar[str] = "unknown"
    why: ClassVar[str] = "why is not established"
    fills: ClassVar[str] = "with what is not established"

    @classmethod
    def match(cls, _signals: BlockSignals) -> bool:
        """Match always."""
        return True

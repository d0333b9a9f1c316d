"""Cause `many_callbacks` of a loop without rest: no single line takes most of its time."""

from __future__ import annotations

from typing import ClassVar

from poolscope.rules.loop_cause import LoopCause
from poolscope.signals.loop_evidence import BlockSignals


class ManyCallbacks(LoopCause, frozen=True):
    """Short callbacks that add up."""

    name: ClassVar[str] = "many_callbacks"
    why: ClassVar[str] = "many callbacks held it"
    fills: ClassVar[str] = "many short callbacks fill it"
    action: ClassVar[str] = "do_less"
    text: ClassVar[str] = (
        "Do less in this loop: fewer and larger steps (read or send in larger pieces, one call for many items), fewer "
        "tasks at a time, or several processes with a loop each."
    )

    @classmethod
    def match(cls, _signals: BlockSignals) -> bool:
        """Match a loop that computes, where `loop_full` finds no single line."""
        return True

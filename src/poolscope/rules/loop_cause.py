"""The base of the causes of an event loop's blocks: a condition, half a sentence and an advice. Pure.

A cause reads `messages.BlockEvidence`, which holds what was measured of the loop's thread. It is tried only if no cause
before it in the table (`loop_causes`) was established.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import msgspec

from poolscope.messages import Line, LoopBlock
from poolscope.signals.loop_evidence import LITTLE, BlockSignals

LOOK = "Look at the line shown."

#: Most of the time, or most of a core.
MOST = 0.5
NEARLY_ALL = 0.8


class LoopCause(msgspec.Struct, frozen=True):
    """Why a loop did not get on."""

    name: ClassVar[str]
    #: Its half of the sentence.
    why: ClassVar[str]
    #: The same for a loop without rest that no single callback blocked.
    fills: ClassVar[str]
    action: ClassVar[str] = "none"
    text: ClassVar[str] = LOOK
    #: The advice for something that happens once, as the program starts; None: the same.
    startup_text: ClassVar[str | None] = None
    #: Whether the program can do nothing about it: then the finding only informs.
    harmless: ClassVar[bool] = False

    @classmethod
    def match(cls, signals: BlockSignals) -> bool:
        """Whether this cause is established, given that none before it was."""
        raise NotImplementedError

    @classmethod
    def blamed(cls, block: LoopBlock) -> Sequence[Line]:
        """Return the lines to blame, the user's first."""
        return block.lines


def slowed_down(signals: BlockSignals) -> bool:
    """Whether the loop's thread was mostly ready to run, on a machine with too few CPUs."""
    return signals.delay >= MOST


def others_compute(signals: BlockSignals) -> bool:
    """Whether other threads used most of a core, or kept the GIL on a machine that is too busy to give them one.

    On such a machine they do not use a whole core, but our thread had to wait for the GIL too.
    """
    e = signals.evidence
    kept = e.waited >= MOST and signals.explains(e.other) and e.other >= 4 * (e.cpu or 0.0)
    return e.other >= MOST or kept


def computed_anywhere(signals: BlockSignals) -> bool:
    """Whether the loop's thread computed for so long that it would have been a block on any machine."""
    cpu = signals.evidence.cpu or 0.0
    return cpu >= LITTLE and signals.blocks(cpu)


def asleep(signals: BlockSignals) -> bool:
    """Whether the loop's thread slept in one call: most of the time it did not even wake up to ask for the GIL."""
    return signals.evidence.still >= MOST and signals.ready <= signals.waits

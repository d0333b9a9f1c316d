"""What a cause of an event loop's blocks is: what establishes it, its half of the sentence, and its advice. Pure.

What is known of the loop's thread is told by `messages.BlockEvidence`; a cause is tried only where none before it in
the table (`loop_causes`) was established.
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
    #: The same where no single callback blocked it, and it had no rest.
    fills: ClassVar[str]
    action: ClassVar[str] = "none"
    text: ClassVar[str] = LOOK
    #: The text where it happens only once, as the program starts; None: the same.
    startup_text: ClassVar[str | None] = None
    #: Whether the program can do nothing about it, so that it only informs.
    harmless: ClassVar[bool] = False

    @classmethod
    def match(cls, signals: BlockSignals) -> bool:
        """Whether this cause is established, where none before it was."""
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

    There they do not burn a core; but our thread had to wait for the GIL as well.
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

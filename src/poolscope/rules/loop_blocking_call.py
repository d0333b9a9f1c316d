"""Cause `blocking_call`: a callback slept, or waited for something in a call that is not awaited."""

from __future__ import annotations

from typing import ClassVar

from poolscope.rules.loop_cause import LOOK, MOST, LoopCause, asleep, others_compute, slowed_down
from poolscope.signals.loop_evidence import LITTLE, BlockSignals

#: This many answers of the kernel are more than chance.
SEEN_OFTEN = 2
#: A thread that uses less of a core does next to nothing but wait.
HARDLY = 0.1


class BlockingCall(LoopCause, frozen=True):
    """A callback waited off the CPU."""

    name: ClassVar[str] = "blocking_call"
    why: ClassVar[str] = "a blocking call held it"
    fills: ClassVar[str] = "short calls that wait fill it"
    action: ClassVar[str] = "await_instead"
    text: ClassVar[str] = (
        "Await an asynchronous equivalent there (asyncio.sleep, an async client), or run the call in "
        "asyncio.to_thread()."
    )
    startup_text: ClassVar[str | None] = LOOK

    @classmethod
    def match(cls, signals: BlockSignals) -> bool:
        """Match where the loop's thread slept in one call or in many, and nothing else explains it."""
        e = signals.evidence
        if e.cpu is None:
            # No thread computed, so the loop did not either.
            return signals.used < LITTLE
        if e.held >= MOST:
            return True
        if slowed_down(signals) or signals.starts_thread:
            return False  # the started thread waits for a CPU or the GIL, and the loop waits for that thread
        if asleep(signals):
            return True
        if others_compute(signals):
            # A call seen once may be one of many short ones in a callback that waits for the GIL after each.
            return e.call_seen > e.futex_seen and e.call_seen >= SEEN_OFTEN
        if signals.ready > signals.waits:
            return False
        # The thread slept and woke up often, and the CPU that others used does not explain it: short calls, if those
        # are most, and if the kernel, where it was asked, has not seen it elsewhere. Of a thread that computes too it
        # has to be known that it did not lack a CPU.
        known = e.delay is not None or e.call_seen > 0 or e.cpu < HARDLY
        return known and signals.slept >= MOST and e.call_seen >= e.futex_seen + signals.ready

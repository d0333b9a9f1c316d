"""Pattern `loop_blocked`: callbacks of one line kept an event loop from all others. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import msgspec

from poolscope.model import Advice, Frame, Severity
from poolscope.rules.loop_blocking_call import BlockingCall
from poolscope.rules.loop_calls import Call, blocking_call, computing_call
from poolscope.rules.loop_cause import LoopCause
from poolscope.rules.loop_causes import BY_NAME
from poolscope.rules.loop_cpu_bound import LoopComputes
from poolscope.rules.wording import place, seconds
from poolscope.signals.loop_signals import LoopLineSignals

#: One block this long, or this share of the loop's time, makes a loop's finding a warning
#: (docs/concepts.md#event-loops).
LONG_BLOCK_SECONDS = 1.0
BLOCKED_SHARE = 0.02
#: While the program runs, a share may warn only after the loop has run this long: a slow start-up is no fault of the
#: service.
SHARE_AFTER_SECONDS = 5.0


class LoopBlocked(msgspec.Struct, frozen=True):
    """All blocks of one line together."""

    name: ClassVar[str] = "loop_blocked"

    signals: LoopLineSignals
    why: type[LoopCause]
    severity: Severity

    @classmethod
    def match(cls, signals: LoopLineSignals, *, final: bool) -> LoopBlocked:
        """Match always. `final`: the loop's whole time is known."""
        why = BY_NAME[signals.cause]
        # A server that loads its application inside its loop does so once, before anything can wait for it.
        # Or the end of a loop, after which nothing runs in it.
        harmless = why.harmless or signals.startup or signals.ending
        shared = signals.share >= BLOCKED_SHARE and (final or signals.loop_seconds >= SHARE_AFTER_SECONDS)
        warns = not harmless and (signals.longest_seconds >= LONG_BLOCK_SECONDS or shared)
        return cls(signals, why, "warning" if warns else "info")

    @property
    def pattern(self) -> str:
        """The pattern's name."""
        return self.name

    @property
    def cause(self) -> str:
        """The cause's name."""
        return self.why.name

    @property
    def action(self) -> str:
        """What to do, in a word (docs/concepts.md#causes)."""
        return "none" if self.passing else self.why.action

    @property
    def passing(self) -> bool:
        """Whether the blocks belong to the start or the end of the program."""
        return self.signals.startup or self.signals.ending

    def _call(self, frames: Sequence[Frame]) -> Call | None:
        """Return the kind of call that blocked the loop, if it is recognised."""
        if self.why is BlockingCall:
            return blocking_call(frames, self.signals.gate)
        return computing_call(frames, self.signals.gil_held) if self.why is LoopComputes else None

    def sentence(self, loop: str, frames: Sequence[Frame]) -> str:
        """Say in one sentence how often and for how long, why, and where. `loop` is its kind and name."""
        signals, call = self.signals, self._call(frames)
        times = "once" if signals.blocks == 1 else f"{signals.blocks} times"
        why = self.why.why if call is None else call.why
        others = "every other task waited" if signals.tasks > 1 else "nothing else could run in it"
        return (
            f"{loop} was blocked {times}, {seconds(signals.blocked_seconds)} in all (longest "
            f"{seconds(signals.longest_seconds)}): {why}{place(frames)}, and {others}."
        )

    def advice(self, frames: Sequence[Frame]) -> Advice:
        """Advise the one thing to do; it depends on what the line calls, where that is recognised."""
        if self.action == "none":
            return Advice("none", self.why.startup_text or self.why.text)
        call = self._call(frames)
        return Advice(self.why.action, self.why.text) if call is None else Advice(call.action, call.text)

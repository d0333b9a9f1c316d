"""Pattern `loop_full`: no callback blocked an event loop, and yet it had no rest. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import msgspec

from poolscope.model import Advice, Frame, Severity
from poolscope.rules.loop_blocking_call import BlockingCall
from poolscope.rules.loop_calls import blocking_call, computing_call
from poolscope.rules.loop_cause import LoopCause
from poolscope.rules.loop_cpu_bound import LoopComputes
from poolscope.rules.loop_gil_contention import GilContention
from poolscope.rules.loop_host_descheduled import HostDescheduled
from poolscope.rules.loop_many_callbacks import ManyCallbacks
from poolscope.rules.loop_unknown import LoopUnknown
from poolscope.rules.wording import percent, place, seconds
from poolscope.signals.loop_evidence import LITTLE
from poolscope.signals.loop_load import LoadSignals, Share

#: A loop has no rest from this part of its time in callbacks on, over so many times `sustain_seconds`.
FULL_SHARE = 0.9
SUSTAINS = 5
#: Or if it is this many times as late as at rest, and later than this (s).
LATER = 20.0
LATE_SECONDS = 0.01
#: Time in blocks is reported as blocks.
BLOCKED_SHARE = 0.5
#: Or this part of it, where the heaviest line is one that blocks: it is told of already.
TOLD_SHARE = 0.2
#: A line that takes most of the time is the one to change; otherwise there is too much of everything.
ONE_LINE = 0.5
#: A loop whose callbacks take long is found in them for most of the time.
INSIDE_SHARE = 0.5
COMPUTES = (
    "Do this once and keep what it makes, if each call makes the same; else move it to a process: "
    "loop.run_in_executor() with a ProcessPoolExecutor."
)

#: In order of precedence.
_CAUSES: tuple[type[LoopCause], ...] = (HostDescheduled, LoopComputes, BlockingCall, GilContention, LoopUnknown)


class LoopFull(msgspec.Struct, frozen=True):
    """An event loop without rest."""

    name: ClassVar[str] = "loop_full"

    signals: LoadSignals
    why: type[LoopCause]

    @classmethod
    def match(cls, signals: LoadSignals | None) -> LoopFull | None:
        """Match where more than one task was there, and the loop had no rest or was far later than with rest."""
        if signals is None or signals.tasks < 2 or signals.blocked_share > BLOCKED_SHARE:
            return None
        full = signals.share >= FULL_SHARE or _is_late(signals, signals.lag_p50_seconds)
        why = _cause(signals)
        own = signals.own_share >= FULL_SHARE or _is_late(signals, signals.own_lag_p50_seconds)
        if why not in (GilContention, HostDescheduled) and not own:
            why, full = HostDescheduled, full and signals.block.delay >= LITTLE
        found = cls(signals, why)
        return found if full and not found._is_told else None

    @property
    def pattern(self) -> str:
        """The pattern's name."""
        return self.name

    @property
    def cause(self) -> str:
        """The cause's name."""
        return self.why.name

    @property
    def severity(self) -> Severity:
        """`info` where the program can do nothing about it."""
        return "info" if self.why.harmless else "warning"

    @property
    def _is_told(self) -> bool:
        """Whether the blocks of the line that takes most of the time say the same."""
        if not self.lines or self.signals.blocked_share < TOLD_SHARE:
            return False
        heaviest, share = self.lines[0]
        return share >= ONE_LINE and heaviest[0] in self.signals.blocking

    @property
    def lines(self) -> tuple[Share, ...]:
        """The lines to blame with their shares of the observed time, the heaviest first."""
        if self.why is HostDescheduled:
            return ()
        return self.signals.busy if self.why is GilContention else self.signals.lines

    def sentence(self, loop: str, frames: Sequence[Frame]) -> str:
        """Say in one sentence how long it had no rest, how late it was, and what took the time. `loop` is its kind and
        name."""
        signals = self.signals
        lag = signals.lag_p50_seconds
        late = f" and runs what is due {seconds(lag)} late" if lag is not None and lag >= LATE_SECONDS else ""
        share = frames[0].share if frames else None
        part = f", {percent(share)} of what was seen" if share is not None else ""
        return (
            f"{loop} has no rest: it is in callbacks for {percent(signals.share)} of its time{late}, though none "
            f"blocks it alone: {self.why.fills}{place(frames)}{part}."
        )

    def advice(self, frames: Sequence[Frame]) -> Advice:
        """Advise the one thing to do; it depends on what the line calls, where that is recognised."""
        if self.why is BlockingCall:
            call = blocking_call(frames, "")
            return Advice(self.why.action, self.why.text) if call is None else Advice(call.action, call.text)
        if self.why is LoopComputes:
            if (call := computing_call(frames, self.signals.block.evidence.held)) is not None:
                return Advice(call.action, call.text)
            return Advice(self.why.action, COMPUTES)
        return Advice(self.why.action, self.why.text)


def _is_late(signals: LoadSignals, lag: float | None) -> bool:
    """Whether this lag (s) is far longer than at rest."""
    rest = signals.rest_lag_seconds
    return lag is not None and rest is not None and lag > LATE_SECONDS and lag >= LATER * rest


def _cause(signals: LoadSignals) -> type[LoopCause]:
    found = next(cause for cause in _CAUSES if cause.match(signals.block))
    if found is not LoopComputes:
        return found
    # One line that computes can be moved elsewhere; of short callbacks there are too many, at whatever line they are.
    one = bool(signals.lines) and signals.lines[0][1] >= ONE_LINE
    return LoopComputes if one and signals.inside_share >= INSIDE_SHARE else ManyCallbacks

"""What a rule finds: a pattern (what is wrong) or a cause (why), with its words. Pure: no clock, no thread, no I/O.

A rule is a class. Its `match` looks at the signals once and returns what it found, or None. The instance carries
everything that was decided, so that sentence, advice, frames and evidence only read it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar, Self

import msgspec

from poolscope.messages import Line
from poolscope.model import Advice, Frame, Severity, Thresholds
from poolscope.rules import wording
from poolscope.signals.handover import Places
from poolscope.signals.pool_signals import PoolSignals
from poolscope.signals.sizing import BatchCurve, Sizing, SplitSizes

#: Patterns whose cause is about the size of the pool and the work in it.
FULL = ("batch", "serial", "async_then_serial", "burst")


class Criteria(msgspec.Struct, frozen=True):
    """What a pool is judged by: its settings, and whether a finding lasts."""

    thresholds: Thresholds = Thresholds()
    #: One worker on purpose: no `single_worker` warning.
    ordered: bool = False
    #: A limit on purpose: its findings are notes.
    intended: bool = False
    #: Consumers that hold their workers: no `stuck_workers` and no `stalled`.
    long_running: bool = False
    #: A finding lasts already. It ends at a lower threshold than the one at which it began.
    raised: bool = False


class Scene(msgspec.Struct, frozen=True, kw_only=True):
    """What the words about a pool name beside the reason. Seconds count from the start of the program."""

    pool: str
    since_seconds: float
    kind: str = ""
    frames: Sequence[Frame] = ()
    #: Gives the name of a function, if it is known.
    name_of: Callable[[int], str | None] = lambda _: None
    sustain_seconds: float = 1.0
    #: The result of a replay: the pool's size, or the sizes of two pools in its place.
    sizing: Sizing | None = None
    split: SplitSizes | None = None
    #: How long a batch takes on other sizes.
    batch: BatchCurve | None = None

    @property
    def since(self) -> str:
        """When it began, in words."""
        return wording.moment(self.since_seconds)

    @property
    def place(self) -> str:
        """The line at which most workers are, with a blank before it; empty if nothing is known."""
        return wording.place(self.frames)


class Reason(msgspec.Struct, frozen=True, kw_only=True):
    """What a rule found, and the signals in which it found it."""

    name: ClassVar[str]
    #: The numbers of the evidence that come first.
    telling: ClassVar[tuple[str, ...]] = ()

    signals: PoolSignals


class Pattern(Reason, frozen=True, kw_only=True):
    """What is wrong with a pool."""

    severity: ClassVar[Severity] = "warning"

    @classmethod
    def match(cls, signals: PoolSignals, criteria: Criteria) -> Self | None:
        """Return what was found, or None."""
        raise NotImplementedError

    def sentence(self, scene: Scene, cause: Cause) -> str:
        """Say in one sentence what happened, since when, why, and where."""
        raise NotImplementedError

    def accepts(self, _cause: Cause) -> bool:
        """Whether the pattern applies with the cause that was found for it. If not, the next pattern is tried."""
        return True

    @property
    def advises(self) -> bool:
        """Whether there is something to do: then the cause advises it."""
        return True

    def advice(self, scene: Scene, cause: Cause) -> Advice:
        """Advise the one thing to do."""
        return cause.advice(scene)

    @property
    def workers(self) -> frozenset[int] | None:
        """The workers whose lines matter; None: all of them."""
        return None

    @property
    def without_workers(self) -> bool:
        """Whether the pool has no worker left."""
        return False


class Cause(Reason, frozen=True, kw_only=True):
    """Why a pool is as its pattern says."""

    #: The patterns that it can cause.
    patterns: ClassVar[tuple[str, ...]] = FULL
    #: Whether the size of the pool is what is wrong.
    about_size: ClassVar[bool] = False
    #: Whether it only holds because no other cause was seen: more samples may show one.
    by_exclusion: ClassVar[bool] = False
    #: Whether it explains anything at all.
    established: ClassVar[bool] = True

    action: str = "none"

    @classmethod
    def match(cls, signals: PoolSignals, pattern: Pattern) -> Self | None:
        """Return what was found, or None."""
        raise NotImplementedError

    @property
    def sized(self) -> bool:
        """Whether a number of workers would help."""
        return self.about_size

    @property
    def behind(self) -> bool:
        """Whether it points at what has a finding of its own by then, which is to be told first."""
        return False

    @property
    def harmless(self) -> bool:
        """Whether nothing is wrong: such a finding only informs."""
        return False

    @property
    def waiting(self) -> tuple[Line, ...]:
        """Lines that come first among the frames, however few workers are there."""
        return ()

    @property
    def places(self) -> Places | None:
        """Return lines to show instead of those of the workers; None: show those."""
        return None

    def head(self, _scene: Scene) -> str | None:
        """Return how the sentence begins; None: as the pattern begins it."""
        return None

    def sentence(self, _scene: Scene) -> str:
        """Say why, as the second half of a sentence; empty where the pattern says it all."""
        return ""

    def advice(self, scene: Scene) -> Advice:
        """Advise the one thing to do."""
        raise NotImplementedError


class Diagnosis(msgspec.Struct, frozen=True):
    """What is wrong and why."""

    what: Pattern
    why: Cause
    #: The settings say that it is to be so, or nothing suffers from it.
    intended: bool = False

    @property
    def pattern(self) -> str:
        """The pattern's name."""
        return self.what.name

    @property
    def cause(self) -> str:
        """The cause's name."""
        return self.why.name

    @property
    def severity(self) -> Severity:
        """The pattern's severity, or `info` if the cause is harmless. A critical finding stays critical though it is
        wanted."""
        wanted = self.intended and self.what.severity == "warning"
        return "info" if self.why.harmless or wanted else self.what.severity

    @property
    def action(self) -> str:
        """What to do, in a word (docs/concepts.md#causes)."""
        return self.why.action if self.what.advises else "none"

    @property
    def telling(self) -> tuple[str, ...]:
        """The numbers of the evidence that say most, those of the cause first."""
        return (*self.why.telling, *self.what.telling)

    @property
    def sized(self) -> bool:
        """Whether the size of the pool is the problem, so that a number would help."""
        return self.why.sized and self.what.advises

    @property
    def signals(self) -> PoolSignals:
        """The numbers that the diagnosis rests on."""
        return self.what.signals

    def sentence(self, scene: Scene) -> str:
        """Say in one sentence what happened, since when, why, and where."""
        return self.what.sentence(scene, self.why)

    def advice(self, scene: Scene) -> Advice:
        """Advise the one thing to do, with a number only where the size of the pool is the problem."""
        return self.what.advice(scene, self.why)

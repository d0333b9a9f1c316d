"""Cause `results_not_taken`: finished work waits for callbacks, or for a consumer that is slower than the pool."""

from __future__ import annotations

from typing import ClassVar

from poolscope.model import Advice
from poolscope.rules.reason import Cause, Pattern, Scene
from poolscope.rules.wording import costs, percent, seconds, workers
from poolscope.signals.handover import Places
from poolscope.signals.pool_signals import PoolSignals

#: Most of the workers' time.
WORKERS_SHARE = 0.5
#: A single thread that takes results keeps up as long as it rests now and then; fetching takes some of its time.
THREAD_SHARE = 0.85
#: At least this many results wait; with fewer the consumer is about as fast as the pool.
BEHIND_SHARE = 0.1


class ResultsNotTaken(Cause, frozen=True, kw_only=True):
    """The consumer of the results is slow: more workers would only wait for it too."""

    name: ClassVar[str] = "results_not_taken"

    action: str = "speed_up_consumer"
    #: What is slow: the "workers" in callbacks, the "thread" of the pool that takes results, or their "consumer".
    slow: str
    share: float
    lines: Places

    @classmethod
    def match(cls, signals: PoolSignals, _pattern: Pattern) -> ResultsNotTaken | None:
        """Match by the lines at which the workers, the thread that takes results, and their consumer were seen."""
        seen = signals.between
        if seen is None:
            return None
        received = seen.receiver_callback_share
        if seen.callback_share >= WORKERS_SHARE:
            slow, share, lines = "workers", seen.callback_share, seen.callback_places
        elif received is not None and received >= THREAD_SHARE:
            slow, share, lines = "thread", received, seen.receiver_places
        elif seen.untaken_share >= THREAD_SHARE and seen.untaken > max(
            signals.max_workers, BEHIND_SHARE * signals.finished
        ):
            slow, share, lines = "consumer", seen.untaken_share, seen.taker_places
        else:
            return None
        return cls(signals=signals, slow=slow, share=min(1.0, share), lines=lines)

    @property
    def places(self) -> Places:
        """Return the lines of what is slow."""
        return self.lines

    def sentence(self, scene: Scene) -> str:
        """Say what takes the time after tasks have ended."""
        share, seen = percent(self.share), self.signals.between
        if self.slow == "workers":
            its = f"its {workers(self.signals.max_workers)} spend {share} of their time in callbacks of finished tasks"
            return f"{its}{scene.place}, and {costs(self.signals)}"
        if self.slow == "thread":
            its = f"the one thread that takes its results spends {share} of its time in callbacks{scene.place}"
            delay = None if seen is None else seen.return_seconds
            waits = f", and a result waits {seconds(delay)} for it" if delay is not None else ""
            return f"{its}{waits}; {costs(self.signals)}"
        waiting = 0 if seen is None else seen.untaken
        return (
            f"what takes its results is slower than the workers, and was busy{scene.place} in {share} of the samples "
            f"while {waiting} results wait for it"
        )

    def advice(self, scene: Scene) -> Advice:
        """Advise to speed up what takes the results."""
        if self.slow == "consumer":
            return Advice(
                self.action,
                f"More workers in {scene.pool!r} would end nothing sooner, and only pile results up: make what is done "
                f"with each result faster{scene.place}, do it in the tasks, or bound what is submitted at a time.",
            )
        return Advice(
            self.action,
            f"More workers in {scene.pool!r} would not help: make the callback{scene.place} faster, do its work in the "
            "task, or hand it to a thread or pool of its own.",
        )

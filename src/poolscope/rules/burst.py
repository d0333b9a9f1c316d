"""Pattern `burst`: saturation that was short, or no more than random load brings."""

from __future__ import annotations

from typing import ClassVar

from poolscope.model import Advice, Severity
from poolscope.rules.reason import Cause, Criteria, Pattern, Scene
from poolscope.rules.sustained import amplified, by_no_chance, prefetched
from poolscope.rules.wording import are, counted, seconds, subject
from poolscope.signals.pool_signals import PoolSignals

#: What is shorter than this is no wait.
NO_WAIT_SECONDS = 1e-6

#: How a reason begins that holds for every burst of a pool, and one that holds for the longest only.
_TOO_SHORT, _IN_THE_LONGEST = "too short for a finding", "in the longest of them, "
#: Separates the sums of a sentence from its reason.
_END_OF_SUMS = "): "


class Burst(Pattern, frozen=True, kw_only=True):
    """Saturation in which no other rule finds anything. One note counts all bursts of a pool."""

    name: ClassVar[str] = "burst"
    telling: ClassVar[tuple[str, ...]] = ("bursts", "saturated_seconds", "longest_seconds", "wait_p50_seconds")
    severity: ClassVar[Severity] = "info"

    #: Whether the waits were long enough for a finding, so that only their likelihood rules one out.
    amplified: bool
    #: Whether at most one queued task was kept ready for each worker.
    prefetched: bool = False
    #: Why it is no more than a note, as the second half of a sentence.
    reason: str

    @classmethod
    def match(cls, signals: PoolSignals, criteria: Criteria) -> Burst:
        """Match always."""
        return cls(
            signals=signals,
            amplified=amplified(signals, criteria),
            prefetched=prefetched(signals),
            reason=_reason(signals, criteria),
        )

    def sentence(self, scene: Scene, _cause: Cause) -> str:
        """Say this of a single burst."""
        lasted = self.signals.stretch_seconds
        return together(scene.kind, scene.pool, 1, lasted, lasted, self.reason)


def _reason(signals: PoolSignals, criteria: Criteria) -> str:
    """Say why it is no finding, and how long tasks waited, where that may be long."""
    least = criteria.thresholds.sustain_seconds
    if signals.stretch_seconds < least:
        return short(least)
    wait, run, longest = signals.wait_p50_seconds, signals.run_p50_seconds, signals.wait_max_seconds
    if wait is None or run is None:
        finished = f"only {counted(signals.finished, 'task')}" if signals.finished else "no task"
        told = longest is not None and not (signals.queue_depth and longest <= signals.oldest_queued_seconds)
        waited = f"; the longest wait was {seconds(longest)}" if told else ""
        return f"{finished} finished in that time, too few to judge by{waited}{_queued(signals)}"
    most = f" (the longest wait: {seconds(longest)})" if longest is not None and longest > wait else ""
    waits = f"{_usual_wait(signals, wait)}{most} for {seconds(run)} of their own work"
    if not amplified(signals, criteria):
        return f"{waits}, less than makes a finding{_queued(signals)}"
    if prefetched(signals):
        return f"{waits}, and no more tasks were queued than are kept ready, one for each worker"
    if not by_no_chance(signals):
        return f"{waits}, as happens now and then where tasks come at random"
    on_purpose = signals.max_workers == 1 and criteria.ordered
    return f"{waits}, in order on purpose, as the settings say (ordered: true)" if on_purpose else waits


def _usual_wait(signals: PoolSignals, wait: float) -> str:
    """Return how long (s) tasks waited: on average where those that wait are overtaken, else half of them or more."""
    if signals.overtaken:
        return f"the tasks waited {seconds(wait)} on average"
    if wait < NO_WAIT_SECONDS:
        return "half of the tasks or more came in without a wait"
    return f"half of the tasks waited {seconds(wait)} or less"


def _queued(signals: PoolSignals) -> str:
    count, oldest = signals.queue_depth, signals.oldest_queued_seconds
    if not count:
        return ""
    return f"; {counted(count, 'task')} {are(count)} still queued, the oldest for {seconds(oldest)}"


def short(sustain_seconds: float) -> str:
    """Return the reason that a burst is shorter than a finding has to be (s)."""
    return f"{_TOO_SHORT}, which takes {seconds(sustain_seconds)} on end"


def together(kind: str, pool: str, count: int, longest: float, total: float, reason: str) -> str:
    """Say in one sentence how many bursts there were, how long (s), and why the longest is no more than a note."""
    sums = f"once ({seconds(total)}"
    if count > 1:
        sums = f"{count:,} times, {seconds(total)} in all (longest {seconds(longest)}"
    if count > 1 and not reason.startswith((_TOO_SHORT, _IN_THE_LONGEST)):
        reason = f"{_IN_THE_LONGEST}{reason}"
    return f"{subject(kind, pool)} was full with tasks queued {sums}{_END_OF_SUMS}{reason}."


def reason_of(sentence: str) -> str:
    """Return the reason in a sentence of `together`."""
    return sentence.rpartition(_END_OF_SUMS)[2].removesuffix(".")


def advice(longest: PoolSignals, sustain_seconds: float) -> Advice:
    """Advise nothing; but where nothing came back in the longest burst, and it lasted, do not call that harmless."""
    if longest.finished or longest.stretch_seconds < sustain_seconds:
        return Advice("none", "Nothing needs doing.")
    where = "what holds it" if longest.limit is not None else "what its workers were in"
    return Advice("none", f"If that is not wanted, see {where}: nothing came back in that time.")

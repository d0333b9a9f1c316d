"""What is said of one pool of one instance. Pure: no clock, no thread, no I/O."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import msgspec

from poolscope.fleet.drawn import Point
from poolscope.fleet.readings import GAP_INTERVALS, Reading, Stretch
from poolscope.fleet.samples import PoolKey
from poolscope.model import Advice, Finding, Severity
from poolscope.rules.wording import counted, seconds

#: More of the time than this without scrapes, or fewer tasks done, is not seen to be healthy.
GAPS_SHARE = 0.1
LEAST_DONE = 20


class Knee(msgspec.Struct, frozen=True, order=True):
    """When it began: after the first of these times, by the second (s). None: before it was seen."""

    after: float | None
    by: float

    @classmethod
    def of(cls, reading: Reading, first: int) -> Knee:
        """Return the interval before a scrape."""
        return cls(reading.at[first - 1] if first else None, reading.at[first])

    def text(self, show: Callable[[float], str]) -> str:
        """Say it, to follow `since` or `at`."""
        return f"before {show(self.by)}" if self.after is None else f"{show(self.after)} to {show(self.by)}"


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """A finding, health, or too little to judge by. Times are seconds since the epoch."""

    key: PoolKey
    title: str
    tier: str
    state: Literal["finding", "healthy", "insufficient"]
    #: Why there is too little.
    why: str = ""
    pattern: str = ""
    cause: str = ""
    severity: Severity = "info"
    knee: Knee | None = None
    #: The last scrape at which it was so, and the next one; None: it lasts, or was not scraped any more.
    last: float = 0.0
    until: float | None = None
    lasting: bool = False
    summary: str = ""
    evidence: dict[str, float] = {}
    advice: Advice = Advice("none", "")
    #: Its samples for a picture, where pictures are wanted.
    drawn: tuple[Point, ...] = ()

    @property
    def seconds(self) -> float:
        """For how long it was seen."""
        return self.last - self.knee.by if self.knee is not None else 0.0

    def as_finding(self) -> Finding:
        """Return it as reports have findings, its times as seconds since the epoch."""
        return Finding(
            pattern=self.pattern,
            cause=self.cause,
            severity=self.severity,
            since_seconds=self.knee.by if self.knee is not None else 0.0,
            until_seconds=None if self.lasting else self.last,
            detected_after_seconds=0.0,
            summary=self.summary,
            evidence=self.evidence,
            frames=(),
            advice=self.advice,
        )


def too_little(key: PoolKey, reading: Reading, why: str) -> Verdict:
    """Return that there is too little to judge by."""
    return Verdict(key=key, title=reading.mapping.title, tier=reading.mapping.tier, state="insufficient", why=why)


def healthy(key: PoolKey, reading: Reading) -> Verdict:
    """Return the healthy verdict where enough was seen for it."""
    span = reading.at[-1] - reading.at[0]
    missing = sum(end - begin for begin, end in reading.gaps)
    if missing > GAPS_SHARE * span:
        return too_little(key, reading, f"not scraped for {seconds(missing)} of {seconds(span)}")
    done = reading.done.total[-1] if reading.done is not None else None
    if done is not None and done < LEAST_DONE:
        return too_little(key, reading, f"{counted(round(done), 'task')} done")
    if done is None and not any(value > 0 for value in reading.active or ()):
        return too_little(key, reading, "nothing ran at any scrape")
    return Verdict(key=key, title=reading.mapping.title, tier=reading.mapping.tier, state="healthy")


def finding(
    key: PoolKey,
    reading: Reading,
    stretch: Stretch,
    end: float,
    *,
    pattern: str,
    cause: str,
    severity: Severity,
    summary: str,
    evidence: dict[str, float],
    advice: Advice,
) -> Verdict:
    """Return what was found of a pool over a stretch; `end` is that of the time that is looked at."""
    last = reading.at[stretch.last]
    is_last = stretch.last == len(reading.at) - 1
    return Verdict(
        key=key,
        title=reading.mapping.title,
        tier=reading.mapping.tier,
        state="finding",
        pattern=pattern,
        cause=cause,
        severity=severity,
        knee=Knee.of(reading, stretch.began),
        last=last,
        until=None if is_last else reading.at[stretch.last + 1],
        lasting=is_last and end - last <= GAP_INTERVALS * reading.interval,
        summary=summary,
        evidence=evidence,
        advice=advice,
    )

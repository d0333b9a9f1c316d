"""Pools whose metrics do not settle whether they are sick: those without a queue, and those without a limit.

Pure: no clock, no thread, no I/O.
"""

from __future__ import annotations

from collections.abc import Callable

from poolscope.fleet.readings import STRETCH_SCRAPES, Reading, Stretch, stretches
from poolscope.fleet.samples import PoolKey
from poolscope.fleet.verdicts import Knee, Verdict, finding, healthy
from poolscope.model import Advice


def full(key: PoolKey, reading: Reading, end: float, show: Callable[[float], str]) -> Verdict:
    """Judge a pool whose queue is not known: it may be full, which is no fault in itself."""
    found = [each for each in stretches(reading.full(), reading.breaks) if each.scrapes >= STRETCH_SCRAPES]
    if not found:
        return healthy(key, reading)
    longest = max(found, key=lambda each: each.scrapes)
    limit = reading.mean(reading.limit, longest.first, longest.last) or 0.0
    what = "its queue holds tasks that are not due" if reading.is_delay_queue else "how many wait is in no metric"
    knee = Knee.of(reading, longest.first)
    return finding(
        key,
        reading,
        longest,
        end,
        pattern="full",
        cause="unknown",
        severity="info",
        summary=(
            f"Pool {key.name!r} has all of its {limit:.0f} workers busy since {knee.text(show)}: whether tasks "
            f"wait is not known, as {what}."
        ),
        evidence={"workers": limit, "scrapes": float(longest.scrapes), **_rates(reading, longest)},
        advice=Advice("none", f"If its tasks are late: {_lower(reading.mapping.words.size, key)}."),
    )


def _lower(text: str, key: PoolKey) -> str:
    told = text.replace("{pool}", repr(key.name))
    return told[:1].lower() + told[1:]


def waiting(key: PoolKey, reading: Reading, end: float, show: Callable[[float], str]) -> Verdict:
    """Judge a pool whose limit is not known: something may wait, and it is not known for what."""
    flags = [value >= 1 for value in reading.queued or ()]
    found = [each for each in stretches(flags, reading.breaks) if each.scrapes >= STRETCH_SCRAPES]
    if not found:
        return healthy(key, reading)
    longest = max(found, key=lambda each: each.scrapes)
    knee = Knee.of(reading, longest.first)
    depth = reading.mean(reading.queued, longest.first, longest.last) or 0.0
    return finding(
        key,
        reading,
        longest,
        end,
        pattern="queued",
        cause="unknown",
        severity="info",
        summary=(
            f"{depth:.1f} tasks of {key.name!r} wait on average since {knee.text(show)}: whether it is full is "
            "not known, as its limit is in no metric."
        ),
        evidence={"queue_mean": depth, "scrapes": float(longest.scrapes), **_rates(reading, longest)},
        advice=Advice("none", f"{reading.mapping.words.look.replace('{pool}', repr(key.name))}."),
    )


def _rates(reading: Reading, stretch: Stretch) -> dict[str, float]:
    rate, run = (
        reading.throughput(stretch.first, stretch.last),
        reading.run_seconds(stretch.first, stretch.last),
    )
    found = {"throughput_per_second": rate, "run_seconds": run}
    return {name: value for name, value in found.items() if value is not None}

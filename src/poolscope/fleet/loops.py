"""An event loop judged from samples: how late it was at most between two scrapes, and how much of its time it worked.

Pure: no clock, no thread, no I/O.
"""

from __future__ import annotations

from collections.abc import Callable

from poolscope.fleet.readings import STRETCH_SCRAPES, Counter, Reading, Stretch, stretches
from poolscope.fleet.sampled import CPU_FULL_SHARE
from poolscope.fleet.samples import PoolKey
from poolscope.fleet.verdicts import Knee, Verdict, finding, too_little
from poolscope.model import Advice, Severity
from poolscope.rules.loop_blocked import BLOCKED_SHARE, LONG_BLOCK_SECONDS
from poolscope.rules.loop_full import FULL_SHARE
from poolscope.rules.wording import counted, percent, seconds

#: How late a loop may be without it being a block, and in how many scrapes it has to be later (s).
LATE_SECONDS = 0.1
LATE_SCRAPES = 2
#: What the histograms of Node.js hold at rest: the period of their sampling (s).
PERIOD_SECONDS = 0.01
#: Scrapes after a start that show how a program begins.
STARTING_SCRAPES = 2
#: Of the lateness, what garbage collection takes where it is the cause; and CPU time, less of which did not compute.
COLLECTED_SHARE = 0.5
COMPUTED_SHARE = 0.5

_HARMLESS = ("gc",)
_WHY = {
    "gc": "the runtime collected garbage",
    "blocking_call": "it used too little CPU to have computed, so a call blocked it",
    "cpu_bound": "it computed all of that time",
    "unknown": "whether a call blocked it or it computed is not known",
}

#: Gives the cores that the process used from one time to another, None if that is not known.
Cores = Callable[[float, float], float | None]


def judge_loop(key: PoolKey, reading: Reading, cores: Cores, end: float, show: Callable[[float], str]) -> Verdict:
    """Return the verdict on a loop; `cores` gives what its process used."""
    late = _late(reading)
    work = reading.active or reading.gauge("utilization")
    if late is None and work is None:
        return too_little(key, reading, "neither lateness nor utilization")
    busy = [value >= FULL_SHARE for value in work] if work is not None else _computing(reading, cores)
    full = max(stretches(busy, reading.breaks), key=lambda each: each.scrapes, default=None)
    if full is not None and full.scrapes >= STRETCH_SCRAPES:
        return _loop_full(key, reading, full, cores, end, show)
    return _blocked(key, reading, late or [], cores, end, show)


def _late(reading: Reading) -> list[float] | None:
    """Return how late it was at most before each scrape, less what is measured at rest; 0 while it starts."""
    lag = reading.gauge("lag")
    if lag is None:
        return None
    rest = PERIOD_SECONDS if "holds_period" in reading.mapping.traps else 0.0
    late = [max(0.0, value - rest) if value == value else 0.0 for value in lag]
    for begin in (0, *reading.breaks):
        for at in range(begin, min(begin + STARTING_SCRAPES, len(late))):
            late[at] = 0.0
    return late


def _computing(reading: Reading, cores: Cores) -> list[bool]:
    """Whether its process used a whole core, scrape by scrape."""
    found = [False]
    for at in range(1, len(reading.at)):
        used = cores(reading.at[at - 1], reading.at[at])
        found.append(used is not None and used >= CPU_FULL_SHARE)
    return found


def _blocked(
    key: PoolKey, reading: Reading, late: list[float], cores: Cores, end: float, show: Callable[[float], str]
) -> Verdict:
    found = [at for at, value in enumerate(late) if value >= LATE_SECONDS]
    longest = max(late, default=0.0)
    if len(found) < LATE_SCRAPES and longest < LONG_BLOCK_SECONDS:
        return Verdict(key=key, title=reading.mapping.title, tier=reading.mapping.tier, state="healthy")
    stretch, total = Stretch(found[0], found[-1]), sum(late[at] for at in found)
    cause = _cause(reading, found, late, cores)
    share = total / (reading.at[-1] - reading.at[0])
    warns = cause not in _HARMLESS and (longest >= LONG_BLOCK_SECONDS or share >= BLOCKED_SHARE)
    severity: Severity = "warning" if warns else "info"
    knee = Knee.of(reading, stretch.first)
    words = reading.mapping.words
    return finding(
        key,
        reading,
        stretch,
        end,
        pattern="loop_blocked",
        cause=cause,
        severity=severity,
        summary=(
            f"The {key.name} was blocked before {counted(len(found), 'scrape')} of {len(reading.at)} since "
            f"{knee.text(show)}, for {seconds(longest)} at the longest: {_WHY[cause]}, and every other callback waited."
        ),
        evidence={
            "scrapes": float(len(found)),
            "longest_seconds": longest,
            "blocked_share": share,
            "interval_seconds": reading.interval,
        },
        advice=Advice("none" if cause in _HARMLESS else "move_to_thread", f"{words.look}. {words.size}."),
    )


def _cause(reading: Reading, found: list[int], late: list[float], cores: Cores) -> str:
    """Return why, where what was used before those scrapes leaves one reason only."""
    total = sum(late[at] for at in found)
    collected = reading.values("collected")
    if collected is not None:
        counter = Counter(collected)
        if sum(counter.between(at - 1, at) for at in found) >= COLLECTED_SHARE * total:
            return "gc"
    used, span = 0.0, 0.0
    for at in found:
        begin, until = reading.at[at - 1], reading.at[at]
        rate = cores(begin, until)
        if rate is None:
            return "unknown"
        used, span = used + rate * (until - begin), span + until - begin
    if used < COMPUTED_SHARE * total:
        return "blocking_call"
    return "cpu_bound" if used >= CPU_FULL_SHARE * span else "unknown"


def _loop_full(
    key: PoolKey, reading: Reading, full: Stretch, cores: Cores, end: float, show: Callable[[float], str]
) -> Verdict:
    begin, until = reading.at[full.first], reading.at[full.last]
    used = cores(begin, until)
    share = reading.mean(reading.active or reading.gauge("utilization"), full.first, full.last)
    computes = used is not None and used >= CPU_FULL_SHARE
    knee, words = Knee.of(reading, full.first), reading.mapping.words
    at_work = percent(share if share is not None else min(1.0, used or 0.0))
    return finding(
        key,
        reading,
        full,
        end,
        pattern="loop_full",
        cause="cpu_bound" if computes else "unknown",
        severity="warning",
        summary=f"The {key.name} has no rest since {knee.text(show)}: it is at work for {at_work} of its time.",
        evidence={
            name: value
            for name, value in (("busy_share", share), ("process_cores_used", used), ("scrapes", float(full.scrapes)))
            if value is not None
        },
        advice=Advice("move_to_thread", f"{words.size}. {words.look}."),
    )

"""From the samples of a pool to what it was at each of them, the times of its saturation, and the numbers over a time.

All that samples cannot say is None: what happened between two scrapes shows only in counters. By Little's law
(L = lambda W) a mean queue q, a mean of active workers a and X tasks done per second give the mean wait q / X and the
mean run a / X. Pure: no clock, no thread, no I/O.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import pairwise
from statistics import median

import msgspec

from poolscope.config.mappings import Mapping
from poolscope.fleet.samples import Numbers, Samples

#: A distance of this many intervals is a gap: one scrape may come late, or be lost.
GAP_INTERVALS = 2.5
#: Java's Integer.MAX_VALUE: a queue without bound has room for that less what is in it.
UNBOUNDED = 2147483647.0
#: From this size on one worker may be missing, as gauges are read one after another.
LARGE_POOL = 10
#: Of a mean between two scrapes, what counts as all of it.
NEARLY = 0.98
#: Scrapes of a stretch, and the part of them that must be saturated (docs/fleet.md#how-it-judges).
STRETCH_SCRAPES = 4
SATURATED_SHARE = 0.9
#: Windows in which a run counts as unhindered: seconds, scrapes, and tasks done.
RUN_WINDOW_SECONDS = 300.0
RUN_WINDOW_SCRAPES = 4
RUN_TASKS = 20
#: For so long before the knee (s) it is looked at how the pool was.
BEFORE_SECONDS = 1800.0


class Stretch(msgspec.Struct, frozen=True):
    """Scrapes `first` to `last`, at nearly all of which the pool was saturated."""

    first: int
    last: int
    #: The first scrape of the stretch before a gap, if it was saturated on both sides of one; None: `first`.
    since: int | None = None

    @property
    def began(self) -> int:
        """The first scrape at which it is known to have been so, before what was not scraped."""
        return self.first if self.since is None else self.since

    @property
    def scrapes(self) -> int:
        """How many they are."""
        return self.last - self.first + 1


class Counter:
    """A counter as its growth since the first sample; a fall is a restart, and what it shows then has come since."""

    def __init__(self, values: Numbers[float]) -> None:
        self.total = array("d")
        self.restarts: list[int] = []
        grown, last = 0.0, None
        for at, value in enumerate(values):
            if value == value:
                if last is not None:
                    if value < last:
                        self.restarts.append(at)
                    grown += value if value < last else value - last
                last = value
            self.total.append(grown)

    def between(self, first: int, last: int) -> float:
        """By how much it grew from one sample to another."""
        return self.total[last] - self.total[first]


class Reading:
    """A pool at each of its scrapes, as its mapping has it. Not for several threads."""

    def __init__(self, samples: Samples, mapping: Mapping) -> None:
        self.at, self.mapping = samples.at, mapping
        self._roles = samples.roles
        self.interval = median(b - a for a, b in pairwise(self.at)) if len(self.at) > 1 else math.nan
        self.done = self._counter("done")
        self.waited = self._counter("waited")
        self.busy = self._counter("busy")
        self.waits, self.hits = self._counter("waits"), self._counter("hits")
        self.queued = self.gauge("queued") or self._mean(self.waited)
        self.active = self.gauge("active") or self._mean(self.busy)
        #: Whether these are means since the scrape before.
        self.means = "active" not in samples.roles
        self.size, self.core = self.gauge("size"), self.gauge("core")
        self.oldest, self.remaining = self.gauge("oldest"), self.gauge("remaining")
        self.is_delay_queue = "java_queue" in mapping.traps and self._delay_queue()
        if self.is_delay_queue:
            self.queued = None
        self.limit = self._limit()
        self.breaks = self._breaks()

    def _counter(self, role: str) -> Counter | None:
        values = self._roles.get(role)
        return Counter(values) if values is not None and any(v == v for v in values) else None

    def values(self, role: str) -> Numbers[float] | None:
        """Return the numbers of a role as they were sampled; None if there are none."""
        return self._roles.get(role)

    def gauge(self, role: str) -> Numbers[float] | None:
        """Return a gauge; below 0 stands for what is not there."""
        values = self._roles.get(role)
        if values is None:
            return None
        if min(values, default=0.0) < 0:
            values = array("d", [math.nan if value < 0 else value for value in values])
        return values if any(v == v for v in values) else None

    def _mean(self, counter: Counter | None) -> Numbers[float] | None:
        """Return how much of it there was on average since the scrape before, of a counter of seconds."""
        if counter is None:
            return None
        means = array("d", [0.0])
        means.extend(counter.between(i - 1, i) / (self.at[i] - self.at[i - 1]) for i in range(1, len(self.at)))
        return means

    def _delay_queue(self) -> bool:
        """Whether tasks are in the queue of which it has unlimited room all the same: that of a scheduler, which holds
        tasks that are not due."""
        queued, remaining = self._roles.get("queued"), self._roles.get("remaining")
        if queued is None or remaining is None:
            return False
        full = [room for count, room in zip(queued, remaining, strict=True) if count >= 1]
        return bool(full) and all(room == UNBOUNDED for room in full)

    def _limit(self) -> Numbers[float] | None:
        """Return how much can go on at once, NaN where that is not known."""
        limit = self.gauge("limit")
        if "java_queue" in self.mapping.traps:
            return self._java_limit(limit)
        if "zero_is_no_limit" in self.mapping.traps and limit is not None:
            return array("d", [value or math.nan for value in limit])
        return limit if limit is not None else self.size

    def _java_limit(self, limit: Numbers[float] | None) -> Numbers[float] | None:
        """Return that of a thread pool, which grows past its core only when its queue is full: if unbounded, never."""
        core, queued, remaining = self.core, self._roles.get("queued"), self._roles.get("remaining")
        if core is None or limit is None:
            return limit if core is None else core
        if self.is_delay_queue:
            return core
        if queued is None or remaining is None:
            return limit
        rows = zip(limit, core, queued, remaining, strict=True)
        return array("d", [c if q + room >= UNBOUNDED and c >= 1 else most for most, c, q, room in rows])

    def _breaks(self) -> frozenset[int]:
        """Return the samples before which something is missing: scrapes, or the process that was there."""
        found = set(self._anew)
        longest = GAP_INTERVALS * self.interval
        found.update(i for i in range(1, len(self.at)) if self.at[i] - self.at[i - 1] > longest)
        return frozenset(found)

    @property
    def restarts(self) -> int:
        """How often its process was started anew."""
        return len(self._anew)

    @property
    def _anew(self) -> set[int]:
        """The samples that are the first ones of a process after another one."""
        return {at for each in (self.done, self.waited, self.busy) if each is not None for at in each.restarts}

    @property
    def gaps(self) -> list[tuple[float, float]]:
        """Times without a scrape, from one to the next (s)."""
        longest = GAP_INTERVALS * self.interval
        return [(a, b) for a, b in pairwise(self.at) if b - a > longest]

    def full(self) -> list[bool]:
        """Whether no worker is idle and no more may be started, at each scrape."""
        active, limit = self.active, self.limit
        if active is None or limit is None:
            return [False] * len(self.at)
        size, core = self.size, self.core
        if "java_queue" in self.mapping.traps and size is not None and core is not None:
            return [a >= s >= c and s >= 1 for a, s, c in zip(map(_slack, active, size), size, core, strict=True)]
        if self.means:
            return [a >= NEARLY * c > 0 for a, c in zip(active, limit, strict=True)]
        return [_slack(a, c) >= c > 0 for a, c in zip(active, limit, strict=True)]

    def saturated(self) -> list[bool]:
        """Whether tasks wait besides, at each scrape."""
        queued, limit = self.queued, self.limit
        if queued is None or limit is None:
            return [False] * len(self.at)
        if "compensates" in self.mapping.traps:  # joins that wait are made up for by other workers
            return [full and q >= c for full, q, c in zip(self.full(), queued, limit, strict=True)]
        return [full and q >= 1 for full, q in zip(self.full(), queued, strict=True)]

    def saturations(self) -> list[Stretch]:
        """Return the times in which it is saturated; one goes on after a gap if its process does."""
        resumed = {end for _, end in self.gaps} - {self.at[at] for at in self._anew}
        found: list[Stretch] = []
        for each in stretches(self.saturated(), self.breaks):
            goes_on = found and found[-1].last == each.first - 1 and self.at[each.first] in resumed
            found.append(Stretch(each.first, each.last, found[-1].began) if goes_on else each)
        return found

    def mean(self, values: Sequence[float] | None, first: int, last: int) -> float | None:
        """Return the mean of a gauge over these scrapes; None where it has none."""
        there = [value for value in values[first : last + 1] if value == value] if values is not None else []
        return sum(there) / len(there) if there else None

    def throughput(self, first: int, last: int) -> float | None:
        """Tasks done per second from one scrape to another; None if they are not counted."""
        seconds = self.at[last] - self.at[first]
        return self.done.between(first, last) / seconds if self.done is not None and seconds > 0 else None

    def full_throughput(self, first: int, last: int) -> float | None:
        """Return the same while it is full, when all that is done has waited and is counted for that."""
        seconds = self.at[last] - self.at[first]
        counter = self.done or self.waits
        return counter.between(first, last) / seconds if counter is not None and seconds > 0 else None

    def run_seconds(self, first: int, last: int, done: float | None = None) -> float | None:
        """Mean run from one scrape to another: exact by counters, else by Little's law. `done`: of so many tasks."""
        if done is None:
            done = self.done.between(first, last) if self.done is not None else 0.0
        if done <= 0:
            return None
        if self.busy is not None and self.busy.between(first, last) > 0:
            return self.busy.between(first, last) / done
        active = self.mean(self.active, first, last)
        return active * (self.at[last] - self.at[first]) / done if active else None

    def back(self, at: int, seconds: float) -> int:
        """Return the first scrape of the time before this one, no further than a break."""
        first = bisect_left(self.at, self.at[at] - seconds)
        return max([first, *(each for each in self.breaks if each <= at)])

    def unhindered_run(self) -> float | None:
        """Median of the mean runs over windows in which hardly anything ran at once; None if there is none."""
        scrapes = max(RUN_WINDOW_SCRAPES, math.ceil(RUN_WINDOW_SECONDS / self.interval)) if self.interval > 0 else 0
        found = []
        for first in range(0, len(self.at) - scrapes, scrapes or 1):
            last = first + scrapes
            active, limit = self.mean(self.active, first, last), self.mean(self.limit, first, last)
            if active is None or limit is None or active > max(1.0, limit / 4) or self.done is None:
                continue
            if any(first < each <= last for each in self.breaks) or self.done.between(first, last) < RUN_TASKS:
                continue
            run = self.run_seconds(first, last)
            found += [run] if run is not None else []
        return median(found) if found else None


def _slack(active: float, limit: float) -> float:
    return active + 1 if limit >= LARGE_POOL else active


def stretches(flags: Sequence[bool], breaks: frozenset[int]) -> list[Stretch]:
    """Return the times in which nearly every scrape has the flag: one without it is bridged where so few are."""
    found: list[Stretch] = []
    count: list[int] = []
    for run in _runs(flags, breaks):
        if found and run.first - found[-1].last == 2 and run.first not in breaks and run.first - 1 not in breaks:
            whole = Stretch(found[-1].first, run.last)
            if count[-1] + run.scrapes >= SATURATED_SHARE * whole.scrapes:
                found[-1], count[-1] = whole, count[-1] + run.scrapes
                continue
        found.append(run)
        count.append(run.scrapes)
    return found


def _runs(flags: Sequence[bool], breaks: frozenset[int]) -> Iterator[Stretch]:
    first = None
    for at, flag in enumerate(flags):
        if first is not None and (not flag or at in breaks):
            yield Stretch(first, at - 1)
            first = None
        if flag and first is None:
            first = at
    if first is not None:
        yield Stretch(first, len(flags) - 1)

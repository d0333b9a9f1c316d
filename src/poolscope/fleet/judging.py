"""The pools and event loops of one instance, judged by the rules from what was sampled of them.

Pure: no clock, no thread, no I/O.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec

from poolscope.config import mappings
from poolscope.config.settings import Settings
from poolscope.fleet.causes import CAUSES, PATTERNS, FleetScene
from poolscope.fleet.drawn import thinned
from poolscope.fleet.loops import judge_loop
from poolscope.fleet.readings import STRETCH_SCRAPES, Counter, Reading, Stretch, stretches
from poolscope.fleet.sampled import Dependency, Process, Sampled, measure
from poolscope.fleet.samples import PoolKey, Samples
from poolscope.fleet.unsettled import full, waiting
from poolscope.fleet.verdicts import Knee, Verdict, finding, healthy, too_little
from poolscope.model import Advice, Severity
from poolscope.ranking import importance
from poolscope.rules.reason import Criteria, Diagnosis
from poolscope.rules.table import diagnose
from poolscope.rules.wording import counted, seconds

#: Less than this is too little to judge by: samples, and seconds.
LEAST_SAMPLES = 8
LEAST_SECONDS = 120.0
#: Stretches of a pool that are looked at, the longest first.
MOST_STRETCHES = 5
#: What begins so soon after a process (s) and is over this soon is its warm-up.
STARTED_SECONDS = 120.0
WARMED_SECONDS = 300.0
#: A full queue is one at this part of the scrapes.
QUEUE_FULL_SHARE = 0.5
#: Growth of a .NET pool that starves: threads a second, and so many samples in a row (Microsoft's guide to it).
STARVED_GROWTH = (0.5, 2.5)
STARVED_SAMPLES = 4
STARVED_CPU = 0.5

Moment = Callable[[float], str]
Alone = Mapping[PoolKey, float]


class Range(msgspec.Struct, frozen=True):
    """The time that is looked at (s), and how a moment is shown."""

    begin: float
    end: float
    show: Moment
    #: Less than this is too little to judge by.
    least_seconds: float = LEAST_SECONDS
    #: Points of a finding's samples that are kept for a picture.
    points: int = 0


class Instance:
    """What one target was sampled for. Not for several threads."""

    def __init__(self, pools: Iterable[tuple[PoolKey, Samples]], known: Mapping[str, mappings.Mapping]) -> None:
        self.readings: dict[PoolKey, Reading] = {}
        self._processes: list[Samples] = []
        for key, samples in pools:
            mapping = known[key.mapping]
            if mapping.kind == "process":
                self._processes.append(samples)
            elif mapping.tier != "none" and samples.roles:
                self.readings[key] = Reading(samples, mapping)

    def process(self, begin: float, end: float, apart: PoolKey | None = None) -> Process:
        """Return what is known of the process from one time to another, the pool `apart` left out."""
        return Process(
            self.cores(begin, end),
            self._gauge("cpus", begin, end),
            self._rate("collected", begin, end),
            self._gauge("started", begin, end),
            tuple(self._dependencies(begin, end)),
            tuple(self._others(begin, end, apart)),
        )

    def cores(self, begin: float, end: float) -> float | None:
        """Return how many cores the process used on average."""
        used = self._rate("cpu", begin, end)
        if used is not None:
            return used
        cpus, share = self._gauge("cpus", begin, end), self._gauge("cpu_share", begin, end)
        return share * cpus if share is not None and cpus is not None else None

    def _rate(self, role: str, begin: float, end: float) -> float | None:
        for samples in self._processes:
            first, last = bisect_left(samples.at, begin), bisect_right(samples.at, end) - 1
            values = samples.roles.get(role)
            if values is not None and last > first:
                return Counter(values[first : last + 1]).total[-1] / (samples.at[last] - samples.at[first])
        return None

    def _gauge(self, role: str, begin: float, end: float) -> float | None:
        for samples in self._processes:
            values = samples.roles.get(role)
            if values is None:
                continue
            first, last = bisect_left(samples.at, begin), bisect_right(samples.at, end)
            there = [value for value in values[first:last] if value >= 0]
            if there:
                return sum(there) / len(there)
        return None

    def _dependencies(self, begin: float, end: float) -> Iterable[Dependency]:
        for key, reading in self.readings.items():
            if reading.mapping.kind != "connections":
                continue
            first, last = bisect_left(reading.at, begin), bisect_right(reading.at, end) - 1
            if last <= first:
                continue
            flags = reading.saturated()[first : last + 1]
            exact = reading.waited.between(first, last) if reading.waited is not None else None
            waiting = (
                exact / (reading.at[last] - reading.at[first])
                if exact
                else reading.mean(reading.queued, first, last) or 0.0
            )
            if any(flags):
                yield Dependency(key.name, waiting, sum(flags) / len(flags))

    def _others(self, begin: float, end: float, apart: PoolKey | None) -> Iterable[str]:
        for key, reading in self.readings.items():
            if key == apart or reading.mapping.kind != "workers":
                continue
            first, last = bisect_left(reading.at, begin), bisect_right(reading.at, end)
            flags = reading.saturated()[first:last]
            if sum(flags) >= STRETCH_SCRAPES:
                yield key.name

    def judge(self, when: Range, settings: Settings, alone: Alone) -> list[Verdict]:
        """Return a verdict for each pool and loop."""
        return [self._judge(key, reading, when, settings, alone.get(key)) for key, reading in self.readings.items()]

    def needs_history(self) -> list[PoolKey]:
        """Return the pools that are full and never were seen nearly idle: their runs before are worth asking for."""
        return [
            key
            for key, reading in self.readings.items()
            if reading.mapping.tier in ("A", "B")
            and reading.done is not None
            and any(each.scrapes >= STRETCH_SCRAPES for each in stretches(reading.saturated(), reading.breaks))
            and reading.unhindered_run() is None
        ]

    def _judge(self, key: PoolKey, reading: Reading, when: Range, settings: Settings, alone: float | None) -> Verdict:
        verdict = self._verdict(key, reading, when, settings, alone)
        if not when.points or verdict.state != "finding" or verdict.severity == "info":
            return verdict
        return msgspec.structs.replace(verdict, drawn=thinned(reading, when.points))

    def _verdict(self, key: PoolKey, reading: Reading, when: Range, settings: Settings, alone: float | None) -> Verdict:
        span = reading.at[-1] - reading.at[0] if len(reading.at) else 0.0
        if len(reading.at) < LEAST_SAMPLES or span < when.least_seconds:
            return too_little(key, reading, f"{counted(len(reading.at), 'sample')} over {seconds(span)}")
        if reading.mapping.kind == "loop":
            return judge_loop(key, reading, self.cores, when.end, when.show)
        if reading.queued is None or reading.mapping.tier == "C":
            return full(key, reading, when.end, when.show)
        if "grows_when_starved" in reading.mapping.traps:
            return self._starved(key, reading, when)
        if reading.limit is None or reading.active is None or reading.mapping.tier == "D":
            return waiting(key, reading, when.end, when.show)
        return self._pool(key, reading, when, settings, alone)

    def _pool(self, key: PoolKey, reading: Reading, when: Range, settings: Settings, alone: float | None) -> Verdict:
        found = reading.saturations()
        long = sorted((each for each in found if each.scrapes >= STRETCH_SCRAPES), key=lambda each: -each.scrapes)
        alone = reading.unhindered_run() or alone
        verdicts = [
            verdict
            for each in long[:MOST_STRETCHES]
            if (verdict := self._stretch(key, reading, each, when, settings, alone)) is not None
        ]
        if verdicts:
            worst = min(verdicts, key=lambda each: (importance(each.as_finding()), -each.seconds))
            return msgspec.structs.replace(worst, evidence={**worst.evidence, "stretches": float(len(long))})
        if found:
            return _burst(key, reading, found, when)
        return healthy(key, reading)

    def _stretch(
        self,
        key: PoolKey,
        reading: Reading,
        stretch: Stretch,
        when: Range,
        settings: Settings,
        alone: float | None,
    ) -> Verdict | None:
        begin, end = reading.at[stretch.first], reading.at[stretch.last]
        around = self.process(begin, end, key)
        connections = reading.mapping.kind == "connections"
        if connections:
            around = msgspec.structs.replace(around, dependencies=(), others=())
        signals = measure(reading, stretch, around, alone, connections=connections)
        if signals is None:
            return None
        rule = settings.rule_for(key.name)
        criteria = Criteria(
            settings.detection_for(key.name),
            ordered=rule is not None and rule.ordered,
            intended=rule is not None and rule.intended,
            long_running=rule is not None and rule.long_running,
        )
        diagnosis = diagnose(signals, criteria, PATTERNS, CAUSES)
        knee = Knee.of(reading, stretch.began)
        scene = FleetScene(
            pool=key.name,
            since_seconds=begin - when.begin,
            knee=knee.text(when.show),
            words=reading.mapping.words,
            connections=connections,
            sustain_seconds=criteria.thresholds.sustain_seconds,
        )
        severity: Severity = diagnosis.severity
        summary = diagnosis.sentence(scene)
        if (started := _warm_up(reading, stretch, when, around.started)) is not None:
            severity = "info"
            summary = f"{summary.rstrip('.')}; {started} had just begun, and it was over in {seconds(end - begin)}."
        return finding(
            key,
            reading,
            stretch,
            when.end,
            pattern=diagnosis.pattern,
            cause=diagnosis.cause,
            severity=severity,
            summary=summary + _full_queue(reading, stretch) + _unscraped(reading, when.show),
            evidence=_evidence(reading, stretch, signals),
            advice=_advice(diagnosis, scene, severity),
        )

    def _starved(self, key: PoolKey, reading: Reading, when: Range) -> Verdict:
        """Judge a pool that grows slowly while its tasks block (.NET)."""
        size, queued = reading.size, reading.queued
        if size is None or queued is None:
            return waiting(key, reading, when.end, when.show)
        grows = [False] * len(reading.at)
        for at in range(1, len(reading.at)):
            rate = (size[at] - size[at - 1]) / (reading.at[at] - reading.at[at - 1])
            grows[at] = STARVED_GROWTH[0] <= rate <= STARVED_GROWTH[1] and queued[at] > 0
        for each in stretches(grows, reading.breaks):
            begin, end = reading.at[each.first], reading.at[each.last]
            around = self.process(begin, end)
            used, allowed = around.cores_used, around.cores_allowed
            idle = used is not None and allowed is not None and used < STARVED_CPU * allowed
            if each.scrapes < STARVED_SAMPLES or not idle:
                continue
            knee = Knee.of(reading, each.first)
            words = reading.mapping.words
            return finding(
                key,
                reading,
                each,
                when.end,
                pattern="async_then_serial",
                cause="unknown",
                severity="warning",
                summary=(
                    f"Pool {key.name!r} starves since {knee.text(when.show)}: its threads grow from "
                    f"{size[each.first]:.0f} to {size[each.last]:.0f}, one or two a second, while tasks wait and the "
                    "CPU is idle, as they do where calls block."
                ),
                evidence={
                    "threads_first": size[each.first],
                    "threads_last": size[each.last],
                    "queue_mean": reading.mean(queued, each.first, each.last) or 0.0,
                    "process_cores_used": used or 0.0,
                    "cpu_limit_cores": allowed or 0.0,
                },
                advice=Advice("none", f"{words.size}. {words.look}."),
            )
        return waiting(key, reading, when.end, when.show)


def _burst(key: PoolKey, reading: Reading, found: Sequence[Stretch], when: Range) -> Verdict:
    longest = max(found, key=lambda each: each.scrapes)
    count = sum(each.scrapes for each in found)
    return finding(
        key,
        reading,
        longest,
        when.end,
        pattern="burst",
        cause="unknown",
        severity="info",
        summary=(
            f"Pool {key.name!r} was full with tasks waiting at {counted(count, 'scrape')} of {len(reading.at)}, at "
            f"most {longest.scrapes} in a row: too short for a finding, and how long it lasted between scrapes "
            f"{seconds(reading.interval)} apart is not known."
        ),
        evidence={"scrapes": float(count), "longest_scrapes": float(longest.scrapes)},
        advice=Advice("none", "Nothing needs doing."),
    )


def _warm_up(reading: Reading, stretch: Stretch, when: Range, started: float | None) -> str | None:
    """Return what had just begun where a stretch began with it and was soon over; None where it was no warm-up."""
    begin, end = reading.at[stretch.began], reading.at[stretch.last]
    if stretch.last == len(reading.at) - 1 or end - begin > WARMED_SECONDS:
        return None
    # A start that is to come is by another clock.
    if started is not None and started <= begin:
        return "its process" if begin - started <= STARTED_SECONDS else None
    starts = [reading.at[at] for at in reading.breaks if at <= stretch.began]
    if reading.at[0] - when.begin > 2 * reading.interval:
        starts.append(reading.at[0])
    return "its metrics" if any(begin - at <= STARTED_SECONDS for at in starts) else None


def _full_queue(reading: Reading, stretch: Stretch) -> str:
    room = reading.remaining
    if room is None:
        return ""
    part = room[stretch.first : stretch.last + 1]
    if sum(value == 0 for value in part) < QUEUE_FULL_SHARE * len(part):
        return ""
    return " Its queue is full: more is rejected, or runs in its caller, which no metric shows."


def _unscraped(reading: Reading, show: Moment) -> str:
    """Say when it was not scraped though it was full before or after: it may serve its metrics itself."""
    full = reading.full()
    places = {time: at for at, time in enumerate(reading.at)}
    found = [(a, b) for a, b in reading.gaps if full[places[a]] or full[places[b]]]
    if not found:
        return ""
    begin, end = max(found, key=lambda each: each[1] - each[0])
    return f" It was not scraped from {show(begin)} to {show(end)}, while it was full."


def _evidence(reading: Reading, stretch: Stretch, signals: Sampled) -> dict[str, float]:
    around = signals.process_around
    numbers: dict[str, float | None] = {
        "workers": float(signals.max_workers),
        "active_mean": signals.active_mean,
        "queue_mean": signals.queue_mean,
        "queue_peak": max(
            (v for v in (reading.queued or ())[stretch.first : stretch.last + 1] if v == v), default=None
        ),
        "amplification": signals.amplification,
        "wait_seconds": signals.wait_p50_seconds,
        "run_seconds": signals.run_p50_seconds,
        "run_alone_seconds": signals.work.alone_p50_seconds,
        "throughput_per_second": reading.throughput(stretch.first, stretch.last),
        "arriving_per_second": signals.arriving,
        "effective_parallelism": signals.effective_parallelism,
        "process_cores_used": around.cores_used,
        "cpu_limit_cores": around.cores_allowed,
        "gc_share": around.collecting,
        "quiet_before_share": signals.quiet_before,
        "timeouts": reading.hits.between(stretch.first, stretch.last) if reading.hits is not None else None,
        "scrapes": float(stretch.scrapes),
        "interval_seconds": reading.interval,
        "gaps_seconds": sum(end - begin for begin, end in reading.gaps),
        "restarts": float(reading.restarts),
    }
    return {name: value for name, value in numbers.items() if value is not None and math.isfinite(value)}


def _advice(diagnosis: Diagnosis, scene: FleetScene, severity: Severity) -> Advice:
    if severity == "info" and diagnosis.pattern == "burst":
        return Advice("none", "Nothing needs doing.")
    return diagnosis.advice(scene)

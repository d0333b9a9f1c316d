"""Causes as metrics establish them: those of `rules`, with what only metrics show, and in the words of the runtime.

Pure: no clock, no thread, no I/O.
"""

from __future__ import annotations

from poolscope.config.mappings import Words
from poolscope.fleet.sampled import COLLECTING_SHARE, QUIET_SHARE, Dependency, Sampled
from poolscope.model import Advice
from poolscope.rules.async_then_serial import AsyncThenSerial
from poolscope.rules.blocking_io import BlockingIo
from poolscope.rules.burst import Burst
from poolscope.rules.cpu_bound import CpuBound
from poolscope.rules.limit_reached import LimitReached
from poolscope.rules.reason import Cause, Criteria, Pattern, Scene
from poolscope.rules.serial import Serial
from poolscope.rules.shared_resource import SharedResource
from poolscope.rules.single_worker import SingleWorker
from poolscope.rules.stalled import Stalled
from poolscope.rules.unknown import Unknown
from poolscope.rules.wording import percent, seconds, workers
from poolscope.signals.pool_signals import PoolSignals

#: A dependency is what holds workers up if it is full, and something waits for it, at so many of the scrapes, and so
#: many of the active workers wait for it on average.
DEPENDENCY_SHARE = 0.8
DEPENDENCY_WAITING = 0.5
#: An estimate beyond so many times the present size, or so many workers, is told as what it is: a load beyond measure.
MOST_TIMES = 8
MOST_WORKERS = 64


class FleetScene(Scene, frozen=True, kw_only=True):
    """What the words name beside what was found: the knee as the interval that it is known to be in."""

    knee: str
    words: Words
    connections: bool = False

    @property
    def since(self) -> str:
        """See `Scene`."""
        return self.knee


class Filled(AsyncThenSerial, frozen=True, kw_only=True):
    """A pool that filled; or was full as long as it was seen."""

    @classmethod
    def match(cls, signals: PoolSignals, criteria: Criteria) -> Filled | None:
        """See `AsyncThenSerial`."""
        return cls(signals=signals) if AsyncThenSerial.match(signals, criteria) is not None else None

    def head(self, scene: Scene, cause: Cause) -> str:
        """Say that it turned serial only where it was seen not to be."""
        signals = self.signals
        quiet = signals.quiet_before if isinstance(signals, Sampled) else None
        if quiet is not None and quiet >= QUIET_SHARE:
            return super().head(scene, cause)
        seen = "as long as it was seen" if quiet is None else f"since {scene.since}, not for the first time"
        return f"Pool {scene.pool!r} has been serial {seen}"


class Held(SharedResource, frozen=True, kw_only=True):
    """Workers that wait for a connection of a pool that is full."""

    dependency: Dependency

    @classmethod
    def match(cls, signals: PoolSignals, _pattern: Pattern) -> Held | None:
        """Match by Little's law: the seconds waited per second are the workers that stand there. Where several pools
        of workers are full, it is not known whose they are."""
        if not isinstance(signals, Sampled) or signals.process_around.others or signals.limit is not None:
            return None
        for each in signals.process_around.dependencies:
            if each.share >= DEPENDENCY_SHARE and each.waiting >= DEPENDENCY_WAITING * signals.active_mean:
                return cls(signals=signals, scarce=None, times_alone=None, dependency=each)
        return None

    def sentence(self, _scene: Scene) -> str:
        """Name what they wait for."""
        signals = self.signals
        waits = seconds(signals.wait_p50_seconds)
        there = min(self.dependency.waiting, float(signals.max_workers))
        return (
            f"about {there:.1f} of its {workers(signals.max_workers)} wait for a connection of "
            f"{self.dependency.name!r}, which is full, and a task now waits {waits} before it runs for "
            f"{seconds(signals.run_p50_seconds)}"
        )

    def advice(self, _scene: Scene) -> Advice:
        """Send the reader there."""
        name = self.dependency.name
        return Advice(
            self.action,
            f"More workers would only wait too: see to {name!r} first, which they wait for.",
            pool=name,
        )


class Lent(LimitReached, frozen=True, kw_only=True):
    """A pool of connections that are all lent out."""

    @classmethod
    def match(cls, signals: PoolSignals, _pattern: Pattern) -> Lent | None:
        """Match pools of connections."""
        return cls(signals=signals, limit=signals.limit) if signals.limit is not None else None

    def head(self, scene: Scene) -> str:
        """Say since when."""
        lent = f"all of its {self.signals.max_workers} connections lent out"
        return f"Pool {scene.pool!r} has had {lent} since {scene.since}"

    def sentence(self, _scene: Scene) -> str:
        """Say what it costs."""
        signals = self.signals
        hold = f", each is held for {seconds(signals.run_p50_seconds)}" if signals.run_p50_seconds else ""
        waiting = signals.queue_mean if isinstance(signals, Sampled) else signals.queue_depth
        wait = f" for {seconds(signals.wait_p50_seconds)}" if signals.wait_p50_seconds is not None else ""
        return f"they are asked for faster than given back{hold}, and about {waiting:.1f} callers at a time wait{wait}"

    def advice(self, scene: Scene) -> Advice:
        """See `TooSmall`."""
        return _size(self, scene)


class OneWorker(SingleWorker, frozen=True, kw_only=True):
    """A pool of one worker."""

    def advice(self, scene: Scene) -> Advice:
        """In the runtime's words."""
        return _size(self, scene)


class Waiting(BlockingIo, frozen=True, kw_only=True):
    """Workers that use next to no CPU, with nothing known that they wait for."""

    @classmethod
    def match(cls, signals: PoolSignals, pattern: Pattern) -> Waiting | None:
        """Match as `BlockingIo`, unless connections are short that they may wait for."""
        around = signals.process_around if isinstance(signals, Sampled) else None
        if around is not None and any(each.share >= DEPENDENCY_SHARE for each in around.dependencies):
            return None
        found = BlockingIo.match(signals, pattern)
        if found is None:
            return None
        return cls(signals=signals, headroom=found.headroom, times_before=found.times_before)

    def advice(self, scene: Scene) -> Advice:
        """In the runtime's words."""
        return _size(self, scene)


class Computing(CpuBound, frozen=True, kw_only=True):
    """Workers whose process uses the CPU that it may use."""

    def advice(self, scene: Scene) -> Advice:
        """In the runtime's words, where its own limit is one core."""
        if self.machine or not isinstance(scene, FleetScene):
            return super().advice(scene)
        return Advice(
            self.action,
            "More threads cannot help: the work computes, and only one of them does at a time. Start more processes.",
        )


class NotShown(Unknown, frozen=True, kw_only=True):
    """What metrics do not show."""

    #: Whether nothing finishes: then there is no time to tell of either.
    still: bool

    @classmethod
    def match(cls, signals: PoolSignals, pattern: Pattern) -> NotShown:
        """Match always."""
        known = Unknown.match(signals, pattern)
        still = pattern.name == Stalled.name
        return cls(signals=signals, suspected=known.suspected, times_alone=known.times_alone, still=still)

    def sentence(self, scene: Scene) -> str:
        """See `Unknown`."""
        return "" if self.still else super().sentence(scene)

    def advice(self, scene: Scene) -> Advice:
        """Say where to look."""
        words = scene.words if isinstance(scene, FleetScene) else Words()
        look = words.look.replace("{pool}", repr(scene.pool))
        around = self.signals.process_around if isinstance(self.signals, Sampled) else None
        facts = []
        if around is not None and around.collecting is not None and around.collecting >= COLLECTING_SHARE:
            facts.append(f"garbage collection takes {percent(around.collecting)} of the time")
        if around is not None and around.dependencies:
            names = ", ".join(repr(each.name) for each in around.dependencies)
            facts.append(f"over the same time callers wait for connections of {names}")
        if around is not None and around.others:
            facts.append(f"over the same time {', '.join(map(repr, around.others))} is full too")
        told = f" Known is that {' and that '.join(facts)}." if facts else ""
        return Advice("none", f"Metrics do not show why.{told} {look}.")


def _size(cause: Cause, scene: Scene) -> Advice:
    """Advise another size, with an estimate where there is one."""
    signals = cause.signals
    words = scene.words if isinstance(scene, FleetScene) else Words()
    name, now = repr(scene.pool), signals.max_workers
    size, bound = (text.replace("{pool}", name) for text in (words.size, words.bound))
    needed = signals.workers_needed if isinstance(signals, Sampled) else None
    alone = signals.work.alone_p50_seconds
    if needed is None or alone is None:
        why = "how long a task takes alone was not seen" if alone is None else "its load alone does not fill it"
        return Advice(cause.action, f"{size} (now {now}). Or: {bound}. There is no number: {why}.")
    load = (signals.arriving_peak if isinstance(signals, Sampled) else None) or signals.throughput
    estimate = f"an estimate: up to {load:.3g} a second came, and a task takes {seconds(alone)} alone"
    if needed > max(MOST_WORKERS, MOST_TIMES * now):
        return Advice(
            "bound_submission",
            f"{bound}. To keep up it would take about {needed:,} at a time (now {now}; {estimate}).",
        )
    return Advice(
        cause.action,
        f"{size}. It would take about {needed} (now {now}; {estimate}, nothing was replayed), if what they wait for "
        f"can serve so many at once. Or: {bound}.",
        suggested_max_workers=needed,
    )


#: In order of precedence, as in `rules.table`; the last of each always matches.
PATTERNS: tuple[type[Pattern], ...] = (Stalled, Serial, Filled, Burst)
CAUSES: tuple[type[Cause], ...] = (OneWorker, Computing, Held, Lent, Waiting, NotShown)

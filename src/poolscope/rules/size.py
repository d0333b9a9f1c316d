"""What is advised where the size of a pool is the problem: `single_worker` and `blocking_io`. Pure."""

from __future__ import annotations

import msgspec

from poolscope.model import Advice
from poolscope.rules.inflation import became_slower
from poolscope.rules.reason import Cause, Scene
from poolscope.rules.wording import are, counted, percent, seconds, workers
from poolscope.signals.pool_signals import PoolSignals, workers_for_cpu
from poolscope.signals.sizing import LARGEST, Sizing
from poolscope.signals.work_queues import KIND

#: Runs that take this many times as long as alone show that something would get worse with more workers.
SLOWER = 1.2

#: Kind of pool -> how to give it another size, where `max_workers` is not the word for it.
_HOW = {
    "aiosqlite": " A connection of aiosqlite has one thread: open another connection for what is to run beside it. "
    "Writes to one database still come one after the other.",
    "anyio": " Its size is the limiter's total_tokens; the default limiter is "
    "anyio.to_thread.current_default_thread_limiter().",
    "trio": " Its size is the limiter's total_tokens; the default limiter is "
    "trio.to_thread.current_default_thread_limiter().",
    "asgiref": " asgiref keeps such calls in one thread: a ThreadSensitiveContext for each request, or "
    "thread_sensitive=False for calls that use nothing of their thread's (as Django's database connections are), lets "
    "them run side by side.",
}


def _larger(scene: Scene, suggested: int, now: int, enough: int | None) -> str:
    """Say how to have so many workers in place of as many as there are now; in steps to `enough`, where that is far."""
    if scene.kind == KIND:
        steps = "" if enough is None else f", and more in steps up to {enough}"
        return f"Start {suggested} consumers for {scene.pool!r}{steps}: tasks or threads that take from it (now {now})"
    if scene.kind == "asgiref":
        return f"Let {suggested} calls of {scene.pool!r} run at a time (now {now})"
    at_once = f"max_workers={suggested} (now {now})"
    steps = f"more workers in steps, from {at_once} to {enough}"
    return f"Give {scene.pool!r} {at_once if enough is None else steps}"


class _Cpu(msgspec.Struct, frozen=True):
    """This many workers use up the available cores, if each of them, or its child process (`whose`), uses this
    share."""

    workers: int
    cores: float
    share: float
    whose: str


class Headroom(msgspec.Struct, frozen=True):
    """What would limit a larger pool before all of its workers are busy."""

    cpu: _Cpu | None
    #: A sentence on what else would; empty: nothing that is known.
    otherwise: str

    def warning(self, suggested: int) -> str:
        """Return a sentence if something limits the pool before this many workers are busy."""
        cpu = self.cpu
        if cpu is None or cpu.workers >= suggested:
            return self.otherwise
        return (
            f" The CPU binds first: {cpu.whose} {percent(cpu.share)} of a core, so about {cpu.workers} of them use up "
            f"the {cpu.cores:g} they can have."
        )


def headroom(signals: PoolSignals) -> Headroom:
    """Return how many workers the CPU is enough for, at their present use; and a warning if runs are already longer
    than unhindered ones, so that something downstream may be the limit."""
    return Headroom(_cpu(signals), _otherwise(signals))


def _cpu(signals: PoolSignals) -> _Cpu | None:
    cores, share, whose = signals.cpu_limit_cores, signals.worker_cpu_share, "a busy worker uses"
    children, allowed = signals.child_cores, signals.process.cores_allowed
    if children is not None and allowed is not None:
        cores, share, whose = allowed, children / signals.max_workers, "the child process of a worker uses"
    if cores is None or not share:
        return None
    return _Cpu(workers_for_cpu(cores, share), cores, share, whose)


def _otherwise(signals: PoolSignals) -> str:
    alone, run = signals.work.alone_p50_seconds, signals.work.run_p50_seconds
    if alone and run and became_slower(signals) is not None:
        return (
            f" But see first to what has become slower: a task takes {seconds(run)}, and took {seconds(alone)} before."
        )
    if alone is None and signals.growing is None:
        return " Try it first: how long one takes with fewer at once was not seen."
    if alone and run and run > SLOWER * alone:
        return (
            f" Something downstream may bind first: a task already runs {seconds(run)}, and {seconds(alone)} with the "
            "pool nearly idle."
        )
    return ""


def _replayed(sizing: Sizing, now: int, kind: str) -> str:
    """Return the end of a sentence: what a replay says of submitters that wait for results."""
    waits = {point.workers: point.wait_p50_seconds for point in sizing.points}
    if now not in waits or sizing.population is None or sizing.population <= now:
        return "; a replay gives no number, because on another size the tasks would come at other times."
    sizes = [size for size in (now, 2 * now) if size in waits and size < sizing.population]
    told = ", ".join(f"{seconds(waits[size])} on {workers(size, kind)}" for size in sizes)
    return (
        f": replayed with so many at a time, if they run as long as they did, half of the tasks wait longer than "
        f"{told}, and none waits on {sizing.population}."
    )


class TooSmall(Cause, frozen=True, kw_only=True):
    """A cause that a larger pool may mend."""

    action: str = "raise_max_workers"
    headroom: Headroom

    def bounded(self) -> str:
        """Return the action where the submitters wait for results, or another full pool submits."""
        return "bound_submission"

    def purpose(self) -> str:
        """Return what to say where the size may be on purpose."""
        return ""

    def size_advice(self, scene: Scene) -> Advice:
        """Advise a number, or say why there is none."""
        advice = self._advice(scene)
        return msgspec.structs.replace(advice, text=advice.text + _HOW.get(scene.kind, ""))

    def _advice(self, scene: Scene) -> Advice:
        sizing = scene.sizing
        if sizing is None or not sizing.recorded:
            why = " There is no number, because the settings say to keep no tasks to replay (keep_tasks: 0)."
            return Advice(
                self.action,
                f"{scene.pool!r} is too small for its load (now {self.signals.max_workers})."
                f"{why if sizing is not None else ''}{self.purpose()}",
            )
        if sizing.population is not None and scene.kind == KIND:
            return self._await_consumers(scene.pool, sizing.population)
        if sizing.population is not None:
            return self._bound_population(scene, sizing, sizing.population)
        if sizing.feeder is not None:
            return self._see_to_feeder(scene.pool, sizing.feeder)
        if not sizing.faithful:
            return Advice(
                "none",
                f"There is no number for {scene.pool!r}: replayed on its "
                f"{workers(self.signals.max_workers, scene.kind)}, the recorded tasks do not wait as they did, so "
                "something between the tasks takes the time: results that wait to be taken, callbacks, what is handed "
                "over, or tasks that are not taken in order. Look there first.",
            )
        if sizing.suggested is None:
            return Advice(
                "bound_submission",
                f"No size up to {LARGEST} keeps up with this load: let less in. Bound what is submitted to "
                f"{scene.pool!r} at a time (a semaphore, a bounded queue), or make the tasks shorter.",
            )
        return self._enlarge(scene, sizing.suggested, sizing.enough)

    def _bound_population(self, scene: Scene, sizing: Sizing, population: int) -> Advice:
        """Advise where the submitters wait for results, and so keep so many tasks in the pool."""
        coming = counted(population, "task")
        return Advice(
            self.bounded(),
            f"What submits to {scene.pool!r} has {coming} in it at a time, and waits for results before it submits "
            "more. Nothing needs doing if that is wanted: with fewer at a time the work would be done as soon, and the "
            "tasks wait less. More workers help if what the tasks wait for can serve more at once, and "
            f"never more than {population}{_replayed(sizing, self.signals.max_workers, scene.kind)}{self.purpose()}",
        )

    def _await_consumers(self, queue: str, population: int) -> Advice:
        """Advise where what puts items waits until some are done, and so keeps so many in the queue."""
        return Advice(
            self.bounded(),
            f"What puts items into {queue!r} waits until others are done: {counted(population, 'item')} "
            f"{are(population)} there at a time. Nothing needs doing if that is wanted. More consumers (now "
            f"{self.signals.max_workers}) help if what they wait for can serve more at once, and never more than "
            f"{population}; a replay gives no number, because with more of them the items would come at other "
            f"times.{self.purpose()}",
        )

    def _see_to_feeder(self, pool: str, feeder: str) -> Advice:
        """Advise where the workers of a full pool submit the tasks."""
        if feeder == pool:
            # A bound on what workers submit to their own pool would make them wait for each other.
            return Advice(
                self.action,
                f"The workers of {pool!r} submit these tasks themselves, so there is no number: on a larger pool they "
                f"would come faster. More workers help if what the tasks wait for can serve more at once."
                f"{self.purpose()}",
                pool=pool,
            )
        return Advice(
            self.bounded(),
            f"The workers of pool {feeder!r}, itself full, submit these tasks, so there is no number for {pool!r} "
            f"alone: with a larger {feeder!r} they would come faster. Size that pool first, or let it submit less at a "
            f"time.{self.purpose()}",
            pool=feeder,
        )

    def _enlarge(self, scene: Scene, suggested: int, enough: int | None) -> Advice:
        """Advise a size that a replay has shown; a first step where that is far."""
        larger = _larger(scene, suggested, self.signals.max_workers, enough)
        serve = ", and what they wait for must serve so many at once" if enough is not None else ""
        return Advice(
            self.action,
            f"{larger}: replayed on {enough or suggested}, the recorded tasks never fill the pool for "
            f"{seconds(scene.sustain_seconds)}, if they run as long as they did{serve}."
            f"{self.headroom.warning(suggested)}{self.purpose()}",
            suggested_max_workers=suggested,
        )

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

#: Runs that take this many times as long as alone already show what more workers would make worse.
SLOWER = 1.2

#: Kind of pool -> how it gets another size, where that is not said by its name.
_HOW = {
    "anyio": " Its size is the limiter's total_tokens; the default limiter is "
    "anyio.to_thread.current_default_thread_limiter().",
    "asgiref": " asgiref keeps such calls in one thread: a ThreadSensitiveContext for each, or thread_sensitive=False, "
    "lets them run side by side.",
}


def _larger(scene: Scene, sizing: Sizing, now: int) -> str:
    """Say how to have more workers than there are now."""
    name, size, enough = scene.pool, sizing.suggested, sizing.enough
    if scene.kind == KIND:
        steps = "" if enough is None else f", and more in steps up to {enough}"
        return f"Start {size} consumers for {name!r}{steps}: tasks or threads that take from it (now {now})"
    if enough is None:
        return f"Give {name!r} max_workers={size} (now {now})"
    return f"Give {name!r} more workers in steps, from max_workers={size} (now {now}) to {enough}"


class _Cpu(msgspec.Struct, frozen=True):
    """So many workers use up the cores that they can have, each of them or its child process (`whose`) this share."""

    workers: int
    cores: float
    share: float
    whose: str


class Headroom(msgspec.Struct, frozen=True):
    """What would be the limit of a larger pool before all of its workers are busy."""

    cpu: _Cpu | None
    #: What is known of it otherwise, as a sentence; empty: nothing is in the way.
    otherwise: str

    def warning(self, suggested: int) -> str:
        """Return a sentence, where something binds before so many workers are busy."""
        cpu = self.cpu
        if cpu is None or cpu.workers >= suggested:
            return self.otherwise
        return (
            f" The CPU binds first: {cpu.whose} {percent(cpu.share)} of a core, so about {cpu.workers} of them use up "
            f"the {cpu.cores:g} they can have."
        )


def headroom(signals: PoolSignals) -> Headroom:
    """Return the CPU: so many workers at their present use of it. What the tasks wait for: runs that are longer already
    than those that nothing hindered."""
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


class TooSmall(Cause, frozen=True, kw_only=True):
    """A cause that a larger pool may mend."""

    action: str = "raise_max_workers"
    headroom: Headroom

    def bounded(self) -> str:
        """Return the action where the submitters wait for results, or are another full pool."""
        return "bound_submission"

    def purpose(self) -> str:
        """Return what to say where the size may be on purpose."""
        return ""

    def size_advice(self, scene: Scene) -> Advice:
        """Advise a number, or say why there is none."""
        advice = self._advice(scene)
        return msgspec.structs.replace(advice, text=advice.text + _HOW.get(scene.kind, ""))

    def _advice(self, scene: Scene) -> Advice:
        name, now, sizing = scene.pool, self.signals.max_workers, scene.sizing
        if sizing is None or not sizing.recorded:
            why = " There is no number, because the settings say to keep no tasks to replay (keep_tasks: 0)."
            return Advice(
                self.action,
                f"{name!r} is too small for its load (now {now}).{why if sizing is not None else ''}{self.purpose()}",
            )
        if sizing.population is not None and scene.kind == KIND:
            return Advice(
                self.bounded(),
                f"What puts items into {name!r} waits until others are done: {counted(sizing.population, 'item')} "
                f"{are(sizing.population)} there at a time. Nothing needs doing if that is wanted. More consumers "
                f"(now {now}) help if what they wait for can serve more at once, and never more than "
                f"{sizing.population}; a replay gives no number, because with more of them the items would come at "
                f"other times.{self.purpose()}",
            )
        if sizing.population is not None:
            return Advice(
                self.bounded(),
                f"What submits to {name!r} has {counted(sizing.population, 'task')} in it at a time, and waits for "
                "results before it submits more. Nothing needs doing if that is wanted: with fewer at a time the work "
                "would be done as soon, and the tasks wait less. More workers help if what the tasks wait for can "
                f"serve more at once, and never more than {sizing.population}; a replay gives no number, because on "
                f"another size the tasks would come at other times.{self.purpose()}",
            )
        if sizing.feeder == name:
            # To bound what workers submit to their own pool would have them wait for each other.
            return Advice(
                self.action,
                f"The workers of {name!r} submit these tasks themselves, so there is no number: on a larger pool they "
                f"would come faster. More workers help if what the tasks wait for can serve more at once."
                f"{self.purpose()}",
                pool=name,
            )
        if sizing.feeder is not None:
            return Advice(
                self.bounded(),
                f"The workers of pool {sizing.feeder!r}, itself full, submit these tasks, so there is no number for "
                f"{name!r} alone: with a larger {sizing.feeder!r} they would come faster. Size that pool first, or let "
                f"it submit less at a time.{self.purpose()}",
                pool=sizing.feeder,
            )
        if not sizing.faithful:
            return Advice(
                "none",
                f"There is no number for {name!r}: replayed on its {workers(now)}, the recorded tasks do not wait as "
                "they did, so something between the tasks takes the time: results that wait to be taken, callbacks, "
                "what is handed over, or tasks that are not taken in order. Look there first.",
            )
        if sizing.suggested is None:
            return Advice(
                "bound_submission",
                f"No size up to {LARGEST} keeps up with this load: let less in. Bound what is submitted to {name!r} at "
                "a time (a semaphore, a bounded queue), or make the tasks shorter.",
            )
        if sizing.enough is not None:
            return Advice(
                self.action,
                f"{_larger(scene, sizing, now)}: replayed on {sizing.enough}, the recorded tasks never fill the pool "
                f"for {seconds(scene.sustain_seconds)}, if they run as long as they did, and what they wait for must "
                f"serve so many at once.{self.headroom.warning(sizing.suggested)}{self.purpose()}",
                suggested_max_workers=sizing.suggested,
            )
        return Advice(
            self.action,
            f"{_larger(scene, sizing, now)}: replayed on {sizing.suggested}, the recorded tasks never fill the pool "
            f"for {seconds(scene.sustain_seconds)}, if they run as long as they did."
            f"{self.headroom.warning(sizing.suggested)}{self.purpose()}",
            suggested_max_workers=sizing.suggested,
        )

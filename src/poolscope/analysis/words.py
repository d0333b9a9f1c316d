"""A diagnosis in words: one sentence that a tired person understands, and one thing to do.

Every number in a sentence is one of the evidence's. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from poolscope.analysis.deadlock import Deadlock
from poolscope.analysis.detection import (
    Diagnosis,
    LoopLineSignals,
    became_slower,
    behind,
    child_cores,
    cpu_limit,
    slower,
    starved,
    workers_for_cpu,
)
from poolscope.analysis.occupants import HeldUp
from poolscope.analysis.signals import PoolSignals
from poolscope.analysis.sizing import LARGEST, Sizing
from poolscope.model import Advice, Frame

#: Runs that take this many times as long as alone already show what more workers would make worse.
SLOWER = 1.2


def seconds(value: float | None) -> str:
    """A duration as people say it: `85 ms`, `2.3 s`, `4 min`."""
    if value is None:
        return "an unknown time"
    if value < 0.001:
        return f"{value * 1e6:.0f} µs"
    if value < 0.9995:
        return f"{value * 1e3:.0f} ms" if value >= 0.01 else f"{value * 1e3:.1f} ms"
    if value < 120:
        return f"{value:.1f} s"
    return f"{value / 60:.0f} min"


def _place(frames: Sequence[Frame]) -> str:
    if not frames:
        return ""
    frame = frames[0]
    if not frame.file:
        return f" in {frame.function}"
    return f" at {frame.file.rsplit('/', 1)[-1]}:{frame.line} ({frame.function})"


def _workers(count: int) -> str:
    return "1 worker" if count == 1 else f"{count} workers"


def _all(count: int) -> str:
    return {1: "its one worker", 2: "both workers"}.get(count, f"all {count} workers")


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


#: What workers wait for, by its gate.
_GATES = {"lock": "a lock", "semaphore": "a semaphore", "queue": "room in a full queue"}


def _hold_up(signals: PoolSignals, frames: Sequence[Frame]) -> str:
    """What the workers of a pool wait for that has something scarcer behind it."""
    scarce = behind(signals)
    if isinstance(scarce, HeldUp):
        return (
            f"its {_workers(signals.max_workers)} spend {_percent(scarce.share)} of their time waiting for "
            f"{_GATES[scarce.gate]}{_place(frames)}"
        )
    if scarce is not None:
        at_once = "one" if scarce.holders == 1 else str(scarce.holders)
        go = "goes" if scarce.holders == 1 else "go"
        return (
            f"only {at_once} of its {_workers(signals.max_workers)} {go} on at a time, the others wait{_place(frames)}"
        )
    now = f": now {_times_alone(signals):.1f} times as long as alone" if slower(signals) else ""
    return f"its tasks hold each other up{_place(frames)} (the more of them run at once, the longer each takes{now})"


def _times_alone(signals: PoolSignals) -> float:
    return (signals.work.run_p50_seconds or 0) / (signals.work.alone_p50_seconds or 1)


def pool_summary(
    diagnosis: Diagnosis,
    name: str,
    since: float,
    signals: PoolSignals,
    frames: Sequence[Frame],
    *,
    hogs: str = "",
    population: int | None = None,
) -> str:
    """One sentence: what happened, since when, why, where. `hogs` names the functions that hold the workers;
    `population` is how many tasks are in the pool at a time, where what submits them waits for results."""
    workers, everyone = _workers(signals.max_workers), _all(signals.max_workers)
    costs = (
        f"a task now waits {seconds(signals.wait_p50_seconds)} for {seconds(signals.run_p50_seconds)} of its own work"
    )
    if signals.deadlock is not None:
        return f"{_deadlocked(name, since, signals.deadlock)}{_place(frames)}."
    if diagnosis.pattern == "stalled":
        return (
            f"Pool {name!r} has stood still: {everyone} busy, {signals.queue_depth} tasks queued, and nothing "
            f"finished for {seconds(signals.seconds_since_finish)}{_place(frames)}."
        )
    if diagnosis.pattern == "stuck_workers":
        longest = signals.held[0]
        return (
            f"Pool {name!r} has lost workers since {since:.1f} s: they do not come back from a task{_place(frames)} "
            f"that has run for {seconds(longest.seconds)}, {longest.times:.0f} times its longest, and {workers} are "
            "all there are."
        )
    if diagnosis.severity == "info":
        turned = f"Pool {name!r} reached the limit of the machine at {since:.1f} s"
        compute = "compute" if child_cores(signals) is None else "wait for child processes, which compute"
        return f"{turned}: its {workers} {compute} and {_cpu(signals)}, so {costs}{_place(frames)}."
    # Where they only take longer, all of them do run.
    longer = signals.max_workers > 1 and diagnosis.cause in ("blocking_io", "unknown")
    one_by_one = "gets no more done than one worker would" if longer else "runs its tasks one after another"
    turned = {
        "serial": f"Pool {name!r} {one_by_one} since {since:.1f} s",
        "async_then_serial": f"Pool {name!r} turned serial at {since:.1f} s",
    }[diagnosis.pattern]
    why = {
        "single_worker": f"its one worker is never free, and {costs}{_place(frames)}",
        "cpu_bound": f"its {workers} compute and {_cpu(signals)}, so {costs}{_place(frames)}",
        "blocking_io": (
            f"{everyone} are waiting{_place(frames)}, {_slowed(signals)}{_coming(population)}, and {costs}"
        ),
        "downstream_pool": _downstream(signals, frames),
        # What they wait for in a task is no work of their own.
        "shared_resource": (
            f"{_hold_up(signals, frames)}, and a task now waits {seconds(signals.wait_p50_seconds)} before it runs for "
            f"{seconds(signals.run_p50_seconds)}"
        ),
        "slow_tasks": _held_up_by(signals, hogs),
    }.get(diagnosis.cause, f"{everyone} are busy{_place(frames)}, and {costs}; {_unknown(signals)}")
    return f"{turned}: {why}."


def _coming(population: int | None) -> str:
    if population is None:
        return "tasks come faster than they finish"
    return f"{population} tasks are submitted at a time"


def _slowed(signals: PoolSignals) -> str:
    if not became_slower(signals):
        return ""
    return f"which takes {_times_alone(signals):.1f} times as long as before, "


def _unknown(signals: PoolSignals) -> str:
    """What is known where no cause is."""
    if signals.suspected:
        return "most of them are in tasks that take far longer than the others, and why is not established"
    if slower(signals):
        return f"its tasks take {_times_alone(signals):.1f} times as long as alone, and why is not established"
    return "why is not established"


def _cpu(signals: PoolSignals) -> str:
    """What has become of the CPU that the workers of a pool want."""
    used, limit = signals.process.cores_used, cpu_limit(signals)
    if not starved(signals) or used is None or limit is None:
        return "have used up the CPU"
    cores = "one core" if limit == 1 else f"{limit:g} cores"
    return f"get {used:.1f} of the {cores} that they could use, as other programs take the rest"


def _deadlocked(name: str, since: float, deadlock: Deadlock) -> str:
    count = len(deadlock.cycle.workers)
    waits, who, they = ("waits", "it", "it") if count == 1 else ("wait", "one of them", "they")
    its = f"Pool {name!r} is deadlocked since {since:.1f} s: its {_workers(count)} {waits} for tasks"
    if deadlock.next_pool is None:
        return f"{its} in its own queue, which only {they} could start,"
    return f"{its} of pool {deadlock.next_pool!r}, which can only go on once {who} is free,"


def _downstream(signals: PoolSignals, frames: Sequence[Frame]) -> str:
    if signals.awaited is None:
        return ""
    return (
        f"its {_workers(signals.max_workers)} spend {_percent(signals.awaited.share)} of their time waiting for tasks "
        f"of pool {signals.awaited.pool!r}{_place(frames)}"
    )


def _held_up_by(signals: PoolSignals, hogs: str) -> str:
    found = signals.hogs
    if found is None:
        return ""
    few = _percent(found.start_share) if found.start_share >= 0.005 else "hardly any"
    return (
        f"{hogs} takes {_percent(found.busy_share)} of the workers' time with {few} of the tasks, and the others wait "
        f"{seconds(found.others_wait_ns / 1e9)} for {seconds(found.others_run_ns / 1e9)} of their own work"
    )


def burst_summary(name: str, count: int, longest: float, total: float) -> str:
    """One sentence on saturation that was short, or whose waits were."""
    times = "once" if count == 1 else f"{count} times"
    return (
        f"Pool {name!r} was full with tasks queued {times}, {seconds(total)} in all (longest {seconds(longest)}): no "
        "fault, as that is short, or no more than random load brings."
    )


def burst_advice() -> Advice:
    """Nothing to do."""
    return Advice("none", "Nothing needs doing.")


def split_advice(hogs: str, slow: int | None, others: int | None) -> Advice:
    """What to do where few long tasks hold the workers: the sizes of two pools, None where none would do."""
    text = f"Give {hogs} a pool of its own, so that the others do not stand behind it"
    if slow is not None and others is not None:
        text += f": replayed with max_workers={slow} for it and {others} for the others, no task waits for long"
    return Advice("split_pool", f"{text}.")


#: Kind of pool -> how it gets another size, where that is not said by its name.
_HOW = {
    "anyio": " Its size is the limiter's total_tokens; the default limiter is "
    "anyio.to_thread.current_default_thread_limiter().",
    "asgiref": " asgiref keeps such calls in one thread: a ThreadSensitiveContext for each, or thread_sensitive=False, "
    "lets them run side by side.",
}


def pool_advice(
    diagnosis: Diagnosis, name: str, signals: PoolSignals, sized: Sizing | None, sustain_seconds: float, kind: str = ""
) -> Advice:
    """The one thing to do, with a number only where the size of the pool is the problem."""
    action = diagnosis.action
    if diagnosis.sized and sized is not None:
        advice = _sized_advice(diagnosis, name, signals, sized, sustain_seconds)
        return msgspec.structs.replace(advice, text=advice.text + _HOW.get(kind, ""))
    if action == "use_process_pool":
        return Advice(
            action,
            "More threads cannot help: the work computes and shares one CPU. Move it to a ProcessPoolExecutor, or to "
            "code that releases the GIL.",
        )
    if signals.deadlock is not None:
        return Advice(
            action,
            "Do not wait inside the pool for tasks that need its workers: collect the results outside, or give the "
            f"inner tasks a pool of their own. Until then, more workers in {name!r} than tasks that wait at once keep "
            "it going.",
            pool=signals.deadlock.next_pool or name,
        )
    if signals.awaited is not None and action == "see_pool":
        return Advice(
            action,
            f"See to pool {signals.awaited.pool!r}: more workers in {name!r} would only wait for it too.",
            pool=signals.awaited.pool,
        )
    if action == "add_timeout":
        queued = (
            f" If it waits for what a task in the queue of {name!r} would do, that one cannot start: give such tasks a "
            "pool of their own."
        )
        return Advice(
            action,
            "Give the call at the line shown a timeout, so that its worker comes back whatever happens there."
            + (queued if diagnosis.pattern == "stalled" else ""),
        )
    scarce = behind(signals)
    if action == "relieve_shared_resource" and isinstance(scarce, HeldUp) and scarce.gate == "queue":
        return Advice(
            action,
            f"More workers in {name!r} would only wait too: what takes out of that queue is slower than they fill it. "
            "Make that faster, or give it more workers.",
        )
    if action == "relieve_shared_resource":
        return Advice(
            action,
            "More workers would only wait too: relieve what they wait for at the line shown (hold the lock for less "
            "work, a larger pool of connections, a higher rate limit, fewer and larger writes).",
        )
    if diagnosis.cause == "cpu_bound" and starved(signals):
        return Advice(
            "none",
            "The work could use every CPU, and other programs take part of them: look at what else runs on this "
            "machine, or give the work one of its own.",
        )
    if diagnosis.cause == "cpu_bound":
        return Advice("none", "The work uses every CPU it may use: only more CPUs or less work make it faster.")
    if signals.suspected:
        return Advice(
            "none",
            "Find out why a few calls at the line shown take so much longer than the others. If they take turns at "
            "something (a lock, a database that admits one writer), the others go ahead of them, and more workers "
            "would only wait too.",
        )
    if slower(signals):
        return Advice(
            "none",
            "Find out whether what they wait for at the line shown has become slower, or is slower the more tasks use "
            "it at once: then more workers would only wait too.",
        )
    return Advice(
        "none",
        "The cause is not established from what was recorded; look at the lines where the workers are.",
    )


def _sized_advice(
    diagnosis: Diagnosis, name: str, signals: PoolSignals, sized: Sizing, sustain_seconds: float
) -> Advice:
    suggested = sized.suggested
    single = diagnosis.cause == "single_worker"
    ordered = " If one worker is there to keep the order, say `ordered: true` in the settings." if single else ""
    if not sized.recorded:
        return Advice(
            diagnosis.action,
            f"{name!r} is too small for its load (now {signals.max_workers}). There is no number, because the settings "
            f"say to keep no tasks to replay (keep_tasks: 0).{ordered}",
        )
    if sized.population is not None:
        return Advice(
            diagnosis.action if single else "bound_submission",
            f"What submits to {name!r} has {sized.population} tasks in it at a time, and waits for results before it "
            "submits more. Nothing needs doing if that is wanted: with fewer at a time the work would be done as soon, "
            "and the tasks wait less. More workers help if what the tasks wait for can serve more at once, and never "
            f"more than {sized.population}; a replay gives no number, because on another size the tasks would come at "
            f"other times.{ordered}",
        )
    if sized.feeder == name:
        # To bound what workers submit to their own pool would have them wait for each other.
        return Advice(
            diagnosis.action,
            f"The workers of {name!r} submit these tasks themselves, so there is no number: on a larger pool they "
            f"would come faster. More workers help if what the tasks wait for can serve more at once.{ordered}",
            pool=name,
        )
    if sized.feeder is not None:
        return Advice(
            diagnosis.action if single else "bound_submission",
            f"The workers of pool {sized.feeder!r}, itself full, submit these tasks, so there is no number for "
            f"{name!r} alone: with a larger {sized.feeder!r} they would come faster. Size that pool first, or let it "
            f"submit less at a time.{ordered}",
            pool=sized.feeder,
        )
    if suggested is None:
        return Advice(
            "bound_submission",
            f"No size up to {LARGEST} keeps up with this load: let less in. Bound what is submitted to {name!r} at a "
            "time (a semaphore, a bounded queue), or make the tasks shorter.",
        )
    return Advice(
        diagnosis.action,
        f"Give {name!r} max_workers={suggested} (now {signals.max_workers}): replayed on {suggested}, the recorded "
        f"tasks never fill the pool for {seconds(sustain_seconds)}, if they run as long as they did."
        f"{_binds_first(signals, suggested)}{ordered}",
        suggested_max_workers=suggested,
    )


def _binds_first(signals: PoolSignals, suggested: int) -> str:
    """A warning where something else than the size would be the limit before so many workers are busy.

    The CPU: so many workers at their present use of it. What the tasks wait for: runs that are longer already than
    those that nothing hindered.
    """
    limit, share, whose = cpu_limit(signals), signals.worker_cpu_share, "a busy worker uses"
    children, allowed = child_cores(signals), signals.process.cores_allowed
    if children is not None and allowed is not None:
        limit, share, whose = allowed, children / signals.max_workers, "the child process of a worker uses"
    if limit is not None and share and (enough := workers_for_cpu(limit, share)) < suggested:
        return (
            f" The CPU binds first: {whose} {_percent(share)} of a core, so about {enough} of them use up the "
            f"{limit:g} they can have."
        )
    alone, run = signals.work.alone_p50_seconds, signals.work.run_p50_seconds
    if alone and run and became_slower(signals):
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


_LOOP_WHY = {
    "blocking_call": "a blocking call held it",
    "cpu_bound": "computing held it",
    "gil_contention": "other threads held the interpreter's lock (GIL)",
    "gc": "garbage collection held it",
    "host_descheduled": "the process did not get a CPU",
    "unknown": "why is not established",
}

_LOOP_TEXT = {
    "await_instead": "Await an asynchronous equivalent there (asyncio.sleep, an async client), or run the call in "
    "asyncio.to_thread().",
    "use_process_pool": "Move the computing to a process: loop.run_in_executor() with a ProcessPoolExecutor.",
}


def loop_summary(signals: LoopLineSignals, name: str, frames: Sequence[Frame]) -> str:
    """One sentence on the blocks of one line."""
    times = "once" if signals.blocks == 1 else f"{signals.blocks} times"
    return (
        f"Event loop {name!r} was blocked {times}, {seconds(signals.blocked_seconds)} in all (longest "
        f"{seconds(signals.longest_seconds)}): {_LOOP_WHY[signals.cause]}{_place(frames)}, and every other task waited."
    )


def loop_advice(diagnosis: Diagnosis) -> Advice:
    """The one thing to do."""
    if diagnosis.cause == "gil_contention":
        return Advice(
            diagnosis.action,
            "The threads at this line keep the GIL from the loop: move their computing to processes.",
        )
    if diagnosis.cause == "gc":
        return Advice("none", "Fewer objects in cycles, or gc.freeze() after start-up, shorten collections.")
    if diagnosis.cause == "host_descheduled":
        return Advice("none", "No line is to blame: the machine or its quota gave the process too little CPU.")
    return Advice(diagnosis.action, _LOOP_TEXT.get(diagnosis.action, "Look at the line shown."))

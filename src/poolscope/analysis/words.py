"""A diagnosis in words: one sentence that a tired person understands, and one thing to do.

Every number in a sentence is one of the evidence's. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence

from poolscope.analysis.detection import Diagnosis, LoopLineSignals
from poolscope.analysis.signals import PoolSignals
from poolscope.model import Advice, Frame


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


def pool_summary(diagnosis: Diagnosis, name: str, since: float, signals: PoolSignals, frames: Sequence[Frame]) -> str:
    """One sentence: what happened, since when, why, where."""
    workers = _workers(signals.max_workers)
    costs = (
        f"a task now waits {seconds(signals.wait_p50_seconds)} for {seconds(signals.run_p50_seconds)} of its own work"
    )
    if diagnosis.pattern == "stalled":
        return (
            f"Pool {name!r} has stood still: all {workers} busy, {signals.queue_depth} tasks queued, and nothing "
            f"finished for {seconds(signals.seconds_since_finish)}{_place(frames)}."
        )
    turned = {
        "serial": f"Pool {name!r} runs its tasks one after another since {since:.1f} s",
        "async_then_serial": f"Pool {name!r} turned serial at {since:.1f} s",
    }[diagnosis.pattern]
    why = {
        "single_worker": f"its one worker is never free, and {costs}{_place(frames)}",
        "cpu_bound": f"its {workers} compute and have used up the CPU, so {costs}{_place(frames)}",
        "blocking_io": f"all {workers} are waiting{_place(frames)}, tasks come faster than they finish, and {costs}",
    }.get(diagnosis.cause, f"{workers} are full and {costs}; why is not established")
    return f"{turned}: {why}."


def burst_summary(name: str, count: int, longest: float, total: float) -> str:
    """One sentence on saturation that was short, or whose waits were."""
    times = "once" if count == 1 else f"{count} times"
    return (
        f"Pool {name!r} was full with tasks queued {times}, {seconds(total)} in all (longest {seconds(longest)}): no "
        "more than random load brings to a healthy pool."
    )


def burst_advice() -> Advice:
    """Nothing to do."""
    return Advice("none", "Nothing needs doing.")


def pool_advice(
    diagnosis: Diagnosis, name: str, signals: PoolSignals, suggested: int | None, sustain_seconds: float
) -> Advice:
    """The one thing to do, with a number only where the size of the pool is the problem."""
    action = diagnosis.action
    if diagnosis.sized:
        if suggested is None:
            return Advice(
                "bound_submission",
                f"No size up to 1000 keeps up with this load: let less in. Bound what is submitted to {name!r} at a "
                "time (a semaphore, a bounded queue), or make the tasks shorter.",
            )
        text = (
            f"Give {name!r} max_workers={suggested} (now {signals.max_workers}): replayed on {suggested}, the recorded "
            f"tasks never fill the pool for {seconds(sustain_seconds)}."
        )
        if diagnosis.cause == "single_worker":
            text += " If one worker is there to keep the order, say `ordered: true` in the settings."
        return Advice(action, text, suggested_max_workers=suggested)
    if action == "use_process_pool":
        return Advice(
            action,
            "More threads cannot help: the work computes and shares one CPU. Move it to a ProcessPoolExecutor, or to "
            "code that releases the GIL.",
        )
    if diagnosis.cause == "cpu_bound":
        return Advice("none", "The work uses every CPU it may use: only more CPUs or less work make it faster.")
    return Advice(
        "none",
        "The cause is not established from what was recorded; look at the lines where the workers are.",
    )


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

"""Where an asyncio task is, read from its coroutines, at no cost to it."""

from __future__ import annotations

from types import AsyncGeneratorType, CoroutineType, GeneratorType

from poolscope.probe.interpreter.stacks import DEPTH_LIMIT, is_user_file
from poolscope.probe.limits.lost import lost

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType, FrameType
    from typing import Any

    from poolscope.probe.limits.limit import Limit
    from poolscope.probe.recording.recorder import WorkerLog

    #: A place of a limit, the hold that has it, as `WorkerLog.running`, and the task that holds it.
    Held = tuple[WorkerLog, tuple[int, int, int], Any]
    Line = tuple[str, int, str]
    Place = Callable[[Any, dict[CodeType, str]], tuple[list[Line], int, str]]

#: The gate of a task that waits for something else than a limit.
AWAIT = "await"
#: A coroutine that waits for a limit has so many below it at most.
GATE_DEPTH = 4


def place_of(task: Any, gates: dict[CodeType, str]) -> tuple[list[Line], int, str]:
    """Return the user's innermost line, then the line of what that awaits, if any; the instruction in the last one of
    these; and what the task waits for: AWAIT, one of `gates` (by the code of the coroutine that waits), or "" if it
    runs or is about to.

    ([], 0, "") if nothing is known.
    """
    gate = AWAIT if getattr(task, "_fut_waiter", None) is not None else ""
    return place_in(task.get_coro(), gate, gates)


def place_in(awaited: Any, gate: str, gates: dict[CodeType, str]) -> tuple[list[Line], int, str]:
    """Return the same of a coroutine; `gate` is what it waits for, if it is none of `gates`."""
    frames: list[FrameType] = []
    try:
        for _ in range(DEPTH_LIMIT):
            kind = type(awaited)
            if kind is CoroutineType:
                frame, awaited = awaited.cr_frame, awaited.cr_await
            elif kind is GeneratorType:
                frame, awaited = awaited.gi_frame, awaited.gi_yieldfrom
            elif kind is AsyncGeneratorType:
                frame, awaited = awaited.ag_frame, awaited.ag_await
            else:
                break
            if frame is None:
                break
            frames.append(frame)
        if not frames:
            return [], 0, ""
        if gate:
            gate = next((gates[each.f_code] for each in frames[-GATE_DEPTH:] if each.f_code in gates), gate)
        users = len(frames) - 1
        while users > 0 and not is_user_file(frames[users].f_code.co_filename):
            users -= 1
        if not is_user_file(frames[users].f_code.co_filename):
            users = len(frames) - 1
        shown = frames[users : users + 2]
        lines = [(frame.f_code.co_filename, frame.f_lineno or 0, frame.f_code.co_qualname) for frame in shown]
        return lines, shown[-1].f_lasti, gate
    finally:
        # A frame that we held would keep the locals of the user's task alive.
        frame = None
        frames.clear()
        shown = []


def _is_done(task: Any) -> bool:
    return bool(task.done())


def known_holders(limit: Limit) -> list[Held]:
    """Return the tasks that are known to hold a limit. To be let go at once."""
    found: list[Held] = []
    for log in list(limit.watch.recorder.workers):
        running, holder = log.running, getattr(log, "holder", None)
        task = None if holder is None or running is None else holder()
        if task is not None and running is not None:
            found.append((log, running, task))
    return found


def look(
    limit: Limit,
    most: int,
    gates: dict[CodeType, str],
    holders: Callable[[Limit], list[Held]] = known_holders,
    *,
    standstill: bool = False,
    place: Place = place_of,
    ended: Callable[[Any], bool] = _is_done,
) -> tuple[list[Any], list[Any]]:
    """Return where the holders of a limit are, and where what waits for it is, as `poolscope.messages.Stack` has it: at
    most so many of each, the oldest first. Of what waits there is no worker (0), and when it was asked for.

    `standstill`: `holders` finds also those that came without a wait, so that it shows where none is left (see `lost`).
    `place` gives where a task is, as `place_of` does, and `ended` whether it has come to its end.
    """
    held: dict[Any, list[int]] = {}
    known = holders(limit)
    gone = lost(limit, ended=ended, held=(lambda: len(known)) if standstill else None)
    for log, running, task in known[:most]:
        lines, spot, gate = place(task, gates)
        # It went on while we read.
        if lines and log.running is running:
            held.setdefault((tuple(lines), spot, gate), []).extend((log.worker, running[0], running[2]))
    waiting: dict[Any, list[int]] = {}
    for hold in list(limit.waiting.values())[:most]:
        task = None if hold.asks is None or hold.permit is not None else hold.asks()
        if task is None:
            continue
        lines, spot, gate = place(task, gates)
        if lines:
            waiting.setdefault((tuple(lines), spot, gate), []).extend((0, hold.function, hold.submitted))
    return [*gone, *stacks(held)], stacks(waiting)


def stacks(found: dict[Any, list[int]]) -> list[Any]:
    """Return what was found by lines, spot and gate as `poolscope.messages.Stack` has it."""
    return [[list(lines), spot, tasks, gate] for (lines, spot, gate), tasks in found.items()]

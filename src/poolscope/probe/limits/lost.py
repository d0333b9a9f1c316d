"""Places of a lock or semaphore that are never given back: told only where that is sure.

Of a hold that was waited for it is known which task or thread asked for it, and at which line. If that has ended, and
what took it has always given it back itself before, it is lost. Of one that came without a wait nothing is known: it is
lost where nothing in the process can go on any more, and no task is inside of it.
"""

from __future__ import annotations

import sys
from collections import deque

from poolscope.probe.interpreter.unpatched import current_frames, get_ident
from poolscope.probe.limits.limit import STANDSTILL_NS
from poolscope.probe.sampling.coroutines import LOOPS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from poolscope.probe.limits.limit import Hold, Limit

    Line = tuple[str, int, str]
    #: As a stack has it: the lines that took it, the instruction, and worker, function and start.
    Lost = tuple[tuple[Line, ...], int, list[int]]

#: The gate of what is lost (see `poolscope.messages.Stack`).
LEAKED = "leaked"
#: So many holds have come back from what took them, before one is lost whose taker has ended.
RETURNS_NEEDED = 8


def lost(limit: Limit, *, ended: Callable[[Any], bool], held: Callable[[], int] | None = None) -> list[Any]:
    """Return the lost holds of a limit that something waits for, as `poolscope.messages.Stack` has them.

    `ended` says whether a task or thread that is still there has come to its end; `held` gives how many holds are known
    to be held, also of those that came without a wait: where that is not there, nothing is said of these.
    """
    if not limit.waiting:
        return []
    found = list(_of_ended(limit, ended)) if limit.own_returns >= RETURNS_NEEDED else []
    if not found and held is not None and limit.nameless and not limit.named:
        running = [(log, log.running) for log in list(limit.watch.recorder.workers)]
        taken = [(log, now) for log, now in running if now is not None]
        since = max((now[2] for _, now in taken), default=0)
        if taken and limit.clock() - since >= STANDSTILL_NS and not held() and nothing_goes_on():
            found = [((), 0, [log.worker, now[0], now[2]]) for log, now in taken]
    return [[list(lines), spot, tasks, LEAKED] for lines, spot, tasks in found]


def _of_ended(limit: Limit, ended: Callable[[Any], bool]) -> Iterable[Lost]:
    for hold in limit.named_holds():
        permit, weak = hold.permit, hold.asks
        running = None if permit is None else permit.running
        if permit is None or running is None or weak is None or running[1:] != (hold.submitted, hold.started):
            continue
        holder = weak()
        if holder is None or ended(holder):
            yield (_line(hold),), 0 if hold.site is None else hold.site[1], [permit.worker, running[0], running[2]]


def _line(hold: Hold) -> Line:
    if hold.site is None:
        return "", 0, ""
    code, at = hold.site
    lines = (line for begin, end, line in code.co_lines() if begin <= at < end)
    return code.co_filename, next(lines, None) or code.co_firstlineno, code.co_qualname


def nothing_goes_on() -> bool:
    """Whether no callback, timer, socket or thread is left that could do anything: asyncio's loops wait for nothing,
    and there is no thread but theirs and ours. False where that is not known."""
    loops = [loop for weak, _ in list(LOOPS.values()) if (loop := weak()) is not None]
    threads = {getattr(loop, "_thread_id", None) for loop in loops}
    frames = current_frames()
    try:
        others = set(frames) - threads - {get_ident()}
        return bool(loops) and not others and all(_waits_for_nothing(loop, frames) for loop in loops)
    finally:
        frames.clear()


def _waits_for_nothing(loop: Any, frames: dict[int, Any]) -> bool:
    events = sys.modules.get("asyncio.unix_events")
    if events is None or type(loop) is not getattr(events, "_UnixSelectorEventLoop", None):
        return False
    frame = frames.get(loop._thread_id)
    if frame is None or frame.f_globals.get("__name__") != "selectors":
        return False  # it is in a callback
    ready, timers, files = loop._ready, loop._scheduled, loop._selector.get_map()
    idle = type(ready) is deque and not ready and all(timer._cancelled for timer in list(timers))
    # One file wakes the loop up.
    return idle and len(files) <= 1 and not loop._signal_handlers

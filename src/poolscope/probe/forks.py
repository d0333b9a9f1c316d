"""Around a fork: whether the program has threads of its own, and how ours goes on after it.

A child of a process with threads may deadlock, and Python warns of that. Our thread must not be the reason.
"""

from __future__ import annotations

import os
import sys

from poolscope.probe.interpreter.shapes import Unfamiliar, thread_table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


def others_run() -> bool:
    """Whether the program has threads beside the calling one that `threading` has started.

    A dummy stands there for each other one that was ever asked for its name, in order to log: ours too. Those that
    answer scrapes are of a class of ours.
    """
    threading = sys.modules.get("threading")
    try:
        threads = [] if threading is None else list(thread_table(threading).values())
    except (Unfamiliar, RuntimeError):  # or one came or went meanwhile
        return False
    classes = map(type, threads)
    return sum(kind.__name__ != "_DummyThread" and not kind.__module__.startswith("poolscope.") for kind in classes) > 1


def single_threaded() -> bool:
    """Whether this process has one thread; False where the system does not say."""
    try:
        return len(os.listdir("/proc/self/task")) == 1
    except OSError:
        return False


def go_on(wakes: list[Callable[[], object]]) -> None:
    """Start the threads again that ended for a fork, in its parent.

    From Python 3.12 on the threads are counted for the warning after this. A process that has none now goes on with the
    next turn of its running loop, or the next event of a pool.
    """
    if not single_threaded():
        for wake in wakes:
            wake()
        return
    events = sys.modules.get("asyncio.events")
    loop = None if events is None else events._get_running_loop()
    if loop is not None:
        for wake in wakes:
            loop.call_soon(wake)

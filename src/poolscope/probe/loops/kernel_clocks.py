"""Readings that show why a thread makes no progress: collections, the kernel's view of it, our own wake-ups.

Readings only: nothing here keeps a thread, a frame or a loop, or judges.
"""

from __future__ import annotations

import gc
import os
from collections import deque
from functools import partial
from itertools import repeat, starmap

from poolscope.probe.interpreter.cpu import read_kernel
from poolscope.probe.interpreter.standard import standard

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Clock = Callable[[], int]

#: The most collections to remember between two readings; the oldest are forgotten first.
_COLLECTIONS_KEPT = 4096
#: Numbers of the system call `futex`, by machine.
_FUTEX = {"x86_64": 202, "aarch64": 98}.get(os.uname().machine if hasattr(os, "uname") else "")


class GcTime:
    """Time spent in garbage collections, in any thread: they hold the GIL.

    The callback that the collector calls consists of C functions alone. In one written in Python, the handler of a
    signal that came during a collection would run, and what it raises (Ctrl-C) would be printed and lost. `install`
    and `remove` may be called by any thread, `total_ns` by one at a time.
    """

    def __init__(self, clock: Clock) -> None:
        self._begun: deque[int] = deque(maxlen=_COLLECTIONS_KEPT)
        self._done: deque[int] = deque(maxlen=_COLLECTIONS_KEPT)
        self._ended_ns = 0
        #: The total as it was at the last reading. Any thread may look.
        self.known_ns = 0
        # The collector calls `getattr(phases, "start" or "stop", info)`. The property answers by drawing the next
        # item of an endless iterator, which appends a reading of the clock.
        attributes = {
            phase: property(partial(next, map(log.append, starmap(clock, repeat(())))))
            for phase, log in (("start", self._begun), ("stop", self._done))
        }
        phases = type("Phases", (), attributes)()
        self._callback: Callable[..., Any] = partial(getattr, phases)

    def install(self) -> None:
        """Begin to count. Does nothing if it counts already."""
        if self._callback not in gc.callbacks:
            # One that was going on at `remove` has a start without an end.
            self._begun.clear()
            self._done.clear()
            gc.callbacks.append(self._callback)

    def remove(self) -> None:
        """Stop counting."""
        try:
            gc.callbacks.remove(self._callback)
        except ValueError:
            pass

    def total_ns(self, now_ns: int) -> int:
        """Return the nanoseconds so far, including the present collection."""
        begun, done = self._begun, self._done
        while done:
            end = done.popleft()
            start = None
            # The last start before an end is that end's: collections do not overlap.
            while begun and begun[0] <= end:
                start = begun.popleft()
            if start is not None:
                self._ended_ns += end - start
        going_on = max(0, now_ns - begun[-1]) if begun else 0
        self.known_ns = self._ended_ns + going_on
        return self.known_ns


def switches_reader() -> Callable[[], int | None]:
    """Return a function that says how often the calling thread has gone to sleep of its own accord; None if unknown."""
    try:
        resource = standard("resource")
        getrusage, thread = resource.getrusage, resource.RUSAGE_THREAD
    except (ImportError, AttributeError):
        return lambda: None
    return lambda: getrusage(thread).ru_nvcsw


def kernel_wait(native_id: int) -> str:
    """Return what the kernel sees the thread do: "run", "futex" (the GIL, or any lock), "call" (anything else that
    waits).

    "" where it does not tell. Gives the GIL away, as above.
    """
    fields = read_kernel(native_id, "syscall").split()
    if not fields or _FUTEX is None:
        return ""
    if fields[0] == "running":
        return "run"
    if not fields[0].isdecimal():
        return ""
    return "futex" if int(fields[0]) == _FUTEX else "call"

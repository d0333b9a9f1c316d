"""What the thread of a held event loop waits for, where that shows what to do: read from its frames.

Waits in C code do not show. We call no code of the program, and hold no frame or future after a call returns.
"""

from __future__ import annotations

import sys
from itertools import islice
from types import FunctionType

from poolscope.probe.interpreter import shapes
from poolscope.probe.interpreter.imports import in_flight
from poolscope.probe.sampling.coroutines import Follower
from poolscope.probe.sampling.wait_reasons import WaitReasons
from poolscope.probe.sampling.waits import future_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType, FrameType
    from typing import Any

#: Callbacks of a loop to look through for the one that starts a coroutine.
_READY_LIMIT = 1000
#: Frames to look at, from the innermost outwards.
_DEPTH = 8


class _Codes:
    """Code of the functions that wait, and what they wait for. Raises Unfamiliar."""

    def __init__(self, threading: Any, base: Any, tell: Callable[[str], object]) -> None:
        shapes.waiting(threading, base)
        self.base = base
        self.future: tuple[CodeType, ...] = (base.Future.result.__code__, base.Future.exception.__code__)
        #: Outermost first: the end of an executor joins its threads, and a thread that starts sets an event.
        self.gates: dict[CodeType, str] = {
            base.wait.__code__: "future",
            base.as_completed.__code__: "future",
            threading.Thread.start.__code__: "thread_start",
            threading.Thread.join.__code__: "thread_end",
            threading.Event.wait.__code__: "event",
        }
        thread = sys.modules.get("concurrent.futures.thread")
        shutdown = getattr(getattr(getattr(thread, "ThreadPoolExecutor", None), "shutdown", None), "__code__", None)
        if shutdown is not None:
            self.gates[shutdown] = "executor_end"
        self.follower = Follower(base, tell)


#: Those that stand outside of others, and say more.
_OUTER = ("executor_end", "thread_start", "thread_end", "future", "event")


class LoopStops:
    """Says at what a loop's thread is stopped: as `Stack.gate` has it, or a "future", a coroutine that only this loop
    can run ("own_coroutine"), the end of an executor or a thread ("executor_end", "thread_end"), the start of a thread
    ("thread_start"), an "event"; "": not known. `tell` hears of what is not seen."""

    def __init__(self, tell: Callable[[str], object] = lambda _: None) -> None:
        self._tell = tell
        self._reasons: WaitReasons | None = None
        self._codes: _Codes | None = None
        self._base: Any = None

    def __call__(self, frame: FrameType | None, loop: Any) -> str:
        """Return what this innermost frame of the loop's thread waits for."""
        if frame is None:
            return ""
        if self._reasons is None:
            self._reasons = WaitReasons(self._tell)
        return self._of_threads(frame, loop) or self._reasons(frame)

    def _of_threads(self, frame: FrameType, loop: Any) -> str:
        base = sys.modules.get("concurrent.futures._base")
        if base is None or not self._knows(base):
            return ""
        codes = self._codes
        assert codes is not None
        found: set[str] = set()
        each: FrameType | None = frame
        for _ in range(_DEPTH):
            if each is None:
                break
            if each.f_code in codes.future:
                return "own_coroutine" if self._is_own(future_of(each), loop) else "future"
            gate = codes.gates.get(each.f_code)
            if gate is not None:
                found.add(gate)
            each = each.f_back
        return next((gate for gate in _OUTER if gate in found), "")

    def _knows(self, base: Any) -> bool:
        if base is not self._base:
            threading = sys.modules.get("threading")
            if threading is None or in_flight(base):
                return False
            self._base, self._codes = base, None
            try:
                self._codes = _Codes(threading, base, self._tell)
            except shapes.Unfamiliar as reason:
                self._tell(shapes.missed("what blocks an event loop is not seen", reason))
        return self._codes is not None

    def _is_own(self, future: Any, loop: Any) -> bool:
        """Whether a future is that of a coroutine of this loop, or waits in the loop's queue for becoming one."""
        codes = self._codes
        assert codes is not None
        if loop is None or type(future) is not codes.base.Future:
            return False
        return codes.follower.loop_of(future) is loop or _is_queued(future, loop)


def _is_queued(future: Any, loop: Any) -> bool:
    """Whether `run_coroutine_threadsafe` made this future, and the loop has not started its coroutine yet."""
    ready = vars(loop).get("_ready") if hasattr(loop, "__dict__") else None
    if ready is None:
        return False
    try:
        handles = list(islice(ready, _READY_LIMIT))
    except RuntimeError:
        return False  # another thread has put something in
    for handle in handles:
        callback = getattr(handle, "_callback", None)
        if type(callback) is not FunctionType or callback.__closure__ is None:
            continue
        names = callback.__code__.co_freevars
        if callback.__module__ != "asyncio.tasks" or "future" not in names:
            continue
        if callback.__closure__[names.index("future")].cell_contents is future:
            return True
    return False

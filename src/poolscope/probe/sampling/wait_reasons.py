"""What a thread waits for, where that shows what is too slow: read from its frames, at no cost to any task.

Most waiting calls do not show what they wait for. These do: a lock that a `with` takes, as nothing else in C waits when
it is entered; a lock that the standard library takes for its callers (a log handler); a semaphore; a full queue, which
waits for its consumer; and a child process.
"""

from __future__ import annotations

import queue
import threading

from poolscope.probe.interpreter import shapes
from poolscope.probe.interpreter.unpatched import replaced

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType, FrameType

#: Where functions of these names only pass on the call to a lock, in C.
_PASS_ON = ("logging", "threading", "multiprocessing.synchronize")
_TAKE = ("acquire", "__enter__")
#: The module that waits for child processes, and in which that is the only thing to wait for.
_CHILDREN = "subprocess"


class WaitReasons:
    """Says what a thread waits for. `tell` gets a line for what an unknown interpreter does not show."""

    def __init__(self, tell: Callable[[str], object] = lambda _: None) -> None:
        self._condition: CodeType | None = None
        self._behind: dict[CodeType, str] = {}
        self._entering = b""
        try:
            shapes.blocking(threading, queue)
            self._condition = threading.Condition.wait.__code__
            self._behind = {
                threading.Semaphore.acquire.__code__: "semaphore",
                queue.Queue.put.__code__: "queue",
            }
        except shapes.Unfamiliar as reason:
            if not replaced():  # greenlets have no frames among those of the threads
                tell(shapes.missed("workers are not seen to wait at semaphores and full queues", reason))
        try:
            self._entering = shapes.entering()
        except shapes.Unfamiliar as reason:
            tell(shapes.missed("workers are not seen to wait at locks", reason))

    def __call__(self, frame: FrameType) -> str:
        """Return what the thread of this innermost frame waits for: a "lock", a "semaphore", a full "queue", a "child"
        process; "": not known."""
        code = frame.f_code
        if code is self._condition:
            caller = frame.f_back
            return "" if caller is None else self._behind.get(caller.f_code, "")
        # Had the context manager been written in Python, its frame would be the innermost one.
        if _CHILDREN in (_module(frame), _module(frame.f_back)):
            return "child"
        if code.co_name in _TAKE and _module(frame) in _PASS_ON:
            return "lock"
        at = frame.f_lasti
        entering = self._entering
        return "lock" if entering and at >= 0 and code.co_code.endswith(entering, 0, at + 1) else ""


def _module(frame: FrameType | None) -> object:
    return None if frame is None else frame.f_globals.get("__name__")

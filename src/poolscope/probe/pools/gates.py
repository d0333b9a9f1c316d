"""What a thread waits for, where that tells who or what is too slow: read from its frames, at no cost to any task.

Most calls that wait say nothing about what for. These do: a lock that a `with` takes, which is the one thing written in
C that waits as it is entered, a semaphore, a full queue, which waits for whoever takes out of it, and a child process.
"""

from __future__ import annotations

import opcode
import queue
import threading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType

#: The instruction of a `with` that enters. Later interpreters have none of their own for it.
_ENTER = opcode.opmap.get("BEFORE_WITH")

_CONDITION = threading.Condition.wait.__code__
_BEHIND = {
    threading.Semaphore.acquire.__code__: "semaphore",
    queue.Queue.put.__code__: "queue",
}


#: The module that waits for child processes, and in which that is the only thing to wait for.
_CHILDREN = "subprocess"


def gate(frame: FrameType) -> str:
    """What the thread of this innermost frame waits for: a "lock", a "semaphore", a full "queue", a "child" process;
    "": not known."""
    code = frame.f_code
    if code is _CONDITION:
        caller = frame.f_back
        return "" if caller is None else _BEHIND.get(caller.f_code, "")
    # Had the context manager been written in Python, its frame would be the innermost one.
    if _CHILDREN in (_module(frame), _module(frame.f_back)):
        return "child"
    at = frame.f_lasti
    return "lock" if _ENTER is not None and at >= 0 and code.co_code[at] == _ENTER else ""


def _module(frame: FrameType | None) -> object:
    return None if frame is None else frame.f_globals.get("__name__")

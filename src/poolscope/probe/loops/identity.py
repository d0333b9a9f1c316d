"""Which event loop it is: its number, its thread, and whether it is one that we can watch."""

from __future__ import annotations

import sys
from _thread import get_ident, get_native_id
from itertools import count
from weakref import ref

from poolscope.probe.loops.busythreads import known_threads
from poolscope.probe.sampling.coroutines import LOOPS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import FrameType
    from typing import Any

#: The package whose loop runs a notebook's cells, and how far out its frames are looked for.
_KERNEL = "ipykernel"
_FRAMES_LIMIT = 200

# Unique in the process, also across several patches.
_next_number = count(1).__next__
_numbers = LOOPS


def number_of(loop: Any) -> int:
    """Return the number of this loop, the same in each run. Raises TypeError if it takes no weak reference."""
    key = id(loop)
    known = _numbers.get(key)
    if known is not None and known[0]() is loop:
        return known[1]
    number = _next_number()
    numbers = _numbers  # the name is gone before the last loops are, as the interpreter shuts down

    def forget(gone: ref[Any]) -> None:
        # The address may be another loop's by now.
        if key in numbers and numbers[key][0] is gone:
            numbers.pop(key, None)

    numbers[key] = (ref(loop, forget), number)
    return number


def in_notebook() -> bool:
    """Whether the kernel of a notebook runs the loop that begins here: then each cell is one of its callbacks."""
    if _KERNEL not in sys.modules:
        return False
    frame: FrameType | None = sys._getframe(1)
    for _ in range(_FRAMES_LIMIT):
        if frame is None:
            break
        name = frame.f_globals.get("__name__")
        if isinstance(name, str) and name.partition(".")[0] == _KERNEL:
            return True
        frame = frame.f_back
    return False


def has_own(cls: type, names: Iterable[str]) -> bool:
    """Whether a class of loops answers to one of these names by itself, and not as asyncio's and uvloop's do."""
    for name in names:
        owner = next((base for base in type.mro(cls) if name in vars(base)), cls)
        if str(owner.__module__).partition(".")[0] not in ("asyncio", "uvloop"):
            return True
    return False


def unwatched(label: str, exc: Exception) -> str:
    """Return the notice on a loop of that class (`label`), which raised where it was asked or looked at."""
    try:
        text = f"{type(exc).__name__}: {exc}".replace("\n", " ")[:200]
    except Exception:
        text = type(exc).__name__
    return f"an event loop of class {label} is not watched: {text}"


def thread_name() -> str:
    """Return the name of the calling thread."""
    # Not current_thread(): in a thread that threading does not know, it makes one up that stays.
    thread = known_threads().get(get_ident())
    return f"thread-{get_native_id()}" if thread is None else str(thread.name)

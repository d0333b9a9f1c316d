"""What has a connection, or waits for one: a thread or a task, and where it is now."""

from __future__ import annotations

from _thread import get_ident
from threading import local
from types import AsyncGeneratorType, CoroutineType, GeneratorType
from weakref import ref

from poolscope.probe.interpreter.stacks import DEPTH_LIMIT, is_user_file, user_place
from poolscope.probe.interpreter.unpatched import current_frames
from poolscope.probe.limits.coroutines import AWAIT, place_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import FrameType
    from typing import Any

    from poolscope.probe.interpreter.stacks import Line

#: Gates of what has a connection (see `poolscope.messages.Stack`): it uses it; what took it has ended.
USES, LEAKED = "client", "leaked"

#: Where these have their frame, and what they await. No other attribute is asked for, which may be the program's code.
_AWAITS = {
    CoroutineType: ("cr_frame", "cr_await"),
    GeneratorType: ("gi_frame", "gi_yieldfrom"),
    AsyncGeneratorType: ("ag_frame", "ag_await"),
}


class Sign:
    """A thread, for as long as it lives."""

    __slots__ = ("__weakref__", "ident", "weak")

    def __init__(self) -> None:
        self.ident = get_ident()
        self.weak = ref(self)


class _Thread(local):
    def __init__(self) -> None:
        self.sign = Sign()


#: Has the sign of the thread that reads it.
this_thread = _Thread()


class Places:
    """Where threads and tasks are now. Holds frames: `frames` is to be cleared."""

    def __init__(self, libraries: tuple[str, ...]) -> None:
        self.frames = current_frames()
        self._libraries = libraries

    def of(self, asks: Callable[[], Any] | None) -> tuple[tuple[Line, ...], int, str] | None:
        """Return lines, instruction and gate of what asks, which is referred to weakly, if it is known."""
        holder = asks and asks()
        if holder is None:
            return None
        if type(holder) is not Sign:
            lines, spot, gate = place_of(holder, {})
            uses = self._uses(_coroutine_modules(holder))
        else:
            frame = self.frames.get(holder.ident)
            if frame is None:
                return None
            lines, spot = user_place(frame)
            modules = list(_modules(frame))
            uses = self._uses(modules)
            # In a builtin that it calls itself: that may be one of the client's, in C.
            gate = AWAIT if modules and not uses else ""
            frame = None
        return (tuple(lines), spot, USES if uses else gate) if lines else None

    def _uses(self, modules: Iterable[object]) -> bool:
        return any(isinstance(name, str) and name.partition(".")[0] in self._libraries for name in modules)


def _modules(frame: FrameType | None) -> Iterable[object]:
    """Yield the modules of what the user's innermost line has called."""
    for _ in range(DEPTH_LIMIT):
        if frame is None or is_user_file(frame.f_code.co_filename):
            return
        yield frame.f_globals.get("__name__")
        frame = frame.f_back


def _coroutine_modules(task: Any) -> list[object]:
    """Return the modules of what the user's innermost coroutine awaits."""
    awaited = task.get_coro()
    modules: list[object] = []
    for _ in range(DEPTH_LIMIT):
        names = _AWAITS.get(type(awaited))
        frame = None if names is None else getattr(awaited, names[0])
        if names is None or frame is None:
            break
        if is_user_file(frame.f_code.co_filename):
            modules.clear()
        else:
            modules.append(frame.f_globals.get("__name__"))
        awaited = getattr(awaited, names[1])
    return modules

"""Threads and processes that are started by hand and not by a pool: how many, and where. Their work is not recorded.

`start` of `threading.Thread` and of multiprocessing's processes is replaced by one that counts, after the thread or
process has started. It adds no frame to their stack. In a program without pools it is the only part of ours: all else
is loaded when there is something to count.
"""

from __future__ import annotations

import os
import sys
from _thread import RLock
from functools import update_wrapper
from weakref import ref

from poolscope.probe.interpreter.blame import is_ours
from poolscope.probe.interpreter.imports import imported
from poolscope.probe.interpreter.tracebacks import leave_out, unseen
from poolscope.probe.interpreter.unpatched import replaced

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from typing import Any

#: Module -> the class whose `start` is replaced, and what it starts.
_TARGETS = {"threading": ("Thread", "thread"), "multiprocessing.process": ("BaseProcess", "process")}
#: Modules between a class and the caller of its `start`.
_BETWEEN = ("threading", "multiprocessing.process", "multiprocessing.context")
#: The most places with counts of their own.
_PLACES_KEPT = 1000


class _Place:
    """A line, or a library, that starts threads or processes."""

    __slots__ = ("count", "in_turn", "last", "told")

    def __init__(self) -> None:
        self.count = self.told = 0
        #: Whether each was over before the next one began, as far as that can be seen.
        self.in_turn = True
        self.last: Callable[[], Any] = lambda: None


class _State:
    """The replacements and the counts. Changed under `lock` only."""

    def __init__(self) -> None:
        # Reentrant: a signal handler or a finalizer may start a thread while we are inside.
        self.lock = RLock()
        self.probe: Any = None
        #: Called once, when there is something to count and no probe.
        self.first: Callable[[], object] | None = None
        #: Packages whose pools are watched, and so the threads that they start.
        self.watched: frozenset[str] = frozenset()
        self.hooks: list[tuple[Any, Any, Any]] = []
        self.forget()

    def forget(self) -> None:
        self.lock = RLock()  # a thread of the parent may have held it
        #: By what, where, whose library ("" the program's own), and the module.
        self.places: dict[tuple[str, str, str, str], _Place] = {}
        #: All that was started, by pools too.
        self.started = 0


_state = _State()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_state.forget)


def exclude(packages: frozenset[str]) -> None:
    """Do not count what these packages start: their pools and loops are watched."""
    _state.watched = packages


def await_first(first: Callable[[], object]) -> None:
    """Count without a probe from now on; call `first` when there is something to report."""
    with _state.lock:
        if _state.probe is None:
            _state.first = first
        _hook()


def started() -> int:
    """Return how many threads and processes this process has started, those of pools included, since we count."""
    return _state.started


def patch(probe: Any) -> None:
    """Count for this probe. Does nothing where greenlets replace threads."""
    with _state.lock:
        _state.probe, _state.first = probe, None
        _hook()
    if flush not in probe.before_flush:
        probe.before_flush.append(flush)


def unpatch() -> None:
    """Put everything back that is still ours."""
    with _state.lock:
        _state.probe = _state.first = None
        while _state.hooks:
            cls, original, ours = _state.hooks.pop()
            if vars(cls).get("start") is ours:  # else another tool has wrapped it
                cls.start = original


def flush() -> None:
    """Report what was counted since the last report."""
    with _state.lock:
        for key, place in list(_state.places.items()):
            _tell(key, place)


def _hook() -> None:
    hooked = [cls for cls, _, _ in _state.hooks]
    for name, (attribute, what) in _TARGETS.items():
        cls = getattr(imported(name), attribute, None)
        if cls is not None and cls not in hooked and not replaced():
            original = vars(cls).get("start")
            if original is not None:
                ours = _counted(original, what)
                cls.start = ours
                _state.hooks.append((cls, original, ours))


def _counted(original: Callable[..., Any], what: str) -> Callable[..., Any]:
    # The names of this module are gone before the program's last threads are, as the interpreter shuts down.
    note, failed, getframe, shutting_down, left_out = _note, _failed, sys._getframe, sys.is_finalizing, leave_out

    def start(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        try:
            result = original(self, *args, **kwargs)
        except BaseException as exc:
            # A bare `raise` adds no line for this frame: the traceback is the one without us.
            left_out(exc)
            raise
        if not shutting_down():
            try:
                note(what, self, getframe(1))
            except Exception as exc:
                if not is_ours(exc):
                    raise
                failed(exc)
        return result

    return unseen(update_wrapper(start, original))


def _failed(exc: BaseException) -> None:
    if _state.probe is not None:
        _state.probe.fail("starts", exc)


def _note(what: str, child: Any, frame: FrameType | None) -> None:
    state = _state
    if not state.hooks:
        return  # the original is back, but another tool has kept ours
    state.started += 1
    while frame is not None and frame.f_globals.get("__name__") in _BETWEEN:
        frame = frame.f_back
    if frame is None:
        return
    module = frame.f_globals.get("__name__")
    module = module if isinstance(module, str) else ""
    library = module.partition(".")[0]
    if library in state.watched:
        return
    where = _place(frame)
    key = (what, where, "", module) if where else (what, library, library, module)
    with state.lock:
        place = state.places.get(key)
        if place is None:
            if len(state.places) >= _PLACES_KEPT:
                return
            place = state.places[key] = _Place()
        place.in_turn = place.in_turn and (place.count == 0 or _over(what, place.last()))
        place.count += 1
        place.last = ref(child)
        if place.count >= 2 * place.told:
            _tell(key, place)
        again = place.count > 1
    if again and state.probe is not None:
        state.probe.wake()  # our thread reads what waits for each of them
    first = state.first
    if first is not None:
        state.first = None
        first()


def _place(frame: FrameType) -> str:
    """Return the line ("package/file.py:12") if it is the user's, else ""."""
    from poolscope.probe.interpreter.stacks import is_user_file

    file = frame.f_code.co_filename
    if not is_user_file(file):
        return ""
    return f"{'/'.join(file.replace(os.sep, '/').split('/')[-2:])}:{frame.f_lineno or 0}"


def _over(what: str, child: Any) -> bool:
    """Whether what was started before is known to have ended. Asking changes nothing."""
    if child is None:
        return True
    if what == "thread":
        threading = sys.modules["threading"]
        return not threading.Thread.is_alive(child)
    # Asking a process whether it is alive would take its exit status from the code that waits for it.
    return getattr(getattr(child, "_popen", None), "returncode", None) is not None


def _tell(key: tuple[str, str, str, str], place: _Place) -> None:
    more = place.count - place.told
    if _state.probe is not None and more:
        what, where, library, module = key
        place.told = place.count
        _state.probe.emit(("started", what, where, library, more, place.in_turn, _executor_in(module)))


def _executor_in(module: str) -> str:
    """Return the class of executor that a module has made, which is of no kind that is watched: it starts them."""
    base = getattr(imported("concurrent.futures._base"), "Executor", None)
    waiting = [] if base is None else list(base.__subclasses__())
    for _ in range(_PLACES_KEPT):
        if not waiting:
            break
        cls = waiting.pop()
        if cls.__module__ == module:
            return f"{module}.{cls.__qualname__}"
        waiting += cls.__subclasses__()
    return ""

"""Watches event loops: how late they run what is due, and which callback holds them.

`run_forever` is patched in place, so that every loop is known from its start to its end, however it is run. `monitor`
watches the loops.

Loops that run in a way of their own (Qt's, wx's, those that nest) say so to asyncio, by `_set_running_loop`, which is
patched as well: there they are met, watched if they are like asyncio's, and told of if not.
"""

from __future__ import annotations

import sys
from _thread import allocate_lock
from functools import update_wrapper

from poolscope.probe.interpreter.imports import imported
from poolscope.probe.interpreter.shapes import Unfamiliar, loop_class, missed
from poolscope.probe.interpreter.tracebacks import leave_out, unseen
from poolscope.probe.loops.monitor import Monitor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from poolscope.probe.api import ProbeApi
    from poolscope.probe.loops.trio_loop import TrioPatch


class _Patch:
    """One class whose `run_forever` is ours. `own` is whether the class had one of its own."""

    def __init__(self, cls: Any, kind: str) -> None:
        self.cls = cls
        self.original = cls.run_forever
        self.own = "run_forever" in vars(cls)
        self.wrapper = _wrapped(self.original, kind)
        cls.run_forever = self.wrapper

    def undo(self) -> None:
        if vars(self.cls).get("run_forever") is not self.wrapper:
            return  # another patch wraps ours, which passes everything through from now on
        if self.own:
            self.cls.run_forever = self.original
        else:
            del self.cls.run_forever


def _wrapped(original: Callable[[Any], Any], kind: str) -> Callable[[Any], Any]:
    # The names of this module are gone before the program's last loops are, as the interpreter shuts down.
    state, getframe, shutting_down, left_out = _state, sys._getframe, sys.is_finalizing, leave_out

    def run_forever(self: Any) -> Any:
        monitor = state.monitor
        if monitor is None or shutting_down():
            return original(self)
        watch = monitor.enter(self, kind, id(getframe()))
        try:
            return original(self)
        except BaseException as error:
            # Raised again as it came, without our line in the traceback.
            left_out(error)
            raise
        finally:
            if watch is not None:
                monitor.leave(watch)

    return unseen(update_wrapper(run_forever, original))


class _Announcing:
    """asyncio's `_set_running_loop`, by each of its names: every loop calls it as it begins to run."""

    def __init__(self, original: Callable[[Any], Any]) -> None:
        self._original = original
        self._wrapper = _met(self._original)
        self._replace(self._original, self._wrapper)

    def _replace(self, before: Any, after: Any) -> None:
        for name in ("asyncio.events", "asyncio"):
            module = imported(name)
            if getattr(module, "_set_running_loop", None) is before:
                module._set_running_loop = after

    def undo(self) -> None:
        self._replace(self._wrapper, self._original)


def _met(original: Callable[[Any], Any]) -> Callable[[Any], Any]:
    state, shutting_down, meet = _state, sys.is_finalizing, _meet

    def _set_running_loop(loop: Any, /) -> None:
        original(loop)
        monitor = state.monitor
        if loop is not None and monitor is not None and not shutting_down():
            meet(monitor, loop)

    return update_wrapper(_set_running_loop, original)


def _meet(monitor: Monitor, loop: Any) -> None:
    """Watch a loop that begins to run, unless it is watched. Raises what is the program's, and nothing else."""
    if monitor.knows(loop):
        return
    cls = type(loop)
    label = f"{cls.__module__}.{cls.__qualname__}"
    try:
        loop_class(cls)
    except Unfamiliar as reason:
        monitor.probe.notice(
            f"an event loop of class {label} is of a kind that is not known, and not watched: {reason}"
        )
        return
    known = issubclass(cls, sys.modules["asyncio.base_events"].BaseEventLoop)
    if monitor.enter(loop, _kind(loop), None, adopted=True) is not None and not known:
        monitor.probe.notice(
            f"an event loop of class {label} is of a kind that is not known: what blocks it is seen as far as it uses"
            " asyncio's callbacks"
        )


class _State:
    """The patched classes. Changed under `lock` only."""

    def __init__(self) -> None:
        self.lock = allocate_lock()
        self.monitor: Monitor | None = None
        self.patches: dict[str, _Patch | _Announcing | TrioPatch] = {}


_state = _State()


def _of_class(kind: str) -> Callable[[Any], _Patch]:
    def make(cls: Any) -> _Patch:
        loop_class(cls)
        return _Patch(cls, kind)

    return make


def _of_trio(_: Any) -> TrioPatch:
    from poolscope.probe.loops.trio_loop import TrioPatch

    return TrioPatch(sys.modules[_TRIO], lambda: _state.monitor)


_TRIO = "trio._core._run"
#: Module -> what it defines last of what we need, and what patches it with that. Raises Unfamiliar.
_TARGETS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "asyncio.base_events": ("BaseEventLoop", _of_class("asyncio")),
    "uvloop": ("Loop", _of_class("uvloop")),
    "asyncio.events": ("_set_running_loop", _Announcing),
    _TRIO: ("unrolled_run", _of_trio),
}


def patch(probe: ProbeApi) -> None:
    """Watch, for this probe, the loops of what is imported by now, and the loop that runs in the calling thread.

    May be called again, after more was imported, or with another probe, which then takes the place of the first.
    """
    with _state.lock:
        old = _state.monitor
        if old is None or old.probe is not probe:
            _state.monitor = Monitor(probe)
            if old is not None:
                old.stop()
        for name, (attribute, make) in _TARGETS.items():
            # Absent, too, while the module is still being imported.
            found = getattr(imported(name), attribute, None)
            if found is not None and name not in _state.patches:
                try:
                    _state.patches[name] = make(found)
                except Unfamiliar as reason:
                    probe.notice(missed(f"event loops of {name} are not watched", reason))
        monitor = _state.monitor
    if flush not in probe.before_flush:
        probe.before_flush.append(flush)
    if monitor is not None:
        _adopt(monitor)


def unpatch() -> None:
    """Put everything back, and stop watching. Does nothing if nothing is patched."""
    with _state.lock:
        monitor, _state.monitor = _state.monitor, None
        while _state.patches:
            _state.patches.popitem()[1].undo()
    if monitor is not None:
        monitor.stop()


def flush() -> None:
    """Report lasting blocks and new lags, in the calling thread."""
    monitor = _state.monitor
    if monitor is not None:
        monitor.flush()


def _adopt(monitor: Monitor) -> None:
    """Watch the loop that runs in this thread already: we are called from one of its callbacks."""
    events = sys.modules.get("asyncio.events")
    loop = None if events is None else events._get_running_loop()
    if loop is None:
        return
    kind = _kind(loop)
    # asyncio's callbacks are found by the frame of their handle.
    monitor.enter(loop, kind, _base_of_task() if kind == "uvloop" else None, adopted=True)


def _kind(loop: Any) -> str:
    return "uvloop" if type(loop).__module__.partition(".")[0] == "uvloop" else "asyncio"


def _base_of_task() -> int | None:
    """Return the `id` of the frame below our task: under uvloop, the one that runs the loop. None outside of tasks."""
    try:
        task = sys.modules["asyncio.tasks"].current_task()
        frame = None if task is None else getattr(task.get_coro(), "cr_frame", None)
    except Exception:
        return None  # a kind of task that is not asyncio's
    if frame is None or frame.f_back is None:
        return None
    return id(frame.f_back)

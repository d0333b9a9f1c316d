"""Watches event loops: how late they run what is due, and which callback holds them.

`run_forever` is patched in place, so that every loop is known from its start to its end, however it is run. `monitor`
watches the loops.
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


class _State:
    """The patched classes. Changed under `lock` only."""

    def __init__(self) -> None:
        self.lock = allocate_lock()
        self.monitor: Monitor | None = None
        self.patches: dict[str, _Patch] = {}


_state = _State()

#: Module -> the class in it, and the kind of its loops.
_TARGETS = {"asyncio.base_events": ("BaseEventLoop", "asyncio"), "uvloop": ("Loop", "uvloop")}


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
        for name, (attribute, kind) in _TARGETS.items():
            # Absent, too, while the module is still being imported.
            cls = getattr(imported(name), attribute, None)
            if cls is not None and name not in _state.patches:
                try:
                    loop_class(cls)
                except Unfamiliar as reason:
                    probe.notice(missed(f"event loops of {name} are not watched", reason))
                else:
                    _state.patches[name] = _Patch(cls, kind)
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
    kind = "uvloop" if type(loop).__module__.partition(".")[0] == "uvloop" else "asyncio"
    # asyncio's callbacks are found by the frame of their handle.
    monitor.enter(loop, kind, _base_of_task() if kind == "uvloop" else None, adopted=True)


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

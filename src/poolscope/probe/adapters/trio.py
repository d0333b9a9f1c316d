"""trio's worker threads: each capacity limiter that `trio.to_thread.run_sync` runs them under is a pool.

What is replaced, and put back by `unpatch`: `to_thread_run_sync` of `trio._threads`, wherever trio has it by a name,
and `__init__` of the limiter, to know where each was made. A task arrives with the call, waits for a token and a
thread, and starts when its function is called in the thread: that function is wrapped (`_Call`).

anyio calls the same function for its own threads: these are recorded as anyio's (`adapters.anyio`) and not here. Nor
are those under a limiter of a class of the program's, whose size is not known.
"""

from __future__ import annotations

import functools
import sys
from _thread import RLock
from types import FunctionType

from poolscope.probe.adapters import unfamiliar
from poolscope.probe.adapters.limited_threads import LimitedThreads
from poolscope.probe.executors.patching import Patch
from poolscope.probe.interpreter.imports import imported
from poolscope.probe.interpreter.shapes import takes
from poolscope.probe.interpreter.tracebacks import leave_out
from poolscope.probe.recording.virtual_workers import VirtualWorkerTask

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

#: The default limiter of each run: for calls that name none.
DEFAULT = "trio.to_thread"

#: The module of trio's that is patched, and what others have from it.
_MODULE, _NAME = "trio._threads", "to_thread_run_sync"
_COPIES = ((_MODULE, _NAME), ("trio.to_thread", "run_sync"), ("trio._path", "run_sync"))
_PARAMETERS = ["sync_fn", "args", "thread_name", "abandon_on_cancel", "limiter"]
_NUMBERS = ("total_tokens", "borrowed_tokens")
#: What calls it for threads of its own.
_ANYIO = "anyio._backends._trio"


class _Call(VirtualWorkerTask):
    """The function of one call. trio names the thread after it, and has it in what it says of a mistake."""

    __slots__ = ()

    def __getattr__(self, name: str) -> Any:
        if name in ("__name__", "__qualname__"):
            return getattr(self._fn, name)
        raise AttributeError(name)

    def __repr__(self) -> str:
        return repr(self._fn)


def _default_place() -> str:
    """Where trio gives out the default limiter, as `creation_site` says it."""
    code = getattr(getattr(sys.modules.get(_MODULE), "current_default_thread_limiter", None), "__code__", None)
    return "trio/_threads.py" if code is None else f"trio/_threads.py:{code.co_firstlineno}"


_limiters = LimitedThreads("trio", DEFAULT, _default_place, {})


class _Patch(Patch):
    """The patch of trio's threads."""

    #: Then the names of this module are gone.
    shutting_down = staticmethod(sys.is_finalizing)

    def __init__(self, probe: Any, module: Any) -> None:
        super().__init__(probe)
        self.original: Callable[..., Any] = getattr(module, _NAME)
        self.ours = _run_sync(self, module, self.original)

    def made(self, limiter: Any) -> None:
        """Note that a limiter was made just now."""
        if self.active and not self.shutting_down():
            _limiters.made(limiter, self.probe)

    def spread(self) -> None:
        """Put ours wherever trio has the original by a name, now that more of it may be imported."""
        for name, attribute in _COPIES:
            module = imported(name)
            found = None if module is None else vars(module).get(attribute)
            if found is self.original:
                self.put(module, attribute, self.ours)
            elif found is self.ours and module not in self.modules:  # it was imported with ours in place
                self.undo.append((module, attribute, self.original, self.ours))
            if found is self.ours or found is self.original:
                self.modules.append(module)


# Reentrant: a finalizer that runs while we are inside may uninstall.
_lock = RLock()
_current: _Patch | None = None
_last_probe: Any = None


def patch(probe: Any) -> None:
    """Watch trio's worker threads. Does nothing if that is so already, but for what was imported since.

    An unknown version is left alone, and the probe gets a notice.
    """
    global _current, _last_probe
    with _lock:
        module: Any = imported(_MODULE)
        if module is None or not hasattr(module, _NAME):
            return  # another thread is importing it, and our hook sees its end
        if _current is None:
            missing = _missing(module)
            if missing:
                unfamiliar(probe, "trio", f"its worker threads are not watched: no {missing} in {_MODULE}")
                return
            # A limiter that outlives the patch is the same pool under the next one.
            if _last_probe is not probe:
                _limiters.forget()
            _last_probe = probe
            _current = _Patch(probe, module)
            _current.put_constructor(module.CapacityLimiter, "total_tokens", lambda _: None, _current.made)
        _current.spread()


def unpatch() -> None:
    """Put everything back as it was. Does nothing if nothing is patched."""
    global _current
    with _lock:
        if _current is not None:
            _current.take_off()
            _current = None


def _missing(module: Any) -> str | None:
    """Return what we need of the module and it has not."""
    try:
        if not takes(getattr(module, _NAME), _PARAMETERS):
            return f"{_NAME}({', '.join(_PARAMETERS)})"
        if not callable(module.current_default_thread_limiter):
            return "current_default_thread_limiter"
        if not all(isinstance(getattr(module.CapacityLimiter, name), property) for name in _NUMBERS):
            return f"CapacityLimiter with {' and '.join(_NUMBERS)}"
    except (AttributeError, TypeError, ValueError) as exc:
        return f"{_NAME} as expected ({type(exc).__name__}: {exc})"
    return None


def _is_anyios(function: Any) -> bool:
    return type(function) is FunctionType and function.__globals__.get("__name__") == _ANYIO


def _run_sync(state: _Patch, module: Any, original: Callable[..., Any]) -> Callable[..., Any]:
    current_limiter, limiter_class = module.current_default_thread_limiter, module.CapacityLimiter

    async def to_thread_run_sync(
        sync_fn: Any, *args: Any, thread_name: Any = None, abandon_on_cancel: Any = False, limiter: Any = None
    ) -> Any:
        task = None
        try:
            if state.active and not state.shutting_down() and not _is_anyios(sync_fn):
                if limiter is None:
                    # Once for both of us: the library asks for it where it is given none.
                    limiter = current_limiter()
                if type(limiter) is limiter_class:
                    task = _limiters.arrived((sync_fn, args), limiter, current_limiter, state.find_probe, _Call)
            options = {"thread_name": thread_name, "abandon_on_cancel": abandon_on_cancel, "limiter": limiter}
            return await original(sync_fn if task is None else task, *args, **options)
        except BaseException as exc:
            if task is not None and isinstance(exc, Exception):
                task.refused()
            elif task is not None:  # trio's cancellation, or the end of the run
                task.cancelled()
            # As in `VirtualWorkerTask`.
            leave_out(exc)
            raise

    return functools.wraps(original)(to_thread_run_sync)

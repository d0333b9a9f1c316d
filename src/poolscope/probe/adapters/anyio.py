"""anyio's worker threads, and so those of Starlette and FastAPI: each capacity limiter that they run under is a pool.

What is replaced, and put back by `unpatch`: `run_sync_in_worker_thread` of the backends, through which all of
`anyio.to_thread` goes, and `__init__` of the limiters, to know where each was made. A task arrives with the call, waits
for a token and a thread, and starts when its function is called in the thread. That function is wrapped
(`VirtualWorkerTask`), which is all that anyio sees of us. What takes the claim of a task records what became of it: the
thread that starts it, or the call that ends without a start.

anyio's threads belong to the event loop and serve all of its limiters, so the workers of a pool are virtual ones.
A task whose caller was cancelled and did not wait (`abandon_on_cancel`) has its place until its thread has ended it,
though its token is free again: then more tasks may run than there are tokens. Tokens that a program takes itself,
without a thread, are no tasks.
"""

from __future__ import annotations

import functools
import sys

from poolscope.probe.adapters import LibrarySwitch
from poolscope.probe.adapters.limited_threads import LimitedThreads
from poolscope.probe.executors.patching import Patch
from poolscope.probe.interpreter.shapes import takes
from poolscope.probe.interpreter.tracebacks import leave_out
from poolscope.probe.recording.ephemeral_pools import PlacedEphemeralPools
from poolscope.probe.recording.function_table import WRAPPERS
from poolscope.probe.sampling.coroutines import THREAD_CALLS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

#: The default limiter of each event loop: for calls that name none.
DEFAULT = "anyio.to_thread"

#: Module -> its backend. Each has a limiter class of its own, too.
_BACKENDS = {"anyio._backends._asyncio": "AsyncIOBackend", "anyio._backends._trio": "TrioBackend"}
_PARAMETERS = ["cls", "func", "args", "abandon_on_cancel", "limiter"]
_NUMBERS = ("total_tokens", "borrowed_tokens")


def _function(_: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
    return keywords["function"]


def _iterator(args: tuple[Any, ...], _: dict[str, Any]) -> Any:
    return args[0]


def _generator(args: tuple[Any, ...], _: dict[str, Any]) -> Any:
    return args[0].gen


WRAPPERS["fastapi.telemetry._api._run_sync_endpoint"] = _function
# Bodies that are streamed, and dependencies that yield.
WRAPPERS["starlette.concurrency._next"] = _iterator
WRAPPERS["contextlib._GeneratorContextManager.__enter__"] = _generator
WRAPPERS["contextlib._GeneratorContextManager.__exit__"] = _generator


#: By where they are made. FastAPI has one for the end of each dependency that yields.
_momentary = {
    name: PlacedEphemeralPools(name, "anyio", "anyio.CapacityLimiter")
    for name in ("fastapi.concurrency:contextmanager_in_threadpool",)
}


def _default_place() -> str:
    """Where anyio gives out the default limiter, as `creation_site` says it."""
    code = getattr(getattr(sys.modules.get(DEFAULT), "current_default_thread_limiter", None), "__code__", None)
    return "anyio/to_thread.py" if code is None else f"anyio/to_thread.py:{code.co_firstlineno}"


_limiters = LimitedThreads("anyio", DEFAULT, _default_place, _momentary)


class _Patch(Patch):
    """The patch of all backends."""

    #: Asked as an attribute: at shutdown the names of this module are gone.
    shutting_down = staticmethod(sys.is_finalizing)

    def __init__(self, probe: Any) -> None:
        super().__init__(probe)
        self.limiters: list[Any] = []

    def made(self, limiter: Any) -> None:
        """Note that a limiter was made just now."""
        if self.active and not self.shutting_down():
            _limiters.made(limiter, self.probe)


def _missing(name: str, module: Any) -> str | None:
    """Return what a backend lacks of what we need."""
    backend = _BACKENDS[name]
    try:
        method = getattr(module, backend).__dict__["run_sync_in_worker_thread"]
        if type(method) is not classmethod or not takes(method.__func__, _PARAMETERS):
            return f"{backend}.run_sync_in_worker_thread({', '.join(_PARAMETERS)})"
        if not callable(getattr(module, backend).current_default_thread_limiter):
            return f"{backend}.current_default_thread_limiter"
        if not all(isinstance(getattr(module.CapacityLimiter, name), property) for name in _NUMBERS):
            return f"CapacityLimiter with {' and '.join(_NUMBERS)}"
    except (AttributeError, KeyError, TypeError, ValueError) as exc:
        return f"{backend} as expected ({type(exc).__name__}: {exc})"
    return None


def _put_on(state: _Patch, name: str, module: Any) -> None:
    backend = getattr(module, _BACKENDS[name])
    common: Any = sys.modules.get("anyio._core._synchronization")
    # Made outside of an event loop, a limiter is of this class.
    for cls in (module.CapacityLimiter, getattr(common, "CapacityLimiterAdapter", None)):
        if cls is not None and cls not in state.limiters:
            state.limiters.append(cls)
            state.put_constructor(cls, "total_tokens", lambda _: None, state.made)
    method = "run_sync_in_worker_thread"
    state.put(backend, method, classmethod(_run_sync(state, backend.__dict__[method].__func__)))


def _run_sync(state: _Patch, original: Callable[..., Any]) -> Callable[..., Any]:
    async def run_sync_in_worker_thread(
        cls: Any, func: Any, args: Any, abandon_on_cancel: bool = False, limiter: Any = None
    ) -> Any:
        task = None
        try:
            if state.active and not state.shutting_down():
                if limiter is None:
                    # Once for both of us: the library asks for it where it is given none.
                    limiter = cls.current_default_thread_limiter()
                default = cls.current_default_thread_limiter
                task = _limiters.arrived((func, args), limiter, default, state.find_probe)
            return await original(cls, func if task is None else task, args, abandon_on_cancel, limiter)
        except BaseException as exc:
            if task is not None and isinstance(exc, Exception):
                task.refused()
            elif task is not None:  # the backend's cancellation, or the end of the loop
                task.cancelled()
            # As in `VirtualWorkerTask`.
            leave_out(exc)
            raise

    THREAD_CALLS[run_sync_in_worker_thread.__code__] = "task"
    return functools.wraps(original)(run_sync_in_worker_thread)


_switch = LibrarySwitch(
    "anyio",
    "its worker threads are not watched",
    _BACKENDS,
    _missing,
    make=_Patch,
    put=_put_on,
    forget=_limiters.forget,
)
patch, unpatch = _switch.on, _switch.off

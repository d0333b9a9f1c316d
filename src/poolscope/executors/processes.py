"""The drop-in process pool: the standard one, watched. How: see `poolscope.probe.processes.processpool`."""

from __future__ import annotations

import concurrent.futures.process as standard
from concurrent.futures import _base

from poolscope.probe.processes.processpool import note_refusal, watch_own
from poolscope.probe.recording.pool_watch import ATTRIBUTE, size_from_settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.context import BaseContext
    from typing import Any, ParamSpec, TypeVar

    from poolscope.probe.runtime import Probe

    P = ParamSpec("P")
    T = TypeVar("T")


class ProcessPoolExecutor(standard.ProcessPoolExecutor):  # noqa: D101 - the standard class has none
    # Thread safety: as the standard executor.

    #: Keeps the patch of the standard executor from recording these pools once more.
    _poolscope_own = True

    def __init__(
        self,
        max_workers: int | None = None,
        mp_context: BaseContext | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        *,
        max_tasks_per_child: int | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(
            size_from_settings(_find_probe, "process", name) or max_workers,
            mp_context,
            initializer,
            initargs,
            max_tasks_per_child=max_tasks_per_child,
        )
        watch_own(self, _find_probe, name)

    __init__.__doc__ = f"""{(standard.ProcessPoolExecutor.__init__.__doc__ or "").rstrip()}
            name: What poolscope calls the pool; by default the module and function that made it.
        """

    def submit(  # noqa: D102 - the standard docstring, below
        self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> _base.Future[T]:
        try:
            return super().submit(fn, *args, **kwargs)
        except RuntimeError:
            watch = self.__dict__.get(ATTRIBUTE)
            if watch is not None:
                note_refusal(self, watch)
            raise

    submit.__doc__ = _base.Executor.submit.__doc__


def _find_probe() -> Probe:
    from poolscope.probe import runtime

    return runtime.current()

"""trio's event loop, as a guest of the monitor: `trio.run` looks to it like a loop of asyncio's.

`unrolled_run` of `trio._core._run` is replaced in place. It makes the generator that is the loop: its frame is the one
that runs the tasks, and it lives until the run has ended. Nothing is added to a step of a task. A beat goes through
trio's queue for callbacks of other threads.

A run as a guest of another loop (`start_guest_run`) is not watched: that loop is, where it is of a known kind, and
what blocks one blocks the other.
"""

from __future__ import annotations

import sys
from functools import update_wrapper
from itertools import repeat
from weakref import ref

from poolscope.probe.interpreter import shapes
from poolscope.probe.interpreter.blame import is_ours

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import GeneratorType
    from typing import Any

    from poolscope.probe.loops.monitor import Monitor

#: Tasks of each run that are trio's own: the one that starts all others, and the one for callbacks.
_OWN_TASKS = 2
_KEY = "tasks"

# By the id of their generators, for as long as these live. Single dict operations only.
_runs: dict[int, TrioLoop] = {}


class TrioTasks:
    """Counts the tasks of one run, as `tasks.TaskCount` does those of asyncio's loops."""

    __slots__ = ("_members",)

    def __init__(self, members: Any) -> None:
        self._members = members

    def ask(self, _loop: Any, noted: dict[str, int], _now_ns: int) -> Iterator[object]:
        """See `TaskCount.ask`. All in C."""
        return map(noted.setdefault, repeat(_KEY), map(len, repeat(self._members)))

    def take(self, noted: dict[str, int]) -> int | None:
        """See `TaskCount.take`."""
        return max(0, noted[_KEY] - _OWN_TASKS) if _KEY in noted else None


class TrioLoop:
    """One run, with what the monitor asks of a loop. Lives as long as the generator, and does not hold it."""

    def __init__(self, runner: Any, generator: GeneratorType[Any, Any, Any]) -> None:
        key, runs = id(generator), _runs  # the name is gone before the last run is, as the interpreter shuts down
        self._generator = ref(generator, lambda _: runs.pop(key, None))
        runs[key] = self
        self._entry = runner.entry_queue
        self._over = False
        self.count = TrioTasks(runner.tasks)

    def is_running(self) -> bool:
        """Whether the run goes on."""
        generator = self._generator()
        return not self._over and generator is not None and generator.gi_frame is not None

    def is_closed(self) -> bool:
        """Whether it has ended: it does not run again."""
        return not self.is_running()

    def get_debug(self) -> bool:
        """Whether callbacks are timed, which trio does not."""
        return False

    def call_soon_threadsafe(self, run: Callable[[], object]) -> None:
        """Have the run call this soon. Raises RuntimeError once it is about to end."""
        try:
            self._entry.run_sync_soon(run)
        except RuntimeError:
            self._over = True
            raise


class TrioPatch:
    """The module in which `unrolled_run` is ours. `monitor()` returns what is to watch, if anything."""

    def __init__(self, module: Any, monitor: Callable[[], Monitor | None]) -> None:
        """Put ours in. Raises Unfamiliar."""
        shapes.trio_loop(module)
        self._module = module
        self._original = module.unrolled_run
        self._wrapper = _watched(self._original, module.run, monitor)
        module.unrolled_run = self._wrapper

    def undo(self) -> None:
        """Put the original back, unless another patch lies over ours."""
        if self._module.unrolled_run is self._wrapper:
            self._module.unrolled_run = self._original


def _watched(original: Callable[..., Any], run: Any, monitor: Callable[[], Monitor | None]) -> Callable[..., Any]:
    # The names of this module are gone before the program's last runs are, as the interpreter shuts down.
    getframe, shutting_down, enter, code = sys._getframe, sys.is_finalizing, _enter, run.__code__

    def unrolled_run(runner: Any, *args: Any, **kwargs: Any) -> Any:
        generator = original(runner, *args, **kwargs)
        if not shutting_down() and getframe(1).f_code is code:
            watching = monitor()
            if watching is not None:
                enter(watching, runner, generator)
        return generator

    return update_wrapper(unrolled_run, original)


def _enter(monitor: Monitor, runner: Any, generator: GeneratorType[Any, Any, Any]) -> None:
    try:
        loop = TrioLoop(runner, generator)
        # Its end is looked for: between that and the end of `trio.run` no line of ours is run.
        monitor.enter(loop, "trio", id(generator.gi_frame), adopted=True)
    except Exception as exc:
        if not is_ours(exc):
            raise
        monitor.probe.fail("eventloop", exc)

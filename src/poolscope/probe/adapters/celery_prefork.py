"""Celery's processes (`celery worker`, pool `prefork`): those of one worker are a pool.

A worker gives no process more than one task; what it has taken from the broker besides waits for a place among them.
That is the queue. All of it is seen in the worker's own process. What is replaced, and put back by `unpatch`:
`WorkController._process_task_sem`, where a task has been taken and is due (an arrival), and `_process_task`, which
gives it to the pool, unless it was revoked; `TaskPool.on_start`, which makes the processes; `TaskPool.apply_async`,
whose callbacks tell which process has accepted a task, when, and how it ended.

In the processes, if they are forked, two of Celery's signals (`task_prerun`, `task_postrun`) note in shared memory that
a task goes on, so that the line of one that lasts can be shown there (see `worker_place`).
"""

from __future__ import annotations

import functools
import os
import sys
from _thread import RLock
from time import perf_counter_ns
from weakref import ref

from poolscope.probe.adapters import unfamiliar
from poolscope.probe.executors.patching import Patch
from poolscope.probe.processes.processchild import ENTRY, PER_WORKER, PLACE, SHOWN
from poolscope.probe.processes.worker_place import Place, show
from poolscope.probe.processes.worker_table import Worker, alive
from poolscope.probe.recording.pool_watch import Instances

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from poolscope.probe.recording.pool_watch import Watch

#: The name of the pool.
NAME = "celery.prefork"
#: Where a pool keeps its `_Calls`.
_CALLS = "_poolscope_calls"


class _Shared:
    """What processes show of the tasks that they are in, each in a part of memory that they have from their parent."""

    def __init__(self, most: int) -> None:
        from multiprocessing.heap import BufferWrapper

        self.most = most
        self._memory = BufferWrapper(most * (PER_WORKER + PLACE) * 8)
        self._every = self._memory.create_memoryview().cast("q")
        self._every.cast("B")[:] = bytes(len(self._every) * 8)

    def calls(self, index: int) -> memoryview[int]:
        """Return the part for the tasks of a process: see `processchild`."""
        return self._every[index * PER_WORKER : (index + 1) * PER_WORKER]

    def place(self, index: int) -> memoryview[int]:
        """Return the part for its place."""
        at = self.most * PER_WORKER + index * PLACE
        return self._every[at : at + PLACE]


class _Process(Worker):
    """A process, and the ones that took its place after it."""

    __slots__ = ("_calls", "_place")

    def __init__(self, worker: int, shared: _Shared, index: int) -> None:
        super().__init__(worker)
        # A pool may grow; then those that come show nothing.
        shows = index < shared.most
        self._calls = shared.calls(index) if shows else None
        self._place = Place(shared.place(index)) if shows else None

    def place(self) -> tuple[list[tuple[str, int, str]], int, str] | None:
        """See `WorkerLog.place`."""
        if self._calls is None or self._place is None:
            return None
        number = max(self._calls[::ENTRY])
        ended = self._calls[number % SHOWN * ENTRY + 3]
        return None if number <= 0 or ended else self._place.read(number)


class _Calls:
    """The tasks of one worker, from `arrived` to `ended`. Its methods run in the thread of the worker's loop; none
    raises."""

    def __init__(self, watch: Watch, shared: _Shared) -> None:
        self.watch = watch
        # By request, as long as one of ours has it: function, and when it was taken.
        self._waiting: dict[int, tuple[int, int]] = {}
        self._running: dict[int, tuple[_Process, int, int, int]] = {}
        self._shared = shared
        self._processes: dict[int, _Process] = {}

    def arrived(self, request: Any) -> None:
        """Note that a task is due, unless that is known."""
        try:
            if id(request) in self._waiting:
                return
            arrived = self.watch.arrive(request.task.run)
            if arrived is not None:
                self._waiting[id(request)] = arrived
        except Exception as exc:
            self.watch.give_up(exc)

    def dropped(self, request: Any) -> None:
        """Note that a task will not run, unless it has been given to a process."""
        task = self._waiting.pop(id(request), None)
        if task is not None:
            self.watch.cancelled(*task)

    def sent(self, request: Any, pool: Any, options: dict[str, Any]) -> dict[str, Any]:
        """Return what a task is given to a process with, so that we hear of it."""
        key, task = id(request), self._waiting.pop(id(request), None)
        if task is None:
            return options
        weak = ref(pool)
        accepted, done, failed = (options[f"{name}callback"] for name in ("accept_", "", "error_"))

        def on_accepted(pid: int, at: float) -> None:
            self._accepted(key, task, weak(), pid, at)
            accepted(pid, at)

        def on_done(value: Any, **more: Any) -> None:
            self._ended(key, task, value)
            done(value, **more)

        def on_failed(*args: Any, **more: Any) -> None:
            self._ended(key, task, None)
            failed(*args, **more)

        return {**options, "accept_callback": on_accepted, "callback": on_done, "error_callback": on_failed}

    def _accepted(self, key: int, task: tuple[int, int], pool: Any, pid: int, at: float) -> None:
        try:
            process = next(each for each in pool._pool._pool if each.pid == pid)
            worker = self._processes.get(process.index) or self._added(process.index)
            if worker.process is not process:
                worker.assign(process)
            # The clock of the machine, as ours.
            started = max(task[1], int(at * 1e9))
            self._running[key] = (worker, *task, started)
            worker.running = (*task, started)
        except Exception as exc:
            self.watch.give_up(exc)

    def _added(self, index: int) -> _Process:
        add = self.watch.recorder.add
        return self._processes.setdefault(index, add(lambda worker: _Process(worker, self._shared, index)))

    def _ended(self, key: int, task: tuple[int, int], value: Any) -> None:
        try:
            running = self._running.pop(key, None)
            if running is None:
                self.watch.broke(*task)
                return
            worker, function, submitted, started = running
            failed, ended = 1, self.watch.clock()
            if type(value) is tuple and len(value) == 3 and type(value[2]) is float:
                failed, ended = int(bool(value[0])), min(ended, started + int(value[2] * 1e9))
            worker.finished.extend((worker.worker, function * 2 + failed, submitted, started, ended))
            if worker.running == (function, submitted, started):
                worker.running = None
        except Exception as exc:
            self.watch.give_up(exc)


def _sizer(pool: Any) -> Callable[[], tuple[int, int] | None]:
    weak = ref(pool)

    def size() -> tuple[int, int] | None:
        found: Any = weak()
        if found is None:
            return None
        processes = found._pool
        return (0, found.limit) if processes is None else (sum(map(alive, list(processes._pool))), processes._processes)

    return size


def _equip(pool: Any, watch: Watch) -> None:
    global _shared
    _shared = _Shared(pool.limit)
    pool.__dict__[_CALLS] = _Calls(watch, _shared)


_pools = Instances("process", _sizer, _equip)


class _Patch(Patch):
    """The patch of the worker."""

    #: Asked as an attribute: at shutdown the names of this module are gone.
    shutting_down = staticmethod(sys.is_finalizing)

    def open(self, pool: Any) -> None:
        """Open a pool that is about to make its processes."""
        if self.active and not self.shutting_down():
            _pools.open(pool, self.find_probe, NAME)

    def calls(self, pool: Any) -> _Calls | None:
        """Return what records the tasks of a pool; None in a forked process, whose tasks its parent records."""
        found = vars(pool).get(_CALLS) if self.active and os.getpid() == self.pid and not self.shutting_down() else None
        return found if isinstance(found, _Calls) else None


# Reentrant: a finalizer that runs while we are inside may uninstall.
_lock = RLock()
_current: _Patch | None = None


def patch(probe: Any) -> None:
    """Watch the processes of a Celery worker that starts in this process. Does nothing if that is so already.

    An unknown version is left alone, and the probe gets a notice.
    """
    global _current
    with _lock:
        pool, worker = (sys.modules.get(f"celery.{name}") for name in ("concurrency.prefork", "worker.worker"))
        if _current is not None or not hasattr(pool, "TaskPool") or not hasattr(worker, "WorkController"):
            return
        missing = _missing(pool, worker)
        if missing:
            unfamiliar(probe, "celery", f"its processes are not watched: no {missing}")
            return
        state = _Patch(probe)
        controller, task_pool = worker.WorkController, pool.TaskPool  # type: ignore[union-attr]
        state.put(controller, "_process_task_sem", _process_task_sem(state, controller._process_task_sem))
        state.put(controller, "_process_task", _process_task(state, controller._process_task))
        state.put(task_pool, "on_start", _on_start(state, task_pool.on_start))
        state.put(task_pool, "apply_async", _apply_async(state, task_pool.apply_async))
        signals: Any = sys.modules["celery.signals"]
        for signal, handler in _handlers(signals):
            signal.connect(handler, weak=False)
        _current = state


def unpatch() -> None:
    """Put everything back as it was. Does nothing if nothing is patched."""
    global _current
    with _lock:
        if _current is not None:
            _current.take_off()
            for signal, handler in _handlers(sys.modules["celery.signals"]):
                signal.disconnect(handler)
            _current = None


def _missing(pool: Any, worker: Any) -> str | None:
    """Return what the modules lack of what we need."""
    expected = (
        (worker.WorkController, "_process_task_sem", ("_quick_acquire", "_process_task")),
        (worker.WorkController, "_process_task", ("execute_using_pool", "pool")),
        (pool.TaskPool, "on_start", ("_pool", "limit")),
        (pool.TaskPool, "apply_async", ("on_apply",)),
    )
    for cls, name, used in expected:
        code = getattr(getattr(cls, name, None), "__code__", None)
        if code is None or not set(used) <= set(code.co_names):
            return f"{cls.__name__}.{name} that uses {' and '.join(used)}"
    return None


def _process_task_sem(state: _Patch, original: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    @functools.wraps(original)
    def _process_task_sem(self: Any, req: Any) -> Any:
        calls = state.calls(self.pool)
        if calls is not None:
            calls.arrived(req)
        return original(self, req)

    return _process_task_sem


def _process_task(state: _Patch, original: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    @functools.wraps(original)
    def _process_task(self: Any, req: Any) -> Any:
        calls = state.calls(self.pool)
        if calls is not None:
            calls.arrived(req)
        try:
            return original(self, req)
        finally:
            if calls is not None:
                calls.dropped(req)

    return _process_task


def _on_start(state: _Patch, original: Callable[[Any], None]) -> Callable[[Any], None]:
    @functools.wraps(original)
    def on_start(self: Any) -> None:
        state.open(self)
        original(self)

    return on_start


def _apply_async(state: _Patch, original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def apply_async(self: Any, target: Any, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        calls = state.calls(self)
        request = getattr(options.get("accept_callback"), "__self__", None)
        if calls is not None and request is not None:
            try:
                options = calls.sent(request, self, options)
            except Exception as exc:
                calls.watch.give_up(exc)
        return original(self, target, args, kwargs, **options)

    return apply_async


# What follows runs in the processes.

#: Of the pool whose processes are forked next, or that this process is one of.
_shared: _Shared | None = None
#: What this process shows of its tasks, and the number of the latest.
_own: memoryview[int] | None = None
_number = 0


def _handlers(signals: Any) -> tuple[tuple[Any, Callable[..., None]], ...]:
    return (
        (signals.worker_process_init, _process_began),
        (signals.task_prerun, _task_began),
        (signals.task_postrun, _task_ended),
    )


def _process_began(**_: Any) -> None:
    global _own, _number
    try:
        index = sys.modules["billiard.process"].current_process().index
        if _shared is None or not 0 <= index < _shared.most:
            return
        _own = _shared.calls(index)
        _number = max(_own[::ENTRY])
        show(_own, _shared.place(index), forked=True)
    except Exception:
        _own = None  # then the line of a task that lasts is not known


def _task_began(**_: Any) -> None:
    global _number
    if _own is not None:
        _number += 1
        at = _number % SHOWN * ENTRY
        _own[at : at + ENTRY] = memoryview(bytes(ENTRY * 8)).cast("q")
        _own[at + 2] = perf_counter_ns()
        _own[at] = _number


def _task_ended(**_: Any) -> None:
    if _own is not None:
        _own[_number % SHOWN * ENTRY + 3] = 1

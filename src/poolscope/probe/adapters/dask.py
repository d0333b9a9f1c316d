"""Dask: the threads of a `distributed` worker, and the tasks that are ready and wait for one, are a pool.

A worker submits to its executor only when a thread is free, so the queue is not there: it is the worker's `ready`
tasks. What is replaced, and put back by `unpatch`: `Worker.__init__`, to give each worker a plugin of ours, which sees
its tasks become ready, and end without a start; `_run_task`, which threads call with the task. What runs the task goes
into the record as one of ours (`_Task`), which is all that Dask sees of us.

As many tasks go on at once as the worker has threads, in whichever executor; so the workers of the pool are virtual
ones. A task that secedes (`worker_client` does) leaves its place to another one, and ends for the pool. Tasks that are
coroutines run in the worker's loop, and are left out. The thread for serialisation (`offload`) is a standard executor.
"""

from __future__ import annotations

import sys
from _thread import RLock
from weakref import ref

from poolscope.probe.adapters import unfamiliar
from poolscope.probe.executors.patching import Patch
from poolscope.probe.interpreter.shapes import takes
from poolscope.probe.recording.pool_watch import open_watch, report
from poolscope.probe.recording.virtual_workers import VirtualWorkers, VirtualWorkerTask

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from poolscope.probe.recording.pool_watch import Watch
    from poolscope.probe.recording.virtual_workers import VirtualWorker

#: The name of each worker's pool. Its process tells workers apart.
NAME = "dask.worker"
#: Our plugin among those of a worker.
PLUGIN = "poolscope-tasks"


class _Task(VirtualWorkerTask):
    """What a task calls, and its place among the running ones."""

    __slots__ = ("_held",)

    def _begin(self) -> VirtualWorker | None:
        worker = super()._begin()
        if worker is not None:
            self._held = worker
        return worker

    def _end(self, worker: VirtualWorker | None, failed: int) -> None:
        # Deleting an attribute is one step: either its own thread ends it, or the loop, as it secedes.
        try:
            del self._held
        except AttributeError:
            return
        super()._end(worker, failed)

    def secede(self) -> None:
        """Note that it goes on, and others may run in its place."""
        self._end(getattr(self, "_held", None), 0)


class _Tasks:
    """The plugin of one worker: what is ready or runs there, by key.

    Its methods run in the worker's loop, but for `started`, which threads call. None raises.
    """

    def __init__(self, worker: Any, watch: Watch) -> None:
        self.watch = watch
        self._worker = ref(worker)
        self._tasks: dict[Any, _Task] = {}
        self._running: dict[Any, _Task] = {}
        self.workers = VirtualWorkers(watch.recorder, lambda: _threads(self._worker()))

    def setup(self, worker: Any) -> None:
        """Belong to a worker. Nothing calls this, as we are there from its beginning on."""

    def teardown(self, worker: Any) -> None:  # noqa: ARG002 - Dask calls it so
        """Drop the tasks, as the worker ends."""
        while self._tasks:
            self._tasks.popitem()[1].cancelled()

    def transition(self, key: Any, start: str, finish: str, **_: Any) -> None:
        """See `distributed.diagnostics.plugin.WorkerPlugin`."""
        try:
            if finish == "ready" or (finish == "executing" and start == "constrained"):
                self._arrived(key)
            elif finish == "long-running":
                task = self._running.pop(key, None)
                if task is not None:
                    task.secede()
            elif finish != "executing":
                self._running.pop(key, None)
                task = self._tasks.pop(key, None)
                if task is not None:
                    task.cancelled()
        except Exception as exc:
            self.watch.give_up(exc)

    def _arrived(self, key: Any) -> None:
        worker = self._worker()
        spec = None if worker is None else worker.state.tasks[key].run_spec
        if spec is None or spec.is_coro or key in self._tasks:
            return
        # What is no call of one function goes by what it is.
        arrived = self.watch.arrive(getattr(spec, "func", None) or type(spec))
        if arrived is not None:
            self._tasks[key] = _Task(spec, self.watch, self.workers, *arrived)

    def started(self, key: Any) -> _Task | None:
        """Return what a thread is to call in the place of a task; None if that is not recorded."""
        task = self._tasks.pop(key, None)
        if task is not None:
            self._running[key] = task
        return task


def _threads(worker: Any) -> int:
    return 0 if worker is None else max(1, worker.state.nthreads)


def _sizer(plugin: list[_Tasks], worker: Any) -> Callable[[], tuple[int, int] | None]:
    weak = ref(worker)

    def size() -> tuple[int, int] | None:
        found: Any = weak()
        # A worker that has ended may be kept by the program.
        if found is None or found.status.name in ("closed", "failed"):
            return None
        most = _threads(found)
        return min(len(plugin[0].workers.threads), most) if plugin else 0, most

    return size


class _Patch(Patch):
    """The patch of workers."""

    #: Asked as an attribute: at shutdown the names of this module are gone.
    shutting_down = staticmethod(sys.is_finalizing)

    def watch(self, worker: Any) -> None:
        """Open the pool of a worker, if there is none yet."""
        if not self.active or self.shutting_down():
            return
        with _lock:
            if PLUGIN in worker.plugins:
                return
            made: list[_Tasks] = []
            watch = open_watch(
                worker, self.find_probe, name=NAME, prefix="", kind="dask", size_of=lambda worker: _sizer(made, worker)
            )
            if watch is None:
                return
            try:
                made.append(_Tasks(worker, watch))
                worker.plugins[PLUGIN] = made[0]
                key = id(worker)
                _workers[key] = ref(worker, lambda _: _workers.pop(key, None))
            except Exception as exc:
                watch.give_up(exc)


#: The workers that are watched, by their ids.
_workers: dict[int, ref[Any]] = {}
# Reentrant: a finalizer that runs while we are inside may uninstall.
_lock = RLock()
_current: _Patch | None = None


def patch(probe: Any) -> None:
    """Watch every Dask worker that is made in this process from here on. Does nothing if that is so already.

    An unknown version is left alone, and the probe gets a notice.
    """
    global _current
    with _lock:
        module: Any = sys.modules["distributed.worker"]
        if _current is not None or not hasattr(module, "_run_task"):
            return
        missing = _missing(module)
        if missing:
            unfamiliar(probe, "distributed", f"its workers are not watched: no {missing} in distributed.worker")
            return
        state = _Patch(probe)
        state.put_constructor(module.Worker, "", lambda _: None, state.watch)
        state.put(module, "_run_task", _run_task(state, module._run_task))
        _current = state


def adopt(worker: Any) -> None:
    """Watch a worker that is older than the patch, from its next task on. Does nothing if nothing is patched."""
    state = _current
    if state is not None:
        state.watch(worker)


def is_patched() -> bool:
    """Whether the workers of this process are watched."""
    return _current is not None


def unpatch() -> None:
    """Put everything back as it was. Does nothing if nothing is patched."""
    global _current
    with _lock:
        if _current is not None:
            _current.take_off()
            _current = None
        for key in list(_workers):
            worker = _workers.pop(key)()
            plugin = None if worker is None else worker.plugins.pop(PLUGIN, None)
            if plugin is not None:
                plugin.teardown(worker)


def _missing(module: Any) -> str | None:
    """Return what the module lacks of what we need."""
    if not takes(module._run_task, ["task", "data", "execution_state", "key"], more=True):
        return "_run_task(task, data, execution_state, key)"
    used = {"plugins", "executors"}
    if not used <= set(module.Worker.__init__.__code__.co_names):
        return f"Worker.__init__ that uses {' and '.join(sorted(used))}"
    return None


def _run_task(state: _Patch, original: Callable[..., Any]) -> Callable[..., Any]:
    def _run_task(task: Any, data: Any, execution_state: Any, key: Any, *args: Any, **kwargs: Any) -> Any:
        recorded = None
        if state.active and not state.shutting_down():
            try:
                plugin = execution_state["worker"].plugins.get(PLUGIN)
                recorded = None if plugin is None else plugin.started(key)
            except Exception as exc:
                report(state.probe, exc)
        return original(task if recorded is None else recorded, data, execution_state, key, *args, **kwargs)

    return _run_task

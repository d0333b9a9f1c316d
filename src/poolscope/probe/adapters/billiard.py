"""billiard: the pool of processes of Celery's workers (`--pool prefork`).

What is replaced, and put back by `unpatch`: `Pool.__init__`, to know where it was made; `Pool.apply_async`, through
which all calls come (an arrival); `ApplyResult._ack` and `._set`, by which the parent hears that a process has taken a
call, and when, and how that ended. Nothing is changed in the processes. A call goes by the function of the Celery task;
one that is cancelled before a process takes it, and one whose process is lost, end as billiard says it.

A pool that is older than the patch is watched from its next call on.
"""

from __future__ import annotations

import functools
import sys
import threading
from types import MethodType
from weakref import ref

from poolscope.probe.adapters import unfamiliar
from poolscope.probe.executors.patching import Patch, Switch
from poolscope.probe.interpreter import shapes
from poolscope.probe.processes.worker_table import Worker, alive
from poolscope.probe.recording.pool_watch import ATTRIBUTE, UNOPENED, Instances

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from poolscope.probe.recording.pool_watch import Watch

_MODULE = "billiard.pool"
#: Where a result keeps what is recorded of its call.
_CALL = "_poolscope_call"
_PARAMETERS = ["self", "func", "args", "kwds", "callback", "error_callback"]


class _Submitting(threading.local):
    """The call that the thread submits just now, for the result that is made for it."""

    call: _Call | None = None


_submitting = _Submitting()


class _Call:
    """One call, from its arrival on. The thread that takes billiard's results calls `begin` and `end`; neither
    raises."""

    __slots__ = ("_pool", "_started", "_task", "_watch", "_worker", "celerys")

    def __init__(self, pool: Any, watch: Watch, task: tuple[int, int], celerys: bool) -> None:
        self._pool = ref(pool)
        self._watch = watch
        self._task: tuple[int, int] | None = task
        self._worker: Worker | None = None
        self._started = 0
        #: Whether it is one of Celery's, which says itself whether it has failed.
        self.celerys = celerys

    def begin(self, accepted: float, pid: int) -> None:
        """Note that the process with this number took it, at this reading of the monotonic clock (s)."""
        watch, task = self._watch, self._task
        if task is None:
            return  # it was lost before we heard of it
        try:
            worker = _worker(watch, self._pool(), pid)
            self._started = max(task[1], min(watch.clock(), int(accepted * 1e9)))
            self._worker = worker
            worker.running = (*task, self._started)
        except Exception as exc:
            watch.give_up(exc)

    def end(self, outcome: Any) -> None:
        """Note how it ended: (whether it was successful, its result)."""
        watch, (task, self._task), worker = self._watch, (self._task, None), self._worker
        if task is None:
            return
        try:
            failed = not outcome[0] or (self.celerys and type(outcome[1]) is tuple and outcome[1][:1] == (1,))
            if worker is None:
                watch.broke(*task)
                return
            now = max(self._started, watch.clock())
            worker.finished.extend((worker.worker, task[0] * 2 + failed, task[1], self._started, now))
            worker.running = None
        except Exception as exc:
            watch.give_up(exc)

    def withdraw(self) -> None:
        """Note that it was refused."""
        task, self._task = self._task, None
        if task is not None:
            self._watch.withdrawn(*task)


def _worker(watch: Watch, pool: Any, pid: int) -> Worker:
    """Return the worker that the process with this number is: one whose process has ended, if it is a new one."""
    processes = [] if pool is None else list(pool._pool)
    free: Worker | None = None
    for worker in list(watch.recorder.workers):
        if isinstance(worker, Worker) and worker.process is not None:
            if worker.process.pid == pid:
                return worker
            if worker.running is None and not any(worker.process is process for process in processes):
                free = worker
    if free is None:
        free = watch.recorder.add(Worker)
    free.assign(next((process for process in processes if process.pid == pid), None))
    return free


def _sizer(pool: Any) -> Callable[[], tuple[int, int] | None]:
    weak = ref(pool)

    def size() -> tuple[int, int] | None:
        found: Any = weak()
        return None if found is None else (sum(map(alive, list(found._pool))), found._processes)

    return size


_instances = Instances("process", _sizer)


class _Patch(Patch):
    """The patch of billiard's pools."""

    #: Then the names of this module are gone.
    shutting_down = staticmethod(sys.is_finalizing)

    def watch(self, pool: Any) -> Watch | None:
        """Open the pool: when it is made, or with its first call if it is older."""
        if not self.active or self.shutting_down():
            return None
        return _instances.open(pool, self.find_probe, "")

    def arrived(self, pool: Any, function: Any, args: Any, accepted: Any) -> _Call | None:
        """Return the record of a call that arrives; None if it is not watched. Never raises."""
        watch = getattr(pool, ATTRIBUTE, None) if self.active and not self.shutting_down() else None
        if watch is UNOPENED:
            watch = self.watch(pool)
        if watch is None:
            return None
        try:
            users = _behind(accepted)
            task = watch.arrive(function, tuple(args)) if users is None else watch.arrive(users)
            return None if task is None else _Call(pool, watch, task, users is not None)
        except Exception as exc:
            watch.give_up(exc)
            return None


def _behind(accepted: Any) -> Any:
    """Return the function of a Celery task, of whose request this is a method; None if it is none."""
    if type(accepted) is not MethodType or not type(accepted.__self__).__module__.startswith("celery."):
        return None
    return getattr(getattr(accepted.__self__, "task", None), "run", None)


def _put_on(probe: Any) -> _Patch:
    state = _Patch(probe)
    module: Any = sys.modules[_MODULE]
    pool, result = module.Pool, module.ApplyResult
    state.put(pool, ATTRIBUTE, UNOPENED)
    state.put(pool, "apply_async", _apply_async(state, pool.apply_async))
    state.put_constructor(pool, "processes", lambda _: None, state.watch)
    state.put(result, _CALL, None)
    state.put_constructor(result, "cache", lambda _: None, _made)
    state.put(result, "_ack", _ack(result._ack))
    state.put(result, "_set", _set(result._set))
    return state


def _made(result: Any) -> None:
    call, _submitting.call = _submitting.call, None
    if call is not None:
        result.__dict__[_CALL] = call


def _apply_async(state: _Patch, original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def apply_async(self: Any, func: Any, args: Any = (), *others: Any, **options: Any) -> Any:
        accepted = options.get("accept_callback", others[3] if len(others) > 3 else None)
        call = _submitting.call = state.arrived(self, func, args, accepted)
        result = None
        try:
            result = original(self, func, args, *others, **options)
        except BaseException as exc:
            # A bare `raise` adds no line for this frame: the traceback is the one of a call without us.
            exc.__traceback__ = exc.__traceback__ and exc.__traceback__.tb_next
            raise
        finally:
            _submitting.call = None
            if result is None and call is not None:
                call.withdraw()
        return result

    return apply_async


def _ack(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def _ack(self: Any, i: Any, time_accepted: Any, pid: Any, synqW_fd: Any) -> Any:  # noqa: N803 - its names
        call = getattr(self, _CALL, None)
        if call is not None:
            call.begin(time_accepted, pid)
        return original(self, i, time_accepted, pid, synqW_fd)

    return _ack


def _set(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def _set(self: Any, i: Any, obj: Any) -> Any:
        call = getattr(self, _CALL, None)
        if call is not None:
            call.end(obj)
        return original(self, i, obj)

    return _set


def _familiar(probe: Any) -> bool:
    """Whether we know this version; if not, the probe gets a notice."""
    module: Any = sys.modules[_MODULE]
    try:
        shapes.needs(module, ["Pool", "ApplyResult"])
        pool, result = module.Pool, module.ApplyResult
        shapes.needs_use(pool, "__init__", ["_pool", "_processes"])
        shapes.needs_use(pool, "apply_async", ["ApplyResult", "_cache", "accept_callback"])
        shapes.needs_parameters(pool, "apply_async", [*_PARAMETERS, "accept_callback"], more=True)
        shapes.needs_parameters(result, "_ack", ["self", "i", "time_accepted", "pid", "synqW_fd"])
        shapes.needs_parameters(result, "_set", ["self", "i", "obj"])
    except shapes.Unfamiliar as reason:
        unfamiliar(probe, "billiard", f"its pools of processes are not watched: {reason}")
        return False
    return True


_switch = Switch(_instances, _familiar, _put_on)
patch, unpatch = _switch.on, _switch.off

"""`multiprocessing.pool`: `ThreadPool`, attached or patched in place alike, and `Pool`, patched in place.

Both: the pool's attribute `_taskqueue`, by which its methods submit, is replaced by one that sees every task
(`_TaskQueue`). What counts as a task is what the pool puts into its queue: a chunk of `map`, one item of `imap`. A task
arrives when the pool takes it out of the call that submits it: at once, except for the lazy `imap`. A task that
`terminate` drops without a start was cancelled. Calls that a closed pool refuses are not counted.

`ThreadPool`: the function of each task is wrapped (`_Task`). The threads of the pool keep the queues that they have, so
this works for a pool that is in use as well.

`Pool`: a wrapped function could not be pickled. Its workers report their calls (`multiprocessing_calls`), so the pool
is opened when it is about to make the first worker: when it looks up `Process`. For a pool that has workers it is too
late.
"""

from __future__ import annotations

import functools
import sys
from operator import methodcaller
from types import MethodType
from weakref import ref

from poolscope.probe.executors.patching import Patch, Switch
from poolscope.probe.executors.wrapped import WrappedTask
from poolscope.probe.interpreter import shapes
from poolscope.probe.interpreter.tracebacks import leave_out, unseen
from poolscope.probe.processes.multiprocessing_calls import PoolCalls
from poolscope.probe.processes.worker_table import alive
from poolscope.probe.recording.pool_watch import (
    ATTRIBUTE,
    UNOPENED,
    Instances,
)
from poolscope.probe.recording.results import note_imap

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from poolscope.probe.processes.worker_table import Task
    from poolscope.probe.recording.pool_watch import Watch

    #: Job, index, function, arguments, keywords.
    _Submitted = tuple[int, int, Any, Any, Any]


class _Task(WrappedTask):
    """The function of one task, which records it. Called once, by a thread of the pool, or dropped."""

    __slots__ = ("_called", "_fn")

    def __init__(self, fn: Callable[..., Any], watch: Watch, function: int, submitted: int) -> None:
        self.watch, self.function, self.submitted = watch, function, submitted  # without another call
        self._fn = fn
        self._called = False

    @unseen
    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        self._called = True
        log = self.begin()
        try:
            result = self._fn(*args, **kwargs)
        except BaseException as exc:
            self.end(log, 1)
            # A bare `raise` adds no line for this frame: the traceback is the one of a function without us.
            leave_out(exc)
            raise
        self.end(log, 0)
        return result

    def __del__(self) -> None:
        if not self._called:
            self.watch.cancelled(self.function, self.submitted)


class _TaskQueue:
    """Stands in for a pool's `_taskqueue`. Any thread may submit."""

    def __init__(self, queue: Any, watch: Watch) -> None:
        self._queue = queue
        self._watch = watch
        module: Any = sys.modules["multiprocessing.pool"]
        self._mappers = (module.mapstar, module.starmapstar)
        self._reraises = module._helper_reraises_exception
        self._iterator: type = getattr(module, "IMapIterator", _TaskQueue)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._queue, name)

    def put(self, submission: Any) -> None:
        if submission is not None:  # None is the end
            tasks, set_length = submission
            self._note_taker(set_length)
            # `apply_async` submits a list of one task, all others an iterator.
            submission = [self._recorded(tasks[0])] if type(tasks) is list else self._each(tasks), set_length
        self._queue.put(submission)

    def _note_taker(self, set_length: Any) -> None:
        # Of an `imap`, its method.
        if type(set_length) is MethodType and isinstance(set_length.__self__, self._iterator):
            try:
                note_imap(self._watch.recorder, set_length.__self__)
            except Exception as exc:
                self._watch.give_up(exc)

    def _each(self, tasks: Iterable[_Submitted]) -> Iterable[_Submitted]:
        for task in tasks:
            yield self._recorded(task)

    def _recorded(self, task: _Submitted) -> _Submitted:
        _, _, fn, args, _ = task
        watch = self._watch
        # If the iterable raised, this stands in for a task; it is none of the program's.
        if fn is not self._reraises:
            try:
                if watch.own or _switch.current is not None:
                    if fn in self._mappers:
                        fn, items = args[0]
                        watch.recorder.chunk(len(items))
                        arrived = watch.arrive(fn)
                    else:
                        arrived = watch.arrive(fn, args)
                    return task if arrived is None else self._arrived(task, arrived)
            except Exception as exc:
                watch.give_up(exc)
        return task

    def _arrived(self, task: _Submitted, arrived: Task) -> _Submitted:
        """Record the arrival of a task with this function; return the task that goes on in its place."""
        raise NotImplementedError


class _ThreadQueue(_TaskQueue):
    """Of a `ThreadPool`."""

    def _arrived(self, task: _Submitted, arrived: Task) -> _Submitted:
        job, index, fn, args, kwargs = task
        return job, index, _Task(fn, self._watch, *arrived), args, kwargs


#: The most tasks of one `map` to record at once. Those of a longer one are recorded as the pool takes them: the
#: program must not pay for all of them with its memory.
_AT_ONCE = 100_000


class _ProcessQueue(_TaskQueue):
    """Of a `Pool`."""

    def __init__(self, queue: Any, calls: PoolCalls, results: dict[int, Any]) -> None:
        """`results`, by job, are those that are awaited: the pool's `_cache`."""
        super().__init__(queue, calls.watch)
        self._calls = calls
        self._results = results
        self._map_result: Any = sys.modules["multiprocessing.pool"].MapResult

    def _each(self, tasks: Iterable[_Submitted]) -> Iterable[_Submitted]:
        # They are taken one by one from here on, as the pipe to the workers has room. But all have arrived.
        try:
            return tasks if self._mapped(tasks) else super()._each(tasks)
        except Exception as exc:
            self._watch.give_up(exc)
            return tasks

    def _mapped(self, tasks: Any) -> bool:
        """Record the tasks of a `map`, which are known at once; False if they are not of a `map`."""
        try:
            # `_guarded_task_generation` of `_get_tasks`, neither of which has begun.
            names = tasks.gi_frame.f_locals
            job, fn = names["result_job"], names["iterable"].gi_frame.f_locals["func"]
        except (AttributeError, KeyError):
            return False
        result = self._results.get(job)
        if not isinstance(result, self._map_result) or result._number_left > _AT_ONCE:
            return False
        if self._watch.own or _switch.current is not None:
            arrived = self._watch.arrive(fn)
            if arrived is not None:
                self._watch.recorder.chunk(len(result._value), result._number_left)
                self._calls.arrived_all(job, result._number_left, arrived)
        return True

    def _arrived(self, task: _Submitted, arrived: Task) -> _Submitted:
        self._calls.arrived(*task[:2], arrived)
        return task


def _hands(pool: Any, *, sends: bool) -> Callable[[], tuple[Any, Any]]:
    weak = ref(pool)

    def hands() -> tuple[Any, Any]:
        found = weak()
        sender = getattr(found, "_task_handler", None) if sends else None
        return sender, getattr(found, "_result_handler", None)

    return hands


def _equip_threads(pool: Any, watch: Watch) -> None:
    watch.recorder.hands = _hands(pool, sends=False)
    pool._taskqueue = _ThreadQueue(pool._taskqueue, watch)


def _equip_processes(pool: Any, watch: Watch) -> None:
    calls = PoolCalls(watch, pool)
    watch.recorder.hands = _hands(pool, sends=True)
    send, receive, terminate = pool._quick_put, pool._quick_get, pool._terminate_pool

    def put(task: Any) -> None:
        try:
            send(task)
        except Exception as exc:
            if task is not None:
                calls.unsent(*task[:2])
            # A bare `raise` adds no line for this frame: the traceback is the one without us.
            leave_out(exc)
            raise

    def get() -> Any:
        return calls.returned(receive())

    def end(*args: Any) -> None:
        terminate(*args)
        calls.terminated()

    pool._taskqueue = _ProcessQueue(pool._taskqueue, calls, pool._cache)
    pool._quick_put, pool._quick_get, pool._terminate_pool = put, get, end
    pool.__dict__[_CALLS] = calls


#: Where a pool of processes keeps its `PoolCalls`.
_CALLS = "_poolscope_calls"


def _sizer(is_alive: Callable[[Any], bool], pool: Any) -> Callable[[], tuple[int, int] | None]:
    # A pool that is part of a cycle is collected with all that it has, and what it writes to in `__del__` may go before
    # it, if the collector has run meanwhile: oftener with us. So that is held from outside, until the pool is gone.
    held = [pool._change_notifier]
    weak = ref(pool, lambda _: held.clear())

    def size() -> tuple[int, int] | None:
        found: Any = weak()
        if found is None:
            return None
        return sum(map(is_alive, list(found._pool))), found._processes

    return size


_thread_pools = Instances("multiprocessing", functools.partial(_sizer, methodcaller("is_alive")), _equip_threads)
_process_pools = Instances("process", functools.partial(_sizer, alive), _equip_processes)


#: What is not watched if only the pools of processes have an unknown shape.
_UNKNOWN = "multiprocessing's pools of processes are not watched"


class _Patch(Patch):
    """The patch of both pools."""

    def __init__(self, probe: Any) -> None:
        super().__init__(probe)
        module: Any = sys.modules["multiprocessing.pool"]
        self._threads = module.ThreadPool
        #: Whether pools of processes are watched as well.
        self.processes = shapes.known(shapes.multiprocessing_workers, module, probe, _UNKNOWN)

    def kind_of(self, pool: Any) -> str:
        """Return that of threads or of processes."""
        return "multiprocessing" if isinstance(pool, self._threads) else "process"

    def used(self, pool: Any) -> None:
        """Open a new pool, or an older one that is being used, if it is not too late."""
        if not self.active or getattr(pool, ATTRIBUTE, None) is not UNOPENED:
            return
        if isinstance(pool, self._threads):
            _thread_pools.open(pool, self.find_probe, "")
            return
        pool.__dict__[ATTRIBUTE] = None
        if not self.processes:
            return
        cls = type(pool)
        self.find_probe().notice(
            f"a pool of {cls.__module__}.{cls.__qualname__} is not watched: its processes were there before, or are"
            " made in a way of its own"
        )

    def calls(self, pool: Any) -> PoolCalls | None:
        """Return what records the tasks of a pool that is about to make a worker, if anything does."""
        attributes = vars(pool)
        if self.active and ATTRIBUTE not in attributes and "_processes" in attributes and not attributes["_pool"]:
            _process_pools.open(pool, self.find_probe, "")
        calls: PoolCalls | None = attributes.get(_CALLS)
        return calls


class _Process:
    """Stands in for the static method `Process` of the class."""

    def __init__(self, state: _Patch, original: Callable[..., Any]) -> None:
        self._state = state
        self._original = original

    def __get__(self, pool: Any, _: Any = None) -> Callable[..., Any]:
        calls = None if pool is None else self._state.calls(pool)
        return self._original if calls is None else functools.partial(calls.process, self._original)


def _put_on(probe: Any) -> _Patch:
    state = _Patch(probe)
    pool: Any = sys.modules["multiprocessing.pool"].Pool
    state.put(pool, ATTRIBUTE, UNOPENED)
    state.put(pool, "_check_running", _check_running(state, pool._check_running))
    if state.processes:
        state.put(pool, "Process", _Process(state, pool.Process))
    state.put_constructor(pool, "processes", state.sized, state.used)
    return state


def familiar(probe: Any) -> bool:
    """Whether we know this standard library; if not, the probe gets a notice."""
    module = sys.modules["multiprocessing.pool"]
    return shapes.known(shapes.multiprocessing_pool, module, probe, "multiprocessing's pools are not watched")


#: `watch_own` is for pools of threads: those of processes have had theirs since they were made.
_switch = Switch(_thread_pools, familiar, _put_on, _process_pools)
patch, unpatch, watch_own = _switch.on, _switch.off, _switch.watch_own


def _check_running(state: _Patch, original: Callable[[Any], None]) -> Callable[[Any], None]:
    """Every method that submits calls this first."""

    @functools.wraps(original)
    def _check_running(self: Any) -> None:
        original(self)
        state.used(self)

    return _check_running

"""`multiprocessing.pool.ThreadPool`: recorded by instance, attached or patched in place alike.

The pool's attribute `_taskqueue`, by which its methods submit, is replaced by one that passes on every task with
its function wrapped (`_Task`): the threads of the pool keep the queues that they have, so this works for a pool that
is in use as well. What counts as a task is what the pool puts into its queue: a chunk of `map`, one item of `imap`.
`multiprocessing.pool.Pool` is left alone: a wrapped function cannot be pickled.

A task arrives when the pool takes it out of the call that submits it, which is at once but for the lazy `imap`. One
that is dropped without a start, by `terminate`, was cancelled. Calls that a closed pool refuses are not counted.
"""

from __future__ import annotations

import functools
import sys
from weakref import ref

from poolscope.probe.pools.patching import Patch, Switch
from poolscope.probe.pools.watching import (
    ATTRIBUTE,
    UNOPENED,
    Instances,
)
from poolscope.probe.pools.wrapped import WrappedTask

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

    from poolscope.probe.pools.watching import Watch


class _Task(WrappedTask):
    """The function of one task, which records it. Called once, by a thread of the pool, or dropped."""

    __slots__ = ("_called", "_fn")

    def __init__(self, fn: Callable[..., Any], watch: Watch, function: int, submitted: int) -> None:
        super().__init__(watch, function, submitted)
        self._fn = fn
        self._called = False

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        self._called = True
        log = self.begin()
        try:
            result = self._fn(*args, **kwargs)
        except BaseException as exc:
            self.end(log, 1)
            # A bare `raise` adds no line for this frame: the traceback is the one of a function without us.
            exc.__traceback__ = exc.__traceback__ and exc.__traceback__.tb_next
            raise
        self.end(log, 0)
        return result

    def __del__(self) -> None:
        if not self._called:
            self.watch.cancelled(self.function, self.submitted)


class _TaskQueue:
    """Stands in for a pool's `_taskqueue`. Any thread may submit."""

    def __init__(self, queue: Any, watch: Watch, module: Any) -> None:
        self._queue = queue
        self._watch = watch
        self._mappers = (module.mapstar, module.starmapstar)
        self._reraises = module._helper_reraises_exception

    def __getattr__(self, name: str) -> Any:
        return getattr(self._queue, name)

    def put(self, submission: Any) -> None:
        tasks, set_length = submission
        # `apply_async` submits a list of one task, all others an iterator.
        self._queue.put(([self._recorded(*tasks[0])] if type(tasks) is list else self._each(tasks), set_length))

    def _each(self, tasks: Iterable[Any]) -> Iterator[Any]:
        for task in tasks:
            yield self._recorded(*task)

    def _recorded(self, job: int, index: int, fn: Any, args: Any, kwargs: Any) -> tuple[Any, ...]:
        # An iterable that raised has this for a task, which is none of the program's.
        if fn is not self._reraises:
            try:
                fn = self._arrived(fn, args)
            except Exception as exc:
                self._watch.give_up(exc)
        return job, index, fn, args, kwargs

    def _arrived(self, fn: Any, args: Any) -> Any:
        watch = self._watch
        if not (watch.own or _switch.current is not None):
            return fn
        task = watch.arrive(args[0][0]) if fn in self._mappers else watch.arrive(fn, args)
        return fn if task is None else _Task(fn, watch, *task)


def _equip(pool: Any, watch: Watch) -> None:
    pool._taskqueue = _TaskQueue(pool._taskqueue, watch, sys.modules["multiprocessing.pool"])


def _sizer(pool: Any) -> Callable[[], tuple[int, int] | None]:
    weak = ref(pool)

    def size() -> tuple[int, int] | None:
        found: Any = weak()
        if found is None:
            return None
        return sum(thread.is_alive() for thread in list(found._pool)), found._processes

    return size


_instances = Instances("multiprocessing", _sizer, _equip)


class _Patch(Patch):
    """The patch of `ThreadPool`."""

    def watch(self, pool: Any) -> Watch | None:
        """Open `pool`: when it is made, or with its first task if it is older."""
        return _instances.open(pool, self.find_probe, "") if self.active else None


def _put_on(probe: Any) -> _Patch:
    state = _Patch(probe)
    pool: Any = sys.modules["multiprocessing.pool"].ThreadPool
    state.put(pool, ATTRIBUTE, UNOPENED)
    state.put(pool, "_check_running", _check_running(state, pool._check_running))
    state.put_constructor(pool, "processes", state.sized, state.watch)
    return state


def familiar(probe: Any) -> bool:
    """Whether the standard library is one that we know; if not, the probe gets a notice."""
    module: Any = sys.modules["multiprocessing.pool"]
    try:
        # Where tasks are submitted, and in which shape, is seen from what these look up.
        pool = module.ThreadPool
        known = (
            all(
                "_taskqueue" in method.__code__.co_names and "_check_running" in method.__code__.co_names
                for method in (pool.apply_async, pool._map_async, pool.imap, pool.imap_unordered)
            )
            and pool._wrap_exception is False
            and all(
                callable(getattr(module, name)) for name in ("mapstar", "starmapstar", "_helper_reraises_exception")
            )
        )
    except AttributeError:
        known = False
    if not known:
        version = sys.version.split()[0]
        probe.emit(("notice", f"multiprocessing's thread pools are not watched: unknown in Python {version}"))
    return known


_switch = Switch(_instances, familiar, _put_on)
patch, unpatch, watch_own = _switch.on, _switch.off, _switch.watch_own


def _check_running(state: _Patch, original: Callable[[Any], None]) -> Callable[[Any], None]:
    """Every method that submits calls this first."""

    @functools.wraps(original)
    def _check_running(self: Any) -> None:
        original(self)
        if state.active and getattr(self, ATTRIBUTE, None) is UNOPENED:
            state.watch(self)

    return _check_running

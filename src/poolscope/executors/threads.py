"""The drop-in thread pool: the standard one, watched, and faster.

How a task passes through it, and why nothing is lost or seen twice:

- `submit` takes no lock. It looks whether the executor is broken or shut down before the enqueue and again after it.
  If that came in between, no worker may be left to run the task: then it is withdrawn and the call refused, unless the
  task has left the queue already.
- The arrival is recorded before the enqueue, so no worker can start a task that has not arrived; that of a task that is
  withdrawn, refused by the queue, or interrupted on its way there is taken back.
- What happens to a task from there on is the business of its future, which is its work item too
  (`poolscope.executors.futures`).
- A worker notes the end of a task before it sets the future: code that has seen the result finds it recorded.

Only the worker writes its own log; all else is appended as whole records (see `poolscope.probe.recording.recorder`).
"""

from __future__ import annotations

import concurrent.futures.thread as standard
import threading
import weakref
from concurrent.futures import _base
from functools import partial
from queue import Empty

from poolscope.executors.futures import RESOLVED, Future
from poolscope.probe.executors.as_standard import standard_submit, throw
from poolscope.probe.interpreter import shapes
from poolscope.probe.interpreter.tracebacks import leave_out, leave_out_ours
from poolscope.probe.recording.pool_watch import UNOPENED, UNREAD_LIMIT, Instances

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from queue import SimpleQueue
    from typing import Any, ParamSpec, TypeVar

    from poolscope.probe.recording.pool_watch import Watch
    from poolscope.probe.runtime import Probe

    P = ParamSpec("P")
    T = TypeVar("T")


def _shape_of(module: Any) -> str | None:
    """Return the shape of the standard executor, or None: then ours only has another constructor, and says so."""
    try:
        return shapes.thread_pool(module)
    except shapes.Unfamiliar as reason:
        _find_probe().warn(shapes.missed("the drop-in thread pool records nothing", reason))
        return None


def _find_probe() -> Probe:
    from poolscope.probe import runtime

    return runtime.current()


_shape = _shape_of(standard)
_submit: Any = standard_submit(standard)


class _Context:
    """What a worker needs before and after its tasks, as the standard `WorkerContext` has it from 3.14 on."""

    def __init__(self, initializer: Callable[..., object] | None, initargs: tuple[Any, ...]) -> None:
        self._initializer = initializer
        self._initargs = initargs

    def initialize(self) -> None:
        if self._initializer is not None:
            self._initializer(*self._initargs)

    def finalize(self) -> None:
        pass


class _Failed:
    """Stands for a worker's context that has raised as it began."""

    def __init__(self, exc: BaseException) -> None:
        self.initialize = partial(throw, exc)


def _work(
    executor_reference: weakref.ref[ThreadPoolExecutor],
    work_queue: SimpleQueue[Any],
    context: Any,
    idle: list[None],
    watch: Watch | None,
) -> None:
    """Live as a worker thread, like the standard one; `idle` has a token for each worker that found no work."""
    try:
        context.initialize()
    except BaseException as exc:
        # The standard worker says so and breaks the executor, with the traceback that this has there.
        leave_out_ours(exc)
        worker: Any = standard._worker
        if _shape == shapes.CONTEXT:
            worker(executor_reference, _Failed(exc), work_queue)
        else:
            worker(executor_reference, work_queue, throw, (exc,))
        return
    log = None
    if watch is not None:
        try:
            log = watch.own_log()
        except Exception as exc:
            watch.give_up(exc)
    get_nowait = work_queue.get_nowait
    try:
        while True:
            try:
                work_item = get_nowait()
            except Empty:
                idle.append(None)
                work_item = work_queue.get()
            if type(work_item) is Future:
                work_item.run(log, context)
                # Delete references to the task while waiting for the next.
                del work_item
                continue
            if work_item is not None:
                # Other code put an item of its own kind into the queue.
                if _shape == shapes.CONTEXT:
                    work_item.run(context)
                else:
                    work_item.run()
                del work_item
                continue
            executor = executor_reference()
            # Exit if the interpreter shuts down, or the executor was collected or shut down.
            if standard._shutdown or executor is None or executor._shutdown:
                # Flag an executor that is not collected yet as early as possible.
                if executor is not None:
                    executor._shutdown = True
                work_queue.put(None)  # for the next worker
                return
            del executor
    except BaseException:
        _base.LOGGER.critical("Exception in worker", exc_info=True)
    finally:
        context.finalize()


class ThreadPoolExecutor(standard.ThreadPoolExecutor):  # noqa: D101 - the standard class has none
    # Thread safety: as the standard executor. Threads are made under its two locks. `_idle` holds a token for each
    # worker that found the queue empty; workers append and submitters pop, each of which is one step with and without
    # the GIL. A token left by a worker that another task woke up in the meantime makes one thread start later than it
    # could have, as the standard semaphore does from Python 3.12 on; that is also the policy here on 3.11.
    # `_idle_semaphore` exists but stays at 0.
    #
    # From 3.14 on a subclass may resolve tasks and make workers' contexts by a `prepare_context` of its own: its tasks
    # are then run by those contexts. The standard one comes to the same as to call the function, which is done here.

    #: Keeps the patch of the standard executor from recording these pools once more.
    _poolscope_own = True
    _poolscope: Any = UNOPENED
    #: What a broken pool raises: the standard class has this attribute from 3.14 on.
    BROKEN: type[_base.BrokenExecutor] = getattr(standard.ThreadPoolExecutor, "BROKEN", standard.BrokenThreadPool)
    #: Whether the subclass has a `prepare_context` of its own, whose contexts run its tasks.
    _resolves: bool

    if _shape == shapes.CONTEXT:

        def __init__(
            self,
            max_workers: int | None = None,
            thread_name_prefix: str = "",
            initializer: Callable[..., object] | None = None,
            initargs: tuple[Any, ...] = (),
            *,
            name: str | None = None,
            **ctxkwargs: Any,
        ) -> None:
            try:
                super().__init__(max_workers, thread_name_prefix, initializer, initargs, **ctxkwargs)
            except BaseException as exc:
                leave_out(exc)
                raise
            prepare: Any = type(self).prepare_context  # type: ignore[attr-defined]  # newer than typeshed's, as below
            self._resolves = prepare.__func__ is not standard.ThreadPoolExecutor.prepare_context.__func__  # type: ignore[attr-defined]
            self._open(thread_name_prefix, name)

    else:

        def __init__(  # type: ignore[misc]  # as the standard one of the interpreter has it
            self,
            max_workers: int | None = None,
            thread_name_prefix: str = "",
            initializer: Callable[..., object] | None = None,
            initargs: tuple[Any, ...] = (),
            *,
            name: str | None = None,
        ) -> None:
            try:
                super().__init__(max_workers, thread_name_prefix, initializer, initargs)
            except BaseException as exc:
                leave_out(exc)
                raise
            self._resolves = False
            self._open(thread_name_prefix, name)

    __init__.__doc__ = f"""{(standard.ThreadPoolExecutor.__init__.__doc__ or "").rstrip()}
            name: What poolscope calls the pool; by default the thread name prefix that was given, else the
                module and function that made the pool, with the variable it is in.
        """

    def _open(self, thread_name_prefix: str, name: str | None) -> None:
        self._idle: list[None] = []
        _instances.open(self, _find_probe, thread_name_prefix, name)

    def submit(  # noqa: D102 - the standard docstring, below
        self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> _base.Future[T]:
        watch = self._poolscope
        if watch is UNOPENED:  # inherited through a fork
            watch = _instances.open(self, _find_probe, "")
        if self._broken or self._shutdown or standard._shutdown:
            try:
                return self._refuse(watch, fn, args, kwargs)
            except BaseException as exc:
                # A bare `raise` adds no line for this frame: the traceback is the standard one. So below.
                leave_out(exc)
                raise
        if self._resolves:
            future = Future(None, self._resolve_work_item_task(fn, args, kwargs), RESOLVED)  # type: ignore[attr-defined]
        else:
            future = Future(fn, args, kwargs)
        try:
            if watch is not None:
                if 0 < len(watch.arrivals) < UNREAD_LIMIT or watch.attend():
                    function = future._function = watch.identify(fn, args)
                    submitted = future._submitted = watch.clock()
                    future._watch = watch
                    watch.arrivals.extend((function, submitted))
                else:
                    self._poolscope = None
        except BaseException as exc:
            if watch is None:
                raise
            future.unrecord()
            watch.give_up(exc)
            self._poolscope = None
        try:
            self._work_queue.put(future)  # type: ignore[arg-type]  # typed as the standard work item
        except BaseException:
            future.unrecord()
            raise
        try:
            idle = self._idle and not self._idle.pop()
        except IndexError:  # another submitter took the last token
            idle = False
        if not idle:
            self._grow()
        if (self._broken or self._shutdown or standard._shutdown) and future.withdraw():
            try:
                return self._refuse(watch, fn, args, kwargs)
            except BaseException as exc:
                leave_out(exc)
                raise
        return future

    submit.__doc__ = _base.Executor.submit.__doc__

    def _refuse(self, watch: Watch | None, fn: Any, args: Any, kwargs: Any) -> _base.Future[Any]:
        """Have the standard `submit` say why. It takes the task if the program has opened the pool again meanwhile."""
        if watch is not None:
            watch.attend()
            watch.rejected()
        try:
            future: _base.Future[Any] = _submit(self, fn, *args, **kwargs)
        except BaseException as exc:
            leave_out(exc)
            raise
        return future

    def _grow(self) -> None:
        """Start a thread if there may be one more."""
        if len(self._threads) < self._max_workers:
            with self._shutdown_lock, standard._global_shutdown_lock:
                # Not once `shutdown` or the interpreter has begun to join the threads that there are.
                if not (self._broken or self._shutdown or standard._shutdown):
                    self._adjust_thread_count()

    def _adjust_thread_count(self) -> None:
        num_threads = len(self._threads)
        if num_threads >= self._max_workers:
            return

        # When the executor gets lost, the weakref callback wakes the workers up.
        def collected(_: object, queue: SimpleQueue[Any] = self._work_queue) -> None:
            queue.put(None)

        thread = threading.Thread(
            name=f"{self._thread_name_prefix or self}_{num_threads}",
            target=_work,
            args=(
                weakref.ref(self, collected),
                self._work_queue,
                self._worker_context(),
                self._idle,
                self._poolscope,
            ),
        )
        thread.start()
        self._threads.add(thread)  # type: ignore[attr-defined]  # read-only in typeshed
        standard._threads_queues[thread] = self._work_queue  # type: ignore[index]  # likewise

    def _worker_context(self) -> Any:
        if _shape == shapes.CONTEXT:
            return self._create_worker_context()  # type: ignore[attr-defined]  # newer than typeshed's
        return _Context(self._initializer, self._initargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: D102 - likewise, below
        if cancel_futures:
            with self._shutdown_lock:
                self._shutdown = True
                for work_item in self._drained():
                    if isinstance(work_item, Future):
                        work_item.cancel_unqueued()
                    else:
                        work_item.future.cancel()
        super().shutdown(wait)

    shutdown.__doc__ = _base.Executor.shutdown.__doc__

    def _drained(self) -> Iterator[Any]:
        while True:
            try:
                work_item = self._work_queue.get_nowait()
            except Empty:
                return
            if work_item is not None:
                yield work_item
            del work_item

    def _initializer_failed(self) -> None:
        with self._shutdown_lock:
            reason = "A thread initializer failed, the thread pool is not usable anymore"
            self._broken = reason  # type: ignore[assignment]  # bool in typeshed
            for work_item in self._drained():
                failure = self.BROKEN(reason)
                if isinstance(work_item, Future):
                    work_item.fail_unstarted(failure)
                else:
                    work_item.future.set_exception(failure)


_instances = Instances()

if _shape is None:

    class ThreadPoolExecutor(standard.ThreadPoolExecutor):  # type: ignore[no-redef]
        """The standard executor of an interpreter that is not known: it takes our `name`, and is not recorded."""

        _poolscope_own = True

        def __init__(self, *args: Any, name: str | None = None, **kwargs: Any) -> None:  # noqa: ARG002
            super().__init__(*args, **kwargs)

"""The drop-in thread pool: the standard one, watched.

How a task passes through `ThreadPoolExecutor`, and why nothing is lost or seen twice:

- `submit` records the arrival under the locks that the standard executor takes too, after the refusals and
  before
  the enqueue: a refused task never arrives, and no worker can start a task that has not arrived.
- A future leaves the pending state once, under its own condition: to running (`WorkItem.run`), to cancelled
  (`Future.cancel`, which records it there and then), or to failed without a start (a broken pool).
- A worker notes the end of a task before it sets the future: whoever has seen the result finds it recorded.

Only the worker writes its own log; arrivals and cancellations are appended as whole records (see
`poolscope.probe.pools.recording`).
"""

from __future__ import annotations

import concurrent.futures.thread as standard
import threading
import weakref
from _thread import RLock
from concurrent.futures import _base
from queue import Empty

from poolscope.probe.pools.watching import UNOPENED, UNREAD_LIMIT, Instances, own_log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from queue import SimpleQueue
    from typing import Any, NoReturn, ParamSpec, TypeVar

    from poolscope.probe.pools.recording import WorkerLog
    from poolscope.probe.pools.watching import Task, Watch
    from poolscope.probe.runtime import Probe

    P = ParamSpec("P")
    T = TypeVar("T")
    StandardFuture = _base.Future[Any]
else:
    StandardFuture = _base.Future

_TOO_LATE = (_base.RUNNING, _base.FINISHED)
_CANCELLED = (_base.CANCELLED, _base.CANCELLED_AND_NOTIFIED)


class _Condition(RLock):  # type: ignore[misc]  # final in typeshed only
    """A `threading.Condition` over an RLock that costs no more than the lock until a thread waits.

    Most futures are never waited for by a thread that blocks on them, and making a condition is the dearest
    step of `submit`. The real one is made, over this very lock, by the first thread that waits, which holds
    the lock.
    """

    _real: threading.Condition | None = None

    def _made(self) -> threading.Condition:
        if not self._is_owned():  # type: ignore[attr-defined]  # missing in typeshed
            raise RuntimeError("cannot wait on un-acquired lock")
        if self._real is None:
            self._real = threading.Condition(self)
        return self._real

    def wait(self, timeout: float | None = None) -> bool:
        return self._made().wait(timeout)

    def wait_for(self, predicate: Callable[[], T], timeout: float | None = None) -> T:
        return self._made().wait_for(predicate, timeout)

    def notify(self, n: int = 1) -> None:
        if not self._is_owned():  # type: ignore[attr-defined]  # as above
            raise RuntimeError("cannot notify on un-acquired lock")
        if self._real is not None:
            self._real.notify(n)

    def notify_all(self) -> None:
        if not self._is_owned():  # type: ignore[attr-defined]  # as above
            raise RuntimeError("cannot notify on un-acquired lock")
        if self._real is not None:
            self._real.notify_all()


class Future(StandardFuture):
    """The standard future, which records its cancellation.

    `task` is set before the future is enqueued, and cleared by whoever takes it out of the pending state.
    """

    task: Task | None = None

    def __init__(self) -> None:
        # All that the standard one does, but for the condition.
        self._condition = _Condition()  # type: ignore[assignment]  # has all of its methods
        self._state = _base.PENDING
        self._result = None
        self._exception = None
        self._waiters: list[Any] = []
        self._done_callbacks: list[Callable[[_base.Future[Any]], object]] = []

    def cancel(self) -> bool:  # noqa: D102 - the standard docstring, below
        if self._state == _base.FINISHED:
            return False  # final, so it needs no lock; `map` cancels each future that it has the result of
        with self._condition:
            if self._state in _TOO_LATE:
                return False
            if self._state in _CANCELLED:
                return True
            self._state = _base.CANCELLED
            if self.task is not None:
                # Under the condition: recorded once, and before anybody hears of it.
                watch, function, submitted = self.task
                self.task = None
                watch.recorder.cancelled.extend((function, submitted, watch.clock()))
            self._condition.notify_all()
        self._invoke_callbacks()  # type: ignore[attr-defined]  # typeshed leaves it out
        return True

    cancel.__doc__ = _base.Future.cancel.__doc__


class WorkItem:
    """A task in the queue. Whoever takes it out of there calls `run` or `fail_unstarted`, once."""

    __slots__ = ("args", "fn", "future", "kwargs")

    def __init__(self, future: Future, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.future = future
        self.fn = fn
        self.args = args
        self.kwargs = kwargs

    def run(self, watch: Watch | None = None, log: WorkerLog | None = None) -> None:
        """Run the task unless it was cancelled. `log` is the calling worker's, of the pool of `watch`."""
        try:
            if not self.future.set_running_or_notify_cancel():
                return
        except BaseException:
            # Somebody else has set the future of a queued task, and it will never run.
            self._record_unstarted()
            raise
        task = self.future.task
        if task is None:
            self._run_unrecorded()
            return
        self.future.task = None
        # The traceback of the task's exception keeps this frame: no name in it but `self` may lead to the
        # task.
        owner, function, submitted = task
        if log is None or owner is not watch:
            log = own_log(owner)  # a thread that is no worker of ours runs the item
        clock = owner.clock
        outer = log.running
        started = clock()
        log.running = (function, submitted, started)
        try:
            result = self.fn(*self.args, **self.kwargs)
        except BaseException as exc:
            log.finished.extend((log.worker, function * 2 + 1, submitted, started, clock()))
            log.running = outer
            self.future.set_exception(exc)
            # Break a reference cycle with the exception.
            self = None  # type: ignore[assignment]  # the name is of no more use, as in the standard work item
        else:
            log.finished.extend((log.worker, function * 2, submitted, started, clock()))
            log.running = outer
            self.future.set_result(result)

    def fail_unstarted(self, exc: BaseException) -> None:
        """Fail the task without a start, unless it was cancelled or its future was set by somebody else."""
        try:
            # Running for a moment, so that a `cancel` between the record and the failure comes too late.
            live = self.future.set_running_or_notify_cancel()
        except Exception:
            self._record_unstarted()
            return
        if live:
            self._record_unstarted()
            self.future.set_exception(exc)

    def _record_unstarted(self) -> None:
        task = self.future.task
        if task is not None:
            self.future.task = None
            watch, function, submitted = task
            watch.recorder.broken.extend((function, submitted, watch.clock()))

    def _run_unrecorded(self) -> None:
        try:
            result = self.fn(*self.args, **self.kwargs)
        except BaseException as exc:
            self.future.set_exception(exc)
            self = None  # type: ignore[assignment]  # as above
        else:
            self.future.set_result(result)


def _work(
    executor_reference: weakref.ref[ThreadPoolExecutor],
    work_queue: SimpleQueue[Any],
    initializer: Callable[..., object] | None,
    initargs: tuple[Any, ...],
    idle: list[None],
    ours: type[WorkItem],
    watch: Watch | None,
) -> None:
    """The life of a worker thread: the standard one's, with a token in `idle` for each worker that found no
    work."""
    if initializer is not None:
        try:
            initializer(*initargs)
        except BaseException:
            _base.LOGGER.critical("Exception in initializer:", exc_info=True)
            executor = executor_reference()
            if executor is not None:
                executor._initializer_failed()
            return
    log = None if watch is None else own_log(watch)
    get_nowait = work_queue.get_nowait
    try:
        while True:
            try:
                work_item = get_nowait()
            except Empty:
                idle.append(None)
                work_item = work_queue.get()
            if type(work_item) is ours:
                work_item.run(watch, log)
                # Delete references to the task while waiting for the next.
                del work_item
                continue
            if work_item is not None:
                work_item.run()  # somebody put an item of another kind into the queue
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


class ThreadPoolExecutor(standard.ThreadPoolExecutor):  # noqa: D101 - the standard class has none
    # Thread safety: as the standard executor. `submit`, `_adjust_thread_count` and `_initializer_failed` run
    # under `_shutdown_lock`, so only one thread at a time takes tokens out of `_idle`; workers append to it
    # without a lock (`list.append` is one step with and without the GIL). A token left by a worker that
    # another task woke up in the meantime makes one thread start later than it could have, as the standard
    # semaphore does from Python 3.12 on; that is also the policy here on 3.11. `_idle_semaphore` exists but
    # stays at 0.
    #
    # 3.14 and later: expected to work, untested.

    #: A faster future or work item can take the place of these.
    future_class = Future
    work_item_class = WorkItem

    #: Keeps the patch of the standard executor from recording these pools once more.
    _poolscope_own = True
    _poolscope: Any = UNOPENED

    def __init__(
        self,
        max_workers: int | None = None,
        thread_name_prefix: str = "",
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        *,
        name: str | None = None,
    ) -> None:
        """Initializes a new ThreadPoolExecutor instance.

        Args:
            max_workers: The maximum number of threads that can be used to
                execute the given calls.
            thread_name_prefix: An optional name prefix to give our threads.
            initializer: A callable used to initialize worker threads.
            initargs: A tuple of arguments to pass to the initializer.
            name: What poolscope calls the pool; by default the thread name prefix that was given, else the
                module and function that made the pool.
        """
        super().__init__(max_workers, thread_name_prefix, initializer, initargs)
        self._initializer = initializer  # type: ignore[assignment]  # typeshed wants it to return None
        self._initargs = initargs
        self._idle: list[None] = []
        _instances.open(self, _find_probe, thread_name_prefix, name)

    def submit(  # noqa: D102 - the standard docstring, below
        self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> _base.Future[T]:
        watch = self._poolscope
        if watch is UNOPENED:  # inherited through a fork
            watch = _instances.open(self, _find_probe, "")
        future = self.future_class()
        function = 0
        if watch is not None:
            if not 0 < len(watch.arrivals) < UNREAD_LIMIT and not watch.attend():
                watch = self._poolscope = None
            else:
                function = watch.identify(fn, args)
        with self._shutdown_lock, standard._global_shutdown_lock:
            if self._broken or self._shutdown or standard._shutdown:
                self._refuse(watch)
            if watch is not None:
                submitted = watch.clock()
                future.task = (watch, function, submitted)
                watch.arrivals.extend((function, submitted))
            self._work_queue.put(self.work_item_class(future, fn, args, kwargs))  # type: ignore[arg-type]
            if self._idle:
                self._idle.pop()
            else:
                self._adjust_thread_count()
        return future

    submit.__doc__ = _base.Executor.submit.__doc__

    def _refuse(self, watch: Watch | None) -> NoReturn:
        if watch is not None:
            watch.recorder.rejected.append(watch.clock())
        if self._broken:
            raise standard.BrokenThreadPool(self._broken)
        if self._shutdown:
            raise RuntimeError("cannot schedule new futures after shutdown")
        raise RuntimeError("cannot schedule new futures after interpreter shutdown")

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
                self._initializer,
                self._initargs,
                self._idle,
                self.work_item_class,
                self._poolscope,
            ),
        )
        thread.start()
        self._threads.add(thread)  # type: ignore[attr-defined]  # read-only in typeshed
        standard._threads_queues[thread] = self._work_queue  # type: ignore[index]  # likewise

    def _initializer_failed(self) -> None:
        with self._shutdown_lock:
            reason = "A thread initializer failed, the thread pool is not usable anymore"
            self._broken = reason  # type: ignore[assignment]  # bool in typeshed
            while True:
                try:
                    work_item = self._work_queue.get_nowait()
                except Empty:
                    break
                if work_item is None:
                    continue
                failure = standard.BrokenThreadPool(reason)
                if isinstance(work_item, self.work_item_class):
                    work_item.fail_unstarted(failure)
                else:
                    work_item.future.set_exception(failure)


def _find_probe() -> Probe:
    from poolscope.probe import runtime

    return runtime.current()


_instances = Instances()

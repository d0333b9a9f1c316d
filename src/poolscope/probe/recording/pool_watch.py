"""From an executor to its recorder: what the drop-in and the patched standard executor have in common."""

from __future__ import annotations

import os
import threading
from _thread import get_ident, get_native_id
from functools import partial
from time import thread_time_ns
from weakref import ref

from poolscope.probe.interpreter.blame import is_ours

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import ThreadPoolExecutor
    from types import CodeType, FrameType
    from typing import Any

    from poolscope.probe.api import ProbeApi
    from poolscope.probe.interpreter.stacks import Site
    from poolscope.probe.recording.recorder import PoolRecorder, WorkerLog

    Size = Callable[[], tuple[int, int] | None]

#: With more uncollected integers in a recorder's `arrivals` than this we stop recording that pool: the probe's thread
#: is gone, and the program must not pay for it with its memory.
UNREAD_LIMIT = 4_000_000


class _Unopened:
    """Stands for the watch of an executor whose pool has not been opened: it has no attribute of its own yet."""

    def __bool__(self) -> bool:
        return False


UNOPENED = _Unopened()

#: For executors that libraries make for themselves. Each function gets a standard executor that is to be opened, and
#: whether it is being made just now. It returns the watch; None, if the executor is not to be watched; UNOPENED, to be
#: called again with its first task; NotImplemented, if it does not know the executor. Must not raise.
ADOPTERS: list[Callable[[Any, bool], Any]] = []

#: Where an executor keeps its `Watch` (or None: not watched) and, after a fork, the name it had before.
ATTRIBUTE = "_poolscope"
NAME_ATTRIBUTE = "_poolscope_name"
#: Where a standard future of a task that has not started keeps its claim.
CLAIM = "_poolscope_claim"
#: Code of the frames in which workers run a task: `self` there is the work item, with its `future` if it has one.
RUN_CODES: set[CodeType] = set()
#: Code of the function of a library that waits at a condition -> from its frame, what it waits for, or None if that is
#: not reported. Must not raise.
WAITS: dict[CodeType, Callable[[FrameType], Any]] = {}


#: Threads that wait for one of so many things, such as connections, by their identifiers -> the record of these. Single
#: dict operations only.
AWAITED: dict[int, PoolRecorder] = {}


#: Class of futures that record their tasks themselves -> from one of them, its task, if that has not started; or None.
FUTURES: dict[type, Callable[[Any], Task | None]] = {}
#: Classes with a `watch` whose methods are callbacks of futures, until their tasks are back from a worker process.
CALLS: set[type] = set()


class Room:
    """What a thread waits for that may submit to a pool once fewer tasks are in: the end of any one of them.

    `semaphore` is the one that it waits at, if only the ends of tasks release that; None: others may make room too.
    """

    __slots__ = ("pool", "semaphore")

    def __init__(self, pool: int, semaphore: threading.Semaphore | None) -> None:
        self.pool = pool
        self.semaphore = semaphore

    def free(self) -> bool:
        """Whether there is room by now, as far as we know."""
        value: int = 0 if self.semaphore is None else self.semaphore._value
        return value > 0


class Watch:
    """What a pool needs to record a task. Any thread may use it.

    Nothing but `logs` and `own` changes after construction. Holds no reference to the executor: futures and
    worker threads refer to the watch and may outlive it.
    """

    __slots__ = ("arrivals", "clock", "identify", "logs", "own", "probe", "recorder")

    def __init__(self, probe: ProbeApi, recorder: PoolRecorder) -> None:
        self.probe = probe
        self.recorder = recorder
        self.arrivals = recorder.arrivals
        #: Whether it is watched for its own sake (drop-in, attached), and not because its family is patched.
        self.own = False
        #: By thread identifier, for as long as the thread lives.
        self.logs: dict[int, WorkerLog] = {}
        self.clock: Callable[[], int] = probe.clock
        self.identify: Callable[[Any, tuple[Any, ...]], int] = probe.functions.identify

    def attend(self) -> bool:
        """Check on the reader, before the first undrained arrival, or if far too many wait. False: give up."""
        if self.recorder.given_up:
            return False
        if len(self.arrivals) < UNREAD_LIMIT:
            try:
                self.probe.wake()
            except Exception as exc:
                report(self.probe, exc)
            return True
        text = f"pool {self.recorder.name}: nothing was drained for too long, it is no longer recorded"
        report(self.probe, RuntimeError(text))
        return False

    def arrive(self, fn: Any, args: tuple[Any, ...] = (), function: int | None = None) -> tuple[int, int] | None:
        """Record that a task was submitted just now: its function, and when. None: nothing is recorded any more.
        `function` is its number, if it is to go by another one.

        Raises what goes wrong with us. Where each 100 ns count, `submit` has these steps in it.
        """
        if self.recorder.given_up or (not 0 < len(self.arrivals) < UNREAD_LIMIT and not self.attend()):
            return None
        task = self.identify(fn, args) if function is None else function, self.clock()
        self.arrivals.extend(task)
        return task

    def own_log(self) -> WorkerLog:
        """Return the calling thread's log in this pool."""
        return own_log(self)

    def join(self, ident: int, native_id: int) -> WorkerLog:
        """Return a log for the calling thread, which has none yet."""
        return self.recorder.join(ident, native_id)

    def now(self) -> int:
        """Return what the clock shows; 0, if it fails, and the pool is given up."""
        try:
            return self.clock()
        except Exception as exc:
            self.give_up(exc)
            return 0

    def end(self, task: tuple[WorkerLog, int, int, int, Any], failed: int) -> None:
        """Record the end of a task: before its future is set, so that it is recorded once its result is seen.

        `task` is the worker's log, the function, when it was submitted and started, and what the worker was in before,
        with which it goes on. `failed` is 1 if it raised and 0 if not.
        """
        log, function, submitted, started, outer = task
        now = 0
        try:
            now = self.clock()
            log.finished.extend((log.worker, function * 2 + failed, submitted, started, now))
        except BaseException as exc:
            if not now:  # it came before the record
                log.finished.extend((log.worker, function * 2 + failed, submitted, started, started))
            self.give_up(exc)
        finally:
            log.running = outer

    def cancelled(self, function: int, submitted: int) -> None:
        """Record that a queued task was cancelled just now. A failure of ours gives the pool up, here and below."""
        try:
            self.recorder.cancelled.extend((function, submitted, self.clock()))
        except Exception as exc:
            self.give_up(exc)

    def broke(self, function: int, submitted: int) -> None:
        """Record that a queued task failed just now without a start."""
        try:
            self.recorder.broken.extend((function, submitted, self.clock()))
        except Exception as exc:
            self.give_up(exc)

    def withdrawn(self, function: int, submitted: int) -> None:
        """Take the arrival of a task back: its submission is refused after all."""
        try:
            self.recorder.withdrawn.extend((function, submitted))
        except Exception as exc:
            self.give_up(exc)

    def rejected(self) -> None:
        """Record that a submission was refused just now."""
        try:
            self.recorder.rejected.append(self.clock())
        except Exception as exc:
            self.give_up(exc)

    def give_up(self, exc: BaseException) -> None:
        """Give up as recording has failed: the pool is over for its readers, which would wait for tasks that never end.

        Raises `exc` again if it is the program's (see `blame`): then the pool goes on.
        """
        if not is_ours(exc):
            try:
                raise exc
            finally:
                # Break a reference cycle with the exception.
                del exc
        self.recorder.given_up = True
        report(self.probe, exc)


#: A recorded task that has not started: its pool, its function, when it was submitted (ns).
Task = tuple[Watch, int, int]


def report(probe: Any, exc: BaseException) -> None:
    """Tell the probe of a failure of ours, or the log if there is no probe.

    Raises `exc` again if it is the program's (see `blame`), and nothing else.
    """
    if not is_ours(exc):
        try:
            raise exc
        finally:
            del exc  # likewise
    try:
        if probe is None:
            import logging

            logging.getLogger("poolscope").error("pools are not watched: %s: %s", type(exc).__name__, exc)
        else:
            probe.fail("pools", exc)
    except Exception:
        pass  # the part that reports failures has failed: nothing is left to do


class _ThreadBinding:
    """Binds a thread to its log in a pool. Goes with the thread: the interpreter drops a thread's locals when it ends.

    That is before its identifier can be another thread's.
    """

    __slots__ = ("_ident", "_logs", "log")

    def __init__(self, logs: dict[int, WorkerLog], log: WorkerLog) -> None:
        self._logs = logs
        self.log = log
        self._ident = log.ident
        logs[log.ident] = log

    def __del__(self) -> None:
        self._logs.pop(self._ident, None)
        # Ours unless the interpreter is shutting down and another thread clears up.
        self.log.depart(thread_time_ns() if get_ident() == self._ident else -1)


class _ThreadBindings(threading.local):
    """The bindings of one thread: one for each pool that it runs tasks of, so nearly always one."""

    def __init__(self) -> None:
        self.all: list[_ThreadBinding] = []


_bindings = _ThreadBindings()


def in_task() -> bool:
    """Whether the calling thread is a worker of a pool, and in a task of it."""
    return any(binding.log.running is not None for binding in _bindings.all)


def own_log(watch: Watch) -> WorkerLog:
    """Return the calling thread's log in the pool of `watch`: the same one each time, in `watch.logs` from now on."""
    ident = get_ident()
    log = watch.logs.get(ident)
    if log is None:
        log = watch.join(ident, get_native_id())
        _bindings.all.append(_ThreadBinding(watch.logs, log))
    return log


def task_here() -> tuple[WorkerLog, tuple[int, int, int]] | None:
    """Return the task that the calling thread is in as a worker of a pool, and its log; None if it is in none."""
    for binding in _bindings.all:
        running = binding.log.running
        if running is not None:
            return binding.log, running
    return None


def as_text(name: Any) -> str:
    """Return the name of a pool as a string: programs also pass numbers, paths and members of an Enum."""
    if type(name) is str:
        return name
    try:
        return str.__str__(str(name))
    except Exception:
        return type(name).__qualname__  # a `__str__` of the program's that the pool itself need never call


def automatic(prefix: object) -> bool:
    """Whether the standard executor made this thread name prefix up ("ThreadPoolExecutor-3")."""
    if type(prefix) is not str:
        return False
    head, _, number = prefix.rpartition("-")
    return head in ("ThreadPoolExecutor", "InterpreterPoolExecutor") and number.isdecimal()


def _sizer(executor: ThreadPoolExecutor) -> Callable[[], tuple[int, int] | None]:
    weak = ref(executor)
    # In a forked child the parent's threads are still in the set, and none of them is in the process.
    inherited = any(not thread.is_alive() for thread in list(executor._threads))

    def size() -> tuple[int, int] | None:
        pool = weak()
        if pool is None:
            return None
        # list() of a set is one step; iterating it ourselves could meet a submit that adds a thread
        threads = list(pool._threads)
        if inherited or pool._shutdown or pool._broken:
            # A thread stays in the set for good: any other pool has no dead ones worth the look.
            threads = [thread for thread in threads if thread.is_alive()]
        return len(threads), pool._max_workers

    return size


def size_from_settings(find_probe: Callable[[], Any], kind: str, name: str | None = None) -> int | None:
    """Return the size that the settings want for a new pool of this kind; None if they want none. Never raises."""
    probe = None
    try:
        from poolscope.probe.interpreter.stacks import creation_site

        probe = find_probe()
        rule = probe.pool_rule(as_text(name or creation_site(1)[1]), kind)
        return (rule.max_workers or None) if rule is not None else None
    except Exception as exc:
        report(probe, exc)
        return None


def open_watch(
    executor: Any,
    find_probe: Callable[[], Any],
    *,
    name: str | None,
    prefix: str,
    kind: str,
    size_of: Callable[[Any], Size],
    site: Site | None = None,
) -> Watch | None:
    """Return the watch of a new pool, with the size that the settings give it; None if it is not to be watched.

    `site` is where it was made (see `creation_site`), unless that is just now. Only an executor of threads can be given
    another size once it is made. Never raises: a failure of ours goes to the probe, and the pool stays a plain one.
    """
    probe = None
    try:
        from poolscope.probe.interpreter.stacks import creation_site

        probe = find_probe()
        if site is None:
            site = creation_site(1)
        name, prefix = name and as_text(name), prefix and as_text(prefix)
        rule = probe.pool_rule(name or prefix or site[1], kind)
        if rule is not None and rule.max_workers and kind in ("thread", "interpreter"):
            executor._max_workers = rule.max_workers
        recorder = probe.open_pool(executor, name=name, prefix=prefix, kind=kind, size=size_of(executor), site=site)
        return None if recorder is None else Watch(probe, recorder)
    except Exception as exc:
        report(probe, exc)
        return None


class Instances:
    """The executors that have a watch, held weakly and by identity (a subclass may not be hashable).

    Any thread may call `open`. In a forked child each executor forgets its watch, which belongs to the
    parent's probe, and gets a new one under the same name with its next task.

    `kind` is theirs, or what gives it for an executor. `size_of` makes a pool's size function; `equip`, if there is
    one, gives an executor with a new watch what it needs to record.
    """

    def __init__(
        self,
        kind: str | Callable[[Any], str] = "thread",
        size_of: Callable[[Any], Size] = _sizer,
        equip: Callable[[Any, Watch], object] | None = None,
    ) -> None:
        self._kind = kind
        self._size_of = size_of
        self._equip = equip
        self._refs: dict[int, ref[Any]] = {}
        # Reentrant: a finalizer that runs while we are inside may make or use another pool.
        self._lock = threading.RLock()
        self._hooked = False

    def open(
        self,
        executor: Any,
        find_probe: Callable[[], Any],
        prefix: str,
        name: str | None = None,
        site: Site | None = None,
    ) -> Watch | None:
        """Give the executor its watch, in its attribute `ATTRIBUTE`, unless another thread has just done so.

        `site` is where it was made (see `creation_site`), unless that is just now. None if it is not to be watched, or
        if that failed: never raises.
        """
        with self._lock:
            attributes: dict[str, Any] = executor.__dict__
            if ATTRIBUTE not in attributes:
                watch = open_watch(
                    executor,
                    find_probe,
                    name=name or attributes.get(NAME_ATTRIBUTE),
                    prefix=prefix,
                    kind=self._kind if isinstance(self._kind, str) else self._kind(executor),
                    size_of=self._size_of,
                    site=site,
                )
                if watch is not None and self._equip is not None:
                    try:
                        self._equip(executor, watch)
                    except Exception as exc:
                        report(watch.probe, exc)
                        watch = None
                attributes[ATTRIBUTE] = watch
                if watch is not None:
                    self._remember(executor)
            found: Watch | None = attributes[ATTRIBUTE]
            return found

    def _remember(self, executor: Any) -> None:
        if not self._hooked:
            self._hooked = True
            if hasattr(os, "register_at_fork"):
                os.register_at_fork(after_in_child=self._forked)
        key = id(executor)
        self._refs[key] = ref(executor, partial(self._refs.pop, key))

    def _forked(self) -> None:
        self._lock = threading.RLock()  # a thread of the parent may have held it
        self.forget()

    def owned(self) -> bool:
        """Whether there is one that is watched for its own sake."""
        for weak in list(self._refs.values()):
            executor = weak()
            watch = None if executor is None else executor.__dict__.get(ATTRIBUTE)
            if watch is not None and watch.own:
                return True
        return False

    def forget(self, *, owned: bool = True) -> None:
        """Take the watches off again; those of executors that are watched for their own sake only if `owned`."""
        for key, weak in list(self._refs.items()):
            executor = weak()
            if executor is not None:
                watch = executor.__dict__.get(ATTRIBUTE)
                if watch is not None and watch.own and not owned:
                    continue
                executor.__dict__.pop(ATTRIBUTE, None)
                if watch is not None:
                    executor.__dict__[NAME_ATTRIBUTE] = watch.recorder.name
            self._refs.pop(key, None)

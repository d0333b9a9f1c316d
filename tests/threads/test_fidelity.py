"""As without us: each observation is made of the standard executor and of ours, and both must come out the same.

What CPython's own tests look at (see `tests/cpython`) is not repeated here.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import concurrent.futures.thread as standard_module
import contextlib
import contextvars
import copy
import gc
import inspect
import logging
import os
import pickle
import queue
import re
import subprocess
import sys
import textwrap
import threading
import types
import weakref
from concurrent.futures import _base

import pytest
from probe_support import run_here, task_of, watched_executor

Standard = concurrent.futures.ThreadPoolExecutor
LIMIT = 30  # seconds for what is sure to come
MOMENT = 0.05  # seconds in which what must not happen would
KINDS = ("drop-in", "patched")


def same(kind, observe, *args):
    expected = observe(Standard, *args)
    with watched_executor(kind) as executor_class:
        seen = observe(executor_class, *args)
    assert seen == expected
    assert expected, "an observation that sees nothing"


class Gate:
    """A task that says it has started and then waits to be let go."""

    def __init__(self):
        self.started = threading.Event()
        self.opened = threading.Event()

    def __call__(self, value=None):
        self.started.set()
        assert self.opened.wait(LIMIT)
        return value

    def block(self, pool):
        future = pool.submit(self)
        assert self.started.wait(LIMIT)
        return future


@contextlib.contextmanager
def blocked(executor_class, **options):
    """A pool whose one worker is in a task, and that task's future and gate."""
    gate = Gate()
    with executor_class(1, **options) as pool:
        try:
            yield pool, gate.block(pool), gate
        finally:
            gate.opened.set()


class Said(logging.Handler):
    """What `concurrent.futures` says in its log meanwhile."""

    def __init__(self):
        super().__init__()
        self.lines = []
        self.came = threading.Event()

    def emit(self, record):
        error = record.exc_info[1] if record.exc_info else None
        self.lines.append((record.levelname, record.msg, type(error), plain(error)))
        self.came.set()

    def __enter__(self):
        logger = logging.getLogger("concurrent.futures")
        logger.addHandler(self)
        self.propagated, logger.propagate = logger.propagate, False
        return self

    def __exit__(self, *args):
        logger = logging.getLogger("concurrent.futures")
        logger.removeHandler(self)
        logger.propagate = self.propagated


def plain(value):
    """Without addresses, in a program that makes them anew each time."""
    return re.sub(r"0x[0-9a-fA-F]+", "0x", str(value))


def outcome(fn, *args, **kwargs):
    try:
        return "returned", fn(*args, **kwargs)
    except BaseException as exc:
        return type(exc), plain(exc)


def nothing():
    pass


def fail(exc):
    raise exc


class Payload:
    def __call__(self, *args):
        return self


class OwnBaseException(BaseException):
    pass


class OwnError(Exception):
    """May be weakly referred to, other than those built in."""


class FalsyError(Exception):
    def __bool__(self):
        return False


# What the classes say of themselves


def signatures(executor_class):
    def of(callable_):
        return [
            (p.name, p.kind, p.default)
            for p in inspect.signature(callable_).parameters.values()
            if (p.name, p.kind) != ("name", inspect.Parameter.KEYWORD_ONLY)
        ]

    with executor_class(1) as pool:
        future_class = type(pool.submit(nothing))
    methods = [
        name for name in dir(Standard) if inspect.isroutine(getattr(Standard, name)) and not name.startswith("_")
    ]
    theirs = [name for name in dir(_base.Future) if callable(getattr(_base.Future, name)) and not name.startswith("_")]
    return (
        of(executor_class),
        [(name, of(getattr(executor_class, name))) for name in [*methods, "__init__", "__enter__", "__exit__"]],
        [(name, of(getattr(future_class, name))) for name in theirs],
    )


def docstrings(executor_class):
    with executor_class(1) as pool:
        future_class = type(pool.submit(nothing))
    public = [
        (cls, name) for cls in (Standard, _base.Future) for name in vars(cls) | vars(_base.Executor) if name[0] != "_"
    ]
    return [
        inspect.getdoc(executor_class),
        inspect.getdoc(future_class),
        [
            (name, inspect.getdoc(getattr(executor_class if cls is Standard else future_class, name, None)))
            for cls, name in public
        ],
    ]


def names_and_kinship(executor_class):
    with executor_class(1) as pool:
        future = pool.submit(nothing)
        future.result(LIMIT)
        return [
            executor_class.__name__,
            executor_class.__qualname__,
            re.fullmatch(r"<[\w.]+\.ThreadPoolExecutor object at 0x\w+>", repr(pool)) is not None,
            type(future).__name__,
            type(future).__qualname__,
            isinstance(pool, Standard),
            isinstance(pool, _base.Executor),
            issubclass(executor_class, Standard),
            isinstance(future, _base.Future),
            (pool == pool, hash(pool) == hash(pool), bool(pool)),
            (future == future, future == object(), hash(future) == hash(future), bool(future)),
            outcome(lambda: future < future)[0],
            types.GenericAlias is type(type(future)[int]),
        ]


def reprs_of_futures(executor_class):
    with blocked(executor_class) as (pool, running, gate):
        failed, cancelled, queued = pool.submit(fail, ValueError("x")), pool.submit(nothing), pool.submit(nothing)
        cancelled.cancel()
        before = [plain(repr(future)) for future in (running, failed, cancelled, queued)]
        gate.opened.set()
        queued.result(LIMIT)
        return before, [plain(repr(future)) for future in (running, failed, cancelled, queued)], plain(queued)


def pickles_and_copies(executor_class):
    def kind(copier, thing):
        what, said = outcome(copier, thing)
        return what, said.startswith("cannot pickle") if isinstance(said, str) else "something"

    with blocked(executor_class) as (pool, running, gate):
        seen = [kind(copier, thing) for copier in (pickle.dumps, copy.deepcopy) for thing in (pool, running)]
        done = pool.submit(pow, 2, 3)
        gate.opened.set()
        done.result(LIMIT)
        twin = copy.copy(done)
        seen += [kind(pickle.dumps, done), twin is done, isinstance(twin, _base.Future), twin.result(LIMIT)]
        seen += [twin.done(), twin.cancel(), plain(twin)]
        return seen


def foreign_attributes(executor_class):
    with executor_class(1) as pool:
        future = pool.submit(nothing)
        future.note = pool.note = "note"
        seen = [future.note, pool.note, vars(future)["note"], weakref.ref(future)() is future]
        del future.note
        return [*seen, hasattr(future, "note"), outcome(getattr, future, "nonsense")]


def attributes_of_the_executor(executor_class):
    with blocked(executor_class, thread_name_prefix="p", initializer=nothing) as (pool, running, _):
        pool.submit(pow, 2, 3)
        item = pool._work_queue.get_nowait()
        seen = [*task_of(item)[:2], item.future.done(), item.future.cancel()]
        item = None
        [worker] = pool._threads
        return [
            *seen,
            type(pool._threads),
            pool._work_queue.qsize(),
            type(pool._work_queue) is queue.SimpleQueue,
            (
                pool._max_workers,
                pool._thread_name_prefix,
                pool._broken,
                pool._shutdown,
                getattr(pool, "_initargs", None),
            ),
            type(pool._idle_semaphore) is threading.Semaphore,
            standard_module._threads_queues[worker] is pool._work_queue,
            (type(worker), worker.daemon, worker.name),
            pool._shutdown_lock.acquire(timeout=LIMIT) and pool._shutdown_lock.release(),
            running.running(),
        ]


def an_item_that_a_foreign_thread_runs(executor_class):
    with blocked(executor_class) as (pool, _, _):
        future = pool.submit(threading.get_ident)
        cancelled = pool.submit(nothing)
        cancelled.cancel()
        for _ in range(2):
            run_here(pool)
        return future.result(0) == threading.get_ident(), cancelled._state


# Workers


def thread_names(executor_class):
    seen = []
    for options in ({"thread_name_prefix": "mine"}, {}, {"thread_name_prefix": ""}):
        with executor_class(2, **options) as pool:
            barrier = threading.Barrier(2)

            def name(barrier=barrier):
                barrier.wait(LIMIT)
                return re.sub(r"-\d+", "-N", threading.current_thread().name)

            seen.append(sorted(future.result(LIMIT) for future in [pool.submit(name) for _ in range(2)]))
    return seen


def a_broken_pool(executor_class):
    gate = Gate()
    with Said() as said:
        pool = executor_class(1, "broken", lambda: fail(ValueError(gate("reason"))))
        # None of them cancelled: then the standard executor fails, and leaves the rest pending for ever.
        futures = [pool.submit(nothing) for _ in range(3)]
        called = []
        futures[2].add_done_callback(lambda future: called.append(type(future.exception())))
        gate.opened.set()
        _base.wait(futures, LIMIT)
        pool.shutdown()
        states = [(future._state, outcome(future.result, 0)) for future in futures]
        distinct = futures[0].exception() is not futures[2].exception()
        after = [outcome(pool.submit, nothing), outcome(pool.map, nothing, [1]), plain(pool._broken)]
    return states, called, distinct, after, said.lines


def shutdowns(executor_class):
    seen = []
    for cancel in (False, True):
        for wait in (False, True):
            with blocked(executor_class) as (pool, running, gate):
                queued = [pool.submit(nothing) for _ in range(3)]
                queued[0].cancel()
                if wait:
                    closer = threading.Thread(target=pool.shutdown, kwargs={"cancel_futures": cancel})
                    closer.start()
                    while not pool._shutdown:
                        pass
                else:
                    pool.shutdown(wait=False, cancel_futures=cancel)
                said = outcome(pool.submit, nothing)
                gate.opened.set()
                if wait:
                    closer.join(LIMIT)
                pool.shutdown()
                seen.append((said, [future._state for future in (running, *queued)]))
                seen.append((outcome(pool.shutdown), outcome(pool.map, nothing, [1]), len(pool._threads)))
    return seen


def collected_executors(executor_class):
    gate = Gate()
    pool = executor_class(2)
    first = gate.block(pool)
    rest = [pool.submit(pow, 2, n) for n in range(4)]
    threads = list(pool._threads)
    gone = weakref.ref(pool)
    del pool
    gc.collect()
    seen = [gone() is None]
    gate.opened.set()
    for thread in threads:
        thread.join(LIMIT)
    return [*seen, first.done(), [future.result(0) for future in rest], [thread.is_alive() for thread in threads]]


def base_exceptions(executor_class):
    with executor_class(1) as pool:
        worker = pool.submit(threading.get_ident).result(LIMIT)
        seen = []
        for error in (SystemExit(3), KeyboardInterrupt(), GeneratorExit(), OwnBaseException("x"), StopIteration(5)):
            future = pool.submit(fail, error)
            seen += [future.exception(LIMIT) is error, future._state, outcome(future.result, LIMIT)]
        falsy = pool.submit(fail, FalsyError())
        seen += [type(falsy.exception(LIMIT)), outcome(falsy.result, LIMIT), plain(falsy)]
        return [*seen, pool.submit(threading.get_ident).result(LIMIT) == worker]


def contexts(executor_class):
    variable = contextvars.ContextVar("variable", default="unset")
    variable.set("the submitter's")

    async def main():
        loop = asyncio.get_running_loop()
        loop.set_default_executor(pool)
        return [
            await asyncio.to_thread(variable.get),
            await loop.run_in_executor(None, variable.get),
            await loop.run_in_executor(pool, contextvars.copy_context().run, variable.get),
        ]

    with executor_class(1) as pool:
        bare = pool.submit(variable.get).result(LIMIT)
        pool.submit(variable.set, "a task's").result(LIMIT)
        return [bare, pool.submit(variable.get).result(LIMIT), asyncio.run(main())]


# What stays, and for how long


def references_after_a_task(executor_class):
    payloads = [Payload() for _ in range(5)]
    fn, argument, keyword, of_cancelled, of_failed = map(weakref.ref, payloads)
    with blocked(executor_class) as (pool, running, gate):
        future = pool.submit(payloads[0], payloads[1])
        other = pool.submit(lambda *args, **kwargs: None, keyword=payloads[2])
        cancelled = pool.submit(nothing, payloads[3])
        failed = pool.submit(divmod, payloads[4], 0)
        cancelled.cancel()
        payloads.clear()
        seen = [[ref() is not None for ref in (fn, argument, keyword, of_cancelled, of_failed)]]
        gate.opened.set()
        failed.exception(LIMIT)
        pool.submit(nothing).result(LIMIT)  # the worker has let go of the others by now
        # From 3.14 on the traceback of a failed task has a frame of the standard context with its arguments.
        at_once = [
            fn,
            argument,
            keyword,
            of_cancelled,
            *([] if hasattr(standard_module, "WorkerContext") else [of_failed]),
        ]
        seen.append([ref() is not None for ref in at_once])
        del future, failed
        seen.append([ref() is not None for ref in (fn, argument, keyword, of_cancelled, of_failed)])
        kept = [weakref.ref(each) for each in (running, other, cancelled)]
        del running, other, cancelled, gate
    # `blocked` still refers to the first.
    return [*seen, [ref() is not None for ref in kept[1:]]]


def cycles_of_an_exception(executor_class):
    seen = []

    def failing(payload, refs):
        refs.append(weakref.ref(payload))
        local = Payload()
        refs.append(weakref.ref(local))
        raise OwnError

    def note():
        seen.append([ref() is not None for ref in refs])

    gc.collect()
    gc.disable()
    try:
        with executor_class(1) as pool:
            for through in ("exception", "result", "neither"):
                refs = []
                future = pool.submit(failing, Payload(), refs)
                refs.append(weakref.ref(future))
                if through == "exception":
                    error = future.exception(LIMIT)
                    refs.append(weakref.ref(error))
                    del error
                elif through == "result":
                    with contextlib.suppress(OwnError):
                        future.result(LIMIT)
                pool.submit(nothing).result(LIMIT)
                note()
                del future
                note()
    finally:
        gc.enable()
    return seen


def an_iterator_of_map_that_is_dropped(executor_class):
    with blocked(executor_class) as (pool, _, _):
        consumed = []
        iterator = pool.map(str, (consumed.append(n) or n for n in range(4)))
        items = [pool._work_queue.get_nowait() for _ in range(4)]
        seen = [list(consumed), [item.future._state for item in items]]
        iterator.close()  # not begun: nothing is cancelled
        seen.append([item.future._state for item in items])
        iterator = pool.map(str, range(4), timeout=0)
        items = [pool._work_queue.get_nowait() for _ in range(4)]
        seen.append(outcome(next, iterator))
        return [*seen, [item.future._state for item in items], outcome(next, iterator)[0]]


def maps(executor_class):
    with executor_class(2) as pool:
        iterator = pool.map(lambda n: 1 // n, [1, 0, 1], chunksize=2)
        seen = [next(iterator), outcome(next, iterator), outcome(next, iterator)]
        iterator = pool.map(pow, [1, 2, 3], [1, 2])
        seen += [type(iterator), next(iterator), iterator.close(), outcome(next, iterator)]
        seen += [list(pool.map(None, [])), outcome(pool.map, nothing, 3), outcome(list, pool.map(None, [1]))]
        return seen


# Futures


def cancels(executor_class):
    with blocked(executor_class) as (pool, running, gate):
        queued = pool.submit(nothing)
        called = []
        queued.add_done_callback(lambda future: called.append((future._state, future.cancelled())))
        seen = [running.cancel(), running.cancelled(), queued.cancel(), queued.cancel(), queued._state]
        seen += [outcome(queued.result), outcome(queued.exception, 0), list(called)]
        seen += [outcome(queued.set_result, 1), outcome(queued.set_exception, ValueError())]
        gate.opened.set()
        running.result(LIMIT)
        pool.submit(nothing).result(LIMIT)
        return [*seen, running.cancel(), queued.cancel(), queued._state, called]


def states_from_outside(executor_class):
    with blocked(executor_class) as (pool, running, gate):
        queued = pool.submit(nothing)
        seen = [(running._state, running.running(), running.done()), (queued._state, queued.running(), queued.done())]
        seen += [outcome(running.result, 0), outcome(running.exception, 0.001), outcome(queued.result, -1)]
        queued._state = _base.FINISHED
        queued._result = "by hand"
        seen += [queued.done(), queued.result(0), queued.exception(0), queued.cancel()]
        queued._exception = ValueError("by hand")
        seen += [outcome(queued.result, 0), plain(queued)]
        queued._state, queued._result, queued._exception = _base.PENDING, None, None
        seen += [queued.done(), outcome(queued.result, 0)]
        gate.opened.set()
        seen += [queued.result(LIMIT), (queued._state, queued._result, queued._exception)]
        return seen


def callbacks(executor_class):
    called = []
    with Said() as said, blocked(executor_class) as (pool, running, gate):
        for number in range(3):
            running.add_done_callback(lambda _, number=number: called.append(number))
        running.add_done_callback(lambda _: fail(ValueError("in a callback")))
        seen = [len(running._done_callbacks)]
        running._done_callbacks.append(lambda _: called.append("by hand"))
        running._done_callbacks.insert(0, lambda _: called.append("first"))
        running.add_done_callback(lambda future: called.append((future.done(), threading.current_thread().name[:-3])))
        gate.opened.set()
        running.result(LIMIT)
        pool.submit(nothing).result(LIMIT)
        seen += [outcome(running.add_done_callback, lambda _: called.append("late"))]
        seen += [outcome(running.add_done_callback, lambda _: fail(KeyError("late")))]
        seen += [outcome(running.add_done_callback, lambda _: fail(OwnBaseException("late")))]
        seen += [len(running._done_callbacks)]
    return seen, [re.sub(r"\d+", "N", plain(each)) for each in called], said.lines


def a_base_exception_in_a_callback(executor_class):
    with Said() as said, blocked(executor_class) as (pool, running, gate):
        [worker] = pool._threads
        running.add_done_callback(lambda _: fail(OwnBaseException("in a callback")))
        gate.opened.set()
        worker.join(LIMIT)
        return running._state, worker.is_alive(), said.lines


def submission_from_a_callback(executor_class):
    found = queue.SimpleQueue()
    with executor_class(1) as pool:

        def again(future):
            if future.result() < 5:
                pool.submit(lambda: future.result() + 1).add_done_callback(again)
            found.put(future.result())

        gate = Gate()
        first = pool.submit(gate, 0)
        first.add_done_callback(again)
        gate.opened.set()
        seen = [found.get(timeout=LIMIT) for _ in range(6)]
        with blocked(executor_class) as (other, _, _):
            future = other.submit(nothing)
            future.add_done_callback(lambda _: found.put(other.submit(nothing).cancel()))
            seen.append(future.cancel())
            seen.append(found.get(timeout=LIMIT))
    return seen


def a_condition_that_is_held(executor_class):
    with blocked(executor_class) as (_, running, gate):
        heard = []
        running.add_done_callback(heard.append)
        with running._condition:
            gate.opened.set()
            done = threading.Event()
            threading.Thread(target=lambda: (running.result(LIMIT), done.set())).start()
            seen = [done.wait(MOMENT), running._state, running.done(), list(heard)]
            with running._condition:  # reentrant
                seen.append(running.cancel())
        seen.append(done.wait(LIMIT))
        return [*seen, running._state]


def a_condition_that_is_waited_for(executor_class):
    seen = []
    for end in ("success", "failure", "cancel"):
        with blocked(executor_class) as (pool, running, gate):
            future = pool.submit(nothing) if end != "failure" else pool.submit(fail, ValueError())
            inside, woken = threading.Event(), []

            def wait(future=future, inside=inside, woken=woken):
                with future._condition:
                    inside.set()
                    woken.append(future._condition.wait(LIMIT))
                    woken.append(future._state in (_base.FINISHED, _base.CANCELLED))

            thread = threading.Thread(target=wait)
            thread.start()
            assert inside.wait(LIMIT)
            with future._condition:  # so the other one waits by now
                seen += [future._condition.wait(0.001), future._condition.wait_for(lambda: 7, 0)]
            future.cancel() if end == "cancel" else gate.opened.set()
            thread.join(LIMIT)
            seen.append(woken)
            for use in ("notify", "notify_all", "wait", "release"):
                seen.append(outcome(getattr(running._condition, use)))
            seen += [running._condition is running._condition, running._condition.acquire(False)]
            running._condition.release()
    return seen


def notified_by_hand(executor_class):
    with blocked(executor_class) as (_, running, _):
        inside, woken = threading.Event(), []

        def wait():
            with running._condition:
                inside.set()
                woken.append(running._condition.wait(LIMIT))

        thread = threading.Thread(target=wait)
        thread.start()
        assert inside.wait(LIMIT)
        with running._condition:
            running._condition.notify()
        thread.join(LIMIT)
        return woken, running._state


def waiters_by_hand(executor_class):
    seen = []
    for make in (_base._AsCompletedWaiter, _base._FirstCompletedWaiter, lambda: _base._AllCompletedWaiter(4, True)):
        with blocked(executor_class) as (pool, running, gate):
            futures = [running, pool.submit(nothing), pool.submit(fail, ValueError()), pool.submit(nothing)]
            waiter = make()
            with _base._AcquireFutures(futures):
                for future in futures:
                    future._waiters.append(waiter)
            seen.append([len(future._waiters) for future in futures])
            futures[3].cancel()
            gate.opened.set()
            futures[2].exception(LIMIT)
            pool.submit(nothing).result(LIMIT)
            seen.append(waiter.event.is_set())
            seen.append(sorted(futures.index(future) for future in waiter.finished_futures))
            for future in futures:
                with future._condition:
                    future._waiters.remove(waiter)
            seen.append([len(future._waiters) for future in futures])
    return seen


def a_mix_of_futures(executor_class):
    with blocked(executor_class) as (pool, running, gate), Standard(1) as other:
        foreign, theirs = _base.Future(), other.submit(pow, 2, 3)
        theirs.result(LIMIT)
        cancelled, failing = pool.submit(nothing), pool.submit(fail, ValueError())
        cancelled.cancel()
        everyone = [running, foreign, theirs, cancelled, failing]

        def indices(futures):
            return sorted(everyone.index(future) for future in futures)

        def waited(**options):
            return [indices(part) for part in _base.wait(everyone, **options)]

        seen = [waited(timeout=0), waited(return_when=_base.FIRST_COMPLETED)]
        seen.append(indices(_base.as_completed([theirs], timeout=LIMIT)))
        seen.append(outcome(list, _base.as_completed([running, foreign], timeout=0)))
        completed = _base.as_completed([running, foreign, failing], timeout=LIMIT)
        gate.opened.set()
        seen.append([indices([next(completed)]) for _ in range(2)])
        seen.append(waited(return_when=_base.FIRST_EXCEPTION, timeout=LIMIT))
        foreign.set_result(1)
        seen.append(indices(completed))
        seen.append(waited(timeout=LIMIT))
        seen.append([len(future._waiters) for future in everyone])
        return seen


def set_by_somebody_else(executor_class):
    """Worker threads end of that, in the standard executor."""
    seen = []
    for how in ("set_result", "set_exception", "set_running_or_notify_cancel"):
        for when in ("queued", "running"):
            with Said() as said, blocked(executor_class) as (pool, running, gate):
                [worker] = pool._threads
                called = []
                future = running if when == "running" else pool.submit(called.append, "ran")
                value = {"set_result": ["theirs"], "set_exception": [KeyError("theirs")]}.get(how, [])
                seen.append((how, when, outcome(getattr(future, how), *value)))
                gate.opened.set()
                worker.join(MOMENT if (how, when) == ("set_running_or_notify_cancel", "running") else LIMIT)
                seen.append((worker.is_alive(), future._state, called))
                seen.append([outcome(future.result, LIMIT)] if future.done() else [])
                pool.shutdown(wait=False)
            # The log says it by `run` of the work item, whichever that is.
            seen.append([line[:3] for line in said.lines])
    return seen


def running_by_hand(executor_class):
    with blocked(executor_class) as (pool, _, _):
        future, cancelled = pool.submit(nothing), pool.submit(nothing)
        cancelled.cancel()
        for _ in range(2):
            pool._work_queue.get_nowait()
        seen = [future.set_running_or_notify_cancel(), future._state, future.cancel()]
        with Said() as said:
            seen.append(outcome(future.set_running_or_notify_cancel)[0])
            seen += [cancelled.set_running_or_notify_cancel(), cancelled._state]
            seen.append(outcome(cancelled.set_running_or_notify_cancel)[0])
        future.set_result("theirs")
        seen += [future.result(0), outcome(future.set_result, 1), outcome(future.set_exception, ValueError())]
        return [*seen, [(level, message) for level, message, *_ in said.lines]]


def wrapped_for_asyncio(executor_class):
    async def main(pool, gate):
        loop = asyncio.get_running_loop()
        queued = pool.submit(nothing)
        wrapped = asyncio.wrap_future(queued)
        wrapped.cancel()
        seen = [await asyncio.gather(wrapped, return_exceptions=True) != [], queued._state]
        back = asyncio.wrap_future(other := pool.submit(nothing))
        other.cancel()
        seen.append([type(each) for each in await asyncio.gather(back, return_exceptions=True)])
        failing = loop.run_in_executor(pool, fail, ValueError("x"))
        stopping = loop.run_in_executor(pool, fail, RuntimeError(5))
        gate.opened.set()
        seen += [plain(each) for each in await asyncio.gather(failing, stopping, return_exceptions=True)]
        return seen

    with blocked(executor_class) as (pool, _, gate):
        return asyncio.run(main(pool, gate))


# Subclasses


def subclasses(executor_class):
    seen = []

    class Submitting(executor_class):
        def submit(self, fn, /, *args, **kwargs):
            seen.append(("submit", args, kwargs))
            return super().submit(fn, *args, **kwargs)

        def shutdown(self, *args, **kwargs):
            seen.append(("shutdown", args, kwargs))
            super().shutdown(*args, **kwargs)

    class Slotted(executor_class):
        __slots__ = ("extra",)

    class Unhashable(executor_class):
        __hash__ = None

        def __eq__(self, other):
            return self is other

    class Truthless(executor_class):
        def __bool__(self):
            return False

        def __len__(self):
            return 0

    class Named(executor_class):
        def __init__(self, size, tag):
            self.tag = tag
            super().__init__(max_workers=size, thread_name_prefix=tag)

        def __getattr__(self, name):
            seen.append(("asked for", name))
            raise AttributeError(name)

    for make in (Submitting, Slotted, Unhashable, Truthless, lambda size: Named(size, "tag")):
        with make(2) as pool:
            pool.extra = 1
            seen.append((pool.submit(pow, 2, 3).result(LIMIT), list(pool.map(abs, [-1, -2]))))
            gone = weakref.ref(pool)
        del pool
        gc.collect()
        seen.append((gone() is None, outcome(hash, make(1))[0]))
    return seen


OBSERVATIONS = [
    signatures,
    docstrings,
    names_and_kinship,
    reprs_of_futures,
    pickles_and_copies,
    foreign_attributes,
    attributes_of_the_executor,
    an_item_that_a_foreign_thread_runs,
    thread_names,
    a_broken_pool,
    shutdowns,
    collected_executors,
    base_exceptions,
    contexts,
    references_after_a_task,
    cycles_of_an_exception,
    an_iterator_of_map_that_is_dropped,
    maps,
    cancels,
    states_from_outside,
    callbacks,
    a_base_exception_in_a_callback,
    submission_from_a_callback,
    a_condition_that_is_held,
    a_condition_that_is_waited_for,
    notified_by_hand,
    waiters_by_hand,
    a_mix_of_futures,
    set_by_somebody_else,
    running_by_hand,
    wrapped_for_asyncio,
    subclasses,
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("observe", OBSERVATIONS, ids=lambda observe: observe.__name__)
def test_as_without_us(observe, kind):
    same(kind, observe)


# Programs of their own

ENTER = """
import concurrent.futures, concurrent.futures.thread, sys
if {kind!r} == "drop-in":
    import poolscope
    concurrent.futures.ThreadPoolExecutor = poolscope.ThreadPoolExecutor
elif {kind!r} == "patched":
    import poolscope
    poolscope.install()
"""

PROGRAMS = {
    "exit with queued work": """
        import atexit, threading
        exiting = threading.Event()
        atexit.register(print, "atexit")
        threading._register_atexit(exiting.set)
        threading._register_atexit(print, "threading atexit", flush=True)
        def task(n):
            exiting.wait()
            print(n, flush=True)
        pool = concurrent.futures.ThreadPoolExecutor(1)
        for n in range(10):
            pool.submit(task, n)
        pool.submit(lambda: print(type(pool).__name__)).add_done_callback(lambda f: print("callback"))
        sys.exit(3)
    """,
    "an error in the main thread": """
        import threading, time
        started = threading.Event()
        def task():
            started.set()
            while not concurrent.futures.thread._shutdown:
                time.sleep(0.001)
            print("task ends", flush=True)
        pool = concurrent.futures.ThreadPoolExecutor(2)
        pool.submit(task)
        started.wait()
        pool.submit(divmod, 1, 0)
        raise ValueError("the main thread's")
    """,
    "submission while the interpreter exits": """
        import time
        pool = concurrent.futures.ThreadPoolExecutor(1)
        def task():
            while not concurrent.futures.thread._shutdown:
                time.sleep(0.001)
            try:
                pool.submit(print, "too late")
            except RuntimeError as exc:
                print(exc, flush=True)
        pool.submit(task)
    """,
    "fork with live pools": """
        import os, threading, warnings
        warnings.simplefilter("ignore")
        pool = concurrent.futures.ThreadPoolExecutor(1)
        unused = concurrent.futures.ThreadPoolExecutor(1)
        future = pool.submit(pow, 2, 3)
        print(future.result(30), flush=True)
        pid = os.fork()
        if pid == 0:
            print(future.result(0), unused.submit(pow, 3, 2).result(30), flush=True)
            with concurrent.futures.ThreadPoolExecutor(1) as fresh:
                print(fresh.submit(pow, 2, 5).result(30), threading.active_count(), flush=True)
            sys.stdout.flush()
            os._exit(7)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), pool.submit(pow, 2, 4).result(30), flush=True)
    """,
    "spawn": """
        import multiprocessing
        def child(n):
            with concurrent.futures.ThreadPoolExecutor(2) as pool:
                print(list(pool.map(abs, range(-n, 0))), flush=True)
            sys.exit(n)
        if __name__ == "__main__":
            with concurrent.futures.ThreadPoolExecutor(1) as pool:
                process = multiprocessing.get_context("spawn").Process(target=child, args=(4,))
                pool.submit(process.start).result(30)
                process.join()
            print(process.exitcode)
    """,
    "excepthooks stay quiet": """
        import threading
        threading.excepthook = lambda args: print("hook", args.exc_type)
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            for error in (SystemExit(5), KeyboardInterrupt(), ValueError()):
                def task(error=error):
                    raise error
                print(type(pool.submit(task).exception(30)))
    """,
    "a broken pool in the log": """
        with concurrent.futures.ThreadPoolExecutor(1, initializer=lambda: 1 // 0) as pool:
            try:
                print(pool.submit(print).exception(30))
            except Exception as exc:
                print(exc)
    """,
}
PROGRAMS["forkserver"] = PROGRAMS["spawn"].replace('"spawn"', '"forkserver"')


def program_in(directory, kind, name):
    """What the program says and how it ends; of tracebacks only the lines that are no frames."""
    path = directory / "program.py"
    path.write_text(ENTER.format(kind=kind) + textwrap.dedent(PROGRAMS[name]))
    done = subprocess.run(
        [sys.executable, path],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    errors = [line for line in done.stderr.splitlines() if not line.startswith(" ")]
    return done.stdout, errors, done.returncode


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_ends_as_without_us(name, kind, tmp_path):
    expected = program_in(tmp_path, "standard", name)
    assert expected[0]
    assert program_in(tmp_path, kind, name) == expected

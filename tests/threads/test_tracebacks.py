"""What the program sees of our frames: tracebacks to the letter as without us, and lines that are counted by frames."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import gc
import io
import logging
import os
import re
import sys
import traceback
import types
import warnings
import weakref
from pathlib import Path

import pytest
from probe_support import FakeProbe, FrozenError, watched_executor

import poolscope
from poolscope.probe.executors.patching import Patch
from poolscope.probe.interpreter import tracebacks
from poolscope.probe.limits.lending import Lender

Standard = concurrent.futures.ThreadPoolExecutor
LIMIT = 30  # seconds for what is sure to come
KINDS = ("drop-in", "patched")


def chained(value=0):
    try:
        return 1 / value
    except ZeroDivisionError as error:
        raise ValueError(value) from error


def while_handling():
    try:
        chained()
    except ValueError:
        return {}["missing"]


def several():
    raise ExceptionGroup("several", [ValueError(1), KeyError(2)])


def frozen():
    raise FrozenError("frozen")


def noted():
    error = ValueError("noted")
    error.add_note("a note")
    raise error


def raised_before():
    with Standard(1) as inner:
        return inner.submit(chained).result(LIMIT)


def begins_badly():
    raise OSError("no")


TASKS = (chained, while_handling, several, frozen, noted, raised_before, lambda: int("x"), lambda: sys.exit(3))


def told(call, *args, **options):
    """The traceback that the program sees, without addresses, and the line of this file, which differs."""
    try:
        call(*args, **options)
    except BaseException as error:
        return re.sub(r"0x[0-9a-f]+", "0x", "".join(traceback.format_exception(error)))
    raise AssertionError("it raised nothing")


def of_results(executor_class):
    with executor_class(2) as pool:
        futures = [pool.submit(task) for task in TASKS]
        concurrent.futures.wait(futures, LIMIT)
        for future in futures:
            yield told(future.result, LIMIT)
            # A second time the caller's line is there once more, as Python has it.
            yield told(future.result)
        yield told(pool.submit(int, "y").result, LIMIT)


def of_maps(executor_class):
    with executor_class(1) as pool:
        # Whether the result is there already decides which line of `result` raises: here it is.
        results = pool.map(chained, [0, 0])
        pool.submit(int).result(LIMIT)
        yield told(list, results)


def of_waits(executor_class):
    event = concurrent.futures.Future()
    with executor_class(1) as pool:
        running, queued = pool.submit(event.result), pool.submit(int)
        yield told(running.result, timeout=0)
        yield told(running.exception, timeout=0)
        assert queued.cancel()
        yield told(queued.result)
        yield told(queued.exception)
        event.set_result(None)
    yield told(event.set_exception, ValueError())


def of_refusals(executor_class):
    yield told(executor_class, 0)
    yield told(executor_class, 1, initializer=3)
    pool = executor_class(1)
    pool.shutdown()
    yield told(pool.submit, int)
    yield told(pool.map, int, [1])


def of_initializers(executor_class):
    logger, said = logging.getLogger("concurrent.futures"), io.StringIO()
    handler = logging.StreamHandler(said)
    handler.setFormatter(logging.Formatter("%(filename)s:%(lineno)d %(funcName)s %(message)s"))
    logger.addHandler(handler)
    propagated, logger.propagate = logger.propagate, False
    try:
        with executor_class(1, initializer=begins_badly) as pool:
            with contextlib.suppress(concurrent.futures.BrokenExecutor):  # it may be broken by then
                pool.submit(int).result(LIMIT)
            concurrent.futures.wait([], 0)
            yield told(pool.submit, int)
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagated
    yield said.getvalue()


def of_asyncio(executor_class):
    async def main():
        with executor_class(1) as pool:
            await asyncio.get_running_loop().run_in_executor(pool, chained)

    yield told(asyncio.run, main())


OBSERVED = (of_results, of_maps, of_waits, of_refusals, of_initializers, of_asyncio)


@pytest.mark.parametrize("observe", OBSERVED, ids=lambda observe: observe.__name__)
@pytest.mark.parametrize("kind", KINDS)
def test_every_traceback_is_the_standard_one(kind, observe):
    expected = list(observe(Standard))
    with watched_executor(kind) as executor_class:
        seen = list(observe(executor_class))
    assert seen == expected
    assert not any("poolscope/" in each.replace("tests/", "") and "/src/" in each for each in seen)


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_task_raised_is_in_no_cycle(kind):
    kept = []

    class Argument:
        pass

    def fail(argument):
        raise FrozenError(1)

    gc.disable()
    try:
        with watched_executor(kind) as executor_class, executor_class(1) as pool:
            for _ in range(3):
                argument = Argument()
                future = pool.submit(fail, argument)
                error = future.exception(LIMIT)
                kept += [weakref.ref(argument), weakref.ref(error)]
                del argument, future, error
            pool.submit(int).result(LIMIT)
            assert [each() for each in kept] == [None] * 6
    finally:
        gc.enable()


def warn():
    warnings.warn("said", UserWarning, stacklevel=2)
    logging.getLogger("stacklevel").warning("said", stacklevel=2)


def of_frames(executor_class):
    """Which lines a warning and a log record of a task name for the caller of its function."""
    lines = []
    logger, handler = logging.getLogger("stacklevel"), logging.Handler()
    handler.emit = lambda record: lines.append((record.pathname, record.lineno))
    logger.addHandler(handler)
    try:
        with warnings.catch_warnings(record=True) as caught, executor_class(1) as pool:
            warnings.simplefilter("always")
            pool.submit(warn).result(LIMIT)
        return lines + [(each.filename, each.lineno) for each in caught]
    finally:
        logger.removeHandler(handler)


@pytest.mark.parametrize("kind", KINDS)
def test_the_caller_of_a_task_is_the_standard_line(kind):
    expected = of_frames(Standard)
    with watched_executor(kind) as executor_class:
        assert of_frames(executor_class) == expected
    assert len(expected) == 2


class Library:
    """A client's pool, whose methods warn of their callers, or raise."""

    def __init__(self, old=False):
        self.warn(old)

    def warn(self, old):
        if old:
            warnings.warn("old", DeprecationWarning, stacklevel=3)
            logging.getLogger("stacklevel").warning("old", stacklevel=3)

    def take(self, old=False, error=None):
        self.warn(old)
        if error is not None:
            raise error
        return object()

    def give(self, connection, old=False):
        self.warn(old)

    async def atake(self, old=False, error=None):
        return self.take(False, error) if not old else self.warn(True)

    async def agive(self, connection, old=False):
        self.warn(old)


def patched_library():
    class Patched(Library):
        pass

    for name in ("__init__", "take", "give", "atake", "agive"):
        setattr(Patched, name, types.FunctionType(vars(Library)[name].__code__, globals(), name, *[]))
        getattr(Patched, name).__defaults__ = vars(Library)[name].__defaults__
    lender = Lender(("library",), full=lambda _: False, capacity=lambda _: 1)
    patch = Patch(FakeProbe())
    lender.put_constructor(patch, Patched)
    lender.put_lend(patch, Patched, "take")
    lender.put_take_back(patch, Patched, "give")
    lender.put_async_lend(patch, Patched, "atake")
    lender.put_async_take_back(patch, Patched, "agive")
    return Patched


def uses(library):
    """Each use on a line of its own: the constructor, both ways to take and both to give back."""
    pool = library(old=True)
    connection = pool.take(old=True)
    pool.give(connection, old=True)

    async def main():
        await pool.atake(old=True)
        await pool.agive(connection, old=True)

    asyncio.run(main())


def test_a_warning_of_a_library_names_the_line_of_its_caller(caplog):
    seen = {}
    for library in (Library, patched_library()):
        caplog.clear()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            uses(library)
        seen[library] = [(each.filename, each.lineno) for each in caught] + [
            (record.pathname, record.lineno) for record in caplog.records
        ]
    expected, found = seen.values()
    assert found == expected
    assert {file for file, _ in found} == {__file__}
    assert len(set(found)) == 5


def test_an_exception_that_refuses_to_be_written_to_passes_as_it_is():
    pool = patched_library()()
    for call in (
        lambda: pool.take(error=FrozenError("taken")),
        lambda: asyncio.run(pool.atake(error=FrozenError("x"))),
    ):
        with pytest.raises(FrozenError) as caught:
            call()
        frames = traceback.extract_tb(caught.value.__traceback__)
        assert [frame.name for frame in frames if frame.filename.startswith(os.path.dirname(poolscope.__file__))] == []


def test_no_traceback_is_written_but_by_what_such_an_exception_lets_pass():
    package = Path(poolscope.__file__).parent
    writes = [file for file in package.rglob("*.py") if re.search(r"\.__traceback__ = ", file.read_text("utf-8"))]
    assert writes == []


def test_a_function_of_the_programs_is_left_as_it_is():
    def theirs():
        pass

    code = theirs.__code__
    assert tracebacks.unseen(theirs).__code__ is code
    assert tracebacks.unseen(Library) is Library

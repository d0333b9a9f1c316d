"""Every interleaving of two operations with one preemption, provoked: no luck, and no waiting for a race.

`interleavings(make)` runs a scenario again and again. Each time the first operation is stopped before another one of
its steps (a bytecode instruction of ours, a line of the standard library's, in the code that can hold a race), the
second one runs, to its end or to where the first one keeps it from going on, then the first one goes on, and what must
hold is checked.
"""

from __future__ import annotations

import concurrent.futures.thread
import dis
import functools
import importlib
import os
import sys
import threading
import time
from contextlib import contextmanager
from itertools import count
from types import CodeType, FunctionType
from typing import Any

import poolscope
from poolscope.probe.executors.work_item import watched_item
from poolscope.probe.interpreter import shapes, tracebacks

LIMIT = 30  # seconds for what is sure to come

#: Where a race may be: ours, the standard futures, and what a thread that waits goes through.
_MODULES = (
    "concurrent.futures._base",
    "concurrent.futures.thread",
    "poolscope.executors.futures",
    "poolscope.executors.threads",
    "poolscope.probe.transport.dispatcher",
    "poolscope.probe.recording.function_table",
    "poolscope.probe.recording.recorder",
    "poolscope.probe.recording.registry",
    "poolscope.probe.executors.threadpool",
    "poolscope.probe.executors.work_item",
    "poolscope.probe.recording.pool_watch",
)


def _codes_in(namespace, module):
    for value in list(vars(namespace).values()):
        if isinstance(value, type) and value.__module__ == module:
            yield from _codes_in(value, module)
        for function in (value, getattr(value, "fget", None), getattr(value, "fset", None)):
            if isinstance(function, FunctionType) and function.__module__ == module:
                yield from _with_inner(function.__code__)


def _with_inner(code):
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _with_inner(constant)


def stepped_codes(more=()):
    """The codes of `_MODULES` and of `more` modules."""
    names = (*_MODULES, *more)
    codes = [code for name in names for code in _codes_in(importlib.import_module(name), name)]
    # What is put in the place of a library's functions runs as a copy, which is equal to the original.
    standard = concurrent.futures.thread
    watched_item(standard, shapes.thread_pool(standard))
    codes += [tracebacks.unseen_code(code) for code in codes if is_code_of_ours(code)]
    codes += [*tracebacks.placed.values(), *_codes_in(threading.Condition, "threading")]
    return list({id(code): code for code in codes}.values())


def is_code_of_ours(code):
    return os.path.dirname(poolscope.__file__) in code.co_filename or code in tracebacks.placed.values()


@contextmanager
def stepping(codes, step):
    """Has `step(code, place)` called before each instruction of ours, and each line of the standard library's."""
    if sys.version_info >= (3, 12):
        monitoring, tool = sys.monitoring, sys.monitoring.OPTIMIZER_ID - 1
        instruction, line = monitoring.events.INSTRUCTION, monitoring.events.LINE
        monitoring.use_tool_id(tool, "stepping")
        for event in (instruction, line):
            monitoring.register_callback(tool, event, step)
        for code in codes:
            monitoring.set_local_events(tool, code, instruction if is_code_of_ours(code) else line)
        try:
            yield
        finally:
            for code in codes:
                monitoring.set_local_events(tool, code, 0)
            for event in (instruction, line):
                monitoring.register_callback(tool, event, None)
            monitoring.free_tool_id(tool)
        return

    def trace(frame, event, arg):
        if frame.f_code not in codes:
            return None
        frame.f_trace_opcodes = is_code_of_ours(frame.f_code)
        frame.f_trace_lines = not frame.f_trace_opcodes
        return inside

    def inside(frame, event, arg):
        if event in ("opcode", "line"):
            step(frame.f_code, frame.f_lasti)
        return inside

    threading.settrace(trace)
    try:
        yield
    finally:
        threading.settrace(None)


@functools.cache
def openings(code):
    """Where in the code the interpreter lets an exception in: behind a call, the begin of a function, a jump back."""
    instructions = list(dis.get_instructions(code))
    names = [step.opname for step in instructions]
    # An intrinsic is no call of anything.
    lets_in = [
        name.startswith(("CALL", "RESUME", "JUMP_BACKWARD")) and not name.startswith("CALL_INTRINSIC") for name in names
    ]
    return frozenset(after.offset for after, open_ in zip(instructions[1:], lets_in, strict=False) if open_)


class TimeIsUpError(Exception):
    """As the handlers of alarms raise it."""


@contextmanager
def interrupting(modules=(), overrides=()):
    """Gives `interrupt(call, at)`, which raises at the `at`-th opening of `call`, in our code, in a thread of its own.

    That returns where it was raised; None: there are not so many. It must come out of the call. What comes up at the
    begin of `overrides`, by their names, has come before them: it cannot be kept from there, nor do they change it.
    """
    thread, at, seen = None, 0, 0
    places: list[Any] = []

    def step(code, place):
        nonlocal seen
        if threading.current_thread() is not thread or places or place not in openings(code):
            return
        if code.co_qualname in overrides and place == min(openings(code)):
            return
        seen += 1
        if seen == at:
            places.append(f"{code.co_qualname}, at {place}")
            raise TimeIsUpError

    def interrupt(call, number):
        nonlocal thread, at, seen
        places.clear()
        raised = []

        def run():
            try:
                call()
            except BaseException as error:
                # The standard library may fail over what it was interrupted in, with or without us.
                while error is not None and not isinstance(error, TimeIsUpError):
                    error = error.__context__  # type: ignore[assignment]
                if error is None:
                    raise
                raised.append(True)

        thread, at, seen = threading.Thread(target=run), number, 0
        thread.start()
        thread.join(LIMIT)
        assert raised or not places, f"swallowed in {places[0]}"
        return places[0] if places else None

    with stepping([code for code in stepped_codes(modules) if is_code_of_ours(code)], step):
        yield interrupt


class _Stop:
    """Holds up one thread before its `at`-th step, until `go`."""

    def __init__(self, at, others=()):
        self.at = at
        self.seen = 0
        #: The thread that is stepped through; None: the first one that comes and is in none of `others`.
        self.ident = None
        self.others = set(others)
        self.pid = os.getpid()
        self.where = "its end"
        self.reached = threading.Event()
        self.go = threading.Event()

    def __call__(self, code, place):
        if os.getpid() != self.pid:
            return  # a thread of a child may have the number of ours
        me = threading.get_ident()
        # Any thread comes through `threading` before it is known which one it is.
        if self.ident is None and me not in self.others and code.co_filename != threading.__file__:
            self.ident = me
        if me != self.ident or (code.co_filename == threading.__file__ and _in_an_event()):
            return
        self.seen += 1
        if self.seen == self.at and not self.go.is_set():
            self.where = f"{code.co_qualname}, at {place}"
            self.reached.set()
            assert self.go.wait(LIMIT)


def _in_an_event():
    """Whether a condition is used by an `Event`: by the start of a thread, or by the tests."""
    frame = sys._getframe(3)
    return any(step is not None and step.f_code.co_qualname.startswith("Event.") for step in (frame, frame.f_back))


class _Operation:
    """Runs in a thread of its own, and keeps what it raises."""

    def __init__(self, run, prepare):
        self._run = run
        self._prepare = prepare
        self.error = None
        self.thread = threading.Thread(target=self._live, daemon=True)
        self.thread.start()

    def _live(self):
        self._prepare(threading.get_ident())
        try:
            self._run()
        except BaseException as error:
            self.error = error

    def held_up(self, stopped=lambda: False):
        """Waits until the thread ends, is stopped, or waits for another one.

        To mistake one that goes on for one that waits only makes the two operations run at once: such a step shows
        less, and is no less valid.
        """
        before = None
        while self.thread.is_alive() and not stopped():
            self.thread.join(0.0002)
            now = _asleep(self.thread)
            if now is not None and now == before:
                return
            before = now

    def end(self):
        self.thread.join(LIMIT)
        assert not self.thread.is_alive(), "it never ended"
        if self.error is not None:
            raise self.error


def _asleep(thread):
    """The CPU time of a thread that sleeps, else None. Where that cannot be told, any thread sleeps after a while."""
    try:
        with open(f"/proc/self/task/{thread.native_id}/stat") as stat:
            sleeps = stat.read().rpartition(")")[2].split()[0] == "S"
        return time.clock_gettime(time.pthread_getcpuclockid(thread.ident)) if sleeps else None
    except OSError:
        return None if sys.platform == "linux" else time.monotonic_ns() // 50_000_000


class Scenario:
    """One run: `first` is stopped, `second` comes in between, `check` says what must hold after both.

    `steps`: "caller" stops the thread that runs `first`, "workers" the first one that is started by it.
    """

    steps = "caller"

    def first(self):
        raise NotImplementedError

    def second(self):
        raise NotImplementedError

    def check(self):
        raise NotImplementedError


def interleavings(make, every=1):
    """Runs `make()`'s scenario with a stop at each step of its first operation, or one in `every`; returns how many."""
    stop = None

    def step(code, place):
        if stop is not None:
            stop(code, place)

    with stepping(stepped_codes(), step):
        for at in count(1, every):
            scenario = make()
            stop = _Stop(at, vars(threading)["_active"])
            if not _run(scenario, stop):
                return at - 1
            stop = None
    raise AssertionError("unreachable")


def _run(scenario, stop):
    """Returns whether the first operation had that many steps."""

    def is_first(ident):
        if scenario.steps == "caller":
            stop.ident = ident
        else:
            stop.others.add(ident)

    first = _Operation(scenario.first, is_first)
    first.held_up(stop.reached.is_set)
    if not first.thread.is_alive():
        stop.go.set()  # the second thread may get the number of one that has ended
    second = _Operation(scenario.second, stop.others.add)
    second.held_up()
    stop.go.set()
    try:
        first.end()
        more = stop.seen >= stop.at
        second.end()
        scenario.check()
    except BaseException as error:
        error.add_note(f"with the first operation stopped at {stop.where} (step {stop.at})")
        raise
    return more

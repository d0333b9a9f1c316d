"""What event loops and waits touch of the standard library: found here, and missed where a made-up one has it not."""

import asyncio
import asyncio.base_events
import asyncio.events
import asyncio.futures
import asyncio.tasks
import concurrent.futures._base
import concurrent.futures.thread
import functools
import inspect
import queue
import sys
import threading
import types
from typing import Any

import pytest

from poolscope.probe.interpreter import shapes
from poolscope.probe.interpreter.shapes import Unfamiliar
from poolscope.probe.loops.watch import Familiar
from poolscope.probe.sampling.coroutines import Follower
from poolscope.probe.sampling.wait_reasons import WaitReasons
from poolscope.probe.sampling.waits import WaitReader

BASE = concurrent.futures._base


def like(module, **changed):
    """A module with the contents of another one, but for what is changed; without what is changed to None."""
    made = types.ModuleType(module.__name__)
    vars(made).update(vars(module))
    for name, value in changed.items():
        if value is None:
            delattr(made, name)
        else:
            setattr(made, name, value)
    return made


def subclass(cls, **changed):
    return type(cls.__name__, (cls,), {"__module__": cls.__module__, **changed})


def plain(a, /, b, *rest, c=1, d, **more): ...


class Made:
    def __init__(self, x, *rest): ...

    def method(self, y): ...

    @classmethod
    def made(cls, z): ...


@pytest.mark.parametrize(
    "function",
    [
        plain,
        Made,
        Made.method,
        Made(1).method,
        Made.made,
        lambda: None,
        lambda **more: None,
        functools.wraps(plain)(lambda *args, **kwargs: None),
        concurrent.futures.thread.ThreadPoolExecutor,
        concurrent.futures.thread.ThreadPoolExecutor.submit,
        concurrent.futures.Executor.map,
        asyncio.Task.__init__ if inspect.isfunction(asyncio.Task.__init__) else vars(asyncio.tasks)["_PyTask"].__init__,
    ],
)
def test_parameters_are_those_that_inspect_tells(function):
    assert shapes.parameters_of(function) == list(inspect.signature(function).parameters)


def test_annotations_are_not_looked_at():
    """They may name what is not there, and from 3.14 on they are worked out when they are asked for."""

    def plain(a, b=1): ...

    asked = []
    if hasattr(plain, "__annotate__"):
        plain.__annotate__ = lambda form: asked.append(form)
    assert shapes.parameters_of(plain) == ["a", "b"]
    assert functools.update_wrapper(lambda: None, plain).__name__ == "plain"
    assert asked == []


@pytest.mark.parametrize("function", [len, str, object(), functools.partial(plain), None])
def test_what_is_not_written_in_python_has_no_parameters_that_we_know(function):
    assert shapes.parameters_of(function) is None
    assert not shapes.takes(function, [])


def test_wrappers_without_end():
    def wrapper(): ...

    vars(wrapper)["__wrapped__"] = wrapper
    assert shapes.parameters_of(wrapper) == []


class TestEventLoops:
    def test_this_interpreters_are_known(self):
        told: list[Any] = []
        familiar = Familiar(told.append)
        assert told == []
        assert familiar.handles
        assert familiar.ready
        assert familiar.register in (shapes.SETS, shapes.TABLE)
        shapes.loop_class(asyncio.BaseEventLoop)
        assert set(shapes.chains(asyncio.tasks, asyncio.futures).values()) == {"source", "inner"}

    def test_a_class_that_is_run_in_another_way(self):
        with pytest.raises(Unfamiliar, match=r"^no run_forever in "):
            shapes.loop_class(type("Loop", (), {}))

    @pytest.mark.parametrize(
        ("module", "changed", "lost", "why"),
        [
            ("asyncio.events", {"Handle": None}, "handles", "no Handle in asyncio.events"),
            (
                "asyncio.base_events",
                {"BaseEventLoop": subclass(asyncio.BaseEventLoop, _run_once=lambda self: self._queue.pop())},
                "ready",
                "_run_once of asyncio.base_events.BaseEventLoop does not use _ready",
            ),
            ("asyncio.tasks", {"all_tasks": None}, "register", "no all_tasks in asyncio.tasks"),
        ],
    )
    def test_what_is_not_there_is_lost_alone(self, monkeypatch, module, changed, lost, why):
        monkeypatch.setitem(sys.modules, module, like(sys.modules[module], **changed))
        told: list[Any] = []
        familiar = Familiar(told.append)
        assert {name for name in familiar.__slots__ if not getattr(familiar, name)} == {lost}
        assert len(told) == 1
        assert told[0].endswith(f": {why} in Python {sys.version.split()[0]}")

    def test_handles_of_another_signature_or_without_weak_references(self):
        def _run(handle): ...

        events = like(asyncio.events)
        events.Handle = subclass(asyncio.Handle, _run=types.FunctionType(_run.__code__, vars(events)))
        with pytest.raises(Unfamiliar, match=r"^_run of asyncio.events.Handle does not take \(self\)$"):
            shapes.handles(events)
        bare = type("Handle", (), {"__slots__": (), "__module__": "asyncio.events", "_run": lambda self: None})
        with pytest.raises(Unfamiliar, match=r"^no weak references to asyncio.events.Handle$"):
            shapes.handles(like(asyncio.events, Handle=bare))

    def test_handles_that_another_tool_has_wrapped(self):
        shapes.handles(like(asyncio.events, Handle=subclass(asyncio.Handle, _run=lambda *args: None)))

    def test_both_registers_of_tasks(self):
        def all_tasks(loop=None):
            # As asyncio.tasks has it, from one version to the next.
            return {*_all_tasks, *_scheduled_tasks, *_eager_tasks}  # type: ignore[name-defined] # noqa: F821

        assert shapes.task_register(like(asyncio.tasks, all_tasks=all_tasks)) == shapes.SETS
        table = like(asyncio.tasks, all_tasks=len, _scheduled_tasks=set(), _eager_tasks=set())
        assert shapes.task_register(table) == shapes.TABLE

    def test_tasks_that_are_in_another_place(self):
        def all_tasks(loop=None):
            return set()

        with pytest.raises(Unfamiliar, match=r"^all_tasks of asyncio.tasks does not use _"):
            shapes.task_register(like(asyncio.tasks, all_tasks=all_tasks))


class TestCoroutines:
    @pytest.mark.parametrize(
        ("module", "name", "why"),
        [
            ("asyncio.futures", "_chain_future", "no _call_check_cancel in _chain_future of asyncio.futures"),
            ("asyncio.tasks", "shield", "no _outer_done_callback in shield of asyncio.tasks"),
        ],
    )
    def test_callbacks_that_are_not_there(self, monkeypatch, module, name, why):
        monkeypatch.setitem(sys.modules, module, like(sys.modules[module], **{name: lambda source: None}))
        told: list[Any] = []
        follower = Follower(BASE, told.append)
        future: BASE.Future[Any] = BASE.Future()
        assert follower.follow(future) is future
        assert follower.follow(future) is future
        assert told == [f"what a thread waits for in coroutines is not seen: {why} in Python {sys.version.split()[0]}"]

    def test_a_closure_with_other_names(self):
        def shield(arg):
            def _outer_done_callback(outer):
                return arg

            return _outer_done_callback

        with pytest.raises(Unfamiliar, match=r"^_outer_done_callback in shield of asyncio.tasks does not use inner$"):
            shapes.chains(like(asyncio.tasks, shield=shield), asyncio.futures)


class TestWaits:
    def test_this_interpreters_are_known(self):
        shapes.waiting(threading, BASE)
        shapes.blocking(threading, queue)
        assert shapes.thread_table(threading)[threading.get_ident()] is threading.current_thread()

    @pytest.mark.parametrize(
        ("changed", "why"),
        [
            ({"as_completed": lambda fs: None}, "as_completed of concurrent.futures._base does not use pending"),
            ({"wait": len}, "wait of concurrent.futures._base is a builtin"),
            (
                {"Future": subclass(BASE.Future, result=lambda this, timeout=None: None)},
                "result of concurrent.futures._base.Future does not take (self)",
            ),
        ],
    )
    def test_futures_of_another_shape(self, monkeypatch, changed, why):
        monkeypatch.setitem(sys.modules, "concurrent.futures._base", like(BASE, **changed))
        told: list[Any] = []
        reader = WaitReader(tell=told.append)
        assert reader.read([], []) == []
        assert reader.read([], []) == []
        assert told == [f"what workers wait for is not seen: {why} in Python {sys.version.split()[0]}"]

    def test_semaphores_of_another_shape(self, monkeypatch):
        told: list[Any] = []
        monkeypatch.setattr(queue, "Queue", type("Queue", (), {"put": queue.SimpleQueue.put, "__module__": "queue"}))
        gates = WaitReasons(told.append)
        assert told == [
            "workers are not seen to wait at semaphores and full queues: put of queue.Queue is a builtin "
            f"in Python {sys.version.split()[0]}"
        ]
        assert gates(sys._getframe()) == ""

    def test_a_with_that_enters_by_a_call_like_any_other(self, monkeypatch):
        def enter_and_call(spot):
            spot()
            spot.entered = spot.called
            spot()

        monkeypatch.setattr(shapes, "_enter_and_call", enter_and_call)
        told: list[Any] = []
        assert WaitReasons(told.append)(sys._getframe()) == ""
        assert told == [
            "workers are not seen to wait at locks: entering a `with` is a call like any other "
            f"in Python {sys.version.split()[0]}"
        ]

    def test_threads_that_are_in_another_place(self):
        with pytest.raises(Unfamiliar, match=r"^no _active in threading$"):
            shapes.thread_table(like(threading, _active=None))

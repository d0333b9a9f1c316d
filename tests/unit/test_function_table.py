from __future__ import annotations

import asyncio
import contextvars
import functools
import gc
import time
import types
import weakref
from typing import Any, cast
from unittest import mock

import pytest
from probe_support import as_ours, mistake

from poolscope.probe.recording import function_table as module
from poolscope.probe.recording.function_table import OTHER, FunctionTable


class Names:
    def __init__(self, limit=10_000, **how):
        self.messages: list[Any] = []
        self.table = FunctionTable(self.messages.append, limit, **how)

    def place(self, fn, *args):
        number = self.table.identify(fn, args)
        return {message[1]: message[2:] for message in self.messages}[number]

    def name(self, fn, *args):
        return self.place(fn, *args)[0]


@pytest.fixture
def names():
    return Names()


def plain():
    pass


class Thing:
    def method(self):
        pass

    @classmethod
    def built(cls):
        pass

    @staticmethod
    def free():
        pass

    def __call__(self):
        pass


class Hostile:
    """Whatever is asked of an instance raises."""

    def __getattribute__(self, name):
        raise RuntimeError(f"asked for {name}")

    def __repr__(self):
        raise RuntimeError("asked for a repr")

    def __hash__(self):
        raise RuntimeError("asked for a hash")

    def __eq__(self, other):
        raise RuntimeError("compared")

    def __call__(self):
        pass

    def method(self):
        pass


def hostile_class():
    """A class of which whatever is asked raises; made where it is used, because pytest asks."""

    class Meta(type):
        def __getattribute__(cls, name):
            raise RuntimeError(f"asked for {name}")

        def __hash__(cls):
            raise RuntimeError("asked for a hash")

        def __instancecheck__(cls, instance):
            raise RuntimeError("asked for an instance")

    return Meta("HostileClass", (), {"__module__": "there"})


def test_a_function_has_its_module_name_file_and_line(names):
    name, file, line = names.place(plain)
    assert name == f"{__name__}.plain"
    assert file == __file__
    assert line == plain.__code__.co_firstlineno


def test_ids_are_stable_announced_once_and_not_zero(names):
    first = names.table.identify(plain)
    assert first != OTHER
    assert names.table.identify(plain) == first
    assert names.table.identify(test_ids_are_stable_announced_once_and_not_zero) != first
    assert [message[:2] for message in names.messages] == [("function", 1), ("function", 2)]


def test_an_id_tells_its_name(names):
    number = names.table.identify(plain)
    names.table.identify(Thing.free)
    assert names.table.name(number) == f"{__name__}.plain"
    assert names.table.name(OTHER) == "other"


def test_the_announcement_comes_before_the_id():
    table = FunctionTable(lambda message: seen.append((message[1], list(table._ids.values()))))
    seen: list[Any] = []
    number = table.identify(plain)
    assert seen == [(number, [])]


@pytest.mark.parametrize(
    ("fn", "expected"),
    [
        (Thing().method, "Thing.method"),
        (Thing.built, "Thing.built"),
        (Thing().free, "Thing.free"),
        (Thing(), "Thing"),
        (Thing, "Thing"),
        (lambda: None, "<lambda>"),
    ],
)
def test_kinds_of_python_callables(names, fn, expected):
    assert names.name(fn) == f"{__name__}.{expected}"


@pytest.mark.parametrize(
    ("fn", "expected"),
    [
        (time.sleep, "time.sleep"),
        (len, "builtins.len"),
        ([].append, "builtins.list.append"),
        (dict.fromkeys, "builtins.dict.fromkeys"),
        (str.upper, "builtins.str.upper"),
        (int, "builtins.int"),
        ([].__len__, "builtins.method-wrapper"),
    ],
)
def test_builtins(names, fn, expected):
    assert names.place(fn) == (expected, "", 0)


def test_a_callable_object_shows_the_line_of_its_call(names):
    assert names.place(Thing())[1:] == (__file__, Thing.__call__.__code__.co_firstlineno)


def test_partials_are_looked_through(names):
    once: Any = functools.partial(plain, 1)  # type: ignore[call-arg]
    once.note = "an attribute keeps the next partial from being flattened"
    assert names.name(functools.partial(once, 2)) == f"{__name__}.plain"
    assert names.name(functools.partial(Thing().method)) == f"{__name__}.Thing.method"
    assert names.name(types.MethodType(functools.partial(plain), 1)) == f"{__name__}.plain"


def test_a_partial_of_itself_ends(names):
    loop: Any = functools.partial(plain)
    loop.__setstate__((loop, (), {}, {"note": 1}))
    assert names.name(loop) == "functools.partial"
    loop.__setstate__((plain, (), {}, None))  # or it can never be collected


def test_a_subclass_of_partial_is_not_looked_into(names):
    class Odd(functools.partial[Any]):
        func = property(lambda self: 1 / 0)

    assert names.name(Odd(plain)).endswith("Odd")


def test_context_runs_are_looked_through(names):
    context = contextvars.copy_context()
    assert names.name(context.run, plain, 1) == f"{__name__}.plain"
    assert names.name(functools.partial(context.run, plain, 1)) == f"{__name__}.plain"  # type: ignore[call-arg]
    nested = functools.partial(context.run, functools.partial(Thing().method, 1))  # type: ignore[call-arg]
    assert names.name(context.run, nested) == f"{__name__}.Thing.method"
    assert names.name(context.run) == "_contextvars.Context.run"


def test_what_to_thread_submits(names):
    seen = []

    class Loop:
        async def run_in_executor(self, executor, fn, *args):
            seen.append((fn, args))

    with mock.patch("asyncio.events.get_running_loop", Loop):
        coroutine = asyncio.to_thread(plain)
        with pytest.raises(StopIteration):
            coroutine.send(None)
    [(fn, args)] = seen
    assert names.name(fn, *args) == f"{__name__}.plain"


def test_decorated_functions_keep_their_own_names_and_lines(names):
    def logged(fn):
        @functools.wraps(fn)
        def wrapper(*args):
            return fn(*args)

        return wrapper

    @logged
    def one():
        pass

    @logged
    @logged
    def two():
        pass

    assert names.name(one).endswith(".<locals>.one")
    assert names.name(two).endswith(".<locals>.two")
    assert names.place(two)[2] == two.__wrapped__.__wrapped__.__code__.co_firstlineno
    assert names.table.identify(one) == names.table.identify(one) != names.table.identify(two)


def test_closures_of_one_line_are_one_function(names):
    def make(value):
        return lambda: value

    assert names.table.identify(make(1)) == names.table.identify(make(2))
    assert len(names.messages) == 1


def test_code_compiled_again_and_again_is_one_function_and_bounded():
    names = Names(limit=10)
    numbers = set()
    for _ in range(50):
        space = {"__name__": "made"}
        exec("def again(): pass", space)
        numbers.add(names.table.identify(space["again"]))
    assert numbers == {1}
    assert len(names.table._ids) <= 20
    assert len(names.table._codes) <= 20


def test_hostile_instances_are_named_by_their_type(names):
    for fn in (Hostile(), Hostile, functools.partial(Hostile()), functools.partial(Hostile)):
        assert names.name(fn) == f"{__name__}.Hostile"


def test_a_method_of_a_hostile_instance(names):
    assert names.name(types.MethodType(vars(Hostile)["method"], Hostile())) == f"{__name__}.Hostile.method"


def test_hostile_classes_are_read_past_their_metaclass(names):
    assert names.name(hostile_class()) == "there.HostileClass"


def test_mocks_are_left_alone(names):
    for fn in (mock.Mock(), mock.MagicMock(), mock.Mock().run):
        assert names.name(fn).startswith("unittest.mock.")
        assert names.name(functools.partial(fn)).startswith("unittest.mock.")
        assert not fn.mock_calls


def test_odd_names(names):
    def odd():
        pass

    odd.__module__ = None  # type: ignore[assignment]
    odd.__qualname__ = "renamed"
    assert names.name(odd) == "renamed"

    def odder():
        pass

    odder.__module__ = Hostile()  # type: ignore[assignment]
    assert names.name(odder).endswith("odder")
    assert names.name(type("NoModule", (), {"__module__": 3, "__call__": plain})()) == "NoModule"
    for thing in (None, 3, "text"):  # submit takes anything; the call fails in the worker
        assert names.table.identify(thing) != OTHER


def test_neither_callables_nor_closures_are_kept(names):
    thing = Thing()
    held: Thing | None = Thing()

    def closure():
        return held

    class Local:
        def __call__(self):
            pass

    instance = Local()
    gone = [weakref.ref(x) for x in (thing, held, closure, instance, Local)]
    for fn in (thing, thing.method, closure, functools.partial(closure), instance, Local):
        names.table.identify(fn)
    del fn, thing, closure, instance, Local
    held = None
    gc.collect()
    assert [ref() for ref in gone] == [None] * 5


def test_beyond_the_limit_all_are_other():
    names = Names(limit=2)
    assert names.table.identify(len) == 1
    assert names.table.identify(plain) == 2
    assert names.table.identify(abs) == OTHER
    assert names.table.identify(Thing) == OTHER
    assert names.table.identify(plain) == 2
    assert names.messages[2:] == [("function", OTHER, "other", "", 0)]


def test_an_emitter_that_raises_is_asked_once():
    calls = []

    @as_ours
    def emit(message):
        calls.append(message)
        raise OSError("no sink")

    table = FunctionTable(emit)
    assert table.identify(plain) == OTHER
    assert table.identify(plain) == 1
    assert len(calls) == 1


def test_a_finalizer_may_identify_while_a_function_is_announced():
    inner: list[Any] = []

    def emit(message):
        if not inner:
            inner.append(None)
            inner.append(table.identify(len))

    table = FunctionTable(emit)
    assert sorted([table.identify(plain), inner[1]]) == [1, 2]


class Library:
    """Functions that a library puts around the user's."""

    @staticmethod
    def endpoint(*, function):
        return function()

    def handler(self, loop, child):
        return child()

    @staticmethod
    def step(iterator):
        return next(iterator)


@pytest.fixture
def library(monkeypatch):
    monkeypatch.setattr(module, "WRAPPERS", {})
    prefix = f"{__name__}.Library"
    module.WRAPPERS[f"{prefix}.endpoint"] = lambda args, keywords: keywords["function"]
    module.WRAPPERS[f"{prefix}.handler"] = lambda args, keywords: args[2]
    module.WRAPPERS[f"{prefix}.step"] = lambda args, keywords: args[0]
    return Library()


def test_what_libraries_put_around_is_looked_through(names, library):
    partial, thing = functools.partial, cast(Any, Thing())
    run = contextvars.copy_context().run
    for _ in range(2):
        assert names.name(partial(library.endpoint, function=plain)) == f"{__name__}.plain"
        assert names.name(run, partial(library.endpoint), plain) == f"{__name__}.Library.endpoint"
        assert names.name(partial(library.handler, None, partial(thing.method, 1))) == f"{__name__}.Thing.method"
        assert names.name(library.handler, None, plain) == f"{__name__}.plain"
        inner = partial(library.endpoint, function=plain)
        assert names.name(partial(library.handler, None), inner) == f"{__name__}.plain"
    assert len(names.messages) == 3


def test_a_generator_goes_by_its_function(names, library):
    def items():
        yield 1
        yield 2

    generator = items()
    expected = (f"{__name__}.{items.__qualname__}", __file__, items.__code__.co_firstlineno)
    assert names.place(library.step, generator) == expected
    list(generator)
    assert names.place(library.step, generator) == expected
    assert names.name(library.step, iter([])) == "builtins.list_iterator"


def test_a_wrapper_without_what_it_calls_goes_by_its_own_name(names, library):
    assert names.name(library.endpoint) == f"{__name__}.Library.endpoint"
    itself = functools.partial(library.endpoint)
    itself.keywords["function"] = itself
    assert names.name(itself) == f"{__name__}.Library.endpoint"


class Batch:
    """What a library calls in place of several functions of the user's."""

    def __init__(self, *functions):
        self.functions = functions

    def __call__(self):
        return [function() for function in self.functions]


def test_an_instance_that_a_library_puts_around_is_looked_through(names, library):
    module.WRAPPERS[f"{__name__}.Batch"] = lambda args, keywords: args[0].functions[0]
    for _ in range(2):
        assert names.name(Batch(plain, time.sleep)) == f"{__name__}.plain"
        assert (
            names.name(functools.partial(Batch(functools.partial(library.handler, None, plain)))) == f"{__name__}.plain"
        )
        assert names.name(Batch()) == f"{__name__}.Batch"


def test_who_knows_a_library_is_asked_when_its_first_task_is_met(library):
    met = []

    def meet(name):
        met.append(name)
        module.WRAPPERS[f"{__name__}.Batch"] = lambda args, keywords: args[0].functions[0]

    names = Names(meet=meet)
    assert names.name(Batch(plain)) == f"{__name__}.plain"
    assert met == [__name__, __name__]  # of the batch, and of what is in it
    assert names.name(Batch(plain)) == names.name(plain)
    names.name(time.sleep)
    assert len(met) == 2


def test_who_fails_to_tell_costs_the_name_only():
    meet = mistake(OSError("no"))
    assert FunctionTable(lambda message: None, meet=meet).identify(plain) == OTHER

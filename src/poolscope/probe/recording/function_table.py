"""Which function a task runs: a small number on the hot path, a name that is found once.

A submitted callable may be anything: a mock that answers every attribute, an object whose `__getattr__`
raises, a partial of a partial. So only exact types are looked into, and only through the slots that the
interpreter itself fills; everything else goes by the name of its exact type, read past any metaclass.
"""

from __future__ import annotations

from _contextvars import Context
from _thread import RLock
from functools import partial
from sys import _getframe
from types import (
    BuiltinFunctionType,
    FunctionType,
    GeneratorType,
    MethodDescriptorType,
    MethodType,
    ModuleType,
)

from poolscope.probe.interpreter.blame import is_ours

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType
    from typing import Any

    #: What a function is shown as: name, file ("" where there is no Python code), line (0 likewise).
    Place = tuple[str, str, int]
    #: From the arguments of a call, `self` first where there is one, and its keywords: what it calls in its turn, a
    #: callable or a generator that it resumes. None: that is not to be seen. What it raises means the same.
    Wrapper = Callable[[tuple[Any, ...], dict[str, Any]], Any]

#: The id of every function beyond the table's limit.
OTHER = 0

#: Wrappers of libraries around the user's functions, by full name: functions, and classes whose instances are
#: called. An adapter adds to it before it records tasks, or when the first one appears (`meet`).
WRAPPERS: dict[str, Wrapper] = {}
#: Stands for the id of one of them.
_WRAPPER = -1

#: Suffix of the name of what was submitted though it cannot be called; its place is where it was submitted. The engine
#: knows it (`rules/called_not_passed.py`).
NOT_CALLABLE = " (not callable)"

#: How many partials, methods and context runs around a callable are looked through.
_DEPTH = 20

# The getters of `type` itself: a metaclass that answers these attributes in its own way is not asked.
_module_of_type = type.__dict__["__module__"].__get__
_qualname_of_type = type.__dict__["__qualname__"].__get__
_mro_of_type = type.__dict__["__mro__"].__get__
_dict_of_type = type.__dict__["__dict__"].__get__


def _nobody(_: str) -> None:
    pass


def _dotted(module: object, qualname: object) -> str:
    if type(qualname) is not str:
        qualname = "?"
    return f"{module}.{qualname}" if type(module) is str and module else qualname


def _module_name(cls: type) -> object:
    try:
        return _module_of_type(cls)
    except AttributeError:  # a class may delete its __module__
        return None


def _type_name(cls: type) -> str:
    return _dotted(_module_name(cls), _qualname_of_type(cls))


def _runs_in_context(fn: Any) -> bool:
    """Whether the builtin `fn` is the `run` of a context, which `to_thread` and gRPC put around a callable."""
    return type(fn.__self__) is Context and fn.__name__ == "run"


def _unwrap(fn: Any, args: tuple[Any, ...]) -> Any:
    for _ in range(_DEPTH):
        kind = type(fn)
        if kind is partial:
            args = fn.args or args
            fn = fn.func
        elif kind is MethodType:
            fn = fn.__func__
        elif kind is BuiltinFunctionType and args and _runs_in_context(fn):
            fn, args = args[0], args[1:]
        else:
            break
    return fn


def _call(fn: Any, args: tuple[Any, ...]) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """Return what `fn(*args)` calls behind partials, methods and contexts, and with what."""
    keywords: dict[str, Any] = {}
    for _ in range(_DEPTH):
        kind = type(fn)
        if kind is partial:
            args, keywords = (*fn.args, *args), {**fn.keywords, **keywords}
            fn = fn.func
        elif kind is MethodType:
            args = (fn.__self__, *args)
            fn = fn.__func__
        elif kind is BuiltinFunctionType and args and _runs_in_context(fn):
            fn, args = args[0], args[1:]
        else:
            break
    return fn, args, keywords


def _code_behind(fn: FunctionType) -> CodeType:
    """Return the code of the function that decorators were put around, as `functools.wraps` notes it."""
    for _ in range(_DEPTH):
        inner = fn.__dict__.get("__wrapped__")
        if type(inner) is not FunctionType:
            break
        fn = inner
    return fn.__code__


def _place_of_instance(cls: type) -> Place:
    name = _type_name(cls)
    for base in _mro_of_type(cls):
        call = _dict_of_type(base).get("__call__")
        if call is not None:
            if type(call) is FunctionType:
                return name, call.__code__.co_filename, call.__code__.co_firstlineno
            break
    return name, "", 0


def _place_of_mistake(cls: type) -> Place:
    """Return a name for something that is no function, and the user's line that submits it."""
    from poolscope.probe.interpreter.stacks import user_lines

    lines = user_lines(_getframe(1))
    file, line, _ = lines[0] if lines else ("", 0, "")
    return _type_name(cls) + NOT_CALLABLE, file, line


def _place(fn: Any) -> Place:
    kind = type(fn)
    if kind is FunctionType:
        code = _code_behind(fn)
        return _dotted(fn.__module__, fn.__qualname__), code.co_filename, code.co_firstlineno
    if kind is BuiltinFunctionType:
        owner = fn.__self__
        if owner is None or type(owner) is ModuleType:
            return _dotted(fn.__module__, fn.__name__), "", 0
        cls = owner if issubclass(type(owner), type) else type(owner)
        return f"{_type_name(cls)}.{fn.__name__}", "", 0
    if kind is MethodDescriptorType:
        return f"{_type_name(fn.__objclass__)}.{fn.__name__}", "", 0
    if issubclass(kind, type):
        return _type_name(fn), "", 0
    return _place_of_instance(kind)


class FunctionTable:
    """Numbers for functions, the same all over a process.

    Any thread may call `identify`. A function met before costs dict look-ups, which are atomic with and
    without the GIL; a new one takes the lock, is announced through `emit(("function", id, name, file,
    line))`, and only then can its id be returned. The lock is reentrant: the garbage collector may
    run a finalizer that submits a task while this thread is inside.

    Neither the callable nor its closure is held: code objects and strings only, at most `2 * limit` of them.
    From `limit` functions on, new ones are all `OTHER`. `meet` gets the module of each new one, before that is
    looked up in `WRAPPERS`.
    """

    def __init__(
        self,
        emit: Callable[[tuple[Any, ...]], object],
        limit: int = 10_000,
        meet: Callable[[str], object] = _nobody,
    ) -> None:
        self._emit = emit
        self._limit = limit
        self._meet = meet
        self._lock = RLock()
        # Keys: id of a code object (kept alive by `_codes`, so that no other object can get this id; hashing
        # the code itself reads all its instructions), (module, qualname) of a decorated function, or a place.
        self._ids: dict[object, int] = {}
        self._codes: list[CodeType] = []
        self._places: dict[Place, int] = {}
        self._other_announced = False

    def identify(self, fn: Any, args: tuple[Any, ...] = ()) -> int:
        """Return the id of what `fn(*args)` runs. Never raises: what cannot be named is `OTHER`."""
        return self._identify(fn, args, _DEPTH)

    def of_code(self, code: CodeType, names: dict[str, Any]) -> int:
        """Return the id of a running function, by its code and the names of its module."""
        known = self._ids.get(id(code))
        if known is None:
            place = _dotted(names.get("__name__"), code.co_qualname), code.co_filename, code.co_firstlineno
            known = self._learn(id(code), code, place)
        return OTHER if known == _WRAPPER else known

    def name(self, number: int) -> str:
        """Return the name of the function that has this id."""
        places = list(self._places)
        return places[number - 1][0] if 0 < number <= len(places) else "other"

    def _identify(self, fn: Any, args: tuple[Any, ...], depth: int) -> int:
        submitted = fn
        try:
            kind = type(fn)
            if kind is not FunctionType:
                fn = fn.__func__ if kind is MethodType else fn
                if type(fn) is not FunctionType:
                    fn = _unwrap(fn, args)
                kind = type(fn)
            key: object
            if kind is FunctionType:
                code = fn.__code__
                key = id(code)
                # The very object, unless the function was renamed: all wrappers that a decorator makes
                # share one code.
                if fn.__qualname__ is not code.co_qualname:
                    key = (_text(fn.__module__), fn.__qualname__)
                known = self._ids.get(key)
                if known is None:
                    self._meet(_text(fn.__module__))
                    known = self._learn(key, code, _place(fn))
                return known if known != _WRAPPER else self._behind(submitted, args, depth)
            if kind is BuiltinFunctionType and type(fn.__self__) is ModuleType:
                key = (_text(fn.__module__), fn.__name__)
                known = self._ids.get(key)
                return self._learn(key, None, _place(fn)) if known is None else known
            mistake = depth == _DEPTH and not callable(fn)
            place = _place_of_mistake(kind) if mistake else _place(fn)
            known = self._ids.get(place)
            if known is None:
                self._meet(_text(_module_name(kind)))
                known = self._learn(place, None, place)
            return known if known != _WRAPPER else self._behind(submitted, args, depth)
        except Exception as exc:
            if not is_ours(exc):
                raise
            # Nothing above is meant to raise; if it does, a task without a name is better than a failed
            # submit.
            return OTHER

    def _behind(self, fn: Any, args: tuple[Any, ...], depth: int) -> int:
        """Return the id of what a library's wrapper calls; its own id where that cannot be seen."""
        fn, args, keywords = _call(fn, args)
        place = _place(fn)
        if type(fn) is not FunctionType:
            args = (fn, *args)
        try:
            inner = WRAPPERS[place[0]](args, keywords) if depth else None
        except Exception as exc:
            # What a library has changed shows as one of these, also in code of its own that is met on the way.
            if not (is_ours(exc) or isinstance(exc, AttributeError | LookupError | TypeError)):
                raise
            inner = None
        if type(inner) is GeneratorType:
            code, frame = inner.gi_code, inner.gi_frame
            known = self._ids.get(id(code))
            if known is None:
                module = None if frame is None else frame.f_globals.get("__name__")
                name = _dotted(module, inner.__qualname__)
                known = self._learn(id(code), code, (name, code.co_filename, code.co_firstlineno))
            return known
        if inner is not None:
            return self._identify(inner, (), depth - 1)
        with self._lock:
            return self._number(place)

    def _number(self, place: Place) -> int:
        number = self._places.get(place)
        return self._announce(place) if number is None else number

    def _learn(self, key: object, code: CodeType | None, place: Place) -> int:
        with self._lock:
            number = _WRAPPER if place[0] in WRAPPERS else self._number(place)
            if len(self._ids) < 2 * self._limit:
                if code is not None:
                    self._codes.append(code)
                self._ids[key] = number
            return number

    def _announce(self, place: Place) -> int:
        if len(self._places) < self._limit:
            # Taken before it is announced: a finalizer that names another function meanwhile gets another
            # number. Threads without the lock look into `_ids`, where it is not yet.
            number = self._places[place] = len(self._places) + 1
            self._emit(("function", number, *place))
            return number
        if not self._other_announced:
            self._other_announced = True
            self._emit(("function", OTHER, "other", "", 0))
        return OTHER


def _text(value: object) -> str:
    return value if type(value) is str else "?"

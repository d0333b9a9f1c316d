"""Executors of kinds that are not known: classes of the program's that have a `submit` of their own.

Nothing is patched. When a report is made, the classes below `Executor` are looked through. One whose `submit` hands the
task on to that of another executor is not told, as the other one is seen; nor is one of a library, unless it starts
threads (see `recording.own_starts`).
"""

from __future__ import annotations

import os
from functools import partial
from types import FunctionType

from poolscope.probe.interpreter.imports import imported
from poolscope.probe.interpreter.stacks import is_user_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import CodeType
    from typing import Any

#: Classes that are looked at: a program may make them as it runs.
_CLASSES_LOOKED_AT = 1000
#: How many decorators are looked through.
_DEPTH = 8


def patch(probe: Any) -> None:
    """Tell this probe of them from now on."""
    if not any(getattr(each, "func", None) is _tell for each in probe.before_flush):
        probe.before_flush.append(partial(_tell, probe, set()))


def unpatch() -> None:
    """Do nothing: nothing is patched."""


def _tell(probe: Any, told: set[str]) -> None:
    for cls, code in _unknown():
        label = f"{cls.__module__}.{cls.__qualname__}"
        if label not in told:
            told.add(label)
            file = "/".join(code.co_filename.replace(os.sep, "/").split("/")[-2:])
            probe.emit(("started", "thread", f"{file}:{code.co_firstlineno}", "", 0, False, label))


def _unknown() -> Iterator[tuple[type, CodeType]]:
    """Return the classes, and the code of their `submit`."""
    base = getattr(imported("concurrent.futures._base"), "Executor", None)
    waiting = [] if base is None else type.__subclasses__(base)
    for _ in range(_CLASSES_LOOKED_AT):
        if not waiting:
            return
        cls = waiting.pop()
        waiting += type.__subclasses__(cls)
        code = _own_submit(cls)
        if code is not None:
            yield cls, code


def _own_submit(cls: type) -> CodeType | None:
    """Return the code of the `submit` that a class of the program's has itself; None if it has none, or one that calls
    another one."""
    function = type.__dict__["__dict__"].__get__(cls).get("submit")
    for _ in range(_DEPTH):
        if type(function) is not FunctionType:
            return None
        inner = function.__dict__.get("__wrapped__")
        if inner is None:
            break
        function = inner
    if type(function) is not FunctionType or function.__dict__.get("__isabstractmethod__"):
        return None
    code = function.__code__
    return None if "submit" in code.co_names or not is_user_file(code.co_filename) else code

"""Watches a whole process: patches imported modules, and the others as they are imported."""

from __future__ import annotations

import sys
from _thread import RLock
from functools import partial

from poolscope.probe.interpreter import imports
from poolscope.probe.interpreter.blame import is_ours
from poolscope.probe.interpreter.imports import ImportWatch
from poolscope.probe.runtime import current
from poolscope.probe.targets import GREENLETS, LIMITS, LOOPS, POOLS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType
    from typing import Any, Self

_FAMILIES = {**POOLS, **LOOPS}

# Reentrant: a finalizer may uninstall while this thread is inside. Nothing is imported under it: so it never waits for
# an import of another thread.
_lock = RLock()
#: Family -> how many installations want it.
_wanted = dict.fromkeys(_FAMILIES, 0)
_watches: dict[str, ImportWatch] = {}
#: Modules that our modules for the families share and that import what is patched.
_SHARED = ("poolscope.probe.executors.patching", "poolscope.probe.recording.pool_watch")
#: Families that were imported and have yet to be patched.
_late: list[str] = []
#: Our module for each family that has been patched.
_patchers: dict[str, Any] = {}


class Installation:
    """One request to watch the process. `uninstall`, or the end of its `with` block, takes it back.

    The patches go with the last installation that wants them. Any thread may call any method.
    """

    def __init__(self, parts: tuple[str, ...]) -> None:
        self._parts = parts

    def uninstall(self) -> None:
        """Remove the patches that no other installation wants. Does nothing the second time."""
        with _lock:
            parts, self._parts = self._parts, ()
            for part in parts:
                _wanted[part] -= 1
                if not _wanted[part]:
                    _take_off(part)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.uninstall()


def install(*, pools: bool = True, loops: bool = True, ran: str | None = None) -> Installation:
    """Watch the pools and event loops of this process from now on, those that exist included.

    The pools are the thread and process pools of `concurrent.futures` and of `multiprocessing`, and those of the
    libraries in `targets`. A `multiprocessing.Pool` that exists gets a notice that it is not watched. Returns what
    undoes it; may be called several times. Starts no thread and imports none of these modules. A failure of ours is
    logged and leaves the process as it was.

    `ran` is for a call inside an import: the module that has just run. One that is in the midst of its import,
    which may be why the other one was imported, is left to `finished`.
    """
    parts = (*(POOLS if pools else ()), *(LOOPS if loops else ()))
    with _lock:
        for part in parts:
            _wanted[part] += 1
            if _wanted[part] == 1:
                _watches[part] = watch = ImportWatch(_FAMILIES[part][1], partial(_imported, part))
                watch.start()
    # The hook first: it sees every module that is not in `sys.modules` now.
    for part in parts:
        _catch_up(part, ran)
    return Installation(parts)


def finished(name: str) -> None:
    """Note that a module that was in the midst of its import has run."""
    for part, (_, modules) in _FAMILIES.items():
        if name in modules:
            watch = _watches.get(part)
            if watch is not None:
                watch.seen(name)
            _imported(part)


def in_flight(names: Iterable[str], ran: str | None = None) -> list[str]:
    """Return the modules that are being imported, except `ran`, which has just run."""
    return [name for name in names if name != ran and imports.in_flight(sys.modules.get(name))]


def _catch_up(part: str, ran: str | None) -> None:
    present = [name for name in _FAMILIES[part][1] if imports.imported(name) is not None]
    for name in present:
        _settled(name)
    if ran is not None:
        begun = in_flight(present, ran)
        present = [name for name in present if name not in begun]
    for name in present:
        watch = _watches.get(part)
        if watch is not None:
            watch.seen(name)
    if present:
        _imported(part)


def _settled(name: str) -> None:
    # If another thread is importing it, this waits for the end of that. It is there, so nothing else is imported.
    try:
        __import__(name)
    except Exception as exc:
        _failed(exc)


def _imported(part: str, _: str = "") -> None:
    _late.append(part)
    # What is patched may be imported by a part of ours, which others need and have yet to get: they come after it.
    while not in_flight(_SHARED):
        try:
            each = _late.pop()
        except IndexError:
            return
        if _wanted[each] and not (each in LIMITS and any(name in sys.modules for name in GREENLETS)):
            _patch(each)
            if not _wanted[each]:  # uninstalled in another thread meanwhile
                _unpatch(each)


def _patch(part: str) -> None:
    try:
        patcher = _patcher(part)
        imports.settle()
        patcher.patch(current())
    except Exception as exc:
        _failed(exc)


def _take_off(part: str) -> None:
    watch = _watches.pop(part, None)
    if watch is not None:
        watch.stop()
    _unpatch(part)


def _unpatch(part: str) -> None:
    patcher = _patchers.get(part)
    if patcher is None:
        return
    try:
        patcher.unpatch()
    except Exception as exc:
        _failed(exc)


def _failed(exc: Exception) -> None:
    # What a library has changed shows as one of these, also in code of its own. All else is the program's (`blame`).
    if not (is_ours(exc) or isinstance(exc, AttributeError | ImportError | LookupError | TypeError | ValueError)):
        raise exc
    current().fail("install", exc)


def _patcher(part: str) -> Any:
    # Loaded here: what our module needs is only there once the user's program has it.
    patcher = _patchers[part] = _FAMILIES[part][0]()
    return patcher

"""Watching a whole process: patches what is imported, and the rest when it is."""

from __future__ import annotations

import sys
from _thread import RLock
from functools import partial

from poolscope.probe.families import LOOPS, POOLS
from poolscope.probe.imports import ImportWatch
from poolscope.probe.runtime import current

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType
    from typing import Any, Self

_FAMILIES = {**POOLS, **LOOPS}

# Reentrant: a finalizer may uninstall while this thread is inside. Nothing is imported under it, and so no
# import that another thread is in the midst of is waited for.
_lock = RLock()
#: Family -> how many installations want it.
_wanted = dict.fromkeys(_FAMILIES, 0)
_watches: dict[str, ImportWatch] = {}


class Installation:
    """One wish to have the process watched. `uninstall`, or the end of its `with` block, takes it back.

    The patches go with the last installation that wants them. Any thread may call any method.
    """

    def __init__(self, parts: tuple[str, ...]) -> None:
        self._parts = parts

    def uninstall(self) -> None:
        """Puts back what no other installation wants. Does nothing the second time."""
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
    """Watches the pools and event loops of this process from now on, those that exist included.

    The pools are the thread and process pools of `concurrent.futures` and of `multiprocessing`, and those of the
    libraries in `families`; of a `multiprocessing.Pool` that exists, no more than that it is not watched. Returns what
    undoes it; may be called several times. Starts no thread and imports none of these modules. A failure of ours is
    logged and leaves the process as it was.

    `ran` is for who calls this inside an import: the module that has just run. One that is in the midst of its import,
    which may be why the other one was imported, is left to `finished`.
    """
    parts = (*(POOLS if pools else ()), *(LOOPS if loops else ()))
    with _lock:
        for part in parts:
            _wanted[part] += 1
            if _wanted[part] == 1:
                _watches[part] = watch = ImportWatch(_FAMILIES[part][1], partial(_imported, part))
                watch.start()
    # Listening first: whatever is not in `sys.modules` now will be heard of.
    for part in parts:
        _catch_up(part, ran)
    return Installation(parts)


def finished(name: str) -> None:
    """A module that was in the midst of its import has run."""
    for part, (_, modules) in _FAMILIES.items():
        if name in modules:
            watch = _watches.get(part)
            if watch is not None:
                watch.seen(name)
            _imported(part)


def in_flight(names: Iterable[str], ran: str | None = None) -> list[str]:
    """Those modules that are in the midst of their import; all but `ran`, which has just run."""
    found = ((name, getattr(sys.modules.get(name), "__spec__", None)) for name in names if name != ran)
    return [name for name, spec in found if getattr(spec, "_initializing", False)]


def _catch_up(part: str, ran: str | None) -> None:
    present = [name for name in _FAMILIES[part][1] if sys.modules.get(name) is not None]
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
    # If another thread is importing it, this waits for the end of that.
    try:
        __import__(name)
    except Exception as exc:
        current().fail("install", exc)


def _imported(part: str, _: str = "") -> None:
    if _wanted[part]:
        _patch(part)
        if not _wanted[part]:  # uninstalled in another thread meanwhile
            _unpatch(part)


def _patch(part: str) -> None:
    try:
        _patcher(part).patch(current())
    except Exception as exc:
        current().fail("install", exc)


def _take_off(part: str) -> None:
    watch = _watches.pop(part, None)
    if watch is not None:
        watch.stop()
    _unpatch(part)


def _unpatch(part: str) -> None:
    if _FAMILIES[part][0] not in sys.modules:
        return
    try:
        _patcher(part).unpatch()
    except Exception as exc:
        current().fail("install", exc)


def _patcher(part: str) -> Any:
    # Imported here: what our module needs is only there once the user's program has it.
    return __import__(_FAMILIES[part][0], fromlist=["patch"])

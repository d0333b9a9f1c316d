"""Watches for imports: calls back right after the first run of a module that is not imported yet.

The finder asks those behind it, as if it were not there, and hooks the `exec_module` of the loader that they
found, on the instance and until it has run: the module's `__spec__` and `__loader__` are the ones that they
would be without us.
"""

from __future__ import annotations

import sys
from types import ModuleType

from poolscope.probe.interpreter.tracebacks import leave_out, unseen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from importlib.machinery import ModuleSpec
    from typing import Any


#: Our modules in a program.
_OURS = ("poolscope.probe.", "poolscope.executors.")


def in_flight(module: Any) -> bool:
    """Whether a thread is in the midst of importing this module."""
    spec = vars(module).get("__spec__") if isinstance(module, ModuleType) and not _stands_in(module) else None
    return bool(getattr(spec, "_initializing", False))


def imported(name: str) -> Any:
    """Return the module of this name once it has run, or runs; None for what is not imported, and for what stands in
    for a module that is imported when it is first used: to ask such a one for anything would import it."""
    module = sys.modules.get(name)
    return None if _stands_in(module) else module


def settle() -> None:
    """Bind what our modules have imported, where all imports are lazy (`-X lazy_imports=all` of 3.15).

    Else a name of ours would be looked for at its first use: in a signal handler, in our thread at the end of the
    process, or after the program has put something else in its place.
    """
    lazy = getattr(sys, "get_lazy_imports", None)
    if lazy is None or lazy() != "all":
        return
    settled: set[str] = set()
    while True:
        new = [name for name in list(sys.modules) if name.startswith(_OURS) and name not in settled]
        if not new:
            return
        for name in new:
            module = sys.modules[name]
            settled.add(name)
            for key, value in list(vars(module).items()):
                if type(value).__name__ == "lazy_import":
                    getattr(module, key)


def _stands_in(module: object) -> bool:
    # Of `importlib.util.LazyLoader`. A `lazy import` (3.15) puts nothing into `sys.modules`.
    util = sys.modules.get("importlib.util")
    return util is not None and type(module) is getattr(util, "_LazyModule", None)


class ImportWatch:
    """A finder in front of `sys.meta_path` from `start` until all names were seen, or `stop`.

    Any thread may import; `start` and `stop` are for one caller at a time.

    `imported(name)` is called in the thread that imports, inside of its import. It may be called again when a
    tool unloads a module and imports it anew, or reloads it, while another name is still waited for.
    """

    def __init__(self, names: Iterable[str], imported: Callable[[str], object]) -> None:
        self._names = frozenset(names)
        self._missing = set(self._names)
        self._imported = imported
        self._active = False
        self._late: set[str] = set()

    def start(self) -> None:
        """Begin to watch, if there is a name to wait for."""
        if self._names and not self._active:
            self._active = True
            sys.meta_path.insert(0, self)

    def stop(self, late: Iterable[str] = ()) -> None:
        """Leave `sys.meta_path`, and stop calling, except for the modules `late`, which are being imported now."""
        self._active = False
        self._late = set(late)
        # By identity, and in place: another thread may import at this moment.
        for index, finder in enumerate(sys.meta_path):
            if finder is self:
                del sys.meta_path[index]
                break

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return what the finders behind us say, with a hook in the loader if the name is one of ours."""
        if fullname not in self._names or not self._active:
            return None
        finders: list[Any] = list(sys.meta_path)
        behind = False
        for finder in finders:
            if finder is self:
                behind = True
                continue
            find_spec = getattr(finder, "find_spec", None) if behind else None
            spec: ModuleSpec | None = None if find_spec is None else find_spec(fullname, path, target)
            if spec is not None:
                self._hook(fullname, spec.loader)
                return spec
        return None

    def _hook(self, name: str, loader: Any) -> None:
        # A class as loader serves all builtin or frozen modules there are; none of ours is one of these in
        # practice.
        if isinstance(loader, type):
            return
        try:
            before = loader.__dict__.get("exec_module")
            if not (isinstance(before, _Hook) and before.covers(self, name)):
                loader.exec_module = _Hook(self, name, loader, loader.exec_module)
        except (AttributeError, TypeError):
            pass  # none to speak of, or one that takes no attributes: the module is imported unseen

    def ran(self, name: str) -> None:
        """Note, for the hook, that the module has run."""
        if self._active:
            self.seen(name)
            self._imported(name)
        elif name in self._late:
            self._late.discard(name)
            self._imported(name)

    def seen(self, name: str) -> None:
        """Stop waiting for this name."""
        self._missing.discard(name)
        if not self._missing:
            self.stop()


class _Hook:
    """Stands in for one loader's `exec_module` until the module has run."""

    def __init__(self, watch: ImportWatch, name: str, loader: Any, original: Callable[[ModuleType], object]) -> None:
        self._watch = watch
        self._name = name
        self._loader = loader
        self._original = original

    def covers(self, watch: ImportWatch, name: str) -> bool:
        """Whether this hook would do what a new one is for."""
        return self._watch is watch and self._name == name

    @unseen
    def __call__(self, module: ModuleType) -> None:
        if module.__name__ != self._name:  # a loader of several modules: zip archives
            self._original(module)
            return
        # First: the module may look at its own loader.
        if self._loader.__dict__.get("exec_module") is self:
            del self._loader.exec_module
            if isinstance(self._original, _Hook):
                self._loader.exec_module = self._original
        try:
            self._original(module)
        except BaseException as exc:
            # A bare `raise` adds no line for this frame: the traceback is the one without us, and of what is left the
            # interpreter takes out its own lines as ever.
            leave_out(exc)
            raise
        self._watch.ran(self._name)

    def __reduce__(self) -> tuple[Any, ...]:
        # A spec that was found and not used may be pickled: with the loader's own method.
        return getattr, (self._loader, "exec_module")

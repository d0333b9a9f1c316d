"""Libraries that bring pools, or run their users' functions in pools: one small file for each.

Some are patched when they are imported (`targets.POOLS`); for others only their wrappers around the users' functions
are known (`targets.WRAPPING`).
"""

from __future__ import annotations

import sys
from _thread import RLock

from poolscope.probe.interpreter.blame import is_ours
from poolscope.probe.interpreter.imports import imported, in_flight

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Any

    from poolscope.probe.executors.patching import Patch
    from poolscope.probe.recording.function_table import Wrapper

# What has been logged. Single set operations only: any thread may ask.
_logged: set[str] = set()


def unfamiliar(probe: Any, library: str, why: str) -> None:
    """Report that a library is not as its adapter expects it: one line in the report's notices, and one in the log
    unless a parent reports. Raises what is the program's (see `blame`), and nothing else.

    `library` is the name it is installed by, `why` what follows from that, and what was missing: "its threads are not
    watched: no AsyncIOBackend.run_sync_in_worker_thread(func, args)".
    """
    try:
        text = f"{library} {_version(library)}: {why}"
        probe.notice(text)
        if not probe.supervised and text not in _logged:
            _logged.add(text)
            import logging

            logging.getLogger("poolscope").warning(text)
    except Exception as exc:
        if not is_ours(exc):
            raise
        probe.fail("install", exc)


def fresh_modules(
    state: Patch, library: str, otherwise: str, modules: Mapping[str, str], missing: Callable[[str, Any], str | None]
) -> Iterator[tuple[str, Any]]:
    """Return the modules of a library that are imported and not patched by `state` yet, by name. They count as
    patched from here on.

    `modules` gives what each defines last of what we need. `missing(name, module)` says what one has not of that:
    then it is left alone, and the probe gets a notice of it and of what follows, `otherwise`.
    """
    for name, defines in modules.items():
        module: Any = imported(name)
        if module is None or module in state.modules:
            continue
        if in_flight(module) and not hasattr(module, defines):
            continue  # another thread is importing it, and our hook sees its end
        lacks = missing(name, module)
        if lacks:
            unfamiliar(state.probe, library, f"{otherwise}: no {lacks} in {name}")
            continue
        state.modules.append(module)
        yield name, module


class LibrarySwitch:
    """Whether a library of several modules is patched, and by what. Any thread may call any method.

    What outlives the patch is the same pool under the next one of the same probe.
    """

    def __init__(
        self,
        library: str,
        otherwise: str,
        modules: Mapping[str, str],
        missing: Callable[[str, Any], str | None],
        *,
        make: Callable[[Any], Any],
        put: Callable[[Any, str, Any], object],
        forget: Callable[[], object],
    ) -> None:
        """`put(patch, name, module)` puts the patch that `make(probe)` has made in place, and `forget()` has what
        outlives one begin anew under another probe. For the others see `fresh_modules`."""
        self._about = (library, otherwise, modules, missing)
        self._make = make
        self._put = put
        self._forget = forget
        # Reentrant: a finalizer that runs while we are inside may uninstall.
        self._lock = RLock()
        self._last_probe: Any = None
        self.current: Patch | None = None

    def on(self, probe: Any) -> None:
        """Patch the modules that are imported. Does nothing for those that are patched already."""
        with self._lock:
            state = self.current or self._make(probe)
            for name, module in fresh_modules(state, *self._about):
                if self._last_probe is not probe:
                    self._forget()
                self._last_probe = probe
                self._put(state, name, module)
                self.current = state

    def off(self) -> None:
        """Put everything back as it was. Does nothing if nothing is patched."""
        with self._lock:
            if self.current is not None:
                self.current.take_off()
                self.current = None


def look_through(
    probe: Any, library: str, module: str, wrappers: Mapping[str, tuple[tuple[str, ...], Wrapper]]
) -> None:
    """Name the tasks of a module after what is inside: name of a wrapper -> its first parameters, and what it calls.

    If one is not there as expected, the probe gets a notice (see `unfamiliar`), and its tasks keep its name.
    """
    from poolscope.probe.recording import function_table

    for name, (parameters, wrapper) in wrappers.items():
        found: Any = sys.modules.get(module)
        for part in name.split("."):
            found = getattr(found, part, None)
        if isinstance(found, type):
            found = found.__dict__.get("__init__")
        code = getattr(found, "__code__", None)
        if code is not None and code.co_varnames[: len(parameters)] == parameters:
            function_table.WRAPPERS[f"{module}.{name}"] = wrapper
        else:
            wanted = f"{name}({', '.join(parameters)})"
            unfamiliar(probe, library, f"its tasks are not named after your functions: no {wanted} in {module}")


def _version(library: str) -> str:
    """As its installer says it, or it does itself. We may be in a loop's thread: no file or folder is looked into."""
    wanted = _normal(library)
    for finder in list(sys.path_importer_cache.values()):
        # What the import system has seen of the folders in which it has looked for modules.
        for name in list(getattr(finder, "_path_cache", ())):
            distribution, separator, version = name.removesuffix(".dist-info").partition("-")
            if name.endswith(".dist-info") and separator and _normal(distribution) == wanted:
                return str(version)
    module = imported(library)
    version = None if module is None else vars(module).get("__version__")
    return version if isinstance(version, str) else "(unknown version)"


def _normal(name: str) -> str:
    return name.lower().replace("-", "_").replace(".", "_")

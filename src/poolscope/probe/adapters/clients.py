"""What the adapters of clients that have pools of connections share: patched as their modules come, and put back."""

from __future__ import annotations

from _thread import RLock

from poolscope.probe.adapters import fresh_modules
from poolscope.probe.executors.patching import Patch
from poolscope.probe.interpreter.imports import imported
from poolscope.probe.interpreter.shapes import Unfamiliar
from poolscope.probe.limits import connections

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any


class Client:
    """One library. Any thread may call its methods.

    `modules` gives what each module defines last of what we need; `check(module)` raises Unfamiliar if it is not as we
    know it, and `put(patch, module)` puts the patch in place.
    """

    def __init__(
        self,
        library: str,
        modules: Mapping[str, str],
        check: Callable[[Any], object],
        put: Callable[[Patch, Any], object],
    ) -> None:
        self._library = library
        self._modules = modules
        self._check = check
        self._put = put
        # Reentrant: a finalizer that runs while we are inside may uninstall.
        self._lock = RLock()
        self._current: Patch | None = None
        #: Modules that are not as we know them.
        self._unknown: set[str] = set()

    def patch(self, probe: Any) -> None:
        """Watch the pools of those modules that are imported. Does nothing where that is so already.

        An unknown version is left alone, and the probe gets a notice.
        """
        with self._lock:
            if not probe.settings.connections:
                return
            current = self._current
            if current is not None and (
                current.probe is not probe or any(imported(module.__name__) is not module for module in current.modules)
            ):
                self._take_off()
                current = None
            if current is None:
                current = self._current = Patch(probe)
            otherwise = "its pools of connections are not watched"
            modules = {name: defines for name, defines in self._modules.items() if name not in self._unknown}
            for _, module in fresh_modules(current, self._library, otherwise, modules, self._missing):
                self._put(current, module)

    def unpatch(self) -> None:
        """Put everything back as it was. Does nothing if nothing is patched."""
        with self._lock:
            self._take_off()

    def _take_off(self) -> None:
        if self._current is not None:
            self._current.take_off()
            connections.end(self._current)
            self._current = None
            self._unknown.clear()

    def _missing(self, name: str, module: Any) -> str | None:
        try:
            self._check(module)
        except Unfamiliar as reason:
            self._unknown.add(name)
            return f"familiar pool ({reason})"
        return None

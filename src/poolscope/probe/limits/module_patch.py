"""How the classes of one module are patched, and put back: the same for each kind of limits and queues."""

from __future__ import annotations

import os
from _thread import RLock

from poolscope.probe.executors.patching import Patch
from poolscope.probe.interpreter.imports import imported
from poolscope.probe.interpreter.shapes import Unfamiliar, missed
from poolscope.probe.limits.known_limits import Limits

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class ModulePatch:
    """What is patched of one module. Changed under `lock` only; hooks of any thread may read it."""

    def __init__(self, name: str, what: str) -> None:
        """`name` is the module's; `what` tells what is watched in it."""
        # Reentrant: a finalizer that runs while we are inside may uninstall.
        self.lock = RLock()
        self.name = name
        self.patch: Patch | None = None
        #: The module that is patched, or was last.
        self.module: Any = None
        self._what = what
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forked)

    def check(self, module: Any) -> object:
        """Raise Unfamiliar if the module is not as we know it."""
        raise NotImplementedError

    def put(self, patch: Patch, module: Any) -> None:
        """Put the replacements in place. Other threads use them from then on."""
        raise NotImplementedError

    def end(self) -> None:
        """Record nothing any more, as the patch was taken off."""
        raise NotImplementedError

    def forget(self) -> None:
        """Likewise in a forked child: the records are the parent's."""
        raise NotImplementedError

    def _forked(self) -> None:
        self.lock = RLock()  # a thread of the parent may have held it
        self.forget()

    def on(self, probe: Any) -> None:
        """Watch what is made from now on. Does nothing if that is so already, or if the module is not as we know it."""
        with self.lock:
            module = imported(self.name)
            if module is None or not probe.settings.limits:
                return
            if self.patch is not None:
                if self.module is module and self.patch.probe is probe:
                    return
                self._take_off()
            try:
                self.check(module)
            except Unfamiliar as reason:
                probe.notice(missed(f"{self._what} are not watched", reason))
                return
            patch = Patch(probe)
            self.module = module
            self.put(patch, module)
            self.patch = patch

    def off(self) -> None:
        """Put everything back as it was. Does nothing if nothing is patched."""
        with self.lock:
            self._take_off()

    def _take_off(self) -> None:
        if self.patch is not None:
            self.patch.take_off()
            self.patch = None
            self.end()


class LimitPatch(ModulePatch):
    """The same of semaphores and locks, with their records."""

    def __init__(self, name: str, what: str) -> None:
        super().__init__(name, what)
        self.limits = Limits()

    def end(self) -> None:
        """See `ModulePatch`, here and below."""
        self.limits.end()

    def forget(self) -> None:
        """Begin anew."""
        self.limits.forget()

"""What all patched families of pools have in common: attributes are replaced in place, and put back."""

from __future__ import annotations

import functools
import os
import sys
from _thread import RLock

from poolscope.probe.api import current
from poolscope.probe.interpreter.tracebacks import leave_out, unseen
from poolscope.probe.recording.pool_watch import report, size_from_settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from typing import Any

    from poolscope.probe.recording.pool_watch import Instances, Watch

_MISSING = object()


class Patch:
    """The replacements that are in place, and the originals. The family's lock guards `put` and `take_off`.

    `active` turns false with `take_off`: a replacement that another tool has kept then only passes calls on.
    """

    def __init__(self, probe: Any) -> None:
        self.probe = probe
        self.pid = os.getpid()
        self.active = True
        self.undo: list[tuple[Any, str, Any, Any]] = []
        #: The modules that are patched, where a library has several (see `adapters.fresh_modules`).
        self.modules: list[Any] = []

    def put(self, owner: Any, name: str, ours: Any) -> None:
        """Replace an attribute of a class or module."""
        unseen(ours)
        self.undo.append((owner, name, owner.__dict__.get(name, _MISSING), ours))
        setattr(owner, name, ours)

    def put_constructor(
        self, cls: Any, size: str, sized: Callable[[Any], int | None], made: Callable[[Any], object]
    ) -> None:
        """Replace `__init__`: `sized(instance)` may tell a size to make it with, as the first parameter, whose name is
        `size`; `made(instance)` is called after."""
        original = cls.__init__

        @functools.wraps(original)
        def __init__(self: Any, /, *args: Any, **kwargs: Any) -> None:  # noqa: N807 - shown in tracebacks
            wanted = sized(self)
            if wanted is not None and args:
                args = (wanted, *args[1:])
            elif wanted is not None:
                kwargs[size] = wanted
            try:
                original(self, *args, **kwargs)
            except BaseException as exc:
                # A bare `raise` adds no line for this frame: the traceback is the one without us.
                leave_out(exc)
                raise
            made(self)

        self.put(cls, "__init__", __init__)

    def put_noted_constructor(self, cls: Any, note: Callable[[Any, FrameType], object]) -> None:
        """Replace `__init__`: `note(instance, frame)` is called after, with the frame that has called it. A failure of
        ours there goes to the probe; what is the program's passes through."""
        original = cls.__init__
        # The names of this module are gone before the program's last threads are, as the interpreter shuts down.
        getframe, shutting_down, failed, left_out = sys._getframe, sys.is_finalizing, report, leave_out

        def __init__(self_: Any, /, *args: Any, **kwargs: Any) -> None:  # noqa: N807 - shown in tracebacks
            try:
                original(self_, *args, **kwargs)
            except BaseException as exc:
                left_out(exc)
                raise
            if self.active and not shutting_down():
                try:
                    note(self_, getframe(1))
                except Exception as exc:
                    failed(self.probe, exc)

        self.put(cls, "__init__", functools.update_wrapper(__init__, original))

    def take_off(self) -> None:
        """Put everything back that is still ours."""
        self.active = False
        for owner, name, before, ours in reversed(self.undo):
            # If another tool has wrapped ours since, it stays under theirs and only passes calls on.
            if owner.__dict__.get(name) is not ours:
                continue
            if before is _MISSING:
                delattr(owner, name)
            else:
                setattr(owner, name, before)

    def find_probe(self) -> Any:
        """Return the probe of this process, which after a fork is not the one that we were given."""
        if os.getpid() != self.pid:
            self.probe = current()
            self.pid = os.getpid()
        return self.probe

    def kind_of(self, pool: Any) -> str:
        """Return the kind of a pool of this family."""
        raise NotImplementedError

    def sized(self, pool: Any) -> int | None:
        """Return the size that the settings want for the pool that is being made, for `put_constructor`."""
        return size_from_settings(self.find_probe, self.kind_of(pool)) if self.active else None


class Switch:
    """Whether a family of executors is patched, and by what. Any thread may call any method.

    An executor that outlives the patch keeps its watch, and is the same pool under the next one of the same probe.
    """

    def __init__(
        self,
        instances: Instances,
        familiar: Callable[[Any], bool],
        put: Callable[[Any], Patch],
        *others: Instances,
    ) -> None:
        """`familiar(probe)` says whether we know the family; if not, it gives the probe a notice. `put(probe)` makes a
        patch and puts it in place. `instances` are those that can be recorded for their own sake."""
        self._instances = instances
        self._all = (instances, *others)
        self._familiar = familiar
        self._put = put
        # Reentrant: a finalizer that runs while we are inside may uninstall.
        self._lock = RLock()
        self._last_probe: Any = None
        self.current: Patch | None = None

    def on(self, probe: Any) -> None:
        """Patch. Does nothing if that is so already, or where the family is not as we know it."""
        with self._lock:
            if self.current is not None or not self._familiar(probe):
                return
            if self._last_probe is not probe:
                for instances in self._all:
                    instances.forget(owned=False)
            self._last_probe = probe
            self.current = self._put(probe)

    def off(self) -> None:
        """Put everything back as it was. Does nothing if nothing is patched."""
        with self._lock:
            if self.current is not None:
                self.current.take_off()
                self.current = None

    def watch_own(self, executor: Any, find_probe: Callable[[], Any], name: str | None) -> Watch | None:
        """Record this executor for its own sake, patched or not. None if it is not to be watched, or unfamiliar."""
        if not self._familiar(find_probe()):
            return None
        watch = self._instances.open(executor, find_probe, "", name)
        if watch is not None:
            watch.own = True
        return watch

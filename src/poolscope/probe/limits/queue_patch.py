"""What the families of queues have in common: the methods that are replaced, and what these tell of."""

from __future__ import annotations

import os
from _thread import RLock
from collections import deque
from functools import update_wrapper

from poolscope.probe.executors.patching import Patch
from poolscope.probe.interpreter.imports import imported
from poolscope.probe.interpreter.shapes import Unfamiliar, missed
from poolscope.probe.interpreter.stacks import is_user_file
from poolscope.probe.interpreter.tracebacks import leave_out
from poolscope.probe.limits.naming import site_of
from poolscope.probe.limits.work_queue import ATTRIBUTE, LOOK_SECONDS, Fresh, WorkQueues

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType, FrameType
    from typing import Any

#: So many places at which queues are made are remembered. A program may make code as it runs.
PLACES_KEPT = 10_000

_set = object.__setattr__


def older(queue: Any) -> Any:
    """Note that a queue is not followed that is older than the patch, or a copy. Returns None: it has no record.

    No attribute of the class says so: where both have one, reading it is slow.
    """
    _set(queue, ATTRIBUTE, None)


def _outside(frame: FrameType | None, queue: Any) -> FrameType | None:
    """Return the frame that has called the constructor of a subclass, in which this one is."""
    while frame is not None and frame.f_code.co_name == "__init__" and frame.f_locals.get("self") is queue:
        frame = frame.f_back
    return frame


class QueueFamily:
    """The queues of one module, and what is patched of it. Changed under `lock` only; hooks may be called by any
    thread."""

    def __init__(
        self,
        module: str,
        queues: WorkQueues,
        *,
        check: Callable[[Any], None],
        methods: Callable[[Any], dict[Any, dict[str, Any]]],
    ) -> None:
        """`check` raises Unfamiliar; `methods` gives what to replace in each class of the module."""
        # Reentrant: a finalizer that runs while we are inside may uninstall.
        self.lock = RLock()
        self.module = module
        self.queues = queues
        self.patch: Patch | None = None
        self._check = check
        self._methods = methods
        self._ours: dict[str, set[Any]] = {}
        # By code and instruction. The code is kept, or its id might be given to another one.
        self._made_at: dict[tuple[int, int], tuple[CodeType, Fresh]] = {}
        # Classes whose queues can be followed.
        self._plain: set[type] = set()
        #: The module that is patched.
        self.patched: Any = None
        self._stop_job: Callable[[], None] | None = None
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forked)

    def _forked(self) -> None:
        self.lock = RLock()  # a thread of the parent may have held it
        self._stop_job = None
        self.queues.forget()

    # -- patching ----------------------------------------------------------------------------------------------

    def on(self, probe: Any) -> None:
        """Watch the queues that are made from now on. Does nothing if that is so already, or they are not as we know
        them."""
        with self.lock:
            module = imported(self.module)
            if module is None or not probe.settings.limits:
                return
            if self.patch is not None:
                if self.patched is module and self.patch.probe is probe:
                    return
                self._take_off()
            try:
                self._check(module)
            except Unfamiliar as reason:
                probe.notice(missed(f"queues of {self.module.partition('.')[0]} are not watched", reason))
                return
            state = Patch(probe)
            # Other threads make queues from here on.
            self.patched = module
            state.put_noted_constructor(module.Queue, self._made)
            state.put(module.Queue, "task_done", self._task_done(module.Queue.task_done))
            self.queues.probe = probe
            self.queues.askers = module.Queue.get.__code__, module.Queue.get_nowait.__code__
            self._ours, self._plain = {}, set()
            for cls, methods in self._methods(module).items():
                for name, ours in methods.items():
                    state.put(cls, name, ours)
                    self._ours.setdefault(name, set()).add(ours)
            self.patch = state

    def off(self) -> None:
        """Put everything back as it was. Does nothing if nothing is patched."""
        with self.lock:
            self._take_off()

    def _take_off(self) -> None:
        if self.patch is not None:
            self.patch.take_off()
            self.patch = None
            if self._stop_job is not None:
                self._stop_job()
                self._stop_job = None
            self.queues.end()

    def _made(self, queue: Any, frame: FrameType) -> None:
        """Note where a queue of the user's was made. What libraries make for themselves is left alone."""
        kind = type(queue)
        known = self._made_at.get((id(frame.f_code), frame.f_lasti))
        if known is not None and kind in self._plain:
            _set(queue, ATTRIBUTE, known[1])
            if self._stop_job is None:
                self.start()
            return
        _set(queue, ATTRIBUTE, None)
        made: FrameType | None = frame
        if kind.__init__ is not self.patched.Queue.__init__:
            made = _outside(frame, queue)
        if made is None or not is_user_file(made.f_code.co_filename):
            return
        if kind not in self._plain and not self._is_plain(kind, queue):
            return
        fresh = Fresh(site_of(made), self.queues)
        if made is frame and len(self._made_at) < PLACES_KEPT:
            self._made_at[id(frame.f_code), frame.f_lasti] = frame.f_code, fresh
        _set(queue, ATTRIBUTE, fresh)
        self.start()

    def _is_plain(self, kind: Any, queue: Any) -> bool:
        """Whether a class leaves to the standard one what we rely on; one that does not is told of."""
        if type(self.queues.items(queue)) not in (deque, list):
            return False  # it keeps its items in a way of its own
        for name, ours in self._ours.items():
            if getattr(kind, name) not in ours:
                called = f"{kind.__module__}.{kind.__qualname__}"
                self.queues.probe.notice(f"queues of {called} are not seen: it has a {name} of its own")
                return False
        self._plain.add(kind)
        return True

    def start(self) -> None:
        """Have our thread look at the queues."""
        patch = self.patch
        if patch is None:
            return
        probe = self.queues.probe
        if self._stop_job is None:
            probe = self.queues.probe = patch.find_probe()
            self._stop_job = probe.add_job(LOOK_SECONDS, self._look)
        probe.wake()

    def _look(self, _now_ns: int) -> None:
        patch = self.patch
        if patch is not None:
            self.queues.look(patch.find_probe)

    def _task_done(self, original: Callable[[Any], None]) -> Callable[[Any], None]:
        def task_done(self_: Any) -> None:
            try:
                record = self_._poolscope_items
            except AttributeError:
                record = older(self_)
            if record is not None:
                record.done(self_)
                if self._stop_job is None:
                    self.start()  # in a forked child
            try:
                original(self_)
            except BaseException as exc:
                leave_out(exc)
                raise

        return update_wrapper(task_done, original)

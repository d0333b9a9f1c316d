"""What the families of queues have in common: the methods that are replaced, and what these tell of."""

from __future__ import annotations

from collections import deque
from functools import update_wrapper

from poolscope.probe.interpreter.stacks import is_user_file
from poolscope.probe.interpreter.tracebacks import leave_out
from poolscope.probe.limits.module_patch import ModulePatch
from poolscope.probe.limits.naming import site_of
from poolscope.probe.limits.queue_registry import ATTRIBUTE, LOOK_SECONDS, Fresh, WorkQueues

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType, FrameType
    from typing import Any

    from poolscope.probe.executors.patching import Patch

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


class QueueFamily(ModulePatch):
    """The queues of one module, and what is patched of it."""

    def __init__(
        self,
        module: str,
        queues: WorkQueues,
        *,
        check: Callable[[Any], None],
        methods: Callable[[Any], dict[Any, dict[str, Any]]],
    ) -> None:
        """`check` raises Unfamiliar; `methods` gives what to replace in each class of the module."""
        super().__init__(module, f"queues of {module.partition('.')[0]}")
        self.queues = queues
        self._check = check
        self._methods = methods
        self._ours: dict[str, set[Any]] = {}
        # By code and instruction. The code is kept, or its id might be given to another one.
        self._made_at: dict[tuple[int, int], tuple[CodeType, Fresh]] = {}
        # Classes whose queues can be followed.
        self._plain: set[type] = set()
        self._stop_job: Callable[[], None] | None = None

    def check(self, module: Any) -> None:
        """See `ModulePatch`, here and below."""
        self._check(module)

    def put(self, patch: Patch, module: Any) -> None:
        """Replace the constructor, `task_done`, and the methods that the family names."""
        patch.put_noted_constructor(module.Queue, self._made)
        patch.put(module.Queue, "task_done", self._task_done(module.Queue.task_done))
        self.queues.probe = patch.probe
        self.queues.askers = module.Queue.get.__code__, module.Queue.get_nowait.__code__
        self._ours, self._plain = {}, set()
        for cls, methods in self._methods(module).items():
            for name, ours in methods.items():
                patch.put(cls, name, ours)
                self._ours.setdefault(name, set()).add(ours)

    def end(self) -> None:
        """Look at the queues no more."""
        if self._stop_job is not None:
            self._stop_job()
            self._stop_job = None
        self.queues.end()

    def forget(self) -> None:
        """Begin anew."""
        self._stop_job = None
        self.queues.forget()

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
        if kind.__init__ is not self.module.Queue.__init__:
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

"""The queues of a family that are followed or at rest.

A queue is followed from its first item on, for a while. Where no item has to wait it is then left at rest, which costs
nothing, until it is seen to hold items twice in a row. Our own thread decides whether it is a work queue
(`WorkQueues.look`), and then opens its row.
"""

from __future__ import annotations

import sys
from collections import deque
from functools import partial
from weakref import ref

from poolscope.probe.interpreter.blame import is_ours
from poolscope.probe.limits.work_queue import WorkQueue
from poolscope.probe.recording.pool_watch import report

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import CodeType, FrameType
    from typing import Any

    from poolscope.probe.interpreter.stacks import Site

#: Where a queue keeps its record, a `Fresh` one before its first item; None: it is not followed.
ATTRIBUTE = "_poolscope_items"
#: So many queues are followed or at rest at once. A program may have one for each of its clients.
QUEUES_KEPT = 1_000
#: How often our thread looks at them (s).
LOOK_SECONDS = 0.1

_getframe, _set = sys._getframe, object.__setattr__


class Fresh:
    """Stands for the record of a queue that has had no item."""

    __slots__ = ("queues", "site")

    def __init__(self, site: Site, queues: WorkQueues) -> None:
        self.site = site
        self.queues = queues

    def __reduce__(self) -> Any:
        return type(None), ()

    def arrives(self, queue: Any, item: Any, held: int) -> None:
        """See `WorkQueue`, here and below."""
        record = self.queues.begin(queue, self, _getframe(2))
        if record is not None:
            record.arrives(queue, item, held)

    def takes(self, queue: Any, item: Any, held: int) -> None:
        """Begin with an item that came past us."""
        record = self.queues.begin(queue, self, _getframe(2))
        if record is not None:
            record.takes(queue, item, held)

    def asks(self, queue: Any, caller: FrameType) -> None:
        """There is nothing to note."""

    def done(self, queue: Any) -> None:
        """There is nothing to note."""


class WorkQueues:
    """All queues of a family that are followed or at rest, weakly. Any thread may use it; `look` is our thread's."""

    def __init__(
        self,
        follow: Callable[[WorkQueues, Any, Site, bool], WorkQueue],
        items: Callable[[Any], Any],
        may_begin: Callable[[FrameType | None], bool],
    ) -> None:
        """`follow(self, queue, site, complete)` makes a record; `items` gives those of a queue; `may_begin` says
        whether a queue is followed from what has been called from this frame on."""
        self._follow = follow
        self.items = items
        self._may_begin = may_begin
        #: The probe that they are recorded by.
        self.probe: Any = None
        #: Code of the methods that ask for an item.
        self.askers: tuple[CodeType, ...] = ()
        # By id. Single dict operations only.
        self._known: dict[int, tuple[ref[Any], Site]] = {}
        # Those at rest that held items when they were last looked at.
        self._holding: set[int] = set()
        self._failures: deque[BaseException] = deque()
        self._full = self._told = False

    def begin(self, queue: Any, fresh: Fresh, frame: FrameType) -> WorkQueue | None:
        """Follow a queue from its first item on; None: it is one too many, or not to be followed yet. Never raises
        because of a failure of ours."""
        try:
            if not self._may_begin(frame):
                return None
            known, key = self._known, id(queue)
            if len(known) >= QUEUES_KEPT:
                self._full = True
                _set(queue, ATTRIBUTE, None)
                return None
            record = self._follow(self, queue, fresh.site, True)
            known[key] = ref(queue, partial(known.pop, key)), fresh.site
            _set(queue, ATTRIBUTE, record)
            return record
        except BaseException as exc:
            self.failed(queue, None, exc)
            return None

    def rest(self, queue: Any, record: WorkQueue) -> None:
        """Leave a queue at rest; for good, if its pool was given up."""
        _set(queue, ATTRIBUTE, None)
        if record.watch is not None:
            self._known.pop(id(queue), None)

    def failed(self, queue: Any, record: WorkQueue | None, exc: BaseException) -> None:
        """Give up a queue as a hook of ours has failed. Raises `exc` again if it is the program's: what was noted may
        be torn then, and the queue is left at rest, until it holds items."""
        _set(queue, ATTRIBUTE, None)
        if not is_ours(exc):
            if record is not None:
                record.over = True
                if record.watch is not None:
                    record.watch.recorder.ended = True
            try:
                raise exc
            finally:
                del exc
        self._known.pop(id(queue), None)
        if record is not None:
            record.over = True
            if record.watch is not None:
                record.watch.recorder.given_up = True
        self._failures.append(exc)

    def look(self, find_probe: Callable[[], Any]) -> None:
        """Open the rows of those that have proven to be work queues, and follow those at rest that hold items."""
        self._tell(find_probe)
        held, self._holding = self._holding, set()
        for key, (weak, site) in list(self._known.items()):
            queue = weak()
            if queue is None:
                continue
            record = getattr(queue, ATTRIBUTE, None)
            if record is None:
                if self.items(queue):
                    self._holding.add(key)
                    if key in held:
                        _set(queue, ATTRIBUTE, self._follow(self, queue, site, False))
            elif isinstance(record, WorkQueue) and record.watch is None:
                self._judge(key, queue, record, find_probe)
            del queue

    def _tell(self, find_probe: Callable[[], Any]) -> None:
        while self._failures:
            report(find_probe(), self._failures.popleft())
        if self._full and not self._told:
            self._told = True
            find_probe().notice(f"more than {QUEUES_KEPT} queues hold items: the others are not seen")

    def _judge(self, key: int, queue: Any, record: WorkQueue, find_probe: Callable[[], Any]) -> None:
        proven = record.proven()
        if proven:
            record.open(queue, find_probe)
        elif proven is None:
            record.over = True
            _set(queue, ATTRIBUTE, None)
            self._known.pop(key, None)

    def _present(self) -> Iterable[tuple[Any, Any]]:
        """Return those that are there, and the record of each (None: at rest)."""
        for weak, _ in list(self._known.values()):
            queue = weak()
            if queue is not None:
                yield queue, getattr(queue, ATTRIBUTE, None)

    def end(self) -> None:
        """Follow none of them any more."""
        for queue, record in self._present():
            _set(queue, ATTRIBUTE, None)
            if isinstance(record, WorkQueue):
                record.close()
        self._known.clear()

    def forget(self) -> None:
        """In a forked child: the records are the parent's, and each queue begins anew."""
        self._holding.clear()
        self._failures.clear()
        for weak, site in list(self._known.values()):
            queue = weak()
            if queue is not None:
                _set(queue, ATTRIBUTE, Fresh(site, self))
        self._known.clear()

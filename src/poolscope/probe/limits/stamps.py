"""The stamps of the items in a queue, in the order in which these are taken."""

from __future__ import annotations

from collections import deque

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    #: The number of what an item calls (0: nothing that is known), and when it was put (ns).
    Stamp = tuple[int, int]


class InOrder(deque):  # type: ignore[type-arg]  # subscripting it costs at run time
    """The stamps of a queue that gives out what came first."""

    add = deque.append

    def next(self, _: object) -> Stamp:
        """Take out the stamp of what is taken next."""
        stamp: Stamp = self.popleft()
        return stamp

    def fill(self, number: int, stamp: Stamp) -> None:
        """Note items that came unseen, before the others."""
        self.extendleft([stamp] * number)

    def spare(self) -> Stamp:
        """Take out the stamp of an item that has gone unseen."""
        return self.next(None)


class LastFirst(list):  # type: ignore[type-arg]  # likewise
    """The stamps of a queue that gives out what came last."""

    add = list.append

    def next(self, _: object) -> Stamp:
        """See `InOrder`, here and below."""
        stamp: Stamp = self.pop()
        return stamp

    def fill(self, number: int, stamp: Stamp) -> None:
        """Put them below the others."""
        self[:0] = [stamp] * number

    def spare(self) -> Stamp:
        """Take the newest: what clears a queue takes all."""
        return self.next(None)


class ByItem:
    """The stamps of a queue that gives out items in an order of its own, by their `id`."""

    __slots__ = ("_known", "_loose", "_number")

    def __init__(self) -> None:
        self._known: dict[int, list[Stamp]] = {}
        self._loose: list[Stamp] = []
        self._number = 0

    def __len__(self) -> int:
        return self._number

    def add_for(self, item: object, stamp: Stamp) -> None:
        """Note an item that is put."""
        self._known.setdefault(id(item), []).append(stamp)
        self._number += 1

    def next(self, item: object) -> Stamp:
        """See `InOrder`, here and below."""
        stamps = self._known.get(id(item))
        if stamps is None:
            return self.spare()
        self._number -= 1
        stamp = stamps.pop(0)
        if not stamps:
            del self._known[id(item)]
        return stamp

    def fill(self, number: int, stamp: Stamp) -> None:
        """Note items that are not known."""
        self._loose += [stamp] * number
        self._number += number

    def spare(self) -> Stamp:
        """Take out one that is not known, if there is any."""
        self._number -= 1
        if self._loose:
            return self._loose.pop()
        key, stamps = self._known.popitem()
        if len(stamps) > 1:
            self._known[key] = stamps[1:]
        return stamps[0]


def stamps_for(queue: Any, module: Any) -> Any:
    """Return what keeps the stamps of a queue of this module's."""
    if isinstance(queue, module.PriorityQueue):
        return ByItem()
    return LastFirst() if isinstance(queue, module.LifoQueue) else InOrder()

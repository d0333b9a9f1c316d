"""The rows that pools and loops are shown as, in a bounded number however many there were.

What has ended stays as long as there is room. Then the rows of processes that have ended become one row a name, of
process 0; and where there are too many names, those that matter least and that nothing alive goes by become `other`. A
row that becomes part of another one takes everything that it has counted with it, so that the sum over all rows is the
same before and after; and a name is given up as a whole or not at all, so that no counter of a name goes down.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Any, Generic, Protocol, TypeVar

from poolscope.aggregation.top_functions import OTHER
from poolscope.engine.finding_list import Event

#: The process of rows that stand for processes that have ended.
ENDED_PID = 0

#: Process, name, and kind ("" of `OTHER`, which has pools of any kind).
Key = tuple[int, str, str]


class Row(Protocol):
    """What a row of pools and one of loops have in common."""

    since_ns: int

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def pid(self) -> int:
        """Its process."""

    @property
    def alive(self) -> bool:
        """Whether one of its pools or loops still lives."""

    @property
    def weight(self) -> tuple[int, bool, int]:
        """How much is lost with it: how often its pools or loops were made, as a name that comes back must go on
        counting; whether one of them warned; and how much they did."""

    def fold(self, now_ns: int) -> list[Event]:
        """Prepare to join another row, or to take others in; return the findings that end with that."""

    def become(self, pid: int, name: str) -> None:
        """Belong to another process, or have another name, from now on."""

    def absorb(self, ended: Any) -> None:
        """Add all that another row, which does not live, has counted."""


R = TypeVar("R", bound=Row)


class Rows(Generic[R]):
    """Rows by process, name and kind. Not thread-safe: the engine's owner guards it."""

    def __init__(self, tell: Callable[[R, Event], None], failed: Callable[[str, Exception], None]) -> None:
        """`tell` is called with a row and a finding that ends because the row becomes part of another one, `failed`
        with the name of one that this has failed for."""
        self._tell = tell
        self._failed = failed
        self._rows: dict[Key, R] = {}
        self._by_name: dict[str, set[Key]] = {}
        #: Those that live, and those that do not, but for `OTHER`; the one that ended first comes first.
        self._living: dict[Key, R] = {}
        self._ended: dict[Key, None] = {}
        #: How many names have become part of `OTHER`, and how many rows part of another one.
        self.names_folded = self.rows_folded = 0

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[R]:
        return iter(self._rows.values())

    def living(self) -> list[R]:
        """Return the rows that live."""
        return list(self._living.values())

    def get(self, key: Key) -> R | None:
        """Return the row of that key."""
        return self._rows.get(key)

    def of_other_processes(self, name: str, pid: int) -> bool:
        """Whether another process has a row of that name."""
        return any(key[0] != pid for key in self._by_name.get(name, ()))

    def add(self, key: Key, row: R) -> None:
        """Add a new one, which lives."""
        self._put(key, row)
        self._living[key] = row

    def _put(self, key: Key, row: R) -> None:
        self._rows[key] = row
        self._by_name.setdefault(key[1], set()).add(key)

    def since_ns(self, now_ns: int) -> int:
        """Return what a row that is made now says of when its name began to count."""
        # As long as no name was given up, each row has all that was ever counted under its name.
        return now_ns if self.names_folded else 0

    def revived(self, key: Key) -> None:
        """Note that a row lives again."""
        self._ended.pop(key, None)
        self._living[key] = self._rows[key]

    def ended(self, key: Key) -> None:
        """Note that a row lives no more."""
        self._living.pop(key, None)
        if key[1] != OTHER:
            self._ended[key] = None

    def fold_processes(self, pids: Collection[int], now_ns: int) -> None:
        """Note that the rows of processes that have ended become rows of process 0, one for each name."""
        for key, row in list(self._rows.items()):
            if key[0] in pids and not row.alive:
                self._move(key, (ENDED_PID, *key[1:]), now_ns)

    def bound(self, most_ended: int, now_ns: int) -> None:
        """Fold a tenth of the ended rows where there are more than that: first those that share a name, then names."""
        if len(self._ended) <= most_ended:
            return
        enough = most_ended - most_ended // 10
        for name, keys in list(self._by_name.items()):
            alike = [key for key in keys if key in self._ended] if len(keys) > 1 and name != OTHER else []
            for key in alike if len(alike) > 1 else ():
                self._move(key, (ENDED_PID, *key[1:]), now_ns)
        if len(self._ended) <= enough:
            return
        # A name that is still in use is counted in its row: it must not go down.
        living = {key[1] for key in self._living}
        names = dict.fromkeys(key[1] for key in self._ended if key[1] not in living)
        weights = {name: max(self._rows[key].weight for key in self._by_name[name]) for name in names}
        # Of equally important names, the one that ended first goes first.
        for name in sorted(names, key=lambda name: weights[name]):
            if len(self._ended) <= enough:
                break
            self.names_folded += 1
            for key in sorted(self._by_name[name]):
                self._move(key, (key[0], OTHER, ""), now_ns)

    def _move(self, key: Key, to: Key, now_ns: int) -> None:
        if key == to:
            return
        row = self._rows.pop(key)
        self._ended.pop(key, None)
        alike = self._by_name[key[1]]
        alike.discard(key)
        if not alike:
            del self._by_name[key[1]]
        try:
            for event in row.fold(now_ns):
                self._tell(row, event)
        except Exception as error:
            self._failed(row.name, error)
        there = self._rows.get(to)
        if there is not None:
            self.rows_folded += 1
            there.absorb(row)
            return
        row.become(to[0], to[1])
        self._put(to, row)
        self.ended(to)

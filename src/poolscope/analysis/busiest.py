"""Counts by function, of which the busiest go by their names, and all others together as one.

Which functions are the busiest changes. What a function adds goes to where it is shown now, and what was counted stays
where it was: no count ever goes down, none is lost, and all of them together are the whole. Only functions that have
added something cost more than a look.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Set
from heapq import nlargest

#: What all functions but the busiest go by, and one that is called so.
OTHER = "other"

#: Of one function: tasks started, and time of workers (ns).
Total = tuple[int, int]
_NOTHING: Total = (0, 0)


class Busiest:
    """See above. Not thread-safe: its owner guards it."""

    def __init__(self, limit: int) -> None:
        """At most `limit` functions go by their names."""
        self._limit = limit
        #: The highest total of each function so far.
        self._seen: dict[str, Total] = {}
        #: The functions that go by their names now.
        self._chosen: dict[str, None] = {}
        #: What was counted by its name, of each function that ever went by it.
        self._named: dict[str, Total] = {}
        self._rest: Total | None = None

    def take(self, totals: Mapping[str, Total], among: Set[str] | None = None) -> None:
        """Takes the new totals of functions; those that have not changed may be left out.

        A total that is lower than it was counts as no change: a task that runs is counted up to now, and that it had
        ended by then is heard later. Only functions `among` these may go by their names; by default all.
        """
        grown: dict[str, Total] = {}
        for name, total in totals.items():
            before = self._seen.get(name)
            if total != before:
                before = before or _NOTHING
                highest = self._seen[name] = (max(total[0], before[0]), max(total[1], before[1]))
                grown[name] = (highest[0] - before[0], highest[1] - before[1])
        if among is None:
            # What has not grown has overtaken nothing.
            among = self._chosen.keys() | grown.keys()
        if among != self._chosen.keys():
            self._choose(among)
        for name, more in grown.items():
            if name in self._chosen:
                self._named[name] = _sum(self._named.get(name), more)
            else:
                self._rest = _sum(self._rest, more)

    def resize(self, limit: int) -> None:
        """From now on at most `limit` functions go by their names."""
        self._limit = limit
        self._choose(self._seen)

    def shown(self) -> Iterator[tuple[str, Total]]:
        """The functions that go by their names, with what was counted by them, and the rest as `OTHER` once there is
        one."""
        for name in self._chosen:
            yield name, self._named.get(name, _NOTHING)
        if self._rest is not None:
            yield OTHER, self._rest

    def former(self) -> Iterator[tuple[str, Total]]:
        """What was counted by the names of functions that go by them no more."""
        return ((name, total) for name, total in self._named.items() if name not in self._chosen)

    def _choose(self, candidates: Iterable[str]) -> None:
        names = [name for name in candidates if name != OTHER]
        seen = self._seen
        if len(names) > self._limit:
            # Sorted are only those that may be in it: of ten thousand few are.
            least = nlargest(self._limit, (seen[name][1] for name in names))[-1]
            names = [name for name in names if seen[name][1] >= least]
        names.sort(key=lambda name: (-seen[name][1], -seen[name][0], name))
        self._chosen = dict.fromkeys(names[: self._limit])


def _sum(one: Total | None, other: Total) -> Total:
    return other if one is None else (one[0] + other[0], one[1] + other[1])

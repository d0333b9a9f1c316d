"""What keeps the counters of a scrape bounded in number, and from going down (`aggregation/floor.py`)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from threading import Lock
from typing import TypeVar

from poolscope.aggregation.floor import Floor
from poolscope.aggregation.top_functions import TopFunctions, Total
from poolscope.snapshot import PoolSnapshot

#: Values of the identifying labels: (pool,) or (pool, pid), likewise for loops and findings.
Key = tuple[str, ...]

T = TypeVar("T")

#: Functions of a pool that are remembered though no process has them any more.
_GONE_KEPT = 1_000


def _keep(kept: dict[Key, T], keys: Iterable[Key]) -> None:
    for key in kept.keys() - keys:
        del kept[key]


class Floors:
    """A floor below the counters of each row that goes out. Thread-safe: one lock around all of it.

    Names that were given up for others count as `other` from then on. If such a name comes back before the next scrape,
    it begins anew: its floor would be counted twice.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._floors: dict[Key, Floor] = {}
        #: When the youngest of the rows behind a key began, where a name was given up before.
        self._youngest: dict[Key, int] = {}

    def keep(self, keys: Iterable[Key]) -> None:
        """Forget what is in none of `keys`: its series are gone."""
        with self._lock:
            _keep(self._floors, keys)
            _keep(self._youngest, keys)

    def hold(self, key: Key, values: tuple[float, ...], since_ns: Iterable[int] = (0,)) -> tuple[float, ...]:
        """Return the values, or earlier ones where these were higher and one of the rows is still there. `since_ns` is
        when each row began."""
        began = sorted(since_ns)
        with self._lock:
            floor = self._floors.get(key)
            if floor is None or began[0] > self._youngest[key]:
                floor = self._floors[key] = Floor()
            self._youngest[key] = max(began[-1], self._youngest.get(key, 0))
            return floor.hold(values)


class TaskLabels:
    """Bounds the label `task` of each pool to its busiest functions, and keeps every counter from going down.

    Each process has chosen its own already; here they become one choice. Safe to use from several threads: one lock
    around all of it.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = Lock()
        self._pools: dict[Key, TopFunctions] = {}
        self._youngest: dict[Key, int] = {}

    def keep(self, keys: Iterable[Key]) -> None:
        """Forget the pools that are in none of `keys`: their series are gone."""
        with self._lock:
            _keep(self._pools, keys)
            _keep(self._youngest, keys)

    def bounded(self, key: Key, rows: Sequence[PoolSnapshot]) -> list[tuple[str, Total]]:
        """Tasks started and busy ns by label value: at most `limit` functions, and `other` once there were more."""
        totals: dict[str, Total] = {}
        for row in rows:
            for name, started, seconds in (*row.functions, *row.former_functions):
                before = totals.get(name, (0, 0))
                totals[name] = (before[0] + started, before[1] + round(seconds * 1e9))
        candidates = dict.fromkeys(name for row in rows for name, _, _ in row.functions)
        oldest = min((row.since_ns for row in rows), default=0)
        with self._lock:
            busiest = self._pools.get(key)
            if busiest is None or oldest > self._youngest.get(key, oldest):
                busiest = self._pools[key] = TopFunctions(self._limit)
            self._youngest[key] = max((row.since_ns for row in rows), default=0)
            busiest.put(totals)
            if len(busiest) > len(totals) + _GONE_KEPT:
                busiest.forget_all_but(totals)
            busiest.count(candidates)
            return list(busiest.shown())

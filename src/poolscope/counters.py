"""What keeps the counters of a scrape bounded in number, and from going down.

Prometheus takes a counter that goes down for one that began anew, and its whole value for an increase.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from threading import Lock
from typing import TypeVar

from poolscope.analysis.busiest import Busiest, Total
from poolscope.model import PoolSnapshot

#: Values of the identifying labels: (pool,) or (pool, pid), likewise for loops and findings.
Key = tuple[str, ...]

T = TypeVar("T")


def _keep(kept: dict[Key, T], keys: Iterable[Key]) -> None:
    for key in kept.keys() - keys:
        del kept[key]


class Floors:
    """The highest value of each counter that went out. Safe to use from several threads: one lock around all of it.

    An integral counts what lasts up to now. That a task had ended before is heard later, up to a tenth of a second
    under a supervisor: then the integral is smaller than the one before by so much.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._highest: dict[Key, tuple[float, ...]] = {}

    def keep(self, keys: Iterable[Key]) -> None:
        """Forgets what is in none of `keys`: its series are gone."""
        with self._lock:
            _keep(self._highest, keys)

    def hold(self, key: Key, values: tuple[float, ...]) -> tuple[float, ...]:
        """The values, or those before where they were higher."""
        with self._lock:
            before = self._highest.get(key, values)
            highest = self._highest[key] = tuple(map(max, values, before))
            return highest


class TaskLabels:
    """Bounds the label `task` of each pool to its busiest functions, and keeps every counter from going down.

    Each process has chosen its own already; here they become one choice. Safe to use from several threads: one lock
    around all of it.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = Lock()
        self._pools: dict[Key, Busiest] = {}

    def keep(self, keys: Iterable[Key]) -> None:
        """Forgets the pools that are in none of `keys`: their series are gone."""
        with self._lock:
            _keep(self._pools, keys)

    def bounded(self, key: Key, rows: Sequence[PoolSnapshot]) -> list[tuple[str, Total]]:
        """Tasks started and busy ns by label value: at most `limit` functions, and `other` once there were more."""
        totals: dict[str, Total] = {}
        for row in rows:
            for name, started, seconds in (*row.functions, *row.former_functions):
                before = totals.get(name, (0, 0))
                totals[name] = (before[0] + started, before[1] + round(seconds * 1e9))
        candidates = dict.fromkeys(name for row in rows for name, _, _ in row.functions)
        with self._lock:
            busiest = self._pools.get(key)
            if busiest is None:
                busiest = self._pools[key] = Busiest(self._limit)
            busiest.put(totals)
            busiest.count(candidates)
            return list(busiest.shown())

"""What keeps the counters of a scrape bounded in number, and from going down.

Prometheus takes a counter that goes down for one that began anew, and its whole value for an increase.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import fsum
from threading import Lock
from typing import NamedTuple

#: The label `task` of all functions beyond the busiest ones.
OTHER = "other"

#: Values of the identifying labels: (pool,) or (pool, pid), likewise for loops and findings.
Key = tuple[str, ...]


class Floors:
    """The highest value of each counter that went out. Safe to use from several threads: one lock around all of it.

    An integral counts what lasts up to now. That a task had ended before is heard later, up to a tenth of a second
    under a supervisor: then the integral is smaller than the one before by so much.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._highest: dict[Key, dict[str, float]] = {}

    def keep(self, keys: Iterable[Key]) -> None:
        """Forgets what is in none of `keys`: its series are gone."""
        with self._lock:
            for key in self._highest.keys() - set(keys):
                del self._highest[key]

    def hold(self, key: Key, name: str, value: float) -> float:
        """The value, or the one before if that was higher."""
        with self._lock:
            highest = self._highest.setdefault(key, {})
            value = max(value, highest.get(name, value))
            highest[name] = value
            return value


class Total(NamedTuple):
    """What the tasks of one function come to."""

    started: int = 0
    busy_seconds: float = 0.0

    def plus(self, other: Total) -> Total:
        """Both together."""
        return Total(self.started + other.started, self.busy_seconds + other.busy_seconds)

    def minus(self, other: Total) -> Total:
        """What is left without the other."""
        return Total(self.started - other.started, self.busy_seconds - other.busy_seconds)

    def at_least(self, other: Total) -> Total:
        """The higher of each."""
        return Total(max(self.started, other.started), max(self.busy_seconds, other.busy_seconds))


class TaskLabels:
    """Bounds the label `task` of each pool to its busiest functions, and keeps every counter from going down.

    Which functions are the busiest changes from scrape to scrape. Of each function we therefore remember how
    much went out under its own name and how much as `other`: what it adds goes to where it is shown now, and
    what was counted stays where it was. Safe to use from several threads: one lock around all of it.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = Lock()
        self._named: dict[Key, dict[str, Total]] = {}
        self._folded: dict[Key, dict[str, Total]] = {}

    def keep(self, keys: Iterable[Key]) -> None:
        """Forgets the pools that are in none of `keys`: their series are gone."""
        with self._lock:
            for key in self._named.keys() - set(keys):
                del self._named[key], self._folded[key]

    def bounded(self, key: Key, totals: Mapping[str, Total]) -> dict[str, Total]:
        """Totals by label value: at most `limit` functions, and `other` once there were more."""
        candidates = [name for name in totals if name != OTHER]
        candidates.sort(key=lambda name: (-totals[name].busy_seconds, -totals[name].started, name))
        busiest = set(candidates[: self._limit])
        with self._lock:
            named = self._named.setdefault(key, {})
            folded = self._folded.setdefault(key, {})
            for name, total in totals.items():
                # `at_least`: a slow scrape may come here with an older snapshot than the one before it.
                if name in busiest:
                    rest = total.minus(folded.get(name, Total()))
                    named[name] = rest.at_least(named.get(name, Total()))
                else:
                    rest = total.minus(named.get(name, Total()))
                    folded[name] = rest.at_least(folded.get(name, Total()))
            shown = {name: named[name] for name in candidates[: self._limit]}
            if folded:
                shown[OTHER] = Total(
                    sum(total.started for total in folded.values()),
                    fsum(total.busy_seconds for total in folded.values()),
                )
            return shown

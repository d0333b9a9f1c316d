"""What keeps the counters of a scrape bounded in number, and from going down.

Prometheus takes a counter that goes down for one that began anew, and its whole value for an increase.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from heapq import nlargest
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
    """What the tasks of one function come to: how many started, and seconds of workers."""

    started: int
    busy_seconds: float


_NOTHING = Total(0, 0.0)


class _Split:
    """How much of each function of one pool was counted under its own name, and how much as `other`."""

    def __init__(self) -> None:
        #: What went out under its own name, of every function that ever had one.
        self.named: dict[str, Total] = {}
        #: What had gone into `other` of those that have their own name now, when they got it.
        self.before: dict[str, Total] = {}
        self.other: Total | None = None
        self.seen: Mapping[str, Total] = {}
        self.seen_started = 0


class TaskLabels:
    """Bounds the label `task` of each pool to its busiest functions, and keeps every counter from going down.

    Which functions are the busiest changes from scrape to scrape. What a function adds goes to where it is shown now,
    and what was counted stays where it was. Only those that are shown cost more than an addition. Safe to use from
    several threads: one lock around all of it.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = Lock()
        self._splits: dict[Key, _Split] = {}

    def keep(self, keys: Iterable[Key]) -> None:
        """Forgets the pools that are in none of `keys`: their series are gone."""
        with self._lock:
            for key in self._splits.keys() - set(keys):
                del self._splits[key]

    def bounded(self, key: Key, totals: Mapping[str, Total]) -> dict[str, Total]:
        """Totals by label value: at most `limit` functions, and `other` once there were more."""
        busiest = self._busiest(totals)
        started, busy = sum(total[0] for total in totals.values()), fsum(total[1] for total in totals.values())
        with self._lock:
            split = self._splits.setdefault(key, _Split())
            split.before = {
                name: split.before[name]
                if name in split.before
                else _minus(split.seen.get(name), split.named.get(name))
                for name in busiest
            }
            for name in busiest:
                # `_highest`: a slow scrape may come here with an older snapshot than the one before it.
                rest = _minus(totals[name], split.before[name])
                split.named[name] = _highest(rest, split.named.get(name, _NOTHING))
            if started >= split.seen_started:
                split.seen, split.seen_started = totals, started
            if split.other is not None or len(busiest) < len(totals):
                named = split.named.values()
                other = Total(started - sum(it[0] for it in named), busy - fsum(it[1] for it in named))
                split.other = _highest(other, split.other or _NOTHING)
            shown = {name: split.named[name] for name in busiest}
            return shown if split.other is None else {**shown, OTHER: split.other}

    def _busiest(self, totals: Mapping[str, Total]) -> list[str]:
        names = [name for name in totals if name != OTHER]
        if len(names) > self._limit:
            least = nlargest(self._limit, (totals[name][1] for name in names))[-1]
            names = [name for name in names if totals[name][1] >= least]
        names.sort(key=lambda name: (-totals[name][1], -totals[name][0], name))
        return names[: self._limit]


def _minus(total: Total | None, other: Total | None) -> Total:
    """Never less than nothing: rounding leaves a little."""
    of, less = total or _NOTHING, other or _NOTHING
    return Total(max(0, of[0] - less[0]), max(0.0, of[1] - less[1]))


def _highest(total: Total, other: Total) -> Total:
    return Total(max(total[0], other[0]), max(total[1], other[1]))

"""From series to the pools that they are about, all numbers of a pool on one line of time.

Times are seconds since the epoch; a value that is not there is NaN. Pure: no clock, no thread, no I/O.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from statistics import median

import msgspec

from poolscope.config import mappings

#: Labels by which copies of a Prometheus tell their series apart: such series are one.
REPLICA_LABELS = frozenset({"prometheus", "prometheus_replica", "replica", "__replica__", "receive_replica"})
#: Labels that say where a series is from, the first of each that is there.
JOB_LABELS = ("job", "service_name")
INSTANCE_LABELS = ("instance", "service_instance_id", "pod")
NAMESPACE = "namespace"

Numbers = array  # of doubles


class Series(msgspec.Struct, frozen=True):
    """One series: labels (its name among them, as `__name__`), times and values."""

    labels: Mapping[str, str]
    at: Numbers[float]
    values: Numbers[float]


class Target(msgspec.Struct, frozen=True, order=True):
    """What is scraped: one instance of a job."""

    namespace: str
    job: str
    instance: str
    #: The labels that the job and the instance are in.
    job_label: str = JOB_LABELS[0]
    instance_label: str = INSTANCE_LABELS[0]


class PoolKey(msgspec.Struct, frozen=True, order=True):
    """A pool of an instance: the mapping by which it was found, the prefix of its metrics, and its name."""

    target: Target
    mapping: str
    prefix: str
    name: str


class Samples(msgspec.Struct, frozen=True):
    """The numbers of one pool by role, each as long as `at`."""

    at: Numbers[float]
    roles: Mapping[str, Numbers[float]]


def target_of(labels: Mapping[str, str]) -> Target:
    """Return what a series was scraped from; empty texts where its labels do not say."""

    job, instance = (
        next((name for name in names if labels.get(name)), names[0]) for names in (JOB_LABELS, INSTANCE_LABELS)
    )
    return Target(labels.get(NAMESPACE, ""), labels.get(job, ""), labels.get(instance, ""), job, instance)


def key_of(mapping: mappings.Mapping, prefix: str, labels: Mapping[str, str]) -> PoolKey:
    """Return the pool that a series is of."""
    named = ":".join(value for label in mapping.identity if (value := labels.get(label)))
    return PoolKey(target_of(labels), mapping.name, prefix, named or mapping.pool or prefix.rstrip("_") or mapping.name)


class Assembly:
    """Series of any order in, the samples of each pool out. Not for several threads."""

    def __init__(self, known: Iterable[tuple[mappings.Mapping, str]]) -> None:
        """`known` are mappings, each with a prefix that its metrics have."""
        self._uses: dict[str, list[tuple[mappings.Mapping, str, str, mappings.Source]]] = {}
        self._found: dict[PoolKey, dict[str, dict[frozenset[tuple[str, str]], Series]]] = {}
        self._mappings: dict[str, mappings.Mapping] = {}
        for mapping, prefix in known:
            self._mappings[mapping.name] = mapping
            for role, source in mapping.roles.sources().items():
                for metric in source.metrics:
                    self._uses.setdefault(prefix + metric, []).append((mapping, prefix, role, source))

    @property
    def metrics(self) -> frozenset[str]:
        """The names of all metrics that are needed."""
        return frozenset(self._uses)

    def add(self, series: Series) -> None:
        """Take a series in; one that is of no pool is left out."""
        name = series.labels.get("__name__", "")
        own = frozenset(item for item in series.labels.items() if item[0] not in REPLICA_LABELS)
        for mapping, prefix, _, source in self._uses.get(name, ()):
            if name == prefix + source.metric and any(series.labels.get(k) != v for k, v in source.where.items()):
                continue
            of_pool = self._found.setdefault(key_of(mapping, prefix, series.labels), {})
            copies = of_pool.setdefault(name, {})
            present = copies.get(own)
            # Copies of one Prometheus were scraped at other times: one of them is the series.
            if present is None or len(series.at) > len(present.at):
                copies[own] = series

    def pools(self) -> Iterable[tuple[PoolKey, Samples]]:
        """Return the samples of each pool; those of another role than it has are NaN."""
        for key, found in self._found.items():
            mapping = self._mappings[key.mapping]
            # Kinds share metrics: the threads of a ForkJoinPool have the name of those of a thread pool.
            if mapping.kind != "process" and not any(key.prefix + name in found for name in mapping.anchor.metrics):
                continue
            at = _grid(series.at for copies in found.values() for series in copies.values())
            roles = {}
            for role, source in mapping.roles.sources().items():
                values = _values(source, key.prefix, found, at)
                if values is not None:
                    roles[role] = values
            yield key, Samples(at, roles)


def _grid(times: Iterable[Numbers[float]]) -> Numbers[float]:
    """All times in order. Series of one target have the same, unless one of them began or ended, or bears times of its
    own: then those of the longest stand for what is less than half a scrape away from them."""
    first, *others = times
    if all(each == first for each in others):
        return first
    at = max((first, *others), key=len)
    within = _half(at)
    more = array("d")
    for time in sorted(set().union(first, *others)):
        if abs(at[_nearest(at, time)] - time) > within and (not more or time - more[-1] > within):
            more.append(time)
    return array("d", sorted((*at, *more))) if more else at


def _half(at: Numbers[float]) -> float:
    """Half of the time between two scrapes."""
    return median(b - a for a, b in pairwise(at)) / 2 if len(at) > 1 else 0.0


def _nearest(at: Numbers[float], time: float) -> int:
    place = bisect_left(at, time)
    if place == len(at) or (place and time - at[place - 1] <= at[place] - time):
        return place - 1
    return place


_Found = Mapping[str, Mapping[frozenset[tuple[str, str]], Series]]


def _values(source: mappings.Source, prefix: str, found: _Found, at: Numbers[float]) -> Numbers[float] | None:
    """Return what a role was at these times; None if no series says it."""
    name = next((prefix + each for each in (source.metric, *source.also) if prefix + each in found), None)
    if name is None:
        return None
    series = [each for each in found[name].values() if all(each.labels.get(k) == v for k, v in source.where.items())]
    if not series:
        return None
    whole = _sum([_on(each, at) for each in series])
    for sign, names in ((1.0, source.plus), (-1.0, source.minus)):
        for other in names:
            added = [_on(each, at) for each in found.get(prefix + other, {}).values()]
            if not added:
                return None
            whole = array("d", [a + sign * b for a, b in zip(whole, _sum(added), strict=True)])
    return whole if source.scale == 1.0 else array("d", [value * source.scale for value in whole])


def _on(series: Series, at: Numbers[float]) -> Numbers[float]:
    if series.at == at:
        return series.values
    values, within = array("d", [math.nan]) * len(at), _half(at)
    for time, value in zip(series.at, series.values, strict=True):
        place = _nearest(at, time)
        if abs(at[place] - time) <= within:
            values[place] = value
    return values


def _sum(parts: Sequence[Numbers[float]]) -> Numbers[float]:
    """Add what is there; where none is there, nothing is."""
    whole = parts[0]
    for part in parts[1:]:
        whole = array("d", [b if a != a else a if b != b else a + b for a, b in zip(whole, part, strict=True)])
    return whole

"""How unlikely a stretch is for a healthy pool whose tasks arrive at random, and how unlikely it has to be.

A healthy random load saturates for over a second now and then. This module asks whether that explains a stretch, in
nats (-ln of a probability). Healthy is an M/M/c queue of c workers, of the mean run time s that the pool's tasks had up
to now, and of a utilisation r that is what its load was before the stretch, within `LEAST_UTILISATION` and
`HEALTHY_UTILISATION`. The largest of three bounds counts:

- the queue: n queued tasks have the tail r^n (Erlang); those count that are queued within their runs, at a lock or
  another pool, as what they wait for is what limits the pool then;
- the arrivals from its begin up to its highest queue: n of them, where m are expected, have at most the probability
  exp(-k (m - n + n ln(n / m))) (Chernoff's bound for a gamma process, a Poisson one where k = 1). k tells how regular
  the arrivals are, see `aggregation/regularity.py`. In t seconds m = r c t / s are expected, t being at least
  `LASTING_SECONDS`. What came in less time than that has to show `AT_ONCE_NATS` more, with k = 1: each arrival may
  begin a clump, but only one stretch in a relaxation time lasts. Together with either the runs of the stretch count: k
  of them whose mean is f times that of all have at most exp(-k (f - 1 - ln f)) (the same bound for a gamma
  distribution), where they vary no more than exponential ones; else the exponent is divided by their squared
  coefficient of variation;
- its length: a busy period of length t decays as exp(-t c (1 - sqrt r)^2 / s) (the relaxation time of the queue).

As each relaxation time brings another stretch, a pool of short tasks has more of them by chance in an hour than one of
long tasks, and has to show more. These are bounds for a stretch that is looked at once, and each is looked at many
times: docs/accuracy.md has how often chance is told of, measured, and how soon anything could tell it from trouble.

Pure: no clock, no thread, no I/O.
"""

from __future__ import annotations

import math

import msgspec

#: Part of its workers' time that a pool with random arrivals can be busy and still be called healthy.
HEALTHY_UTILISATION = 0.8
#: A load that rises up to here is still no fault, however low it was before.
LEAST_UTILISATION = 0.6
#: Less time before a stretch than this (s) says nothing about the load.
BEFORE_NEEDED = 0.5
#: Part of a run time within which arrivals count as simultaneous: two at the same moment are no endless wonder.
SAME_MOMENT = 0.01
#: If no task of a stretch has ended, this many runs before it say how long one takes.
RUNS_NEEDED = 20
#: Arrivals are counted over this much of a stretch at least (s): trouble lasts, a clump is soon over.
LASTING_SECONDS = 1.0
#: The bounds allow this many alarms an hour for a pool that is always at `HEALTHY_UTILISATION`.
ALARMS_PER_HOUR = 0.03
#: How many relaxation times are between two arrivals of such a pool, in nats: what a clump has to show more.
AT_ONCE_NATS = -2 * math.log(1 - math.sqrt(HEALTHY_UTILISATION))


class Runs(msgspec.Struct, frozen=True):
    """How long tasks ran: how many, the sum of their times (s) and of the squares of those."""

    count: int = 0
    total: float = 0.0
    squares: float = 0.0

    def __add__(self, other: Runs) -> Runs:
        return Runs(self.count + other.count, self.total + other.total, self.squares + other.squares)

    @property
    def mean(self) -> float | None:
        """Seconds; None without a run."""
        return self.total / self.count if self.count else None


class Before(msgspec.Struct, frozen=True):
    """What came before a stretch: so many arrivals in so many seconds, and the latest runs."""

    seconds: float = 0.0
    arrivals: int = 0
    runs: Runs = Runs()


class LoadTest(msgspec.Struct, frozen=True, kw_only=True):
    """A stretch as a crowd that may have come by chance."""

    workers: int
    stretch_seconds: float
    #: The highest queue of the stretch, and the arrivals and seconds from its begin until then.
    queue: int
    arrivals: int
    seconds: float
    #: Of the tasks that started and ended in the stretch.
    runs: Runs
    #: Workers that are queued within their tasks, on average.
    inside: float = 0.0
    before: Before = Before()
    #: Of the latest arrivals, see `aggregation/regularity.py`.
    regularity: float = 1.0
    #: What is known beside this that random arrivals hardly bring about, see `arrivals.Population`.
    nats: float = 0.0

    @property
    def _all_runs(self) -> Runs:
        return self.runs + self.before.runs

    @property
    def surprise(self) -> float | None:
        """How unlikely such a stretch is for a healthy pool, in nats; None as long as no run time is known: neither of
        its own tasks nor of enough that came before."""
        mean = self._all_runs.mean
        if not mean or (self.runs.mean is None and self.before.runs.count < RUNS_NEEDED):
            return None
        utilisation = self._utilisation(mean)
        capacity = self.workers / mean
        load = utilisation * capacity
        queue = -(self.queue + self.inside) * math.log(utilisation)
        period = self.stretch_seconds * capacity * (1 - math.sqrt(utilisation)) ** 2
        lasting = max(self.seconds, min(LASTING_SECONDS, self.stretch_seconds))
        arrivals = max(
            self.regularity * _excess(self.arrivals, load * lasting),
            _excess(self.arrivals, load * max(self.seconds, SAME_MOMENT * mean)) - AT_ONCE_NATS,
        )
        return max(queue, arrivals + self._slowness(mean), period) + self.nats

    @property
    def surprise_needed(self) -> float:
        """How unlikely a stretch has to be to be no chance."""
        mean = self._all_runs.mean
        if not mean:
            return math.inf
        an_hour = 3600 * self.workers / mean * (1 - math.sqrt(HEALTHY_UTILISATION)) ** 2
        return math.log(max(1.0, an_hour) / ALARMS_PER_HOUR)

    def _utilisation(self, mean: float) -> float:
        before = self.before
        if before.seconds < BEFORE_NEEDED:
            return HEALTHY_UTILISATION
        # Two standard deviations of a Poisson count more than was counted.
        most = before.arrivals + 2 * math.sqrt(before.arrivals) + 3
        return min(HEALTHY_UTILISATION, max(LEAST_UTILISATION, most * mean / (self.workers * before.seconds)))

    def _slowness(self, mean: float) -> float:
        """How unlikely it is that the runs of the stretch are so long beside those before."""
        own, every = self.runs, self._all_runs
        if own.mean is None or not self.before.runs.count or own.mean <= mean:
            return 0.0
        times = own.mean / mean
        variation = every.squares / every.count / mean**2 - 1
        return own.count * (times - 1 - math.log(times)) / max(1.0, variation)


def _excess(arrivals: int, expected: float) -> float:
    """How unlikely so many arrivals of a Poisson process are, in nats."""
    if arrivals <= expected:
        return 0.0
    return arrivals * math.log(arrivals / expected) - (arrivals - expected)

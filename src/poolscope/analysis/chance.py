"""How unlikely a stretch is for a healthy pool, whose tasks arrive at random, and how unlikely it has to be.

A healthy random load saturates for over a second now and then. What is asked here is whether that explains a stretch,
in nats (-ln of a probability). Healthy is an M/M/c queue of c workers, of the mean run time s that the pool's tasks had
up to now, and of a utilisation r that is what its load was before the stretch, within `LEAST_UTILISATION` and
`HEALTHY_UTILISATION`. The largest of three bounds counts:

- the queue: n queued tasks have the tail r^n (Erlang);
- its begin up to the highest queue: n arrivals in t seconds, where m = r c t / s are expected, have at most the
  probability exp(m - n + n ln(m / n)) (Chernoff's bound for Poisson). Together with that the runs of the stretch count:
  k of them whose mean is f times that of all have at most exp(-k (f - 1 - ln f)) (the same bound for a gamma
  distribution), where they vary no more than exponential ones; else the exponent is divided by their squared
  coefficient of variation;
- its length: a busy period of length t decays as exp(-t c (1 - sqrt r)^2 / s) (the relaxation time of the queue).

As each relaxation time brings another stretch, a pool of short tasks has more of them by chance in an hour than one of
long tasks, and has to show more.

Pure: no clock, no thread, no I/O.
"""

from __future__ import annotations

import math

import msgspec

#: Part of its workers' time that a pool with random arrivals can be busy and still be called healthy.
HEALTHY_UTILISATION = 0.8
#: A load that rises up to here is still nobody's fault, however low it was before.
LEAST_UTILISATION = 0.6
#: Less time than this before a stretch (s) says nothing about the load.
BEFORE_NEEDED = 0.5
#: Part of a run time within which arrivals count as simultaneous: two at the same moment are no endless wonder.
SAME_MOMENT = 0.01
#: How often in an hour a pool that is always at `HEALTHY_UTILISATION` may be taken for one in trouble.
ALARMS_PER_HOUR = 0.01
#: What a fixed population (see `arrivals`) adds: random arrivals look like one less than once in ten thousand times.
POPULATION_NATS = math.log(10_000)


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


class Crowd(msgspec.Struct, frozen=True, kw_only=True):
    """A stretch as a crowd that may have come by chance."""

    workers: int
    stretch_seconds: float
    #: The highest queue of the stretch, and the arrivals and seconds from its begin until then.
    queue: int
    arrivals: int
    seconds: float
    #: Of the tasks that started and ended in the stretch.
    runs: Runs
    before: Before = Before()
    #: Whether the submitters keep a fixed number of tasks in the pool, which random arrivals do not.
    fixed_population: bool = False

    @property
    def _all_runs(self) -> Runs:
        return self.runs + self.before.runs

    @property
    def surprise(self) -> float | None:
        """How unlikely such a stretch is for a healthy pool, in nats; None as long as no run time is known."""
        mean = self._all_runs.mean
        if not mean or self.runs.mean is None:
            return None
        utilisation = self._utilisation(mean)
        capacity = self.workers / mean
        queue = -self.queue * math.log(utilisation)
        period = self.stretch_seconds * capacity * (1 - math.sqrt(utilisation)) ** 2
        expected = utilisation * capacity * max(self.seconds, SAME_MOMENT * mean)
        arrivals = 0.0
        if self.arrivals > expected:
            arrivals = self.arrivals * math.log(self.arrivals / expected) - (self.arrivals - expected)
        population = POPULATION_NATS if self.fixed_population else 0.0
        return max(queue, arrivals + self._slowness(mean), period) + population

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

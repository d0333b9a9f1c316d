"""How unlikely a stretch of saturated scrapes is for a healthy pool, whose tasks come at random.

As `signals/significance.py` has it for recorded tasks, with what samples lack taken into account. How much runs vary
is not known, so it is taken to be a lot: they are lognormal, with a squared coefficient of variation of 8.5 (`SIGMA`).
Queues are longer then (`SCATTER`), and so is the relaxation time t of the queue. A stretch is told from chance by one
of two:

- more came than before: the arrivals, which a counter knows, are compared with those that the load before, or any
  healthy one, brings in that time;
- it lasts, or much waits. Two chances have to be ruled out for that. The first is many runs a little longer than usual:
  n looks that are d apart and all saturated have at most the probability exp(-n min(d / t, -ln P)), where P is Erlang's
  probability of waiting (between looks that are far apart the pool may have been idle), their mean queue has the tail
  of so many exponential numbers (Chernoff's bound), and a pool that was never idle, by its counter of busy seconds, has
  had a busy period of that length. The second is a few very long runs (`giants`), which take so many workers that the
  others cannot bear the load.

Pure: no clock, no thread, no I/O.
"""

from __future__ import annotations

import math

from poolscope.signals.significance import (
    ALARMS_PER_HOUR,
    BEFORE_NEEDED,
    HEALTHY_UTILISATION,
    LASTING_SECONDS,
    RUNS_NEEDED,
    LoadTest,
    Runs,
)

#: Runs are lognormal with this deviation of their logarithm: a heavy tail.
SIGMA = 1.5
#: How many times as long as of exponential runs queues are: (1 + the squared coefficient of variation) / 2.
SCATTER = math.exp(SIGMA**2) / 2
#: A fleet has thousands of pools: so many alarms an hour are allowed for one that is always at `HEALTHY_UTILISATION`.
ALARMS_PER_POOL_HOUR = 0.003
#: What stands for a run that is not known (s): short, so that chance has many chances.
UNKNOWN_RUN = 0.001
#: From here on a pool's probability of waiting is as good as that of this many workers.
MOST_WORKERS = 1000


class SampledLoad(LoadTest, frozen=True, kw_only=True):
    """A stretch of scrapes as a crowd that may have come by chance."""

    scrapes: int
    #: Seconds between two scrapes.
    interval: float
    queue_mean: float
    #: The queue at half of the scrapes.
    queue_usual: float
    #: Whether its workers were busy all the time.
    unbroken: bool
    #: Whether they are connections of which only those are counted that were waited for.
    lent: bool = False

    @property
    def surprise(self) -> float | None:
        """See `LoadTest`."""
        mean = self._usual_run
        if not mean or self.runs.mean is None:
            return None
        # What was seen before is the time in which it was not saturated: its load may have been any healthy one.
        lasting = self._many(mean, HEALTHY_UTILISATION)
        # Neither the load nor the runs before are known of such connections. That callers queue for them is worth
        # telling if a few long holds are the reason, too.
        if not self.lent:
            lasting = min(lasting, self._few(mean, HEALTHY_UTILISATION))
        return max(lasting, self._arrivals(mean, self._utilisation(mean)))

    @property
    def surprise_needed(self) -> float:
        """See `LoadTest`."""
        return super().surprise_needed + math.log(ALARMS_PER_HOUR / ALARMS_PER_POOL_HOUR)

    @property
    def _usual_run(self) -> float | None:
        """The mean run before; where that is not known, in the stretch: it is too long if the pool was idle between
        scrapes, as all of them are saturated."""
        return (self.before.runs if self.before.runs.count >= RUNS_NEEDED else self._all_runs).mean

    def _many(self, mean: float, utilisation: float) -> float:
        """Return how unlikely it is by many runs that are a little longer than usual."""
        decay = -math.log(utilisation) / SCATTER
        relaxation = SCATTER * mean / (self.workers * (1 - math.sqrt(utilisation)) ** 2)
        waits = -math.log(waiting(self.workers, utilisation))
        looks = min(float(self.scrapes), self.stretch_seconds / relaxation)
        return max(
            self.queue * decay,
            looks * waits + max(1.0, looks) * _excess(self.queue_mean * decay),
            self.scrapes * min(self.interval / relaxation, waits),
            self.stretch_seconds / relaxation if self.unbroken else 0.0,
        )

    def _few(self, mean: float, utilisation: float) -> float:
        """Return how unlikely it is by a few very long ones."""
        return giants(self.workers, utilisation, self.stretch_seconds / mean, float(self.queue))

    def _arrivals(self, mean: float, utilisation: float) -> float:
        """Return how unlikely so many arrivals are. A load that was the same before is nothing new."""
        before = self.before
        if before.seconds < BEFORE_NEEDED:
            return 0.0
        seconds = max(self.seconds, min(LASTING_SECONDS, self.stretch_seconds))
        expected = seconds * max(utilisation * self.workers / mean, before.arrivals / before.seconds)
        return expected * _excess(self.arrivals / expected, gamma=False) / SCATTER


class UnknownRuns(SampledLoad, frozen=True, kw_only=True):
    """The same of a pool whose runs are not known: its queue alone speaks, with as many chances to come about as tasks
    of a millisecond have."""

    @property
    def surprise(self) -> float | None:
        """See `LoadTest`."""
        return -self.queue_usual * math.log(HEALTHY_UTILISATION) / SCATTER

    @property
    def surprise_needed(self) -> float:
        """See `LoadTest`."""
        return LoadTest(
            workers=self.workers, stretch_seconds=0.0, queue=0, arrivals=0, seconds=0.0, runs=Runs(1, UNKNOWN_RUN)
        ).surprise_needed


def waiting(workers: int, utilisation: float) -> float:
    """Return Erlang's probability that a task has to wait (formula C), by the recursion of formula B."""
    workers = min(workers, MOST_WORKERS)
    load, blocked = workers * utilisation, 1.0
    for count in range(1, workers + 1):
        blocked = load * blocked / (count + load * blocked)
    return blocked / (1 - utilisation * (1 - blocked))


def giants(workers: int, utilisation: float, runs: float, queue: float) -> float:
    """Return how unlikely it is, in nats, that a few very long runs make a stretch as long as so many mean runs, in
    which so many tasks queue.

    Of c workers that are busy for a part r of their time, k > c (1 - r) have to be taken. A stretch of length T is over
    when what came meanwhile is done too, so each of the k lasts for c (1 - r) / k of T; and n tasks queue while it
    lasts for n / (k - c (1 - r)) mean runs. So many at a time are about Poisson.
    """
    spare = workers * (1 - utilisation)
    least = math.inf
    for taken in range(math.floor(spare) + 1, min(workers, math.floor(spare) + MOST_WORKERS) + 1):
        lasts = max(runs * min(1.0, spare / taken), queue / (taken - spare))
        there = workers * utilisation * _lasting(lasts)
        if there <= 0:
            continue
        least = min(least, max(0.0, math.lgamma(taken + 1) - taken * math.log(there)))
    return least


def _lasting(times: float) -> float:
    """Return the part of runs under way that go on for so many mean runs yet: the integrated tail of the lognormal
    distribution."""
    if times <= 0:
        return 1.0
    place = (math.log(times) + SIGMA**2 / 2) / SIGMA
    return _tail(place - SIGMA) - times * _tail(place)


def _tail(place: float) -> float:
    return math.erfc(place / math.sqrt(2)) / 2


def _excess(times: float, *, gamma: bool = True) -> float:
    """Return the exponent of Chernoff's bound for a mean that is so many times the expected one: of exponential
    numbers, or of a count."""
    if times <= 1:
        return 0.0
    return times - 1 - math.log(times) if gamma else times * math.log(times) - times + 1

"""How unlikely a stretch of saturated scrapes is for a healthy pool, whose tasks come at random.

As `signals/significance.py` has it for recorded tasks, with what samples lack taken into account. Between two scrapes
the pool may have been idle: scrapes that are farther apart than the relaxation time t of the queue are as good as
independent, and closer ones tell as much as one in each t. How much runs vary is not known, so it is taken to be a lot
(`SCATTER`): queues are longer then, and t too.

- n such looks at which it was saturated have at most the probability P^n, where P is Erlang's probability of waiting;
- their mean queue has the tail of n exponential numbers (Chernoff's bound);
- a pool that was never idle, by its counter of busy seconds, has had a busy period of that length;
- the arrivals, which a counter knows, are compared with those that a healthy load brings in that time.

Pure: no clock, no thread, no I/O.
"""

from __future__ import annotations

import math

from poolscope.signals.significance import HEALTHY_UTILISATION, LASTING_SECONDS, LoadTest, Runs

#: How many times as long as of exponential runs queues may be: that of a squared coefficient of variation of 7.
SCATTER = 4.0
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

    @property
    def surprise(self) -> float | None:
        """See `LoadTest`."""
        mean = self._all_runs.mean
        if not mean or self.runs.mean is None:
            return None
        utilisation = self._utilisation(mean)
        decay = -math.log(utilisation) / SCATTER
        relaxation = SCATTER * mean / (self.workers * (1 - math.sqrt(utilisation)) ** 2)
        looks = min(float(self.scrapes), self.stretch_seconds / relaxation)
        seen = -looks * math.log(waiting(self.workers, utilisation))
        seconds = max(self.seconds, min(LASTING_SECONDS, self.stretch_seconds))
        expected = utilisation * self.workers / mean * seconds
        return max(
            self.queue * decay,
            seen + max(1.0, looks) * _excess(self.queue_mean * decay),
            self.stretch_seconds / relaxation if self.unbroken or self.interval <= relaxation else 0.0,
            expected * _excess(self.arrivals / expected, gamma=False) / SCATTER,
        )


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


def _excess(times: float, *, gamma: bool = True) -> float:
    """Return the exponent of Chernoff's bound for a mean that is so many times the expected one: of exponential
    numbers, or of a count."""
    if times <= 1:
        return 0.0
    return times - 1 - math.log(times) if gamma else times * math.log(times) - times + 1

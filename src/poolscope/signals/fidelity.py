"""Whether a replay gives what was recorded, so that it may be believed for other sizes too.

A replay knows arrivals, run times and a number of workers. It knows nothing of what happens between tasks: results that
wait to be taken, callbacks, arguments that are handed over, an order that is not first come first served, a pool that
changes its size. If any of that takes the time, the replay at the present size gives other waits than the record.

Pure. Times are nanoseconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from heapq import heapify, heapreplace
from operator import itemgetter

#: When a task was submitted, started and finished; None for one that still runs.
Span = tuple[int, int, int | None]

#: By how much a replay may be off (docs/concepts.md#sizing): a part of the recorded value, or of the median run, or the
#: time that a worker takes to go from one task to the next.
TOLERANCE = 0.2
TOLERANCE_RUN = 0.1
TOLERANCE_NS = 2_000_000
#: When a worker gets free whose task still runs: never.
_NEVER = 1 << 62


def agrees(record: Iterable[Span], workers: int) -> bool:
    """Whether the tasks of a time in which the pool was full, replayed on its present size, wait and end as recorded.

    The first task of each worker starts as recorded, as nothing is known of the time before.
    """
    tasks = sorted(record, key=itemgetter(1))
    if len(tasks) <= workers:
        return True
    free = [_NEVER if finished is None else finished for *_, finished in tasks[:workers]]
    ends = [end for end in free if end != _NEVER]
    heapify(free)
    replayed: list[int] = []
    for submitted, started, finished in tasks[workers:]:
        at = max(submitted, free[0])
        replayed.append(at - submitted)
        if finished is None:
            heapreplace(free, _NEVER)
        else:
            heapreplace(free, at + finished - started)
            ends.append(at + finished - started)
    waits = [started - submitted for submitted, started, _ in tasks[workers:]]
    finishes = [finished for *_, finished in tasks if finished is not None]
    runs = sorted(finished - started for _, started, finished in tasks if finished is not None)
    slack = max(TOLERANCE_NS, TOLERANCE_RUN * runs[len(runs) // 2]) if runs else TOLERANCE_NS
    begin = tasks[0][1]
    return all(
        abs(ours - recorded) <= max(TOLERANCE * recorded, slack)
        for ours, recorded in (
            (_percentile(replayed, 50), _percentile(waits, 50)),
            (_percentile(replayed, 95), _percentile(waits, 95)),
            (max(ends, default=begin) - begin, max(finishes, default=begin) - begin),
        )
    )


def _percentile(values: Sequence[int], percent: int) -> int:
    """Return a percentile by nearest rank."""
    return sorted(values)[(len(values) - 1) * percent // 100]

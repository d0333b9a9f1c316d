"""The tasks of a record as a replay takes them: when each was submitted, and how long it ran. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import sub

import msgspec


class Task(msgspec.Struct, frozen=True, array_like=True):
    """One task of the record: when it was submitted and how long it ran, ns."""

    submitted_ns: int
    run_ns: int


def run_times(
    functions: Sequence[int],
    started: Sequence[int],
    finished: Sequence[int],
    end_ns: int,
    usual_ns: Callable[[int], int],
) -> list[int]:
    """Return how long each task of a record ran (ns) that ended at `end_ns`; -1 in `started` or `finished`: never.

    A task that never ran gets the usual time of its function, one that still runs at least the time it had.
    """
    runs = list(map(sub, finished, started))
    for place, end in enumerate(finished):
        if end < 0:
            begin = started[place]
            runs[place] = max(usual_ns(functions[place]), end_ns - begin if begin >= 0 else 0)
    return runs

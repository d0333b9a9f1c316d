"""The tasks of a recorded pool, unpacked. A session's numbers may be anything: no time here is beyond what fits."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterator
from typing import NamedTuple

from poolscope.model import PoolTrace

#: No run has lasted longer (ns): such times only come from a made-up session.
FOREVER_NS = 10**19


class Task(NamedTuple):
    """Times in ns from the start of the program; -1 for what had not happened."""

    function: int
    submitted: int
    started: int
    finished: int


def tasks(trace: PoolTrace) -> Iterator[Task]:
    """Return the tasks as they were recorded, those without a possible order of times left out."""
    numbers = array("q", trace.tasks)
    if sys.byteorder == "big":
        numbers.byteswap()
    for task in map(Task, *(numbers[field::4] for field in range(4))):
        ended = task.finished if task.finished >= 0 else task.started
        if task.started < 0 or task.submitted <= task.started <= ended:
            yield task

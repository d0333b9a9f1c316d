"""The tasks of a pool that ended, for a replay and for the session: a column for each of their fields.

Pure. Not thread-safe: its owner guards it.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence

#: A task: function, submitted, started, finished (ns); -1 for what did not happen.
KeptTask = tuple[int, int, int, int]


class KeptTasks:
    """The last `most` tasks, in the order in which they came; 0: none are kept."""

    __slots__ = ("_columns", "_known_from", "most")

    def __init__(self, most: int) -> None:
        self.most = most
        # The fields of a task, and last its worker.
        self._columns = tuple(array("q") for _ in range(5))
        self._known_from = 0  # the first of those before which no task is missing

    def add(
        self,
        functions: Sequence[int],
        submitted: Sequence[int],
        started: Sequence[int],
        finished: Sequence[int],
        workers: Sequence[int],
    ) -> None:
        """Add tasks that ended in these workers (0: in none)."""
        if not self.most:
            return
        fields = (functions, submitted, started, finished, workers)
        for column, numbers in zip(self._columns, fields, strict=True):
            column.extend(numbers)
        # A quarter at a time, so that the cost of moving is shared by many tasks.
        too_many = len(self._columns[0]) - self.most
        if too_many > self.most / 4:
            for column in self._columns:
                del column[:too_many]
            self._known_from = max(0, self._known_from - too_many)

    def miss(self) -> None:
        """Note that tasks are missing between those so far and those to come."""
        self._known_from = len(self)

    def __len__(self) -> int:
        return len(self._columns[0])

    def __iter__(self) -> Iterator[KeptTask]:
        return self._from(0)

    def _from(self, first: int) -> Iterator[KeptTask]:
        return zip(*(column[first:] for column in self._columns[:4]), strict=True)

    def known(self, most: int | None) -> Iterator[KeptTask]:
        """Return the last `most` of those since which no task is missing, or all of them."""
        return self._from(max(self._known_from, 0 if most is None else len(self) - most))

    @property
    def workers(self) -> Sequence[int]:
        """The worker of each, in the same order; 0: none."""
        return self._columns[4]

    def functions(self) -> set[int]:
        """Return the functions of all of them."""
        return set(self._columns[0])

    def unstarted(self) -> set[int]:
        """Return the functions of those that never started."""
        if min(self._columns[2], default=0) >= 0:
            return set()
        return {function for function, _, started, _ in self if started < 0}

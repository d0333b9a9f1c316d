"""The tasks of a pool that finished last, a column for each of their fields.

A tuple for each task would cost more than all else that is kept of it, its visits by the garbage collector included.
Pure. Not thread-safe: its owner guards it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

#: A task: function, submitted, started, finished (ns), whether it had to wait for another one to end.
RecentTask = tuple[int, int, int, int, bool]


class Recent:
    """The last `most` tasks, in the order in which they came. Iterate it from either end."""

    __slots__ = ("_columns", "most")

    def __init__(self, most: int) -> None:
        self.most = most
        self._columns: tuple[list[int], list[int], list[int], list[int], list[bool]] = ([], [], [], [], [])

    def extend(
        self,
        functions: Sequence[int],
        submitted: Sequence[int],
        started: Sequence[int],
        finished: Sequence[int],
        coupled: Sequence[bool],
    ) -> None:
        """Add tasks that finished."""
        columns = self._columns
        columns[0].extend(functions)
        columns[1].extend(submitted)
        columns[2].extend(started)
        columns[3].extend(finished)
        columns[4].extend(coupled)
        # At most a quarter too many, so that many tasks share the cost of moving.
        if len(columns[0]) > self.most + self.most // 4:
            for column in columns:
                del column[: len(column) - self.most]

    def __len__(self) -> int:
        return min(len(self._columns[0]), self.most)

    def __iter__(self) -> Iterator[RecentTask]:
        return zip(*(column[-self.most :] for column in self._columns), strict=True)

    def __reversed__(self) -> Iterator[RecentTask]:
        """Return the newest first."""
        return islice(zip(*map(reversed, self._columns), strict=True), self.most)  # type: ignore[arg-type]

    @property
    def full(self) -> bool:
        """Whether there may have been more tasks than are kept."""
        return len(self._columns[0]) >= self.most

    @property
    def oldest(self) -> RecentTask:
        """Return the first of them. Raises IndexError if there is none."""
        functions, submitted, started, finished, coupled = self._columns
        place = -len(self)
        return functions[place], submitted[place], started[place], finished[place], coupled[place]

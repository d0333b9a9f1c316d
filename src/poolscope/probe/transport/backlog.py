"""The tasks that wait in a pool's queue.

Pure: times (ns) come in with the events. Not thread-safe: its owner guards it.
"""

from __future__ import annotations

from collections import Counter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, MutableSequence, Sequence

#: How many tasks that have left may stay among those that wait, before we clean up.
SLACK = 1_000


class Backlog:
    """Tasks come in about in order, and leave about in that order, so whole runs of them come off the front at once.

    A task is known by when it was submitted: of two submitted in the same nanosecond, either may leave for the other.
    """

    __slots__ = ("_column", "_front", "_functions", "_left", "_times", "depth", "total_ns")

    def __init__(self, column: Callable[[Iterable[int]], MutableSequence[int]] = list) -> None:
        """`column` makes the containers: arrays save memory, but a program may have an `array` module of its own."""
        self._column = column
        self._times = column(())
        self._functions = column(())
        self._front = 0
        # Number of tasks that left from behind the front, by submission time.
        self._left: Counter[int] = Counter()
        self.depth = 0
        #: Sum of the submission times of waiting tasks.
        self.total_ns = 0

    def add(self, times: list[int], functions: Sequence[int]) -> None:
        """Take in submitted tasks."""
        ordered = sorted(times)
        if times != ordered:  # by several threads
            pairs = sorted(zip(times, functions, strict=True))
            times, functions = [at for at, _ in pairs], [function for _, function in pairs]
        self._times.extend(times)
        self._functions.extend(functions)
        self.depth += len(times)
        self.total_ns += sum(times)

    def leave(self, times: Sequence[int]) -> None:
        """Note that tasks with these submission times wait no longer."""
        self.depth -= len(times)
        self.total_ns -= sum(times)
        left, waiting = self._left, self._times
        gone = sorted(times)
        if not left:
            same = _same(list(waiting[self._front : self._front + len(gone)]), gone)
            self._front += same
            gone = gone[same:]
        if left or gone:
            left.update(gone)
            while self._front < len(waiting) and (count := left.pop(waiting[self._front], 0)):
                self._front += 1
                if count > 1:
                    left[waiting[self._front - 1]] = count - 1
        if self._front > SLACK + self.depth:
            del self._times[: self._front], self._functions[: self._front]
            self._front = 0
        if len(left) > SLACK + self.depth:  # the first waits while later ones leave: no first come, first served
            pairs, self._left = self.sift()
            self._times = self._column(at for at, _ in pairs)
            self._functions = self._column(function for _, function in pairs)
            self._front = 0

    def sift(self) -> tuple[list[tuple[int, int]], Counter[int]]:
        """Return (when submitted, function) of waiting tasks, and the leavers that never came, by submission time."""
        left = self._left.copy()
        waiting = []
        for place in range(self._front, len(self._times)):
            at = self._times[place]
            if count := left.pop(at, 0):
                if count > 1:
                    left[at] = count - 1
            else:
                waiting.append((at, self._functions[place]))
        return waiting, left

    def waiting(self) -> Iterator[tuple[int, int]]:
        """Return (when submitted, function) of each waiting task, the oldest first."""
        if self._left:
            return iter(self.sift()[0])
        places = range(self._front, len(self._times))
        return ((self._times[place], self._functions[place]) for place in places)

    def some(self, most: int) -> tuple[list[tuple[int, int]], int]:
        """Return (when submitted, function) of waiting tasks, of many about `most`, evenly spread, and how many tasks
        each of these represents."""
        step = max(1, (len(self._times) - self._front) // most)
        if step == 1:
            return list(self.waiting()), 1
        left = self._left
        places = range(self._front, len(self._times), step)
        # Leaving out one of two tasks of the same nanosecond does no harm here.
        return [(at, self._functions[place]) for place in places if (at := self._times[place]) not in left], step

    def later_than(self, at_ns: int) -> int:
        """Return how many waiting tasks were submitted after that."""
        # By halves, and without `bisect`: a watched process imports none for it.
        times, first, end = self._times, self._front, len(self._times)
        while first < end:
            middle = (first + end) // 2
            if times[middle] <= at_ns:
                first = middle + 1
            else:
                end = middle
        return len(times) - first - sum(count for at, count in self._left.items() if at > at_ns)

    @property
    def oldest_ns(self) -> int | None:
        """Return when the task that has waited longest was submitted."""
        # Tasks that left were taken off the front, so the first one waits.
        return self._times[self._front] if self._front < len(self._times) else None


def _same(first: list[int], second: list[int]) -> int:
    """Return how many items both have in common at their start."""
    if first == second:
        return len(first)
    low, high = 0, min(len(first), len(second)) + 1
    while high - low > 1:
        middle = (low + high) // 2
        if first[low:middle] == second[low:middle]:
            low = middle
        else:
            high = middle
    return low

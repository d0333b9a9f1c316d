"""The tasks that wait in a pool's queue, 16 bytes each.

Pure: times (ns) come in with the events. Not thread-safe: its owner guards it.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator, Sequence

#: So many that have left are kept among those that wait before both are moved together.
SLACK = 1_000


class Backlog:
    """Tasks come in about in order, and leave about in that order: whole runs of them come off the front at once.

    A task is known by when it was submitted: of two submitted in the same nanosecond, either may leave for the other.
    """

    __slots__ = ("_front", "_functions", "_left", "_times", "depth", "total_ns")

    def __init__(self) -> None:
        self._times = array("q")
        self._functions = array("q")
        self._front = 0
        # How many, by time, left from behind the front.
        self._left: Counter[int] = Counter()
        self.depth = 0
        #: Sum of the times at which those that wait were submitted.
        self.total_ns = 0

    def add(self, times: list[int], functions: list[int]) -> None:
        """Tasks were submitted."""
        if times != sorted(times):  # by several threads
            pairs = sorted(zip(times, functions, strict=True))
            times, functions = [at for at, _ in pairs], [function for _, function in pairs]
        self._times += array("q", times)
        self._functions += array("q", functions)
        self.depth += len(times)
        self.total_ns += sum(times)

    def leave(self, times: Sequence[int]) -> None:
        """Tasks that were submitted then wait no longer."""
        self.depth -= len(times)
        self.total_ns -= sum(times)
        left, waiting = self._left, self._times
        gone = array("q", sorted(times))
        if not left:
            same = _same(waiting[self._front : self._front + len(gone)], gone)
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
            pairs, self._left = self._sift()
            self._times = array("q", [at for at, _ in pairs])
            self._functions = array("q", [function for _, function in pairs])
            self._front = 0

    def _sift(self) -> tuple[list[tuple[int, int]], Counter[int]]:
        """(when submitted, function) of those that wait, and what left without having come."""
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
        """(when submitted, function) of each task that waits, the oldest first."""
        if self._left:
            return iter(self._sift()[0])
        places = range(self._front, len(self._times))
        return ((self._times[place], self._functions[place]) for place in places)

    @property
    def oldest_ns(self) -> int | None:
        """When the task that has waited longest was submitted."""
        # What has left was taken off the front, so the first one waits.
        return self._times[self._front] if self._front < len(self._times) else None


def _same(first: array[int], second: array[int]) -> int:
    """How many items both have in common from their begin on."""
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

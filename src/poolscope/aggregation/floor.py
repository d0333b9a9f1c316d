"""What keeps the counters of one row from going down. Pure."""

from __future__ import annotations


class Floor:
    """The highest value of each counter that was shown. Not thread-safe.

    An integral counts what lasts up to now. The end of a task is known later than it comes, under a supervisor by up to
    a tenth of a second: then the integral is smaller than the one shown before by that much. Prometheus takes a counter
    that goes down for one that began anew, and counts its whole value a second time.
    """

    __slots__ = ("_highest",)

    def __init__(self) -> None:
        self._highest: tuple[float, ...] = ()

    def hold(self, values: tuple[float, ...]) -> tuple[float, ...]:
        """Return each value, or the highest one shown before. There must be as many values each time."""
        highest = self._highest = tuple(map(max, values, self._highest or values))
        return highest

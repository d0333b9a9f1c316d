"""What keeps the counters of one row from going down. Pure."""

from __future__ import annotations


class Floor:
    """The highest value of each counter that was shown. Not thread-safe.

    An integral counts a running task up to now. We learn of its end late, under a supervisor by up to a tenth of a
    second. Then the integral becomes smaller than the value that was shown. Prometheus takes a counter that goes down
    for a restarted one, and counts its whole value a second time.
    """

    __slots__ = ("_highest",)

    def __init__(self) -> None:
        self._highest: tuple[float, ...] = ()

    def hold(self, values: tuple[float, ...]) -> tuple[float, ...]:
        """Return each value, or the highest one shown before. There must be as many values each time."""
        highest = self._highest = tuple(map(max, values, self._highest or values))
        return highest

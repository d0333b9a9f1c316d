"""Stretches of saturation: intervals of it, bridging gaps that are short beside what came before."""

from __future__ import annotations

import msgspec

#: A gap up to this never ends a stretch ...
BRIDGE_NS = 20_000_000
#: ... nor does one up to this share of the stretch so far.
BRIDGE_SHARE = 0.02


def bridges(length_ns: float, gap_ns: float) -> bool:
    """Whether a gap after a stretch of `length_ns` still belongs to it (docs/concepts.md#time)."""
    return gap_ns <= max(BRIDGE_NS, BRIDGE_SHARE * length_ns)


class Stretch(msgspec.Struct, frozen=True):
    """A stretch from `begin_ns` to `end_ns`, in gaps of which, `bridged_ns` in all, the pool was not saturated; `open`
    while it still is at `end_ns`."""

    begin_ns: int
    end_ns: int
    open: bool
    bridged_ns: int = 0

    @property
    def length_ns(self) -> int:
        """How long it has lasted."""
        return self.end_ns - self.begin_ns

    @property
    def saturated_ns(self) -> int:
        """How long the pool was saturated in it."""
        return self.length_ns - self.bridged_ns


class StretchTracker:
    """Turns the moments at which saturation begins and ends, in order of time, into stretches."""

    __slots__ = ("_begin", "_bridged", "_end", "_since", "closed", "saturated_ns")

    def __init__(self) -> None:
        self._begin: int | None = None
        self._end = self._bridged = 0
        self._since: int | None = None
        self.saturated_ns = 0
        #: Stretches that ended since the owner last took them.
        self.closed: list[Stretch] = []

    def turn(self, saturated: bool, at_ns: int) -> None:
        """Note that saturation begins or ends at `at_ns`."""
        if saturated == (self._since is not None):
            return
        if saturated:
            self._since = at_ns
            if self._begin is not None and not bridges(self._end - self._begin, at_ns - self._end):
                self._close()
            if self._begin is None:
                self._begin = at_ns
            else:
                self._bridged += max(0, at_ns - self._end)
            self._end = at_ns
        else:
            self.advance(at_ns)
            self._since = None

    def advance(self, now_ns: int) -> None:
        """Note that nothing changed up to `now_ns`."""
        if self._since is not None:
            self.saturated_ns += max(0, now_ns - self._since)
            self._since = max(self._since, now_ns)
            self._end = max(self._end, now_ns)
        elif self._begin is not None and not bridges(self._end - self._begin, now_ns - self._end):
            self._close()

    def cut(self, now_ns: int) -> None:
        """End the stretch here; if the pool is still saturated, another one begins."""
        self.advance(now_ns)
        self._close()
        if self._since is not None:
            self._begin = self._end = self._since

    def _close(self) -> None:
        if self._begin is not None:
            self.closed.append(Stretch(self._begin, self._end, open=False, bridged_ns=self._bridged))
        self._begin, self._bridged = None, 0

    def finish(self) -> None:
        """Note that the record ends here: close an open stretch."""
        self._close()
        self._since = None

    @property
    def begin_ns(self) -> int | None:
        """Begin of the current stretch."""
        return self._begin

    @property
    def current(self) -> Stretch | None:
        """The stretch that lasts, or may still be bridged."""
        if self._begin is None:
            return None
        return Stretch(self._begin, self._end, open=self._since is not None, bridged_ns=self._bridged)

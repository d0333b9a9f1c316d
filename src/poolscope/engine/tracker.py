"""Decides when a finding begins, is refined, and ends. Pure: times (ns) come in.

A pool has at most one finding above info at a time. One begins at once when it is diagnosed. It ends when its stretch
has been over, or its diagnosis gone, for `hold_ns`: shorter pauses belong to it, so that flapping load gives one
finding and not a page of them. Another pattern or cause takes over only when it has stood for `settle_ns`,
but for a cause where none was known.
"""

from __future__ import annotations

from typing import Generic, TypeVar

Item = TypeVar("Item")

#: Pattern, cause and severity of a finding.
Sort = tuple[str, str, str]


class Episode(Generic[Item]):
    """One finding in the making: since when, and its last state."""

    __slots__ = (
        "detected_ns",
        "item",
        "key",
        "last_seen_ns",
        "rival",
        "rival_since_ns",
        "since_ns",
        "until_ns",
    )

    def __init__(self, key: Sort, item: Item, since_ns: int, now_ns: int) -> None:
        self.key = key
        self.item = item
        self.since_ns = since_ns
        self.detected_ns = now_ns
        self.last_seen_ns = now_ns
        #: When it was last seen, once it is not seen any more.
        self.until_ns: int | None = None
        self.rival: Sort | None = None
        self.rival_since_ns = 0


class Tracker(Generic[Item]):
    """Follows one subject (a pool, a line of a loop). `offer` what is diagnosed now, `absent` when nothing is."""

    def __init__(self, *, hold_ns: int, settle_ns: int) -> None:
        self._hold_ns = hold_ns
        self._settle_ns = settle_ns
        self.active: Episode[Item] | None = None
        #: The last one that ended.
        self.ended: Episode[Item] | None = None

    def offer(self, key: Sort, item: Item, since_ns: int, now_ns: int, *, refined: bool = False) -> bool:
        """`key` (pattern, cause, severity) is diagnosed now; returns whether a finding began or changed its key. It is
        changed at once where something takes the place of nothing known (`refined`)."""
        active = self.active
        if active is None:
            self.active = Episode(key, item, since_ns, now_ns)
            return True
        active.last_seen_ns = now_ns
        active.until_ns = None
        if key == active.key:
            active.item = item
            active.rival = None
            return False
        if active.rival != key:
            active.rival, active.rival_since_ns = key, now_ns
        if now_ns - active.rival_since_ns < self._settle_ns and not refined:
            return False
        active.key, active.item, active.rival = key, item, None
        return True

    def absent(self, until_ns: int, now_ns: int) -> Episode[Item] | None:
        """Note that nothing is diagnosed now, after `until_ns`; return the finding if that ends it."""
        active = self.active
        if active is None:
            return None
        if active.until_ns is None:
            active.until_ns = max(until_ns, active.since_ns)
        if now_ns - active.until_ns < self._hold_ns:
            return None
        return self.close()

    def withdraw(self) -> Episode[Item] | None:
        """Remove and return the active finding, if any: it proved to be wrong."""
        active, self.active = self.active, None
        return active

    def close(self) -> Episode[Item] | None:
        """End the active finding, if any, and return it."""
        active = self.withdraw()
        if active is not None:
            self.ended = active
        return active

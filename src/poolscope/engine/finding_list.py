"""The findings of a pool, a loop, or several of one name: as events, kept in a bounded number, counted. Pure."""

from __future__ import annotations

from collections.abc import Sequence, Set

import msgspec

from poolscope.engine.tracker import Sort
from poolscope.model import SEVERITIES, Finding
from poolscope.rules import burst
from poolscope.snapshot import FindingCount

#: A finding that began (True) or ended.
Event = tuple[Finding, bool]

#: Findings of a pool or loop that are kept once they are over.
FINDINGS_KEPT = 50


def bursts_together(kind: str, name: str, findings: Sequence[Finding]) -> list[Finding]:
    """Return the findings of the pools of one name, with one burst instead of all: that of the longest stretch, which
    counts the others."""
    others = [finding for finding in findings if finding.pattern != "burst"]
    bursts = [finding for finding in findings if finding.pattern == "burst"]
    if len(bursts) < 2:
        return [*others, *bursts]
    longest = max(bursts, key=lambda finding: finding.evidence["longest_seconds"])
    sums = {what: sum(finding.evidence[what] for finding in bursts) for what in ("bursts", "saturated_seconds")}
    one = msgspec.structs.replace(
        longest,
        since_seconds=min(finding.since_seconds for finding in bursts),
        until_seconds=max(finding.until_seconds or 0.0 for finding in bursts),
        evidence=longest.evidence | sums,
        summary=burst.together(
            kind,
            name,
            int(sums["bursts"]),
            longest.evidence["longest_seconds"],
            sums["saturated_seconds"],
            burst.reason_of(longest.summary),
        ),
    )
    return [*others, one]


def most_important(findings: Sequence[Finding], most: int = FINDINGS_KEPT) -> list[Finding]:
    """Return at most so many findings, in their order: the most severe, and of these the last."""
    if len(findings) <= most:
        return list(findings)
    places = sorted(range(len(findings)), key=lambda place: (SEVERITIES.index(findings[place].severity), place))
    return [findings[place] for place in sorted(places[len(places) - most :])]


class FindingTally:
    """Counts how many findings of each sort began; the cases know which of them last."""

    def __init__(self) -> None:
        self.totals: dict[Sort, int] = {}

    def began(self, finding: Finding) -> None:
        """Note that a finding began, or became one of another sort."""
        key = (finding.pattern, finding.cause, finding.severity)
        self.totals[key] = self.totals.get(key, 0) + 1

    def merge(self, other: FindingTally) -> None:
        """Add all counts of another one."""
        for key, total in other.totals.items():
            self.totals[key] = self.totals.get(key, 0) + total

    def counts(self, kind: str, name: str, pid: int, active: Set[Sort], since_ns: int) -> list[FindingCount]:
        """One value per sort seen so far."""
        return [
            FindingCount(
                kind=kind,
                name=name,
                pid=pid,
                pattern=key[0],
                cause=key[1],
                severity="critical" if key[2] == "critical" else "warning" if key[2] == "warning" else "info",
                active=key in active,
                total=total,
                since_ns=since_ns,
            )
            for key, total in self.totals.items()
        ]

"""The order in which findings are shown: the worst first."""

from __future__ import annotations

from poolscope.model import PATTERNS, SEVERITIES, Finding


def importance(finding: Finding) -> tuple[int, int]:
    """Return a key that puts the most severe first, then the patterns in their order; one that is not known comes
    last. A pool that waits for an event loop, or for a limit, comes after what is wrong with that."""
    if finding.cause == "shared_resource" and finding.advice.pool is not None:
        return -SEVERITIES.index(finding.severity), len(PATTERNS)
    if finding.cause == "downstream_pool" and finding.evidence.get("loop_awaited_share", 0.0) > finding.evidence.get(
        "downstream_share", 0.0
    ):
        return -SEVERITIES.index(finding.severity), len(PATTERNS)
    pattern = PATTERNS.index(finding.pattern) if finding.pattern in PATTERNS else len(PATTERNS)
    return -SEVERITIES.index(finding.severity), pattern


def rank(finding: Finding, end_seconds: float) -> tuple[int, int, float]:
    """Return the same, and then the longest first; one without an end has lasted up to `end_seconds`."""
    until = end_seconds if finding.until_seconds is None else finding.until_seconds
    return *importance(finding), finding.since_seconds - until

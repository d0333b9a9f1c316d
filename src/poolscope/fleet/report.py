"""What a look at a fleet comes to, as frozen values and as JSON (`poolscope.fleet/1`). Nothing here asks anything."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Literal

import msgspec

from poolscope import __version__
from poolscope.config import mappings
from poolscope.fleet.grouping import Group, groups
from poolscope.fleet.verdicts import Verdict
from poolscope.model import Advice, Severity, storable

SCHEMA = "poolscope.fleet/1"


class Member(msgspec.Struct, frozen=True):
    """One instance with the finding of its group. Times are RFC 3339."""

    #: What was scraped.
    instance: str
    #: The last scrape before it began, null if it was so at the first one.
    after: str | None
    #: The first scrape at which it was so.
    by: str
    #: The first scrape at which it was over, null while it lasts or where none came after.
    until: str | None
    #: Whether it lasts.
    lasting: bool
    #: One sentence.
    summary: str
    #: Numbers that support it.
    evidence: dict[str, float]


class FleetFinding(msgspec.Struct, frozen=True):
    """A finding that instances of a job share."""

    #: Namespace and job, empty where series do not say.
    namespace: str
    job: str
    #: Name of the pool, the name of its mapping, and what kind of pool that is.
    pool: str
    mapping: str
    title: str
    #: What its metrics can carry (docs/fleet.md#tiers).
    tier: str
    #: What happened, why, and how bad it is.
    pattern: str
    cause: str
    severity: Severity
    #: How many instances have it, and how many have such a pool.
    instances: int
    of: int
    #: What to do, for the instance in which it lasted longest.
    advice: Advice
    #: Each of them, the one in which it lasted longest first.
    members: tuple[Member, ...]


class Coverage(msgspec.Struct, frozen=True):
    """Pools of one kind: how many there are, and what they were judged to be."""

    #: Name of the mapping, what kind of pool it is, and what its metrics can carry.
    mapping: str
    title: str
    tier: str
    #: Pools found, those that are fine, those with a finding above info, and those with too little to judge by.
    pools: int
    healthy: int
    sick: int
    insufficient: int
    #: What cannot be told from these metrics.
    note: str | None


class Cost(msgspec.Struct, frozen=True):
    """What was asked of the engine."""

    requests: int
    samples: int
    bytes: int
    seconds: float


class FleetReport(msgspec.Struct, frozen=True, kw_only=True):
    """The whole report of a fleet. Times are RFC 3339."""

    schema: str = SCHEMA
    poolscope_version: str = __version__
    #: The engine, or the pages that were scraped.
    source: str
    begin: str
    end: str
    #: About the time between two scrapes, null where nothing was seen often enough.
    interval_seconds: float | None
    #: The pattern of the worst finding above info; else `insufficient_data`; else `concurrent`.
    verdict: str
    findings: tuple[FleetFinding, ...]
    coverage: tuple[Coverage, ...]
    notices: tuple[str, ...]
    cost: Cost

    def to_json(self) -> bytes:
        """Return it as JSON, indented."""
        try:
            plain = msgspec.json.encode(self)
        except UnicodeEncodeError:
            plain = msgspec.json.encode(storable(msgspec.to_builtins(self)))
        return msgspec.json.format(plain, indent=2) + b"\n"


class Outcome(msgspec.Struct, frozen=True):
    """A report, and the groups that it was made of: their times are numbers still."""

    report: FleetReport
    groups: tuple[Group, ...]
    #: The time that was looked at (s since the epoch).
    begin: float
    end: float


def outcome(
    verdicts: Sequence[Verdict],
    met: Mapping[str, int],
    known: Mapping[str, mappings.Mapping],
    *,
    source: str,
    begin: float,
    end: float,
    interval: float | None,
    notices: Sequence[str],
    cost: Cost,
) -> Outcome:
    """Return the report of these verdicts; `met` counts the pools of each mapping."""
    found = groups(verdicts)
    worst = next((group.first.pattern for group in found if group.first.severity != "info"), None)
    judged = any(verdict.state != "insufficient" for verdict in verdicts)
    report = FleetReport(
        source=source,
        begin=rfc3339(begin),
        end=rfc3339(end),
        interval_seconds=interval,
        verdict=worst or ("concurrent" if judged else "insufficient_data"),
        findings=tuple(map(_finding, found)),
        coverage=tuple(_coverage(verdicts, met, known)),
        notices=tuple(notices),
        cost=cost,
    )
    return Outcome(report, tuple(found), begin, end)


def rfc3339(at: float) -> str:
    """Return a time since the epoch (s) as text."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")


def _finding(group: Group) -> FleetFinding:
    first = group.first
    return FleetFinding(
        namespace=first.key.target.namespace,
        job=first.key.target.job,
        pool=first.key.name,
        mapping=first.key.mapping,
        title=first.title,
        tier=first.tier,
        pattern=first.pattern,
        cause=first.cause,
        severity=first.severity,
        instances=len(group.members),
        of=group.of,
        advice=first.advice,
        members=tuple(map(_member, group.members)),
    )


def _member(verdict: Verdict) -> Member:
    knee = verdict.knee
    return Member(
        instance=verdict.key.target.instance,
        after=None if knee is None or knee.after is None else rfc3339(knee.after),
        by=rfc3339(knee.by if knee is not None else verdict.last),
        until=None if verdict.until is None else rfc3339(verdict.until),
        lasting=verdict.lasting,
        summary=verdict.summary,
        evidence=verdict.evidence,
    )


def _coverage(
    verdicts: Sequence[Verdict], met: Mapping[str, int], known: Mapping[str, mappings.Mapping]
) -> list[Coverage]:
    states = Counter((each.key.mapping, each.state, each.severity != "info") for each in verdicts)

    def count(name: str, state: Literal["finding", "healthy", "insufficient"]) -> int:
        return states[name, state, True] + states[name, state, False]

    found = []
    for name, pools in sorted(met.items(), key=lambda item: (-item[1], item[0])):
        mapping = known[name]
        found.append(
            Coverage(
                mapping=name,
                title=mapping.title,
                tier=mapping.tier,
                pools=pools,
                healthy=count(name, "healthy") + states[name, "finding", False],
                sick=states[name, "finding", True],
                insufficient=count(name, "insufficient"),
                note=mapping.note,
            )
        )
    return found

"""The findings of a session, each with what it is about."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from poolscope.addresses import addresses
from poolscope.model import Finding, LoopReport, PoolReport, PoolTrace, Session
from poolscope.ranking import rank


class Case(NamedTuple):
    """A finding and what it is about; neither pool nor loop if the report does not say.

    `pid` is that of the process where others have a pool or loop of that name, else None. `address` names the pool in a
    command.
    """

    finding: Finding
    pool: PoolReport | None = None
    loop: LoopReport | None = None
    trace: PoolTrace | None = None
    pid: int | None = None
    address: str = ""


def _cases(session: Session) -> Iterator[Case]:
    report = session.report
    seen: set[tuple[object, ...]] = set()
    shared, named = shared_names(report.pools), addresses(report.pools)
    for index, pool in enumerate(report.pools):
        trace = session.traces[index] if index < len(session.traces) else None
        for finding in pool.findings:
            seen.add(_identity(finding))
            pid = pool.pid if pool.name in shared else None
            yield Case(finding, pool=pool, trace=trace, pid=pid, address=named[index])
    shared = shared_names(report.event_loops)
    for loop in report.event_loops:
        for finding in loop.findings:
            seen.add(_identity(finding))
            yield Case(finding, loop=loop, pid=loop.pid if loop.name in shared else None)
    for finding in report.findings:
        if _identity(finding) not in seen:
            yield Case(finding)


def _identity(finding: Finding) -> tuple[object, ...]:
    return finding.pattern, finding.cause, finding.severity, finding.since_seconds, finding.summary


def shared_names(rows: Sequence[PoolReport] | Sequence[LoopReport]) -> set[str]:
    """Return the names that pools or loops of several processes have: it takes the process to tell those apart."""
    processes: dict[str, set[int]] = {}
    for row in rows:
        processes.setdefault(row.name, set()).add(row.pid)
    return {name for name, pids in processes.items() if len(pids) > 1}


def ranked(session: Session) -> list[Case]:
    """Return what is above info, the worst first: by severity, then pattern, then length."""
    end = session.report.duration_seconds
    worse = (case for case in _cases(session) if case.finding.severity != "info")
    return sorted(worse, key=lambda case: rank(case.finding, end))


def informing(session: Session) -> list[Case]:
    """Return what only informs, in the order of the report."""
    return [case for case in _cases(session) if case.finding.severity == "info"]

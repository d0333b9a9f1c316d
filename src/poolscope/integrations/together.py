"""Several processes' reports of themselves as one. Pure: no clock, no thread, no I/O."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

import msgspec

from poolscope.model import Finding, LoopReport, Overhead, PoolReport, ProcessReport, Report
from poolscope.ranking import rank


def together(reports: Mapping[str, Report], command: Sequence[str]) -> Report:
    """Return one report of what each process, by its name, reports of itself. Times count from the earliest start; the
    command of each process is its name.

    Raises ValueError if there is none.
    """
    if not reports:
        raise ValueError("no reports")
    starts = {name: datetime.fromisoformat(report.started_at).timestamp() for name, report in reports.items()}
    first = min(starts, key=lambda name: starts[name])
    later = {name: start - starts[first] for name, start in starts.items()}
    duration = max(later[name] + report.duration_seconds for name, report in reports.items())
    findings = [_shifted(each, later[name]) for name, report in reports.items() for each in report.findings]
    findings.sort(key=lambda finding: rank(finding, duration))
    cpu = sum(report.overhead.cpu_seconds for report in reports.values())
    return Report(
        poolscope_version=reports[first].poolscope_version,
        python=reports[first].python,
        command=tuple(command),
        started_at=reports[first].started_at,
        duration_seconds=duration,
        exit_code=None,
        verdict=_verdict(findings, reports.values()),
        processes=tuple(
            _process(each, name, later[name]) for name, report in reports.items() for each in report.processes
        ),
        pools=tuple(_pool(each, later[name]) for name, report in reports.items() for each in report.pools),
        event_loops=tuple(_loop(each, later[name]) for name, report in reports.items() for each in report.event_loops),
        findings=tuple(findings),
        notices=tuple(f"{name}: {notice}" for name, report in reports.items() for notice in report.notices),
        overhead=Overhead(cpu, cpu / duration if duration > 0 else 0.0),
        own_starts=tuple(start for report in reports.values() for start in report.own_starts),
    )


def _verdict(findings: Sequence[Finding], reports: Iterable[Report]) -> str:
    if findings and findings[0].severity != "info":
        return findings[0].pattern
    verdicts = [report.verdict for report in reports]
    # Each of these stands for a process that had nothing wrong with it.
    for verdict in verdicts:
        if verdict not in ("concurrent", "insufficient_data"):
            return verdict
    return "concurrent" if "concurrent" in verdicts else "insufficient_data"


def _shifted(finding: Finding, seconds: float) -> Finding:
    until = finding.until_seconds
    return msgspec.structs.replace(
        finding,
        since_seconds=finding.since_seconds + seconds,
        until_seconds=None if until is None else until + seconds,
    )


def _findings(row: PoolReport | LoopReport, seconds: float) -> tuple[Finding, ...]:
    return tuple(_shifted(finding, seconds) for finding in row.findings)


def _pool(pool: PoolReport, seconds: float) -> PoolReport:
    begun = pool.first_submit_seconds
    return msgspec.structs.replace(
        pool,
        first_submit_seconds=None if begun is None else begun + seconds,
        findings=_findings(pool, seconds),
    )


def _loop(loop: LoopReport, seconds: float) -> LoopReport:
    return msgspec.structs.replace(loop, findings=_findings(loop, seconds))


def _process(process: ProcessReport, name: str, seconds: float) -> ProcessReport:
    ended = process.ended_seconds
    return msgspec.structs.replace(
        process,
        command=(name,),
        started_seconds=process.started_seconds + seconds,
        ended_seconds=None if ended is None else ended + seconds,
    )

"""What the findings of pools and loops are made of: events, lines of code, numbers. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import msgspec

from poolscope.analysis import words
from poolscope.analysis.detection import child_cores, cpu_limit
from poolscope.analysis.signals import PoolSignals
from poolscope.messages import Line
from poolscope.model import Finding, Frame

#: Gives the text of a line of a file, if it can be read.
SourceOf = Callable[[str, int], str | None]
#: A finding that began (True) or ended.
Event = tuple[Finding, bool]

#: Findings of a pool or loop that are kept once they are over.
FINDINGS_KEPT = 50
#: What is reported of the lines where workers are: this many lines, each with at least this share.
LINES_SHOWN = 3
SHARE_SHOWN = 0.1
#: Less waiting for a CPU (workers) is no evidence of anything.
READY_SHOWN = 0.1


def frames_of(
    groups: Sequence[tuple[tuple[Line, ...], int]], total: int, source_of: SourceOf, first: tuple[Line, ...] = ()
) -> tuple[Frame, ...]:
    """The lines where most workers were: each user's line with the library line most often below it. What is `first`
    comes first, however few are there."""
    by_line: dict[Line, int] = {}
    below: dict[Line, Line] = {}
    for lines, count in groups:  # by count: the first library line met is the most frequent
        if not lines:
            continue
        by_line[lines[0]] = by_line.get(lines[0], 0) + count
        if len(lines) > 1:
            below.setdefault(lines[0], lines[1])
    below.update(pairwise(first))
    frames: list[Frame] = []
    for line, count in sorted(by_line.items(), key=lambda item: (item[0] not in first, -item[1]))[:LINES_SHOWN]:
        share = count / total
        if share < SHARE_SHOWN and frames:
            break
        for shown in (line, below.get(line)):
            if shown is not None:
                file, number, function = shown
                frames.append(Frame(file, number, function, source_of(file, number), share))
    return tuple(frames)


def bursts_together(name: str, findings: Sequence[Finding]) -> list[Finding]:
    """The findings of the pools of one name, with one burst in the place of all: that of the longest stretch, which
    counts the others."""
    others = [finding for finding in findings if finding.pattern != "burst"]
    bursts = [finding for finding in findings if finding.pattern == "burst"]
    if len(bursts) < 2:
        return [*others, *bursts]
    longest = max(bursts, key=lambda finding: finding.evidence["longest_seconds"])
    sums = {what: sum(finding.evidence[what] for finding in bursts) for what in ("bursts", "saturated_seconds")}
    burst = msgspec.structs.replace(
        longest,
        since_seconds=min(finding.since_seconds for finding in bursts),
        until_seconds=max(finding.until_seconds or 0.0 for finding in bursts),
        evidence=longest.evidence | sums,
        summary=words.burst_summary(
            name, int(sums["bursts"]), longest.evidence["longest_seconds"], sums["saturated_seconds"]
        ),
    )
    return [*others, burst]


def evidence(signals: PoolSignals) -> dict[str, float]:
    """The numbers that a pool's finding rests on, by name; those that are not known are left out."""
    values: dict[str, float | None] = {
        "max_workers": float(signals.max_workers),
        "window_seconds": signals.window_seconds,
        "tasks_started": float(signals.starts),
        "tasks_finished": float(signals.finished),
        "coupling": signals.coupling,
        "wait_p50_seconds": signals.wait_p50_seconds,
        "wait_max_seconds": signals.wait_max_seconds,
        "run_p50_seconds": signals.run_p50_seconds,
        "amplification": signals.amplification,
        "unhindered_run_seconds": signals.work.alone_p50_seconds,
        "effective_parallelism": signals.effective_parallelism,
        "throughput_per_second": signals.throughput,
        "queue_depth": float(signals.queue_depth),
        "oldest_queued_seconds": signals.oldest_queued_seconds,
        "worker_cpu_share": signals.worker_cpu_share,
        "held_up_share": signals.held_up.share if signals.held_up is not None else None,
        "resource_holders": float(signals.contention.holders) if signals.contention is not None else None,
        "deadlocked_workers": float(signals.deadlock.cycle.all_workers) if signals.deadlock is not None else None,
        "deadlocked_pools": float(signals.deadlock.cycle.pools) if signals.deadlock is not None else None,
        "downstream_share": signals.awaited.share if signals.awaited is not None else None,
        "longest_running_seconds": signals.held[0].seconds if signals.held else None,
        "workers_ready_without_cpu": signals.workers_ready if (signals.workers_ready or 0) >= READY_SHOWN else None,
        "child_cores_used": child_cores(signals),
        "process_cores_used": signals.process.cores_used,
        "process_cores_allowed": signals.process.cores_allowed,
        "cpu_limit_cores": cpu_limit(signals),
    }
    return {name: value for name, value in values.items() if value is not None}

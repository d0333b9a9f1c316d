"""A recorded run as a timeline for Perfetto and chrome://tracing: trace events as JSON.

https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU has the format; times in it are
microseconds. Each pool is a process of its own there: a track for what was found, one for submissions, and one for each
worker; where workers are not known, as many as tasks that run beside each other. A loop has a track of its blocks.
"""

from __future__ import annotations

import gzip
import heapq
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest
from typing import Any, NamedTuple

from poolscope.model import Finding, LoopReport, LoopTrace, PoolReport, PoolTrace, Session, TimelinePoint, storable
from poolscope.rendering.tasks import FOREVER_NS, lanes, tasks
from poolscope.rules.wording import noun, workers

#: The most that tasks may take of a file (bytes), for viewers read some hundred MB: the shortest are left out.
MOST_BYTES = 90_000_000
#: The most arrows from a submission to its start in a file: those that waited longest.
MOST_ARROWS = 20_000
#: Characters of a function's name: the end tells it.
_NAME = 80
#: What an event of a task takes beside its name (bytes), at most.
_EVENT_BYTES = 72

_FINDINGS, _SUBMISSIONS, _FIRST_WORKER = 1, 2, 3  # tracks of a pool
_BLOCKS = 2  # beside what was found of a loop

Event = dict[str, Any]


class _Task(NamedTuple):
    name: str
    submitted_ns: int
    started_ns: int
    finished_ns: int
    worker: int


def encode(session: Session, *, compressed: bool = False) -> bytes:
    """Return the file, `compressed` by gzip."""
    data = b"".join(_chunks(session))
    # Level 3: the fourth part of the time of the default, for a tenth more.
    return gzip.compress(data, 3, mtime=0) if compressed else data


def _chunks(session: Session) -> Iterator[bytes]:
    report = session.report
    # First, so that the head of a file says whose it is.
    about = {
        "producer": f"poolscope {report.poolscope_version}",
        "python": report.python,
        "command": " ".join(report.command),
        "started_at": report.started_at,
        "verdict": report.verdict,
    }
    kept, left_out = _thinned([list(_tasks(trace, report.duration_seconds)) for trace in session.traces])
    if left_out:
        about["left_out"] = f"{left_out} of the shortest tasks, so that the file can be read"
    yield b'{"otherData":' + _json(about) + b',"displayTimeUnit":"ms","traceEvents":[\n'
    yield b",\n".join(_encoded(_events(session, kept, about)))
    yield b"\n]}\n"


def _encoded(events: Iterable[Event | str]) -> Iterator[bytes]:
    for event in events:
        yield event.encode() if isinstance(event, str) else _json(event)


def _json(value: Any) -> bytes:
    return json.dumps(storable(value), separators=(",", ":"), allow_nan=False).encode()


def _events(session: Session, kept: Sequence[Sequence[_Task]], about: dict[str, str]) -> Iterator[Event | str]:
    report = session.report
    arrows = _longest_waits(kept)
    for number, (pool, trace, its) in enumerate(zip(report.pools, session.traces, kept, strict=True), 1):
        tracks = lanes((task.started_ns, task.finished_ns, task.worker) for task in its)
        of = noun(pool.kind) if trace.workers else "running"
        names = {_FIRST_WORKER + place: f"{of} {place + 1}" for place in range(max(tracks, default=-1) + 1)}
        names |= {_SUBMISSIONS: "submitted"} if names else {}
        size = workers(pool.max_workers, pool.kind)
        yield from _names(number, f"pool {pool.name} (pid {pool.pid}, {size})", names)
        yield from _marks(number, pool, report.duration_seconds)
        yield from _counters(number, trace.timeline)
        yield from _runs(number, zip(tracks, its, strict=True), arrows)
    loops = zip_longest(report.event_loops, session.loops)
    for number, (loop, blocks) in enumerate(loops, len(report.pools) + 1):
        yield from _names(
            number, f"event loop {loop.name} (pid {loop.pid}, {loop.kind})", {_BLOCKS: "blocks"} if blocks else {}
        )
        yield from _marks(number, loop, report.duration_seconds)
        yield from _blocks(number, blocks) if blocks else ()
    if "left_out" in about:
        yield {"ph": "i", "s": "g", "pid": 1, "tid": _FINDINGS, "ts": 0, "name": f"not shown: {about['left_out']}"}


def _names(number: int, process: str, tracks: dict[int, str]) -> Iterator[Event]:
    names = {_FINDINGS: "findings", **tracks}
    yield {"ph": "M", "pid": number, "tid": 0, "name": "process_name", "args": {"name": process}}
    yield {"ph": "M", "pid": number, "tid": 0, "name": "process_sort_index", "args": {"sort_index": number}}
    for track, name in names.items():
        yield {"ph": "M", "pid": number, "tid": track, "name": "thread_name", "args": {"name": name}}
        yield {"ph": "M", "pid": number, "tid": track, "name": "thread_sort_index", "args": {"sort_index": track}}


def _marks(number: int, row: PoolReport | LoopReport, duration: float) -> Iterator[Event]:
    """Mark what was found: a bar for as long as it lasted, and a sign at its begin."""
    for finding in row.findings:
        since, until = finding.since_seconds, finding.until_seconds
        until = duration if until is None else until
        if not (math.isfinite(since) and math.isfinite(until)):
            continue
        name = f"{finding.severity}: {finding.pattern} ({finding.cause})"
        where = {"pid": number, "tid": _FINDINGS, "ts": round(since * 1e6)}
        length = max(0, round((until - since) * 1e6))
        yield {"ph": "X", **where, "dur": length, "name": name, "args": _arguments(finding)}
        yield {"ph": "i", "s": "p", **where, "name": name}


def _blocks(number: int, trace: LoopTrace) -> Iterator[Event]:
    """Return the blocks of a loop, each with the name of the function that held it."""
    for block in trace.blocks:
        if not all(map(math.isfinite, (block.at_seconds, block.seconds))):
            continue
        place = trace.places[block.place] if block.place in range(len(trace.places)) else None
        yield {
            "ph": "X",
            "pid": number,
            "tid": _BLOCKS,
            "ts": max(0, round(block.at_seconds * 1e6)),
            "dur": max(0, round(block.seconds * 1e6)),
            "name": "?" if place is None else place.function[-_NAME:],
            "args": {} if place is None else {"line": f"{place.file}:{place.line}"},
        }


def _arguments(finding: Finding) -> dict[str, Any]:
    lines = [f"{frame.file}:{frame.line} in {frame.function}" for frame in finding.frames[:5]]
    return {"summary": finding.summary, "advice": finding.advice.text, "lines": lines}


def _counters(number: int, timeline: Sequence[TimelinePoint]) -> Iterator[Event]:
    for point in timeline:
        begin = point.at_seconds - point.width_seconds
        if not all(map(math.isfinite, (begin, point.active, point.queued))):
            continue
        for name, value in (("active", point.active), ("queued", point.queued)):
            at = max(0, round(begin * 1e6))
            yield {"ph": "C", "pid": number, "ts": at, "name": name, "args": {name: round(value, 2)}}


def _tasks(trace: PoolTrace, duration: float) -> Iterator[_Task]:
    """Those that started. One that had not ended when the record did ends there."""
    end_ns = int(duration * 1e9)
    names = [name[-_NAME:] for name in trace.functions]
    for function, submitted, started, finished, worker in tasks(trace):
        if 0 <= started < FOREVER_NS:
            name = names[function] if 0 <= function < len(names) else "?"
            yield _Task(name, submitted, started, max(started, finished if finished >= 0 else end_ns), worker)


def _thinned(pools: list[list[_Task]]) -> tuple[list[list[_Task]], int]:
    """Return the tasks that fit into a file, the longest of all, and how many are left out."""
    sizes = [_EVENT_BYTES + len(task.name) for tasks in pools for task in tasks]
    if sum(sizes) <= MOST_BYTES:
        return pools, 0
    most = int(len(sizes) * MOST_BYTES / sum(sizes))
    lengths = sorted((task.finished_ns - task.started_ns for tasks in pools for task in tasks), reverse=True)
    shortest, room = lengths[most], most - sum(length > lengths[most] for length in lengths)
    thinned = []
    for its in pools:
        kept = []
        for task in its:
            length = task.finished_ns - task.started_ns
            if length > shortest or (length == shortest and room > 0):
                room -= length == shortest
                kept.append(task)
        thinned.append(kept)
    return thinned, len(sizes) - sum(map(len, thinned))


def _longest_waits(pools: Sequence[Sequence[_Task]]) -> int:
    """Return the wait (ns) from which on a task gets an arrow."""
    waits = heapq.nlargest(MOST_ARROWS + 1, (task.started_ns - task.submitted_ns for tasks in pools for task in tasks))
    return max(1, waits[-1] + 1 if len(waits) > MOST_ARROWS else 1)


def _runs(number: int, tasks: Iterable[tuple[int, _Task]], arrows_from_ns: int) -> Iterator[str]:
    """Return the events of tasks, each with its track, as JSON: there may be a million of them."""
    names: dict[str, str] = {}
    for track, task in tasks:
        name = names.get(task.name)
        if name is None:
            name = names[task.name] = _json(task.name).decode()
        start = f"{task.started_ns / 1e3:.3f}"
        where = f'"pid":{number},"tid":{_FIRST_WORKER + track},"ts":{start}'
        yield f'{{"ph":"X",{where},"dur":{(task.finished_ns - task.started_ns) / 1e3:.3f},"name":{name}}}'
        if 0 <= task.submitted_ns <= task.started_ns - arrows_from_ns:
            # The number of a submission is unique in its pool only by time, worker and function.
            flow = f'"cat":"wait","name":"waits","id":"{number}.{track}.{task.started_ns}"'
            origin = f'"pid":{number},"tid":{_SUBMISSIONS},"ts":{task.submitted_ns / 1e3:.3f}'
            yield f'{{"ph":"X",{origin},"dur":0.001,"name":{name}}}'
            yield f'{{"ph":"s",{origin},{flow}}}'
            yield f'{{"ph":"f","bp":"e",{where},{flow}}}'

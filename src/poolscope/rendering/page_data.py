"""What the script of the page draws: the data of its pictures, as JSON."""

from __future__ import annotations

import base64
import json
import math
import zlib
from array import array
from collections.abc import Sequence
from typing import Any

from poolscope.model import LoopTrace, PoolReport, PoolTrace, Session, storable
from poolscope.rendering.tasks import Task, lanes, tasks
from poolscope.rendering.text import Medium, began_of, finite
from poolscope.rules.wording import noun

#: Pools that a page has in full.
MOST_POOLS = 100
#: The last tasks of a pool that a page has, which keep 200,000 in all below 3 MB.
MOST_TASKS = 200_000
#: Points of the picture of a pool's timeline.
_MOST_POINTS = 2_000


def encode(session: Session, medium: Medium) -> str:
    """Return it as JSON without `<`; `medium` shortens paths."""
    report = session.report
    began = began_of(report)
    pools = zip(report.pools[:MOST_POOLS], session.traces, strict=False)
    content = {
        "started": 0.0 if began is None else began.timestamp(),
        "duration": finite(report.duration_seconds),
        "pools": [_pool_data(pool, trace, report.duration_seconds) for pool, trace in pools],
        "loops": [_loop_data(medium, trace) for trace in session.loops],
    }
    # `<` would begin an end tag or a comment.
    return json.dumps(storable(content), separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _pool_data(pool: PoolReport, trace: PoolTrace, duration: float) -> dict[str, Any]:
    points = trace.timeline[:: max(1, math.ceil(len(trace.timeline) / _MOST_POINTS))]
    fields = ("at_seconds", "active", "queued", "wait_seconds")
    packed, shown, left_out, unit = _packed(trace, duration)
    medium = Medium(width=160, encoding=None, cwd="")
    findings = [
        {
            "severity": finding.severity,
            "since": finite(finding.since_seconds),
            "until": finite(duration if finding.until_seconds is None else finding.until_seconds),
        }
        for finding in pool.findings
    ]
    sizing = [
        [point.workers, *map(finite, (point.wait_p50_seconds, point.wait_p95_seconds, point.makespan_seconds))]
        for point in pool.sizing or ()
    ]
    return {
        "max_workers": pool.max_workers,
        "places": f"{noun(pool.kind)}s",
        "functions": [medium.clean(name, 120) for name in trace.functions],
        "findings": findings,
        "sizing": sizing,
        "timeline": [[round(finite(getattr(point, field)), 4) for point in points] for field in fields],
        "tasks": packed,
        "shown": shown,
        "left_out": left_out,
        "unit": unit,
    }


def _loop_data(medium: Medium, trace: LoopTrace) -> dict[str, Any]:
    known = range(len(trace.places))
    return {
        "places": places(medium, trace),
        "blocks": [
            [finite(block.at_seconds), finite(block.seconds), block.place if block.place in known else -1]
            for block in sorted(trace.blocks, key=lambda block: finite(block.at_seconds))
        ],
    }


def places(medium: Medium, trace: LoopTrace) -> list[str]:
    """Return the lines that blocked a loop, in words."""
    return [f"{medium.path(at.file, 80)}:{at.line} in {medium.clean(at.function, 80)}" for at in trace.places]


def _packed(trace: PoolTrace, duration: float) -> tuple[str, int, int, int]:
    """Return the last tasks in columns, how many they are, how many are left out, and the unit of their times (ns).

    Columns of 32-bit integers: time since the submission before, wait, run (-1 for what had not happened), function,
    lane (-1: none).
    """
    kept = [task for task in tasks(trace) if task.submitted >= 0]
    left_out = max(0, len(kept) - MOST_TASKS)
    kept = sorted(kept[left_out:], key=lambda task: task.submitted)
    longest = max((max(task.submitted, task.started, task.finished) for task in kept), default=0)
    unit = max(1000, math.ceil(longest / (2**31 - 1)))
    columns = tuple(array("i") for _ in range(5))
    before = 0
    for task, lane in zip(kept, _lanes(kept, duration), strict=True):
        at = task.submitted // unit
        wait = max(0, task.started // unit - at) if task.started >= 0 else -1
        run = max(0, (task.finished - task.started) // unit) if task.finished >= 0 <= task.started else -1
        function = task.function if 0 <= task.function < len(trace.functions) else -1
        for column, value in zip(columns, (at - before, wait, run, function, lane), strict=True):
            column.append(value)
        before = at
    data = b"".join(column.tobytes() for column in columns)
    return base64.b64encode(zlib.compress(data, 6)).decode(), len(kept), left_out, unit


def _lanes(of: Sequence[Task], duration: float) -> list[int]:
    """Return the lane of each task, from 0 on; -1 for one that had not started."""
    end_ns = int(finite(duration) * 1e9)
    started = (
        (task.started, max(task.started, task.finished if task.finished >= 0 else end_ns), task.worker)
        for task in of
        if task.started >= 0
    )
    found = iter(lanes(started))
    return [next(found) if task.started >= 0 else -1 for task in of]

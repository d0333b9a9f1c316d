"""A program of which live views are shown: snapshots as of one second after the other."""

from __future__ import annotations

from typing import Any

from metrics_support import loop, pool
from msgspec.structs import replace

from poolscope.live.board import Board, board
from poolscope.live.history import History
from poolscope.model import Advice, Finding, Frame
from poolscope.rendering.text import Medium
from poolscope.snapshot import PoolSnapshot, Snapshot, Subject

#: 2026-11-04 03:12:00 UTC.
BEGAN = 1_793_761_920.0
BOUNDS = (0.1, 1.0, 10.0)
CWD = "/srv/shop"


def medium(width: int = 100, encoding: str | None = None) -> Medium:
    return Medium(width=width, encoding=encoding, cwd=CWD)


def a_finding(**values: Any) -> Finding:
    fields: dict[str, Any] = {
        "pattern": "async_then_serial",
        "cause": "blocking_io",
        "severity": "warning",
        "since_seconds": 4.0,
        "until_seconds": None,
        "detected_after_seconds": 1.0,
        "summary": "Pool 'fetch' turned serial at 4.0 s: all 4 workers are waiting at jobs.py:31 (fetch).",
        "evidence": {"amplification": 12.4, "wait_p50_seconds": 2.4},
        "frames": (Frame("/srv/shop/jobs.py", 31, "fetch", "response = session.get(url)", 1.0),),
        "advice": Advice("raise_max_workers", "Give 'fetch' max_workers=11 (now 4).", 11),
    }
    return Finding(**(fields | values))


def full(second: int, name: str = "fetch", **values: Any) -> PoolSnapshot:
    """A pool of 4 that finishes 20 tasks a second and is given 30: as of so many seconds."""
    fields: dict[str, Any] = {
        "max_workers": 4,
        "workers": 4,
        "active": 4,
        "queue_depth": 10 * second,
        "oldest_queued_seconds": 0.5 * second,
        "longest_running_seconds": 0.2,
        "submitted": 30 * second + 4,
        "succeeded": 20 * second,
        "busy_seconds": 4.0 * second,
        "queued_seconds": 5.0 * second * second,
        "saturated_seconds": float(second),
        "wait_buckets": (5 * second, 15 * second, 0, 0),
        "run_buckets": (0, 20 * second, 0, 0),
    }
    return pool(name, **(fields | values))


def snapshot(
    *rows: PoolSnapshot, second: int = 0, findings: tuple[Finding, ...] = (), about: str = "fetch", **values: Any
) -> Snapshot:
    loops = (loop("MainThread", lag_buckets=(50 * second, 0, 0, 0), blocked_seconds=0.25 * second, tasks=3),)
    fields: dict[str, Any] = {
        "python": "3.13.0",
        "pools": rows,
        "loops": loops,
        "findings": (),
        "overhead_cpu_seconds": 0.0,
        "errors": {},
        "wait_bounds": BOUNDS,
        "run_bounds": BOUNDS,
        "details": findings,
        "subjects": tuple(Subject("pool", about, float(second)) for _ in findings),
    }
    return Snapshot(**(fields | values))


def history(*snapshots: Snapshot) -> History:
    seen = History()
    for second, each in enumerate(snapshots):
        seen.look(each, BEGAN + second)
    return seen


def hard_limit(seconds: int = 8) -> History:
    """A pool that is full from the start, with a finding from its fourth second on; a limit, a queue and a loop."""
    limit = pool("shop:gate", kind="semaphore", max_workers=3, active=3, queue_depth=7)
    queue = pool("shop:inbox", kind="queue", max_workers=2, active=1)
    return history(
        *(
            snapshot(full(second), limit, queue, second=second, findings=(a_finding(),) if second > 4 else ())
            for second in range(seconds + 1)
        )
    )


def batch(seconds: int = 5) -> History:
    """1,000 tasks at once on a pool of 4, which finishes 50 a second."""

    def row(second: int) -> PoolSnapshot:
        done = 50 * second
        return full(
            second, "crawl", submitted=1000, succeeded=done, queue_depth=996 - done, wait_buckets=(done, 0, 0, 0)
        )

    idle = pool("crawl", wait_buckets=(0, 0, 0, 0), run_buckets=(0, 0, 0, 0))
    return history(snapshot(idle), *(snapshot(row(second), second=second) for second in range(seconds + 1)))


HOSTILE = '\x1b[2J\u202e<img src=x onerror="alert(1)">[bold]\ud800\n' + "n" * 300


def hostile() -> History:
    told = a_finding(summary=HOSTILE, frames=(Frame(f"/srv/shop/{HOSTILE}.py", 3, HOSTILE, HOSTILE, 0.5),))
    told = replace(told, advice=Advice(HOSTILE, HOSTILE))
    rows = (full(1, HOSTILE), full(1, "n" * 300, kind=HOSTILE))
    seen = snapshot(*rows, second=1, findings=(told,), about=HOSTILE, python=HOSTILE)
    return history(seen, replace(seen, loops=(loop(HOSTILE, lag_buckets=(0, 0, 0, 0)),)))


def shown(seen: History, **how: Any) -> Board:
    return board(seen, medium(), **{"command": "app.py --fast", **how})

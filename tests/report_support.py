"""Sessions as real runs would leave them, made from simulated pools: no threads, no clocks.

Sessions are frozen, so each is made once.
"""

from __future__ import annotations

import heapq
import struct
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

import msgspec

from poolscope.model import (
    Advice,
    Distribution,
    Finding,
    Frame,
    FunctionReport,
    LoopReport,
    Overhead,
    PoolReport,
    PoolTrace,
    ProcessReport,
    Report,
    Session,
    SizingPoint,
    TaskCounts,
    TimelinePoint,
)

CWD = "/home/ada/shop"

#: Escapes, markup, line breaks, a right-to-left override, a bell, marks without width, and wide letters.
HOSTILE = "\x1b[31mred\x1b]0;title\x07[bold]x[/bold][/]\n\r\u202eevil\ud800 日本語 e\u0301"


class Task(NamedTuple):
    submitted: float
    started: float
    finished: float


def simulate(arrivals: Sequence[float], runs: Sequence[float], workers: int) -> list[Task]:
    """First come, first served."""
    free = [0.0] * workers
    tasks = []
    for submitted, run in zip(arrivals, runs, strict=True):
        started = max(submitted, heapq.heappop(free))
        heapq.heappush(free, started + run)
        tasks.append(Task(submitted, started, started + run))
    return tasks


def timeline(tasks: Sequence[Task], step: float = 0.1) -> tuple[TimelinePoint, ...]:
    end = max(task.finished for task in tasks)
    points = []
    for number in range(1, round(end / step + 0.5) + 1):
        since, until = (number - 1) * step, number * step

        def overlap(start: float, stop: float, since: float = since, until: float = until) -> float:
            return max(0.0, min(stop, until) - max(start, since)) / step

        starts = [task for task in tasks if since < task.started <= until]
        points.append(
            TimelinePoint(
                at_seconds=until,
                width_seconds=step,
                active=sum(overlap(task.started, task.finished) for task in tasks),
                queued=sum(overlap(task.submitted, task.started) for task in tasks),
                wait_seconds=max((task.started - task.submitted for task in starts), default=0.0),
                started=len(starts),
                finished=sum(since < task.finished <= until for task in tasks),
            )
        )
    return tuple(points)


def distribution(values: Sequence[float]) -> Distribution:
    if not values:
        return Distribution()
    ordered = sorted(values)

    def at(share: float) -> float:
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]

    return Distribution(mean=sum(ordered) / len(ordered), p50=at(0.5), p95=at(0.95), p99=at(0.99), max=ordered[-1])


def trace(tasks: Sequence[Task], function: str) -> PoolTrace:
    flat = [round(value * 1e9) for task in tasks for value in (0, *task)]
    return PoolTrace(functions=(function,), tasks=struct.pack(f"<{len(flat)}q", *flat), timeline=timeline(tasks))


def pool(ran: Sequence[Task], workers: int, *, name: str, function: str, **changed: Any) -> PoolReport:
    waits = [task.started - task.submitted for task in ran]
    runs = [task.finished - task.started for task in ran]
    points = timeline(ran)
    wait, run = distribution(waits), distribution(runs)
    report = PoolReport(
        name=name,
        kind="thread",
        executor="concurrent.futures.thread.ThreadPoolExecutor",
        created_at="shop/jobs.py:12",
        pid=4242,
        max_workers=workers,
        peak_workers=min(workers, len(ran)),
        peak_active=min(workers, round(max(point.active for point in points) + 0.4)),
        peak_queue_depth=round(max(point.queued for point in points) + 0.4),
        first_submit_seconds=ran[0].submitted,
        busy_seconds=sum(runs),
        queued_seconds=sum(waits),
        saturated_seconds=sum(point.width_seconds for point in points if point.queued > 0.5),
        cpu_seconds=0.02,
        tasks=TaskCounts(submitted=len(ran), started=len(ran), succeeded=len(ran)),
        wait_seconds=wait,
        run_seconds=run,
        functions=(FunctionReport(function, len(ran), sum(runs), wait, run),),
        sizing=None,
        findings=(),
    )
    return msgspec.structs.replace(report, **changed)


def loop(**changed: Any) -> LoopReport:
    report = LoopReport(
        name="main",
        kind="asyncio",
        pid=4242,
        blocked_seconds=0.0,
        longest_block_seconds=0.0,
        lag_seconds=Distribution(mean=0.0002, p50=0.00015, p95=0.0004, p99=0.0008, max=0.002),
        peak_tasks=4,
        findings=(),
    )
    return msgspec.structs.replace(report, **changed)


def session(
    pools: Sequence[PoolReport] = (),
    loops: Sequence[LoopReport] = (),
    traces: Sequence[PoolTrace] = (),
    **changed: Any,
) -> Session:
    findings = [finding for pool in pools for finding in pool.findings]
    findings += [finding for loop in loops for finding in loop.findings]
    report = Report(
        poolscope_version="0.1.0",
        python="3.13.1",
        command=("python", "shop.py"),
        started_at="2025-03-01T03:12:44Z",
        duration_seconds=3.02,
        exit_code=0,
        verdict="concurrent",
        processes=(ProcessReport(4242, 4241, ("python", "shop.py"), 0.0, 3.02, 0, 0.31),),
        pools=tuple(pools),
        event_loops=tuple(loops),
        findings=tuple(findings),
        notices=(),
        overhead=Overhead(cpu_seconds=0.011, share=0.0036),
    )
    return Session(report=msgspec.structs.replace(report, **changed), traces=tuple(traces))


def in_turn() -> Finding:
    """What may be the verdict though it only informs."""
    return finding(
        pattern="not_concurrent",
        cause="awaited_in_turn",
        severity="info",
        summary="Event loop 'main' had one thing to wait for at a time at app.py:18 (main): 16 of 0.5 s.",
        evidence={"turns": 16.0, "turn_seconds": 0.5, "waited_seconds": 8.0},
        frames=(Frame("/srv/app/app.py", 18, "main", "pages.append(await fetch(number))"),),
        advice=Advice("overlap", "Start them together and then use the results: asyncio.gather, or a TaskGroup."),
    )


def finding(**changed: Any) -> Finding:
    report = Finding(
        pattern="async_then_serial",
        cause="blocking_io",
        severity="warning",
        since_seconds=4.0,
        until_seconds=15.9,
        detected_after_seconds=1.4,
        summary="Pool fetch turned serial at 4.0 s: its 4 workers are all busy, and tasks wait 2.95 s "
        "for 0.2 s of work.",
        evidence={
            "max_workers": 4.0,
            "window_seconds": 11.9,
            "wait_p50_seconds": 2.95,
            "run_p50_seconds": 0.2,
            "amplification": 15.75,
            "coupling": 1.0,
            "effective_parallelism": 3.98,
            "arrivals_per_second": 40.0,
            "cpu_share": 0.004,
        },
        frames=(
            Frame(f"{CWD}/shop/jobs.py", 31, "fetch", "response = session.get(url, timeout=10)", 0.975),
            Frame(
                f"{CWD}/.venv/lib/python3.13/site-packages/urllib3/connectionpool.py",
                790,
                "HTTPConnectionPool.urlopen",
                "response = self._make_request(",
                0.975,
            ),
        ),
        advice=Advice(
            "raise_max_workers",
            "The tasks wait for the network, not for the CPU: raise max_workers from 4 to 9.",
            suggested_max_workers=9,
        ),
    )
    return msgspec.structs.replace(report, **changed)


def hard_limit_tasks(workers: int = 4) -> list[Task]:
    gentle = [number / 10 for number in range(40)]
    fast = [4 + number / 40 for number in range(240)]
    return simulate([*gentle, *fast], [0.2] * 280, workers)


def overlap() -> Session:
    return session(loops=[loop()])


@cache
def healthy_pools() -> Session:
    tasks = simulate([number / 10 for number in range(40)], [0.2] * 40, 4)
    return session([pool(tasks, 4, name="fetch", function="fetch")], [loop()], [trace(tasks, "fetch")])


def blocking_call() -> Session:
    block = finding(
        pattern="loop_blocked",
        cause="blocking_call",
        since_seconds=0.02,
        until_seconds=6.03,
        detected_after_seconds=0.1,
        summary="The event loop was blocked for 6.0 s of 6.03 s: work calls time.sleep; nothing else ran.",
        evidence={"blocks": 3.0, "blocked_seconds": 6.004, "longest_block_seconds": 3.001, "cpu_share": 0.0},
        frames=(Frame(f"{CWD}/blocking_call.py", 9, "work", "time.sleep(seconds)", 1.0),),
        advice=Advice("await_instead", "Write await asyncio.sleep(seconds) instead of time.sleep(seconds)."),
    )
    blocked = loop(
        blocked_seconds=6.004,
        longest_block_seconds=3.001,
        findings=(block,),
        lag_seconds=Distribution(mean=2.0, p50=1.99, p95=2.99, p99=3.0, max=3.001),
    )
    return session(loops=[blocked], verdict="loop_blocked", duration_seconds=6.05)


@cache
def sizing_curve() -> tuple[SizingPoint, ...]:
    points = []
    for workers in (*range(2, 16), 16, 24, 32):
        tasks = hard_limit_tasks(workers)
        waits = distribution([task.started - task.submitted for task in tasks])
        assert waits.p50 is not None
        assert waits.p95 is not None
        points.append(SizingPoint(workers, waits.p50, waits.p95, max(task.finished for task in tasks)))
    return tuple(points)


@cache
def hard_limit() -> Session:
    tasks = hard_limit_tasks()
    burst = finding(
        pattern="burst",
        cause="unknown",
        severity="info",
        since_seconds=1.2,
        until_seconds=1.3,
        summary="Pool fetch was full for 0.1 s.",
        evidence={},
        frames=(),
        advice=Advice("none", ""),
    )
    report = pool(tasks, 4, name="fetch", function="fetch", findings=(burst, finding()), sizing=sizing_curve())
    return session(
        [report],
        traces=[trace(tasks, "fetch")],
        verdict="async_then_serial",
        duration_seconds=16.1,
        overhead=Overhead(cpu_seconds=0.031, share=0.0019),
    )


@cache
def several_pools() -> Session:
    """Two processes, a stalled pool, a serial one, healthy ones with a long name and losses, a loop."""
    fetch = hard_limit().report.pools[0]
    single = simulate([number / 50 for number in range(100)], [0.05] * 100, 1)
    serial = finding(
        pattern="serial",
        cause="single_worker",
        since_seconds=0.1,
        until_seconds=5.0,
        summary="Pool writer has run its tasks one after another since 0.1 s: it has one worker.",
        advice=Advice("raise_max_workers", "Give it 3 workers, or set ordered: true if the order is wanted.", 3),
    )
    stalled = finding(
        pattern="stalled",
        cause="stuck_tasks",
        severity="critical",
        since_seconds=2.0,
        until_seconds=None,
        summary="Pool render stands still since 2.0 s: no task has finished, 40 are waiting.",
        evidence={"queue_depth": 40.0, "oldest_queued_seconds": 14.1, "longest_running_seconds": 14.2},
        advice=Advice("add_timeout", "Give the call a timeout."),
    )
    stuck = [
        Task(0.5, 0.5, 0.6),
        *(Task(2.0, 2.0, 16.1) for _ in range(2)),
        *(Task(2.0, 16.1, 16.2) for _ in range(40)),
    ]
    quiet = simulate([number / 5 for number in range(60)], [0.03] * 60, 32)
    pools = [
        fetch,
        pool(single, 1, name="writer", function="write_row", pid=4243, findings=(serial,)),
        pool(stuck, 2, name="render", function="Page.render", pid=4243, findings=(stalled,), kind="anyio"),
        pool(
            quiet,
            32,
            name="shop.integrations.payments.providers.northwind:make_client_pool",
            function="functools.partial(charge)",
            tasks=TaskCounts(60, 58, 55, 3, 2, 7),
        ),
        *(pool(quiet, 8, name=f"worker-{number}", function="work") for number in range(12)),
    ]
    traces = [trace(hard_limit_tasks(), "fetch"), trace(single, "write_row"), trace(stuck, "Page.render")]
    traces += [trace(quiet, "charge")] * 13
    return session(
        pools,
        [*blocking_call().report.event_loops, loop(name="metrics", kind="uvloop", pid=4243)],
        traces,
        verdict="stalled",
        duration_seconds=16.3,
        exit_code=-9,
        processes=(
            ProcessReport(4242, 4241, ("python", "shop.py"), 0.0, 16.3, -9, 2.1),
            ProcessReport(4243, 4242, ("python", "shop.py"), 0.4, 16.2, None, 1.1),
        ),
        notices=(
            "process 4250 was started with -S, so it could not be watched: its pools are missing here",
            "stacks of the pool render were read 12 times only",
        ),
    )


def empty() -> Session:
    """A program that did nothing and of which nothing is known."""
    return session(
        verdict="insufficient_data",
        duration_seconds=0.0,
        exit_code=None,
        processes=(),
        overhead=Overhead(0.0, 0.0),
    )


def insufficient_data() -> Session:
    tasks = simulate([0.0, 0.01, 0.02], [0.1] * 3, 4)
    return session(
        [pool(tasks, 4, name="fetch", function="fetch")],
        traces=[trace(tasks, "fetch")],
        verdict="insufficient_data",
        duration_seconds=0.2,
        exit_code=3,
    )


@cache
def hostile() -> Session:
    """Every text of the report wants to harm the terminal."""
    tasks = hard_limit_tasks()
    bad = finding(
        summary=f"Pool {HOSTILE} turned serial.",
        evidence={HOSTILE: float("nan"), "wait_p50_seconds": float("inf")},
        frames=(
            Frame(f"{CWD}/{HOSTILE}.py", 3, HOSTILE, f"x = '{HOSTILE}'", 0.5),
            Frame("/" + "long" * 100_000, 1, "f" * 10_000, "y" * 10_000, None),
        ),
        advice=Advice(HOSTILE, f"Do {HOSTILE} [red]now[/red]", 9, pool=HOSTILE),
    )
    report = pool(
        tasks,
        4,
        name=HOSTILE,
        function=HOSTILE,
        kind=HOSTILE,
        created_at=HOSTILE,
        findings=(bad, msgspec.structs.replace(bad, severity="info")),
        sizing=sizing_curve(),
        tasks=TaskCounts(280, 280, 279, 1),
    )
    blocked = loop(name=HOSTILE, kind=HOSTILE, findings=(bad,))
    return session(
        [report],
        [blocked],
        [trace(tasks, HOSTILE)],
        verdict="async_then_serial",
        duration_seconds=16.1,
        notices=(HOSTILE, "[/nothing]"),
        command=("python", HOSTILE),
        exit_code=-77,
    )


def nulls() -> Session:
    """A finding on a pool that never ran a task: every number that may be missing is missing."""
    nothing = Distribution()
    report = PoolReport(
        name="",
        kind="",
        executor="",
        created_at="",
        pid=1,
        max_workers=0,
        peak_workers=0,
        peak_active=0,
        peak_queue_depth=0,
        first_submit_seconds=None,
        busy_seconds=0.0,
        queued_seconds=0.0,
        saturated_seconds=0.0,
        cpu_seconds=0.0,
        tasks=TaskCounts(),
        wait_seconds=nothing,
        run_seconds=nothing,
        functions=(FunctionReport("", 0, 0.0, nothing, nothing),),
        sizing=(),
        findings=(finding(summary="", evidence={}, frames=(), advice=Advice("none", "")),),
    )
    return session(
        [report, msgspec.structs.replace(report, name="other")],
        [loop(name="", lag_seconds=nothing)],
        [PoolTrace((), b"", (TimelinePoint(0.0, 0.0, 0.0, 0.0, 0.0, 0, 0),))],  # one trace is missing
        verdict="serial",
        duration_seconds=0.0,
        exit_code=-9,
    )


#: Each kind of session, by name.
SESSIONS: dict[str, Callable[[], Session]] = {
    "overlap": overlap,
    "healthy_pools": healthy_pools,
    "blocking_call": blocking_call,
    "hard_limit": hard_limit,
    "several_pools": several_pools,
    "empty": empty,
    "insufficient_data": insufficient_data,
    "hostile": hostile,
    "nulls": nulls,
}

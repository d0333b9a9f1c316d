"""Frozen values that findings and reports are made of (`poolscope.report/1`).

Times are seconds as floats; `*_seconds` offsets count from the start of the program. Nothing here computes.
"""

from __future__ import annotations

import re
from typing import Any, Literal

import msgspec

Severity = Literal["info", "warning", "critical"]

#: Most severe last, so that `SEVERITIES.index` orders them.
SEVERITIES: tuple[Severity, ...] = ("info", "warning", "critical")

#: In order of precedence, pools first: a tie between two findings goes to the earlier one.
PATTERNS: tuple[str, ...] = (
    "deadlock",
    "stalled",
    "stuck_workers",
    "batch",
    "serial",
    "async_then_serial",
    "not_concurrent",
    "burst",
    "loop_blocked",
    "loop_full",
)

#: The one pattern whose findings only inform and may be the verdict all the same.
IN_TURN = "not_concurrent"

SCHEMA = "poolscope.report/1"

#: Fewer finished tasks than this, and no event loop that ran for so long (s), is too little to judge by.
TASKS_NEEDED = 10
LOOP_NEEDED_SECONDS = 1.0

_NUMBERS = re.compile("[0-9]+")


def storable(value: Any) -> Any:
    """Return a plain value that every encoder takes: lone surrogates, of paths that are not UTF-8, are escaped."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, dict):
        return {storable(key): storable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [storable(item) for item in value]
    return value


def kind_of_notice(text: str) -> str:
    """Return the same for notices that differ in numbers only, such as those of a process."""
    return _NUMBERS.sub("#", text)


def _shown(how: str, what: Report | Session) -> str:
    # What renders stands above us: the package finds it.
    import poolscope

    text: str = getattr(poolscope, how)(what)
    return text


class Frame(msgspec.Struct, frozen=True):
    """One line of code in evidence; `share` is the part (0 to 1) of the samples that were at it."""

    #: Path of the source file as the interpreter has it.
    file: str
    #: Line number; 0 or less where the file has none.
    line: int
    #: Name of the function.
    function: str
    #: Text of the line, null if the file cannot be read.
    source: str | None = None
    #: Part (0 to 1) of the samples that were at this line.
    share: float | None = None


class Advice(msgspec.Struct, frozen=True):
    """What to do: an action (docs/concepts.md#causes), one sentence, and a number or a pool where there is one."""

    #: What to do, as a word: `raise_max_workers`, `none`, ...
    action: str
    #: What to do, as a sentence.
    text: str
    #: Number of workers, where a replay gives one.
    suggested_max_workers: int | None = None
    #: Name of the pool to look at instead, where there is one.
    pool: str | None = None


class Finding(msgspec.Struct, frozen=True):
    """What happened, why, since when, how we know, and what to do."""

    #: What happened: `deadlock`, `serial`, `loop_blocked`, ...
    pattern: str
    #: Why, or `unknown`.
    cause: str
    #: How bad it is.
    severity: Severity
    #: When it began: the knee.
    since_seconds: float
    #: When it ended, null while it lasts.
    until_seconds: float | None
    #: Seconds from its begin until it was reported.
    detected_after_seconds: float
    #: What happened, since when, why and where, in one sentence.
    summary: str
    #: Numbers that support it; the unit ends the name (`_seconds`, `_per_second`, `_share`).
    evidence: dict[str, float]
    #: Lines of code where workers or the loop were, most samples first: a line of the program, then the library's below
    #: it.
    frames: tuple[Frame, ...]
    #: What to do.
    advice: Advice


class Distribution(msgspec.Struct, frozen=True):
    """Seconds; percentiles are within 2 % of the exact ones; null where nothing was measured."""

    #: Arithmetic mean.
    mean: float | None = None
    #: Median.
    p50: float | None = None
    #: 95th percentile.
    p95: float | None = None
    #: 99th percentile.
    p99: float | None = None
    #: Largest value, exact.
    max: float | None = None


class TaskCounts(msgspec.Struct, frozen=True):
    """Tasks by what became of them."""

    #: Accepted by the pool.
    submitted: int = 0
    #: Begun by a worker.
    started: int = 0
    #: Ended with a result.
    succeeded: int = 0
    #: Ended with an exception.
    failed: int = 0
    #: Cancelled before they started.
    cancelled: int = 0
    #: Refused by the pool; counted nowhere else.
    rejected: int = 0


class FunctionReport(msgspec.Struct, frozen=True):
    """Totals of one submitted function."""

    #: Module and qualified name of the submitted function.
    name: str
    #: Tasks of this function that were started.
    started: int
    #: Worker time spent in it, summed over the workers.
    busy_seconds: float
    #: From submission to start.
    wait_seconds: Distribution
    #: From start to end.
    run_seconds: Distribution


class SizingPoint(msgspec.Struct, frozen=True):
    """What a replay of the recorded tasks gives for one pool size."""

    #: Pool size that was replayed.
    workers: int
    #: Median wait on that size.
    wait_p50_seconds: float
    #: 95th percentile of the wait on that size.
    wait_p95_seconds: float
    #: From the first submission to the last end on that size.
    makespan_seconds: float


class Concurrency(msgspec.Struct, frozen=True):
    """How many tasks of a pool ran at once."""

    #: On average, while it had any: busy time by the time with a task queued or running; null without one.
    mean: float | None = None
    #: At most.
    peak: int = 0


class PoolReport(msgspec.Struct, frozen=True):
    """One pool: what it is, what it did, what is wrong with it."""

    #: `name=` of the pool, else its `thread_name_prefix`, else `module:function.variable` of its creation.
    name: str
    #: `thread`, `process`, `interpreter`, `multiprocessing`, or the library: `anyio`, ...
    kind: str
    #: Path of the executor's class.
    executor: str
    #: Where it was made: `package/file.py:12`.
    created_at: str
    #: Process that it is in.
    pid: int
    #: Most tasks that can run at once.
    max_workers: int
    #: Most workers that existed at once.
    peak_workers: int
    #: Most workers that ran a task at once.
    peak_active: int
    #: Most tasks that waited at once.
    peak_queue_depth: int
    #: When the first task was submitted, null without one.
    first_submit_seconds: float | None
    #: Time integral of active workers.
    busy_seconds: float
    #: Time integral of queue depth.
    queued_seconds: float
    #: How long no worker was idle while tasks waited.
    saturated_seconds: float
    #: CPU time of the workers.
    cpu_seconds: float
    #: Tasks by outcome.
    tasks: TaskCounts
    #: From submission to start.
    wait_seconds: Distribution
    #: From start to end.
    run_seconds: Distribution
    #: Submitted functions, the busiest first.
    functions: tuple[FunctionReport, ...]
    #: What other sizes would have done, null where that was not replayed.
    sizing: tuple[SizingPoint, ...] | None
    #: What is wrong with it, or was.
    findings: tuple[Finding, ...]
    #: The variable or attribute that it is stored in, null if that could not be read.
    created_by: str | None = None
    #: How many tasks ran at once.
    concurrency: Concurrency = Concurrency()


class LoopReport(msgspec.Struct, frozen=True):
    """One event loop; loops of one name in one process are one row."""

    #: Name of the thread that the loop runs in.
    name: str
    #: `asyncio` or `uvloop`.
    kind: str
    #: Process that it is in.
    pid: int
    #: How long callbacks held the loop.
    blocked_seconds: float
    #: The longest single block.
    longest_block_seconds: float
    #: How late it ran what was due.
    lag_seconds: Distribution
    #: Most tasks at once that were not done.
    peak_tasks: int
    #: What is wrong with it, or was: one for each blocking line.
    findings: tuple[Finding, ...]
    #: Part of its time (0 to 1) in callbacks, long or short, as looks at it show; null where it was not measured.
    busy_share: float | None = None


class ProcessReport(msgspec.Struct, frozen=True):
    """One process of the run; or, with pid 0, so many (`count`) that ended, with the CPU time of all together."""

    #: Process id, 0 for the sum of processes that ended.
    pid: int
    #: Process id of its parent, null if unknown.
    parent: int | None
    #: Its command line.
    command: tuple[str, ...]
    #: When it started.
    started_seconds: float
    #: When it ended, null if it still ran.
    ended_seconds: float | None
    #: Its exit status, the negative signal number if a signal ended it, null if unknown.
    exit_code: int | None
    #: CPU time that it used.
    cpu_seconds: float
    #: How many processes this row stands for.
    count: int = 1
    #: Whether it had one thread and no child process, as far as is known: then it could not do two things at once, but
    #: in an event loop.
    alone: bool = False


class OwnStart(msgspec.Struct, frozen=True):
    """Threads or processes that one line, or one library, has started, and no pool that is watched: what they did is
    not recorded."""

    #: `thread` or `process`.
    what: str
    #: The line of the program ("package/file.py:12"), or the library.
    where: str
    #: Whether a library started them, and not the program itself.
    library: bool
    #: How many there were, in all processes; 0: the executor is there, and was not seen to start any.
    count: int
    #: Whether each was over before the next one began.
    in_turn: bool
    #: The class that started them, if it is an executor of a kind that is not known; else empty.
    executor: str = ""


class Overhead(msgspec.Struct, frozen=True):
    """What poolscope itself cost: CPU seconds, and their share of the run's wall-clock seconds."""

    #: CPU time of poolscope in the program's processes and in its own parent.
    cpu_seconds: float
    #: The same by the run's wall-clock time (0.02 is 2 % of one core).
    share: float


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The whole report: what was watched, what it did, and what is wrong."""

    #: Name and version of this format.
    schema: str = SCHEMA
    #: Version of poolscope.
    poolscope_version: str
    #: Version of the interpreter that was watched.
    python: str
    #: Command line of the program.
    command: tuple[str, ...]
    #: When the program started (RFC 3339).
    started_at: str
    #: How long the program ran, or has run so far.
    duration_seconds: float
    #: Exit status of the program, the negative signal number if a signal ended it, null while it runs.
    exit_code: int | None
    #: Pattern of the worst finding above `info`; else `insufficient_data` (fewer than 10 finished tasks, and no loop
    #: that ran 1 s); else `concurrent`.
    verdict: str
    #: Processes of the run.
    processes: tuple[ProcessReport, ...]
    #: Pools, one row for each name and process.
    pools: tuple[PoolReport, ...]
    #: Event loops, one row for each name and process.
    event_loops: tuple[LoopReport, ...]
    #: All findings, the most severe first.
    findings: tuple[Finding, ...]
    #: What could not be seen or was switched off, and why.
    notices: tuple[str, ...]
    #: What poolscope itself cost.
    overhead: Overhead
    #: Threads and processes that were started by hand and not by a pool.
    own_starts: tuple[OwnStart, ...] = ()

    def __str__(self) -> str:
        """Return the report as on a terminal, without colours."""
        return _shown("text_of", self)

    def _repr_html_(self) -> str:
        """Return it as a notebook shows it."""
        return _shown("html_of", self)

    def to_json(self) -> bytes:
        """Return the report as JSON, indented: docs/reference/report.md."""
        try:
            plain = msgspec.json.encode(self)
        except UnicodeEncodeError:
            plain = msgspec.json.encode(storable(msgspec.to_builtins(self)))
        return msgspec.json.format(plain, indent=2) + b"\n"


class TimelinePoint(msgspec.Struct, frozen=True, array_like=True):
    """A pool over `[at - width, at]`: mean active workers, mean queue depth, longest wait, starts, finishes."""

    at_seconds: float
    width_seconds: float
    active: float
    queued: float
    wait_seconds: float
    started: int
    finished: int


class PoolTrace(msgspec.Struct, frozen=True):
    """What the report of a pool was made from.

    `tasks` holds little-endian int64 quadruples (function index, submitted, started, finished), nanoseconds from
    the start of the program, in order of submission; -1 for what had not happened when the record ended, or never did:
    a task cancelled before it started has started = finished = -1. `workers` holds a little-endian int64 for each of
    them: the number of the worker (permit, connection, consumer) that had it, from 1 on; 0 for what has not started. It
    is empty in a session of poolscope 0.1.
    """

    functions: tuple[str, ...]
    tasks: bytes
    timeline: tuple[TimelinePoint, ...]
    workers: bytes = b""


class Block(msgspec.Struct, frozen=True):
    """A time in which a callback held an event loop. `place` is an index of `LoopTrace.places`; -1: not known."""

    at_seconds: float
    seconds: float
    place: int


class LoopTrace(msgspec.Struct, frozen=True):
    """The latest blocks of a loop, in order of their ends, and the lines that caused them."""

    places: tuple[Frame, ...]
    blocks: tuple[Block, ...]


class Session(msgspec.Struct, frozen=True):
    """A recorded run: the report, and beside each pool and each loop of it (same order) what it was made from.

    A session of poolscope 0.1 has nothing of loops.
    """

    report: Report
    traces: tuple[PoolTrace, ...]
    loops: tuple[LoopTrace, ...] = ()

    def __str__(self) -> str:
        """Return its report as on a terminal, without colours."""
        return _shown("text_of", self)

    def _repr_html_(self) -> str:
        """Return it as a notebook shows it."""
        return _shown("html_of", self)


class Thresholds(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """When a signal becomes a finding (seconds, and a ratio); the `detection` section of the settings."""

    sustain_seconds: float = 1.0
    min_amplification: float = 2.0
    stall_seconds: float = 10.0
    stuck_task_seconds: float = 30.0
    loop_blocked_seconds: float = 0.1

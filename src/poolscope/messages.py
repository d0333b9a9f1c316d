"""What a watched process tells whoever judges it.

The probe (`poolscope.probe`, standard library only) sends plain tuples whose first item is the tag below and whose
other items are the fields in order. They reach a judge in the same process as they are, and a judge in the parent
as frames (`probe/channel.py`). Either way `parse` turns them into these values or refuses them.

All `*_ns` are readings of the system-wide monotonic clock (`time.perf_counter_ns`), which processes of one machine
share; ids are unique in one process.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

import msgspec

from poolscope.errors import PoolscopeError

PROTOCOL = 2

#: A line of code as (file, line, function).
Line = tuple[str, int, str]


class _Message(msgspec.Struct, frozen=True, array_like=True):
    pass


class Hello(_Message, tag="hello", frozen=True):
    """First of each process. `gil` is false on a free-threaded build with the GIL off."""

    protocol: int
    pid: int
    parent: int
    command: list[str]
    python: str
    at_ns: int
    gil: bool


class Bye(_Message, tag="bye", frozen=True):
    """Last of a process that ended in order."""

    at_ns: int


class ProcessTick(_Message, tag="process_tick", frozen=True):
    """CPU nanoseconds so far of the process and of our own threads in it; CPUs the process may use (quota
    and affinity); CPU nanoseconds of its child processes, as far as they have ended."""

    at_ns: int
    cpu_ns: int
    overhead_ns: int
    allowed_cpus: float
    children_ns: int = 0


class Notice(_Message, tag="notice", frozen=True):
    """Something that could not be seen or was switched off, and why."""

    text: str


class Incident(_Message, tag="incident", frozen=True):
    """A notice of something that has happened to the program, which somebody may be waiting to hear of: where a
    worker was killed, it may hang."""

    text: str


class Fault(_Message, tag="fault", frozen=True):
    """A failure of ours in the named part (`poolscope_errors_total{part}`)."""

    part: str
    text: str


class FunctionNamed(_Message, tag="function", frozen=True):
    """Names a function id before its first use. `file` is empty and `line` 0 where there is no Python code."""

    function: int
    name: str
    file: str
    line: int


class PoolOpened(_Message, tag="pool_opened", frozen=True):
    """A pool was seen for the first time."""

    pool: int
    name: str
    kind: str
    executor: str
    created_at: str
    max_workers: int
    at_ns: int


class PoolClosed(_Message, tag="pool_closed", frozen=True):
    """The pool will send nothing more."""

    pool: int
    at_ns: int


class PoolBatch(_Message, tag="pool_batch", frozen=True):
    """What happened in one pool since its last batch, and how it stands at `at_ns`.

    Flat lists of integers: `finished` 5 per task (worker, function * 2 + failed, submitted, started, finished), in
    order per worker; `running` 4 per worker that is in a task (worker, function, submitted, started); `cancelled`
    and `broken` 3 per task (function, submitted, when; broken: failed before it could start); `arrivals` 2 per
    submission (function, submitted). `cpu_ns` is the CPU time of the pool's workers so far.
    """

    pool: int
    at_ns: int
    workers: int
    max_workers: int
    cpu_ns: int
    rejected: int
    finished: list[int]
    running: list[int]
    cancelled: list[int]
    broken: list[int]
    arrivals: list[int]


class WorkersReady(_Message, tag="pool_ready", frozen=True):
    """How long the workers of a pool, all together, were ready to run but had no CPU, as counted while it was full."""

    pool: int
    at_ns: int
    ready_ns: int


class Stack(msgspec.Struct, frozen=True, array_like=True):
    """Workers that are at the same place: the user's line first, and then the library line below it, if any.

    `spot` tells places in the last line from each other: it is the instruction. `tasks` is flat, 3 integers a worker:
    worker, function, started. `gate` is what they wait for, if that is known: a "lock", a "semaphore", a full
    "queue", or a "child" process.
    """

    lines: list[Line]
    spot: int
    tasks: list[int]
    gate: str = ""


class StackSample(_Message, tag="stacks", frozen=True):
    """Where workers of a pool were, at one moment."""

    pool: int
    at_ns: int
    stacks: list[Stack]


class Wait(msgspec.Struct, frozen=True, array_like=True):
    """A worker that waits for futures: in the task that it started at `started_ns`, since `since_ns` at the earliest.

    `any`: one of them is enough. `targets` are (pool, worker) of those that were not done: worker 0 is queued, or in no
    worker that is seen; pool 0 is none of ours.
    """

    pool: int
    worker: int
    started_ns: int
    since_ns: int
    any: bool
    targets: list[tuple[int, int]]


class WaitSample(_Message, tag="waits", frozen=True):
    """What all workers of all pools wait for, at about one moment; told while a pool is full."""

    at_ns: int
    waits: list[Wait]


class LoopOpened(_Message, tag="loop_opened", frozen=True):
    """An event loop began to run."""

    loop: int
    name: str
    kind: str
    at_ns: int


class LoopTick(_Message, tag="loop_tick", frozen=True):
    """Measured lags since the last tick and how many tasks the loop has."""

    loop: int
    at_ns: int
    lags_ns: list[int]
    tasks: int


class LoopBlock(_Message, tag="loop_block", frozen=True):
    """One block of a loop: sent while it lasts (`ended_ns` 0) and once more when it ended, with the same `block`.

    `cause` is one of the contract's loop causes, or "unknown"; `lines` the user's line first.
    """

    loop: int
    block: int
    started_ns: int
    ended_ns: int
    cause: str
    lines: list[Line]
    cpu_share: float


class LoopClosed(_Message, tag="loop_closed", frozen=True):
    """The loop stopped running."""

    loop: int
    at_ns: int


Message = (
    Hello
    | Bye
    | ProcessTick
    | Notice
    | Incident
    | Fault
    | FunctionNamed
    | PoolOpened
    | PoolClosed
    | PoolBatch
    | WorkersReady
    | StackSample
    | WaitSample
    | LoopOpened
    | LoopTick
    | LoopBlock
    | LoopClosed
)
#: By tag. Of a union msgspec learns anew what is in it each time, which takes many times what one class does.
_KINDS: dict[Any, Any] = {kind.__struct_config__.tag: kind for kind in get_args(Message)}


def parse(raw: Sequence[Any]) -> Message:
    """The message a probe's tuple stands for.

    Raises PoolscopeError for anything that is not one.
    """
    tag = raw[0] if raw else None
    kind = _KINDS.get(tag, Message) if isinstance(tag, str) else Message
    try:
        message: Message = msgspec.convert(raw, kind)
    except msgspec.ValidationError as error:
        raise PoolscopeError(f"a watched process sent something unreadable: {error}") from error
    return message

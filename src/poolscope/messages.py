"""What a watched process sends to the engine that judges it.

The probe (`poolscope.probe`, standard library only) sends plain tuples whose first item is the tag below and whose
other items are the fields in order. They reach an engine in the same process as they are, and an engine in the parent
as frames (`probe/transport/channel.py`). Either way `parse` turns them into these values or refuses them.

All `*_ns` are readings of the system-wide monotonic clock (`time.perf_counter_ns`), which processes of one machine
share; ids are unique in one process.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any, get_args

import msgspec

from poolscope.errors import PoolscopeError

PROTOCOL = 4
#: What is understood: a probe of protocol 3 establishes the cause of a loop's block itself.
UNDERSTOOD = (3, PROTOCOL)

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
    """Last of a process that ended in order. `alone`: it had one thread and no child process, as far as is known."""

    at_ns: int
    alone: bool = False


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


class Unwatched(_Message, tag="unwatched", frozen=True):
    """A process that cannot be watched, by its number and command, and why. Instead of a hello."""

    process: str
    reason: str


class Incident(_Message, tag="incident", frozen=True):
    """A notice of something that has happened to the program, which a reader may be waiting for: where a
    worker was killed, it may hang."""

    text: str


class Fault(_Message, tag="fault", frozen=True):
    """A failure of ours in the named part (`poolscope_errors_total{part}`)."""

    part: str
    text: str


class Started(_Message, tag="started", frozen=True):
    """So many `more` threads or processes (`what`) were started that are of no pool that is watched: at a line of the
    program's ("package/file.py:12"), or by a `library`. `in_turn`: each was over before the next one began. `executor`
    is the class that starts them, if it is an executor of a kind that is not known; with no `more` it is there, at the
    line of its `submit`."""

    what: str
    where: str
    library: str
    more: int
    in_turn: bool
    executor: str = ""


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
    #: The variable or attribute that it is stored in; empty if that is not known.
    created_by: str = ""


class PoolClosed(_Message, tag="pool_closed", frozen=True):
    """The pool will send nothing more."""

    pool: int
    at_ns: int


class PoolBatch(_Message, tag="pool_batch", frozen=True):
    """What happened in one pool since its last batch, and how it stands at `at_ns`.

    Flat lists of integers, arrays where they come in a frame: `finished` 5 per task (worker, function * 2 + failed,
    submitted, started, finished), in order per worker; `running` 4 per worker that is in a task (worker, function,
    submitted, started); `cancelled` and `broken` 3 per task (function, submitted, when; broken: failed before it could
    start); `arrivals` 2 per submission (function, submitted). `cpu_ns` is the CPU time of the pool's workers so far.
    """

    pool: int
    at_ns: int
    workers: int
    max_workers: int
    cpu_ns: int
    rejected: int
    finished: Sequence[int]
    running: Sequence[int]
    cancelled: Sequence[int]
    broken: Sequence[int]
    arrivals: Sequence[int]


class PoolSums(_Message, tag="pool_sums", frozen=True):
    """What happened in one pool from its batch of `since_ns` (0: its first) up to `at_ns`, where there were too many
    tasks to tell of each. A batch follows of what still waits and runs then.

    In numbers: how many of the tasks that arrived wait no longer (`submitted`), when the first of them did and the last
    task ended (0: none), those that were cancelled or broken in the queue and how long these had waited (ns).

    Flat lists of integers, arrays where they come in a frame: `functions` 7 per function (function, finished, failed of
    these, sums of their waits and runs, the longest wait and run, ns); `sample` 3 for every so many finished tasks
    (function, wait, run); `left` 1 for each task that left the queue but arrived before `since_ns` (submitted);
    `running` 4 as in a batch; `latest` 2 for each worker that ended a task (worker, start of its last one). Of several
    messages for one time, all but the last are as of its begin.
    """

    pool: int
    since_ns: int
    at_ns: int
    submitted: int
    first_ns: int
    last_ns: int
    cancelled: int
    broken: int
    unstarted_ns: int
    functions: Sequence[int]
    sample: Sequence[int]
    left: Sequence[int]
    running: Sequence[int]
    latest: Sequence[int]


class WorkersReady(_Message, tag="pool_ready", frozen=True):
    """How long the workers of a pool, all together, were ready to run but had no CPU, as counted while it was full."""

    pool: int
    at_ns: int
    ready_ns: int


class Stack(msgspec.Struct, frozen=True, array_like=True):
    """Workers that are at the same place: the user's line first, and then the library line below it, if any.

    `spot` tells places in the last line from each other: it is the instruction. `tasks` is flat, 3 integers a worker:
    worker, function, started. `gate` is what they wait for, if that is known: a "lock", a "semaphore", a full
    "queue", a "child" process, or a lock that no thread of their process can release, as it is "inherited"; of a
    task of an event loop also "await", anything else. What waits for a queue of the program's is at a "put" or "join".
    Of what has a connection: "await" is anything but that, "client" that it is used, and "leaked" that what took it has
    ended: then the line is the one that did. Of what waits for one it is "connections".
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
    #: Where what waits for a limit is, or for a work queue: worker 0, function, submitted.
    waiting: list[Stack] = []


class HeldSample(_Message, tag="held", frozen=True):
    """The workers that are in a task at one moment, of a pool that is full or has one that lasts. Not each reading has
    one.

    `workers` is flat, 4 integers a worker: worker, when its task started, CPU time of its thread so far (ns; -1: not
    known), and 1 if nothing waits for the task any more (0: something does, or it is not known). `still`: no other
    thread of the process has moved since the last such message.
    """

    pool: int
    at_ns: int
    workers: list[int]
    still: bool = False


class WorkersStarted(_Message, tag="workers_started", frozen=True):
    """Worker processes of a pool that were started since the last such message.

    `started` is flat, 2 integers each: worker, when (ns).
    """

    pool: int
    at_ns: int
    started: list[int]


class Wait(msgspec.Struct, frozen=True, array_like=True):
    """A worker that waits for futures: in the task that it started at `started_ns`, since `since_ns` at the earliest.

    `any`: one of them is enough. `targets` are (pool, worker) of those that were not done: worker 0 is queued, or in no
    worker that is seen; pool 0 is none of ours. `loop` is the event loop whose coroutine has to end first; 0: none that
    is watched.
    """

    pool: int
    worker: int
    started_ns: int
    since_ns: int
    any: bool
    targets: list[tuple[int, int]]
    loop: int = 0


class WaitSample(_Message, tag="waits", frozen=True):
    """What all workers of all pools wait for, at about one moment; sent while a pool is full."""

    at_ns: int
    waits: list[Wait]


class Handover(_Message, tag="handover", frozen=True):
    """What became of the tasks of a pool before and after their runs, at one moment; told while tasks are queued.

    `callbacks`: for each worker that is between two tasks, in a callback of a future, the lines as a `Stack` has them.
    `receiving`: the same of the pool's thread that takes its results from the workers: empty if it is in no callback of
    the program's; None if there is no such thread. `sender_ns` and `receiver_ns`: CPU time so far of the pool's threads
    that send tasks and take results; -1: there is none, or it is not known; `sender_ready_ns` and `receiver_ready_ns`:
    how long they were ready to run, but had no CPU. `under_way`: 2 for each worker process with tasks that have ended,
    of which the first is told as running until its result is taken (worker, start of the last one). `returned` and
    `returned_ns`: of some of the results that came from worker processes so far, how many, and how long they had been
    under way in sum.

    `taking`: for each iterator over results that is known, how many results that are next in it have not been taken,
    and the lines of the thread that took the last one: empty if it waits for a result, or is not known.
    """

    pool: int
    at_ns: int
    callbacks: list[list[Line]] = []
    receiving: list[Line] | None = None
    sender_ns: int = -1
    receiver_ns: int = -1
    returned: int = 0
    returned_ns: int = 0
    taking: list[tuple[int, list[Line]]] = []
    sender_ready_ns: int = 0
    receiver_ready_ns: int = 0
    under_way: list[int] = []


class Chunks(_Message, tag="chunks", frozen=True):
    """How many tasks of a pool were chunks of `map` so far, and how many items were in them."""

    pool: int
    at_ns: int
    chunks: int
    items: int


class Turn(msgspec.Struct, frozen=True, array_like=True):
    """A thread or a task that waits: of the event loop `loop` (0: of none that is watched), for a task of the pool
    `pool` (0: of none that is known).

    `who` tells threads and tasks from each other. `gate` is what for: "await", "future" of a pool, "thread", "process";
    "batch", several of them, or "end", that of a pool. `others`: how many other tasks of that pool ran, or of that loop
    were not done. `lines` are the user's, from the outermost caller to the innermost, and `turns` has a number for each
    of them: it is another one when the line waits for another thing.
    """

    loop: int
    pool: int
    who: int
    gate: str
    others: int
    lines: list[Line]
    turns: list[int]


class TurnSample(_Message, tag="turns", frozen=True):
    """What threads and tasks wait for at one moment, where a task of a pool, an event loop or a child thread is under
    way. Of very many only some are told."""

    at_ns: int
    turns: list[Turn]


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


class BlockEvidence(msgspec.Struct, frozen=True, array_like=True):
    """What was measured while a loop did not get on, in the `wall_ns` up to the latest look.

    `blocked_ns` is what makes a block. Shares of that time: the CPU of the loop's thread (`cpu`, None where threads
    have no CPU clock) and of all other threads but ours (`other`, in cores), garbage collection in any thread (`gc`),
    looks that came late though our thread did not wait for the GIL (`late`), the loop's thread never waking up
    (`still`), one call of it keeping the GIL from us (`held`), any thread keeping it from us (`waited`), the loop's
    thread being ready to run without a CPU (`delay`, None where that was not asked). Counts: where the kernel has seen
    the loop's thread: at a lock, the GIL's among them (`futex_seen`), in another call (`call_seen`), ready to run
    (`run_seen`). `gil`: whether there is a GIL.
    """

    wall_ns: int
    blocked_ns: int
    cpu: float | None = 0.0
    other: float = 0.0
    gc: float = 0.0
    late: float = 0.0
    still: float = 0.0
    held: float = 0.0
    waited: float = 0.0
    delay: float | None = None
    futex_seen: int = 0
    call_seen: int = 0
    run_seen: int = 0
    gil: bool = True


class LoopBlock(_Message, tag="loop_block", frozen=True):
    """One block of a loop: sent while it lasts (`ended_ns` 0) and once more when it ended, with the same `block`.

    `lines` are those that the loop was at most, the user's line first, and `busy_lines` those that other threads
    computed at. `gate` is what its thread was seen to be stopped at, as a `Stack` has it, or a "future", a coroutine
    that only this loop can run ("own_coroutine"), the end of an executor or a thread ("executor_end", "thread_end"),
    the start of a thread ("thread_start"), an "event".

    `cause` is empty where `evidence` is there to judge by. A probe of protocol 3 sends the cause (one of
    docs/concepts.md#event-loops, or "unknown") with the lines to blame instead.
    """

    loop: int
    block: int
    started_ns: int
    ended_ns: int
    cause: str
    lines: list[Line]
    cpu_share: float
    evidence: BlockEvidence | None = None
    busy_lines: list[Line] = []
    gate: str = ""


class LoopLoad(_Message, tag="loop_load", frozen=True):
    """How much of the time from `since_ns` to `at_ns` a loop was in callbacks, or on a CPU (`share`, 0 to 1), told
    about once a second of a loop that has little rest or is late.

    `tasks` is the most that it had. Of the lines seen, the user's first, with their weights (ns): where the loop was,
    and where other threads computed.
    """

    loop: int
    since_ns: int
    at_ns: int
    share: float
    tasks: int
    evidence: BlockEvidence
    lines: list[tuple[list[Line], int]]
    busy: list[tuple[list[Line], int]]


class LoopClosed(_Message, tag="loop_closed", frozen=True):
    """The loop stopped running."""

    loop: int
    at_ns: int


Message = (
    Hello
    | Bye
    | ProcessTick
    | Notice
    | Unwatched
    | Incident
    | Fault
    | Started
    | FunctionNamed
    | PoolOpened
    | PoolClosed
    | PoolBatch
    | PoolSums
    | WorkersReady
    | StackSample
    | HeldSample
    | WorkersStarted
    | WaitSample
    | Handover
    | TurnSample
    | Chunks
    | LoopOpened
    | LoopTick
    | LoopBlock
    | LoopLoad
    | LoopClosed
)
#: By tag: the kind, how many items its tuple has, and where those begin that are arrays if it comes in a frame.
_ARRAYS: dict[Any, tuple[Any, int, int]] = {
    kind.__struct_config__.tag: (
        kind,
        1 + len(kind.__struct_fields__),
        1 + kind.__struct_fields__.index(first),
    )
    for kind, first in ((PoolBatch, "finished"), (PoolSums, "functions"))
}
#: By tag: msgspec re-inspects a union on every call, which takes many times what one class does.
_KINDS: dict[Any, Any] = {kind.__struct_config__.tag: kind for kind in get_args(Message)}


#: Items of each record in the lists of a batch.
_RECORDS = {"finished": 5, "running": 4, "cancelled": 3, "broken": 3, "arrivals": 2}


def parse(raw: Sequence[Any]) -> Message:
    """Return the message a probe's tuple stands for.

    Raises PoolscopeError for anything that is not one.
    """
    tag = raw[0] if raw else None
    if isinstance(tag, str) and tag in _ARRAYS:
        # Arrays hold nothing but integers, and are taken as they are.
        kind, items, begin = _ARRAYS[tag]
        numbers, arrays = raw[1:begin], raw[begin:]
        whole = len(raw) == items and all(type(number) is int for number in numbers)
        if whole and all(type(each) is array for each in arrays):
            batch: Message = kind(*numbers, *arrays)
            return batch
    kind = _KINDS.get(tag, Message) if isinstance(tag, str) else Message
    try:
        message: Message = msgspec.convert(raw, kind)
    except msgspec.ValidationError as error:
        raise PoolscopeError(f"a watched process sent something unreadable: {error}") from error
    if isinstance(message, PoolBatch):
        _check_lengths(message, _RECORDS)
    elif isinstance(message, HeldSample):
        _check_lengths(message, {"workers": 4})
    elif isinstance(message, WorkersStarted):
        _check_lengths(message, {"started": 2})
    return message


def _check_lengths(batch: PoolBatch | HeldSample | WorkersStarted, records: dict[str, int]) -> None:
    """Half a record would be noticed in the midst of folding it, when the pool is half changed."""
    for name, items in records.items():
        if len(getattr(batch, name)) % items:
            raise PoolscopeError(f"a watched process sent half a record: {name} of a pool has {items} items for each")

"""What happens in pools."""

from __future__ import annotations

from collections.abc import Sequence

from poolscope.messages.base import BaseMessage


class PoolOpened(BaseMessage, tag="pool_opened", frozen=True):
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


class PoolClosed(BaseMessage, tag="pool_closed", frozen=True):
    """The pool will send nothing more."""

    pool: int
    at_ns: int


class PoolBatch(BaseMessage, tag="pool_batch", frozen=True):
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


class PoolSums(BaseMessage, tag="pool_sums", frozen=True):
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


class WorkersReady(BaseMessage, tag="pool_ready", frozen=True):
    """How long the workers of a pool, all together, were ready to run but had no CPU, as counted while it was full."""

    pool: int
    at_ns: int
    ready_ns: int


class WorkersStarted(BaseMessage, tag="workers_started", frozen=True):
    """Worker processes of a pool that were started since the last such message.

    `started` is flat, 2 integers each: worker, when (ns).
    """

    pool: int
    at_ns: int
    started: list[int]


class Chunks(BaseMessage, tag="chunks", frozen=True):
    """How many tasks of a pool were chunks of `map` so far, and how many items were in them."""

    pool: int
    at_ns: int
    chunks: int
    items: int

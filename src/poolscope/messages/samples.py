"""What the probe has seen at one moment: where workers are, and what they wait for."""

from __future__ import annotations

import msgspec

from poolscope.messages.base import BaseMessage, Line


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


class StackSample(BaseMessage, tag="stacks", frozen=True):
    """Where workers of a pool were, at one moment."""

    pool: int
    at_ns: int
    stacks: list[Stack]
    #: Where what waits for a limit is, or for a work queue: worker 0, function, submitted.
    waiting: list[Stack] = []


class HeldSample(BaseMessage, tag="held", frozen=True):
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


class WaitSample(BaseMessage, tag="waits", frozen=True):
    """What all workers of all pools wait for, at about one moment; sent while a pool is full."""

    at_ns: int
    waits: list[Wait]


class Handover(BaseMessage, tag="handover", frozen=True):
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


class TurnSample(BaseMessage, tag="turns", frozen=True):
    """What threads and tasks wait for at one moment, where a task of a pool, an event loop or a child thread is under
    way. Of very many only some are told."""

    at_ns: int
    turns: list[Turn]

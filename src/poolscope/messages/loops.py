"""What happens in event loops."""

from __future__ import annotations

import msgspec

from poolscope.messages.base import BaseMessage, Line


class LoopOpened(BaseMessage, tag="loop_opened", frozen=True):
    """An event loop began to run."""

    loop: int
    name: str
    kind: str
    at_ns: int


class LoopTick(BaseMessage, tag="loop_tick", frozen=True):
    """Measured lags since the last tick, how many tasks the loop has, and how much of the time since the last tick it
    was at work (`busy_ns`), as far as that was added up by then: it is once a second."""

    loop: int
    at_ns: int
    lags_ns: list[int]
    tasks: int
    busy_ns: int = 0


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


class LoopBlock(BaseMessage, tag="loop_block", frozen=True):
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


class LoopLoad(BaseMessage, tag="loop_load", frozen=True):
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


class LoopClosed(BaseMessage, tag="loop_closed", frozen=True):
    """The loop stopped running."""

    loop: int
    at_ns: int

"""From what was measured while a loop was blocked to the numbers that its causes are judged by. Pure."""

from __future__ import annotations

import msgspec

from poolscope.aggregation.loop_history import COUNTS, BlockingLine
from poolscope.messages import BlockEvidence

#: A smaller part of a core than this explains nothing.
LITTLE = 0.2

#: Share of a block's evidence -> its name in a finding's evidence, which has the CPU of the loop's thread anyway.
_NAMES = {
    "other": "other_threads_cores",
    "gc": "gc_share",
    "late": "late_share",
    "still": "asleep_share",
    "held": "gil_held_share",
    "waited": "gil_wait_share",
    "delay": "ready_share",
}
#: All names of what was measured of blocks, for the JSON report.
MEASURED = frozenset((*_NAMES.values(), *COUNTS))


class BlockSignals(msgspec.Struct, frozen=True):
    """What a loop's thread and other threads did while the loop was blocked: shares of the time, or cores."""

    evidence: BlockEvidence
    #: Cores that the loop's thread and the others used together.
    used: float
    #: Part of the time in which the loop's thread was ready to run but on no CPU; 0 where it was not measured.
    delay: float
    #: In how many looks the kernel showed the thread ready to run, waiting in a call, or waiting at a lock.
    ready: int
    waits: int
    #: Part of the time in which the thread was not on a CPU, though nothing kept it from one or from the GIL.
    slept: float
    #: Whether it waits for a thread to start, which takes the GIL to say that it has.
    starts_thread: bool = False

    def explains(self, share: float) -> bool:
        """Whether this share of a core matters, or alone takes as long as a block."""
        return share >= LITTLE or self.blocks(share)

    def blocks(self, share: float) -> bool:
        """Whether this share of the time alone is as long as a block."""
        return share * self.evidence.wall_ns >= self.evidence.blocked_ns


def measure_block(evidence: BlockEvidence, gate: str = "") -> BlockSignals:
    """Return the signals of one block; for `gate` see `LoopBlock`."""
    e = evidence
    delay = e.delay or 0.0
    return BlockSignals(
        evidence=e,
        used=(e.cpu or 0.0) + e.other,
        delay=delay,
        ready=e.run_seen,
        waits=e.call_seen + e.futex_seen,
        slept=1 - (e.cpu or 0.0) - max(e.other, e.waited) - e.late - delay,
        starts_thread=gate == "thread_start",
    )


def measured(line: BlockingLine) -> dict[str, float]:
    """Return what was measured of the blocks of a line: means of the shares, and sums of the counts; empty if nothing
    was."""
    if not line.measured_ns:
        return {}
    shares = {shown: line.measured[name] / line.measured_ns for name, shown in _NAMES.items()}
    return shares | {name: line.measured[name] for name in COUNTS}

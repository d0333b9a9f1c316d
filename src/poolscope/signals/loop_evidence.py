"""From what was measured while a loop did not get on to the numbers that causes are told by. Pure."""

from __future__ import annotations

import msgspec

from poolscope.aggregation.loop_history import COUNTS, BlockingLine
from poolscope.messages import BlockEvidence

#: Of a core: what is too little to explain anything.
LITTLE = 0.2

#: How the shares of a block's evidence are called in a finding's. The CPU of the loop's thread stands there anyway.
_NAMES = {
    "other": "other_threads_cores",
    "gc": "gc_share",
    "late": "late_share",
    "still": "asleep_share",
    "held": "gil_held_share",
    "waited": "gil_wait_share",
    "delay": "ready_share",
}
#: All names of what was measured of blocks: for the JSON report, as causes are told by them.
MEASURED = frozenset((*_NAMES.values(), *COUNTS))


class BlockSignals(msgspec.Struct, frozen=True):
    """What a loop's thread and the others did while the loop did not get on: shares of the time, or cores."""

    evidence: BlockEvidence
    #: Cores that the loop's thread and the others used together.
    used: float
    #: Part of the time in which the loop's thread was ready to run but on no CPU; 0 where that was not asked.
    delay: float
    #: How often the kernel has seen the thread ready to run, and how often waiting in a call or at a lock.
    ready: int
    waits: int
    #: Part of the time in which it was neither on a CPU, nor kept from one, nor from the GIL.
    slept: float
    #: It waits for a thread to start, which needs the GIL to say that it has.
    starts_thread: bool = False

    def explains(self, share: float) -> bool:
        """Whether this share of a core is of note, or enough for a block on a machine with nothing else to do."""
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

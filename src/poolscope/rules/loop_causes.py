"""Why an event loop was blocked: the causes in order of precedence, and the choice among them. Pure."""

from __future__ import annotations

import msgspec

from poolscope.messages import LoopBlock
from poolscope.rules.loop_blocking_call import BlockingCall
from poolscope.rules.loop_cause import LoopCause
from poolscope.rules.loop_cpu_bound import LoopComputes
from poolscope.rules.loop_gc import Gc
from poolscope.rules.loop_gil_contention import GilContention
from poolscope.rules.loop_host_descheduled import HostDescheduled
from poolscope.rules.loop_unknown import LoopUnknown
from poolscope.signals.loop_evidence import measure_block

#: In order of precedence; the last one always matches.
LOOP_CAUSES: tuple[type[LoopCause], ...] = (
    Gc,
    HostDescheduled,
    LoopComputes,
    BlockingCall,
    GilContention,
    LoopUnknown,
)

BY_NAME = {cause.name: cause for cause in LOOP_CAUSES}


def judged(block: LoopBlock) -> LoopBlock:
    """Return the block with the cause that its evidence establishes, and the lines to blame.

    A block without evidence is returned as it is: it carries its cause.
    """
    if block.evidence is None:
        return block
    signals = measure_block(block.evidence, block.gate)
    cause = next(rule for rule in LOOP_CAUSES if rule.match(signals))
    return msgspec.structs.replace(block, cause=cause.name, lines=list(cause.blamed(block)))

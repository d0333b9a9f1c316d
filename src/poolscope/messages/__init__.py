"""What a watched process sends to the engine that judges it.

The probe (`poolscope.probe`, standard library only) sends plain tuples: the tag of a message's class, then its fields
in order. They reach an engine in the same process as they are, and an engine in the parent as frames
(`probe/transport/channel.py`). Either way `parse` turns them into these values or refuses them.

All `*_ns` are readings of the system-wide monotonic clock (`time.perf_counter_ns`), which processes of one machine
share; ids are unique in one process.
"""

from __future__ import annotations

from poolscope.messages.base import PROTOCOL, UNDERSTOOD, Line
from poolscope.messages.loops import BlockEvidence, LoopBlock, LoopClosed, LoopLoad, LoopOpened, LoopTick
from poolscope.messages.parsing import Message, parse
from poolscope.messages.pools import Chunks, PoolBatch, PoolClosed, PoolOpened, PoolSums, WorkersReady, WorkersStarted
from poolscope.messages.process import (
    Bye,
    Fault,
    FunctionNamed,
    Hello,
    Incident,
    Notice,
    ProcessTick,
    Started,
    Unwatched,
)
from poolscope.messages.samples import Handover, HeldSample, Stack, StackSample, Turn, TurnSample, Wait, WaitSample

__all__ = [
    "PROTOCOL",
    "UNDERSTOOD",
    "BlockEvidence",
    "Bye",
    "Chunks",
    "Fault",
    "FunctionNamed",
    "Handover",
    "HeldSample",
    "Hello",
    "Incident",
    "Line",
    "LoopBlock",
    "LoopClosed",
    "LoopLoad",
    "LoopOpened",
    "LoopTick",
    "Message",
    "Notice",
    "PoolBatch",
    "PoolClosed",
    "PoolOpened",
    "PoolSums",
    "ProcessTick",
    "Stack",
    "StackSample",
    "Started",
    "Turn",
    "TurnSample",
    "Unwatched",
    "Wait",
    "WaitSample",
    "WorkersReady",
    "WorkersStarted",
    "parse",
]

"""From the tuples of a probe to messages."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any, get_args

import msgspec

from poolscope.errors import PoolscopeError
from poolscope.messages.loops import LoopBlock, LoopClosed, LoopLoad, LoopOpened, LoopTick
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
from poolscope.messages.samples import Handover, HeldSample, StackSample, TurnSample, WaitSample

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

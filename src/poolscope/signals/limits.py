"""Facts about a limit: how long tasks waited for it, and what its holders do meanwhile.

Pure: no clock, no thread, no I/O.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import msgspec

from poolscope.aggregation.pool_history import PoolHistory
from poolscope.messages import Line, Stack, StackSample
from poolscope.signals.window import Window

#: Kinds of pools that have no workers of their own.
KINDS = ("semaphore", "lock", "connections")
CONNECTIONS = "connections"
#: What a holder waits for that does not run: anything, another limit, or what its connection is for.
_SUSPENDED = ("await", "lock", "semaphore", "client", CONNECTIONS)
#: The same without what its connection is for.
_ELSEWHERE = ("await", "lock", "semaphore")
#: Fewer looks at holders than this say nothing about what they do.
HOLDERS_NEEDED = 5
#: From this part of the holds on that begin at once while others wait, these are overtaken.
OVERTAKING_SHARE = 0.25


class LimitSignals(msgspec.Struct, frozen=True, kw_only=True):
    """A limit over one window."""

    kind: str
    #: Holds that started in it and were waited for.
    waited: int
    #: Of connections: those that wait are overtaken, by what gives one back and has the next before they wake up. Half
    #: of the holds may not have waited at all then, and each is one that others waited for.
    overtaken: bool = False
    #: The longest hold, as a part of the window; also of one that began before.
    longest_share: float
    #: The part of the looks in which holders waited for something else; None: too few looks.
    suspended_share: float | None = None
    #: Of connections, the part of them in which they waited for something that is not theirs; None: likewise.
    elsewhere_share: float | None = None
    #: Where they waited most often, the user's line first.
    inside: tuple[Line, ...] = ()
    #: Where tasks wait for the limit most often.
    waiting: tuple[Line, ...] = ()


def limit_signals(
    history: PoolHistory, window: Window, samples: Sequence[StackSample], cores: float | None = None
) -> LimitSignals | None:
    """Return the facts about a limit; None for any other pool. `cores` are the CPU seconds per second that its holders
    used, if they are threads."""
    kind = history.opened.kind
    if kind not in KINDS:
        return None
    at_once = sum(share.at_once for share in window.shares.values())
    overtaken = kind == CONNECTIONS and 0 < OVERTAKING_SHARE * window.starts <= at_once
    length_ns = max(1, window.end_ns - window.begin_ns)
    inside: Counter[tuple[Line, ...]] = Counter()
    suspended = elsewhere = None
    holders = others = 0
    for stack in (stack for sample in samples for stack in sample.stacks):
        holders += len(stack.tasks) // 3
        if stack.gate in _ELSEWHERE:
            others += len(stack.tasks) // 3
        if stack.gate in _SUSPENDED:
            inside[tuple(stack.lines)] += len(stack.tasks) // 3
    if holders >= HOLDERS_NEEDED:
        suspended = inside.total() / holders
        elsewhere = others / holders if kind == CONNECTIONS else None
    if history.cpu_ns:  # its holders are threads
        inside = _lines(stack for sample in samples for stack in sample.stacks)
        suspended = None if cores is None else max(0.0, 1 - cores * length_ns / max(1, window.busy_ns))
    return LimitSignals(
        kind=kind,
        waited=window.starts if overtaken else sum(wait > 0 for wait in window.waits),
        overtaken=overtaken,
        longest_share=window.longest_ns / length_ns,
        suspended_share=suspended,
        elsewhere_share=elsewhere,
        inside=_most(inside),
        waiting=_most(_lines(stack for sample in samples for stack in sample.waiting)),
    )


def _lines(stacks: Iterable[Stack]) -> Counter[tuple[Line, ...]]:
    counts: Counter[tuple[Line, ...]] = Counter()
    for stack in stacks:
        counts[tuple(stack.lines)] += len(stack.tasks) // 3
    return counts


def _most(counts: Counter[tuple[Line, ...]]) -> tuple[Line, ...]:
    return max(counts, key=lambda lines: counts[lines]) if counts else ()

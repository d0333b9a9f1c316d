"""Whether the calls of one function are of two kinds: most come back at once, and some run into a timeout. Pure.

Then no median stands for both. A gap shows two kinds: no call takes a time in between, though many take less and many
take more. Times that merely vary, however widely, have no such gap.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

#: Fewer calls than this, or fewer of one kind, show nothing.
CALLS_NEEDED = 30
OF_A_KIND_NEEDED = 5
#: The longer ones are at least this part of the calls, and the shorter ones this.
LONG_SHARE = 0.02
SHORT_SHARE = 0.3
#: The shortest of the longer ones takes so many times as long as the longest of the shorter ones, and their medians are
#: so many times apart.
GAP = 2.5
APART = 10.0
#: The longer ones take most of the time.
TIME_SHARE = 0.5


class TwoKinds(msgspec.Struct, frozen=True):
    """`share` of the calls of a function take `long_seconds` (median), the others `short_seconds`; all of them
    `mean_seconds` on average."""

    function: int
    share: float
    long_seconds: float
    short_seconds: float
    mean_seconds: float


def two_kinds(function: int, runs: Sequence[int]) -> TwoKinds | None:
    """Return the two kinds of calls with these run times (ns), if there are two."""
    count, total = len(runs), sum(runs)
    if count < CALLS_NEEDED:
        return None
    ordered = sorted(runs)
    first = max(OF_A_KIND_NEEDED, int(SHORT_SHARE * count))
    last = count - max(OF_A_KIND_NEEDED, int(LONG_SHARE * count))
    if first > last or ordered[last] < GAP * ordered[first - 1]:
        return None
    place = max(range(first, last + 1), key=lambda each: ordered[each] / max(1, ordered[each - 1]))
    short, long = ordered[place // 2], ordered[(place + count) // 2]
    if not long or ordered[place] < GAP * ordered[place - 1] or long < APART * short:
        return None
    if sum(ordered[place:]) < TIME_SHARE * total:
        return None
    return TwoKinds(function, (count - place) / count, long / 1e9, short / 1e9, total / count / 1e9)

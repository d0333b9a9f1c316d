"""How regular arrivals are, beside those of a Poisson process. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import pairwise

#: Fewer gaps between arrivals than this say nothing about how regular those are.
GAPS_NEEDED = 10
#: The most that counts: arrivals that kept to a clock so far may cease to.
MOST_REGULAR = 4.0


def regularity(arrivals: Iterable[int]) -> float:
    """How regular arrivals (ns) are: at least 1, that of a Poisson process, and at most `MOST_REGULAR`.

    It is the shape of a gamma process: one over the squared coefficient of variation of its gaps. That is taken two
    standard errors higher than it was found, which for n gaps of a Poisson process are 4 / sqrt(n) of it.
    """
    gaps = [later - earlier for earlier, later in pairwise(sorted(arrivals))]
    if len(gaps) < GAPS_NEEDED or not any(gaps):
        return 1.0
    variation = len(gaps) * sum(gap * gap for gap in gaps) / sum(gaps) ** 2 - 1
    most = variation * (1 + 4 / math.sqrt(len(gaps)))
    return 1 / min(1.0, max(1 / MOST_REGULAR, most))

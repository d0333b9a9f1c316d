"""How much of its time a loop is in callbacks: added up from looks, and shown in the report and to a scrape."""

from __future__ import annotations

import pytest

from poolscope.aggregation.loop_history import LoopHistory
from poolscope.messages import LoopBlock, LoopOpened, LoopTick
from poolscope.probe.loops.load import LoopLoad
from poolscope.probe.loops.meter import Counters

MS = 1_000_000
SECOND = 1000 * MS


def looked(seconds: float, share: float, cpu: float = 0.0) -> LoopLoad:
    """Look at a loop every 25 ms, which is at work in this part of the looks."""
    load = LoopLoad(1, blocked_ns=100 * MS)
    for look in range(round(seconds * 40) + 1):
        now = Counters(look * 25 * MS, int(look * 25 * MS * cpu))
        load.look(now, at_work=look % 10 < 10 * share, lines=(), others=(), tasks=1)
    return load


@pytest.mark.parametrize(("share", "cpu", "busy"), [(0.0, 0.0, 0.0), (0.3, 0.1, 0.3), (0.1, 0.4, 0.4), (1.0, 1.0, 1.0)])
def test_it_counts_whether_it_is_told_of_or_not(share: float, cpu: float, busy: float) -> None:
    load = looked(4.0, share, cpu)
    assert load.take_busy() / SECOND == pytest.approx(4 * busy, abs=0.05)
    assert load.take_busy() == 0


def history() -> LoopHistory:
    made = LoopHistory("main", "asyncio", 1, ())
    made.opened(LoopOpened(1, "main", "asyncio", 0))
    return made


def test_ticks_add_up_and_a_block_counts_at_once() -> None:
    made = history()
    for second in (1, 2):
        made.tick(LoopTick(1, second * SECOND, [], 1, 300 * MS))
    made.tick(LoopTick(1, 3 * SECOND, [], 1))
    assert made.busy_so_far_ns() == 600 * MS
    made.block(LoopBlock(1, 1, 3 * SECOND, 0, "blocking_call", [], 0.0))
    made.advance(5 * SECOND)
    assert made.busy_so_far_ns() == 2 * SECOND
    other = history()
    other.tick(LoopTick(1, SECOND, [], 1, 100 * MS))
    made.absorb(other)
    assert made.busy_ns == 700 * MS

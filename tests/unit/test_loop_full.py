"""A loop without rest, and pools behind a loop that is held: numbers in, findings out."""

from __future__ import annotations

from typing import Any

import pytest
from pool_support import ORIGIN, SECOND
from signals_support import but

from poolscope.aggregation.loop_history import LoopHistory
from poolscope.engine.loop_case import LoopCase
from poolscope.messages import BlockEvidence, LoopBlock, LoopLoad, LoopOpened, LoopTick, Wait
from poolscope.model import Advice, Finding
from poolscope.probe.loops.load import LoopLoad as Load
from poolscope.probe.loops.meter import Counters
from poolscope.ranking import importance
from poolscope.rules.loop_full import LoopFull
from poolscope.rules.reason import Criteria, Scene
from poolscope.rules.table import diagnose
from poolscope.signals.awaited_loop import AwaitedLoop, LoopWaits
from poolscope.signals.loop_load import measure_load

MS = 1_000_000
WORK = [("/app/main.py", 7, "ask_all"), ("/lib/site-packages/httpx/client.py", 3, "__init__")]
OTHER = [("/app/main.py", 30, "visit")]
BURN = [("/app/busy.py", 3, "burn")]


def at(seconds: float) -> int:
    return ORIGIN + int(seconds * SECOND)


def history() -> LoopHistory:
    made = LoopHistory("MainThread", "asyncio", 1, (100_000_000,))
    made.opened(LoopOpened(1, "MainThread", "asyncio", ORIGIN))
    for tenth in range(20):
        made.tick(LoopTick(1, at(tenth / 10), [100_000], 5))
    return made


def load(begin: float, share: float = 0.97, *, tasks: int = 5, **measured: Any) -> LoopLoad:
    evidence = BlockEvidence(SECOND, 100 * MS, **{"cpu": share, **measured})
    lines = [(WORK, 800 * MS), (OTHER, 200 * MS)]
    return LoopLoad(1, at(begin), at(begin + 1), share, tasks, evidence, lines, [(BURN, 900 * MS)])


def full(made: LoopHistory, seconds: int = 6, *, lag: float = 0.3, **loads: Any) -> LoopFull | None:
    for second in range(seconds):
        made.load(load(2 + second, **loads))
        made.tick(LoopTick(1, at(2.5 + second), [int(lag * SECOND)], 5))
    return LoopFull.match(measure_load(made, 5 * SECOND))


def test_a_loop_that_computes_all_the_time_at_one_line() -> None:
    found = full(history())
    assert found is not None
    assert (found.cause, found.severity) == ("cpu_bound", "warning")
    assert found.lines[0] == (tuple(WORK), 0.8)


@pytest.mark.parametrize(
    ("loads", "cause", "severity", "action"),
    [
        ({}, "cpu_bound", "warning", "use_process_pool"),
        ({"cpu": 0.2, "other": 0.75, "share": 0.95}, "gil_contention", "warning", "use_process_pool"),
        ({"cpu": 0.3, "delay": 0.65, "share": 0.95}, "host_descheduled", "info", "none"),
        ({"cpu": 0.9, "delay": 0.05, "share": 0.95}, "cpu_bound", "warning", "use_process_pool"),
        ({"cpu": 0.15, "delay": 0.75, "share": 0.95}, "host_descheduled", "info", "none"),
        ({"cpu": 0.1, "late": 0.8, "share": 0.95}, "host_descheduled", "info", "none"),
        ({"cpu": 0.05, "still": 0.9, "share": 0.95}, "blocking_call", "warning", "await_instead"),
        ({"cpu": 0.4, "other": 0.4, "share": 0.95}, "unknown", "warning", "none"),
    ],
)
def test_causes(loads: dict[str, Any], cause: str, severity: str, action: str) -> None:
    found = full(history(), **loads)
    assert found is not None
    assert (found.cause, found.severity, found.advice(()).action) == (cause, severity, action)


def test_many_lines_are_many_callbacks() -> None:
    made = history()
    for second in range(6):
        one = load(2 + second)
        lines = [([("/app/main.py", line, f"step{line}")], 100 * MS) for line in range(10)]
        made.load(LoopLoad(1, one.since_ns, one.at_ns, one.share, 5, one.evidence, lines, []))
    found = LoopFull.match(measure_load(made, 5 * SECOND))
    assert found is not None
    assert (found.cause, found.advice(()).action) == ("many_callbacks", "do_less")
    assert len(found.lines) == 3


def test_short_callbacks_of_one_line_are_many_callbacks() -> None:
    """Handing single lines of a file over to threads: each step is over at once."""
    made = history()
    for second in range(6):
        one = load(2 + second)
        made.load(LoopLoad(1, one.since_ns, one.at_ns, one.share, 5, one.evidence, [(WORK, 300 * MS)], []))
    found = LoopFull.match(measure_load(made, 5 * SECOND))
    assert found is not None
    assert (found.cause, found.lines) == ("many_callbacks", ((tuple(WORK), 1.0),))


@pytest.mark.parametrize(
    ("loads", "lag"),
    [
        ({"share": 0.85}, 0.005),  # some rest
        ({"tasks": 1}, 0.3),  # one task keeps no other waiting
        ({"seconds": 4}, 0.3),  # too short
        ({"share": 0.6}, 0.0015),  # later than at rest, but hardly late
    ],
)
def test_a_loop_with_rest_or_nothing_to_wait(loads: dict[str, Any], lag: float) -> None:
    assert full(history(), lag=lag, **loads) is None


def test_a_loop_that_is_late_all_the_time_though_not_in_callbacks() -> None:
    found = full(history(), share=0.55, cpu=0.3, other=0.9, lag=0.04)
    assert found is not None
    assert found.cause == "gil_contention"


@pytest.mark.parametrize("share", [0.4, 0.6])
def test_a_loop_with_rest_is_late_only_while_it_is_in_a_callback(share: float) -> None:
    """It is asked then: requests that compute for 40 ms make all that is asked 0 to 40 ms late, at any load."""
    made = history()
    for second in range(6):
        made.load(load(2 + second, share))
        for tenth in range(1, 10):
            made.tick(LoopTick(1, at(2 + second + tenth / 10), [int(tenth * 0.004 * SECOND)], 5))
    assert LoopFull.match(measure_load(made, 5 * SECOND)) is None


def test_a_loop_that_others_slow_down_is_not_full_by_itself() -> None:
    """Requests of 20 ms of CPU that take 50 ms on a machine with other work."""
    found = full(history(), share=0.65, cpu=0.32, delay=0.33, lag=0.05)
    assert found is not None
    assert (found.cause, found.severity, found.lines) == ("host_descheduled", "info", ())


def test_a_pause_is_rest() -> None:
    made = history()
    for begin in (2, 3, 4, 7, 8, 9):
        made.load(load(begin))
    assert LoopFull.match(measure_load(made, 5 * SECOND)) is None


def test_a_blocked_loop_is_told_of_by_its_blocks() -> None:
    made = history()
    for second in range(6):
        made.block(LoopBlock(1, second, at(2 + second), at(2.9 + second), "cpu_bound", WORK, 0.9))
    assert full(made) is None


def test_a_finding_begins_and_ends() -> None:
    made = history()
    case = LoopCase(made, origin_ns=ORIGIN, source_of=lambda file, line: "httpx.AsyncClient()")
    events = []
    for second in range(8):
        made.load(load(2 + second))
        events += case.judge(at(3 + second))
    ((finding, began),) = events
    assert began
    assert (finding.pattern, finding.cause, finding.since_seconds) == ("loop_full", "cpu_bound", 2.0)
    assert finding.frames[0].share == 0.8
    assert "has no rest" in finding.summary
    assert "main.py:7 (ask_all)" in finding.summary
    assert case.active_sorts() == {("loop_full", "cpu_bound", "warning")}
    assert case.judge(at(12)) == []
    ((finding, began),) = case.judge(at(25))
    assert (began, finding.until_seconds) == (False, 10.0)
    case.finish(at(30))
    assert [found.pattern for found in case.findings(at(30))] == ["loop_full"]


# -- what is measured ----------------------------------------------------------------------------------------------


def looks(made: Load, count: int, *, at_work: bool, cpu: float, begin: int = 0) -> list[tuple[Any, ...]]:
    told = []
    for look in range(begin, begin + count):
        now = Counters(look * 25 * MS, int(look * 25 * MS * cpu))
        told += made.look(now, at_work=at_work, lines=tuple(WORK), others=[(tuple(BURN), MS)], tasks=3)
    return told


def test_a_loop_at_work_is_told_of_once_a_second() -> None:
    told = looks(Load(1, blocked_ns=100 * MS), 121, at_work=True, cpu=0.6)
    assert [message[0] for message in told] == ["loop_load"] * 3
    tag, loop, since, until, share, tasks, evidence, lines, busy = told[0]
    assert (tag, loop, until - since, share, tasks) == ("loop_load", 1, SECOND, 1.0, 3)
    assert evidence[2] == pytest.approx(0.6)
    assert lines == [(tuple(WORK), SECOND)]
    assert busy == [(tuple(BURN), 40 * MS)]


def test_one_that_polls_is_at_work_by_its_cpu() -> None:
    (message,) = looks(Load(1, blocked_ns=100 * MS), 41, at_work=False, cpu=0.95)
    assert message[4] == pytest.approx(0.95)


def test_a_loop_with_rest_is_not_told_of_unless_it_is_late() -> None:
    made = Load(1, blocked_ns=100 * MS)
    assert looks(made, 41, at_work=False, cpu=0.1) == []
    made.late(20 * MS)
    assert len(looks(made, 41, at_work=False, cpu=0.1, begin=41)) == 1


# -- pools behind a loop -------------------------------------------------------------------------------------------


def test_workers_that_wait_for_coroutines_of_a_loop() -> None:
    made, waits = history(), LoopWaits()
    for second in range(10):
        made.block(LoopBlock(1, second, at(second), at(second + 0.9), "blocking_call", WORK, 0.0))
        waiting = [Wait(1, worker, 5, 5, False, [(0, 0)], 1) for worker in range(1, 5)]
        waits.note(at(second), [*waiting, Wait(1, 5, 5, 5, False, [(2, 0)], 1)], {1: made})
    found = waits.awaited(ORIGIN, at(10), 8)
    assert found is not None
    assert (found.loop, found.share) == ("MainThread", 0.5)
    assert found.held_share == pytest.approx(0.9)
    assert waits.awaited(ORIGIN, at(5), 8) is None, "too few samples"


def finding(pattern: str, cause: str, **evidence: float) -> Finding:
    return Finding(pattern, cause, "warning", 0.0, 1.0, 0.0, "", evidence, (), Advice("see_pool", "", pool="side"))


def test_a_loop_comes_before_the_pool_that_waits_for_it() -> None:
    behind = finding("serial", "downstream_pool", loop_awaited_share=0.9, loop_held_share=0.9)
    culprit = finding("loop_blocked", "blocking_call")
    another = finding("serial", "downstream_pool", downstream_share=0.9)
    assert sorted([behind, culprit, another], key=importance) == [another, culprit, behind]


@pytest.mark.parametrize(
    ("share", "held_share", "cause", "action"),
    [
        (0.9, 0.9, "downstream_pool", "see_pool"),
        (0.4, 0.9, "blocking_io", "raise_max_workers"),  # they mostly wait for something else
        (0.9, 0.3, "blocking_io", "raise_max_workers"),  # the coroutines take long, side by side
    ],
)
def test_a_pool_behind_a_loop(share: float, held_share: float, cause: str, action: str) -> None:
    found = diagnose(but(awaited_loop=AwaitedLoop("side", share, held_share)), Criteria())
    assert (found.cause, found.action) == (cause, action)
    if cause == "downstream_pool":
        scene = Scene(pool="handlers", since_seconds=1.0)
        assert found.advice(scene).pool == "side"
        assert found.advice(scene).suggested_max_workers is None
        assert "coroutines of event loop 'side'" in found.sentence(scene)


def test_a_load_tells_how_long_the_thread_lacked_a_cpu() -> None:
    ready = iter(range(0, 100 * SECOND, SECOND // 4))
    told = looks(Load(1, blocked_ns=100 * MS, ready=lambda: next(ready)), 121, at_work=True, cpu=0.6)
    assert [message[6][9] for message in told] == [pytest.approx(0.25, rel=0.05)] * len(told)


@pytest.mark.parametrize(
    ("line", "length", "told"),
    [
        (WORK, 0.4, False),  # the finding about these blocks says the same
        (OTHER, 0.4, True),  # another line blocks
        (WORK, 0.1, True),  # and hardly ever
    ],
)
def test_a_line_that_blocks_is_told_of_once(line: list[tuple[str, int, str]], length: float, told: bool) -> None:
    made = history()
    for second in range(6):
        made.block(LoopBlock(1, second, at(2.1 + second), at(2.1 + length + second), "cpu_bound", line, 0.9))
    assert (full(made) is not None) == told
